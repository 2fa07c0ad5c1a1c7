"""Seeds as files, and in graphs that they do not fit."""

import json
import re

import comfy.latent_formats
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from safetensors.torch import save_file

import tiny
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds.seed import MAX_VALUES, SamplingSettings, Seed, SeedNoise, load_seed

SAMPLING = SamplingSettings(steps=20, cfg=7.5, sampler_name="ddim", scheduler="karras", seed=2**63)


def seed(**changes) -> Seed:
    fields = {
        "noise": tiny.normal(2, 4, 8, 8),
        "sampling": SAMPLING,
        "latent_format": "TinyLatent",
        "semantic": [0.25, 0.5],
        "first_semantic": [0.5, 0.75],
        "total": [2.5, 5.0],
    }
    return Seed(**(fields | changes))


def facts(**changes) -> dict:
    sampling = {
        "steps": 20,
        "cfg": 7.5,
        "sampler_name": "ddim",
        "scheduler": "karras",
        "seed": 1,
    }
    whole = {
        "format": 1,
        "sampling": sampling,
        "latent_format": "SD15",
        "semantic": [0.5],
        "first_semantic": [0.5],
        "total": [0.5],
        "evaluations": 100,
    }
    for key, value in changes.items():
        (sampling if key in sampling else whole)[key] = value
    return whole


def write(path, text=None, noise=None, name="noise", **changes):
    noise = tiny.normal(1, 4, 8, 8) if noise is None else noise
    text = json.dumps(facts(**changes)) if text is None else text
    save_file({name: noise}, path, {"seedselect": text})
    return path


@pytest.mark.parametrize("inference", [False, True])
def test_round_trip(tmp_path, inference):
    path = tmp_path / "a seed.safetensors"
    with torch.inference_mode(inference):
        before = seed()
        before.save(path)
        after = load_seed(path)
    assert torch.equal(after.noise, before.noise)
    assert after.sampling == before.sampling
    assert after.latent_format == "TinyLatent"
    assert (after.semantic, after.first_semantic, after.total) == (
        before.semantic,
        before.first_semantic,
        before.total,
    )


def test_the_written_form_is_read(tmp_path):
    loaded = load_seed(write(tmp_path / "s.safetensors"))
    assert loaded.noise.shape == (1, 4, 8, 8) and loaded.sampling.steps == 20
    assert load_seed(write(tmp_path / "t.safetensors", cfg=7)).sampling.cfg == 7
    extra = load_seed(write(tmp_path / "u.safetensors", file="/etc/passwd", code="print()"))
    assert not hasattr(extra, "file") and extra.semantic == [0.5]


HOSTILE = {
    "no json": {"text": "{"},
    "deep nesting": {"text": "[" * 100_000},
    "no object": {"text": "[]"},
    "number with thousands of digits": {"text": '{"format": ' + "9" * 10_000 + "}"},
    "newer format": {"format": 2},
    "format true": {"format": True},
    "no format": {"format": None},
    "sampling missing": {"sampling": None},
    "sampling a list": {"sampling": [1, 2]},
    "sampling too many keys": {"sampling": facts()["sampling"] | {"model": "x"}},
    "sampling too few keys": {"sampling": {"steps": 1}},
    "steps 0": {"steps": 0},
    "steps many": {"steps": 10**9},
    "steps true": {"steps": True},
    "steps text": {"steps": "20"},
    "cfg NaN": {"cfg": float("nan")},
    "cfg infinite": {"cfg": float("inf")},
    "cfg true": {"cfg": True},
    "cfg text": {"cfg": "7"},
    "unknown sampler": {"sampler_name": "../../etc/passwd"},
    "sampler a list": {"sampler_name": ["euler"]},
    "sampler a dict": {"sampler_name": {"a": 1}},
    "unknown scheduler": {"scheduler": "__import__"},
    "scheduler None": {"scheduler": None},
    "seed negative": {"seed": -1},
    "seed too large": {"seed": 2**64},
    "seed a fraction": {"seed": 1.5},
    "losses of another length": {"semantic": [0.5] * 3},
    "losses no list": {"total": {"0": 0.5}},
    "losses true": {"first_semantic": [True]},
    "losses text": {"semantic": ["0.5"]},
    "losses NaN": {"semantic": [float("nan")]},
    "losses null": {"semantic": [None]},
    "losses beyond all measure": {"semantic": [10**400]},
    "cost true": {"evaluations": True},
    "cost negative": {"evaluations": -1},
    "cost text": {"evaluations": "many"},
    "sampler with a long name": {"sampler_name": "x" * 10_000},
    "latent format a number": {"latent_format": 4},
    "latent format long": {"latent_format": "x" * 101},
    "noise NaN": {"noise": torch.full((1, 4, 8, 8), float("nan"))},
    "noise infinite": {"noise": torch.full((1, 4, 8, 8), float("inf"))},
    "noise empty of values": {"noise": torch.zeros(1, 4, 8, 8)},
    "noise half": {"noise": torch.zeros(1, 4, 8, 8, dtype=torch.float16)},
    "noise whole numbers": {"noise": torch.zeros(1, 4, 8, 8, dtype=torch.int32)},
    "noise of three dimensions": {"noise": torch.zeros(4, 8, 8)},
    "noise of six dimensions": {"noise": torch.zeros(1, 4, 1, 1, 8, 8)},
    "noise empty": {"noise": torch.zeros(0, 4, 8, 8)},
    "another tensor": {"name": "weight"},
}


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    large = seed(noise=torch.ones(1).expand(2, 4, 4096, 4096))
    with pytest.raises(SeedSelectError, match=r"^seed: its noise has 134217728 values"):
        large.save(tmp_path / "large.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_noise_of_a_seed_leaves_the_generators_as_the_hosts_noise_does():
    states = []
    for noise in (Noise_RandomNoise(SAMPLING.seed), SeedNoise(seed())):
        torch.manual_seed(0)
        noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)})
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(case, tmp_path):
    path = write(tmp_path / "hostile.safetensors", **HOSTILE[case])
    with pytest.raises(SeedSelectError) as error:
        load_seed(path)
    assert str(error.value) and str(tmp_path) not in str(error.value)
    assert len(str(error.value)) < 500


