"""Pictures that carry their seed: the chunk, the node that saves them, and Load Seed."""

import io
import json
import re
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from comfy.cli_args import args
from comfy_api.latest._io import Hidden
from PIL import Image

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds.carrier import CHUNK, MOST_CHUNKS, PNG, with_seed
from seedselect_core.seeds.origin import Origin
from seedselect_core.seeds.seed import MAX_HEADER, Seed, load_seed
from test_seed import FUZZ

NOISE = tiny.normal(2, 4, 8, 16)
PROMPT = {"1": {"class_type": "Some", "inputs": {"text": "größe\n\ud800 日本"}}}
WORKFLOW = {"nodes": [], "extra": {"note": 'a "quoted" \\ 日本'}}
HIDDEN = {
    Hidden.prompt: PROMPT,
    Hidden.extra_pnginfo: {"workflow": WORKFLOW},
    Hidden.unique_id: "9",
}


def seed(count: int = 2, **changes) -> Seed:
    return Seed(NOISE[:count], tiny.SAMPLING, "TinyLatent", **changes)


def encoded(kind: str, **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


PICTURES = {
    "png": encoded("PNG"),
    "webp without loss": encoded("WEBP", lossless=True),
    "webp with loss": encoded("WEBP", quality=30),
    "webp with metadata": encoded("WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", xmp=b"<x/>"),
    "webp of odd length": encoded("WEBP", lossless=True, xmp=b"<x />"),
}


# ---------------------------------------------------------------- the chunk


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("odd", [0, 1])
def test_noise_in_a_picture_is_exact_and_the_picture_as_it_was(tmp_path, kind, odd):
    before = seed(semantic=[0.25, 0.5], origin=Origin(model="x" * odd))
    carried = with_seed(PICTURES[kind], before.encoded())
    path = tmp_path / "renamed"  # what a file is called does not count
    path.write_bytes(carried)
    after = load_seed(path)
    assert torch.equal(after.noise, before.noise) and after.semantic == before.semantic
    plain, with_chunk = (Image.open(io.BytesIO(b)) for b in (PICTURES[kind], carried))
    np.testing.assert_array_equal(np.asarray(plain), np.asarray(with_chunk))
    assert plain.info.keys() == with_chunk.info.keys()


def test_the_chunk_is_as_the_specifications_want_it():
    """PNG: by the case of the letters ancillary, private, safe to copy. WebP: even, and counted."""
    assert [letter.islower() for letter in CHUNK.decode()] == [True, True, False, True]
    png = with_seed(PICTURES["png"], b"123")
    assert png.endswith(PICTURES["png"][-12:])
    chunk = png[len(PICTURES["png"]) - 12 : -12]
    assert chunk == struct.pack(">I", 3) + CHUNK + b"123" + struct.pack(
        ">I", zlib.crc32(CHUNK + b"123")
    )
    webp = with_seed(PICTURES["webp with loss"], b"123")
    assert len(webp) % 2 == 0 and struct.unpack("<I", webp[4:8]) == (len(webp) - 8,)


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_that_was_encoded_again_carries_none(tmp_path, kind):
    file = io.BytesIO()
    with Image.open(io.BytesIO(with_seed(PICTURES[kind], seed().encoded()))) as picture:
        picture.save(file, "WEBP" if "webp" in kind else "PNG")
    for data in (PICTURES[kind], file.getvalue()):
        (tmp_path / "x.png").write_bytes(data)
        with pytest.raises(SeedSelectError, match=r"'x.png' is a picture that carries no seed"):
            load_seed(tmp_path / "x.png")


HOSTILE = {
    "png, nothing else": PNG,
    "webp, nothing else": b"RIFF\4\0\0\0WEBP",
    "chunk beyond the file": PNG + struct.pack(">I", 2**31) + CHUNK + b"1234",
    "webp chunk beyond the file": b"RIFF\4\0\0\0WEBP" + CHUNK + b"\xff" * 4,
    "chunk of nothing": PNG + bytes(4) + CHUNK + bytes(4),
    "chunk of rubbish": with_seed(PICTURES["png"], b"\xff" * 100),
    "chunk of a pickle": with_seed(PICTURES["png"], b"\x80\x04cposix\nsystem\n(S'true'\ntR."),
    "a picture in the picture": with_seed(PICTURES["png"], with_seed(PICTURES["png"], b"1")),
    "very many chunks": PNG + (bytes(4) + b"zzZz" + bytes(4)) * (MOST_CHUNKS + 1),
    "large header": with_seed(PICTURES["png"], (90 * 2**20).to_bytes(8, "little") + b"{}"),
    "cut short": with_seed(PICTURES["png"], seed().encoded())[:-200],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_picture_is_refused_in_words(tmp_path, case):
    (tmp_path / "x.png").write_bytes(HOSTILE[case])
    with pytest.raises(SeedSelectError, match=r"^seed file: 'x.png' (is|cannot be)") as error:
        load_seed(tmp_path / "x.png")
    assert len(str(error.value)) < 500


@FUZZ
@hypothesis.given(
    kind=st.sampled_from(sorted(PICTURES)),
    place=st.integers(0, 3000),
    put=st.binary(max_size=12),
    cut=st.integers(0, 1500),
)
def test_any_damage_to_a_picture_is_read_or_refused(tmp_path_factory, kind, place, put, cut):
    whole = with_seed(PICTURES[kind], seed().encoded())
    path = tmp_path_factory.getbasetemp() / "x.png"
    path.write_bytes((whole[:place] + put + whole[place + len(put) :])[: len(whole) - cut])
    try:
        assert load_seed(path).noise.numel() > 0
    except SeedSelectError as error:
        assert str(error).startswith("seed file: 'x.png' ") and str(error).isprintable()


# ---------------------------------------------------------------- the nodes


@pytest.fixture
def pictures(nodes, tmp_path, monkeypatch):
    for label in ("input", "output"):
        (tmp_path / label).mkdir()
        monkeypatch.setattr(folder_paths, f"{label}_directory", str(tmp_path / label))
    return nodes("seed_pictures")


@pytest.fixture
def found(nodes):
    """A seed of the pack, of two pictures."""
    return nodes("sockets").Seed(NOISE, tiny.SAMPLING, "TinyLatent", [0.25, 0.5])


@pytest.fixture
def saved(pictures, found, tmp_path):
    """Runs the node; the paths, and what the page is told."""

    def run(kind: str = "png", images=None):
        images = torch.rand(2, 24, 40, 3) if images is None else images
        inputs = {"images": images, "filename_prefix": "seeds/of %width%x%height%", "format": kind}
        output = tiny.run_node(pictures.SaveImageWithSeed, HIDDEN, seed=found, **inputs)
        told = output.ui.as_dict()["images"]
        return [tmp_path / "output" / each["subfolder"] / each["filename"] for each in told], told

    return run


def texts(path: Path) -> dict[str, str]:
    """The texts of a picture, as the host's page reads them."""
    with Image.open(path) as picture:
        if picture.format == "PNG":
            return picture.text
        return dict(text.split(":", 1) for text in picture.getexif().values())


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_each_picture_is_saved_with_its_own_noise_and_the_graph(found, saved, kind):
    images = torch.rand(2, 24, 40, 3)
    paths, told = saved(kind, images)
    assert [path.name for path in paths] == [f"of 40x24_0000{n}_.{kind}" for n in (1, 2)]
    assert all(each["subfolder"] == "seeds" and each["type"] == "output" for each in told)
    for number, path in enumerate(paths):
        loaded = load_seed(path)
        assert torch.equal(loaded.noise, NOISE[number : number + 1])
        assert loaded.semantic == [found.semantic[number]]
        assert {key: json.loads(text) for key, text in texts(path).items()} == {
            "prompt": PROMPT,
            "workflow": WORKFLOW,
        }
        with Image.open(path) as picture:  # as the host's own savers turn it into 8 bits
            values = (255.0 * images[number].numpy()).astype(np.uint8)
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), values)
    assert saved(kind)[0][0].name == f"of 40x24_00003_.{kind}"


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_without_metadata_the_noise_alone_is_in_the_picture(saved, monkeypatch, kind):
    monkeypatch.setattr(args, "disable_metadata", True)
    (path, _), _ = saved(kind)
    assert texts(path) == {} and torch.equal(load_seed(path).noise, NOISE[:1])


