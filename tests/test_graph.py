"""What the graph around a node tells of where a seed comes from."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfy_execution.graph_utils import is_link

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds.origin import Origin

HOST = {
    "ckpt": ("CheckpointLoaderSimple", {"ckpt_name": "sd\\sdxl.safetensors"}),
    "first": (
        "LoraLoader",
        {"model": ["ckpt", 0], "clip": ["ckpt", 1], "lora_name": "a.safetensors"},
    ),
    "second": ("LoraLoaderModelOnly", {"model": ["first", 0], "lora_name": "b.safetensors"}),
    "pos": ("CLIPTextEncode", {"clip": ["first", 1], "text": "a hand"}),
    "neg": ("CLIPTextEncode", {"clip": ["first", 1], "text": "blurry"}),
    "eyes": ("CLIPVisionLoader", {"clip_name": "clip_vision_h.safetensors"}),
    "empty": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
    "opt": (
        "SeedSelectOptimize",
        {
            "model": ["second", 0],
            "positive": ["pos", 0],
            "negative": ["neg", 0],
            "clip_vision": ["eyes", 0],
            "latent": ["empty", 0],
            "vae": ["ckpt", 2],
        },
    ),
    "save": ("SeedSelectSaveSeed", {"seed": ["opt", 0], "filename_prefix": "x"}),
    "other": ("UNETLoader", {"unet_name": "another.safetensors", "weight_dtype": "default"}),
}
FOUND = {
    "model": "sd/sdxl.safetensors",
    "loras": ("a.safetensors", "b.safetensors"),
    "encoder": "clip_vision_h.safetensors",
}


def api(changes: dict | None = None) -> dict:
    """The graph as an API prompt, with other inputs of some of its nodes."""
    changes = changes or {}
    return {
        key: {"class_type": kind, "inputs": inputs | changes.get(key, {})}
        for key, (kind, inputs) in HOST.items()
    }


@pytest.fixture
def graph(nodes):
    return nodes("graph")


def facts(origin) -> dict:
    return {name: getattr(origin, name) for name in FOUND}


def test_files_and_texts_are_those_that_the_search_hangs_on(graph):
    origin = graph.origin_of(api(), ["opt"])
    assert facts(origin) == FOUND and len(origin.prompt) == 64 and origin.references == ""
    # Ids, titles and the order of inputs are no part of it.
    renamed = {
        f"9{key}": {
            "class_type": node["class_type"],
            "_meta": {"title": "x"},
            "inputs": {
                name: [f"9{value[0]}", value[1]] if is_link(value) else value
                for name, value in reversed(node["inputs"].items())
            },
        }
        for key, node in reversed(api().items())
    }
    assert graph.origin_of(renamed, ["9opt"]) == origin


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"pos": {"text": "a foot"}}, False),
        ({"pos": {"text": "blurry"}, "neg": {"text": "a hand"}}, False),
        ({"empty": {"width": 128}}, True),
        ({"first": {"strength_clip": 0.5}}, True),
        ({"save": {"filename_prefix": "y"}}, True),
    ],
)
def test_the_prompt_is_the_texts_of_both_sides(graph, changes, same):
    before, after = (graph.origin_of(api(given), ["opt"]).prompt for given in (None, changes))
    assert (before == after) == same


def test_what_saves_a_seed_looks_at_what_found_it(graph, nodes, monkeypatch):
    seed = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8), tiny.SAMPLING)
    hidden = SimpleNamespace(prompt=api(), unique_id="save", extra_pnginfo=None)
    made = graph.with_origin(seed, hidden)
    assert facts(made.origin) == FOUND and torch.equal(made.noise, seed.noise)
    # A seed that was loaded keeps where it comes from.
    known = replace(seed, origin=graph.Origin(model="another.safetensors"))
    assert graph.with_origin(known, hidden).origin == known.origin
    monkeypatch.setattr(graph.args, "disable_metadata", True)
    assert graph.with_origin(seed, hidden).origin == seed.origin


@pytest.mark.parametrize("odd", [{}, {"opt": {}}, {"opt": {"inputs": {"model": ["opt", 0]}}}])
def test_graphs_that_say_nothing_tell_nothing(graph, odd):
    for end in ("opt", "gone", None):
        assert graph.origin_of(odd, [end]) == graph.Origin()


def test_names_are_made_fit_for_a_file(graph):
    prompt = api({"ckpt": {"ckpt_name": "x\x1b\n" * 99 + ".gguf"}})
    name = graph.origin_of(prompt, ["opt"]).model
    assert name.isprintable() and len(name) <= 100


def test_differences_are_told_of_what_both_know():
    then = Origin("a", ("b",), "c", "d", "e")
    assert then.differences(then) == then.differences(Origin()) == Origin().differences(then) == []
    assert then.differences(Origin("x", (), "y", "z", "w")) == [
        "model: a then, x here.",
        "LoRAs: b then, none here.",
        "image encoder: c then, y here.",
        "The prompt differs.",
        "The references differ.",
    ]
    assert then.differences(Origin(prompt="d", loras=("b", "f"))) == ["LoRAs: b then, b, f here."]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"model": 5}, {"model": "x" * 101}, {"encoder": "\x1b"}, {"prompt": None}),
        *({"loras": "a"}, {"loras": ("a",) * 101}, {"loras": (5,)}, {"references": ["a"]}),
    ],
)
def test_an_origin_cannot_tell_nonsense(wrong):
    with pytest.raises(SeedSelectError, match=rf"^{next(iter(wrong))}: must be"):
        Origin(**wrong)


def test_a_record_is_left_for_what_saves_plain_pictures(graph, nodes):
    seed = nodes("sockets").Seed(tiny.normal(1, 4, 8, 8), tiny.SAMPLING)
    shared = {"workflow": {}}
    for key in ("1", "2"):
        graph.record(SimpleNamespace(unique_id=key, extra_pnginfo=shared), seed)
    assert shared["seedselect_noise"].keys() == {"1", "2"} and shared["workflow"] == {}
    graph.record(SimpleNamespace(unique_id="1", extra_pnginfo=None), seed)  # over the API


@pytest.mark.parametrize(
    ("text", "kept"), [(None, 100), ("0", 0), ("7", 7), ("-1", 100), ("\x1b", 100)]
)
def test_how_many_are_kept_is_a_setting_of_the_machine(nodes, monkeypatch, caplog, text, kept):
    rescue = nodes("rescue")
    monkeypatch.delenv(rescue.VARIABLE, raising=False)
    if text is not None:
        monkeypatch.setenv(rescue.VARIABLE, text)
    assert rescue.kept() == kept
    assert bool(caplog.records) == (text in ("-1", "\x1b")) and "\x1b" not in caplog.text
