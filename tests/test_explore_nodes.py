"""The nodes "Invert Image To Seed", "Seed Centroid" and "Interpolate Seeds"."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import pytest
import torch

import tiny
from seedselect_core.seeds.seed import CustomSampling


@pytest.fixture
def explore(nodes):
    return nodes("explore")


def run(node, **inputs):
    return tiny.run_node(node, **inputs).args


@pytest.fixture
def seed(explore):
    """Makes a seed of ``count`` pictures."""

    def make(count: int = 1, number: int = 0, size: int = 8, latent_format="TinyLatent", **changes):
        sampling = explore.SamplingSettings(3, 3.0, "euler", "normal", number)
        noise = tiny.normal(count, 4, size, size, seed=number)
        made = explore.Seed(noise, sampling, latent_format, [0.1] * count, [0.2] * count)
        return replace(made, sampling=sampling.override(**changes))

    return make


def test_every_input_and_output_is_explained(explore):
    for node in (explore.InvertImage, explore.SeedCentroid, explore.InterpolateSeeds):
        schema = node.GET_SCHEMA()
        assert schema.category == "SeedSelect/seeds" and schema.description
        assert all(i.tooltip for i in [*schema.inputs, *schema.outputs])
        page = Path(__file__).parents[1] / "web" / "docs" / f"{schema.node_id}.md"
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {schema.display_name}\n")
        assert all(f"**{i.id}**" in text for i in schema.inputs)


def invert(explore, **changes):
    inputs = {
        "model": tiny.model("V_PREDICTION"),
        "positive": tiny.conditioning(1),
        "negative": tiny.conditioning(2),
        "vae": tiny.vae(),
        "image": torch.rand(2, 17, 16, 3, generator=torch.Generator().manual_seed(9)),
        "steps": 3,
        "cfg": 1.5,
        "sampler_name": "ddim",
        "scheduler": "normal",
        "refinements": 40,
    }
    return run(explore.InvertImage, **(inputs | changes))


def test_an_image_is_inverted_and_drawn_again(explore):
    seed, image, report = invert(explore)
    assert seed.noise.shape == (2, 4, 8, 8) and seed.sampling.sampler_name == "ddim"
    assert seed.semantic == seed.first_semantic == seed.total == []
    with torch.inference_mode():
        vae = tiny.vae()
        wanted = vae.decode(
            vae.encode(torch.rand(2, 17, 16, 3, generator=torch.Generator().manual_seed(9)))
        )
    torch.testing.assert_close(image, wanted, atol=0.02, rtol=0)
    assert "image 2: latent error" in report and "Gaussian noise: 16.0" in report
    assert "not drawn again" not in report
    assert "not drawn again" in invert(explore, refinements=1)[2]


def test_inversion_can_be_cancelled(explore, monkeypatch):
    def stop():
        raise comfy.model_management.InterruptProcessingException()

    name = "throw_exception_if_processing_interrupted"
    monkeypatch.setattr(comfy.model_management, name, stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        invert(explore)


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    # Of 256 values; three seeds' plain mean is shorter by sqrt(3).
    [("norm-aware", 15.96, 15.98), ("spherical", 14.5, 17.5), ("mean", 7, 11)],
)
def test_centroid(explore, seed, mode, low, high):
    several = seed(2, 1)
    more = seed(1, 2)
    (made,) = run(explore.SeedCentroid, seed=several, other_seed=more, mode=mode)
    assert made.noise.shape == (1, 4, 8, 8) and made.noise.dtype == torch.float32
    assert low < float(made.noise.norm()) < high
    assert made.sampling == several.sampling and made.latent_format == "TinyLatent"
    assert made.semantic == made.first_semantic == made.total == []
    for noise in (*several.noise, *more.noise):
        cosine = torch.cosine_similarity(noise.flatten(), made.noise.flatten(), 0)
        assert 0.4 < cosine < 0.75
    (alone,) = run(explore.SeedCentroid, seed=several, mode=mode)
    assert not torch.equal(alone.noise, made.noise)


def test_seeds_that_cancel_out_have_no_mean_direction(explore, seed):
    one = seed()
    opposite = replace(one, noise=-one.noise)
    with pytest.raises(ValueError, match="norm-aware"):
        run(explore.SeedCentroid, seed=one, other_seed=opposite, mode="spherical")
    (made,) = run(explore.SeedCentroid, seed=one, other_seed=opposite, mode="norm-aware")
    assert float(made.noise.norm()) == pytest.approx(255**0.5, abs=1e-3)


@pytest.mark.parametrize("mode", ["norm-aware", "spherical", "linear"])
def test_interpolation(explore, seed, mode):
    a = seed(2, 1)
    b = seed(2, 2)
    (path,) = run(explore.InterpolateSeeds, seed_a=a, seed_b=b, points=5, mode=mode)
    assert path.noise.shape == (5, 4, 8, 8) and path.sampling == a.sampling
    assert torch.equal(path.noise[0], a.noise[0]) and torch.equal(path.noise[-1], b.noise[0])
    assert (float(path.noise[2].norm()) < 13) == (mode == "linear")
    assert path.semantic == path.first_semantic == path.total == []
    (within,) = run(explore.InterpolateSeeds, seed_a=a, seed_b=a, points=3, mode=mode)
    assert torch.equal(within.noise[0], a.noise[0]) and torch.equal(within.noise[-1], a.noise[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 16}, "128 x 128 pixels .4 channels., {a} for 64 x 64"),
        ({"latent_format": "SDXL"}, "SDXL, {a} for TinyLatent"),
        ({"cfg": 5.0}, "cfg 5.0, {a} with"),
        ({"steps": 9}, "9 steps"),
    ],
)
def test_seeds_that_differ_are_named(explore, seed, changes, message):
    one = seed()
    other = seed(number=3, **changes)
    with pytest.raises(ValueError, match="^seed_b: .*" + message.format(a="seed_a")):
        run(explore.InterpolateSeeds, seed_a=one, seed_b=other, points=3, mode="linear")
    with pytest.raises(ValueError, match="^other_seed: .*" + message.format(a="seed")):
        run(explore.SeedCentroid, seed=one, other_seed=other, mode="mean")


def test_seeds_of_custom_sampling(explore, seed):
    custom = CustomSampling("CFGGuider", "euler", (1.0, 0.5, 0.0), 1)
    one = replace(seed(), sampling=custom)
    other = replace(seed(number=3), sampling=custom)
    (path,) = run(explore.InterpolateSeeds, seed_a=one, seed_b=other, points=3, mode="linear")
    assert path.sampling == custom
    with pytest.raises(ValueError, match="euler, 2 steps of its own sigmas, seed_a with"):
        run(explore.InterpolateSeeds, seed_a=seed(), seed_b=one, points=3, mode="linear")


def test_the_number_a_search_started_from_may_differ(explore, seed):
    run(
        explore.InterpolateSeeds,
        seed_a=seed(number=1),
        seed_b=seed(number=2),
        points=2,
        mode="linear",
    )


def test_paths_that_no_file_could_hold_are_refused(explore, seed):
    with pytest.raises(ValueError, match="at most 262144"):
        run(explore.InterpolateSeeds, seed_a=seed(), seed_b=seed(), points=300_000, mode="linear")
