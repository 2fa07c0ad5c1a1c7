"""The search: each seed for itself, the best kept, known settings, and errors that help."""

import comfy.latent_formats
import comfy.model_management
import pytest
import torch

import tiny
from seedselect_core.chain.sampling import shares_condition
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.objective import Losses
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.memory.levels import LEVELS, WHOLE
from seedselect_core.memory.plan import Plan
from seedselect_core.search.loop import Search
from seedselect_core.search.presets import PRESETS
from seedselect_core.seeds.seed import SamplingSettings


def run(graph=None, sampling=tiny.SAMPLING, settings=tiny.SETTINGS, **more):
    return tiny.optimize(graph or tiny.Graph(), sampling, settings, **more)


# --- the search alone, on losses that can be worked out by hand -----------------------------------


class Hills:
    """In the place of chain and objective: the loss of a noise is its mean distance from 1.

    The chain is the identity of ``steps`` steps. ``counts`` are the batch sizes that it was called
    with, ``drawn`` in how many steps.
    """

    def __init__(self, loss=None, steps=2):
        self.steps = steps
        self.evaluations = 0
        self.counts = []
        self.drawn = []
        self.loss = loss or (lambda noise: (noise - 1).square().flatten(1).mean(1))
        self.targets = self
        self.spread = 1.0
        self.opinion = None

    def chain(self, noise, keep=1, on_step=None, steps=0, first=0, gradient_steps=0):
        self.counts.append(len(noise))
        self.drawn.append(steps or first or self.steps)
        for step in range(self.drawn[-1]):
            self.evaluations += len(noise)
            on_step(step, noise.detach())
        return [noise]

    def __call__(self, noise, denoised, rows, keeper, plan):
        loss = self.loss(noise)
        none = torch.zeros(len(noise))
        return Losses(
            loss, loss.detach(), none, none, noise.detach().mean(1)[..., None].expand(-1, -1, -1, 3)
        )


def climb(
    settings, noise, hills=None, can_split_batch=True, on_progress=None, draw=None, is_video=False
):
    hills = hills or Hills()
    chain = type(
        "Chain", (), {"steps": hills.steps, "__call__": lambda _, *a, **k: hills.chain(*a, **k)}
    )()
    chain.evaluations = 0
    chain.plan = Plan(WHOLE, len(noise), strips=False)
    chain.keeper = None
    chain.levels = lambda: LEVELS
    chain.recovers = lambda error: False
    listener = on_progress or (lambda progress: None)
    search = Search(hills, settings, listener, draw, can_split_batch, is_video)
    final = search(chain, noise)
    return search, final, hills


def far(*distances: float) -> torch.Tensor:
    """A batch of noises, each as far from 1 as told, so that its loss is the square of that."""
    return torch.stack([torch.full((1, 2, 2), 1.0 + d) for d in distances])


def test_a_step_is_not_taken_twice_where_memory_runs_out_beside_it(monkeypatch):
    settings = tiny.settings(iterations=3)
    expected, *_ = climb(settings, far(1.0))
    real = torch.tensor
    refusals = [torch.OutOfMemoryError("CUDA out of memory.")]

    def scarce(values, *arguments, **how):
        if refusals and values == expected.history.total[1]:
            raise refusals.pop()
        return real(values, *arguments, **how)

    monkeypatch.setattr(torch, "tensor", scarce)
    found, *_ = climb(settings, far(1.0))
    assert not refusals
    assert torch.equal(found.best.noise, expected.best.noise)


def test_rates():
    published = PRESETS["paper"]
    assert [published.rate(i) for i in range(5)] == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01])
    assert tiny.settings(learning_rate=0.3).rate(17) == 0.3
    cosine = tiny.settings(iterations=10, learning_rate=1.0, schedule="cosine")
    assert cosine.rate(0) == 1.0 and cosine.rate(5) == pytest.approx(0.55)
    assert cosine.rate(10) == pytest.approx(0.1)


def test_the_rate_is_the_one_used():
    """With SGD from rest the first step is rate * sqrt(d) * (1 + momentum) * gradient."""
    settings = tiny.settings(iterations=1, learning_rate=0.1, optimizer="sgd", norm_weight=0.0)
    search, final, _ = climb(settings, far(2.0))
    gradient = 2 * 2.0 / 4
    assert final.flatten()[0].item() == pytest.approx(3.0 - 0.1 * 2 * 1.9 * gradient)
    assert search.best.total.item() == pytest.approx((final.flatten()[0].item() - 1) ** 2)


