"""Rotary embeddings that the host leaves to comfy_kitchen, whose kernels have no backward pass.

Some models call them whether they are trained or not (Cosmos Predict 2, Anima, JoyImage), or call
one of them in training too (ERNIE-Image).
"""

import contextlib
import inspect
from collections.abc import Iterator

import comfy_kitchen
import comfy_kitchen.backends.eager
import torch
from torch.autograd.function import once_differentiable

NAMES = tuple(
    f"{work}_rope{layout}{inputs}"
    for work in ("apply", "rms")
    for layout in ("", "_split_half")
    for inputs in ("", "1")
)


class _Rope(torch.autograd.Function):
    """Values of the kernel that the host would run, derivative of the formula that it computes."""

    @staticmethod
    def forward(ctx, values, formula, *args):
        ctx.formula = formula
        ctx.others = [None if isinstance(x, torch.Tensor) else x for x in args]
        ctx.places = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor)]
        ctx.save_for_backward(*(args[i] for i in ctx.places))
        return values(*args)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        args = list(ctx.others)
        needed = ctx.needs_input_grad[2:]
        for i, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[i] = tensor.detach().requires_grad_(needed[i])
        with torch.enable_grad():
            outputs = ctx.formula(*args)
        places = [i for i in ctx.places if needed[i]]
        found = torch.autograd.grad(outputs, [args[i] for i in places], gradients)
        result = [None] * len(args)
        for i, gradient in zip(places, found, strict=True):
            result[i] = gradient
        return None, None, *result


def _differentiable(kernel, formula):
    signature = inspect.signature(kernel)

    def rope(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # No kernel takes float64; comfy_kitchen would refuse it.
        values = formula if bound.args[0].dtype == torch.float64 else kernel
        return _Rope.apply(values, formula, *bound.args)

    return rope


@contextlib.contextmanager
def differentiable_rope() -> Iterator[None]:
    """Give comfy_kitchen's rotary embeddings a backward pass; their values stay as they are.

    The backward pass computes the plain PyTorch formula again, which comfy_kitchen itself falls
    back on where it has no kernel.
    """
    # Older versions have fewer of them.
    kernels = {name: getattr(comfy_kitchen, name) for name in NAMES if hasattr(comfy_kitchen, name)}
    try:
        for name, kernel in kernels.items():
            formula = getattr(comfy_kitchen.backends.eager, name)
            setattr(comfy_kitchen, name, _differentiable(kernel, formula))
        yield
    finally:
        for name, kernel in kernels.items():
            setattr(comfy_kitchen, name, kernel)
