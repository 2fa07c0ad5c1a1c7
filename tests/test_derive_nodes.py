"""The nodes "Pick Seeds", "Join Seeds", "Resize Seed" and "Seed Variation"."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import tiny
from pocket.drawing import prompt
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.likeness.vae import host_pictures
from seedselect_core.pocket import load_pocket_model
from seedselect_core.seeds.geometry import angle_between, norms
from seedselect_core.seeds.origin import Origin
from seedselect_core.seeds.rescue import Unfinished
from seedselect_core.seeds.seed import SamplingSettings


@pytest.fixture
def derive(nodes):
    return nodes("derive")


@pytest.fixture
def seed(nodes):
    """Makes a seed of ``count`` pictures, the later the more like the references."""

    def make(count: int = 4, number: int = 0, **changes):
        losses = [1 / (n + 2) for n in range(count)]
        made = nodes("sockets").Seed(
            tiny.normal(count, 4, 8, 8, seed=number),
            tiny.SAMPLING,
            "SD15",
            semantic=losses,
            first_semantic=[1.0] * count,
            total=losses,
            evaluations=10,
            origin=Origin(model="a.safetensors"),
        )
        return replace(made, **changes)

    return make


def run(node, **inputs):
    (made,) = tiny.run_node(node, **inputs).args
    return made


# ---------------------------------------------------------------- pick


@pytest.mark.parametrize(
    ("pictures", "places"),
    [
        *(("0", [0]), (" 3 , 1", [3, 1]), ("1-3", [1, 2, 3]), ("0, 2 - 3, 0", [0, 2, 3, 0])),
        *(("", [3, 2]), ("  ", [3, 2])),  # the best two
    ],
)
def test_some_of_a_batch_with_what_is_known_of_each(derive, seed, pictures, places):
    given = seed(unfinished=Unfinished(1, 2, 3, ""))
    made = run(derive.PickSeeds, seed=given, best=2, pictures=pictures)
    assert torch.equal(made.noise, given.noise[places])
    assert made.semantic == made.total == [1 / (place + 2) for place in places]
    assert made.first_semantic == [1.0] * len(places)
    assert (made.sampling, made.origin) == (given.sampling, given.origin)
    assert made.unfinished is None  # a part of a search is none that can go on


def test_the_best_of_fewer_are_all(derive, seed):
    assert len(run(derive.PickSeeds, seed=seed(), best=9, pictures="").noise) == 4


@pytest.mark.parametrize("pictures", ["4", "-1", "x", "0,,1", "3-1", "0-9", "1.5", "²", "9" * 5000])
def test_what_is_not_in_the_batch_is_told(derive, seed, pictures):
    with pytest.raises(ValueError, match=r"^pictures: '.*' is (no number|not in the batch)") as e:
        run(derive.PickSeeds, seed=seed(), best=1, pictures=pictures)
    assert len(str(e.value)) < 2100


def test_the_best_are_not_known_without_a_likeness(derive, seed):
    given = seed(semantic=[])
    with pytest.raises(ValueError, match=r"^seed: how like the references.*'pictures'"):
        run(derive.PickSeeds, seed=given, best=1, pictures="")
    made = run(derive.PickSeeds, seed=given, best=1, pictures="2")
    assert made.semantic == [] and made.total == [1 / 4]


# ---------------------------------------------------------------- join


def test_two_batches_in_one(derive, seed):
    first = seed(2, 1)
    second = replace(seed(3, 2), sampling=replace(tiny.SAMPLING, seed=99), total=[])
    made = run(derive.JoinSeeds, seed=first, other_seed=second)
    assert torch.equal(made.noise, torch.cat([first.noise, second.noise]))
    assert made.semantic == first.semantic + second.semantic and made.total == []
    assert made.sampling == first.sampling and made.evaluations == 20


def test_seeds_that_do_not_go_together_are_not_joined(derive, seed):
    other = seed(sampling=replace(tiny.SAMPLING, steps=9))
    with pytest.raises(ValueError, match=r"^other_seed: .* 9 steps"):
        run(derive.JoinSeeds, seed=seed(), other_seed=other)


# ---------------------------------------------------------------- resize


@pytest.mark.parametrize(
    ("latent_format", "size"),
    [("SD15", (8, 16)), ("", (8, 16)), ("of another pack", (8, 16)), ("Flux2", (4, 8))],
)
def test_a_size_is_that_of_the_picture(derive, seed, latent_format, size):
    given = seed(latent_format=latent_format)
    made = run(derive.ResizeSeed, seed=given, width=128, height=64, number=5)
    assert made.noise.shape == (4, 4, *size) and made.semantic == []
    assert made.latent_format == latent_format and made.sampling == given.sampling


def test_the_number_decides_on_the_detail_that_is_added(derive, seed):
    made = [
        run(derive.ResizeSeed, seed=seed(), width=128, height=64, number=number).noise
        for number in (5, 5, 6)
    ]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_seed_that_no_file_could_hold_is_refused(derive, seed):
    with pytest.raises(ValueError, match=r"^width, height: 8 seeds .* at most 4"):
        run(derive.ResizeSeed, seed=seed(8), width=16384, height=16384, number=0)
    with pytest.raises(ValueError, match=r"^count: 409600 seeds"):
        run(derive.SeedVariation, seed=seed(400), angle=1.0, count=1024, number=0)


@pytest.fixture(scope="module")
def draw():
    """Draws a letter from a seed with the pocket model, as [B, 3, 64, 64] of any size."""
    model, clip, vae, _ = load_pocket_model()
    sampling = SamplingSettings(10, 7.0, "ddim", "normal", 0)

    def condition(text: str) -> list:
        cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        return [[cond, {"pooled_output": pooled}]]

    def make(seed, letter: str) -> torch.Tensor:
        with torch.inference_mode():
            wanted = condition(prompt(letter, "red", "yellow"))
            drawn = sample_from_seed(model, wanted, condition(""), seed, sampling)
            pictures = host_pictures(vae, drawn["samples"]).movedim(-1, 1)
            return F.interpolate(pictures, (64, 64), mode="area")

    return make


def agreement(first: torch.Tensor, second: torch.Tensor) -> float:
    """Of what each picture has of its own beside the mean of all: the mean correlation."""
    own = [(pictures - pictures.mean(0)).flatten(1) for pictures in (first, second)]
    return float(torch.cosine_similarity(*own, dim=1).mean())


@pytest.mark.parametrize("letter", ["A", "N"])
def test_what_a_picture_has_of_its_own_stays_at_another_size(derive, seed, draw, letter):
    """The pocket model was taught one size, and draws no clean letter at another."""
    given = seed(8, latent_format="")
    before = draw(given, letter)
    larger = run(derive.ResizeSeed, seed=given, width=80, height=80, number=1)
    fresh = larger.with_noise(tiny.normal(8, 4, 10, 10, seed=9))
    assert agreement(draw(larger, letter), before) > agreement(draw(fresh, letter), before) + 0.05
    twice = run(derive.ResizeSeed, seed=given, width=128, height=128, number=1)
    back = run(derive.ResizeSeed, seed=twice, width=64, height=64, number=2)
    torch.testing.assert_close(draw(back, letter), before, atol=1e-3, rtol=0)


# ---------------------------------------------------------------- vary


@pytest.mark.parametrize("angle", [0.0, 15.0, 90.0])
def test_variations_lie_at_the_angle_and_are_all_different(derive, seed, angle):
    given = seed(2)
    made = run(derive.SeedVariation, seed=given, angle=angle, count=3, number=7)
    assert made.noise.shape == (6, 4, 8, 8) and made.semantic == []
    torch.testing.assert_close(norms(made.noise), norms(given.noise).repeat_interleave(3))
    for place, noise in enumerate(made.noise):
        turned = math.degrees(angle_between(noise, given.noise[place // 3]))
        assert turned == pytest.approx(angle, abs=0.01)
    if angle:
        assert len({noise.sum().item() for noise in made.noise}) == 6
        other = run(derive.SeedVariation, seed=given, angle=angle, count=3, number=8)
        assert not torch.equal(made.noise, other.noise)
    again = run(derive.SeedVariation, seed=given, angle=angle, count=3, number=7)
    assert torch.equal(made.noise, again.noise)
