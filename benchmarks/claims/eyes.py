"""A second encoder beside the one that guides, where the section on frequency has one alone."""

from dataclasses import replace
from pathlib import Path

from seedselect_core.search.presets import PRESETS

from . import frequency
from .common import RARE, figures, likeness, optimized, references
from .intervals import mean_and_interval, means

NAME = "eyes"
DEPENDS = (frequency,)
KINDS = {
    "both in the loss": lambda second: {"further_encoders": (second,)},
    "the other as second opinion": lambda second: {"second_opinion": second},
}


class Eyes:
    """A world whose searches have other encoders."""

    def __init__(self, world, kind: str):
        self.world = world
        self.more = KINDS[kind](world.second_encoder)

    def __getattr__(self, name: str):
        return getattr(self.world, name)

    def scene(self, *arguments):
        return replace(self.world.scene(*arguments), **self.more)


def units(quick: bool) -> dict[str, dict]:
    if quick:
        how = {"letter": "P", "draws": 1, "count": 2}
        return {"P_both": {"kind": "both in the loss", **how}}
    draws, count = frequency.OF_A_RARE_LETTER
    return {
        f"{letter}_{number}": {"kind": kind, "letter": letter, "draws": draws, "count": count}
        for letter in reversed(RARE)
        for number, kind in enumerate(KINDS)
    }


def run(world, path: Path, kind: str, letter: str, draws: int, count: int) -> dict:
    """References, prompts and first noise are those of the section on frequency."""
    groups = [(letter, draw) for draw in range(draws)]
    found = optimized(Eyes(world, kind), groups, count, PRESETS["default"])
    rows = [
        figures(group) | likeness(world, group["images"], references(letter, 4, group["draw"]))
        for group in found
    ]
    return {"kind": kind, "groups": rows}


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    rows = {}
    for kind in dict.fromkeys(unit["kind"] for unit in found.values()):
        own = [g for unit in found.values() if unit["kind"] == kind for g in unit["groups"]]
        letters = {}
        for group in own:
            letters.setdefault(group["letter"], []).extend(group["right"])
        rows[kind] = means(own, ("right", "colours"))
        rows[kind]["letters"] = {x: round(sum(r) / len(r), 4) for x, r in letters.items()}
        for eyes in (("liked",), ("liked", "agreed")):
            kept = [(g["letter"], right) for g in own if (right := _right_of(g, eyes))]
            rows[kind][" and ".join(eyes)] = mean_and_interval(kept) if kept else None
    return {"kinds": rows}


def _right_of(group: dict, eyes: tuple[str, ...]) -> list[float]:
    """How right those pictures are that all of these find as like as the references themselves."""
    near = zip(*(group[eye] for eye in eyes), strict=True)
    return [right for right, likes in zip(group["right"], near, strict=True) if all(likes)]
