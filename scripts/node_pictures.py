"""Draw the nodes' pictures for their help pages: each as the web page shows a new one.

usage: PYTHON scripts/node_pictures.py [NODE ..]      (PYTHON: the host's; see host.py)
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

import host
from comfy_client import ComfyClient

DOCS = Path(__file__).resolve().parent.parent / "web" / "docs"
EDGE = 12  # pixels around a node
WIDTH = 270  # of a node, at least: a short one would cut its title off
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.VueNodes.Enabled": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeLifeCycleBadgeMode": "None",
}
# Pixels of the page that menus cover at its left and upper side.
LEFT, TOP = 320, 100
# Puts a new node there, and gives its width and height with the title.
PLACE = """([kind, left, top, width]) => {
    app.graph.clear();
    const node = LiteGraph.createNode(kind);
    app.graph.add(node);
    node.setSize([Math.max(node.size[0], width), node.size[1]]);
    const box = app.canvas.canvas.getBoundingClientRect();
    node.pos = [0, 0];
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [left - box.left, top - box.top + LiteGraph.NODE_TITLE_HEIGHT];
    app.canvas.deselectAll();
    app.canvas.setDirty(true, true);
    return [node.size[0], node.size[1] + LiteGraph.NODE_TITLE_HEIGHT];
}"""


def main(nodes: list[str]) -> int:
    browser_program = host.find_browser()
    if browser_program is None:
        print(host.BROWSER_HELP, file=sys.stderr)
        return 1
    with host.server(["--cpu"]) as server, sync_playwright() as play:
        ComfyClient(server.url).post("settings", SETTINGS)
        browser = play.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(server.url, timeout=120_000)
        page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0", timeout=120_000)
        # Only the graph: no menus and dialogs over it.
        page.add_style_tag(content="body * { visibility: hidden }")
        page.add_style_tag(content="canvas, .dom-widget, .dom-widget * { visibility: visible }")
        for node in nodes or sorted(path.stem for path in DOCS.glob("*.md")):
            width, height = page.evaluate(PLACE, [node, LEFT, TOP, WIDTH])
            page.wait_for_timeout(1000)  # for its widgets to be laid out
            clip = {"x": LEFT - EDGE, "y": TOP - EDGE}
            clip |= {"width": width + 2 * EDGE, "height": height + 2 * EDGE}
            page.screenshot(clip=clip, path=DOCS / f"{node}.png")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
