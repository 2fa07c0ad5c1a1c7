"""Weights of the host under autograd, without a copy of them and without a change to them.

| what is patched | why | what puts it back |
| --- | --- | --- |
| parameters and buffers of each module | they are inference tensors | `borrowed_weights` |
| `comfy.utils.copy_to_param` | hooks overwrite weights of one call | `pinned_weights` |
| `get_offload_stream` of `comfy.model_management` | streams share buffers | `pinned_weights` |
| linear layers of few bits | a rounding has no slope | `quantized_layers` |

Tried on the hosts that docs/hosts.md lists as proven.

Nodes run inside ``torch.inference_mode()``. Tensors made there are inference tensors, and autograd
refuses to save them for the backward pass. An ordinary tensor over the same storage is not an
inference tensor, so each parameter and buffer is swapped for such a view while the seed is
optimized, and the originals are put back whatever happens.

The host also overwrites weights in two places between the layers of a model, which autograd cannot
notice (it watches tensors, not memory): the gradient would be wrong and nothing would fail. There
new values get new memory.

Layers that round their input to few bits have no gradient of their own: the host multiplies
quantized weights by activations that are quantized on the way, with kernels that have no backward,
or whose result is a constant to autograd. A rounding is a staircase: its true derivative is zero.
As in the host's own training, the gradient passes the rounding unchanged (straight-through, Bengio
et al. 2013, arXiv 1308.3432): that of a linear layer with the numbers its quantized weights stand
for. What the layer returns is not touched.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.quant_ops import QuantizedTensor

from .needs import Need, exchanged

NEEDS = (
    Need("comfy.utils:copy_to_param", ("obj", "attr", "value")),
    Need("comfy.utils:set_attr_param", ("obj", "attr", "value")),
    Need("comfy.model_management:get_offload_stream", ("device",)),
    Need("comfy.ops:fp8_ops.Linear.forward_comfy_cast_weights"),
    Need("comfy.ops:cast_bias_weight", ("offloadable",)),
    Need("comfy.ops:uncast_bias_weight"),
    Need("comfy.quant_ops:QuantizedTensor.dequantize"),
)


# ---------------------------------------------------------------- lent to autograd


def ordinary_view(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor over the memory of ``tensor``, without its gradient history.

    Must be called outside inference mode, or the view is an inference tensor again. Whether
    ``tensor`` says that it is an inference tensor is not asked: a module moved to another device or
    type outside inference mode has parameters that deny it and still count no versions.
    """
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: it has no storage, its parts have
        names, rest = tensor.__tensor_flatten__()
        parts = {name: ordinary_view(getattr(tensor, name)) for name in names}
        return type(tensor.data).__tensor_unflatten__(parts, rest, tensor.size(), tensor.stride())
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return tensor  # of a kind that only its own layer understands, which makes a plain one
    return tensor.new_empty(0).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def unviewed(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a tensor that is no view.

    What a `torch.autograd.Function` gives may be overwritten by the host, a slice of it too, but
    not if it was made as a view.
    """
    return ordinary_view(tensor) if tensor._is_view() else tensor


def ordinary_views(value):
    """``value`` with every tensor in its dicts, lists, tuples and host conditions viewed.

    Containers are rebuilt, other objects are left alone; conditions (``comfy.conds``) are rebuilt
    by their own copy constructor.
    """
    if isinstance(value, torch.Tensor):
        return ordinary_view(value)
    if isinstance(value, dict):
        return type(value)({key: ordinary_views(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(ordinary_views(item) for item in value)
    if hasattr(value, "_copy_with") and hasattr(value, "cond"):
        return value._copy_with(ordinary_views(value.cond))
    return value


@contextlib.contextmanager
def borrowed_weights(*modules: torch.nn.Module) -> Iterator[None]:
    """Swap parameters and buffers of ``modules`` for ordinary views of the same memory.

    No parameter asks for a gradient meanwhile. On leaving, the very objects that were there before
    are back in place.
    """
    originals = []
    try:
        for module in modules:
            for part in module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is None:
                        continue
                    originals.append((part._parameters, name, parameter))
                    view = ordinary_view(parameter)
                    if view is not parameter:
                        view = torch.nn.Parameter(view, requires_grad=False)
                    part._parameters[name] = view
                for name, buffer in part._buffers.items():
                    if buffer is not None:
                        originals.append((part._buffers, name, buffer))
                        part._buffers[name] = ordinary_view(buffer)
        yield
    finally:
        for store, name, tensor in originals:
            store[name] = tensor


# ---------------------------------------------------------------- pinned


def _put_in_place_of(obj, attr: str, value: torch.Tensor) -> None:
    """`comfy.utils.copy_to_param`, but the tensor that was there keeps its values."""
    before = comfy.utils.get_attr(obj, attr)
    comfy.utils.set_attr_param(obj, attr, value.to(before, copy=True))


@contextlib.contextmanager
def pinned_weights() -> Iterator[None]:
    """Give new values of a weight new memory.

    - LoRA hooks on a prompt switch weights between the prompts of one call.
    - Weights that are kept off the device pass through a few buffers that all layers share, one a
      stream. Without streams every layer gets memory of its own.
    """
    management = comfy.model_management
    with (
        exchanged(comfy.utils, "copy_to_param", lambda before: _put_in_place_of),
        exchanged(management, "get_offload_stream", lambda before: lambda device: None),
    ):
        yield


# ---------------------------------------------------------------- of few bits


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
def quantized_layers(*modules: torch.nn.Module) -> Iterator[None]:
    """Give quantised layers of ``modules`` the straight-through gradient."""
    changed = []
    try:
        for layer in {id(p): p for module in modules for p in module.modules()}.values():
            if hasattr(layer, "_expert_linear_impl"):
                name = "_expert_linear_impl"
                substitute = functools.partial(_expert, layer)
            elif hasattr(layer, "quant_format") and hasattr(layer, "_forward"):
                name = "_forward"
                substitute = _linear
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
