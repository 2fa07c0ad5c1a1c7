"""Attention without a backward pass gets one; with one it is left alone."""

import comfy.ldm.modules.attention
import pytest
import torch

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.host.layers import differentiable_attention
from tiny import Broken


@pytest.fixture
def qkv() -> list[torch.Tensor]:
    return [tiny.normal(2, 6, 16, seed=seed).requires_grad_() for seed in range(3)]


def attend(options: dict, qkv: list[torch.Tensor]) -> torch.Tensor:
    return comfy.ldm.modules.attention.attention_pytorch(*qkv, 2, transformer_options=options)


def gradients(output: torch.Tensor, qkv: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(output.square().sum(), qkv)


def test_attention_override_without_a_backward(qkv):
    def coarse(attention, *args, **options):
        return attention(*args, **options).detach().half().float()

    options = {"optimized_attention_override": coarse}
    sampled = attend(options, qkv)
    with pytest.raises(Broken), differentiable_attention(options):
        output = attend(options, qkv)
        assert torch.equal(output, sampled)
        for found, expected in zip(
            gradients(output, qkv), gradients(attend({}, qkv), qkv), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
        raise Broken
    assert options == {"optimized_attention_override": coarse}


def test_attention_override_with_a_gradient_is_left_alone(qkv):
    def shifted(attention, q, *args, **options):
        return attention(q, *args, **options) + q

    options = {"optimized_attention_override": shifted}
    expected = gradients(attend(options, qkv), qkv)
    with differentiable_attention(options):
        assert all(map(torch.equal, gradients(attend(options, qkv), qkv), expected))


def test_an_override_that_is_no_attention_and_has_no_gradient_is_refused(qkv):
    options = {"optimized_attention_override": lambda attention, q, *_, **__: 9 * q.detach()}
    with differentiable_attention(options), pytest.raises(SeedSelectError, match="attention"):
        attend(options, qkv)


def test_the_hosts_kernels_without_a_backward_get_one(qkv):
    host = comfy.ldm.modules.attention
    wrapper = host.attention_sage
    cell = wrapper.__closure__[wrapper.__code__.co_freevars.index("func")]
    real = cell.cell_contents

    def sage(q, k, v, heads, **options):
        return attend({}, [q, k, v]).detach()

    try:
        cell.cell_contents = sage
        with differentiable_attention({}):
            found = gradients(wrapper(*qkv, 2), qkv)
        assert cell.cell_contents is sage
    finally:
        cell.cell_contents = real
    for one, other in zip(found, gradients(attend({}, qkv), qkv), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["attention_split", "attention_sub_quad"])
def test_what_attention_gives_may_be_overwritten_in_part(qkv, name):
    """As NAGuidance does."""

    def guided(output: torch.Tensor) -> torch.Tensor:
        output[:1] *= 2
        return output

    # With one head, what the kernels give is a view.
    attention = comfy.ldm.modules.attention.attention_pytorch
    expected = gradients(guided(attention(*qkv, 1).clone()), qkv)
    kernel = getattr(comfy.ldm.modules.attention, name)
    with differentiable_attention({}):
        found = gradients(guided(kernel(*qkv, 1)), qkv)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


needs_containers = pytest.mark.skipif(
    not hasattr(comfy.ldm.modules.attention, "AttentionTensorContainer"),
    reason="This host hands over no containers.",
)


def contained(wrapper, qkv, **options):
    """Attention as the host's transformers call it since 0.32."""
    containers = map(comfy.ldm.modules.attention.AttentionTensorContainer, qkv)
    return wrapper(*containers, 2, **options)


def coarse_of_containers(q, k, v, heads, **options):
    return attend({}, [q.take(), k.take(), v.take()]).detach().half().float()


@needs_containers
def test_a_kernel_that_takes_containers_gets_a_gradient(qkv, monkeypatch):
    wrapper = comfy.ldm.modules.attention.attention_comfy_kitchen_int8
    monkeypatch.setattr(wrapper, "container_function", coarse_of_containers)
    sampled = contained(wrapper, qkv)
    with pytest.raises(Broken), differentiable_attention({}):
        output = contained(wrapper, qkv)
        assert torch.equal(output, sampled)
        for found, expected in zip(
            gradients(output, qkv), gradients(attend({}, qkv), qkv), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
        raise Broken
    assert wrapper.container_function is coarse_of_containers


@needs_containers
def test_an_override_that_takes_containers_is_called_so(qkv):
    def override(attention, *args, **options):
        raise AssertionError("not as tensors")

    override.container_function = coarse_of_containers
    options = {"optimized_attention_override": override}
    wrapper = comfy.ldm.modules.attention.attention_pytorch
    sampled = contained(wrapper, qkv, transformer_options=options)
    with differentiable_attention(options):
        output = contained(wrapper, qkv, transformer_options=options)
        assert torch.equal(output, sampled)
        for found, expected in zip(
            gradients(output, qkv), gradients(attend({}, qkv), qkv), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    assert options == {"optimized_attention_override": override}


@needs_containers
def test_an_override_that_takes_no_containers_still_gets_tensors(qkv):
    def shifted(attention, q, *args, **options):
        return attention(q, *args, **options) + q

    options = {"optimized_attention_override": shifted}
    expected = gradients(attend(options, qkv), qkv)
    wrapper = comfy.ldm.modules.attention.attention_pytorch
    with differentiable_attention(options):
        found = gradients(contained(wrapper, qkv, transformer_options=options), qkv)
    assert all(map(torch.equal, found, expected))
