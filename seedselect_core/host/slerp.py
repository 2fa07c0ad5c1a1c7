"""The host's spherical upscaling of latents ("bislerp") with a gradient that is a number.

It takes the arc cosine of every pair of neighbours and overwrites the result where they are
parallel, as at the edge, where a pixel is its own neighbour. There the arc cosine has an infinite
slope, and infinity times the zero of what was overwritten is not a number.
"""

import contextlib
from collections.abc import Iterator

import comfy.utils
import torch
from torch.overrides import TorchFunctionMode

_PARALLEL = 1 - 1e-5  # from here on the host overwrites


class _FiniteSlopes(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.acos:
            (cosine,) = args
            args = (torch.where(cosine.abs() > _PARALLEL, 0.0, cosine),)
        return function(*args, **kwargs or {})


@contextlib.contextmanager
def differentiable_slerp() -> Iterator[None]:
    """Keep slopes finite where `comfy.utils.bislerp` overwrites; its values are the same."""
    before = comfy.utils.bislerp

    def bislerp(samples, width, height):
        with _FiniteSlopes():
            return before(samples, width, height)

    try:
        comfy.utils.bislerp = bislerp
        yield
    finally:
        comfy.utils.bislerp = before
