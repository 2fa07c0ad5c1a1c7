"""Hands with and without, by how many poses of the gesture the model has seen.

112 pictures by the default preset, 44,000 evaluations of the model: 9 core-minutes, if one of them
takes 12 ms with all that belongs to it.
"""

from pathlib import Path

import numpy as np

from pocket.hands.words import SIDES, VIEWS, poses_seen
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from . import hands_common
from .common import pictures
from .hands_common import (
    OFTEN,
    RARE,
    TAIL_ORDER,
    VERDICTS,
    Hand,
    figures,
    hand_of,
    means,
    optimized,
    real_group,
)

NAME = "hands_frequency"
WORLD = "hands"
DEPENDS = (hands_common,)
PLAIN = Settings(iterations=0)
# Draws of references, prompts and first noise, and pictures of each.
OF_A_RARE_GESTURE = (2, 4)
OF_ANOTHER = (2, 2)
SIDE_BY_SIDE = 3  # of the other gestures


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"quick": {"gestures": ["point"], "draws": 1, "count": 1}}
    others = TAIL_ORDER[: -len(RARE)]
    found = {}
    for gesture in reversed(RARE):
        draws, count = OF_A_RARE_GESTURE
        found[gesture] = {"gestures": [gesture], "draws": draws, "count": count}
    for first in range(0, len(others), SIDE_BY_SIDE):
        part = others[first : first + SIDE_BY_SIDE]
        draws, count = OF_ANOTHER
        found[", ".join(part)] = {"gestures": list(part), "draws": draws, "count": count}
    return found


def run(world, path: Path, gestures: list[str], draws: int, count: int) -> dict:
    """Other sides, views, references, grounds and noise in every draw; and real hands."""
    groups = [(hand_of(gesture, draw), draw) for gesture in gestures for draw in range(draws)]
    without = optimized(world, groups, count, PLAIN)
    found = optimized(world, groups, count, PRESETS["default"])
    if gestures[0] in RARE:
        rows = [
            np.concatenate([pictures(group["images"]) for group in own]) for own in (without, found)
        ]
        np.savez_compressed(path.parent / f"{path.name}.npz", before=rows[0], after=rows[1])
    hands = [Hand(g, side, view) for g in gestures for side in SIDES for view in VIEWS]
    return {
        "without": [figures(group) for group in without],
        "with": [figures(group) for group in found],
        "real": [real_group(world, hand) for hand in hands],
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    groups = {
        when: [group for unit in found.values() for group in unit[when]]
        for when in ("without", "with", "real")
    }
    measured = {group["gesture"] for group in groups["with"]}
    gestures = [gesture for gesture in TAIL_ORDER if gesture in measured]
    buckets = {
        "eight rarest": RARE,
        "30 to 300 poses": [x for x in TAIL_ORDER if 30 <= poses_seen(x) < 300],
        "300 poses and more": OFTEN,
        "all twenty": TAIL_ORDER,
    }
    return {
        "gestures": [
            {"gesture": x, "poses": poses_seen(x), **_each(groups, [x])} for x in gestures
        ],
        "buckets": {
            name: _each(groups, own)
            for name, own in buckets.items()
            if not measured.isdisjoint(own)
        },
    }


def _each(groups: dict[str, list[dict]], gestures) -> dict:
    """Means without, with, and of real hands, of some gestures."""
    rows = {}
    for when, own in groups.items():
        more = () if when == "real" else ("ground", "norm")
        rows[when] = means([g for g in own if g["gesture"] in gestures], (*VERDICTS, *more))
    return rows
