"""Draw docs/graph.png: a workflow of the toy model after its run, inside the picture.

usage: PYTHON scripts/graph_picture.py      (PYTHON: the host's; see host.py)

Dropped on ComfyUI's page the picture opens the workflow. Draw it anew when that has changed.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import sync_playwright

import host
from comfy_client import ComfyClient

REPO = Path(__file__).resolve().parent.parent
WORKFLOW = REPO / "workflows" / "pocket_demo.json"
PICTURE = REPO / "docs" / "graph.png"
WIDTH = 1800
LEFT, TOP = 320, 100  # pixels of the page that menus cover
EDGE = 20
COLORS = 192
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.VueNodes.Enabled": True,  # with it Compare Images shows both pictures
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeLifeCycleBadgeMode": "None",
}
DRAWN = """() => app.graph.nodes.filter(node => node.type == "SaveImage").every(
    node => app.nodeOutputs[node.id]?.images?.length)"""
# Fits nodes and groups into the given width, and gives the height.
FRAME = """([left, top, width, edge]) => {
    const boxes = [...app.graph.nodes, ...app.graph.groups].map(each => each.boundingRect
        ?? [...each.pos, ...each.size]);
    const west = Math.min(...boxes.map(box => box[0])) - edge;
    const north = Math.min(...boxes.map(box => box[1])) - edge;
    const east = Math.max(...boxes.map(box => box[0] + box[2])) + edge;
    const south = Math.max(...boxes.map(box => box[1] + box[3])) + edge;
    const box = app.canvas.canvas.getBoundingClientRect();
    const scale = width / (east - west);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [(left - box.left) / scale - west, (top - box.top) / scale - north];
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
    return Math.ceil((south - north) * scale);
}"""


def drawn(page, graph: dict) -> Image.Image:
    """The graph after its run, without menus."""
    page.evaluate("graph => app.loadGraphData(graph)", graph)
    page.wait_for_function("count => app.graph.nodes.length == count", arg=len(graph["nodes"]))
    page.wait_for_timeout(2000)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(DRAWN, timeout=600_000)
    page.add_style_tag(content="body * { visibility: hidden }")
    seen = ("canvas", ".dom-widget", ".dom-widget *", "[data-node-id]", "[data-node-id] *")
    page.add_style_tag(content=f"{', '.join(seen)} {{ visibility: visible }}")
    height = page.evaluate(FRAME, [LEFT, TOP, WIDTH, EDGE])
    page.wait_for_timeout(3000)
    clip = {"x": LEFT, "y": TOP, "width": WIDTH, "height": height}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def main() -> int:
    browser_program = host.find_browser()
    if browser_program is None:
        print(host.BROWSER_HELP, file=sys.stderr)
        return 1
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    with host.server(["--cpu"]) as server, sync_playwright() as play:
        ComfyClient(server.url).post("settings", SETTINGS)
        browser = play.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": LEFT + WIDTH + 320, "height": 1400})
        page.goto(server.url, timeout=120_000)
        page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0", timeout=120_000)
        picture = drawn(page, graph)
        browser.close()
    texts = PngInfo()
    texts.add_text("workflow", json.dumps(graph))
    small = picture.quantize(COLORS, dither=Image.Dither.NONE)
    small.save(PICTURE, optimize=True, pnginfo=texts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
