"""Does a seed still work with other steps, samplers and prompts than it was found with?"""

from pathlib import Path

import torch

from pocket_world import SAMPLING
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.search.presets import PRESETS

from .common import (
    HELD_OUT,
    color_pairs_of,
    generator_of,
    optimized,
    prompts,
    verdicts,
)
from .intervals import mean_and_interval

NAME = "transfer"
SEEDS = 4
DRAWS = (11, 13)
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
        return {"4": {"letters": "P", "steps": 4, "draws": DRAWS[:1], "count": 2}}
    return {
        str(steps): {"letters": HELD_OUT, "steps": steps, "draws": DRAWS, "count": SEEDS}
        for steps in (4, 10)
    }


def run(world, path: Path, letters: str, steps: int, draws: tuple[int, ...], count: int) -> dict:
    groups = [(letter, draw) for letter in letters for draw in draws]
    sampling = SAMPLING.override(steps=steps)
    found = optimized(world, groups, count, PRESETS["default"], sampling=sampling)
    optimum = found[0]["seed"].with_noise(torch.cat([group["seed"].noise for group in found]))
    random = [
        torch.randn(group["seed"].noise.shape, generator=generator_of("noise", x, steps, draw))
        for group, (x, draw) in zip(found, groups, strict=True)
    ]
    seeds = {"right": optimum, "without": optimum.with_noise(torch.cat(random))}
    rows = [{"letter": letter, "right": {}, "without": {}} for letter, _ in groups]
    for name, change in OTHERS.items():
        change = dict(change)
        pairs = [group["pairs"] for group in found]
        if change.pop("colours", False):
            pairs = [color_pairs_of(letter, count, draw + 1) for letter, draw in groups]
        wanted = [(x, *pair) for (x, _), own in zip(groups, pairs, strict=True) for pair in own]
        how = optimum.sampling.override(**change)
        for key, seed in seeds.items():
            latent = sample_from_seed(
                world.model, prompts(world, wanted), world.negative, seed, how
            )
            images = world.vae.decode(latent["samples"]).split(count)
            for row, own, pictures in zip(rows, pairs, images, strict=True):
                row[key][name] = verdicts(world, pictures, row["letter"], own)["right"]
    return {"steps": steps, "groups": rows}


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for unit in found.values():
        groups = unit["groups"]
        rows = table[f"found with {unit['steps']} steps"] = {}
        for name in OTHERS:
            rows[name] = {
                key: mean_and_interval([(group["letter"], group[part][name]) for group in groups])
                for key, part in (("with", "right"), ("without", "without"))
            }
            # Picture by picture, from what it was as found.
            changes = []
            for group in groups:
                both = zip(group["right"]["as found"], group["right"][name], strict=True)
                changes.append((group["letter"], [now - before for before, now in both]))
            rows[name]["change"] = mean_and_interval(changes, shares=False)
    return {"table": table}