def test_published_settings():
    paper = PRESETS["paper"]
    assert (paper.iterations, paper.learning_rate, paper.optimizer) == (30, 0.1, "adamw")
    assert paper.weight_decay == 0.01  # PyTorch's default, which they left as it is
    assert paper.weights == LossWeights(10.0, 1.0, norm=0.0, steps=(0.05, 0.25, 0.7))
    assert (paper.clip_norm, paper.views, paper.candidates) == (0.0, 1, 1)
    assert (paper.schedule, paper.target, paper.patience) == ("published", 0.0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"optimizer": "adam"},
        {"schedule": "linear"},
        {"candidates": 0},
        {"draft_steps": -1},
        {"semantic_weight": -1.0},
        {"semantic_weight": 0.0, "appearance_weight": 0.0},
        {"step_weights": ()},
        {"step_weights": (0.5, 0.2)},
        {"step_weights": (1.5, -0.5)},
        {"step_weights": (1.0, 0.0)},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(SeedSelectError, match=next(iter(wrong))):
        tiny.settings(**wrong)


def test_the_best_is_kept_and_not_the_last():
    # So large a rate that every step leaps over the valley and lands higher.
    settings = tiny.settings(iterations=3, learning_rate=50.0, optimizer="sgd")
    search, final, _ = climb(settings, far(0.5, 1.0))
    assert torch.equal(final, far(0.5, 1.0))
    assert search.best.total.tolist() == [0.25, 1.0]
    assert search.history.total[-1][0] > 0.25
    assert len(search.history.total) == 4


def test_every_seed_has_its_own_best():
    settings = tiny.settings(iterations=2, learning_rate=2.0, optimizer="sgd")
    batch, _, _ = climb(settings, far(0.5, 3.0, -1.0))
    for i, distance in enumerate((0.5, 3.0, -1.0)):
        alone, final, _ = climb(settings, far(distance))
        assert torch.equal(batch.best.noise[i : i + 1], alone.best.noise)
        assert torch.equal(batch.best.noise[i : i + 1], final)
        assert batch.best.first_semantic[i] == pytest.approx(distance**2)


def test_target_frees_seeds_and_ends_the_search():
    settings = tiny.settings(iterations=50, learning_rate=0.1, target=0.09, optimizer="adamw")
    search, _, hills = climb(settings, far(0.2, 0.5, 1.0))
    # The first is done at once, the others need about 2 and 7 steps of 0.1.
    assert hills.counts[0] == 3 and hills.counts[1] == 2 and 1 in hills.counts
    assert hills.counts[-1] == 3  # all are sampled in the end
    assert len(hills.counts) < 15
    assert (search.best.semantic <= 0.09).all()
    assert torch.equal(search.best.noise[:1], far(0.2))


def test_seeds_that_cannot_be_separated_stay_together():
    settings = tiny.settings(iterations=50, learning_rate=0.1, target=0.09)
    _, _, hills = climb(settings, far(0.2, 0.5, 1.0), can_split_batch=False)
    assert set(hills.counts) == {3} and len(hills.counts) < 15


def test_target_is_relative_to_the_spread_of_the_references():
    hills = Hills()
    hills.spread = 0.01
    search, _, _ = climb(tiny.settings(iterations=2, target=0.5), far(0.2), hills)
    assert search.iteration == 1  # 0.04 is not below 0.005
    assert search.threshold == pytest.approx(0.005)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_ends_a_search_that_gets_nowhere(patience):
    settings = tiny.settings(iterations=40, learning_rate=50.0, optimizer="sgd", patience=patience)
    search, _, _ = climb(settings, far(0.5))
    # The gradient at the start, as many as the patience, and one evaluation after the last step.
    assert len(search.history.total) == 1 + patience + 1


def test_patience_lets_a_search_go_on_that_gets_somewhere():
    settings = tiny.settings(iterations=12, learning_rate=0.01, patience=1)
    search, _, _ = climb(settings, far(0.5))
    assert len(search.history.total) == 13


def test_candidates():
    draws = {1: far(0.1, 3.0), 2: far(2.0, 0.2)}
    settings = tiny.settings(iterations=0, candidates=3)
    search, final, hills = climb(settings, far(1.0, 1.0), draw=draws.__getitem__)
    assert torch.equal(final, far(0.1, 0.2))
    assert search.best.first_semantic.tolist() == [1.0, 1.0]
    assert hills.counts == [2, 2, 2, 2]
    descended, _, _ = climb(
        tiny.settings(iterations=1, candidates=3), far(1.0, 1.0), draw=draws.__getitem__
    )
    assert (descended.best.total <= search.best.total).all()


