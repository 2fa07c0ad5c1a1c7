"""Weights lent to autograd: patched, hooked, quantised; as they were on every way out."""

import comfy.conds
import comfy.hooks
import comfy.model_management
import comfy.ops
import comfy.quant_ops
import comfy.utils
import pytest
import torch
from comfy.quant_ops import QuantizedTensor

import tiny
from gradients.measure import probed, relative_errors
from seedselect_core.host.weights import (
    borrowed_weights,
    ordinary_view,
    ordinary_views,
    pinned_weights,
    quantized_layers,
)
from test_gradients import TOLERANCE, within
from tiny import Broken


def weight_change(model, seed: int) -> dict:
    """A patch like a LoRA's, of every weight matrix in the attention layers."""
    names = [n for n, p in model.model.named_parameters() if "attn" in n and p.ndim == 2]
    assert len(names) >= 8
    shapes = {n: model.model.get_parameter(n).shape for n in names}
    return {n: ("diff", (0.1 * tiny.normal(*shapes[n], seed=seed),)) for n in names}


def bytes_of(model) -> dict:
    return {name: p.clone() for name, p in model.model.named_parameters()}


def assert_bytes(model, before: dict) -> None:
    for name, parameter in model.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def search(chain, noise):
    return relative_errors(probed(chain), noise, directions=2)


def test_gradient_with_a_patched_model():
    """What "Load LoRA" gives: a clone with patches, baked into the weights while it is loaded."""
    model = tiny.model(dtype=torch.float64)
    before = bytes_of(model)

    def gradient(chain, noise):
        z = noise.requires_grad_()
        return torch.autograd.grad(chain(z)[-1].square().sum(), z)[0]

    plain = within(model, gradient)
    with torch.inference_mode():
        patched = model.clone()
        patched.add_patches(weight_change(model, 40), 1.0)
    assert max(within(patched, search)) < TOLERANCE
    assert (within(patched, gradient) - plain).norm() > 0.01 * plain.norm()
    with torch.inference_mode():
        patched.detach()
    assert_bytes(model, before)
    assert torch.equal(within(model, gradient), plain)


@pytest.mark.parametrize("hooked", ["positive", "both"])
def test_gradient_with_lora_hooks_on_the_prompts(hooked):
    """The host rewrites the weights between the prompts of one call, where autograd may not see."""
    model = tiny.model(dtype=torch.float64)
    before = bytes_of(model)

    def hooks(seed):
        hook = comfy.hooks.WeightHook(1.0, 1.0)
        hook.weights = weight_change(model, seed)
        hook.need_weight_init = False
        group = comfy.hooks.HookGroup()
        group.add(hook)
        return group

    conds = {"positive": tiny.conditioning(1, hooks=hooks(41))}
    if hooked == "both":
        conds["negative"] = tiny.conditioning(2, hooks=hooks(42))

    def end(chain, noise):
        with torch.no_grad():
            return chain(noise)[-1]

    assert max(within(model, search, **conds)) < TOLERANCE
    assert not torch.equal(within(model, end, **conds), within(model, end))
    assert_bytes(model, before)


def test_steady_weights_keep_what_was_used():
    with torch.inference_mode():
        layer = torch.nn.Linear(2, 2)
    copy = comfy.utils.copy_to_param
    stream = comfy.model_management.get_offload_stream
    with pytest.raises(Broken), pinned_weights():
        used = layer.weight
        values = used.detach().clone()
        with torch.inference_mode(False):
            comfy.utils.copy_to_param(layer, "weight", torch.zeros(2, 2))
        assert torch.equal(layer.weight, torch.zeros(2, 2))
        assert torch.equal(used, values)
        assert comfy.model_management.get_offload_stream(torch.device("cuda")) is None
        raise Broken
    assert comfy.utils.copy_to_param is copy
    assert comfy.model_management.get_offload_stream is stream


def test_borrowed_weights_are_put_back_after_an_error():
    model = tiny.model()
    module = model.model
    parts = [*module.named_parameters(), *module.named_buffers()]
    with pytest.raises(Broken), borrowed_weights(module):
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            assert tensor.data_ptr() == dict(parts)[name].data_ptr()
            assert not tensor.is_inference()
            assert tensor._version >= 0  # inference tensors refuse to tell
        raise Broken
    now = [*module.named_parameters(), *module.named_buffers()]
    assert [(n, id(t)) for n, t in now] == [(n, id(t)) for n, t in parts]


