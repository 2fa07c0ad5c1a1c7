"""Are a hundred pictures of a rare letter as various as real glyphs of it?"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F

from pocket.atlas import load_atlas, paint_glyphs
from pocket.drawing import COLORS, LETTERS, RGB, paint
from pocket.judges import normalize
from seedselect_core.sets.diversity import diversity_report

from . import sets
from .classification import REAL_GROUP, known_glyphs, real_images
from .common import HELD_OUT, generator_of
from .intervals import mean_and_interval

NAME = "diversity"
NEEDS = sets


def units(quick: bool) -> dict[str, dict]:
    letters, counts = (HELD_OUT[-1:], [4]) if quick else (HELD_OUT, list(sets.REFERENCES))
    return {x: {"letter": x, "counts": counts} for x in letters}


def run(world, path: Path, made: Path, letter: str, counts: list[int]) -> dict:
    """Of a set by the most references, and the distances of those by fewer."""
    count = max(counts)
    # Real glyphs of all fonts that nothing was trained on, but for those that were references.
    others = load_atlas("report")[:, LETTERS.index(letter)]
    others = paint_glyphs(others, generator_of("real", letter)).movedim(1, -1)
    known = len(load_atlas(REAL_GROUP))
    real = torch.cat([real_images(letter, known, 0)[count:], others])
    every = {name: x.float() / 255 for name, x in sets.stored(made, letter, count, 0).items()}
    every["real glyphs in the set's colours"] = _in_colors_of_the_set(letter, count)
    every["fonts the model has seen"] = known_glyphs(letter, sets.MANY, 0)
    by_count = {
        f"references: {n}": sets.stored(made, letter, n, 0)["seedselect"].float() / 255
        for n in counts
    }
    found = {}
    for eye, see in eyes(world).items():
        features = F.normalize(see(real), dim=1)
        reports = {
            name: diversity_report(features, F.normalize(see(images), dim=1))
            for name, images in every.items()
        }
        some = next(iter(reports.values()))
        found[eye] = {
            "bins": some.bins,
            "compared": some.compared,
            "notes": some.notes,
            "rows": {"real": asdict(some.real)}
            | {name: asdict(report.generated) for name, report in reports.items()},
            "distances": _distances(see, every, by_count),
        }
    return {"letter": letter, "eyes": found}


def _distances(see, every: dict, by_count: dict) -> dict[str, float]:
    """Mean cosine distance of two pictures of a small set, by what it was made from.

    A single reference must not draw a set onto its style.
    """
    found = {}
    for name, images in (every | by_count).items():
        features = F.normalize(see(images[: sets.MADE]), dim=1)
        among = 1 - features @ features.T
        found[name] = round(float(among.sum()) / (len(among) ** 2 - len(among)), 4)
    del found["seedselect"]  # a part of which is the one by the most references
    return found


def eyes(world) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """By name what makes features [B, D] of pictures: both encoders, and both judges' insides."""

    def inside(judge: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        features = torch.nn.Sequential(*list(judge.children())[:-1])
        return lambda images: features(normalize(images.movedim(-1, 1)))

    encoders = {"the first encoder": world.encoder, "the second encoder": world.second_encoder}
    return encoders | {f"judge {name}": inside(judge) for name, judge in world.judges.items()}


def _in_colors_of_the_set(letter: str, count: int) -> torch.Tensor:
    """As many real glyphs as a set has pictures, IMAGE, in the pairs of colours that it has."""
    masks = torch.cat([load_atlas(x)[:, LETTERS.index(letter)] for x in (REAL_GROUP, "report")])
    masks = masks[torch.randperm(len(masks), generator=generator_of("colours", letter))]
    calls = sets.calls(letter, count, 0, sets.MANY)
    pairs = [pair for own in calls.values() for pair in own]
    pairs = [pairs[number % len(pairs)] for number in range(sets.MANY)]
    ink, ground = ([COLORS.index(pair[i]) for pair in pairs] for i in (0, 1))
    return paint(masks[: sets.MANY].float() / 255, RGB[ink], RGB[ground]).movedim(1, -1)


def averaged(own: dict[str, dict]) -> dict[str, dict]:
    """Means and intervals of what `diversity_report` says of several concepts, by their names."""
    figures = {
        key: mean_and_interval([(x, [row[key]]) for x, row in own.items()], shares=False)
        for key in KEYS
    }
    near = {x: (row["duplicates"], row["count"]) for x, row in own.items()}
    figures["duplicate_share"] = mean_and_interval(
        [(x, [1] * some + [0] * (count - some)) for x, (some, count) in near.items()]
    )
    return figures


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for eye, some in next(iter(found.values()))["eyes"].items():
        letters = {unit["letter"]: unit["eyes"][eye] for unit in found.values()}
        table[eye] = {"letters": letters, "mean": {}}
        table[eye]["distances"] = {
            name: round(sum(own["distances"][name] for own in letters.values()) / len(letters), 4)
            for name in some["distances"]
        }
        for who in some["rows"]:
            own = {letter: eyes["rows"][who] for letter, eyes in letters.items()}
            table[eye]["mean"][who] = averaged(own)
    return {"table": table}


KEYS = ("entropy", "ndb", "pairwise", "nearest_real")
