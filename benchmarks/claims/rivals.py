"""Rivals at equal model evaluations, on the letters held out."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pocket_world import SAMPLING
from seedselect_core.chain.inversion import Refinement, invert_images
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.references import ReferenceSet, combine
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings
from seedselect_core.seeds.geometry import shell_centroid, shell_path
from seedselect_core.seeds.seed import Seed

from .common import (
    HELD_OUT,
    color_pairs_of,
    cost,
    figures,
    likeness,
    number_of,
    optimized,
    pictures,
    prompts,
    references,
    within,
)
from .intervals import mean_and_interval, means

NAME = "rivals"
NAMES_TELL_SETTINGS = True
# Draws at each budget, and pictures of each: small budgets are cheap, and all lie close together.
BUDGETS = {25: (8, 4), 100: (6, 4), 400: (6, 4), 1600: (8, 1)}
TOGETHER = 6  # draws of a unit, at most
REFERENCES = 4
STEPS = SAMPLING.steps
PAPER = PRESETS["paper"]
# What others add to each value of the noise is a share of it here, and what they weigh the norm
# prior by has its norm in it: 16 of 256 values.
LENGTH = 16
# ReNO (arXiv 2406.04312): its published optimizer, on this loss.
RENO = Settings(
    learning_rate=5.0 / LENGTH,
    optimizer="sgd",
    schedule="constant",
    clip_norm=0.1,
    weights=LossWeights(semantic=1.0, norm=0.01 * LENGTH),
    views=1,
)
# AdamW on the plain semantic loss, as a first trial on these letters had it.
PLAIN_DESCENT = Settings(
    learning_rate=0.1,
    schedule="constant",
    weight_decay=0.01,
    weights=LossWeights(semantic=10.0, norm=0.01 * LENGTH),
    views=1,
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
    "zero-order search": lambda budget: Settings(iterations=0, neighbors=budget // STEPS - 1),
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
        for number, (method, settings) in enumerate(METHODS.items()):
            how = (settings(budget) if settings else PAPER).fingerprint()
            for first in range(0, draws, TOGETHER):
                found[f"{budget}_{number}_{first}_{how}"] = {
                    "letters": "P" if quick else HELD_OUT,
                    "draws": list(range(first, min(draws, first + TOGETHER))),
                    "count": count,
                    "budget": budget,
                    "method": method,
                }
    return found


def run(
    world, path: Path, letters: str, draws: list[int], count: int, budget: int, method: str
) -> dict:
    groups = [(letter, draw) for letter in letters for draw in draws]
    refs = [references(letter, REFERENCES, draw) for letter, draw in groups]
    if method == "NAO start":
        found, spent = _from_inverted(world, groups, count, refs, budget)
    else:
        settings = METHODS[method](budget)
        found = optimized(world, groups, count, settings, refs=refs)
        spent = cost(settings)
    if budget == max(BUDGETS):
        # Two draws, a row for each method: what a judge did not read can be looked at.
        images = torch.cat([group["images"][:1] for group in found if group["draw"] in draws[:2]])
        np.savez_compressed(path.with_suffix(".npz"), images=pictures(images))
    return {
        "budget": budget,
        "method": method,
        "cost": spent,
        "groups": [
            figures(group) | likeness(world, group["images"], own)
            for group, own in zip(found, refs, strict=True)
        ],
    }


def starts_from_inverted(
    world, positive: list, refs: list[ReferenceSet], number: int, count: int
) -> Seed:
    """``count`` starts of each group, whose references are inverted to noise at guidance 1.

    Args:
        positive: a prompt for each reference, group by group.
        number: the host's seed.
    """
    inverted = invert_images(
        world.model,
        positive,
        world.negative,
        world.vae,
        combine(*refs).resized(64, 64),
        SAMPLING.override(seed=number, cfg=1.0),
        refinement=Refinement(1),
    ).seed
    starts = []
    for noises in inverted.noise.split(REFERENCES):
        center = shell_centroid(noises)
        # Each seed starts halfway between the centroid and one of the references.
        starts += [shell_path(center, noise, 3)[1] for noise in noises[:count]]
    return replace(inverted, noise=torch.stack(starts), sampling=SAMPLING)


def _from_inverted(world, groups: list, count: int, refs: list, budget: int) -> tuple[list, int]:
    """References inverted to noise at guidance 1; their centroid and the paths to it start."""
    wanted = [(x, *pair) for x, draw in groups for pair in color_pairs_of(x, REFERENCES, draw)]
    spent = STEPS * REFERENCES // count  # one refinement a step and reference, shared by the seeds
    number = number_of(*groups[0])
    start = starts_from_inverted(world, prompts(world, wanted), refs, number, count)
    settings = within(budget - spent, PAPER)
    found = optimized(world, groups, count, settings, refs=refs, start=start)
    return found, spent + cost(settings)


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = []
    for method in METHODS:
        for budget in BUDGETS:
            units = [x for x in found.values() if (x["method"], x["budget"]) == (method, budget)]
            groups = [group for unit in units for group in unit["groups"]]
            if not groups:
                continue
            measured = means(groups, ("right", "colours", "semantic_alike", "norm"))
            right = {}
            for group in groups:
                right.setdefault(group["letter"], []).extend(group["right"])
            letters = {x: round(sum(own) / len(own), 3) for x, own in right.items()}
            of = {"method": method, "budget": budget, "cost": units[0]["cost"]}
            table.append(of | measured | {"letters": letters})
    # Here, since no unit depends on it.
    from .intervals import paired

    ahead = _ahead(found, table)
    for budget, row in ahead.items():
        gaps = paired(list(found.values()), budget, "ours", row["best rival"])
        row["of these letters"] = mean_and_interval(gaps, others=False)
        row["letters"] = {
            letter: mean_and_interval([gap for gap in gaps if gap[0] == letter])
            for letter in dict(gaps)
        }
    return {"table": table, "ahead": ahead, "needed": _needed(table)}


def _needed(table: list[dict], share: float = 0.9) -> dict[str, float | None]:
    """Of each method how many evaluations it takes until ``share`` of the pictures are right.

    Between two budgets by a straight line over the logarithm of the evaluations spent; None where
    no budget reaches it.
    """
    needed = {}
    for method in METHODS:
        points = [
            (math.log(entry["cost"]), entry["right"]["mean"])
            for entry in table
            if entry["method"] == method
        ]
        points.sort()
        needed[method] = None
        last = None
        for spent, right in points:
            if right >= share:
                if last is not None:
                    part = (share - last[1]) / (right - last[1])
                    spent = last[0] + part * (spent - last[0])
                needed[method] = round(math.exp(spent))
                break
            last = spent, right
    return needed


def _ahead(found: dict[str, dict], table: list[dict]) -> dict[int, dict]:
    """At each budget the best rival, and how far ours is ahead of it."""
    ahead = {}
    for budget in dict.fromkeys(entry["budget"] for entry in table):
        means = {e["method"]: e["right"]["mean"] for e in table if e["budget"] == budget}
        best = max((method for method in means if method != "ours"), key=means.get)
        of = {
            (unit["method"], group["letter"], group["draw"]): group["right"]
            for unit in found.values()
            if unit["budget"] == budget
            for group in unit["groups"]
        }
        # Picture by picture: the first noise of a letter and draw is the same for both.
        gaps = [
            (letter, [o - t for o, t in zip(right, of[best, letter, draw], strict=True)])
            for (method, letter, draw), right in of.items()
            if method == "ours"
        ]
        ahead[budget] = {"best rival": best, "gap": mean_and_interval(gaps)}
    return ahead
