"""The workflows and new nodes in a real browser."""

import json
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

import host
from api_workflow import to_api
from comfy_client import ComfyClient
from conftest import HOST, REPO
from gestures import COMPLAINTS, PATIENCE, require_complete
from host_install import Host

WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))
# Nothing outside this machine is looked up, let alone reached.
SWITCHES = [
    *"--no-sandbox --disable-gpu --no-first-run --no-proxy-server --disable-sync".split(),
    *"--disable-background-networking --disable-component-update".split(),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


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
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", note)
    page.goto(server.url)
    # The graph that the page opens by itself: what comes later is not overwritten by it.
    page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0")
    yield page
    page.close()


@pytest.fixture(autouse=True)
def no_errors(errors):
    errors.clear()
    yield
    assert not errors


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


# Inputs that a new node shows, and how tall it is: a KSampler has 10 and 292.
SIZES = {
    "SeedSelectLoadReferenceSet": (9, 290),
    "SeedSelectOptimize": (14, 380),
    "SeedSelectOptimizeAdvanced": (10, 260),
    "SeedSelectSampleFromSeed": (6, 170),
    "SeedSelectDiverseSet": (16, 430),
    "SeedSelectTradeoffSweep": (15, 400),
}


@pytest.mark.parametrize("kind", SIZES)
def test_a_new_node_is_small(page, kind):
    page.evaluate("app.graph.clear()")
    page.evaluate("kind => app.graph.add(LiteGraph.createNode(kind))", kind)
    page.wait_for_timeout(300)  # for the widgets to be laid out
    inputs, height = page.evaluate(
        "[app.graph.nodes[0].inputs.filter(i => i.name != 'upload').length,"
        " app.graph.nodes[0].size[1] + LiteGraph.NODE_TITLE_HEIGHT]"
    )
    assert inputs <= SIZES[kind][0] and height <= SIZES[kind][1]


def test_custom_shows_its_settings_in_an_artist_s_words_and_extras_their_sockets(page):
    page.evaluate("app.graph.clear()")
    labels = page.evaluate(
        """() => {
            const node = LiteGraph.createNode("SeedSelectOptimize");
            app.graph.add(node);
            for (const [name, value] of [["preset", "custom"], ["extras", "on"]])
                node.widgets.find(widget => widget.name == name).value = value;
            return [...node.widgets, ...node.inputs].map(each => each.label || each.name);
        }"""
    )
    words = {"start number", "first_draws", "how_far_degrees", "likeness_what_it_is", "fine_tuning"}
    assert words | {"start", "contrast", "contrast_prompt", "search_vae"} <= set(labels)
    assert "learning_rate" not in labels


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
