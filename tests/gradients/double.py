"""The host in float64, so that differences can be taken finely."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from seedselect_core.memory import checkpoints

ROUNDED = (torch.float32, torch.float16, torch.bfloat16)
DRAWING = (torch.randn, torch.rand)


class _InDouble(TorchFunctionMode):
    """Where code asks for 32 or 16 bits by name, it gets 64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in DRAWING:
            # Drawn as they would have been, or the numbers would be others.
            return function(*args, **{"dtype": torch.float32, **(kwargs or {})}).double()
        if function in (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16):
            function = torch.Tensor.double
        args = [_doubled(value) for value in args]
        kwargs = {name: _doubled(value) for name, value in (kwargs or {}).items()}
        return function(*args, **kwargs)


def _doubled(value):
    return torch.float64 if isinstance(value, torch.dtype) and value in ROUNDED else value


@contextmanager
def _in_double_too(context) -> Iterator[None]:
    with context, _InDouble():
        yield


def _checkpoint_in_double(*args, context_fn=lambda: (nullcontext(), nullcontext()), **kwargs):
    """The backward pass runs with the mode switched off, and makes predictions again in there."""

    def contexts():
        first, again = context_fn()
        return first, _in_double_too(again)

    return checkpoint(*args, **kwargs, context_fn=contexts)


@contextmanager
def in_double() -> Iterator[None]:
    """Keep the host from rounding to fewer bits than 64 on the way.

    A model of float64 weights is not enough: the host turns predictions into float32, attention
    and rotary embeddings are computed in a type that is written in the code, and so on.
    """
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        checkpoints.checkpoint = _checkpoint_in_double
        with _InDouble():
            yield
    finally:
        checkpoints.checkpoint = checkpoint
        torch.set_default_dtype(before)
