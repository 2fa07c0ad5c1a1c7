"""Every liberty taken with the host: it does what it is for, and puts back what it found."""

import contextlib
import functools

import comfy.clip_model
import comfy.hooks
import comfy.k_diffusion.sampling
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.ops
import comfy.samplers
import comfy.utils
import pytest
import tiny
import torch
from comfy.patcher_extension import WrappersMP
from comfy.quant_ops import QuantizedTensor
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from test_gradients import TOLERANCE, within

from proofs.double import in_double
from proofs.measure import probed, relative_errors
from seedselect_core.errors import SeedSelectError
from seedselect_core.host.attention import differentiable_attention
from seedselect_core.host.borrowed_weights import borrowed_weights, ordinary_view, ordinary_views
from seedselect_core.host.differentiable_samplers import differentiable_samplers
from seedselect_core.host.layer_norms import layer_norms_keep_their_input
from seedselect_core.host.modes import gradients_enabled, steady_memory
from seedselect_core.host.plain_functions import plain_function
from seedselect_core.host.quantised_layers import quantised_layers
from seedselect_core.host.same_draws import FirstDraws
from seedselect_core.host.steady_weights import steady_weights
from seedselect_core.host.uncompiled import uncompiled


class Broken(Exception):
    pass


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
        hook.weights, hook.need_weight_init = weight_change(model, seed), False
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
    copy, stream = comfy.utils.copy_to_param, comfy.model_management.get_offload_stream
    with pytest.raises(Broken), steady_weights():
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


def test_gradients_are_enabled_and_switched_back():
    assert not comfy.model_management.in_training
    with torch.inference_mode():
        with pytest.raises(Broken), gradients_enabled():
            assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
            assert comfy.model_management.in_training
            raise Broken
        assert torch.is_inference_mode_enabled() and not comfy.model_management.in_training


def test_memory_is_measured_once(monkeypatch):
    answers = iter(range(10))

    def measure(dev=None, torch_free_too=False):
        return next(answers)

    monkeypatch.setattr(comfy.model_management, "get_free_memory", measure)
    with pytest.raises(Broken), steady_memory():
        seen = [comfy.model_management.get_free_memory(torch.device("cpu")) for _ in range(3)]
        raise Broken
    assert seen == [0, 0, 0]
    assert comfy.model_management.get_free_memory is measure


def test_less_memory_in_the_backward_pass_changes_nothing(monkeypatch):
    """The host would not batch the prompts then, and the recomputed call would not be the first."""
    measured = []

    def shrinking(dev=None, torch_free_too=False):
        free = 10**12 if len(measured) < 10 else 0
        return (free, free) if torch_free_too else free

    def counted(chain, noise):
        recorded = chain(noise.requires_grad_())[-1]
        measured.extend(range(10))
        return torch.autograd.grad(recorded.sum(), noise)[0]

    monkeypatch.setattr(comfy.model_management, "get_free_memory", shrinking)
    model = tiny.model(dtype=torch.float64)
    assert torch.isfinite(within(model, counted)).all()


def test_samplers_are_unwrapped_and_wrapped_again():
    module = comfy.k_diffusion.sampling
    before, bislerp = dict(vars(module)), comfy.utils.bislerp
    with pytest.raises(Broken), differentiable_samplers():
        changed = {name for name in before if vars(module)[name] is not before[name]}
        assert {"sample_euler", "sample_dpmpp_2m_sde", "sample_euler_ancestral_RF"} <= changed
        assert {"sample_ipndm_v", "sample_deis", "PIDStepSizeController"} <= changed
        assert not any(hasattr(vars(module)[name], "__wrapped__") for name in changed)
        assert module.BatchedBrownianTree.sort is before["BatchedBrownianTree"].sort
        assert comfy.utils.bislerp is not bislerp
        raise Broken
    assert all(vars(module)[name] is before[name] for name in before)
    assert comfy.utils.bislerp is bislerp


def test_functions_are_unwrapped_of_no_grad_alone():
    @contextlib.contextmanager
    def other():
        yield

    def detaching(x, *, factor=2.0):
        return x.detach() * factor

    assert plain_function(other) is other
    assert plain_function(len) is len
    decorated = torch.inference_mode()(torch.no_grad()(detaching))
    for plain in (plain_function(decorated), functools.partial(plain_function(detaching))):
        x = torch.ones(2, requires_grad=True)
        (gradient,) = torch.autograd.grad(plain(x, factor=3.0).sum(), x)
        assert torch.equal(gradient, torch.full((2,), 3.0))
    assert not detaching(x).requires_grad  # the original is as it was