def test_pictures_of_another_number_than_the_seed_are_refused(saved):
    with pytest.raises(ValueError, match=r"^images: there are 3, but the seed is of 2\."):
        saved(images=torch.rand(3, 8, 8, 3))


def test_load_seed_reads_a_picture(pictures, nodes, saved):
    (path, _), _ = saved()
    shown = f"seeds/{path.name} [output]"
    assert shown in nodes("seed_files").seed_files()
    node = nodes("seeds").LoadSeed
    assert node.validate_inputs(shown) is True
    (loaded,) = tiny.run_node(node, seed_file=shown).args
    assert torch.equal(loaded.noise, NOISE[:1])
    before = node.fingerprint_inputs(shown)
    path.write_bytes(path.read_bytes() + b"\0")
    assert node.fingerprint_inputs(shown) != before


def test_a_sampler_that_is_missing_is_told_when_it_is_used_and_not_before(
    pictures, nodes, found, tmp_path
):
    path = tmp_path / "input" / "shared.png"
    foreign = replace(found, sampling=found.sampling.override(sampler_name="res_2s"))
    path.write_bytes(with_seed(PICTURES["png"], foreign.encoded()))
    (loaded,) = tiny.run_node(nodes("seeds").LoadSeed, seed_file=path.name).args
    (loaded,) = tiny.run_node(nodes("derive").PickSeeds, seed=loaded, best=1, pictures="1").args
    noise = {"samples": torch.zeros(1, 4, 8, 16)}
    (given,) = tiny.run_node(nodes("seeds").SeedToNoise, seed=loaded).args
    assert torch.equal(given.generate_noise(noise), NOISE[1:])

    def sample(name: str):
        conditions = {"positive": tiny.conditioning(1), "negative": tiny.conditioning(2)}
        own = {} if name == "as the seed says" else {"sampler_name": name}
        settings = {"settings": "my own" if own else name} | own
        node = nodes("sample").SampleFromSeed
        inputs = {"model": tiny.model(), "seed": loaded, "settings": settings} | conditions
        return tiny.run_node(node, **inputs)

    with pytest.raises(ValueError, match=r"^sampler_name: this ComfyUI has no 'res_2s'.*RES4LYF"):
        sample("as the seed says")
    assert torch.isfinite(sample("euler").args[0]["samples"]).all()


