"""What a user does on ComfyUI's page with mouse, keyboard and files, and what the page shows."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import TimeoutError, expect

from comfy_client import ComfyClient

# Milliseconds that a page or a run may take, far more than it needs on a busy machine.
PATIENCE = 600_000
# Texts of the dialogs with which the page reports nodes that it does not know.
COMPLAINTS = ("Missing Node", "Some Nodes Are Missing", "Unsupported node")
MIME = {".png": "image/png", ".webp": "image/webp", ".safetensors": ""}
# Where a point of the graph is on the screen; a slot, and the middle of a widget and of a node.
ON_SCREEN = """([x, y]) => {
    const {scale, offset} = app.canvas.ds;
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale];
}"""
SLOT = """([id, side, name]) => {
    const node = app.graph.getNodeById(id);
    const slot = node[side].findIndex(slot => slot.name == name || slot.label == name);
    return [...(side == "inputs" ? node.getInputPos(slot) : node.getOutputPos(slot))];
}"""
WIDGET = """([id, name]) => {
    const node = app.graph.getNodeById(id);
    const widget = node.widgets.find(widget => widget.name == name);
    return [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10];
}"""
NODE = """([id]) => {
    const {pos, size} = app.graph.getNodeById(id);
    return [pos[0] + size[0] / 2, pos[1] + size[1] / 2];
}"""
FILES = """files => {
    const transfer = new DataTransfer();
    for (const [name, type, data] of files)
        transfer.items.add(new File([new Uint8Array(data)], name, {type}));
    return transfer;
}"""


def require_complete(page, graph: dict) -> None:
    """Every node of `graph` is open in the page, of a type that it knows, without a complaint."""
    types = sorted(node["type"] for node in graph["nodes"])
    page.wait_for_function("count => app.graph.nodes.length == count", arg=len(types))
    assert page.evaluate("app.graph.nodes.map(node => node.type).sort()") == types
    unknown = page.evaluate(
        "app.graph.nodes.map(n => n.type).filter(type => !LiteGraph.registered_node_types[type])"
    )
    assert not unknown, unknown
    page.wait_for_timeout(1000)  # for a dialog to show
    shown = page.inner_text("body")
    complaints = [text for text in COMPLAINTS if text.lower() in shown.lower()]
    assert not complaints, complaints
    links = page.evaluate("Array.from(app.graph.links.keys()).length")
    assert links == len(graph["links"])


def emptied(page) -> None:
    """An empty page, in a tab of its own."""
    page.get_by_label("Create a new blank workflow").first.click()
    page.wait_for_function("app.graph.nodes.length == 0")
    page.wait_for_timeout(1000)  # for the canvas to hear the mouse again


def placed(page, title: str, kind: str, at: tuple[int, int]) -> int:
    """Put a node there that the page's search finds by its title; its id."""
    before = page.evaluate("app.graph.nodes.length")
    box = page.get_by_placeholder("Add a node...")
    for _ in range(200):  # the canvas may be busy, and hear two single clicks
        page.mouse.dblclick(*at)
        with contextlib.suppress(TimeoutError):
            box.wait_for(timeout=3000)
            break
    box.press_sequentially(title)
    # The list follows the last letter after a while.
    expect(page.get_by_role("option").first).to_contain_text(title, timeout=PATIENCE)
    page.wait_for_timeout(500)
    page.keyboard.press("Enter")
    page.wait_for_function("count => app.graph.nodes.length == count", arg=before + 1)
    # It hangs at the mouse until the next click.
    page.wait_for_function("app.graph.nodes.some(node => node.flags.ghost)")
    page.wait_for_timeout(300)
    id, found = page.evaluate(
        "app.graph.nodes.filter(node => node.flags.ghost).map(node => [node.id, node.type])[0]"
    )
    page.mouse.click(*at)
    page.wait_for_function("!app.graph.nodes.some(node => node.flags.ghost)")
    page.wait_for_timeout(700)  # or the next double click would begin with this one
    assert found == kind
    return id


def on_screen(page, finding: str, *what) -> tuple[float, float]:
    return tuple(page.evaluate(ON_SCREEN, page.evaluate(finding, list(what))))


def linked(page, source: int, output: str, target: int, name: str) -> None:
    """Drag a link from an output to an input."""
    page.mouse.move(*on_screen(page, SLOT, source, "outputs", output))
    page.mouse.down()
    page.mouse.move(*on_screen(page, SLOT, target, "inputs", name), steps=5)
    page.mouse.up()


def given(page, id: int, values: dict) -> None:
    """Set widgets by the page's own objects."""
    page.evaluate(
        """([id, values]) => {
            const widgets = app.graph.getNodeById(id).widgets;
            for (const [name, value] of Object.entries(values))
                widgets.find(widget => widget.name == name).value = value;
        }""",
        [id, values],
    )


def carrying(page, paths: Sequence[Path]):
    """What the mouse or the clipboard holds: these files."""
    files = [[path.name, MIME[path.suffix], list(path.read_bytes())] for path in paths]
    return page.evaluate_handle(FILES, files)


def dropped(page, *paths: Path, at: tuple[float, float] = (10, 900)) -> None:
    """Drop files on the page, as a mouse would."""
    carried = {"dataTransfer": carrying(page, paths), "clientX": at[0], "clientY": at[1]}
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("#graph-canvas", event, carried | {"bubbles": True})


def ended(page, client: ComfyClient, before: int) -> dict:
    """Wait for the good end of the run that follows so many in the history; what is told of it."""
    for _ in range(PATIENCE // 500):
        page.wait_for_timeout(500)
        if len(history := client.get("history")) > before:
            *_, done = history.values()
            assert done["status"]["status_str"] == "success", done["status"]
            return done
    raise AssertionError(f"still at work: {client.get('queue')}")


def run(page, client: ComfyClient) -> dict:
    """Run what is open; what the host tells of it."""
    before = len(client.get("history"))
    page.get_by_test_id("queue-button").click()
    return ended(page, client, before)


def run_again(page, server) -> list[Path]:
    """Run what is open; the files that came."""
    output = server.base_directory / "output"
    before = set(output.rglob("*.*"))
    run(page, ComfyClient(server.url))
    return sorted(set(output.rglob("*.*")) - before)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def only(files: list[Path], start: str, ending: str) -> Path:
    (found,) = (p for p in files if p.name.startswith(start) and p.name.endswith(ending))
    return found