@pytest.mark.parametrize("errors", [(0.2, 3.0, 0.02), (1e-3, 2e-3, 5e-3)])
def test_step_sizes_are_the_host_s_and_have_a_gradient(errors):
    """Here against differences with rejected steps and all three terms of the controller."""
    arguments = (0.05, 0.2, 1.0, 0.1, 3, 0.81)
    host = comfy.k_diffusion.sampling.PIDStepSizeController(*arguments)
    answers = [host.propose_step(torch.tensor(error)) for error in errors]

    def last(scale, kind=torch.float64):
        with differentiable_samplers():
            sizes = comfy.k_diffusion.sampling.PIDStepSizeController(*arguments)
        assert [sizes.propose_step(scale * torch.tensor(e, dtype=kind)) for e in errors] == answers
        return sizes.h

    assert torch.equal(last(1.0, torch.float32), torch.tensor(host.h, dtype=torch.float32))
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(last(scale), scale)
    difference = (last(1 + 1e-6) - last(1 - 1e-6)) / 2e-6
    assert abs(slope - difference) < 1e-6 * abs(slope)


@pytest.mark.parametrize("size", [8, 12])
def test_spherical_upscaling_has_a_gradient(size):
    before = tiny.normal(1, 4, 8, 8).double().requires_grad_()
    plain = comfy.utils.bislerp(before.detach().float(), size, size)
    with differentiable_samplers():
        assert torch.equal(comfy.utils.bislerp(before.detach().float(), size, size), plain)
        with in_double():
            after = comfy.utils.bislerp(before, size, size)
            weights = tiny.normal(*after.shape, seed=1).double()
            (gradient,) = torch.autograd.grad((weights * after).sum(), before)
            direction = tiny.normal(*before.shape, seed=2).double()
            ends = [
                comfy.utils.bislerp(before.detach() + h * direction, size, size)
                for h in (1e-5, -1e-5)
            ]
    slope = ((ends[0] - ends[1]) * weights).sum() / 2e-5
    assert abs((gradient * direction).sum() - slope) < 1e-6 * gradient.norm()


def test_draws_start_again_and_leave_the_generator_alone():
    torch.manual_seed(3)
    draws = FirstDraws()
    first = torch.rand(2)
    state = torch.get_rng_state()
    with pytest.raises(Broken), draws.again():
        assert torch.equal(torch.rand(2), first)
        raise Broken
    assert torch.equal(torch.get_rng_state(), state)


def test_layer_norms_keep_their_input():
    with torch.inference_mode(False):
        model = tiny.clip_vision().model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    with pytest.raises(Broken), layer_norms_keep_their_input(model):
        assert sum(len(n._forward_pre_hooks) for n in norms) == 4
        raise Broken
    assert sum(len(n._forward_pre_hooks) for n in norms) == 0


@torch.inference_mode()
def quantised(layout: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A layer of mixed precision, and the weight [8, 64] that its quantised one stands for."""
    layer = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32).Linear(64, 8)
    layer.weight = torch.nn.Parameter(
        QuantizedTensor.from_float(tiny.normal(8, 64), layout), requires_grad=False
    )
    layer.bias = torch.nn.Parameter(tiny.normal(8, seed=1), requires_grad=False)
    layer.quant_format, layer.layout_type = "int8_tensorwise", layout
    return layer, layer.weight.dequantize()


@pytest.mark.parametrize("layout", ["TensorWiseINT8Layout", "TensorCoreFP8E4M3Layout"])
def test_quantised_layers_give_what_they_give_and_have_a_gradient(layout):
    layer, weight = quantised(layout)
    with torch.inference_mode():
        plain = layer._forward(tiny.normal(3, 5, 64), layer.weight, layer.bias)
    x = tiny.normal(3, 5, 64).requires_grad_()
    with pytest.raises(Broken), borrowed_weights(layer), quantised_layers(layer):
        y = layer._forward(x, layer.weight, layer.bias)
        assert torch.equal(y, plain) and not y.is_inference()
        still = layer._forward(x.detach(), layer.weight, layer.bias)
        assert torch.equal(still, plain) and not still.requires_grad
        (gradient,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(gradient, weight.clone().sum(0).expand_as(x))
        raise Broken
    assert "_forward" not in vars(layer)


def test_quantised_weights_are_viewed():
    with torch.inference_mode():
        weight = QuantizedTensor.from_float(tiny.normal(8, 64), "TensorWiseINT8Layout")
    view = ordinary_view(weight)
    assert type(view) is QuantizedTensor
    assert view._qdata.data_ptr() == weight._qdata.data_ptr()
    assert weight._qdata.is_inference() and not view._qdata.is_inference()
    assert torch.equal(view.dequantize(), weight.dequantize())


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


def test_compiled_models_run_as_they_are_written():
    wrappers = {COMPILE_KEY: [print], "other": [len]}
    options = {"wrappers": {WrappersMP.APPLY_MODEL: wrappers}}
    with pytest.raises(Broken), uncompiled(options):
        assert set(wrappers) == {"other"}
        raise Broken
    assert wrappers == {COMPILE_KEY: [print], "other": [len]}
    with uncompiled({}):
        pass
