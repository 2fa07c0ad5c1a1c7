"""Seeds as files, and in graphs that they do not fit."""

import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path

import comfy.latent_formats
import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from safetensors.torch import save_file

import tiny
from conftest import REPO
from nodes import LatentFromBatch
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds import seed as module
from seedselect_core.seeds.origin import Origin
from seedselect_core.seeds.rescue import Unfinished
from seedselect_core.seeds.schema import FIELDS
from seedselect_core.seeds.seed import (
    FORMAT,
    MAX_HEADER,
    MAX_VALUES,
    CustomSampling,
    SamplingSettings,
    Seed,
    SeedNoise,
    load_seed,
)

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


def custom(**changes) -> dict:
    """How a file tells of a graph of guider, sampler and sigmas."""
    whole = {"guider": "CFGGuider", "sampler": "euler", "sigmas": [14.5, 0.0], "seed": 1}
    return whole | changes


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
    "format 0": {"format": 0},
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
    "sampler half of a surrogate pair": {"sampler_name": "\ud800"},
    "sampler that drives a terminal": {"sampler_name": "\x1b[2J"},
    "scheduler with a line of its own": {"scheduler": "normal\n[ERROR] forged"},
    "scheduler that turns the writing around": {"scheduler": "\u202elamron"},
    "sampler a list": {"sampler_name": ["euler"]},
    "sampler a dict": {"sampler_name": {"a": 1}},
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
    "latent format of a megabyte": {"latent_format": "\x1b" * 2**17},
    "latent format not printable": {"latent_format": "SD15\u202e"},
    "cost beyond all measure": {"evaluations": 10**400},
    "sigmas missing": {"sampling": custom(sigmas=None)},
    "sigmas one": {"sampling": custom(sigmas=[1.0])},
    "sigmas many": {"sampling": custom(sigmas=[1.0] * 10_002)},
    "sigmas NaN": {"sampling": custom(sigmas=[float("nan"), 0.0])},
    "sigmas nested": {"sampling": custom(sigmas=[[1.0], [0.0]])},
    "guider not printable": {"sampling": custom(guider="\x9b2J")},
    "guider a number": {"sampling": custom(guider=5)},
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
    told = str(error.value)
    assert told.startswith("seed file: 'hostile.safetensors' ") and str(tmp_path) not in told
    assert told.isprintable() and len(told) < 500


def header(shape, length: int, metadata: object = True) -> bytes:
    text = json.dumps(
        {
            "__metadata__": metadata and {"seedselect": json.dumps(facts())},
            "noise": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]},
        }
    ).encode()
    return len(text).to_bytes(8, "little") + text


