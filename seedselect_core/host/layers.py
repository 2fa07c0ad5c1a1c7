"""Layers of the host whose kernels or in-place arithmetic autograd cannot follow.

| what is patched | why | what puts it back |
| --- | --- | --- |
| sage and flash attention, int8 attention | no backward | `differentiable_attention` |
| sub-quadratic, split attention | keeps all scores, or fails | `differentiable_attention` |
| `optimized_attention_override` of a node | perhaps none | `differentiable_attention` |
| rotary kernels of `comfy_kitchen` | no backward | `differentiable_rope` |
| rotary embeddings of LTX Video | rounded otherwise | `lightricks_rope_as_sampled` |
| layer norms of the host's CLIP | overwritten input | `layer_norms_keep_their_input` |
| `comfy.utils.bislerp` | an infinite slope | `differentiable_slerp` |

Tried on the hosts that docs/hosts.md lists as proven.

Sage, flash and int8 attention as the host calls them cannot be differentiated. They approximate the
same function as PyTorch's attention, so its gradient, at the same queries, keys and values, is
theirs up to that approximation; and what the model draws stays what it draws in sampling. An
override that a node has put on the model may be such a kernel, or something else altogether. It is
asked once: what has a gradient is left alone, what has none must at least give what PyTorch gives.
From 0.32 on the host hands over queries, keys and values in containers, which a kernel or override
may take as they are by a function of its own (`container_function`), and by which it then samples.

Rotary embeddings: some models call the kernels of comfy_kitchen whether they are trained or not
(Cosmos Predict 2, Anima, JoyImage), or one of them in training too (ERNIE-Image).
"""

import contextlib
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator

import comfy.clip_model
import comfy.ldm.modules.attention as host
import comfy.model_management
import comfy.utils
import comfy_kitchen
import comfy_kitchen.backends.eager
import torch
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..errors import NoGradient
from .needs import Need, closure, exchanged, serves
from .weights import unviewed

LIGHTRICKS = "comfy.ldm.lightricks"
NEEDS = (
    Need("comfy.ldm.modules.attention:attention_pytorch", ("q", "k", "v", "heads")),
    Need("comfy.ldm.modules.attention:attention_sage", cell="func"),
    Need("comfy.ldm.modules.attention:attention3_sage", cell="func"),
    Need("comfy.ldm.modules.attention:attention_flash", cell="func"),
    Need("comfy.ldm.modules.attention:attention_sub_quad", cell="func"),
    Need("comfy.ldm.modules.attention:attention_split", cell="func"),
    Need("comfy_kitchen.backends.eager:apply_rope"),
    Need("comfy.ldm.lightricks.model:apply_rotary_emb", family=LIGHTRICKS),
    Need("comfy.clip_model:CLIPLayer"),
    Need("comfy.utils:bislerp", ("samples", "width", "height")),
)


# ---------------------------------------------------------------- attention

# Not every host has them all. The last two have a backward pass, which keeps the whole matrix of
# scores, and none where they cut it in both directions because memory is short.
WITHOUT_BACKWARD = (
    "attention_sage",
    "attention3_sage",
    "attention_flash",
    "attention_comfy_kitchen_int8",
    "attention_sub_quad",
    "attention_split",
)
OVERRIDE = "optimized_attention_override"
# Largest difference from PyTorch's attention, relative to it: 8 and 4 bits stay below.
LIMIT = 0.3


class _Attention(torch.autograd.Function):
    """``kernel(q, k, v)``, with the gradient of ``reference(q, k, v)``."""

    @staticmethod
    def forward(ctx, q, k, v, kernel, reference):
        ctx.save_for_backward(q, k, v)
        ctx.reference = reference
        return unviewed(kernel(q, k, v))

    @staticmethod
    def backward(ctx, gradient):
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            output = ctx.reference(*inputs)
        return *torch.autograd.grad(output, inputs, gradient), None, None


def _attend(kernel: Callable, q, k, v, args: tuple, options: dict):
    """``kernel(q, k, v, *args, **options)`` with the gradient of PyTorch's attention."""
    # The host's wrapper must not ask for the override once more.
    inner = {**options, "_inside_attn_wrapper": True}
    return _Attention.apply(
        q,
        k,
        v,
        lambda q, k, v: kernel(q, k, v, *args, **options),
        lambda q, k, v: host.attention_pytorch(q, k, v, *args, **inner),
    )


def _with_gradient(kernel: Callable) -> Callable:
    def attention(q, k, v, *args, **options):
        if not any(x.requires_grad for x in (q, k, v)):
            return kernel(q, k, v, *args, **options)
        return _attend(kernel, q, k, v, args, options)

    return attention


def _has_gradient(compute: Callable, reference: Callable, inputs: list[torch.Tensor]) -> bool:
    """Whether autograd can go through ``compute``.

    Raises:
        NoGradient: it cannot, and what is computed is no attention either.
    """
    inputs = [x.detach().requires_grad_() for x in inputs]
    # A checkpoint around this must neither see nor count what is saved here.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        output = compute(*inputs)
        with contextlib.suppress(RuntimeError):
            torch.autograd.grad(output.float().sum(), inputs)
            return True
    with torch.no_grad():
        expected = reference(*inputs)
    if not (output - expected).norm() <= LIMIT * expected.norm():
        raise NoGradient(
            "model: a node has replaced the attention by something that has no gradient and is not "
            "an attention kernel. Disconnect that node for the optimization."
        )
    return False


