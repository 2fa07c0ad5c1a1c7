"""Sets of palms of the rare gestures, made by bootstrapping: what the next two sections measure.

A set for each rare gesture and number of real hands, half of it left and half right. 320 pictures,
of which 160 cost 386 evaluations of the model, and the later ones about 200: 94,000, 19
core-minutes.
"""

from pathlib import Path

import numpy as np
import torch

from pocket.hands.words import SIDES, VIEWS
from seedselect_core.references import reference_set_from_batch
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings
from seedselect_core.sets.bootstrap import SetSettings, make_set

from . import hands_common
from .common import generator_of, pictures
from .hands_common import (
    RARE,
    SAMPLING,
    VERDICTS,
    Hand,
    grounds_of,
    judge,
    means,
    number_of,
    optimized,
    prompts,
    real_order,
    real_pictures,
)

NAME = "hands_sets"
WORLD = "hands"
DEPENDS = (hands_common,)
REFERENCES = (1, 2, 4, 8)
MADE = 8  # pictures of a set, a multiple of two
# For the measures of diversity, at the most references, of the four rarest gestures.
MANY = 24
VARIOUS = RARE[-4:]
# A call has a batch's prompts, and so their grounds: so many of one call, half of them its batch.
PART = 8
DRAW = 20


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"point_4": {"gesture": "point", "count": 4, "wanted": 4}}
    found = {}
    for count in reversed(REFERENCES):
        for gesture in reversed(RARE):
            many = count == max(REFERENCES) and gesture in VARIOUS
            unit = {"gesture": gesture, "count": count, "wanted": MANY if many else MADE}
            found[f"{gesture}_{count}"] = unit
    return found


def stored(folder: Path, gesture: str, count: int) -> dict[str, torch.Tensor]:
    """Pictures of a set, uint8 [n, 64, 64, 3], left and right by turns: "plain", "seedselect"."""
    with np.load(folder / f"{gesture}_{count}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in ("plain", "seedselect")}


def run(world, path: Path, gesture: str, count: int, wanted: int) -> dict:
    each = wanted // len(SIDES)
    hands = [Hand(gesture, side, VIEWS[0]) for side in SIDES]
    calls = -(-each // PART)
    parts = [
        _part(world, hand, count, each // calls, number)
        for hand in hands
        for number in range(calls)
    ]
    plain = optimized(world, [(hand, DRAW) for hand in hands], each, Settings(iterations=0))
    made = [torch.cat([part["images"] for part in parts if part["side"] == side]) for side in SIDES]
    drawn = {"plain": [group["images"] for group in plain], "seedselect": made}
    np.savez_compressed(
        path.parent / f"{path.name}.npz",
        **{key: pictures(_by_turns(*sides)) for key, sides in drawn.items()},
    )
    return {
        "gesture": gesture,
        "references": count,
        "wanted": wanted,
        "plain": [{key: group[key] for key in ("gesture", *VERDICTS)} for group in plain],
        "made": [{"gesture": gesture, **part["verdicts"]} for part in parts],
        "evaluations": sum(part["evaluations"] for part in parts) / wanted,
        "duplicates": sum(part["duplicates"] for part in parts),
        "misses": sum(part["misses"] for part in parts),
    }


def _by_turns(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Pictures [2 * n, H, W, 3]: where one side has fewer, the others of both are left out."""
    count = min(len(left), len(right))
    return torch.stack([left[:count], right[:count]], 1).flatten(0, 1)


def _part(world, hand: Hand, count: int, wanted: int, number: int) -> dict:
    """The pictures of one call of `make_set`, all of one side."""
    which = real_order(hand.gesture, 0)[:count]
    refs = real_pictures(hand, which, generator_of("set", *hand, count))
    draw = DRAW + 100 * number + count
    batch = max(1, wanted // 2)
    positive = prompts(world, [(hand, ground) for ground in grounds_of(hand, batch, draw)])
    _, made = make_set(
        world.scene(positive, reference_set_from_batch(refs), batch),
        SAMPLING.override(seed=number_of(hand, draw) + SIDES.index(hand.side)),
        PRESETS["default"],
        SetSettings(count=wanted),
    )
    images = made.images[:wanted]
    return {
        "side": hand.side,
        "images": images,
        "verdicts": judge(world, images, hand),
        "evaluations": sum(made.evaluations),
        "duplicates": made.duplicates,
        "misses": made.misses,
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for count in REFERENCES:
        own = [unit for unit in found.values() if unit["references"] == count]
        if own:
            table[f"{count} references"] = {
                "plain": means([group for unit in own for group in unit["plain"]], VERDICTS),
                "made": means([group for unit in own for group in unit["made"]], VERDICTS),
                "evaluations": round(sum(unit["evaluations"] for unit in own) / len(own), 1),
                "wanted": sum(unit["wanted"] for unit in own),
                "duplicates": sum(unit["duplicates"] for unit in own),
                "misses": sum(unit["misses"] for unit in own),
            }
    return {"table": table}