RAW = {
    "empty": b"",
    "pickle": b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    "picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "length beyond the file": (2**40).to_bytes(8, "little") + b"{}",
    "length beyond the file, and allowed": (2**20).to_bytes(8, "little") + b"{}",
    "cut short": header([1, 4, 8, 8], 1024)[:-5],
    "metadata null": header([1, 4, 8, 8], 1024, None) + b"\0" * 1024,
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


def test_a_large_header_is_refused_before_anything_parses_it(tmp_path, monkeypatch):
    path = tmp_path / "header.safetensors"
    with open(path, "wb") as file:
        file.write((90 * 2**20).to_bytes(8, "little") + b"{")
        file.truncate(100 * 2**20)

    def parse(*args, **options):
        raise AssertionError("it was parsed")

    monkeypatch.setattr(module, "deserialize", parse)
    monkeypatch.setattr(module.json, "loads", parse)
    with pytest.raises(SeedSelectError, match="header would have 94371840 bytes"):
        load_seed(path)


def test_the_largest_seed_that_is_saved_is_loaded_again(tmp_path):
    """Its sigmas always fit into a header; the losses of very many pictures are left out."""
    sigmas = tuple(float(x) for x in torch.rand(10_001, dtype=torch.float64))
    many = 30_000
    losses = {name: [1 / 3] * many for name in ("semantic", "first_semantic", "total")}
    sampling = CustomSampling("é" * 100, "日" * 100, sigmas, 2**64 - 1)
    before = seed(noise=torch.ones(many, 4, 1, 1), sampling=sampling, **losses)
    before.save(tmp_path / "large.safetensors")
    after = load_seed(tmp_path / "large.safetensors")
    assert after.sampling == sampling and len(after.noise) == many and after.semantic == []


def test_what_a_file_may_not_hold_is_left_out_of_it(tmp_path):
    """The noise is what a user waited for: nothing that describes it may keep it from a file."""
    odd = seed(semantic=[math.inf, 0.5], total=[math.nan, 1.0], latent_format="x\n" * 60)
    odd.save(tmp_path / "odd.safetensors")
    after = load_seed(tmp_path / "odd.safetensors")
    assert torch.equal(after.noise, odd.noise) and after.first_semantic == [0.5, 0.75]
    assert (after.semantic, after.total, after.latent_format) == ([], [], "")


def test_a_loaded_seed_needs_its_file_no_more(tmp_path):
    path = write(tmp_path / "s.safetensors", noise=tiny.normal(1, 4, 64, 64))
    loaded = load_seed(path)
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(loaded.noise, tiny.normal(1, 4, 64, 64))


FORMATS = Path(__file__).parent / "data"


def test_every_format_that_there_was_is_still_read():
    """docs/seed-format.md promises it. A file that is here never changes."""
    kept = {path.name.partition(".")[0]: load_seed(path) for path in FORMATS.glob("*.safetensors")}
    assert set(kept) == {"format_1", "format_1_custom"}
    assert {int(name.split("_")[1]) for name in kept} == set(range(1, FORMAT + 1))

    plain = kept["format_1"]
    assert plain.sampling == SAMPLING and plain.latent_format == "PocketLatent"
    assert plain.noise.shape == (2, 4, 8, 8) and plain.evaluations == 120
    assert (plain.semantic, plain.first_semantic, plain.total) == (
        [0.25, 0.5],
        [0.5, 0.75],
        [2.5, 5.0],
    )
    graph = kept["format_1_custom"]
    assert graph.sampling == CustomSampling("CFGGuider", "euler", (14.5, 3.25, 0.0), 7)
    assert graph.noise.shape == (1, 4, 1, 8, 8) and graph.latent_format == "Wan21"
    drawn = torch.randn(2 * 4 * 8 * 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain.noise.flatten(), drawn)


def test_the_declaration_and_its_page_name_the_same_fields():
    page = (REPO / "docs" / "seed-format.md").read_text(encoding="utf-8")
    told = {*FIELDS, "format", "sampling", "unfinished", "origin"}
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == told
    kinds = (Seed, SamplingSettings, CustomSampling, Unfinished, Origin)
    made = {f.name for kind in kinds for f in fields(kind)}
    assert made - {"noise", "sampling", "unfinished", "origin"} == set(FIELDS)
    assert str(MAX_HEADER) in page.replace(",", "") and str(MAX_VALUES) in page.replace(",", "")


# ---------------------------------------------------------------- whatever a file may hold

FUZZ = hypothesis.settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
# With halves of surrogate pairs, as JSON lets through.
TEXT = st.text(st.characters(exclude_categories=()), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def load_or_refuse(path) -> None:
    """Load a file, which must give a seed that can be saved, or be refused in words."""
    try:
        loaded = load_seed(path)
    except SeedSelectError as error:
        told = str(error)
        assert told.startswith("seed file: 'x.seed.safetensors' ")
        assert told.isprintable() and len(told) < 500
    else:
        assert loaded.sampling.describe().isprintable() and loaded.latent_format.isprintable()
        loaded.save(path)
        again = load_seed(path)
        assert torch.equal(again.noise, loaded.noise)
        assert replace(again, noise=None) == replace(loaded, noise=None)


@FUZZ
@hypothesis.given(changes=st.dictionaries(st.sampled_from(sorted(facts())), JSON, max_size=3))
@hypothesis.example(changes={})
def test_any_value_of_a_field_is_read_or_refused(fuzzed, changes):
    write(fuzzed, text=json.dumps(facts() | changes))
    load_or_refuse(fuzzed)


@FUZZ
@hypothesis.given(
    kind=st.sampled_from([facts()["sampling"], custom()]),
    changes=st.dictionaries(st.sampled_from(sorted(facts()["sampling"] | custom())), JSON),
)
def test_any_way_of_sampling_is_read_or_refused(fuzzed, kind, changes):
    changes = {name: value for name, value in changes.items() if name in kind}
    write(fuzzed, text=json.dumps(facts(sampling=kind | changes)))
    load_or_refuse(fuzzed)


@FUZZ
@hypothesis.given(place=st.integers(0, 800), put=st.binary(max_size=12), cut=st.integers(0, 900))
def test_any_damage_to_a_file_is_read_or_refused(fuzzed, place, put, cut):
    write(fuzzed)
    whole = fuzzed.read_bytes()
    fuzzed.write_bytes((whole[:place] + put + whole[place + len(put) :])[: len(whole) - cut])
    load_or_refuse(fuzzed)


@FUZZ
@hypothesis.given(content=st.binary(max_size=200))
def test_any_file_is_read_or_refused(fuzzed, content):
    fuzzed.write_bytes(content)
    load_or_refuse(fuzzed)


@pytest.fixture
def fuzzed(tmp_path):
    return tmp_path / "x.seed.safetensors"


def test_seed_as_noise():
    noise = SeedNoise(seed())
    made = noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)})
    assert torch.equal(made, seed().noise) and noise.seed == SAMPLING.seed
    made.zero_()
    assert noise.generate_noise({"samples": torch.zeros(2, 4, 8, 8)}).std() > 0


