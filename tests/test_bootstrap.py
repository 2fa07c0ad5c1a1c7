"""Sets of pictures: as many as wanted, different, near enough, cheaper after the first batch."""

from dataclasses import replace

import pytest
import torch

import tiny
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds.seed import Seed
from seedselect_core.sets import bootstrap
from seedselect_core.sets.bootstrap import PictureSet, SetSettings, make_set

SETTINGS = tiny.settings(iterations=4, candidates=3)
WANTED = SetSettings(count=5, subset=1, angle=0.2, iterations=3, min_distance=0.0, attempts=6.0)


def run(wanted=WANTED, graph=None, sampling=tiny.SAMPLING, settings=SETTINGS, **more):
    graph = graph or tiny.Graph(latent=tiny.latent(2))
    with torch.inference_mode():
        return make_set(graph.scene(), sampling, settings, wanted, **tiny.with_callbacks(more))


def test_a_set_is_found_and_its_seed_draws_it_again():
    graph = tiny.Graph(latent=tiny.latent(2))
    told = []
    seed, made = run(graph=graph, on_progress=lambda p, kept: told.append(kept))
    assert seed.noise.shape == (5, 4, 8, 8) and len(seed.semantic) == 5
    assert made.kept_first == 2 and max(made.semantic) <= max(made.semantic[:2])
    assert told == sorted(told) and told[0] == 0 and set(told) > {0, 2}
    assert len(made.images) == len(made.noise) == len(made.embeddings) == len(made.semantic) >= 5
    assert seed.evaluations == sum(made.evaluations)
    first, later = made.cost()
    assert first == made.evaluations[0] / 2
    assert later * (len(made.semantic) - 2) == pytest.approx(sum(made.evaluations[1:]))
    assert made.evaluations[1] < made.evaluations[0]
    with torch.inference_mode():
        drawn = sample_from_seed(graph.model, graph.positive, graph.negative, seed)
        pictures = graph.vae.decode(drawn["samples"])
    torch.testing.assert_close(pictures, made.images[:5], atol=1e-4, rtol=1e-4)


def test_pictures_of_several_prompts_are_drawn_again_by_the_same_batch_of_prompts():
    prompts = torch.cat([tiny.conditioning(seed)[0][0] for seed in (1, 7)])
    graph = tiny.Graph(latent=tiny.latent(2), positive=[[prompts, {"pooled_output": None}]])
    seed, made = run(replace(WANTED, angle=0.8, iterations=1), graph=graph)
    assert made.rows == [0, 1, 1, 0, 0]  # a miss between them
    assert made.in_seed == [0, 1, 3, 2, 4]
    with torch.inference_mode():
        drawn = sample_from_seed(graph.model, graph.positive, graph.negative, seed)
        pictures = graph.vae.decode(drawn["samples"])
    torch.testing.assert_close(pictures, made.images[made.in_seed], atol=1e-4, rtol=1e-4)


def test_places_end_where_a_prompt_has_no_picture_left():
    made = PictureSet(torch.empty(0), torch.empty(0), torch.empty(0), rows=[0, 1, 1, 0, 1, 1, 1])
    assert made.place_by_place(2) == [0, 1, 3, 2]
    assert made.place_by_place(3) == [0, 1]


def test_the_same_number_makes_the_same_set():
    (one, _) = run()
    (same, _) = run()
    torch.testing.assert_close(one.noise, same.noise, atol=0, rtol=0)
    other, _ = run(sampling=replace(tiny.SAMPLING, seed=6))
    assert (one.noise[0] != other.noise[0]).any()


def test_attempts_end_a_set_in_which_everything_is_a_duplicate():
    wanted = replace(WANTED, min_distance=1e6, attempts=2.0)
    seed, made = run(wanted)
    assert len(seed.noise) == made.kept_first == 1
    assert len(made.evaluations) == 6  # three batches would do, twice
    assert made.duplicates + made.misses == 2 * 6 - 1
    assert made.cost()[0] == made.evaluations[0]


def test_duplicates_and_misses_are_told_apart():
    def three(losses):
        return Seed(torch.arange(3.0).view(3, 1, 1, 1), tiny.SAMPLING, "", losses, losses, losses)

    made = PictureSet(torch.empty(0, 1, 1, 1), torch.empty(0, 2, 2, 3), torch.empty(0, 2))
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.999, 0.0447]])
    made.take(three([0.1, 0.5, 0.2]), torch.zeros(3, 2, 2, 3), axes, worst=0.3, limit=0.01)
    assert (made.misses, made.duplicates, made.noise.flatten().tolist()) == (1, 1, [0.0])
    made.take(three([0.1, 0.2, 0.2]), torch.zeros(3, 2, 2, 3), axes, worst=0.3, limit=0.0005)
    assert made.noise.flatten().tolist() == [0.0, 1.0, 2.0]


def test_cancel_keeps_what_was_found():
    class Stop(Exception):
        pass

    kept = []

    def stop_later(progress, found):
        if found and progress.new_best:
            raise Stop

    with pytest.raises(Stop):
        run(on_progress=stop_later, on_unfinished=kept.append)
    (seed,) = kept
    assert len(seed.noise) == 4 and seed.semantic == []


@pytest.mark.parametrize("where", ["decode", "encode"])
def test_an_error_between_two_batches_keeps_what_was_found(where, monkeypatch):
    """The second batch is searched to its end, and then its pictures cannot be looked at."""
    graph = tiny.Graph(latent=tiny.latent(2))
    kept = []
    calls = []
    owner, name = (graph.vae, "decode") if where == "decode" else (bootstrap, "unit_embeddings")
    real = getattr(owner, name)

    def fails_at_the_second(*args):
        calls.append(args)
        if len(calls) == 2:
            raise RuntimeError("broken")
        return real(*args)

    monkeypatch.setattr(owner, name, fails_at_the_second)
    with pytest.raises(RuntimeError, match="broken"):
        run(graph=graph, on_unfinished=kept.append)
    (seed,) = kept
    assert len(seed.noise) == 4 and seed.semantic == []


@pytest.mark.parametrize(("near", "target"), [(0.5, 1.0), (3.0, 3.0)])
def test_later_pictures_are_done_no_nearer_than_the_references_are(near, target, monkeypatch):
    """The first batch came to ``near`` times their own spread."""
    stages = []
    real = bootstrap.optimize_seed

    def search(scene, sampling, settings, **more):
        stages.append(settings)
        seed, drawn, history = real(scene, sampling, settings, **more)
        if len(stages) == 1:
            seed = replace(seed, semantic=[near * history.spread] * 2)
        else:  # the one just as near as they are, the other a little farther than anything
            worst = max(1.0, near) * history.spread
            seed = replace(seed, semantic=[worst, 1.01 * worst])
        return seed, drawn, history

    monkeypatch.setattr(bootstrap, "optimize_seed", search)
    _, made = run(replace(WANTED, count=3))
    assert (stages[0].target, stages[1].target) == (0.0, pytest.approx(target))
    assert (len(made.noise), made.misses) == (3, 1)


def test_samplers_whose_noise_depends_on_the_batch_are_refused():
    with pytest.raises(SeedSelectError, match=r"^sampler: 'lcm'"):
        run(sampling=replace(tiny.SAMPLING, sampler_name="lcm"))


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"count": 0}, {"subset": -1}, {"angle": 0.0}, {"angle": 2.0}, {"iterations": -1}],
        *[{"min_distance": -0.1}, {"attempts": 0.5}],
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(SeedSelectError, match=f"^{next(iter(wrong))}: must be"):
        SetSettings(**wrong)
