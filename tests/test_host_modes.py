"""Modes and measurements of the host that a gradient needs otherwise, put back afterwards."""

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

import tiny
from seedselect_core.host.layers import layer_norms_keep_their_input
from seedselect_core.host.samplers import FixedRng
from seedselect_core.host.session import fixed_free_memory, gradients_enabled, uncompiled
from test_gradients import within
from tiny import Broken


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
    with pytest.raises(Broken), fixed_free_memory():
        seen = [comfy.model_management.get_free_memory(torch.device("cpu")) for _ in range(3)]
        raise Broken
    assert seen == [0, 0, 0]
    assert comfy.model_management.get_free_memory is measure


def test_memory_beside_the_weights_is_measured_once(monkeypatch):
    answers = iter(range(10))
    patcher = comfy.model_patcher.ModelPatcher

    def measure(self, device):
        return next(answers)

    monkeypatch.setattr(patcher, "get_free_memory", measure)
    model = tiny.model()
    with pytest.raises(Broken), fixed_free_memory():
        seen = [model.get_free_memory(torch.device("cpu")) for _ in range(3)]
        raise Broken
    assert seen == [0, 0, 0]
    assert patcher.get_free_memory is measure


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


def test_draws_start_again_and_leave_the_generator_alone():
    torch.manual_seed(3)
    draws = FixedRng()
    first = torch.rand(2)
    state = torch.get_rng_state()
    with pytest.raises(Broken), draws.replayed():
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


def test_compiled_models_run_as_they_are_written():
    wrappers = {COMPILE_KEY: [print], "other": [len]}
    options = {"wrappers": {WrappersMP.APPLY_MODEL: wrappers}}
    with pytest.raises(Broken), uncompiled(options):
        assert set(wrappers) == {"other"}
        raise Broken
    assert wrappers == {COMPILE_KEY: [print], "other": [len]}
    with uncompiled({}):
        pass
