"""Does a seed still work with other steps, samplers and prompts than it was found with?"""

from dataclasses import replace
from pathlib import Path

import torch
from pocket_world import SAMPLING

from seedselect_core.optimize import sample_from_seed
from seedselect_core.settings import PRESETS

from .common import (
    HELD_OUT,
    colour_pairs_of,
    generator_of,
    number_of,
    optimized,
    prompts,
    verdicts,
)
from .intervals import mean_and_interval

NAME = "transfer"
SEEDS, DRAWS = 4, (11, 13)
OTHERS = {
    "as found": {},
    "4 steps": {"steps": 4},
    "10 steps": {"steps": 10},
    "20 steps": {"steps": 20},
    "30 steps": {"steps": 30},
    "euler_ancestral": {"sampler_name": "euler_ancestral"},
    "dpmpp_2m": {"sampler_name": "dpmpp_2m"},
    "uni_pc": {"sampler_name": "uni_pc"},
    "karras schedule": {"scheduler": "karras"},
    "guidance 4": {"cfg": 4.0},
    "other colours in the prompt": {"colours": True},
}


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"P_4_11": {"letter": "P", "steps": 4, "draw": 11, "count": 2}}
    return {
        f"{letter}_{steps}_{draw}": {"letter": letter, "steps": steps, "draw": draw, "count": SEEDS}
        for letter in HELD_OUT
        for steps in (4, 10)
        for draw in DRAWS
    }


def run(world, path: Path, letter: str, steps: int, draw: int, count: int) -> dict:
    sampling = SAMPLING.override(steps=steps)
    result = optimized(world, letter, count, draw, PRESETS["default"], sampling=sampling)
    optimum = result["seed"]
    generator = generator_of("noise", letter, steps, draw)
    noise = torch.randn(optimum.noise.shape, generator=generator)
    row = {"letter": letter, "steps": steps, "right": {}, "without": {}}
    for name, change in OTHERS.items():
        change = dict(change)
        pairs = result["pairs"]
        if change.pop("colours", False):
            pairs = colour_pairs_of(letter, count, draw + 1)
        how = optimum.sampling.override(**change, seed=number_of(letter, draw))
        for key, seed in (("right", optimum), ("without", replace(optimum, noise=noise))):
            latent = sample_from_seed(
                world.model, prompts(world, letter, pairs), world.negative, seed, how
            )
            images = world.vae.decode(latent["samples"])
            row[key][name] = verdicts(world, images, letter, pairs)["right"]
    return row


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for steps in dict.fromkeys(unit["steps"] for unit in found.values()):
        own = [unit for unit in found.values() if unit["steps"] == steps]
        table[f"found with {steps} steps"] = {
            name: {
                key: mean_and_interval([(unit["letter"], unit[part][name]) for unit in own])
                for key, part in (("with", "right"), ("without", "without"))
            }
            for name in OTHERS
        }
    return {"table": table}
