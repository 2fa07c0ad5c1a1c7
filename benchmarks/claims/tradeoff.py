"""What each setting does, one at a time."""

from dataclasses import replace
from pathlib import Path

from pocket.drawing import RGB, paint
from pocket_world import SAMPLING
from seedselect_core.references import ReferenceSet, reference_set_from_batch
from seedselect_core.search.presets import PRESETS

from .common import figures, glyphs, optimized, references
from .intervals import means

NAME = "tradeoff"
SEEDS = 2
DRAWS = (7, 8)
LETTERS_SHOWN = "PS"  # the two that plain sampling draws worst
DEFAULT = PRESETS["default"]
# What the judges most often read in plain pictures of a letter that are not that letter.
CONFUSED_WITH = {"P": "F", "S": "E"}
# The default itself is in none of them: it has a line of its own.
SWEEPS = {
    "appearance weight, at semantic weight 10": {
        str(weight): {"weights": {"appearance": weight}} for weight in (0.3, 1.0, 10.0)
    }
    | {"appearance alone": {"weights": {"semantic": 0.0, "appearance": 1.0}}},
    "references": {str(count): {"references": count} for count in (1, 2, 8, 16)},
    "references of one other colour pair": {"all red on white": {"alike": True}},
    "iterations": {str(count): {"iterations": count} for count in (0, 4, 32)},
    "denoising steps": {str(count): {"steps": count} for count in (4, 20)},
    "guidance": {str(cfg): {"cfg": cfg} for cfg in (1.0, 3.0, 10.0)},
    "contrast with the letter it is taken for": {"weight 5": {"contrast": True}},
}


def units(quick: bool) -> dict[str, dict]:
    found = {}
    for sweep, variants in {"default": {"default": {}}, **SWEEPS}.items():
        for label, change in list(variants.items())[: 1 if quick else None]:
            # A batch is pushed away from one neighbour alone.
            parts = list(LETTERS_SHOWN) if "contrast" in change else [LETTERS_SHOWN]
            for letters in parts:
                unit = {"sweep": sweep, "label": label, "change": change}
                unit |= {"letters": letters, "draws": DRAWS}
                if quick:
                    unit |= {"letters": letters[0], "draws": DRAWS[:1]}
                found[f"{sweep}_{label}_{letters}".replace(" ", "-").replace(",", "")] = unit
    return dict(list(found.items())[: 4 if quick else None])


def run(
    world, path: Path, sweep: str, label: str, change: dict, letters: str, draws: tuple[int, ...]
) -> dict:
    change = dict(change)
    count = change.pop("references", 4)
    alike = change.pop("alike", False)
    more = {}
    if change.pop("contrast", False):
        more["contrast"] = references(CONFUSED_WITH[letters], 4, draws[0])
    groups = [(letter, draw) for letter in letters for draw in draws]
    if alike:
        more["refs"] = [_red_on_white(letter, count, draw) for letter, draw in groups]
    sampling = SAMPLING.override(steps=change.pop("steps", None), cfg=change.pop("cfg", None))
    settings = replace(DEFAULT.reweighted(**change.pop("weights", {})), **change)
    more |= {"reference_count": count, "sampling": sampling}
    found = optimized(world, groups, SEEDS, settings, **more)
    return {"sweep": sweep, "label": label, "groups": [figures(group) for group in found]}


def _red_on_white(letter: str, count: int, draw: int) -> ReferenceSet:
    masks, _ = glyphs(letter, count, draw)
    images = paint(masks.float() / 255, RGB[[0] * count], RGB[[8] * count])
    return reference_set_from_batch(images.movedim(1, -1))


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    lines: dict[str, dict[str, list]] = {}
    for unit in found.values():
        lines.setdefault(unit["sweep"], {}).setdefault(unit["label"], []).extend(unit["groups"])
    return {
        "sweeps": {
            sweep: {
                label: means(groups, ("right", "colours", "semantic", "norm"))
                for label, groups in variants.items()
            }
            for sweep, variants in lines.items()
        }
    }
