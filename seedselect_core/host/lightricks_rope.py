"""Rotary embeddings of LTX Video, which the host computes by another formula in training.

That formula rounds otherwise than the kernels that stock sampling runs, so that the optimized
picture would differ from the sampled one in its last bits.
"""

import contextlib
import functools
from collections.abc import Iterator

import comfy.ldm.lightricks.model
import comfy.model_management

NAMES = ("apply_rotary_emb", "apply_rotary_emb_qk")


def _as_sampled(function):
    @functools.wraps(function)
    def rope(*args):
        before = comfy.model_management.in_training
        try:
            comfy.model_management.in_training = False
            return function(*args)
        finally:
            comfy.model_management.in_training = before

    return rope


@contextlib.contextmanager
def lightricks_rope_as_sampled() -> Iterator[None]:
    """Let LTX Video run the kernels of stock sampling. They need `differentiable_rope`."""
    module = comfy.ldm.lightricks.model
    before = {name: getattr(module, name) for name in NAMES}
    try:
        for name, function in before.items():
            setattr(module, name, _as_sampled(function))
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)
