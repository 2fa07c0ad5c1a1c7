"""Attention kernels that have no backward: their forward is kept, the gradient is PyTorch's.

Sage and flash attention as the host calls them cannot be differentiated. They approximate the same
function as PyTorch's attention, so its gradient, at the same queries, keys and values, is theirs up
to that approximation; and what the model draws stays what it draws in sampling.

An override that a node has put on the model may be such a kernel, or something else altogether. It
is asked once: what has a gradient is left alone, what has none must at least give what PyTorch
gives.
"""

import contextlib
from collections.abc import Callable, Iterator

import comfy.ldm.modules.attention as host
import torch

from ..errors import SeedSelectError

WITHOUT_BACKWARD = ("attention_sage", "attention3_sage", "attention_flash")
OVERRIDE = "optimized_attention_override"
# Largest difference from PyTorch's attention, relative to it: 8 and 4 bits stay below.
LIMIT = 0.3


class _Attention(torch.autograd.Function):
    """``kernel(q, k, v)``, with the gradient of ``reference(q, k, v)``."""

    @staticmethod
    def forward(ctx, q, k, v, kernel, reference):
        ctx.save_for_backward(q, k, v)
        ctx.reference = reference
        return kernel(q, k, v)

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
        SeedSelectError: it cannot, and what is computed is no attention either.
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
        raise SeedSelectError(
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


@contextlib.contextmanager
def differentiable_attention(transformer_options: dict) -> Iterator[None]:
    """Give every attention of the host a gradient.

    Args:
        transformer_options: of the model options that are sampled with; what a node has put there
            as override is exchanged meanwhile.
    """
    override = transformer_options.get(OVERRIDE)
    cells = []
    try:
        for name in WITHOUT_BACKWARD:
            wrapper = getattr(host, name)
            # Half a hundred modules hold the wrapper by name, so what it wraps is exchanged.
            cell = wrapper.__closure__[wrapper.__code__.co_freevars.index("func")]
            cells.append((cell, cell.cell_contents))
            cell.cell_contents = _with_gradient(cell.cell_contents)
        if override is not None:
            transformer_options[OVERRIDE] = _checked(override)
        yield
    finally:
        for cell, kernel in cells:
            cell.cell_contents = kernel
        if override is not None:
            transformer_options[OVERRIDE] = override
