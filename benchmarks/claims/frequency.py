"""With and without, by frequency: the first figure of SeedSelect (arXiv 2304.14530)."""

from pathlib import Path

from pocket_world import FONTS_SEEN
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from . import readings
from .common import HELD_OUT, RARE, TAIL_ORDER, figures, likeness, optimized, references
from .intervals import mean_and_interval, means

NAME = "frequency"
DEPENDS = (readings,)
PLAIN = Settings(iterations=0)
# Draws of references, prompts and first noise, and pictures of each.
OF_A_RARE_LETTER = (3, 6)
OF_ANOTHER = (2, 2)
SIDE_BY_SIDE = 3  # of the other letters


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"AKP": {"letters": "AKP", "draws": 1, "count": 2}}
    others = TAIL_ORDER[: -len(RARE)]
    parts = [others[i : i + SIDE_BY_SIDE] for i in range(0, len(others), SIDE_BY_SIDE)]
    found = {}
    for letters in (*reversed(RARE), *reversed(parts)):
        draws, count = OF_A_RARE_LETTER if letters in RARE else OF_ANOTHER
        found[letters] = {"letters": letters, "draws": draws, "count": count}
    return found


def run(world, path: Path, letters: str, draws: int, count: int) -> dict:
    """Other references, prompts and seeds in every draw."""
    groups = [(letter, draw) for letter in letters for draw in range(draws)]
    without = optimized(world, groups, count, PLAIN)
    found = optimized(world, groups, count, PRESETS["default"])
    return {
        "without": [figures(group) for group in without],
        "with": [
            figures(group)
            | {"read by the encoder": readings.read_by_encoder(world, group)}
            | likeness(world, group["images"], references(group["letter"], 4, group["draw"]))
            for group in found
        ],
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    groups = {
        when: [group for unit in found.values() for group in unit[when]]
        for when in ("without", "with")
    }
    rare = [group for group in groups["with"] if group["letter"] in RARE]
    letters = [x for x in TAIL_ORDER if any(group["letter"] == x for group in groups["with"])]
    buckets = {
        "eight rarest": RARE,
        "four of them, held out": HELD_OUT,
        "30 to 300 fonts": [x for x in TAIL_ORDER if 30 <= FONTS_SEEN[x] < 300],
        "300 fonts and more": [x for x in TAIL_ORDER if FONTS_SEEN[x] >= 300],
    }
    return {
        "letters": [{"letter": x, "fonts": FONTS_SEEN[x], **_both(groups, [x])} for x in letters],
        "buckets": {
            name: _both(groups, own)
            for name, own in buckets.items()
            if not set(letters).isdisjoint(own)
        },
        "missed": _missed(rare),
        "liked": _liked(rare, "liked"),
        "liked by both encoders": _liked(rare, "liked", "agreed"),
    }


def _both(groups: dict[str, list[dict]], letters) -> dict:
    return {
        # Not the semantic loss: the two are optimized under different numbers of views.
        when: means([g for g in own if g["letter"] in letters], ("right", "colours", "norm"))
        for when, own in groups.items()
    }


def _liked(own: list[dict], *eyes: str) -> dict | None:
    """Of the pictures that these find as like the references as they are to each other: how many
    are right. An encoder that is fooled likes what is wrong."""
    kept = []
    for group in own:
        near = zip(*(group[eye] for eye in eyes), strict=True)
        right = [x for x, likes in zip(group["right"], near, strict=True) if all(likes)]
        kept += [(group["letter"], right)] if right else []
    return mean_and_interval(kept) if kept else None


def _missed(own: list[dict]) -> dict:
    """Of each letter that is missed: how much, what loss is left, and what the encoder reads."""
    rows = {}
    for letter in dict.fromkeys(group["letter"] for group in own):
        pictures = [
            picture
            for group in own
            if group["letter"] == letter
            for picture in zip(
                group["right"], group["semantic"], group["read by the encoder"], strict=True
            )
        ]
        others = [picture for picture in pictures if picture[0] < 1]
        if others:
            read = [loss for right, loss, _ in pictures if right == 1]
            rows[letter] = {
                "missed": sum(1 - right for right, _, _ in others),
                "of": len(pictures),
                "read by both": round(sum(read) / len(read), 3) if read else None,
                "others": sorted(round(loss, 3) for _, loss, _ in others),
                "others read by the encoder": sum(reads for _, _, reads in others),
            }
    return rows
