"""Rivals at 25 evaluations on many more pictures: they are cheap there, and lie close together."""

from pathlib import Path

from . import rivals
from .common import HELD_OUT
from .intervals import mean_and_interval

NAME = "small_budget"
DEPENDS = (rivals,)
BUDGET = rivals.BUDGETS[0]
# The descents cannot make a step of so little, and are left with a plain picture.
METHODS = ("random", "best of N", "zero-order search", "NAO start", "ours")
DRAWS = range(2, 18)  # none of those in the section "rivals"


def units(quick: bool) -> dict[str, dict]:
    letters, draws = ("P", DRAWS[:1]) if quick else (HELD_OUT, DRAWS)
    return {
        f"{letter}_{draw}": {"letter": letter, "draw": draw} for letter in letters for draw in draws
    }


def run(world, path: Path, letter: str, draw: int) -> dict:
    return {
        "letter": letter,
        "draw": draw,
        "methods": {
            method: rivals.run(world, path, letter, draw, BUDGET, method) for method in METHODS
        },
    }


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {
        method: {
            "cost": next(iter(found.values()))["methods"][method]["cost"],
            **{
                key: mean_and_interval(
                    [(unit["letter"], unit["methods"][method][key]) for unit in found.values()]
                )
                for key in ("right", "semantic_alike")
            },
        }
        for method in METHODS
    }
    best = max((m for m in METHODS if m != "ours"), key=lambda m: table[m]["right"]["mean"])
    # Picture by picture: the first noise of a letter and draw is the same for all.
    gaps = [
        (
            unit["letter"],
            [
                ours - theirs
                for ours, theirs in zip(
                    *(unit["methods"][method]["right"] for method in ("ours", best)), strict=True
                )
            ],
        )
        for unit in found.values()
    ]
    return {"table": table, "best rival": best, "gap": mean_and_interval(gaps)}
