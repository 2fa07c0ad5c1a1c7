"""Are two dozen palms of a rare gesture as various as real ones? No search: under a core-minute."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from pocket.hands.real import EACH
from pocket.hands.words import SIDES, VIEWS
from seedselect_core.sets.diversity import diversity_report

from . import diversity_section, hands_common, hands_sets
from .common import generator_of
from .diversity_section import averaged
from .hands_common import Hand, real_order, real_pictures

NAME = "hands_diversity"
WORLD = "hands"
NEEDS = hands_sets
DEPENDS = (hands_common, diversity_section)


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"point": {"gesture": "point", "count": 4}}
    return {x: {"gesture": x, "count": max(hands_sets.REFERENCES)} for x in hands_sets.VARIOUS}


def run(world, path: Path, made: Path, gesture: str, count: int) -> dict:
    """Of a set, beside as many plain pictures and all real palms that were no references."""
    used = real_order(gesture, 0)[:count]
    others = [number for number in range(EACH[VIEWS[0]]) if number not in used]
    hands = [Hand(gesture, side, VIEWS[0]) for side in SIDES]
    real = torch.cat([real_pictures(hand, others, generator_of("real", *hand)) for hand in hands])
    stored = hands_sets.stored(made, gesture, count)
    found = {}
    for eye, see in eyes(world).items():
        features = F.normalize(see(real), dim=1)
        reports = {
            name: diversity_report(features, F.normalize(see(images.float() / 255), dim=1))
            for name, images in stored.items()
        }
        some = next(iter(reports.values()))
        rows = {"real": asdict(some.real)}
        rows |= {name: asdict(report.generated) for name, report in reports.items()}
        found[eye] = {"bins": some.bins, "compared": some.compared, "rows": rows}
    return {"gesture": gesture, "eyes": found}


def eyes(world) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """By name what makes features [B, D] of pictures: both encoders, and the judge's landmarks."""
    return {
        "the first encoder": world.encoder,
        "the second encoder": world.second_encoder,
        "the judge's landmarks": world.points,
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for eye, some in next(iter(found.values()))["eyes"].items():
        table[eye] = {"bins": some["bins"], "compared": some["compared"], "rows": {}}
        for who in some["rows"]:
            own = {unit["gesture"]: unit["eyes"][eye]["rows"][who] for unit in found.values()}
            table[eye]["rows"][who] = averaged(own)
    return {"table": table}
