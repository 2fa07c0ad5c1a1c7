"""Open palms: five fingers, as everybody asks for. Are they well-formed?

24 pictures by two methods at 400 evaluations, 19,000 in all: 4 core-minutes.
"""

from pathlib import Path

import numpy as np

from pocket.hands.words import SIDES, VIEWS
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from . import hands_common
from .common import cost, pictures
from .hands_common import VERDICTS, Hand, figures, means, optimized, paired, real_group

NAME = "hands_palms"
WORLD = "hands"
DEPENDS = (hands_common,)
BUDGET = 400
STEPS = hands_common.SAMPLING.steps
METHODS = {
    "plain": Settings(iterations=0),
    "best of N": Settings(iterations=0, candidates=BUDGET // STEPS),
    "ours": PRESETS["default"],
}
# Draws of each side, and pictures of each.
DRAWS = 4
COUNT = 3
PALMS = [Hand("five", side, VIEWS[0]) for side in SIDES]


def units(quick: bool) -> dict[str, dict]:
    draws, count = ([0], 1) if quick else (list(range(DRAWS)), COUNT)
    methods = ("plain", "ours") if quick else METHODS
    return {
        method.replace(" ", "-"): {"method": method, "draws": draws, "count": count}
        for method in methods
    }


def run(world, path: Path, method: str, draws: list[int], count: int) -> dict:
    groups = [(hand, draw) for hand in PALMS for draw in draws]
    found = optimized(world, groups, count, METHODS[method])
    images = np.concatenate([pictures(group["images"]) for group in found])
    np.savez_compressed(path.with_suffix(".npz"), images=images)
    return {
        "method": method,
        "cost": cost(METHODS[method]),
        "groups": [figures(group) for group in found],
        "real": [real_group(world, hand) for hand in PALMS],
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    units = {unit["method"]: unit for unit in found.values()}
    rows = {
        method: {"cost": unit["cost"], **means(unit["groups"], VERDICTS)}
        for method, unit in units.items()
    }
    ours = units["ours"]
    gaps = {
        method: paired(ours["groups"], unit["groups"], "well_formed")
        for method, unit in units.items()
        if method != "ours"
    }
    return {"methods": rows, "ahead of": gaps, "real": means(ours["real"], VERDICTS)}
