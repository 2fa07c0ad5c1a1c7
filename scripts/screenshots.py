"""Take a picture of each whole workflow in the web page, to look at before it is published.

usage: PYTHON scripts/screenshots.py [--nodes-2] FOLDER [NAME ..]   (PYTHON: the host's)

With --nodes-2 they are drawn as the page's setting "Nodes 2.0" draws them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

import host
from comfy_client import ComfyClient

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
# Pixels of the page that menus cover at its left and upper side, and an edge around the graph.
LEFT, TOP, EDGE = 320, 100, 20
SCALE = 0.9

# What stays visible: the graph, without menus and dialogs over it.
SHOWN = ("canvas", ".dom-widget", "[data-testid=transform-pane]")
BOUNDS = """() => {
    const boxes = [...app.graph.groups, ...app.graph.nodes].map(each => each.boundingRect);
    const [left, top] = [0, 1].map(axis => Math.min(...boxes.map(box => box[axis])));
    const [right, lower] = [0, 1].map(
        axis => Math.max(...boxes.map(box => box[axis] + box[axis + 2])));
    return [left, top, right - left, lower - top];
}"""
MOVE = """([left, top, x, y, scale]) => {
    const box = app.canvas.canvas.getBoundingClientRect();
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [(x - box.left) / scale - left, (y - box.top) / scale - top];
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
}"""


def take(page, path: Path) -> None:
    """Save the whole graph that is open in the page as a picture."""
    left, top, width, height = page.evaluate(BOUNDS)
    width, height = (round(side * SCALE) + 2 * EDGE for side in (width, height))
    page.set_viewport_size({"width": LEFT + width + 100, "height": TOP + height + 100})
    page.wait_for_timeout(500)
    page.evaluate(MOVE, [left, top, LEFT + EDGE, TOP + EDGE, SCALE])
    page.wait_for_timeout(1500)  # for everything to be drawn
    page.screenshot(path=path, clip={"x": LEFT, "y": TOP, "width": width, "height": height})


def main(folder: str, names: list[str], nodes_2: bool) -> int:
    browser_program = host.find_browser()
    if browser_program is None:
        print(host.BROWSER_HELP, file=sys.stderr)
        return 1
    Path(folder).mkdir(parents=True, exist_ok=True)
    with host.server(["--cpu"]) as server, sync_playwright() as play:
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes_2}
        ComfyClient(server.url).post("settings", {**settings, "Comfy.Minimap.Visible": False})
        browser = play.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(server.url, timeout=120_000)
        page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0", timeout=120_000)
        page.add_style_tag(content="body * { visibility: hidden }")
        for shown in SHOWN:
            page.add_style_tag(content=f"{shown}, {shown} * {{ visibility: visible }}")
        for name in names or [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]:
            graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
            page.evaluate("graph => app.loadGraphData(graph)", graph)
            page.wait_for_function(
                "count => app.graph.nodes.length == count", arg=len(graph["nodes"])
            )
            take(page, Path(folder) / f"{name}.png")
        browser.close()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--nodes-2", action="store_true")
    chosen = parser.parse_args()
    sys.exit(main(chosen.folder, chosen.names, chosen.nodes_2))
