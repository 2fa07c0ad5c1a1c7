"""The whole method in a real ComfyUI: the four letters that the pocket model draws worst.

usage: python3 scripts/host.py demo [--output demo_output] [--letters 4]

Starts the host headless, queues workflows/pocket_demo.json over its HTTP API for the letters seen
in the fewest fonts, eight seeds each, and writes into the output folder: `before/` and `after/`
(64 x 64 PNG files), `contact_sheet.png` (references, before, after; framed green where both judges
read the letter) and `report.json`.
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

from PIL import Image, ImageDraw, ImageFont

import host
from api_workflow import find, to_api
from comfy_client import ComfyClient, Event

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))

LETTERS = 4
SEEDS = 8
COLORS = [("red", "yellow"), ("blue", "white"), ("white", "purple"), ("black", "orange")]


def letter_prompt(prompt: dict, letter: str, colors: tuple[str, str]) -> dict:
    """The workflow's API prompt with another letter and batch; all other settings stay."""
    prompt = json.loads(json.dumps(prompt))
    ink, ground = colors
    text = find(prompt, "CLIPTextEncode", "Prompt")
    prompt[text]["inputs"]["text"] = f"a {ink} letter {letter} on {ground}"
    prompt[find(prompt, "SeedSelectPocketReferences")]["inputs"]["letter"] = letter
    batches = [node for node in prompt.values() if node["class_type"] == "EmptyLatentImage"]
    batches[0]["inputs"]["batch_size"] = SEEDS
    return prompt


def run_letter(client: ComfyClient, prompt: dict, letter: str) -> dict:
    """Queue one letter, show its progress, and fetch pictures and the seed's own account."""
    optimize = find(prompt, "SeedSelectOptimize")
    state = {"share": 0.0, "text": ""}

    def show(event: Event) -> None:
        if event.node == optimize and event.kind in ("progress", "text"):
            if event.kind == "progress":
                state["share"] = event.value / max(1, event.maximum)
            else:
                state["text"] = event.text
            if sys.stdout.isatty():
                line = f"  {letter} {state['share']:4.0%} {state['text']}"
                print(f"\r{line:<100.100}", end="", flush=True)

    began = time.monotonic()
    result = client.run(prompt, show)
    seconds = time.monotonic() - began
    if result.status != "success":
        raise SystemExit(f"{letter}: {result.error.get('exception_message', result.status)}")
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


def judged(pictures: dict[str, list[Image.Image]], letter: str) -> dict[str, dict[str, list[bool]]]:
    """ "Before" and "After", judge by judge: whether each picture is read as the letter."""
    import numpy as np
    import torch

    from pocket.judges import load_judges, read_signs

    judges = load_judges()
    answers = {}
    for title, images in pictures.items():
        batch = torch.from_numpy(np.stack([np.asarray(image) for image in images])).float() / 255
        answers[title] = {
            name: [read == letter for read in read_signs(judge, batch)]
            for name, judge in judges.items()
        }
    return answers