def header(shape, length: int) -> bytes:
    text = json.dumps(
        {
            "__metadata__": {"seedselect": json.dumps(facts())},
            "noise": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]},
        }
    ).encode()
    return len(text).to_bytes(8, "little") + text


RAW = {
    "empty": b"",
    "pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    "picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "length beyond the file": (2**40).to_bytes(8, "little") + b"{}",
    "cut short": header([1, 4, 8, 8], 1024)[:-5],
    "shape beyond the data": header([1, 4, 2**20, 2**20], 1024) + b"\0" * 1024,
    "shape overflowing": header([2**31, 2**31, 2**31, 4], 1024) + b"\0" * 1024,
}


@pytest.mark.parametrize("case", RAW)
def test_no_seed_file(case, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(RAW[case])
    with pytest.raises(SeedSelectError, match=re.escape("x.safetensors")):
        load_seed(path)


def test_file_without_our_metadata(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"noise": torch.zeros(1, 4, 8, 8)}, path)
    with pytest.raises(SeedSelectError, match="not a SeedSelect seed"):
        load_seed(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(SeedSelectError, match="seed file"):
            load_seed(path)


def test_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as file:  # sparse: takes no space on the disk
        file.write(header([1, 4, 8192, 2049], 4 * 4 * 8192 * 2049))
        file.truncate(file.tell() + 4 * 4 * 8192 * 2049)
    assert 4 * 8192 * 2049 > MAX_VALUES
    with pytest.raises(SeedSelectError, match="at most"):
        load_seed(path)


def test_seed_as_noise():
    noise = SeedNoise(seed())
    made = noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)})
    assert torch.equal(made, seed().noise) and noise.seed == SAMPLING.seed
    made.zero_()
    assert noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)}).std() > 0


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 4, 8, 16), (2, 16, 8, 8), (2, 4, 1, 8, 8)])
def test_seed_as_noise_of_another_size(shape):
    with pytest.raises(SeedSelectError, match="latent: the seed was made for 2 x"):
        SeedNoise(seed()).generate_noise({"samples": torch.zeros(*shape)})


def test_seed_of_another_model():
    conds = tiny.conditioning(1), tiny.conditioning(2)
    with pytest.raises(SeedSelectError, match="seed: made for latents of SD15"):
        sample_from_seed(tiny.model(), *conds, seed(latent_format="SD15"))
    with pytest.raises(SeedSelectError, match="16 channels"):
        sample_from_seed(tiny.model(), *conds, seed(noise=tiny.normal(1, 16, 8, 8)))
    sdxl = tiny.model(latent_format=comfy.latent_formats.SDXL)
    with pytest.raises(SeedSelectError, match="the model's are SDXL"):
        sample_from_seed(sdxl, *conds, seed())


def test_seed_on_a_latent_of_another_size():
    conds = tiny.conditioning(1), tiny.conditioning(2)
    with pytest.raises(SeedSelectError, match="latent: the seed was made for 2 x 64 x 64"):
        sample_from_seed(tiny.model(), *conds, seed(), latent=tiny.latent(2, size=16))


def test_override():
    assert SAMPLING.override(steps=3, cfg=None) == SamplingSettings(3, 7.5, "ddim", "karras", 2**63)
    with pytest.raises(SeedSelectError, match="steps"):
        SAMPLING.override(steps=-1)
