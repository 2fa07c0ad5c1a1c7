"""The workflows in a real browser: every node is there, and the pocket one draws its pictures."""

import json
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import host
from api_workflow import to_api
from comfy_client import ComfyClient
from conftest import HOST, REPO
from host_install import Host

WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))
# Nothing outside this machine is looked up, let alone reached.
SWITCHES = [
    *"--no-sandbox --disable-gpu --no-first-run --no-proxy-server --disable-sync".split(),
    *"--disable-background-networking --disable-component-update".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# Texts of the dialogs with which the page reports nodes that it does not know.
COMPLAINTS = ("Missing Node", "Some Nodes Are Missing", "Unsupported node")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    real = Host(HOST, Path(sys.executable), managed=False)
    base = tmp_path_factory.mktemp("comfyui")
    with host.server(["--cpu"], base_directory=base, host=real) as running:
        # The page of a first visit would open the templates by itself.
        ComfyClient(running.url).post("settings", {"Comfy.TutorialCompleted": True})
        yield running


@pytest.fixture(scope="module")
def browser():
    program = host.find_browser()
    if program is None:
        pytest.fail(host.BROWSER_HELP, pytrace=False)
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=program, args=SWITCHES)
        yield running
        running.close()


@pytest.fixture(scope="module")
def errors():
    """Console errors that name this pack, and uncaught ones."""
    return []


@pytest.fixture(scope="module")
def page(server, browser, errors):
    """ComfyUI's page."""

    def note(message):
        if message.type == "error" and "SeedSelect" in f"{message.text} {message.location}":
            errors.append(message.text)

    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", note)
    page.goto(server.url, timeout=300_000)
    # The graph that the page opens by itself: what comes later is not overwritten by it.
    page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0", timeout=300_000)
    yield page
    page.close()


@pytest.fixture(autouse=True)
def no_errors(errors):
    errors.clear()
    yield
    assert not errors


def require_complete(page, graph: dict) -> None:
    """Every node of `graph` is open in the page, of a type that it knows, without a complaint."""
    types = sorted(node["type"] for node in graph["nodes"])
    page.wait_for_function("count => app.graph.nodes.length == count", arg=len(types))
    assert page.evaluate("app.graph.nodes.map(node => node.type).sort()") == types
    unknown = page.evaluate(
        "app.graph.nodes.map(n => n.type).filter(type => !LiteGraph.registered_node_types[type])"
    )
    assert not unknown
    page.wait_for_timeout(1000)  # for a dialog to show
    shown = page.inner_text("body")
    assert not [text for text in COMPLAINTS if text.lower() in shown.lower()]
    links = page.evaluate("Array.from(app.graph.links.keys()).length")
    assert links == len(graph["links"])


def test_template_browser_opens_the_pocket_workflow(page):
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Templates").first.click()
    page.get_by_text(host.PACK).first.click()
    thumbnail = page.get_by_test_id("template-workflow-pocket_demo")
    thumbnail.wait_for()
    for path in WORKFLOWS:
        card = page.get_by_test_id(f"template-workflow-{path.stem}")
        card.scroll_into_view_if_needed()  # pictures out of sight are not loaded
        picture = card.locator("img").first.element_handle()
        page.wait_for_function("image => image.complete && image.naturalWidth >= 200", arg=picture)
    thumbnail.click()
    require_complete(page, json.loads((REPO / "workflows/pocket_demo.json").read_text("utf-8")))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_opens_and_converts_as_the_page_does(page, server, path):
    graph = json.loads(path.read_text(encoding="utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    require_complete(page, graph)
    theirs = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert to_api(graph, ComfyClient(server.url).get("object_info")) == theirs


@pytest.mark.parametrize("kind", ["Optimize", "DiverseSet", "TradeoffSweep"])
def test_a_new_node_keeps_its_number_from_run_to_run(page, kind):
    """Another would search anew once a node is added behind it, and lose what was found."""
    after_the_number = """kind => {
        const widgets = LiteGraph.createNode(kind).widgets;
        return widgets[widgets.findIndex(widget => widget.name == "seed") + 1].value;
    }"""
    assert page.evaluate(after_the_number, f"SeedSelect{kind}") == "fixed"
    assert page.evaluate(after_the_number, "KSampler") == "randomize"  # where one is at all


def test_a_graph_with_an_unknown_node_is_noticed(page, errors):
    """The check above must be able to fail."""
    # One without a checkpoint: a missing model would be complained of first.
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    graph["nodes"][0]["type"] = "SeedSelectNoSuchNode"
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    with pytest.raises(AssertionError, match="SeedSelectNoSuchNode"):
        require_complete(page, graph)
    page.wait_for_function(
        "texts => texts.some(text => document.body.innerText.toLowerCase().includes(text))",
        arg=[text.lower() for text in COMPLAINTS],
    )
    errors.clear()


def test_pocket_workflow_runs_in_the_page(page):
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    require_complete(page, graph)
    page.evaluate(
        """() => {
            const set = (type, values) => {
                const node = app.graph.nodes.find(node => node.type == type);
                for (const [name, value] of Object.entries(values))
                    node.widgets.find(widget => widget.name == name).value = value;
            };
            set("SeedSelectOptimize", {preset: "custom", iterations: 2, candidates: 1, steps: 4});
            set("EmptyLatentImage", {batch_size: 2});
        }"""
    )
    page.get_by_test_id("queue-button").click()
    # Two pictures before, and two after, each loaded by the browser.
    page.wait_for_function(
        """() => {
            const nodes = app.graph.nodes.filter(node => node.type == "SaveImage");
            const loaded = image => image.complete && image.naturalWidth == 64;
            const full = node => node.imgs?.length == 2 && node.imgs.every(loaded);
            return nodes.length == 2 && nodes.every(full);
        }""",
        timeout=120_000,
    )
    texts = page.evaluate(
        """() => app.graph.nodes.find(node => node.type == "SeedSelectOptimize")
            .widgets.map(widget => String(widget.value))"""
    )
    assert any("semantic loss" in text for text in texts)
