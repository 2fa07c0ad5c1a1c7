"""Rivals at equal model evaluations, on the eight rarest gestures.

32 pictures by seven methods at 400 evaluations, and as many at 100: 112,000 evaluations, 22
core-minutes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from . import hands_common, rivals
from .common import cost, pictures, within
from .hands_common import (
    RARE,
    REFERENCES,
    SAMPLING,
    VERDICTS,
    figures,
    grounds_of,
    hand_of,
    means,
    number_of,
    optimized,
    paired,
    prompts,
    references,
)

NAME = "hands_rivals"
WORLD = "hands"
DEPENDS = (hands_common, rivals)
STEPS = SAMPLING.steps
# Draws at each budget, and pictures of each.
BUDGETS = {100: (2, 2), 400: (2, 2)}
# The noise of hands is longer than that of letters, and what others add to each of its values is a
# smaller share of it: see `rivals`.
LONGER = (4 * 16 * 16) ** 0.5 / rivals.LENGTH
PAPER = rivals.PAPER


def longer(settings: Settings) -> Settings:
    """A rival's settings for the letters' noise as they are for the hands'."""
    weights = replace(settings.weights, norm=settings.weights.norm * LONGER)
    return replace(settings, weights=weights)


RENO = longer(replace(rivals.RENO, learning_rate=rivals.RENO.learning_rate / LONGER))
OURS = {100: PRESETS["quick"], 400: PRESETS["default"]}
METHODS = {
    "random": lambda budget: Settings(iterations=0),
    "best of N": lambda budget: Settings(iterations=0, candidates=budget // STEPS),
    "zero-order search": lambda budget: Settings(iterations=0, neighbors=budget // STEPS - 1),
    "ReNO's settings": lambda budget: within(budget, RENO),
    "plain descent": lambda budget: within(budget, longer(rivals.PLAIN_DESCENT)),
    "published SeedSelect": lambda budget: within(budget, PAPER),
    "NAO start": None,
    "ours": OURS.get,
}
MEASURES = ("right", "well_formed")


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {
            f"100_{number}": {
                "gestures": ["point"],
                "draws": [0],
                "count": 1,
                "budget": 100,
                "method": method,
            }
            for number, method in enumerate(METHODS)
            if method in ("random", "ours")
        }
    return {
        f"{budget}_{number}": {
            "gestures": list(RARE),
            "draws": list(range(draws)),
            "count": count,
            "budget": budget,
            "method": method,
        }
        # The long ones first, so that no process is left with one at the end.
        for budget, (draws, count) in reversed(BUDGETS.items())
        for number, method in enumerate(METHODS)
    }


def run(
    world,
    path: Path,
    gestures: list[str],
    draws: list[int],
    count: int,
    budget: int,
    method: str,
) -> dict:
    groups = [(hand_of(gesture, draw), draw) for gesture in gestures for draw in draws]
    refs = [references(hand, REFERENCES, draw) for hand, draw in groups]
    if method == "NAO start":
        found, spent = from_inverted(world, groups, count, refs, budget)
    else:
        settings = METHODS[method](budget)
        found = optimized(world, groups, count, settings, refs=refs)
        spent = cost(settings)
    if budget == max(BUDGETS):
        # A row for each method, a picture of each gesture.
        images = torch.cat([group["images"][:1] for group in found if group["draw"] == draws[0]])
        np.savez_compressed(path.with_suffix(".npz"), images=pictures(images))
    return {
        "budget": budget,
        "method": method,
        "cost": spent,
        "groups": [figures(group) for group in found],
    }


def from_inverted(world, groups: list, count: int, refs: list, budget: int) -> tuple[list, int]:
    """References inverted to noise at guidance 1; their centroid and the paths to it start."""
    wanted = [
        (hand, ground) for hand, draw in groups for ground in grounds_of(hand, REFERENCES, draw)
    ]
    spent = STEPS * REFERENCES // count  # one refinement a step and reference, shared by the seeds
    number = number_of(*groups[0])
    start = rivals.starts_from_inverted(world, prompts(world, wanted), refs, number, count)
    settings = within(budget - spent, PAPER)
    found = optimized(world, groups, count, settings, refs=refs, start=start)
    return found, spent + cost(settings)


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = []
    for method in METHODS:
        for budget in BUDGETS:
            own = [x for x in found.values() if (x["method"], x["budget"]) == (method, budget)]
            if own:
                groups = [group for unit in own for group in unit["groups"]]
                of = {"method": method, "budget": budget, "cost": own[0]["cost"]}
                table.append(of | means(groups, (*VERDICTS, "ground", "norm")))
    return {"table": table, "ahead": ahead(found, table)}


def ahead(found: dict[str, dict], table: list[dict]) -> dict[int, dict]:
    """At each budget, of right and of well-formed, the best rival and how far ours is ahead."""
    rows = {}
    for budget in dict.fromkeys(entry["budget"] for entry in table):
        groups = {
            unit["method"]: unit["groups"] for unit in found.values() if unit["budget"] == budget
        }
        rows[budget] = {}
        for key in MEASURES:
            shares = {e["method"]: e[key]["mean"] for e in table if e["budget"] == budget}
            best = max((method for method in shares if method != "ours"), key=shares.get)
            gap = paired(groups["ours"], groups[best], key)
            rows[budget][key] = {"best rival": best, "gap": gap}
    return rows