def test_gradients_are_clipped_seed_by_seed():
    settings = tiny.settings(iterations=1, learning_rate=1.0, optimizer="sgd", clip_norm=0.5)
    search, _, _ = climb(settings, far(0.1, 2.0))
    moved = (search.best.noise - far(0.1, 2.0)).flatten(1).norm(dim=1)
    # Four values whose gradient is half their distance: norms 0.1 and 2, the second is cut.
    assert moved.tolist() == pytest.approx([2 * 1.9 * 0.1, 2 * 1.9 * 0.5], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        tiny.settings(iterations=0),
        tiny.settings(iterations=3),
        tiny.settings(iterations=0, candidates=2),
        tiny.settings(iterations=2, candidates=3),
        tiny.settings(iterations=0, candidates=3, draft_steps=1),
        tiny.settings(iterations=2, candidates=3, draft_steps=1, neighbors=2),
        tiny.settings(iterations=2, candidates=3, draft_steps=2),
        tiny.settings(iterations=2, draft_steps=1),
    ],
    ids=str,
)
def test_progress_ends_where_it_was_planned(settings):
    seen = []
    climb(settings, far(1.0), on_progress=seen.append, draw=lambda n: far(1.0))
    assert seen[-1].done == seen[-1].planned
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert any(p.new_best for p in seen)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number_is_an_error_and_the_best_is_kept(what):
    calls = []

    def loss(noise):
        calls.append(noise)
        value = (noise - 1).square().flatten(1).mean(1)
        if len(calls) < 3:
            return value
        # The root has an endless slope at 0, times 0: the value is finite, the slope is not.
        return value * float("nan") if what == "loss" else value + (0 * noise.sum()).sqrt()

    settings = tiny.settings(iterations=5, learning_rate=0.01)
    hills = Hills(loss)
    search = Search(hills, settings, lambda progress: None, None, True)
    chain = type("Chain", (), {"__call__": lambda _, *a, **k: hills.chain(*a, **k)})()
    chain.steps = 2
    chain.evaluations = 0
    chain.plan = Plan(WHOLE, 1, strips=False)
    chain.keeper = None
    chain.levels = lambda: LEVELS
    chain.recovers = lambda error: False
    with pytest.raises(SeedSelectError, match=f"the {what} is not a number.*best seed so far"):
        search(chain, far(1.0))
    assert 0 < search.best.total.item() < 1.0


def test_nothing_is_said_to_be_kept_where_nothing_is():
    settings = tiny.settings(iterations=1)
    with pytest.raises(SeedSelectError, match="the loss is not a number") as error:
        climb(settings, far(1.0), Hills(lambda noise: noise.flatten(1).mean(1) * float("nan")))
    assert "kept" not in str(error.value)


@pytest.mark.parametrize(("masks", "same"), [(1, True), (2, False)])
def test_masks_of_several_pictures_are_not_one_for_all(masks, same):
    assert (
        shares_condition({"cross_attn": torch.ones(1, 5, 16), "mask": torch.ones(masks, 8, 8)})
        == same
    )


# --- the whole of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_loss_falls(optimizer):
    settings = tiny.settings(iterations=6, learning_rate=0.05, optimizer=optimizer)
    seed, _, history = run(tiny.Graph(latent=tiny.latent(2)), settings=settings)
    assert all(a < 0.9 * b for a, b in zip(seed.semantic, seed.first_semantic, strict=True))
    assert len(history.total) == 7
    assert seed.total == [min(column) for column in zip(*history.total, strict=True)]
    assert seed.latent_format == "TinyLatent" and seed.sampling == tiny.SAMPLING


def test_a_seed_does_not_depend_on_its_neighbors():
    # SGD, whose steps are as exact as the gradient: Adam's first is the sign of each value.
    settings = tiny.settings(learning_rate=1.0, optimizer="sgd", step_weights=(0.3, 0.7))
    batch, _, _ = run(tiny.Graph(latent=tiny.latent(3)), settings=settings)
    for i in range(3):
        # "batch_index" gives a single latent the noise of that place in the batch.
        latent = tiny.latent(1) | {"batch_index": [i]}
        alone, _, _ = run(tiny.Graph(latent=latent), settings=settings)
        # Not bit by bit: convolutions of another batch size sum in another order.
        assert torch.allclose(alone.noise[0], batch.noise[i], atol=1e-4)
        assert alone.semantic == pytest.approx(batch.semantic[i : i + 1], abs=1e-4)
        start = torch.randn(3, 4, 8, 8, generator=torch.manual_seed(tiny.SAMPLING.seed))
        assert (alone.noise[0] - start[i]).abs().max() > 0.01


