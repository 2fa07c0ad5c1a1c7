"""Rivals at equal model evaluations, on the letters held out."""

from dataclasses import replace
from pathlib import Path

import torch
from pocket_world import SAMPLING

from seedselect_core.geometry import shell_centroid, shell_path
from seedselect_core.inversion import invert_images
from seedselect_core.settings import PRESETS, Settings

from .common import (
    HELD_OUT,
    colour_pairs_of,
    cost,
    figures,
    number_of,
    optimized,
    prompts,
    references,
    semantic_alike,
    within,
)
from .intervals import mean_and_interval

NAME = "rivals"
# Draws at each budget, and pictures of each: small budgets are cheap, and all lie close together.
BUDGETS = {25: (18, 4), 100: (2, 4), 400: (2, 4), 1600: (2, 2)}
REFERENCES = 4
STEPS = SAMPLING.steps
PAPER = PRESETS["paper"]
# ReNO (arXiv 2406.04312): its published optimizer, on this loss.
RENO = Settings(
    learning_rate=5.0,
    optimizer="sgd",
    schedule="constant",
    clip_norm=0.1,
    semantic_weight=1.0,
    norm_weight=0.01,
    views=1,
)
# AdamW on the plain semantic loss, as a first trial on these letters had it.
PLAIN_DESCENT = Settings(
    learning_rate=0.1, schedule="constant", semantic_weight=10.0, norm_weight=0.01, views=1
)
OURS = {
    # No gradient is to be had for so little. Views cost no evaluation of the model.
    25: Settings(iterations=0, candidates=5, draft_steps=3, views=8),
    100: PRESETS["quick"],
    400: PRESETS["default"],
    1600: PRESETS["thorough"],
}
METHODS = {
    "random": lambda budget: Settings(iterations=0),
    "best of N": lambda budget: Settings(iterations=0, candidates=budget // STEPS),
    "zero-order search": lambda budget: Settings(iterations=0, neighbours=budget // STEPS - 1),
    "ReNO's settings": lambda budget: within(budget, RENO),
    "plain descent": lambda budget: within(budget, PLAIN_DESCENT),
    "published SeedSelect": lambda budget: within(budget, PAPER),
    "NAO start": None,
    "ours": OURS.get,
}


def units(quick: bool) -> dict[str, dict]:
    budgets = {25: (1, 4), 100: (1, 4)} if quick else BUDGETS
    found = {}
    # The long ones first, so that no process is left with one at the end.
    for budget, (draws, count) in reversed(budgets.items()):
        for draw in range(draws):
            for letter in "P" if quick else HELD_OUT:
                for number, method in enumerate(METHODS):
                    unit = {"letter": letter, "draw": draw, "count": count}
                    unit |= {"budget": budget, "method": method}
                    found[f"{budget}_{letter}_{draw}_{number}"] = unit
    return found


def run(world, path: Path, letter: str, draw: int, count: int, budget: int, method: str) -> dict:
    how = {"letter": letter, "draw": draw, "budget": budget, "method": method}
    if method == "NAO start":
        result, spent = _from_inverted(world, letter, draw, count, budget)
    else:
        settings = METHODS[method](budget)
        result, spent = optimized(world, letter, count, draw, settings), cost(settings)
    alike = semantic_alike(world, result["images"], references(letter, REFERENCES, draw))
    return how | figures(result) | {"cost": spent, "semantic_alike": alike}


def _from_inverted(world, letter: str, draw: int, count: int, budget: int) -> tuple[dict, int]:
    """References inverted to noise at guidance 1; their centroid and the paths to it start."""
    refs = references(letter, REFERENCES, draw)
    pairs = colour_pairs_of(letter, REFERENCES, draw)
    sampling = SAMPLING.override(seed=number_of(letter, draw), cfg=1.0)
    spent = STEPS * REFERENCES // count  # one refinement a step and reference, shared by the seeds
    inverted = invert_images(
        world.model,
        prompts(world, letter, pairs),
        world.negative,
        world.vae,
        refs.resized(64, 64),
        sampling,
        refinements=1,
    ).seed
    centre = shell_centroid(inverted.noise)
    # Each seed starts halfway between the centroid and one of the references.
    starts = torch.stack([shell_path(centre, noise, 3)[1] for noise in inverted.noise[:count]])
    settings = within(budget - spent, PAPER)
    start = replace(inverted, noise=starts, sampling=SAMPLING)
    return (
        optimized(world, letter, count, draw, settings, refs=refs, start=start),
        spent + cost(settings),
    )


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = []
    for method in METHODS:
        for budget in BUDGETS:
            own = [
                unit
                for unit in found.values()
                if (unit["method"], unit["budget"]) == (method, budget)
            ]
            if own:
                table.append(
                    {
                        "method": method,
                        "budget": budget,
                        "cost": own[0]["cost"],
                        **{
                            key: mean_and_interval([(unit["letter"], unit[key]) for unit in own])
                            for key in ("right", "colours", "semantic_alike", "norm")
                        },
                        "letters": {
                            letter: round(
                                sum(sum(u["right"]) for u in own if u["letter"] == letter)
                                / sum(len(u["right"]) for u in own if u["letter"] == letter),
                                3,
                            )
                            for letter in dict.fromkeys(unit["letter"] for unit in own)
                        },
                    }
                )
    ahead = {}
    for budget in dict.fromkeys(entry["budget"] for entry in table):
        means = {e["method"]: e["right"]["mean"] for e in table if e["budget"] == budget}
        best = max((method for method in means if method != "ours"), key=means.get)
        of = {
            (unit["method"], unit["letter"], unit["draw"]): unit["right"]
            for unit in found.values()
            if unit["budget"] == budget
        }
        # Picture by picture: the first noise of a letter and draw is the same for both.
        gaps = [
            (letter, [o - t for o, t in zip(right, of[best, letter, draw], strict=True)])
            for (method, letter, draw), right in of.items()
            if method == "ours"
        ]
        ahead[budget] = {"best rival": best, "gap": mean_and_interval(gaps)}
    return {"table": table, "ahead": ahead}
