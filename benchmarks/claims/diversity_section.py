"""Are a hundred pictures of a rare letter as various as real glyphs of it?"""

from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from pocket.atlas import load_atlas, paint_glyphs
from pocket.glyphs import LETTERS
from pocket.judges import normalise
from seedselect_core.diversity import diversity_report

from . import sets
from .classification import REAL_GROUP, real_images
from .common import HELD_OUT, generator_of
from .intervals import mean_and_interval

NAME = "diversity"
NEEDS = sets


def units(quick: bool) -> dict[str, dict]:
    letters, count = (sets.HELD_OUT[-1:], 4) if quick else (HELD_OUT, 8)
    return {x: {"letter": x, "count": count} for x in letters}


def run(world, path: Path, made: Path, letter: str, count: int) -> dict:
    # Real glyphs of all fonts that nothing was trained on, but for those that were references.
    others = load_atlas("report")[:, LETTERS.index(letter)]
    others = paint_glyphs(others, generator_of("real", letter)).movedim(1, -1)
    known = len(load_atlas(REAL_GROUP))
    real = torch.cat([real_images(letter, known, 0)[count:], others])
    pictures = sets.stored(made, letter, count, 0)
    every = {"real": real} | {name: images.float() / 255 for name, images in pictures.items()}
    judge = torch.nn.Sequential(*list(world.judges["plain"].children())[:-1])
    eyes = {
        "the encoder of the loss": world.encoder,
        "a judge": lambda images: judge(normalise(images.movedim(-1, 1))),
    }
    reports = {}
    for eye, see in eyes.items():
        features = {name: F.normalize(see(images), dim=1) for name, images in every.items()}
        report = diversity_report(features["real"], features["seedselect"], features["plain"])
        reports[eye] = asdict(report)
    return {"letter": letter, "reports": reports}


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for eye in next(iter(found.values()))["reports"]:
        rows = {unit["letter"]: _row(unit["reports"][eye]) for unit in found.values()}
        table[eye] = {"letters": rows, "mean": {}}
        for who in ("real", "seedselect", "plain"):
            own = {letter: row[who] for letter, row in rows.items()}
            figures = {
                key: mean_and_interval([(x, [row[key]]) for x, row in own.items()], shares=False)
                for key in KEYS
            }
            near = {x: (row["duplicates"], row["count"]) for x, row in own.items()}
            figures["duplicate_share"] = mean_and_interval(
                [(x, [1] * some + [0] * (count - some)) for x, (some, count) in near.items()]
            )
            table[eye]["mean"][who] = figures
    return {"table": table}


KEYS = ("entropy", "ndb", "pairwise", "nearest_real")


def _row(report: dict) -> dict:
    row = {"bins": report["bins"], "compared": report["compared"], "notes": report["notes"]}
    for who, name in (("real", "real"), ("generated", "seedselect"), ("plain", "plain")):
        row[name] = {key: round(report[who][key], 3) for key in KEYS}
        row[name] |= {key: report[who][key] for key in ("duplicates", "copies", "count")}
    return row