def _checked(override: Callable) -> Callable:
    answers: dict[Callable, bool] = {}

    def attention(kernel, q, k, v, *args, **options):
        if not any(x.requires_grad for x in (q, k, v)):
            return override(kernel, q, k, v, *args, **options)

        def compute(q, k, v):
            return override(kernel, q, k, v, *args, **options)

        if kernel not in answers:
            inner = {**options, "_inside_attn_wrapper": True}
            answers[kernel] = _has_gradient(
                compute, lambda q, k, v: host.attention_pytorch(q, k, v, *args, **inner), [q, k, v]
            )
        if answers[kernel]:
            return compute(q, k, v)
        return _attend(lambda q, k, v, *_, **__: compute(q, k, v), q, k, v, args, options)

    return attention


def _of_tensors(attention: Callable) -> Callable:
    """``attention(q, k, v, ...)`` of tensors, as a function of containers."""

    def of_containers(q, k, v, *args, **options):
        return attention(q.take(), k.take(), v.take(), *args, **options)

    return of_containers


def _of_containers(of_containers: Callable) -> Callable:
    """The opposite of `_of_tensors`."""

    def attention(q, k, v, *args, **options):
        containers = map(host.AttentionTensorContainer, (q, k, v))
        return of_containers(*containers, *args, **options)

    return attention


def _checked_override(override: Callable) -> Callable:
    attention = _checked(override)
    if hasattr(override, "container_function"):
        packed = _of_containers(override.container_function)
        checked = _checked(lambda _, *args, **options: packed(*args, **options))
        attention.container_function = _of_tensors(functools.partial(checked, None))
    return attention


def _container_with_gradient(of_containers: Callable | None) -> Callable | None:
    """The function of containers of a kernel without a backward; None where it has none."""
    if of_containers is None:
        return None
    return _of_tensors(_with_gradient(_of_containers(of_containers)))


@contextlib.contextmanager
def differentiable_attention(transformer_options: dict) -> Iterator[None]:
    """Give every attention of the host a gradient.

    Args:
        transformer_options: of the model options that are sampled with; what a node has put there
            as override is exchanged meanwhile.
    """
    override = transformer_options.get(OVERRIDE)
    with contextlib.ExitStack() as stack:
        for name in WITHOUT_BACKWARD:
            # Half a hundred modules hold the wrapper by name, so what it wraps is exchanged.
            wrapper = getattr(host, name, None)
            cell = closure(wrapper).get("func")
            if cell is not None:
                stack.enter_context(exchanged(cell, "cell_contents", _with_gradient))
            packed = exchanged(wrapper, "container_function", _container_with_gradient)
            stack.enter_context(packed)
        try:
            if override is not None:
                transformer_options[OVERRIDE] = _checked_override(override)
            yield
        finally:
            if override is not None:
                transformer_options[OVERRIDE] = override


# ---------------------------------------------------------------- rotary embeddings

KERNELS = tuple(
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
        found = values(*args)
        return tuple(map(unviewed, found)) if isinstance(found, tuple) else unviewed(found)

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


def _differentiable(formula, kernel):
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
    with contextlib.ExitStack() as stack:
        for name in KERNELS:  # older versions have fewer of them
            formula = getattr(comfy_kitchen.backends.eager, name, None)
            if formula is not None:
                make = functools.partial(_differentiable, formula)
                stack.enter_context(exchanged(comfy_kitchen, name, make))
        yield


# ---------------------------------------------------------------- rotary embeddings of LTX Video

LIGHTRICKS_ROPES = ("apply_rotary_emb", "apply_rotary_emb_qk")


def _as_sampled(function):
    @functools.wraps(function)
    def rope(*args):
        with exchanged(comfy.model_management, "in_training", lambda before: False):
            return function(*args)

    return rope


@contextlib.contextmanager
def lightricks_rope_as_sampled(model: torch.nn.Module) -> Iterator[None]:
    """Let LTX Video run the kernels of stock sampling. They need `differentiable_rope`.

    The host computes these embeddings by another formula in training, which rounds otherwise, so
    that the optimized picture would differ from the sampled one in its last bits.

    Args:
        model: the diffusion model; one of another family is left alone.
    """
    if not serves(LIGHTRICKS, type(model).__module__):
        yield
        return
    module = importlib.import_module(f"{LIGHTRICKS}.model")
    with contextlib.ExitStack() as stack:
        for name in LIGHTRICKS_ROPES:  # older versions have the first only
            stack.enter_context(exchanged(module, name, _as_sampled))
        yield


# ---------------------------------------------------------------- layer norms


@contextlib.contextmanager
def layer_norms_keep_their_input(model: torch.nn.Module) -> Iterator[None]:
    """Let CLIPLayer's `x += attention(layer_norm1(x))` run under autograd.

    The layer norm saves x for its backward pass and the addition then overwrites it, which
    autograd refuses. For the length of the call each layer norm gets a copy; values are the same.
    """
    norms = [
        norm
        for layer in model.modules()
        if isinstance(layer, comfy.clip_model.CLIPLayer)
        for norm in (layer.layer_norm1, layer.layer_norm2)
    ]
    handles = [n.register_forward_pre_hook(lambda _, args: (args[0].clone(),)) for n in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# ---------------------------------------------------------------- spherical upscaling

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

    def differentiable(before: Callable) -> Callable:
        def bislerp(samples, width, height):
            with _FiniteSlopes():
                return before(samples, width, height)

        return bislerp

    with exchanged(comfy.utils, "bislerp", differentiable):
        yield
