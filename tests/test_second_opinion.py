"""An encoder that is never descended on: it chooses the best with the others, and calls back."""

from dataclasses import replace

import comfy.model_management
import pytest
import torch

import tiny
from seedselect_core.likeness.comparison import compare_with
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.objective import Losses
from test_optimize import Hills, climb, far
from test_scarcity import Full


class Beholder(ClipVisionEncoder):
    """The encoder of the second opinion; notes what it is shown, and how."""

    def __init__(self):
        super().__init__(tiny.clip_vision(seed=13, projection_dim=24))
        self.seen = []
        self.recorded = []

    def __call__(self, images):
        self.seen.append(len(images))
        self.recorded.append(torch.is_grad_enabled() or images.requires_grad)
        return super().__call__(images)


# --- the choice, by hand --------------------------------------------------------------------------


class Divided(Hills):
    """Two that differ: the first likes noise near 1, the second opinion noise near 2."""

    def __init__(self, **how):
        super().__init__(**how)
        self.opinion = self  # a comparison, of which the loop asks for the spread alone
        self.tried = []

    def __call__(self, noise, *rest, **more):
        self.tried.append(noise.detach().clone())
        losses = super().__call__(noise, *rest, **more)
        losses.opinion = (noise.detach() - 2).square().flatten(1).mean(1)
        losses.rank = torch.maximum(losses.rank, losses.opinion)
        return losses


def value(noise: torch.Tensor) -> list[float]:
    return noise[:, 0, 0, 0].tolist()


def test_what_the_second_opinion_likes_less_is_not_the_best():
    """From 3 down to 1 by tenths: both like the way to 1.5, and only the first what follows."""
    settings = tiny.settings(iterations=30, learning_rate=0.1, norm_weight=0.0, rollback=0)
    search, final, hills = climb(settings, far(2.0), Divided())
    assert min(value(torch.cat(hills.tried))) < 1.2
    assert value(final)[0] == pytest.approx(1.5, abs=0.06)
    assert search.best.total.item() > min(search.history.total)[0]
    assert search.best.first_opinion.tolist() == search.history.first_opinion == [1.0]
    assert search.best.opinion.tolist() == search.history.best_opinion
    assert search.history.opinion[0] == [1.0] and len(search.history.opinion) == 31


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("rollback", [1, 3])
def test_a_seed_goes_on_from_its_best_when_it_was_refused_too_often(rollback, optimizer):
    settings = tiny.settings(
        iterations=40, learning_rate=0.1, norm_weight=0.0, rollback=rollback, optimizer=optimizer
    )
    search, _, hills = climb(settings, far(2.0), Divided())
    refused = 0
    best = 3.0
    back = []
    for tried in hills.tried[:-1]:
        (now,) = value(tried)
        if refused == rollback:
            assert now == best
            back.append(len(back))
            refused = 0
        rank = max((now - 1) ** 2, (now - 2) ** 2)
        better = rank < max((best - 1) ** 2, (best - 2) ** 2)
        refused = 0 if better or (now - 1) ** 2 >= (best - 1) ** 2 else refused + 1
        best = now if better else best
    assert len(back) >= 2
    assert value(search.best.noise) == [best]


def test_a_seed_that_went_back_starts_from_rest():
    settings = tiny.settings(
        iterations=12, learning_rate=0.25, norm_weight=0.0, rollback=1, optimizer="sgd"
    )
    _, _, hills = climb(settings, far(2.0), Divided())
    tried = [value(noise)[0] for noise in hills.tried[:-1]]
    back = next(i for i, now in enumerate(tried) if now in tried[:i])
    # The rate, for noise of length 2, 1.9 for the momentum of this step alone, and the slope of a
    # quarter's square.
    step = -0.25 * 2 * 1.9 * (tried[back] - 1) / 2
    assert tried[back + 1] - tried[back] == pytest.approx(step, rel=1e-3)


def test_the_others_go_their_way_when_one_goes_back():
    settings = tiny.settings(iterations=25, learning_rate=0.1, norm_weight=0.0, rollback=2)
    both, _, _ = climb(settings, far(2.0, 6.0), Divided())
    for place, distance in enumerate((2.0, 6.0)):
        alone, _, _ = climb(settings, far(distance), Divided())
        assert torch.equal(both.best.noise[place], alone.best.noise[0])
        assert both.history.best_opinion[place] == alone.history.best_opinion[0]


@pytest.mark.parametrize("draft_steps", [0, 1])
def test_candidates_are_ranked_with_it(draft_steps):
    draws = {1: far(0.0), 2: far(0.6)}  # the first encoder's favorite, and the best for both
    settings = tiny.settings(iterations=0, candidates=3, draft_steps=draft_steps)
    _, final, _ = climb(settings, far(3.0), Divided(steps=4), draw=draws.__getitem__)
    assert torch.equal(final, far(0.6))
    _, final, _ = climb(settings, far(3.0), Hills(steps=4), draw=draws.__getitem__)
    assert torch.equal(final, far(0.0))


def test_patience_counts_what_both_like():
    settings = tiny.settings(
        iterations=40, learning_rate=0.1, norm_weight=0.0, rollback=0, patience=4
    )
    search, _, _ = climb(settings, far(2.0), Divided())
    assert search.iteration < 30


