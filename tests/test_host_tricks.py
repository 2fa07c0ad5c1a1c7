"""Every liberty taken with the host: it does what it is for, and puts back what it found."""

import comfy.clip_model
import comfy.hooks
import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import comfy.utils
import pytest
import tiny
import torch
from test_gradients import TOLERANCE, probed, relative_errors, within

from seedselect_core.errors import SeedSelectError
from seedselect_core.host.borrowed_weights import borrowed_weights, ordinary_view, ordinary_views
from seedselect_core.host.differentiable_samplers import differentiable_samplers, without_no_grad
from seedselect_core.host.layer_norms import layer_norms_keep_their_input
from seedselect_core.host.modes import gradients_enabled, steady_memory
from seedselect_core.host.steady_weights import steady_weights
from seedselect_core.optimize import optimize_seed


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
    return relative_errors(probed(chain, keep=2), noise, directions=2)


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


def test_hooks_with_keyframes_are_refused():
    graph = tiny.Graph()
    hook = comfy.hooks.WeightHook(1.0, 1.0)
    hook.hook_keyframe.add(comfy.hooks.HookKeyframe(0.5, 0.3))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    inputs = graph.inputs | {"negative": tiny.conditioning(2, hooks=group)}
    with pytest.raises(SeedSelectError, match="negative"):
        optimize_seed(**inputs, sampling=tiny.SAMPLING, settings=tiny.SETTINGS)


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
    model = tiny.model()
    assert torch.isfinite(within(model, counted)).all()


def test_samplers_are_unwrapped_and_wrapped_again():
    module = comfy.k_diffusion.sampling
    before = dict(vars(module))
    with pytest.raises(Broken), differentiable_samplers():
        changed = {name for name in before if vars(module)[name] is not before[name]}
        assert {"sample_euler", "sample_dpmpp_2m_sde", "sample_euler_ancestral_RF"} <= changed
        assert not any(hasattr(vars(module)[name], "__wrapped__") for name in changed)
        assert module.BatchedBrownianTree.sort is before["BatchedBrownianTree"].sort
        raise Broken
    assert all(vars(module)[name] is before[name] for name in before)
    sampler = comfy.samplers.sampler_object("heun")
    bare = without_no_grad(sampler)
    assert not hasattr(bare.sampler_function, "__wrapped__")
    assert sampler.sampler_function is module.sample_heun


def test_layer_norms_keep_their_input():
    with torch.inference_mode(False):
        model = tiny.clip_vision().model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    with pytest.raises(Broken), layer_norms_keep_their_input(model):
        assert sum(len(n._forward_pre_hooks) for n in norms) == 4
        raise Broken
    assert sum(len(n._forward_pre_hooks) for n in norms) == 0
