"""What makes an encoder harder to fool: others beside it, and the nearest references."""

from dataclasses import replace

import pytest
import torch

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.comparison import CENTROID, LEAST_SPREAD, NEAREST, compare_with
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.losses import semantic_loss
from seedselect_core.likeness.views import apply_views, draw_views
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.memory.levels import AUTOMATIC, AWAY, BLOCKS, KEPT, PROMPTS, WHOLE
from seedselect_core.memory.plan import Plan
from seedselect_core.references import reference_set_from_batch
from test_gradients import TOLERANCE, objective_in_double, relative_errors, within
from test_scarcity import Allocations, left_as_it_was, searched, some_of

SETTINGS = tiny.settings(iterations=3, learning_rate=0.5, optimizer="sgd")
PLANS = {
    "whole calls": Plan(WHOLE, 2, strips=False),
    "all kept": Plan(KEPT, 2, strips=False, kept_calls=10, keeps_pictures=True),
    "in strips and blocks": Plan(BLOCKS, 2, strips=True),
}


@pytest.fixture
def double():
    return tiny.Graph(model=tiny.model("EPS", torch.float64), latent=tiny.latent(2))


def pictures(count: int, seed: int = 9) -> torch.Tensor:
    return torch.rand(count, 16, 16, 3, generator=torch.Generator().manual_seed(seed))


def patchers(graph: tiny.Graph, *encoders) -> list:
    return [graph.vae.patcher, *(encoder.patcher for encoder in encoders)]


# --- the nearest references -----------------------------------------------------------------------


def test_references_among_themselves_are_told_by_their_own_nearest():
    encoder = tiny.other_encoder()
    references = reference_set_from_batch(pictures(3))
    found = compare_with(references, encoder, (16, 16), 2, None, NEAREST)
    # Each but itself has two others.
    losses = [
        found(image[None], 0)[0] if len(rows) == 3 else found.of_subsets([rows])(image[None], 0)[0]
        for image, rows in zip(references.fitted(16, 16), ([1, 2], [0, 2], [0, 1]), strict=True)
    ]
    assert found.spread == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    single = compare_with(
        reference_set_from_batch(pictures(1)), encoder, (16, 16), 2, None, NEAREST
    )
    assert 0 < single.spread < found.spread


def test_different_references_are_not_mixed():
    """Of two groups of pictures the search reaches one, which the centroid keeps it from."""
    groups = [torch.full((2, 16, 16, 3), value) + 0.02 * pictures(2) for value in (0.1, 0.9)]
    references = reference_set_from_batch(torch.cat(groups))
    graph = tiny.Graph(references=references, latent=tiny.latent(3))
    settings = tiny.settings(iterations=8, learning_rate=0.1)
    nearest = tiny.optimize(graph, settings=replace(settings, towards=NEAREST))[0]
    drawn = tiny.optimize(graph, settings=settings)[1]
    with torch.inference_mode():
        judge = compare_with(references, graph.encoder, (16, 16), 1, None, NEAREST)
        pictures_seen = graph.vae.decode(drawn["samples"]).split(1)
        mixed = [judge(image, 0)[0].item() for image in pictures_seen]
    assert all(own < other for own, other in zip(nearest.semantic, mixed, strict=True))


def test_each_seed_is_pulled_towards_the_nearest_of_its_own_references():
    settings = tiny.settings(iterations=0, towards=NEAREST)
    graph = tiny.Graph(references=reference_set_from_batch(pictures(4)), latent=tiny.latent(2))
    subsets = [[0], [1, 2, 3]]
    both = tiny.optimize(graph, settings=settings, subsets=subsets)[0].semantic
    for place in (0, 1):
        alone = tiny.optimize(graph, settings=settings, subsets=[subsets[place]] * 2)[0].semantic
        assert both[place] == pytest.approx(alone[place], abs=1e-6)
    assert both[0] != pytest.approx(
        tiny.optimize(graph, settings=settings)[0].semantic[0], abs=1e-6
    )


# --- several encoders -----------------------------------------------------------------------------


def test_encoders_of_other_scales_count_alike():
    """By hand: each loss over its own spread, in units of the first."""
    graph = tiny.Graph()
    other = tiny.other_encoder()
    graph.inputs["further_encoders"] = (other,)
    settings = tiny.settings(iterations=0, norm_weight=0.0, semantic_weight=1.0)
    seed, drawn, history = tiny.optimize(graph, settings=settings)
    with torch.inference_mode():
        image = graph.vae.decode(drawn["samples"])
        encoders = (graph.encoder, other)
        first, second = (compare_with(graph.references, one, (16, 16)) for one in encoders)
        losses = [comparison(image, 0)[0].item() for comparison in (first, second)]
    expected = (losses[0] / first.spread + losses[1] / second.spread) / 2 * first.spread
    assert seed.total[0] == pytest.approx(expected, rel=1e-4)
    # What is told, and what the target is measured by, are the first's own.
    assert seed.semantic[0] == pytest.approx(losses[0], rel=1e-4)
    assert history.spread == pytest.approx(first.spread)


