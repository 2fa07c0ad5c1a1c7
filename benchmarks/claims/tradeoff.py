"""What each setting does, one at a time."""

from dataclasses import replace
from pathlib import Path

from pocket_world import SAMPLING

from pocket.drawing import RGB, paint
from seedselect_core.references import reference_set_from_batch
from seedselect_core.settings import PRESETS

from .common import figures, glyphs, optimized, references
from .intervals import mean_and_interval

NAME = "tradeoff"
SEEDS, DRAWS = 2, (7, 8)
LETTERS_SHOWN = "PS"  # the two that plain sampling draws worst
DEFAULT = PRESETS["default"]
# What the judges most often read in plain pictures of a letter that are not that letter.
CONFUSED_WITH = {"P": "F", "S": "E"}
# The default itself is in none of them: it has a line of its own.
SWEEPS = {
    "appearance weight, at semantic weight 10": {
        str(weight): {"appearance_weight": weight} for weight in (0.3, 1.0, 10.0)
    }
    | {"appearance alone": {"semantic_weight": 0.0, "appearance_weight": 1.0}},
    "references": {str(count): {"references": count} for count in (1, 2, 8, 16)},
    "references of one other colour pair": {"all red on white": {"alike": True}},
    "iterations": {str(count): {"iterations": count} for count in (0, 4, 32)},
    "denoising steps": {str(count): {"steps": count} for count in (4, 20)},
    "guidance": {str(cfg): {"cfg": cfg} for cfg in (1.0, 3.0, 10.0)},
    "contrast with the letter it is taken for": {"weight 5": {"contrast": True}},
}


def units(quick: bool) -> dict[str, dict]:
    pictures = [(letter, draw) for letter in LETTERS_SHOWN for draw in DRAWS]
    found = {}
    for sweep, variants in {"default": {"default": {}}, **SWEEPS}.items():
        for label, change in list(variants.items())[: 1 if quick else None]:
            for letter, draw in pictures[: 1 if quick else None]:
                unit = {"letter": letter, "draw": draw, "change": change}
                found[f"{_prefix(sweep, label)}_{letter}{draw}"] = unit
    return dict(list(found.items())[: 4 if quick else None])


def _prefix(sweep: str, label: str) -> str:
    """What the names of a line's units begin with."""
    return f"{sweep}_{label}".replace(" ", "-").replace(",", "")


def run(world, path: Path, letter: str, draw: int, change: dict) -> dict:
    change = dict(change)
    count, alike = change.pop("references", 4), change.pop("alike", False)
    contrast = change.pop("contrast", False)
    sampling = SAMPLING.override(steps=change.pop("steps", None), cfg=change.pop("cfg", None))
    more = {}
    if contrast:
        more["contrast"] = references(CONFUSED_WITH[letter], 4, draw)
    if alike:
        masks, _ = glyphs(letter, count, draw)
        colours = RGB[[0] * count], RGB[[8] * count]
        more["refs"] = reference_set_from_batch(paint(masks.float() / 255, *colours).movedim(1, -1))
    settings = replace(DEFAULT, **change)
    result = optimized(
        world, letter, SEEDS, draw, settings, reference_count=count, sampling=sampling, **more
    )
    return {"letter": letter, **figures(result)}


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def row(own: list[dict]) -> dict:
        return {
            key: mean_and_interval([(unit["letter"], unit[key]) for unit in own])
            for key in ("right", "colours", "semantic", "norm")
        }

    table = {}
    for sweep, variants in {"default": {"default": {}}, **SWEEPS}.items():
        for label in variants:
            prefix = _prefix(sweep, label)
            own = [unit for name, unit in found.items() if name.rpartition("_")[0] == prefix]
            if own:
                table.setdefault(sweep, {})[label] = row(own)
    return {"sweeps": table}
