"""The whole method in a real ComfyUI: the four letters that the toy model draws worst; or hands.

usage: python3 scripts/host.py demo [--output demo_output] [--letters 4] [--only hands]

Starts the host headless, queues workflows/pocket_demo.json over its HTTP API for the letters seen
in the fewest fonts, eight seeds each, and writes into the output folder: `before/` and `after/`
(64 x 64 PNG files), `contact_sheet.png` (references, before, after; framed green where both judges
read the letter) and `report.json`. With `--only hands` the same for the four gestures seen in the
fewest poses, four seeds each, into `contact_sheet_hands.png` (green: well-formed).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

import host
from api_workflow import find, to_api
from comfy_client import ComfyClient, Event

if TYPE_CHECKING:
    from demo_worlds import Concept, World

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))

MOST = 4


def run_concept(client: ComfyClient, prompt: dict, name: str) -> dict:
    """Queue one concept, show its progress, and fetch pictures and the seed's own account."""
    optimize = find(prompt, "SeedSelectOptimize")
    state = {"share": 0.0, "text": ""}

    def show(event: Event) -> None:
        if event.node == optimize and event.kind in ("progress", "text"):
            if event.kind == "progress":
                state["share"] = event.value / max(1, event.maximum)
            else:
                state["text"] = event.text
            if sys.stdout.isatty():
                line = f"  {name} {state['share']:4.0%} {state['text']}"
                print(f"\r{line:<100.100}", end="", flush=True)

    began = time.monotonic()
    result = client.run(prompt, show)
    seconds = time.monotonic() - began
    if result.status != "success":
        raise SystemExit(f"{name}: {result.error.get('exception_message', result.status)}")
    pictures = {
        title: [
            Image.open(io.BytesIO(client.fetch(image))).convert("RGB")
            for image in result.images(find(prompt, "SaveImage", title))
        ]
        for title in ("Before", "After")
    }
    shown = result.outputs[find(prompt, "SeedSelectSaveSeed")]["text"][0]
    return {"seconds": seconds, "pictures": pictures, "seed_file": shown}


def read_account(output: Path, shown: str) -> dict:
    """What the saved seed says of its losses and cost; ``shown`` is the text on Save Seed."""
    from safetensors import safe_open

    name = re.search(r"\S+\.safetensors", shown).group()
    (path,) = output.rglob(Path(name).name)
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["seedselect"])


def judged(pictures: dict[str, list[Image.Image]], concept: Concept) -> dict[str, dict]:
    """ "Before" and "After", judge by judge: whether each picture passes."""
    import numpy as np
    import torch

    return {
        title: concept.judge(
            torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255
        )
        for title, images in pictures.items()
    }


def contact_sheet(world: World, rows: list[dict]) -> Image.Image:
    """A row a concept: four references, pictures before, and after."""
    cell = 72
    gap = 24
    head = 40
    side = 210
    width = side + (4 + 2 * world.seeds) * cell + 3 * gap
    sheet = Image.new("RGB", (width, head + len(rows) * (cell + 10) + 10), "white")
    draw = ImageDraw.Draw(sheet)
    large = ImageFont.load_default(20)
    small = ImageFont.load_default(13)
    narrow = ImageFont.load_default(11)
    starts = [side, side + 4 * cell + gap, side + (4 + world.seeds) * cell + 2 * gap]
    for start, title in zip(starts, ("references", "before", "after"), strict=True):
        draw.text((start + 4, 8), title, "black", large)
    for index, row in enumerate(rows):
        concept = row["concept"]
        top = head + index * (cell + 10)
        # A letter stands beside the lines; the name of a gesture is in its prompt.
        indent = 10
        if world.name == "letters":
            indent = 40
            draw.text((10, top + 8), concept.name, "black", large)
        share = f"{row['share']['Before']:.0%} to {row['share']['After']:.0%} {world.verdict}"
        text = concept.prompt.removeprefix("a ")
        font = small if draw.textlength(text, small) <= side - indent else narrow
        draw.text((indent, top + 8), f"seen in {concept.seen} {world.unit}", "black", small)
        draw.text((indent, top + 26), text, "black", font)
        draw.text((indent, top + 44), share, "black", small)
        columns = [(starts[0], concept.shown, None)]
        for start, title in zip(starts[1:], ("Before", "After"), strict=True):
            passed = [all(both) for both in zip(*row["answers"][title].values(), strict=True)]
            columns.append((start, row["pictures"][title], passed))
        for start, images, passed in columns:
            for place, image in enumerate(images):
                left = start + place * cell
                if passed is not None:
                    frame = "#2E9E4F" if passed[place] else "#D0342C"
                    draw.rectangle([left, top, left + cell - 3, top + cell - 3], fill=frame)
                sheet.paste(image.resize((64, 64)), (left + 3, top + 3))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPO / "demo_output")
    for name in ("letters", "gestures"):
        parser.add_argument(f"--{name}", type=int, default=MOST, choices=range(1, MOST + 1))
    worlds = ("letters", "hands")
    parser.add_argument("--only", choices=worlds, default="letters", help="which toy model")
    args = parser.parse_args()
    counts = {args.only: {"letters": args.letters, "hands": args.gestures}[args.only]}
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    # Only now, since PyTorch takes its time.
    from demo_worlds import WORLDS

    began = time.monotonic()
    print("starting ComfyUI ...", flush=True)
    with host.server() as server:
        client = ComfyClient(server.url)
        workflow = to_api(graph, client.get("object_info"))
        output = Path(server.base_directory) / "output"
        rows = {
            name: [
                demonstrated(client, workflow, output, WORLDS[name], concept)
                for concept in WORLDS[name].concepts(count)
            ]
            for name, count in counts.items()
        }
    write(args.output, {WORLDS[name]: own for name, own in rows.items()}, time.monotonic() - began)
    return 0


