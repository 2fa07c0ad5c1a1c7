"""Draw the thumbnails of the workflows: part of each graph as the web page shows it.

usage: PYTHON scripts/thumbnails.py [NAME ..]      (PYTHON: the host's; see host.py)

The toy models' workflows are run first, so that their pictures are on them.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import host
from comfy_client import ComfyClient

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SIZE = 960
SIDE = 480
# Toy workflows, and what is changed so that each takes about a minute.
QUICK = {"preset": "quick"}
RUNS = {
    "pocket_demo": {},
    "pocket_rare_concept": {},
    "pocket_advanced": {},
    "pocket_interpolate_seeds": {},
    "pocket_diverse_set": {"SeedSelectDiverseSet": QUICK},
    "pocket_tradeoff_sweep": {"SeedSelectTradeoffSweep": QUICK},
    "toy_hands": {},
}
# Groups whose width a thumbnail shows, how far below their upper edge it begins, and how much is
# cut off at either side.
AREAS = {
    "pocket_demo": (["Before and after"], 660, -40),
    "pocket_rare_concept": (["Before and after"], 660, -40),
    "pocket_advanced": (["Before and after"], 660, -40),
    "pocket_interpolate_seeds": (["From the first"], 430, 200),
    "pocket_diverse_set": (["Pictures that differ"], 190, 40),
    "pocket_tradeoff_sweep": (["What the two losses"], 0, 0),
    "toy_hands": (["Before and after"], 660, -40),
    "joint_redux_flux_dev": (["Redux", "SeedSelect"], 0, 0),
    "interpolate_seeds": (["Prompt", "Two pictures"], 0, 0),
}
DEFAULT_AREA = (["Prompt", "SeedSelect"], 0, 0)

FRAME = """([titles, below, aside]) => {
    const groups = app.graph.groups.filter(g => titles.some(title => g.title.startsWith(title)));
    const left = Math.min(...groups.map(g => g.pos[0])) + aside;
    const top = Math.min(...groups.map(g => g.pos[1])) + below;
    const right = Math.max(...groups.map(g => g.pos[0] + g.size[0])) - aside;
    const box = app.canvas.canvas.getBoundingClientRect();
    const scale = SIZE / (right - left);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [(320 - box.left) / scale - left, (80 - box.top) / scale - top];
    app.canvas.setDirty(true, true);
}""".replace("SIZE", str(SIZE))
CHANGE = """changes => {
    for (const [type, values] of Object.entries(changes))
        for (const [name, value] of Object.entries(values))
            app.graph.nodes.find(node => node.type == type)
                .widgets.find(widget => widget.name == name).value = value;
}"""
ALL_SHOWN = """() => app.graph.nodes.filter(node => node.type == "SaveImage").every(
    node => node.imgs?.length && node.imgs.every(image => image.complete && image.naturalWidth))"""


def main(names: list[str]) -> int:
    browser_program = host.find_browser()
    if browser_program is None:
        print(host.BROWSER_HELP, file=sys.stderr)
        return 1
    with host.server(["--cpu"]) as server, sync_playwright() as play:
        settings = {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": False}
        ComfyClient(server.url).post("settings", settings)
        browser = play.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
        for name in names or [path.stem for path in sorted(WORKFLOWS.glob("*.json"))]:
            page = browser.new_page(viewport={"width": 320 + SIZE + 320, "height": 80 + SIZE + 120})
            page.goto(server.url, timeout=120_000)
            page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0", timeout=120_000)
            graph = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
            page.evaluate("graph => app.loadGraphData(graph)", graph)
            page.wait_for_function(
                "count => app.graph.nodes.length == count", arg=len(graph["nodes"])
            )
            page.wait_for_timeout(2000)
            area = list(AREAS.get(name, DEFAULT_AREA))
            page.evaluate(FRAME, area)  # the page loads no pictures that are out of sight
            if name in RUNS:
                page.evaluate(CHANGE, RUNS[name])
                page.get_by_test_id("queue-button").click()
                page.wait_for_function(ALL_SHOWN, timeout=600_000)
            # Only the graph: no menus and dialogs over it.
            page.add_style_tag(content="body * { visibility: hidden }")
            page.add_style_tag(content="canvas, .dom-widget, .dom-widget * { visibility: visible }")
            page.evaluate(FRAME, area)
            page.wait_for_timeout(1500)
            clip = {"x": 320, "y": 80, "width": SIZE, "height": SIZE}
            shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
            shot.resize((SIDE, SIDE), Image.LANCZOS).save(WORKFLOWS / f"{name}.jpg", quality=85)
            page.close()
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