# ---------------------------------------------------------------- the graph in a file of its own


def metadata(path: Path) -> dict[str, str]:
    """What the host's page finds in a file that is dropped on it."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_a_seed_file_holds_the_graph_as_the_hosts_own_do(
    pictures, nodes, found, tmp_path, monkeypatch
):
    node = nodes("seeds").SaveSeed
    for disabled in (False, True):
        monkeypatch.setattr(args, "disable_metadata", disabled)
        tiny.run_node(node, HIDDEN, seed=found, filename_prefix=f"{disabled}")
        (path,) = (tmp_path / "output").glob(f"{disabled}*")
        told = {key: json.loads(text) for key, text in metadata(path).items()}
        del told["seedselect"]
        assert told == ({} if disabled else {"prompt": PROMPT, "workflow": WORKFLOW})
        assert torch.equal(load_seed(path).noise, NOISE)


@pytest.mark.parametrize(
    "odd",
    [{"seedselect": "{}", "\ud800": 1, "workflow": WORKFLOW}, [], "x", {"seedselect_noise": 5}],
)
def test_whatever_a_client_gives_to_be_saved_the_seed_is(pictures, nodes, found, tmp_path, odd):
    hidden = {Hidden.prompt: PROMPT, Hidden.extra_pnginfo: odd, Hidden.unique_id: "9"}
    nodes("graph").record(SimpleNamespace(unique_id="9", extra_pnginfo=odd), found)
    tiny.run_node(nodes("seeds").SaveSeed, hidden, seed=found, filename_prefix="x")
    (path,) = (tmp_path / "output").glob("x*")
    assert torch.equal(load_seed(path).noise, NOISE)
    assert metadata(path).keys() >= {"prompt", "seedselect"}


@pytest.mark.parametrize(
    ("prompt", "workflow", "left"),
    [
        (1000, 1000, {"prompt", "workflow"}),
        (MAX_HEADER, 1000, {"workflow"}),
        (1000, MAX_HEADER, set()),  # nor a prompt without the workflow that it belongs to
        (MAX_HEADER // 2, MAX_HEADER // 2, {"workflow"}),
    ],
)
def test_a_graph_that_is_too_large_is_left_out_and_the_seed_is_loaded(
    tmp_path, caplog, prompt, workflow, left
):
    graph = {"prompt": "x" * prompt, "workflow": "日" * (workflow // 6)}
    seed().save(tmp_path / "x.safetensors", graph)
    assert metadata(tmp_path / "x.safetensors").keys() - {"seedselect"} == left
    assert torch.equal(load_seed(tmp_path / "x.safetensors").noise, NOISE)
    assert bool(re.search("too large for a seed file", caplog.text)) == (len(left) < 2)
