"""The speed benchmark compares like with like: equal gradients, all that is alive is counted."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from gradients.models import normal

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import published
import speed
from published import STEP_WEIGHTS, checkpointed_blocks

STEPS = 4
TINY = speed.SMALL | {
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "context_dim": 16,
    "num_heads": 2,
}


def world() -> speed.World:
    return speed.World("tiny", speed.random_unet(TINY), (5, 16), (1, 4, 8, 8), threads=1)


def eyes(latent: tuple[int, ...]) -> speed.Eyes:
    clip_vision = tiny.clip_vision_of(tiny.VISION)
    speed.fill(clip_vision.model)
    vae = speed.random_vae(tiny.VAE)
    vae.downscale_ratio = vae.upscale_ratio = 2
    return speed.Eyes.of(vae, clip_vision, latent)


def smooth(latents: torch.Tensor) -> torch.Tensor:
    """In the place of a semantic loss, [B]: without the host's rounding of pictures to 8 bits."""
    return (latents * normal(*latents.shape, seed=8)).tanh().flatten(1).sum(1)


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def test_the_baseline_draws_and_differentiates_what_the_chain_does():
    small = world()
    graph = small.graph(STEPS)
    seen = eyes(small.latent)

    def loss(chain, noise, steps):
        kept = chain(noise, keep=len(STEP_WEIGHTS), steps=steps)
        semantic = sum(w * smooth(x) for w, x in zip(STEP_WEIGHTS, kept, strict=True))
        appearance = (kept[-1] - seen.layout).square().mean()
        return 10 * semantic.sum() + appearance

    theirs = replace(speed.baseline(small, graph, seen), compare=smooth)
    z = graph.noise.clone().requires_grad_()
    (expected,) = torch.autograd.grad(theirs.loss(z), z)
    ours = speed.gradient_of(speed.exact(graph, speed.whole_calls, loss))
    assert relative(ours, expected) < 1e-4
    assert expected.abs().max() > 0


@pytest.mark.parametrize("appearance", [0.0, 1.0])
def test_with_pictures_too_the_gradient_is_that_of_the_baseline(appearance, monkeypatch):
    for module in (speed, published):
        monkeypatch.setattr(module, "APPEARANCE_WEIGHT", appearance)
    small = world()
    graph = small.graph(STEPS)
    seen = eyes(small.latent)
    loss = speed.compared(seen, small.model.model)
    theirs = speed.gradient_of(speed.published(small, graph, seen))
    ours = speed.gradient_of(speed.exact(graph, speed.whole_calls, loss, seen))
    # The host rounds a picture to 8 bits before it is encoded.
    assert relative(ours, theirs) < 0.02


@pytest.mark.parametrize("prepare", [speed.keep_all, speed.use_blocks])
def test_every_level_goes_the_same_way(prepare):
    small = world()
    graph = small.graph(STEPS)
    seen = eyes(small.latent)
    loss = speed.compared(seen, small.model.model)

    def second_gradient(prepare) -> torch.Tensor:
        found = []
        side = speed.exact(graph, prepare, loss, seen)
        side(lambda iteration: found.extend(iteration(0).clone() for _ in range(2)))
        return found[1]

    assert relative(second_gradient(prepare), second_gradient(speed.whole_calls)) < 1e-4


def test_checkpoints_of_blocks_change_no_gradient_and_are_taken_away_again():
    small = world()
    unet = small.model.model.diffusion_model
    context = torch.cat([prompt[0][0] for prompt in small.prompts()])
    x = normal(2, *small.latent[1:]).requires_grad_()

    def gradient() -> torch.Tensor:
        y = unet(x, torch.tensor([500.0, 500.0]), context=context)
        return torch.autograd.grad(y.square().sum(), x)[0]

    plain = gradient()
    with checkpointed_blocks(unet):
        cut = [part for part in unet.modules() if "forward" in vars(part)]
        assert torch.equal(gradient(), plain)
    assert len(cut) >= 4
    assert not [part for part in unet.modules() if "forward" in vars(part)]


def test_bare_calls_are_those_of_an_iteration(monkeypatch):
    small = world()
    graph = small.graph(STEPS)
    made = []
    forward = type(small.model.model).apply_model

    def counted(self, x, *args, **kwargs):
        made.append((len(x), torch.is_grad_enabled()))
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(type(small.model.model), "apply_model", counted)
    speed.gradient_of(speed.bare_calls(graph))
    bare = sorted(made)
    made.clear()
    speed.gradient_of(speed.exact(graph, speed.whole_calls))
    assert [size for size, _ in bare] == [size for size, _ in sorted(made)] == [2] * 2 * STEPS
    assert sum(recorded for _, recorded in bare) == STEPS


def test_live_tensors_are_counted_and_weights_are_not():
    layer = torch.nn.Linear(100, 100)
    with speed.Live([layer]) as live:
        x = torch.zeros(50, 100)
        layer.weight.data.view(-1)
        size = x.numel() * 4
        assert live.now == size
        y = x + 1
        z = y.view(100, 50)
        assert live.now == 2 * size
        del y
        assert live.now == 2 * size
        del z
        assert live.now == size
    assert live.peak == 2 * size


def test_a_row_tells_whether_its_goal_is_met():
    row = speed.Row("calls", "tiny", 3, "time: one / other", 1.0, goal=1.05)
    assert row.met and "met" in str(row)
    missed = replace(row, value=1.06, parts={"copies": 0.5})
    assert missed.met is False and "MISSED" in str(missed) and "50.0%  copies" in str(missed)
    assert replace(row, goal=None).met is None


def test_ratios_are_those_of_each_turn():
    table = speed.Table("calls", world(), STEPS)
    row = table.ratio({"one": [2.0, 9.0, 4.0], "other": [1.0, 3.0, 4.0]}, "one", "other", 1.0)
    assert (row.value, row.low, row.high, row.met) == (2.0, 1.0, 3.0, False)
