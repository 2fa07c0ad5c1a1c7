"""What comes before and around the descent: neighbours, shells, shortened gradients, other
starts, subsets of the references, and contrast."""

import itertools
import math

import pytest
import torch

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.comparison import Comparison
from seedselect_core.likeness.losses import contrast_loss
from seedselect_core.likeness.targets import Targets
from seedselect_core.likeness.views import draw_views
from seedselect_core.seeds.seed import SamplingSettings, Seed
from test_optimize import Hills, climb, far, run
from test_unroll import unrolled


@pytest.fixture(scope="module")
def model():
    return tiny.model()


# --- videos ---------------------------------------------------------------------------------------


def test_the_frames_of_a_video_are_kept_together():
    """The second frame is best where the first is worst: of each alone there would be a mixture."""
    noise = torch.zeros(2, 4, 2, 2)

    def kept(is_video):
        frames = iter([(3.0, 3.0), (0.0, 5.0), (2.0, 2.0), (5.0, 0.0), (2.0, 2.0)])

        def loss(noise):
            return torch.tensor(next(frames))

        settings = tiny.settings(iterations=0, candidates=4)
        search, *_ = climb(
            settings,
            noise,
            Hills(loss),
            draw=lambda n: torch.full_like(noise, n),
            is_video=is_video,
        )
        return search.best.noise.amax((1, 2, 3)).tolist()

    assert kept(is_video=False) == [1.0, 3.0]
    assert kept(is_video=True) == [2.0, 2.0]


# --- drafts --------------------------------------------------------------------------------------


def test_only_the_best_draft_of_each_seed_is_drawn_in_full():
    hills = Hills(steps=4)
    # A draft looks better than what is drawn in full: it must not count as a picture found.
    hills.loss = lambda noise: (noise - 1).abs().mean((1, 2, 3)) + (hills.drawn[-1] - 1)
    draws = {1: far(0.1, 3.0), 2: far(0.5, 0.2)}  # a later draft may beat the first alone
    settings = tiny.settings(iterations=0, candidates=3, draft_steps=1)
    told = []

    def listen(progress):
        if progress.drafts is not None:
            drafts = progress.drafts
            told.append((drafts.done, drafts.planned, drafts.best.total.tolist()))
            assert progress.best is None and not progress.new_best  # none is drawn in full

    search, final, _ = climb(
        settings, far(1.0, 1.0), hills, draw=draws.__getitem__, on_progress=listen
    )
    assert torch.equal(final, far(0.1, 0.2))
    assert [(done, planned) for done, planned, _ in told] == [(1, 3), (2, 3), (3, 3)]
    for (_, _, losses), expected in zip(told, [(1, 1), (0.1, 1), (0.1, 0.2)], strict=True):
        assert losses == pytest.approx(expected)
    # What was given, the drafts, the best, and what is returned.
    assert hills.drawn == [4, 1, 1, 1, 4, 4]
    assert search.best.total.tolist() == pytest.approx([3.1, 3.2])
    # What it was like before is told of the noise that was given, and not of the best draft.
    assert search.best.first_semantic.tolist() == [4.0, 4.0]
    assert torch.equal(
        search.history.before, far(1.0, 1.0).mean(1)[..., None].expand(-1, -1, -1, 3)
    )


def test_a_draft_of_the_first_steps_is_the_prediction_that_the_whole_chain_makes_there(model):
    noise = tiny.normal(2, 4, 8, 8, seed=7)

    def search(chain, given):
        part = chain(given, first=2)
        whole = chain(given, keep=5)
        assert len(part) == 1 and len(whole) == 5
        assert torch.equal(part[0], whole[1])
        assert chain.evaluations == 2 * (2 + 5)
        return whole[-1]

    unrolled(model, search, SamplingSettings(5, 3.0, "ddim", "normal", 5), tiny.latent(2), noise)


def test_what_follows_the_drafts():
    def drawn(**changes):
        hills = Hills(steps=4)
        numbers = []
        settings = tiny.settings(candidates=3, draft_steps=1, **changes)
        climb(settings, far(1.0), hills, draw=lambda n: numbers.append(n) or far(n / 10))
        return hills.drawn, numbers

    # The first gradient draws the start anyway; neighbours need it to be drawn before.
    assert drawn(iterations=2) == ([4, 1, 1, 1, 4, 4, 4, 4], [1, 2])
    assert drawn(iterations=0, neighbors=1) == ([4, 1, 1, 1, 4, 4, 4], [1, 2, 3])


# --- zero-order search ----------------------------------------------------------------------------