def demonstrated(
    client: ComfyClient, workflow: dict, output: Path, world: World, concept: Concept
) -> dict:
    """Draw one concept before and after, have it judged, and say so."""
    from demo_worlds import asked

    row = run_concept(client, asked(workflow, world, concept), concept.name)
    answers = judged(row["pictures"], concept)
    share = {title: world.share(by) for title, by in answers.items()}
    row |= {"concept": concept, "answers": answers, "share": share}
    row["account"] = read_account(output, row["seed_file"])
    print(
        f"\r{concept.name} (seen in {concept.seen} {world.unit}): judged {world.verdict} "
        f"{share['Before']:.0%} before, {share['After']:.0%} after, {row['seconds']:.0f} s".ljust(
            100
        ),
        flush=True,
    )
    return row


def write(output: Path, worlds: dict[World, list[dict]], seconds: float) -> None:
    for title in ("before", "after"):
        shutil.rmtree(output / title, ignore_errors=True)
        (output / title).mkdir(parents=True)
        for row in (row for rows in worlds.values() for row in rows):
            name = row["concept"].name.replace(" ", "_")
            for number, image in enumerate(row["pictures"][title.capitalize()]):
                image.save(output / title / f"{name}_{number}.png")
    report = {"seconds": round(seconds, 1)}
    for world, rows in worlds.items():
        figures = figures_of(world, rows)
        # Letters stand in the report itself, where they stood before there were hands.
        report |= figures if world.name == "letters" else {world.name: figures}
        sheet = "contact_sheet.png" if world.name == "letters" else "contact_sheet_hands.png"
        contact_sheet(world, rows).save(output / sheet)
        mean = mean_shares(rows)
        print(
            f"{world.name} judged {world.verdict} {mean['before']:.0%} before, "
            f"{mean['after']:.0%} after; see {output / sheet}"
        )
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"in {seconds:.0f} s")


def mean_shares(rows: list[dict]) -> dict[str, float]:
    """ "before" and "after" over all concepts."""
    return {
        title.lower(): sum(row["share"][title] for row in rows) / len(rows)
        for title in ("Before", "After")
    }


def figures_of(world: World, rows: list[dict]) -> dict:
    """What the report says of a toy model."""
    key = "judged_" + world.verdict.replace("-", "_")
    each = [
        {
            world.concept: row["concept"].name,
            f"{world.unit}_seen": row["concept"].seen,
            "prompt": row["concept"].prompt,
            "judged_right_before": _shares(row["answers"]["Before"]),
            "judged_right_after": _shares(row["answers"]["After"]),
            "semantic_loss_before": sum(row["account"]["first_semantic"]) / world.seeds,
            "semantic_loss_after": sum(row["account"]["semantic"]) / world.seeds,
            "seconds": round(row["seconds"], 1),
            "model_evaluations": row["account"]["evaluations"],
        }
        for row in rows
    ]
    means = {f"{key}_{when}": share for when, share in mean_shares(rows).items()}
    return {**means, f"seeds_per_{world.concept}": world.seeds, f"{world.concept}s": each}


def _shares(answers: dict[str, list[bool]]) -> dict[str, float]:
    return {name: sum(passed) / len(passed) for name, passed in answers.items()}


if __name__ == "__main__":
    sys.exit(main())
