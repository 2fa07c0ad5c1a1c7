"""Sets of pictures of the rare letters, made by bootstrapping: what the next two sections measure.

For every rare letter, 1, 2, 4 and 8 references and two draws of these one set, and as many plain
pictures.
"""

from pathlib import Path

import numpy as np
import torch
from pocket_world import SAMPLING

from seedselect_core.bootstrap import SetSettings, make_set
from seedselect_core.references import reference_set_from_batch
from seedselect_core.settings import PRESETS, Settings

from . import classification
from .classification import real_images
from .common import HELD_OUT, RARE, colour_pairs_of, number_of, optimized, pictures, prompts
from .intervals import mean_and_interval

NAME = "sets"
DEPENDS = (classification,)
REFERENCES = (1, 2, 4, 8)
DRAWS = 2  # of references
# Enough for the measures of diversity at eight references, and for a classifier.
FEW, MANY = 16, 100
# So many of one call, since a call has a batch's prompts and a real set has glyphs of all colours.
PART = 25


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {f"{x}_4_0": {"letter": x, "count": 4, "draw": 0, "wanted": 12} for x in RARE[-1:]}
    found = {}
    for draw in range(DRAWS):
        for count in reversed(REFERENCES):
            for letter in reversed(RARE):
                wanted = MANY if (count, draw) == (8, 0) and letter in HELD_OUT else FEW
                unit = {"letter": letter, "count": count, "draw": draw, "wanted": wanted}
                found[f"{letter}_{count}_{draw}"] = unit
    return found


def stored(folder: Path, letter: str, count: int, draw: int) -> dict[str, torch.Tensor]:
    """Pictures of a set, uint8 [n, 64, 64, 3]: "plain" and "seedselect"."""
    with np.load(folder / f"{letter}_{count}_{draw}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in ("plain", "seedselect")}


def run(world, path: Path, letter: str, count: int, draw: int, wanted: int) -> dict:
    refs = reference_set_from_batch(real_images(letter, count, draw))
    batch = 8 if wanted > PART else 4
    first = 1000 * draw + 20
    parts = [
        _part(world, letter, refs, first + count + 100 * number, batch, min(PART, wanted))
        for number in range(-(-wanted // PART))
    ]
    images = torch.cat([part["images"] for part in parts])[:wanted]
    plain, right_plain = [], []
    for number in range(-(-wanted // 8)):
        drawn = optimized(world, letter, 8, first + 20 + number, Settings(iterations=0))
        plain.append(drawn["images"])
        right_plain += drawn["right"]
    np.savez_compressed(
        path.with_suffix(".npz"),
        plain=pictures(torch.cat(plain)[:wanted]),
        seedselect=pictures(images),
    )
    rights = [part["right"] for part in parts]
    firsts = [part["kept_first"] for part in parts]
    spent = [part["evaluations"] for part in parts]
    later = sum(len(right) for right in rights) - sum(firsts)
    return {
        "letter": letter,
        "references": count,
        "made": sum(len(right) for right in rights),
        "wanted": wanted,
        "right_plain": right_plain[:wanted],
        "right_first": [x for right, n in zip(rights, firsts, strict=True) for x in right[:n]],
        "right_later": [x for right, n in zip(rights, firsts, strict=True) for x in right[n:]],
        "evaluations_first": sum(each[0] for each in spent) / sum(firsts),
        "evaluations_later": sum(sum(each[1:]) for each in spent) / max(1, later),
        "duplicates": sum(part["duplicates"] for part in parts),
        "misses": sum(part["misses"] for part in parts),
    }


def _part(world, letter: str, refs, draw: int, batch: int, wanted: int) -> dict:
    """One call of `make_set`, with as many pairs of colours as its batch has pictures."""
    _, made = make_set(
        world.model,
        prompts(world, letter, colour_pairs_of(letter, batch, draw)),
        world.negative,
        world.vae,
        world.encoder,
        refs,
        {"samples": torch.zeros(batch, 4, 8, 8)},
        SAMPLING.override(seed=number_of(letter, draw)),
        PRESETS["default"],
        SetSettings(count=wanted),
    )
    answers = world.right(made.images, letter).values()
    return {
        "images": made.images[:wanted],
        "right": [sum(both) / 2 for both in zip(*answers, strict=True)],
        "kept_first": made.kept_first,
        "evaluations": made.evaluations,
        "duplicates": made.duplicates,
        "misses": made.misses,
    }


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def of(own: list[dict]) -> dict:
        # The plain pictures of a draw are the same, however many references its sets have.
        most = max(unit["references"] for unit in own)
        plain = [unit for unit in own if unit["references"] == most]
        row = {"right_plain": mean_and_interval([(u["letter"], u["right_plain"]) for u in plain])}
        for key in ("right_first", "right_later"):
            groups = [(unit["letter"], unit[key]) for unit in own if unit[key]]
            if groups:
                row[key] = mean_and_interval(groups)
        for key in ("evaluations_first", "evaluations_later"):
            row[key] = round(sum(unit[key] for unit in own) / len(own), 1)
        row["later_share"] = mean_and_interval(
            [
                (unit["letter"], [unit["evaluations_later"] / unit["evaluations_first"]])
                for unit in own
            ]
        )
        for key in ("made", "wanted", "duplicates", "misses"):
            row[key] = sum(unit[key] for unit in own)
        row["sets"] = len(own)
        row["short"] = sum(unit["made"] < unit["wanted"] for unit in own)
        return row

    table = {"all": of(list(found.values()))}
    for count in REFERENCES:
        own = [unit for unit in found.values() if unit["references"] == count]
        if own:
            table[f"{count} references"] = of(own)
    return {"table": table}