def test_neighbors_only_ever_improve():
    noise = tiny.normal(3, 4, 2, 2, seed=1)
    draws = iter(range(100))

    def draw(number):
        next(draws)
        return tiny.normal(3, 4, 2, 2, seed=100 + number)

    settings = tiny.settings(iterations=0, neighbors=12, neighbor_angle=0.4)
    search, final, hills = climb(settings, noise, draw=draw)
    assert next(draws) == 12 and hills.counts == [3] * 14  # the start, the neighbours, the best
    assert search.best.total.tolist() == torch.tensor(search.history.total).amin(0).tolist()
    assert (search.best.total < torch.tensor(search.history.total[0])).all()
    # A rotation keeps the norm.
    torch.testing.assert_close(final.flatten(1).norm(dim=1), noise.flatten(1).norm(dim=1))


@pytest.mark.parametrize("better", [False, True], ids=["the first stays best", "each is better"])
def test_a_neighbor_is_as_far_from_the_best_as_told(better):
    noise = tiny.normal(1, 4, 4, 4, seed=1)
    tried = []

    def loss(noise):
        tried.append(noise.detach().clone())
        return torch.full((len(noise),), float(-len(tried) if better else len(tried)))

    settings = tiny.settings(iterations=0, neighbors=3, neighbor_angle=0.4)
    climb(settings, noise, Hills(loss), draw=lambda n: tiny.normal(1, 4, 4, 4, seed=50 + n))
    for number, other in enumerate(tried[1:4]):
        best = tried[number if better else 0]
        cosine = torch.nn.functional.cosine_similarity(best.flatten(), other.flatten(), dim=0)
        assert math.acos(cosine.item()) == pytest.approx(0.4, abs=1e-3)


# --- shells ---------------------------------------------------------------------------------------


def test_the_sphere_is_not_left():
    settings = tiny.settings(iterations=4, learning_rate=0.5, shell="sphere", norm_weight=0.0)
    search, final, _ = climb(settings, tiny.normal(2, 4, 4, 4, seed=1) * 3)
    assert search.history.total[-1] < search.history.total[1]
    torch.testing.assert_close(final.flatten(1).norm(dim=1), torch.full((2,), math.sqrt(63.0)))


def test_channels_stay_standard():
    tried = []

    def loss(noise):
        tried.append(noise.detach().clone())
        return (noise - 1).square().flatten(1).mean(1)

    settings = tiny.settings(iterations=4, learning_rate=0.5, shell="channels", norm_weight=0.0)
    climb(settings, tiny.normal(2, 4, 4, 4, seed=1), Hills(loss))
    for noise in tried[1:5]:
        torch.testing.assert_close(noise.mean((2, 3)), torch.zeros(2, 4), atol=1e-5, rtol=0)
        torch.testing.assert_close(
            noise.flatten(2).var(2, correction=0), torch.ones(2, 4), atol=1e-4, rtol=0
        )


# --- shortened gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "uni_pc", "heun"])
def test_a_shortened_gradient_changes_no_value(model, sampler):
    noise = tiny.normal(2, 4, 8, 8, seed=7)
    latent = tiny.latent(2)
    values = []
    gradients = []
    counts = []

    def search(chain, given):
        for some in (0, 4, 2, 1):
            start = given.clone().requires_grad_()
            before = chain.evaluations
            final = chain(start, gradient_steps=some)[-1]
            (gradient,) = torch.autograd.grad(final.square().sum(), start)
            values.append(final.detach())
            gradients.append(gradient)
            counts.append(chain.evaluations - before)
        return final.detach()

    unrolled(model, search, SamplingSettings(4, 3.0, sampler, "normal", 5), latent, noise)
    assert all(torch.equal(values[0], value) for value in values)
    # All steps told by number. The first saved copies, which may lie otherwise in memory.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(gradients[0], gradients[2])
    assert counts[0] == counts[1] > counts[2] > counts[3]


def test_a_shortened_gradient_is_that_of_the_last_step_scaled(model):
    """Euler with the earlier predictions held constant scales the noise by sigma / sigma_max."""
    noise = tiny.normal(1, 4, 8, 8, seed=7)
    latent = tiny.latent()
    found = {}

    def search(chain, given):
        start = given.clone().requires_grad_()
        final = chain(start, gradient_steps=1)[-1]
        (found["gradient"],) = torch.autograd.grad(final.square().sum(), start)
        sigmas = chain._run.sigmas
        # The last step alone, from where it begins: x = final chain without it.
        guider = chain.guider
        x = guider.inner_model.model_sampling.noise_scaling(
            sigmas[0], given, torch.zeros_like(given), True
        )
        factor = (x / given).mean()
        with torch.no_grad():
            for now, after in itertools.pairwise(sigmas[:-1]):
                denoised = guider(x, now.expand(1), model_options={}, seed=5)
                x = denoised + (x - denoised) * after / now
        last = x.clone().requires_grad_()
        final = guider(last, sigmas[-2].expand(1), model_options={}, seed=5)
        (gradient,) = torch.autograd.grad(final.square().sum(), last)
        found["expected"] = gradient * factor * sigmas[-2] / sigmas[0]
        return final.detach()

    unrolled(model, search, SamplingSettings(4, 3.0, "euler", "normal", 5), latent, noise)
    torch.testing.assert_close(found["gradient"], found["expected"], rtol=1e-3, atol=1e-7)


