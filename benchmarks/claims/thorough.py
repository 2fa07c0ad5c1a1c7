"""The eight rarest letters at four times the default's cost, and at the default's."""

import json
from pathlib import Path

from seedselect_core.settings import PRESETS

from . import frequency
from .common import FIGURES, RARE, figures, optimized
from .intervals import mean_and_interval

NAME = "thorough"
NEEDS = frequency
SEEDS, DRAWS = 4, 2


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"P_0": {"letter": "P", "draw": 0, "count": 1}}
    return {
        f"{letter}_{draw}": {"letter": letter, "draw": draw, "count": SEEDS}
        for letter in reversed(RARE)
        for draw in range(DRAWS)
    }


def run(world, path: Path, made: Path, letter: str, draw: int, count: int) -> dict:
    """The first of the pictures in a unit of the section "frequency", once more."""
    default = json.loads((made / f"{letter}_{draw}.json").read_text())["with"]
    default = {key: default[key] for key in FIGURES if key != "evaluations"}
    return {
        "letter": letter,
        "default": {key: values[:count] for key, values in default.items()},
        "thorough": figures(optimized(world, letter, count, draw, PRESETS["thorough"])),
    }


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def of(own: list[dict]) -> dict:
        return {
            preset: {
                key: mean_and_interval([(unit["letter"], unit[preset][key]) for unit in own])
                for key in ("right", "colours", "semantic", "norm")
            }
            for preset in ("default", "thorough")
        }

    units = list(found.values())
    letters = dict.fromkeys(unit["letter"] for unit in units)
    return {
        "all": of(units),
        "letters": {x: of([unit for unit in units if unit["letter"] == x]) for x in letters},
    }
