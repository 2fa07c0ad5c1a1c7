"""Layers that round their input to few bits, and so have no gradient of their own.

The host multiplies quantised weights by activations that are quantised on the way, with kernels
that have no backward, or whose result is a constant to autograd. A rounding is a staircase: its
true derivative is zero. As in the host's own training, the gradient passes the rounding unchanged
(straight-through, Bengio et al. 2013, arXiv 1308.3432): that of a linear layer with the numbers
its quantised weights stand for. What the layer returns is not touched.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import comfy.ops
import torch
from comfy.quant_ops import QuantizedTensor

from .borrowed_weights import ordinary_view


def _as_sampled(compute: Callable, x: torch.Tensor) -> torch.Tensor:
    """``compute(x)`` in inference mode, as in sampling.

    Outside of it PyTorch takes a linear layer apart, and quantised tensors give other numbers.
    """
    with torch.inference_mode():
        y = compute(x)
    return ordinary_view(y)


class _StraightThrough(torch.autograd.Function):
    """``compute(x)`` for [..., in], with the gradient of ``x @ weight.T`` for [out, in].

    ``weight(gradient)`` gives the weight on the gradient's device and in its type.
    """

    @staticmethod
    def forward(ctx, x, weight, compute):
        ctx.weight = weight
        return _as_sampled(compute, x.detach())

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.weight(gradient), None, None


def _numbers_of(weight: QuantizedTensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: weight.dequantize().to(gradient)


def _linear(compute: Callable, x, weight, bias):
    """In place of ``compute(x, weight, bias)`` of a layer of mixed precision."""
    if not isinstance(weight, QuantizedTensor):
        return compute(x, weight, bias)
    if not x.requires_grad:
        return _as_sampled(lambda x: compute(x, weight, bias), x)
    return _StraightThrough.apply(x, _numbers_of(weight), lambda x: compute(x, weight, bias))


def _expert(layer, compute: Callable, x, weight, bias, i: int):
    """In place of ``compute(x, weight, bias, i)`` of a bank of experts."""
    if not isinstance(weight, QuantizedTensor):
        return compute(x, weight, bias, i)
    if not x.requires_grad:
        return _as_sampled(lambda x: compute(x, weight, bias, i), x)
    expert = _numbers_of(layer._expert_qt_from(weight, i))
    return _StraightThrough.apply(x, expert, lambda x: compute(x, weight, bias, i))


def _fast_fp8(layer, compute: Callable, x):
    """In place of ``compute(x)`` of a layer of `comfy.ops.fp8_ops`, which overwrites its input."""
    if not x.requires_grad or layer.weight_function or layer.bias_function:
        return compute(x)

    def weight(gradient):
        # It may lie elsewhere, or have a patch that is not in it: the host sees to both per call.
        cast, bias, stream = comfy.ops.cast_bias_weight(layer, gradient, offloadable=True)
        try:
            return cast.clone()
        finally:
            comfy.ops.uncast_bias_weight(layer, cast, bias, stream)

    return _StraightThrough.apply(x, weight, lambda x: compute(x.clone()))


@contextlib.contextmanager
def quantised_layers(*modules: torch.nn.Module) -> Iterator[None]:
    """Give quantised layers of ``modules`` the straight-through gradient."""
    changed = []
    try:
        for layer in {id(p): p for module in modules for p in module.modules()}.values():
            if hasattr(layer, "_expert_linear_impl"):
                name, substitute = "_expert_linear_impl", functools.partial(_expert, layer)
            elif hasattr(layer, "quant_format") and hasattr(layer, "_forward"):
                name, substitute = "_forward", _linear
            elif isinstance(layer, comfy.ops.fp8_ops.Linear):
                name = "forward_comfy_cast_weights"
                substitute = functools.partial(_fast_fp8, layer)
            else:
                continue
            setattr(layer, name, functools.partial(substitute, getattr(layer, name)))
            changed.append((layer, name))
        yield
    finally:
        for layer, name in changed:
            delattr(layer, name)
