"""A search inside a subgraph, in a real browser: the blueprint, and what is seen of the search."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import host
from comfy_client import ComfyClient
from conftest import HOST, REPO
from gestures import run
from host_install import Host
from test_browser import browser, errors, no_errors, page  # noqa: F401

BLUEPRINT = "Find a seed"
ENDLESS = {"preset": "thorough", "steps": 20}
# What is set for a short search, by the names of the widgets.
SHORT = {"preset": "quick", "steps": 4}
COMMON = {"prompt": "a red letter S on yellow", "width": 64, "height": 64, "seed": 3}
# Connects the toy model to the subgraph, and its pictures to a node that shows them.
CONNECT = """() => {
    const make = (type, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [-600, y];
        app.graph.add(node);
        return node;
    };
    const find = app.graph.nodes[0];
    const [model, letters, pictures] = [
        "SeedSelectLoadPocketModel", "SeedSelectPocketReferences", "SeedSelectLoadReferenceSet"
    ].map((type, i) => make(type, 250 * i));
    letters.connect(0, pictures, "images");
    pictures.connect(0, find, "references");
    ["model", "clip", "vae", "clip_vision"].forEach(
        (name, slot) => model.connect(slot, find, name));
    ["images", "before"].forEach((name, i) => {
        const end = make("PreviewImage", 800 + 300 * i);
        end.title = name;
        find.connect(name, end, 0);
    });
}"""
SET = """values => {
    for (const [name, value] of Object.entries(values))
        app.graph.nodes[0].widgets.find(widget => widget.name == name).value = value;
}"""
# The page forgets what was set on a subgraph when it unpacks it, so that it is set again.
FLAT = """values => {
    app.canvas.selectItems([app.graph.nodes[0]]);
    app.graph.unpackSubgraph(app.graph.nodes[0]);
    for (const node of app.graph.nodes)
        for (const widget of node.widgets ?? []) {
            const name = node.title == "Prompt" ? "prompt" : widget.name;
            if (name in values) widget.value = values[name];
        }
}"""
# What the page shows of a node: the picture of the preview, and the text of the search.
PREVIEW = """type => {
    const node = app.canvas.graph.nodes.find(node => node.type == type || node.isSubgraphNode());
    const shown = document.querySelector(`[data-node-id="${node.id}"] img`);
    return shown?.checkVisibility() && shown.naturalHeight > 512 ? shown.src : null;
}"""
TEXT = """text => Array.from(document.querySelectorAll("[data-node-id]")).some(
    node => node.checkVisibility() && node.innerText.includes(text))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """With Nodes 2.0: the page's older way of drawing shows no preview on a subgraph, of nobody."""
    real = Host(HOST, Path(sys.executable), managed=False)
    base = tmp_path_factory.mktemp("comfyui")
    with host.server(["--cpu"], base_directory=base, host=real) as running:
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": True}
        ComfyClient(running.url).post("settings", settings)
        yield running


@pytest.fixture
def placed(page):  # noqa: F811
    """The page with nothing but the blueprint in it, taken from the library and connected."""
    page.keyboard.press("Escape")
    page.evaluate("app.graph.clear()")
    if not page.get_by_placeholder("Search").first.is_visible():
        page.keyboard.press("n")
    page.get_by_placeholder("Search").first.fill(BLUEPRINT)
    page.get_by_text(BLUEPRINT, exact=True).last.click()
    page.mouse.move(1000, 400)
    page.mouse.click(1000, 400)
    page.wait_for_function("app.graph.nodes.length == 1 && app.graph.nodes[0].isSubgraphNode()")
    page.evaluate(CONNECT)
    page.evaluate(SET, COMMON | SHORT)
    return page


def drawn(page, client) -> dict[str, bytes]:  # noqa: F811
    """Run what is open; pixels of pictures by the title of the node that shows them."""
    done = run(page, client)
    titles = {key: node["_meta"]["title"] for key, node in done["prompt"][2].items()}
    return {
        titles[key]: Image.open(io.BytesIO(client.fetch(shown))).tobytes()
        for key, output in done["outputs"].items()
        if titles[key] in ("images", "before")
        for shown in output["images"]
    }


def test_the_host_lists_the_blueprint(server):
    client = ComfyClient(server.url)
    listed = client.get("global_subgraphs")
    (key,) = [key for key, entry in listed.items() if entry["source"] == "custom_node"]
    assert listed[key]["name"] == BLUEPRINT and "SeedSelect" in listed[key]["info"]["node_pack"]
    data = json.loads(client.get(f"global_subgraphs/{key}")["data"])
    assert data == json.loads((REPO / f"subgraphs/{BLUEPRINT}.json").read_text(encoding="utf-8"))


def test_the_blueprint_finds_what_the_flat_graph_finds(server, placed):
    client = ComfyClient(server.url)
    within = drawn(placed, client)
    assert within.keys() == {"images", "before"} and within["images"] != within["before"]
    placed.evaluate(FLAT, COMMON | SHORT)
    assert "SeedSelectOptimize" in placed.evaluate("app.graph.nodes.map(node => node.type)")
    client.post("free", {"unload_models": True, "free_memory": True})
    assert drawn(placed, client) == within


def test_what_is_set_on_the_blueprint_is_what_the_search_gets(placed):
    placed.evaluate(SET, {"batch_size": 3, "cfg": 5, "negative_prompt": "a letter"})
    prompt = placed.evaluate("async () => (await app.graphToPrompt()).output")
    nodes = {node["_meta"]["title"]: node["inputs"] for node in prompt.values()}
    search = nodes["SeedSelect Optimize"]
    assert search | {"preset": "quick", "cfg": 5, "steps": 4, "seed": 3} == search
    assert nodes["Size, and number of seeds"] == {"width": 64, "height": 64, "batch_size": 3}
    assert nodes["Prompt"]["text"] == COMMON["prompt"]
    assert nodes["Negative prompt"]["text"] == "a letter"


def test_preview_text_and_what_cancel_says_are_seen(server, placed):
    client = ComfyClient(server.url)
    placed.evaluate(SET, ENDLESS)
    placed.get_by_test_id("queue-button").click()
    search = "SeedSelectOptimize"
    # From outside: the preview, with the text below it.
    first = placed.wait_for_function(PREVIEW, arg=search).json_value()
    # From within.
    placed.evaluate("app.canvas.openSubgraph(app.graph.nodes[0].subgraph, app.graph.nodes[0])")
    placed.wait_for_function(TEXT, arg="the references among themselves")
    placed.wait_for_function(PREVIEW, arg=search)
    client.post("interrupt", {})
    placed.wait_for_function(TEXT, arg="Stopped. The best seed so far is in the output folder")
    placed.evaluate("app.canvas.setGraph(app.rootGraph)")
    last = placed.wait_for_function(PREVIEW, arg=search).json_value()
    assert last != first