def test_the_same_encoder_twice_is_the_encoder_alone():
    graph = tiny.Graph(latent=tiny.latent(2))
    alone = tiny.optimize(graph, settings=SETTINGS)[0]
    graph.inputs["further_encoders"] = (graph.encoder,)
    twice = tiny.optimize(graph, settings=SETTINGS)[0]
    torch.testing.assert_close(twice.noise, alone.noise, rtol=1e-4, atol=1e-4)


def test_a_single_reference_has_the_spread_of_its_views():
    references = reference_set_from_batch(pictures(1))
    found = compare_with(references, tiny.other_encoder(), (16, 16))
    views = apply_views(references.fitted(16, 16)[0][None], draw_views(4))
    with torch.inference_mode():
        seen = found.encoder(views)
    assert found.spread == pytest.approx(semantic_loss(seen, found.embeddings[0]).mean().item())


def test_copies_have_no_spread_to_divide_by():
    references = reference_set_from_batch(pictures(1).expand(2, -1, -1, -1))
    graph = tiny.Graph(references=references, further_encoders=(tiny.other_encoder(),))
    seed, _, history = tiny.optimize(graph, settings=SETTINGS)
    assert history.spread < LEAST_SPREAD
    assert seed.semantic[0] < seed.first_semantic[0]


@pytest.mark.parametrize("plan", PLANS)
def test_gradient_of_two_encoders_nearest_references_and_contrast(double, monkeypatch, plan):
    weights = LossWeights(semantic=10.0, norm=0.5, contrast=7.0, steps=(0.3, 0.7))
    encoders = [double.encoder, tiny.other_encoder()]
    double.inputs["references"] = reference_set_from_batch(pictures(4))
    contrast = reference_set_from_batch(pictures(2, seed=2))
    how = (3, contrast, NEAREST)
    objective = objective_in_double(double, monkeypatch, weights, encoders, *how)

    def search(chain, noise):
        chain.plan = PLANS[plan]

        def value(z):
            losses = objective(z, chain(z, keep=2), keeper=chain.keeper, plan=chain.plan)
            return losses.total.sum()

        return relative_errors(value, noise, directions=2)

    given = {"batch": 2, "patchers": patchers(double, *encoders)}
    assert max(within(double.model, search, **given)) < TOLERANCE


@pytest.mark.parametrize("level", [KEPT, WHOLE, PROMPTS, BLOCKS, AWAY], ids=lambda x: x.name)
def test_all_of_it_finds_the_same_at_every_level(level):
    more = {"further_encoders": (tiny.other_encoder(),), "latent": tiny.latent(2)}
    settings = replace(SETTINGS, towards=NEAREST)
    expected = tiny.optimize(tiny.Graph(**more), settings=settings)[0]
    found = tiny.optimize(tiny.Graph(**more), settings=replace(settings, memory=level.name))[0]
    torch.testing.assert_close(found.noise, expected.noise, rtol=1e-3, atol=1e-3)


# --- where it does not go well --------------------------------------------------------------------


@pytest.mark.parametrize("level", [AUTOMATIC, BLOCKS.name])
def test_the_same_seed_is_found_where_memory_runs_out(monkeypatch, level):
    settings = replace(SETTINGS, iterations=2, memory=level)

    def graph() -> tiny.Graph:
        other = tiny.other_encoder()
        return tiny.Graph(further_encoders=(other,), second_opinion=other)

    whole = graph()
    quiet = Allocations(whole)
    expected, _, _ = searched(monkeypatch, whole, settings, quiet)
    for number in some_of(quiet, 1):
        scarce = graph()
        found, _, _ = searched(monkeypatch, scarce, settings, Allocations(refused=[number]))
        torch.testing.assert_close(found.noise, expected.noise, rtol=1e-3, atol=1e-3)
        assert left_as_it_was(scarce)


# --- in words -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["further_encoders", "second_opinion"])
@pytest.mark.parametrize("after", [0, 3])
def test_an_encoder_that_gives_no_numbers_is_named(where, after):
    class Picky(ClipVisionEncoder):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            return super().__call__(images) * (float("nan") if self.calls > after else 1.0)

    picky = Picky(tiny.clip_vision(seed=8))
    name = {"further_encoders": "clip_vision_2"}.get(where, where)
    graph = tiny.Graph(**{where: (picky,) if where == "further_encoders" else picky})
    with pytest.raises(SeedSelectError, match=f"^{name}: what it gives for"):
        tiny.optimize(graph, settings=SETTINGS)


@pytest.mark.parametrize("wrong", [{"towards": "mean"}, {"rollback": 1.5}])
def test_impossible_settings(wrong):
    with pytest.raises(SeedSelectError, match=f"^{next(iter(wrong))}: must be"):
        tiny.settings(**wrong)
    assert tiny.settings().towards == CENTROID