def test_no_iterations_return_the_noise_of_the_number():
    seed, _, _ = run(settings=tiny.settings(iterations=0))
    expected = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(tiny.SAMPLING.seed))
    assert torch.equal(seed.noise, expected)


def test_candidates_are_the_numbers_that_follow():
    settings = tiny.settings(iterations=0, candidates=4)
    seed, _, _ = run(settings=settings)
    losses = {}
    for number in range(5, 9):
        single = SamplingSettings(3, 3.0, "euler", "normal", number)
        alone, _, _ = run(sampling=single, settings=tiny.settings(iterations=0))
        losses[number] = (alone.total[0], alone.noise)
    best = min(losses, key=lambda n: losses[n][0])
    assert best != 5  # or this test would say nothing
    assert torch.equal(seed.noise, losses[best][1])


def test_out_of_memory_says_what_to_do(monkeypatch):
    calls = []

    class Greedy(ClipVisionEncoder):
        def __call__(self, images):
            calls.append(images)
            if len(calls) >= 6:
                raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory")
            return super().__call__(images)

    kept = []
    with pytest.raises(SeedSelectError, match=r"out of memory.*without a gradient"):
        run(tiny.Graph(encoder=Greedy(tiny.clip_vision())), on_unfinished=kept.append)
    assert len(kept) == 1 and kept[0].noise.shape == (1, 4, 8, 8)


def no_call(*args, **kwargs):
    raise AssertionError("the model was called")


def with_latent(**changes):
    return lambda: tiny.Graph(latent=tiny.latent() | changes)


def with_vae(**changes):
    def build():
        graph = tiny.Graph()
        for name, value in changes.items():
            setattr(graph.vae, name, value)
        return graph

    return build


MISFITS = {
    "latent of 16 channels": (
        with_latent(samples=tiny.normal(1, 16, 8, 8)),
        "^latent: it has 16 channels, the model works on 4.*VAE",
    ),
    "empty latent": (
        with_latent(samples=torch.zeros(1, 4, 0, 8)),
        r"^latent: there is no picture in it, its shape is \[1, 4, 0, 8\]",
    ),
    "video latent": (with_latent(samples=tiny.normal(1, 4, 2, 8, 8)), "^model|^latent"),
    "VAE of another video model": (
        lambda: tiny.Graph(model=tiny.model(latent_format=comfy.latent_formats.Wan21)),
        "^vae: its latents have 4 channels, the model's 16",
    ),
    "video and sound": (
        with_latent(samples=comfy.nested_tensor.NestedTensor([tiny.normal(1, 4, 8, 8)] * 2)),
        "^latent: a video and its sound",
    ),
    "VAE of another model": (
        with_vae(latent_channels=16),
        "^vae: its latents have 16 channels, the model's 4.*Connect",
    ),
    "VAE for video": (with_vae(latent_dim=3), "^vae: it is for videos"),
    "no VAE": (with_vae(first_stage_model=None), "^vae"),
    "larger latent channels in the model": (
        lambda: tiny.Graph(
            model=tiny.model(latent_format=comfy.latent_formats.SD3),
            latent={"samples": tiny.normal(1, 4, 8, 8)},
        ),
        "^latent: it has 4 channels, the model works on 16",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_named(case, monkeypatch):
    build, message = MISFITS[case]
    graph = build()
    monkeypatch.setattr(type(graph.model.model), "apply_model", no_call)
    with pytest.raises(SeedSelectError, match=message):
        run(graph)


@pytest.mark.parametrize(
    ("tokens", "width", "said"),
    [(16, 96, "RuntimeError: mat1 and mat2 shapes"), (0, 16, "ZeroDivisionError: ")],
)
def test_a_prompt_of_another_text_encoder_is_told_as_what_it_is(tokens, width, said):
    graph = tiny.Graph(positive=[[torch.zeros(1, tokens, width), {}]])
    told = rf"^SeedSelect: the search failed in the model, .*: {said}.*own text encoder\.$"
    with pytest.raises(SeedSelectError, match=told):
        tiny.optimize(graph)
