"""Rotary embeddings whose kernels cannot be differentiated, and LTX Video's, which differ."""

import comfy.ldm.lightricks.model
import comfy.model_management
import comfy_kitchen
import pytest
import torch

import tiny
from seedselect_core.host.layers import (
    KERNELS,
    LIGHTRICKS_ROPES,
    differentiable_rope,
    lightricks_rope_as_sampled,
)
from tiny import Broken

# The host's class, without its weights.
LTX = comfy.ldm.lightricks.model.LTXVModel.__new__(comfy.ldm.lightricks.model.LTXVModel)


def rope_inputs(dtype=torch.float32):
    angles = tiny.normal(1, 1, 6, 4, seed=2)
    turns = [angles.cos(), -angles.sin(), angles.sin(), angles.cos()]
    freqs = torch.stack(turns, -1).view(1, 1, 6, 4, 2, 2).to(dtype)
    return tiny.normal(1, 2, 6, 8, seed=1).to(dtype), freqs


def test_the_value_is_the_kernels_and_the_gradient_the_formulas():
    x, freqs = rope_inputs()
    stock = comfy_kitchen.apply_rope1(x, freqs)
    with differentiable_rope():
        z = x.clone().requires_grad_()
        turned = comfy_kitchen.apply_rope1(z, freqs)
        weights = tiny.normal(*turned.shape, seed=3)
        (gradient,) = torch.autograd.grad((turned * weights).sum(), z)
    assert torch.equal(turned, stock)
    double, freqs = rope_inputs(torch.float64)
    with differentiable_rope():
        assert torch.autograd.gradcheck(
            lambda z: comfy_kitchen.apply_rope1(z, freqs), double.requires_grad_()
        )
    # A rotation is undone by its transpose, so the gradient is as long as the weights.
    torch.testing.assert_close(gradient.norm(), weights.norm())


@pytest.mark.parametrize(
    ("trick", "module", "names"),
    [
        (differentiable_rope, comfy_kitchen, KERNELS),
        (lambda: lightricks_rope_as_sampled(LTX), comfy.ldm.lightricks.model, LIGHTRICKS_ROPES),
    ],
)
def test_what_was_exchanged_is_put_back(trick, module, names):
    before = {name: getattr(module, name) for name in names if hasattr(module, name)}
    assert before
    with pytest.raises(Broken), trick():
        assert all(getattr(module, name) is not kernel for name, kernel in before.items())
        raise Broken
    assert all(getattr(module, name) is kernel for name, kernel in before.items())


def test_ltx_video_is_told_that_it_is_not_trained_and_others_are(monkeypatch):
    asked = []
    module = comfy.ldm.lightricks.model
    for name in filter(lambda name: hasattr(module, name), LIGHTRICKS_ROPES):
        monkeypatch.setattr(module, name, lambda: asked.append(comfy.model_management.in_training))
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    with lightricks_rope_as_sampled(torch.nn.Identity()):
        module.apply_rotary_emb()
    with lightricks_rope_as_sampled(LTX):
        module.apply_rotary_emb()
        asked.append(comfy.model_management.in_training)
    assert asked == [True, False, True]