def test_seed_as_noise_for_a_part_of_its_batch():
    """As the host's 'Latent From Batch' gives it."""
    batch = {"samples": torch.zeros(2, 4, 8, 8)}
    for place in (0, 1, -1):
        (one,) = LatentFromBatch().frombatch(batch, place, 1)
        assert torch.equal(SeedNoise(seed()).generate_noise(one), seed().noise[place][None])
    (both,) = LatentFromBatch().frombatch(batch, 0, 2)
    assert torch.equal(SeedNoise(seed()).generate_noise(both), seed().noise)
    other = {"samples": torch.zeros(1, 4, 8, 8), "batch_index": [2]}
    with pytest.raises(SeedSelectError, match="latent: the seed was made for 2 x"):
        SeedNoise(seed()).generate_noise(other)


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


@pytest.mark.parametrize(
    ("field", "name", "pack"),
    [
        ("sampler_name", "res_2s", "RES4LYF"),
        ("scheduler", "beta57", "RES4LYF"),
        ("sampler_name", "../../etc/passwd", "another node pack"),
        ("scheduler", "__import__", "another node pack"),
    ],
)
def test_a_seed_found_with_names_of_another_pack(tmp_path, field, name, pack):
    """It loads, for overrides and for its noise. Only drawing with the name needs the pack."""
    loaded = load_seed(write(tmp_path / "s.safetensors", latent_format="", **{field: name}))
    assert getattr(loaded.sampling, field) == name and name in loaded.sampling.describe()
    assert torch.equal(SeedNoise(loaded).generate_noise({"samples": loaded.noise}), loaded.noise)

    model = tiny.model()
    conds = tiny.conditioning(1), tiny.conditioning(2)
    told = f"^{field}: this ComfyUI has no '{re.escape(name)}'. It comes with {pack}: install"
    with pytest.raises(SeedSelectError, match=told):
        sample_from_seed(model, *conds, loaded)
    with pytest.raises(SeedSelectError, match=told):
        tiny.optimize(tiny.Graph(), replace(tiny.SAMPLING, **{field: name}))
    known = loaded.sampling.override(steps=2, **{field: getattr(SAMPLING, field)})
    assert torch.isfinite(sample_from_seed(model, *conds, loaded, known)["samples"]).all()


def test_override():
    assert SAMPLING.override(steps=3, cfg=None) == SamplingSettings(3, 7.5, "ddim", "karras", 2**63)
    with pytest.raises(SeedSelectError, match="steps"):
        SAMPLING.override(steps=-1)