def contact_sheet(rows: list[dict]) -> Image.Image:
    """A row a letter: four references, eight pictures before, eight after."""
    cell = 72
    gap = 24
    head = 40
    side = 210
    width = side + (4 + 2 * SEEDS) * cell + 3 * gap
    sheet = Image.new("RGB", (width, head + len(rows) * (cell + 10) + 10), "white")
    draw = ImageDraw.Draw(sheet)
    large = ImageFont.load_default(20)
    small = ImageFont.load_default(13)
    starts = [side, side + 4 * cell + gap, side + (4 + SEEDS) * cell + 2 * gap]
    for start, title in zip(starts, ("references", "before", "after"), strict=True):
        draw.text((start + 4, 8), title, "black", large)
    for index, row in enumerate(rows):
        top = head + index * (cell + 10)
        draw.text((10, top + 8), row["letter"], "black", large)
        draw.text((40, top + 8), f"seen in {row['fonts']} fonts", "black", small)
        draw.text((40, top + 26), row["prompt"].removeprefix("a "), "black", small)
        before = row["right_before"]
        after = row["right_after"]
        draw.text((40, top + 44), f"{before:.0%} to {after:.0%} right", "black", small)
        columns = [(starts[0], row["references"], None)]
        for start, title in zip(starts[1:], ("Before", "After"), strict=True):
            right = [all(both) for both in zip(*row["answers"][title].values(), strict=True)]
            columns.append((start, row["pictures"][title], right))
        for start, images, right in columns:
            for place, image in enumerate(images):
                left = start + place * cell
                if right is not None:
                    frame = "#2E9E4F" if right[place] else "#D0342C"
                    draw.rectangle([left, top, left + cell - 3, top + cell - 3], fill=frame)
                sheet.paste(image.resize((64, 64)), (left + 3, top + 3))
    return sheet


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=REPO / "demo_output")
    parser.add_argument("--letters", type=int, default=LETTERS, choices=range(1, LETTERS + 1))
    args = parser.parse_args()
    output = args.output
    frequency = json.loads((REPO / "pocket/weights/fonts_seen.json").read_text())
    letters = sorted(frequency, key=frequency.get)[: args.letters]
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    # Only now, since PyTorch takes its time.
    from pocket.references import letter_pictures

    began = time.monotonic()
    rows = []
    print("starting ComfyUI ...", flush=True)
    with host.server() as server:
        client = ComfyClient(server.url)
        workflow = to_api(graph, client.get("object_info"))
        for letter, colors in zip(letters, COLORS, strict=False):
            prompt = letter_prompt(workflow, letter, colors)
            row = run_letter(client, prompt, letter)
            account = read_account(Path(server.base_directory) / "output", row["seed_file"])
            answers = judged(row["pictures"], letter)
            share = {
                title: sum(sum(each) for each in by.values()) / SEEDS / len(by)
                for title, by in answers.items()
            }
            row |= {
                "letter": letter,
                "fonts": frequency[letter],
                "prompt": prompt[find(prompt, "CLIPTextEncode", "Prompt")]["inputs"]["text"],
                "references": [Image.fromarray(picture) for picture in letter_pictures(letter, 4)],
                "answers": answers,
                "right_before": share["Before"],
                "right_after": share["After"],
                "account": account,
            }
            rows.append(row)
            print(
                f"\r{letter} (seen in {row['fonts']} fonts): judged right {share['Before']:.0%} "
                f"before, {share['After']:.0%} after, {row['seconds']:.0f} s".ljust(100),
                flush=True,
            )
    write(output, rows, time.monotonic() - began)
    return 0


def write(output: Path, rows: list[dict], seconds: float) -> None:
    for title in ("before", "after"):
        shutil.rmtree(output / title, ignore_errors=True)
        (output / title).mkdir(parents=True)
        for row in rows:
            for number, image in enumerate(row["pictures"][title.capitalize()]):
                image.save(output / title / f"{row['letter']}_{number}.png")
    contact_sheet(rows).save(output / "contact_sheet.png")
    mean = {
        when: sum(row[f"right_{when}"] for row in rows) / len(rows) for when in ("before", "after")
    }
    letters = [
        {
            "letter": row["letter"],
            "fonts_seen": row["fonts"],
            "prompt": row["prompt"],
            "judged_right_before": _shares(row["answers"]["Before"]),
            "judged_right_after": _shares(row["answers"]["After"]),
            "semantic_loss_before": sum(row["account"]["first_semantic"]) / SEEDS,
            "semantic_loss_after": sum(row["account"]["semantic"]) / SEEDS,
            "seconds": round(row["seconds"], 1),
            "model_evaluations": row["account"]["evaluations"],
        }
        for row in rows
    ]
    report = {
        "judged_right_before": mean["before"],
        "judged_right_after": mean["after"],
        "seeds_per_letter": SEEDS,
        "seconds": round(seconds, 1),
        "letters": letters,
    }
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"judged right {mean['before']:.0%} before, {mean['after']:.0%} after, "
        f"in {seconds:.0f} s; see {output / 'contact_sheet.png'}"
    )


def _shares(answers: dict[str, list[bool]]) -> dict[str, float]:
    return {name: sum(right) / len(right) for name, right in answers.items()}


if __name__ == "__main__":
    sys.exit(main())
