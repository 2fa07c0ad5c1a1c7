"""Hostile text in files, names and API values, sent to a real server: it tells, and goes on.

The host prints what an error says. Text that its log cannot encode used to end its worker thread,
and every later prompt waited for ever; so each input here is followed by a plain prompt.
"""

import itertools
import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import host
from comfy_client import ComfyClient, PromptRejected, Result
from conftest import HOST
from host_install import Host
from seedselect_core.text import LONGEST

pytestmark = pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="its file systems refuse such names"
)
WIPE = "\x1b[2J"
FORGED = "[ERROR] forged"
TEXTS = {
    "latin": os.fsdecode(b"caf\xe9"),
    "terminal": f"a{WIPE}\x9b2J\x1b]0;owned\x07",
    "line": f"a\n{FORGED}\r{FORGED}\u2028{FORGED}",
    "direction": "gpj.\u202egnp\u2066",
    "other alphabets": "日本語 é",
}
ALL = TEXTS | {"surrogate": "\ud800"}  # which no file can be called
FIELDS = ("sampler_name", "scheduler", "latent_format", "guider", "sampler")
COLORS = itertools.count()


@pytest.fixture(scope="module", params=["utf-8", "ascii"])
def server(request, tmp_path_factory):
    """A server whose log holds every character, and one whose log does not, as on Windows."""
    base = tmp_path_factory.mktemp("comfyui")
    real = Host(HOST, Path(sys.executable), managed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONIOENCODING", request.param)
        with host.server(["--cpu"], base_directory=base, host=real) as running:
            yield running
            log = running.log_path.read_bytes()
            assert WIPE.encode() not in log and b"Prompt executed in" in log
            assert not any(line.startswith(FORGED.encode()) for line in log.splitlines())


@pytest.fixture
def client(server):
    """Whatever a test does, a plain prompt must come to its end afterwards."""
    client = ComfyClient(server.url)
    yield client
    plain = {
        "image": ("EmptyImage", {"width": 8, "height": 8, "batch_size": 1, "color": next(COLORS)}),
        "shown": ("PreviewImage", {"images": ["image", 0]}),
    }
    result = run(client, plain)
    assert result.status == "success" and "image" in result.executed


def run(client, nodes: dict[str, tuple[str, dict]]) -> Result:
    prompt = {key: {"class_type": kind, "inputs": given} for key, (kind, given) in nodes.items()}
    return client.run(prompt, timeout=600)


def told(client, nodes: dict) -> str:
    """What a user is told of a prompt that must be refused or fail."""
    try:
        result = run(client, nodes)
    except PromptRejected as refusal:
        (found,) = refusal.node_errors.values()
        text = found["errors"][0]["details"]
    else:
        assert result.status == "error", nodes
        assert result.error["exception_type"].endswith("SeedSelectError")
        text = result.error["exception_message"].strip()
    assert text.isprintable() and 0 < len(text) <= LONGEST + 100
    return text


def load_references(folder, **changes) -> dict:
    inputs = {"pictures": "", "folder": folder, "crop": "center", "background": "#FFFFFF"}
    inputs |= {"limit": 5, "order": "name"} | changes
    return {
        "refs": ("SeedSelectLoadReferenceSet", inputs),
        "seen": ("PreviewImage", {"images": ["refs", 1]}),
    }


def load_seed(name, prefix: str = "kept") -> dict:
    return {
        "seed": ("SeedSelectLoadSeed", {"seed_file": name}),
        "kept": ("SeedSelectSaveSeed", {"seed": ["seed", 0], "filename_prefix": prefix}),
    }


def write_seed(server, name: str, **changes) -> str:
    """A seed file in the input folder, with other fields than a seed has; its name for the node."""
    sampling = {"steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "seed": 1}
    if {"guider", "sampler"} & set(changes):
        sampling = {"guider": "CFGGuider", "sampler": "euler", "sigmas": [1.0, 0.0], "seed": 1}
    facts = {key: [] for key in ("semantic", "first_semantic", "total")}
    facts |= {"format": 1, "latent_format": "", "evaluations": 0, "sampling": sampling}
    for key, value in changes.items():
        (sampling if key in sampling else facts)[key] = value
    path = server.base_directory / "input" / f"{name}.seed.safetensors"
    plain = server.base_directory / "plain"
    save_file({"noise": torch.ones(1, 4, 8, 8)}, plain, {"seedselect": json.dumps(facts)})
    plain.rename(path)
    return f"[input] {path.name}"


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_picture_whose_name_cannot_be_printed(server, client, text):
    folder = server.base_directory / "input" / f"pictures {len(text)} {hash(text)}"
    folder.mkdir()
    (folder / f"{text}.png").write_bytes(b"no picture")
    assert "left out" in told(client, load_references(folder.name))
    Image.new("RGB", (8, 8), "red").save(folder / f"readable {text}.png")
    result = run(client, load_references(folder.name))
    assert result.status == "success" and len(result.images("refs")) == 1
    (shown,) = result.outputs["refs"]["text"]
    assert all(line.isprintable() for line in shown.split("\n")) and "left out" in shown


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_folder_whose_name_cannot_be_printed(server, client, text):
    folder = server.base_directory / "input" / f"folder {text}"
    told(client, load_references(folder.name))
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    assert run(client, load_references(folder.name)).status == "success"
    (folder / "a.png").write_bytes(b"no picture")
    told(client, load_references(folder.name))


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", ALL.values(), ids=ALL)
def test_a_field_of_a_seed_file(server, client, field, text):
    name = write_seed(server, "field", **{field: text})
    if text.isprintable():  # names of other packs are no fault
        assert run(client, load_seed(name)).status == "success"
    else:
        assert told(client, load_seed(name)).startswith("seed file: 'field.seed.safetensors'")


@pytest.mark.parametrize("size", [2**19, 2**20, 2**24])
@pytest.mark.parametrize("field", ["scheduler", "latent_format", "note"])
def test_a_field_of_a_megabyte(server, client, field, size):
    name = write_seed(server, "large", **{field: "x" * size})
    if field == "note" and size < 2**20:
        assert run(client, load_seed(name)).status == "success"
    else:
        told(client, load_seed(name))


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_seed_file_whose_name_cannot_be_printed(server, client, text):
    told(client, load_seed(f"[input] name {text}.seed.safetensors"))
    name = write_seed(server, f"name {text}")
    listed = client.get("object_info/SeedSelectLoadSeed")["SeedSelectLoadSeed"]["input"]
    (shown,) = (o for o in listed["required"]["seed_file"][1]["options"] if "name " in o)
    assert shown.isprintable() and run(client, load_seed(shown)).status == "success"
    assert run(client, load_seed(name)).status == "success"
    write_seed(server, f"name {text}", scheduler="\x1b")
    told(client, load_seed(name))
    (server.base_directory / "input" / name.removeprefix("[input] ")).unlink()


VALUES = [*ALL.values(), "\0", "x" * 300, "x" * 2**20, "../x", "/etc", 5, -0.5, True]
VALUES += [{"__value__": ["a"]}, {"__value__": [["a", 0]]}, {"a": 1}]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_any_value_by_api(server, client, value):
    assert "folder" in told(client, load_references(value))
    assert "seed file" in told(client, load_seed(value))
    assert "background" in told(client, load_references("(none)", background=value))
    try:
        result = run(client, load_seed(write_seed(server, "whole"), value))
    except PromptRejected as refusal:
        assert "filename_prefix" in str(refusal)
    else:
        assert result.status == "success"
        assert all(text.isprintable() for text in result.outputs["kept"]["text"])
    outside = {path.name for path in server.base_directory.iterdir()}
    assert not any(name.endswith(".safetensors") for name in outside)
