"""Seeds that travel, in a real browser: in a picture, and in a file of their own."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import host
from comfy_client import ComfyClient
from conftest import HOST, REPO
from gestures import NODE, dropped, emptied, on_screen, only, pixels, require_complete, run_again
from host_install import Host
from seedselect_core.seeds.seed import load_seed
from test_browser import browser, errors, no_errors, page  # noqa: F401

DEMO = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
# A short search, whose own picture is saved with its seed.
SHORT = """format => {
    const find = type => app.graph.nodes.find(node => node.type == type);
    const set = (node, values) => {
        for (const [name, value] of Object.entries(values))
            node.widgets.find(widget => widget.name == name).value = value;
    };
    const search = find("SeedSelectOptimize");
    set(search, {preset: "custom", steps: 4});
    set(search, {"preset.iterations": 2, "preset.first_draws": 1});
    set(find("EmptyLatentImage"), {batch_size: 1});
    const save = LiteGraph.createNode("SeedSelectSaveImageWithSeed");
    set(save, {format});
    app.graph.add(save);
    search.connect(1, save, "images");
    search.connect(0, save, "seed");
}"""
# In the place of the search a node that a picture is dropped on, and what draws from its noise.
LOADED = """() => {
    const find = type => app.graph.nodes.find(node => node.type == type);
    const [load, sample, decode] = [
        "SeedSelectLoadSeed", "SeedSelectSampleFromSeed", "VAEDecode"
    ].map(type => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        return node;
    });
    const search = find("SeedSelectOptimize");
    for (const name of ["model", "positive", "negative"]) {
        const link = app.graph.links.get(search.inputs.find(slot => slot.name == name).link);
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, sample, name);
    }
    const vae = app.graph.links.get(search.inputs.find(slot => slot.name == "vae").link);
    app.graph.getNodeById(vae.origin_id).connect(vae.origin_slot, decode, "vae");
    const save = find("SeedSelectSaveImageWithSeed");
    load.connect(0, sample, "seed");
    sample.connect(0, decode, "samples");
    load.connect(0, save, "seed");
    decode.connect(0, save, "images");
    for (const node of app.graph.nodes.filter(node => [
        "SeedSelectOptimize", "SeedSelectSaveSeed", "SaveImage", "ImageCompare"
    ].includes(node.type)))
        app.graph.remove(node);
    load.pos = [-1000, -1000];  // where nothing else is
    app.canvas.centerOnNode(load);
    return load.id;
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One that remembers nothing from run to run, so that all of a graph runs again."""
    real = Host(HOST, Path(sys.executable), managed=False)
    base = tmp_path_factory.mktemp("comfyui")
    with host.server(["--cpu", "--cache-none"], base_directory=base, host=real) as running:
        ComfyClient(running.url).post("settings", {"Comfy.TutorialCompleted": True})
        yield running


@pytest.fixture(scope="module", params=["png", "webp"])
def made(page, server, request):  # noqa: F811
    """The files of a search whose picture was saved with its seed."""
    page.evaluate("graph => app.loadGraphData(graph)", DEMO)
    require_complete(page, DEMO)
    page.evaluate(SHORT, request.param)
    files = run_again(page, server)
    return {
        "graph": page.evaluate("app.graph.serialize()"),
        "picture": only(files, "SeedSelect_", f".{request.param}"),
        "saved": only(files, "SeedSelect_", ".safetensors"),
        "found": only(files, "found_", ".safetensors"),
        "plain": only(files, "after_", ".png"),
    }


@pytest.mark.parametrize("kind", ["picture", "saved", "found"])
def test_what_is_dropped_on_an_empty_page_restores_the_graph(page, made, kind):  # noqa: F811
    emptied(page)
    dropped(page, made[kind])
    require_complete(page, made["graph"])


def test_a_dropped_picture_is_drawn_again_bit_for_bit(page, server, made):  # noqa: F811
    emptied(page)
    dropped(page, made["picture"])
    require_complete(page, made["graph"])
    files = run_again(page, server)
    again = only(files, "SeedSelect_", made["picture"].suffix)
    assert again != made["picture"] and only(files, "found_", ".safetensors") != made["found"]
    np.testing.assert_array_equal(pixels(again), pixels(made["picture"]))
    assert torch.equal(load_seed(again).noise, load_seed(made["picture"]).noise)


def test_a_picture_dropped_on_load_seed_is_drawn_again_bit_for_bit(page, server, made):  # noqa: F811
    """Without a search: the noise comes out of the picture."""
    page.evaluate("graph => app.loadGraphData(graph)", made["graph"])
    require_complete(page, made["graph"])
    load = page.evaluate(LOADED)
    page.wait_for_timeout(500)  # a node takes what is dropped where it was drawn last
    dropped(page, made["picture"], at=on_screen(page, NODE, load))
    chosen = """name => app.graph.nodes.some(node => node.type == "SeedSelectLoadSeed"
        && node.widgets[0].value == name && node.imgs?.[0].naturalWidth == 64)"""
    page.wait_for_function(chosen, arg=made["picture"].name)
    assert (server.base_directory / "input" / made["picture"].name).is_file()
    files = run_again(page, server)
    assert not any(path.name.startswith("found_") for path in files)
    again = only(files, "SeedSelect_", made["picture"].suffix)
    np.testing.assert_array_equal(pixels(again), pixels(made["picture"]))
    assert torch.equal(load_seed(again).noise, load_seed(made["picture"]).noise)


def test_plain_save_image_tells_what_was_drawn_from(page, made):  # noqa: F811
    with Image.open(made["plain"]) as picture:
        (told,) = json.loads(picture.text["seedselect_noise"]).values()
    noise = load_seed(made["picture"]).noise
    assert told["noise"] == hashlib.sha256(noise.numpy().tobytes()).hexdigest()
    assert told["settings"].startswith("ddim") and told["number"] == 1
    emptied(page)
    dropped(page, made["plain"])
    require_complete(page, made["graph"])
