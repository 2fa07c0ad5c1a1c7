"""With and without, by frequency: the first figure of SeedSelect (arXiv 2304.14530)."""

from pathlib import Path

from pocket_world import FONTS_SEEN

from seedselect_core.settings import PRESETS, Settings

from .common import HELD_OUT, RARE, TAIL_ORDER, figures, optimized
from .intervals import mean_and_interval

NAME = "frequency"
PLAIN = Settings(iterations=0)


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {f"{letter}_0": {"letter": letter, "draw": 0, "count": 2} for letter in "AKP"}
    return {
        f"{letter}_{draw}": {
            "letter": letter,
            "draw": draw,
            "count": 8 if letter in RARE else 2,
        }
        for letter in reversed(TAIL_ORDER)
        for draw in range(3 if letter in RARE else 2)
    }


def run(world, path: Path, letter: str, draw: int, count: int) -> dict:
    """Other references, prompts and seeds in every draw."""
    return {
        "letter": letter,
        "without": figures(optimized(world, letter, count, draw, PLAIN)),
        "with": figures(optimized(world, letter, count, draw, PRESETS["default"])),
    }


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    rows = []
    for letter in TAIL_ORDER:
        own = [unit for unit in found.values() if unit["letter"] == letter]
        if own:
            rows.append({"letter": letter, "fonts": FONTS_SEEN[letter], **_both(own)})
    buckets = {
        "eight rarest": RARE,
        "four of them, held out": HELD_OUT,
        "30 to 300 fonts": [x for x in TAIL_ORDER if 30 <= FONTS_SEEN[x] < 300],
        "300 fonts and more": [x for x in TAIL_ORDER if FONTS_SEEN[x] >= 300],
    }
    chosen = {
        name: [unit for unit in found.values() if unit["letter"] in letters]
        for name, letters in buckets.items()
    }
    return {
        "letters": rows,
        "buckets": {name: _both(own) for name, own in chosen.items() if own},
        "missed": _missed([unit for unit in found.values() if unit["letter"] in RARE]),
    }


def _both(own: list[dict]) -> dict:
    return {
        when: {
            key: mean_and_interval([(unit["letter"], unit[when][key]) for unit in own])
            # Not the semantic loss: the two are optimized under different numbers of views.
            for key in ("right", "colours", "norm")
        }
        for when in ("without", "with")
    } | {"evaluations": round(sum(unit["with"]["evaluations"] for unit in own) / len(own))}


def _missed(own: list[dict]) -> dict:
    """Of each letter that is missed: how much, and the semantic loss of what is read and is not."""
    rows = {}
    for letter in dict.fromkeys(unit["letter"] for unit in own):
        pictures = [
            pair
            for unit in own
            if unit["letter"] == letter
            for pair in zip(unit["with"]["right"], unit["with"]["semantic"], strict=True)
        ]
        missed = sum(1 - right for right, _ in pictures)
        if missed:
            read = [loss for right, loss in pictures if right == 1]
            rows[letter] = {
                "missed": missed,
                "of": len(pictures),
                "read by both": round(sum(read) / len(read), 3),
                "others": sorted(round(loss, 3) for right, loss in pictures if right < 1),
            }
    return rows
