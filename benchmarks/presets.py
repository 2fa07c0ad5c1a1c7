"""Which settings of the optimization work best? The measurement behind the default preset.

python3 scripts/host.py bench presets [--letters UDBJ] [--seeds 8] [--only NAME ...]

Rare letters that the demo does not show are optimized under each variant below, both judges read
the results. Writes ``results/presets.json``.
"""

import argparse
import json
import time

import torch
from pocket_world import (
    RESULTS,
    SAMPLING,
    PocketWorld,
    colours_of,
    colours_right,
    letter_references,
)

from seedselect_core.optimize import optimize_seed
from seedselect_core.settings import PRESETS, Settings

VARIANTS = {
    "plain, no optimization": Settings(iterations=0),
    "default": PRESETS["default"],
    "paper": PRESETS["paper"],
    "best of 16": Settings(iterations=0, candidates=16),
    "best of 64": Settings(iterations=0, candidates=64),
    "20 iterations": Settings(iterations=20),
    "20 iterations, lr 0.05": Settings(iterations=20, learning_rate=0.05),
    "20 iterations, lr 0.2": Settings(iterations=20, learning_rate=0.2),
    "20 iterations, lr 0.2, cosine": Settings(iterations=20, learning_rate=0.2, schedule="cosine"),
    "20 iterations, no prior": Settings(iterations=20, norm_weight=0.0),
    "20 iterations, strong prior": Settings(iterations=20, norm_weight=0.1),
    "20 iterations, appearance 1": Settings(iterations=20, appearance_weight=1.0),
    "20 iterations, last 3 steps": Settings(iterations=20, step_weights=(0.05, 0.25, 0.7)),
    "4 candidates, 15 iterations": Settings(iterations=15, candidates=4),
    "16 candidates, 10 iterations": Settings(iterations=10, candidates=16),
    "sgd lr 5 clipped": Settings(iterations=20, optimizer="sgd", learning_rate=5.0, clip_norm=0.1),
}


@torch.inference_mode()
def run(world: PocketWorld, letter: str, seeds: int, settings: Settings) -> dict:
    latent = {"samples": torch.zeros(seeds, 4, 8, 8)}
    began = time.time()
    seed, drawn, _ = optimize_seed(
        world.model,
        world.prompt(letter),
        world.negative,
        world.vae,
        world.encoder,
        letter_references(letter),
        latent,
        SAMPLING.override(seed=ord(letter)),
        settings,
    )
    images = world.vae.decode(drawn["samples"])
    right = world.right(images, letter)
    norms = seed.noise.flatten(1).norm(dim=1)
    return {
        "right": sum(sum(answers) for answers in right.values()) / 2 / seeds,
        "colours": colours_right(images, *colours_of(letter)).float().mean().item(),
        "semantic": sum(seed.semantic) / seeds,
        "first": sum(seed.first_semantic) / seeds,
        "norm": norms.mean().item(),
        "seconds": time.time() - began,
        "images": images,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", default="UDBJ")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=None)
    args = parser.parse_args()
    world, rows = PocketWorld(), []
    for name, settings in VARIANTS.items():
        if args.only and name not in args.only:
            continue
        runs = [run(world, letter, args.seeds, settings) for letter in args.letters]
        row = {"variant": name}
        for key in ("right", "colours", "semantic", "first", "norm", "seconds"):
            row[key] = round(sum(result[key] for result in runs) / len(runs), 4)
        row["letters"] = {
            letter: result["right"] for letter, result in zip(args.letters, runs, strict=True)
        }
        rows.append(row)
        print(row, flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "presets.json"
    path.write_text(json.dumps({"settings": vars(args), "variants": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