def test_frames_of_a_video_are_ranked_together():
    losses = Losses(*torch.rand(4, 2), torch.rand(2, 4, 4, 3), torch.rand(2), torch.rand(2))
    joined = losses.joined()
    assert joined.rank.tolist() == [losses.rank.mean().item()] * 2
    assert joined.opinion.tolist() == [losses.opinion.mean().item()] * 2
    assert torch.equal(joined.images, losses.images)


# --- the whole of it ------------------------------------------------------------------------------


def test_a_picture_is_as_good_as_the_less_convinced_finds_it():
    """The draw that is chosen, by hand: each loss over its own spread of the references."""
    graph = tiny.Graph(second_opinion=tiny.other_encoder())
    draws = []
    with torch.inference_mode():
        encoders = (graph.encoder, graph.second_opinion)
        both = [compare_with(graph.references, one, (16, 16)) for one in encoders]
    for number in range(5, 13):
        sampling = replace(tiny.SAMPLING, seed=number)
        look = tiny.settings(iterations=0, norm_weight=0.0)
        told = []
        seed, drawn, history = tiny.optimize(graph, sampling, look, on_progress=told.append)
        with torch.inference_mode():
            image = graph.vae.decode(drawn["samples"])
            losses = [one(image, 0)[0].item() for one in both]
        assert history.best_opinion[0] == pytest.approx(losses[1], rel=1e-4)
        assert history.opinion_spread == pytest.approx(both[1].spread)
        ranks = [loss / one.spread for loss, one in zip(losses, both, strict=True)]
        rank = look.weights.semantic * max(ranks) * both[0].spread
        assert told[-1].best.rank.item() == pytest.approx(rank, rel=1e-4)
        draws.append((max(ranks), losses[0], seed.noise))
    settings = tiny.settings(iterations=0, candidates=8, norm_weight=0.0)
    found, _, history = tiny.optimize(graph, settings=settings)
    assert torch.equal(found.noise, min(draws, key=lambda draw: draw[0])[2])
    assert not torch.equal(found.noise, min(draws, key=lambda draw: draw[1])[2])
    assert history.best_opinion[0] < history.first_opinion[0]


def test_it_costs_no_call_and_is_never_differentiated():
    beholder = Beholder()
    graph = tiny.Graph(latent=tiny.latent(2))
    settings = tiny.settings(iterations=3, views=2, rollback=0)
    without = tiny.optimize(graph, settings=settings)[2]
    assert without.opinion == without.best_opinion == []
    graph.inputs["second_opinion"] = beholder
    told = []
    history = tiny.optimize(graph, settings=settings, on_progress=told.append)[2]
    assert history.evaluations == without.evaluations and history.total == without.total
    assert not any(beholder.recorded)
    # Both references, then every picture that is drawn in full, under two views each.
    assert beholder.seen == [2] * (2 + 2 * len(history.total))
    best = told[-1].best
    assert best.opinion.tolist() == history.best_opinion
    assert best.first_opinion.tolist() == history.first_opinion == history.opinion[0]
    for place, opinion in enumerate(history.best_opinion):
        assert opinion in [row[place] for row in history.opinion]


def test_what_is_told_is_of_the_real_vae():
    graph = tiny.Graph(latent=tiny.latent(2), second_opinion=tiny.other_encoder())
    looked = tiny.settings(iterations=0)
    first = tiny.optimize(graph, settings=looked)[2].best_opinion
    graph.inputs["search_vae"] = tiny.vae(seed=7)
    seed, _, history = tiny.optimize(graph, settings=tiny.settings(iterations=5))
    graph.inputs["search_vae"] = None
    again = tiny.optimize(graph, settings=looked, start=seed)[2].best_opinion
    assert history.first_opinion == pytest.approx(first, rel=1e-4)
    assert history.best_opinion == pytest.approx(again, rel=1e-4)


# --- where it does not go well --------------------------------------------------------------------


@pytest.mark.parametrize("call", [4, 7])
def test_the_same_seed_is_found_where_memory_runs_out_in_it(call):
    settings = tiny.settings(iterations=3, learning_rate=0.5, optimizer="sgd", rollback=1)

    def graph() -> tiny.Graph:
        return tiny.Graph(latent=tiny.latent(2), second_opinion=tiny.other_encoder())

    expected, _, history = tiny.optimize(graph(), settings=settings)
    scarce = graph()
    Full(scarce.second_opinion.clip_vision.model, call)
    notes = []
    found, _, after = tiny.optimize(scarce, settings=settings, on_note=notes.append)
    assert any("Out of memory" in note for note in notes)
    torch.testing.assert_close(found.noise, expected.noise, rtol=1e-3, atol=1e-3)
    assert after.best_opinion == pytest.approx(history.best_opinion, rel=1e-3)


def test_cancel_in_it_keeps_the_best():
    graph = tiny.Graph(second_opinion=tiny.other_encoder())

    def cancel(module, args, output):
        cancel.calls += 1
        if cancel.calls == 5:  # two references, the start, and one iteration
            raise comfy.model_management.InterruptProcessingException

    cancel.calls = 0
    graph.second_opinion.clip_vision.model.register_forward_hook(cancel)
    kept = []
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.optimize(graph, settings=tiny.settings(iterations=4), on_unfinished=kept.append)
    assert len(kept) == 1 and kept[0].unfinished.iterations > 0
