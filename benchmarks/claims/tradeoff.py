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
SEEDS, DRAW = 4, 7
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
    letters = "P" if quick else LETTERS_SHOWN
    found = {f"default_{letter}": {"letter": letter, "change": {}} for letter in letters}
    for sweep, variants in SWEEPS.items():
        for label, change in list(variants.items())[: 1 if quick else None]:
            for letter in letters:
                name = f"{sweep}_{label}_{letter}".replace(" ", "-").replace(",", "")
                found[name] = {"letter": letter, "change": change}
    if quick:
        found = dict(list(found.items())[:4])
    return found


def run(world, path: Path, letter: str, change: dict) -> dict:
    change = dict(change)
    count, alike = change.pop("references", 4), change.pop("alike", False)
    contrast = change.pop("contrast", False)
    sampling = SAMPLING.override(steps=change.pop("steps", None), cfg=change.pop("cfg", None))
    more = {}
    if contrast:
        more["contrast"] = references(CONFUSED_WITH[letter], 4, 0)
    if alike:
        masks, _ = glyphs(letter, count, DRAW)
        colours = RGB[[0] * count], RGB[[8] * count]
        more["refs"] = reference_set_from_batch(paint(masks.float() / 255, *colours).movedim(1, -1))
    settings = replace(DEFAULT, **change)
    result = optimized(
        world, letter, SEEDS, DRAW, settings, reference_count=count, sampling=sampling, **more
    )
    return {"letter": letter, **figures(result)}


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def row(prefix: str) -> dict:
        own = [unit for name, unit in found.items() if name.rpartition("_")[0] == prefix]
        return {
            key: mean_and_interval([(unit["letter"], unit[key]) for unit in own])
            for key in ("right", "colours", "semantic", "norm")
        }

    table = {"default": {"default": row("default")}}
    for sweep, variants in SWEEPS.items():
        for label in variants:
            prefix = f"{sweep}_{label}".replace(" ", "-").replace(",", "")
            if any(name.startswith(prefix + "_") for name in found):
                table.setdefault(sweep, {})[label] = row(prefix)
    return {"sweeps": table}