def test_ordinary_views_reach_into_conditions():
    with torch.inference_mode():
        condition = comfy.conds.CONDRegular(tiny.normal(1, 2))
        value = {"a": [tiny.normal(3), "text"], "b": (condition, None), "c": {"d": tiny.normal(1)}}
    viewed = ordinary_views(value)
    assert not viewed["a"][0].is_inference() and viewed["a"][1] == "text"
    assert not viewed["b"][0].cond.is_inference() and viewed["b"][1] is None
    assert not viewed["c"]["d"].is_inference()
    assert viewed["a"][0].data_ptr() == value["a"][0].data_ptr()
    assert value["a"][0].is_inference() and condition.cond.is_inference()


def test_a_view_of_part_of_a_storage():
    with torch.inference_mode():
        part = tiny.normal(4, 6)[1:3].T
    assert torch.equal(ordinary_view(part), part)
    assert ordinary_view(part).stride() == part.stride()


def quantized_tensor(layout: str) -> QuantizedTensor:
    if not hasattr(comfy.quant_ops, layout):
        pytest.skip("This host does not know this kind of weight.")
    return QuantizedTensor.from_float(tiny.normal(8, 64), layout)


@torch.inference_mode()
def quantized(layout: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A layer of mixed precision, and the weight [8, 64] that its quantised one stands for."""
    layer = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32).Linear(64, 8)
    layer.weight = torch.nn.Parameter(quantized_tensor(layout), requires_grad=False)
    layer.bias = torch.nn.Parameter(tiny.normal(8, seed=1), requires_grad=False)
    layer.quant_format = "int8_tensorwise"
    layer.layout_type = layout
    return layer, layer.weight.dequantize()


@pytest.mark.parametrize("layout", ["TensorWiseINT8Layout", "TensorCoreFP8E4M3Layout"])
def test_quantized_layers_give_what_they_give_and_have_a_gradient(layout):
    layer, weight = quantized(layout)
    with torch.inference_mode():
        plain = layer._forward(tiny.normal(3, 5, 64), layer.weight, layer.bias)
    x = tiny.normal(3, 5, 64).requires_grad_()
    with pytest.raises(Broken), borrowed_weights(layer), quantized_layers(layer):
        y = layer._forward(x, layer.weight, layer.bias)
        assert torch.equal(y, plain) and not y.is_inference()
        still = layer._forward(x.detach(), layer.weight, layer.bias)
        assert torch.equal(still, plain) and not still.requires_grad
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, weight.clone().sum(0).expand_as(x))
        raise Broken
    assert "_forward" not in vars(layer)


def test_a_fast_fp8_layer_has_the_gradient_of_its_weight(monkeypatch):
    """The host multiplies in float8 on some GPUs only; what it gives there has no gradient."""
    with torch.inference_mode():
        layer = comfy.ops.fp8_ops.Linear(64, 8, dtype=torch.float8_e4m3fn)
        layer.weight = torch.nn.Parameter(
            tiny.normal(8, 64).to(torch.float8_e4m3fn), requires_grad=False
        )
        layer.bias = torch.nn.Parameter(tiny.normal(8, seed=1), requires_grad=False)
    weight = layer.weight.float()
    monkeypatch.setattr(
        comfy.ops, "fp8_linear", lambda layer, x: x.clamp_(-448, 448).detach() @ weight.T
    )
    x = tiny.normal(3, 5, 64).requires_grad_()
    with borrowed_weights(layer), quantized_layers(layer):
        y = layer.forward_comfy_cast_weights(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x.detach() @ weight.T)
    torch.testing.assert_close(gradient, weight.sum(0).expand_as(x))


def test_quantized_weights_are_viewed():
    with torch.inference_mode():
        weight = quantized_tensor("TensorWiseINT8Layout")
    view = ordinary_view(weight)
    assert type(view) is QuantizedTensor
    assert view._qdata.data_ptr() == weight._qdata.data_ptr()
    assert weight._qdata.is_inference() and not view._qdata.is_inference()
    assert torch.equal(view.dequantize(), weight.dequantize())