# --- other starts, subsets, contrast --------------------------------------------------------------


def test_the_search_starts_where_it_is_told():
    other = tiny.normal(2, 4, 8, 8, seed=70)
    graph = tiny.Graph(latent=tiny.latent(2))
    start = Seed(other, tiny.SAMPLING)
    seed, _, history = run(graph, settings=tiny.settings(iterations=0), start=start)
    assert torch.equal(seed.noise[: len(other)], other)
    assert len(history.total) == 1
    with pytest.raises(SeedSelectError, match="seed was made for 3"):
        run(graph, start=Seed(tiny.normal(3, 4, 8, 8, seed=70), tiny.SAMPLING))


def test_each_seed_gets_its_own_references():
    """Seeds with subsets find the same losses as if each were optimized with its subset alone."""
    settings = tiny.settings(iterations=0)
    graph = tiny.Graph(latent=tiny.latent(2))
    _, _, both = run(graph, settings=settings, subsets=[[0], [0, 1]])
    first = run(graph, settings=settings, subsets=[[0], [0]])[2]
    second = run(graph, settings=settings, subsets=[[0, 1], [1, 0]])[2]
    assert both.semantic[0][0] == pytest.approx(first.semantic[0][0], abs=1e-6)
    assert both.semantic[0][1] == pytest.approx(second.semantic[0][1], abs=1e-6)
    assert both.appearance[0][0] == pytest.approx(first.appearance[0][0], rel=1e-6)
    assert both.semantic[0][0] != pytest.approx(second.semantic[0][0], abs=1e-6)


def test_contrast_loss_by_hand():
    aim = torch.tensor([1.0, 0.0])
    neighbor = torch.tensor([0.6, 0.8])
    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0], [0.0, 2.0]])
    # The references are like the neighbour by 0.6, and a picture may be as much.
    expected = torch.tensor([0.0, 0.4, 0.0, 0.2])
    torch.testing.assert_close(contrast_loss(pictures, aim[None], neighbor), expected)


def test_contrast_counts_only_where_there_is_something_to_push_away_from():
    settings = tiny.settings(iterations=0, contrast_weight=100.0, norm_weight=0.0)
    without = run(settings=settings)[2].total[0]
    with_itself = run(settings=settings, contrast=tiny.references())[2].total[0]
    weightless = tiny.settings(iterations=0, contrast_weight=0.0, norm_weight=0.0)
    assert run(settings=weightless, contrast=tiny.references())[2].total[0] == without
    # A picture cannot be more like the centroid than the centroid is: nothing to push.
    assert with_itself == pytest.approx(without, abs=1e-5)


def test_a_seed_that_is_done_is_left_out_of_the_batch():
    """On the host's real chain: the others go on, and find what they would have found with it."""
    graph = tiny.Graph(latent=tiny.latent(3))
    reached = run(graph, settings=tiny.settings(iterations=0))[2]
    losses = sorted(reached.semantic[0])
    # Between the best and the second: one seed is done before the first step.
    threshold = (losses[0] + losses[1]) / 2
    target = threshold / reached.spread
    seed, _, history = run(graph, settings=tiny.settings(iterations=2, target=target))
    whole, _, all_along = run(graph, settings=tiny.settings(iterations=2))
    assert history.evaluations < all_along.evaluations
    for found, without_target in zip(seed.semantic, whole.semantic, strict=True):
        assert found <= threshold or found == pytest.approx(without_target, abs=1e-4)


def _red_green_blue(images: torch.Tensor) -> torch.Tensor:
    """In the place of an encoder: how much of each color there is, [B, 3]."""
    return images.mean((1, 2))


def test_who_is_left_keeps_its_own_references():
    embeddings = torch.eye(3)
    comparison = Comparison(_red_green_blue, draw_views(1), embeddings, embeddings[:1], 1.0)
    targets = Targets((comparison,), tiny.normal(3, 4, 8, 8, seed=1), torch.zeros(4, 8, 8))
    targets = targets.of_subsets([[0], [1], [2, 1]])
    cyan = torch.tensor([0.0, 1.0, 1.0]).expand(1, 2, 2, 3)
    losses = [targets.comparisons[0](cyan, place)[0].item() for place in (2, 0)]
    assert losses == pytest.approx([0.0, 1.0], abs=1e-6)
    appearance = targets.appearance_of([2, 0])
    torch.testing.assert_close(appearance[1], targets.latents[0])
    torch.testing.assert_close(appearance[0], (targets.latents[1] + targets.latents[2]) / 2)
