"""Which settings of the optimization work best? The measurement behind the default preset.

python3 scripts/host.py bench presets [--letters DBJ] [--seeds 8] [--only NAME ...]

Three rare letters, on fonts of their own, are optimized under each variant below, both judges read
the results. Writes ``results/presets.json``; with ``--only`` the other lines there stay.
"""

import argparse
import json
import time
from dataclasses import replace

from pocket_world import (
    RESULTS,
    SAMPLING,
    PocketWorld,
    colors_of,
    colors_right,
    letter_references,
)

# isort: split

import torch

from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.settings import PRESETS, Settings

DEFAULT = PRESETS["default"]
# But for those that tell their cost, all cost about as much as the default: 400 model evaluations a
# picture.
VARIANTS = {
    "plain, no optimization": Settings(iterations=0),
    "default": DEFAULT,
    "quick (100 evaluations)": PRESETS["quick"],
    "paper (1,200 evaluations)": PRESETS["paper"],
    "all steps differentiated": replace(DEFAULT, gradient_steps=0, iterations=7),
    "5 steps differentiated": replace(DEFAULT, gradient_steps=5, iterations=12),
    "1 step differentiated": replace(DEFAULT, gradient_steps=1, iterations=23),
    "one view": replace(DEFAULT, views=1),
    "four views": replace(DEFAULT, views=4),
    "learning rate 0.1": replace(DEFAULT, learning_rate=0.1),
    "learning rate 0.4": replace(DEFAULT, learning_rate=0.4),
    "last three steps": DEFAULT.reweighted(steps=(0.05, 0.25, 0.7)),
    "no norm prior": DEFAULT.reweighted(norm=0.0),
    "on the sphere": replace(DEFAULT.reweighted(norm=0.0), shell="sphere"),
    "standard channels": replace(DEFAULT.reweighted(norm=0.0), shell="channels"),
    "one candidate": replace(DEFAULT, candidates=1, iterations=20),
    "with neighbours": replace(DEFAULT, neighbors=12, neighbor_angle=0.8, iterations=10),
    "default, at the level without a gradient": replace(DEFAULT, memory="no gradient"),
    "quick, at the level without a gradient (100 evaluations)": replace(
        PRESETS["quick"], memory="no gradient"
    ),
    "best of 40, no gradient": Settings(iterations=0, candidates=40),
    "zero-order search": Settings(iterations=0, candidates=8, neighbors=32),
    "best of 2 (20 evaluations)": Settings(iterations=0, candidates=2),
    "best of 2, eight views (20 evaluations)": Settings(iterations=0, candidates=2, views=8),
    "one iteration (23 evaluations)": Settings(
        iterations=1, gradient_steps=1, views=2, learning_rate=0.4
    ),
    "best of 5 drafts (25 evaluations)": Settings(
        iterations=0, candidates=5, draft_steps=3, views=8
    ),
}


@torch.inference_mode()
def run(world: PocketWorld, letter: str, seeds: int, settings: Settings) -> dict:
    began = time.time()
    seed, drawn, _ = optimize_seed(
        world.scene(world.prompt(letter), letter_references(letter), seeds),
        SAMPLING.override(seed=ord(letter)),
        settings,
    )
    images = world.vae.decode(drawn["samples"])
    right = world.right(images, letter)
    norms = seed.noise.flatten(1).norm(dim=1)
    return {
        "right": sum(sum(answers) for answers in right.values()) / 2 / seeds,
        "colours": colors_right(images, *colors_of(letter)).float().mean().item(),
        "semantic": sum(seed.semantic) / seeds,
        "first": sum(seed.first_semantic) / seeds,
        "norm": norms.mean().item(),
        "seconds": time.time() - began,
        "images": images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", default="DBJ")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", choices=VARIANTS)
    args = parser.parse_args()
    how = {"letters": args.letters, "seeds": args.seeds}
    path = RESULTS / "presets.json"
    earlier = json.loads(path.read_text()) if args.only and path.exists() else {}
    same = how.items() <= earlier.get("settings", {}).items()
    kept = earlier["variants"] if same else []
    rows = {row["variant"]: row for row in kept}
    world = PocketWorld()
    RESULTS.mkdir(exist_ok=True)
    for name in args.only or VARIANTS:
        runs = [run(world, letter, args.seeds, VARIANTS[name]) for letter in args.letters]
        row = {"variant": name}
        for key in ("right", "colours", "semantic", "first", "norm", "seconds"):
            row[key] = round(sum(result[key] for result in runs) / len(runs), 4)
        row["letters"] = {
            letter: result["right"] for letter, result in zip(args.letters, runs, strict=True)
        }
        rows[name] = row
        print(row, flush=True)
        ordered = [rows[variant] for variant in VARIANTS if variant in rows]
        path.write_text(json.dumps({"settings": how, "variants": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    main()
