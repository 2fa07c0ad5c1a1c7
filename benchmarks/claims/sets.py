"""Sets of pictures of the rare letters, made by bootstrapping: what the next two sections measure.

For every rare letter one set for each number of references and draw of these, and as many plain
pictures.
"""

from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from pocket_world import COLORS, SAMPLING
from seedselect_core.references import reference_set_from_batch
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings
from seedselect_core.sets.bootstrap import SetSettings, make_set

from . import classification
from .classification import MADE, real_images
from .common import HELD_OUT, RARE, generator_of, number_of, optimized, pictures, prompts
from .intervals import mean_and_interval

NAME = "sets"
DEPENDS = (classification,)
# So many references, and so many draws of these.
REFERENCES = {1: 2, 2: 1, 4: 1, 8: 1}
# Where a classifier does not need fewer: for the measures of diversity, at eight references.
MANY = 100
# A call has a batch's prompts, and a real set has glyphs of all colours: so many of one call, and
# no pair of colours twice. (In half as many pairs even real glyphs are less various than real ones,
# seen by the encoder of the loss.)
PART = 16
BATCH = 8


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {f"{x}_4_0": {"letter": x, "count": 4, "draw": 0, "wanted": 12} for x in RARE[-1:]}
    found = {}
    for count, draws in reversed(REFERENCES.items()):
        for draw in range(draws):
            for letter in reversed(RARE):
                wanted = MANY if count == max(REFERENCES) and letter in HELD_OUT else MADE
                unit = {"letter": letter, "count": count, "draw": draw, "wanted": wanted}
                found[f"{letter}_{count}_{draw}"] = unit
    return found


def stored(folder: Path, letter: str, count: int, draw: int) -> dict[str, torch.Tensor]:
    """Pictures of a set, uint8 [n, 64, 64, 3]: "plain" and "seedselect"."""
    with np.load(folder / f"{letter}_{count}_{draw}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in ("plain", "seedselect")}


def calls(letter: str, count: int, draw: int, wanted: int) -> dict[int, list[tuple[str, str]]]:
    """Of each call of `make_set` its own draw, and a pair of colours for each of its batch."""
    first = 1000 * draw + 20 + count
    pairs = list(permutations(COLORS, 2))
    order = torch.randperm(len(pairs), generator=generator_of("sets", letter, first)).tolist()
    return {
        first + 100 * number: [pairs[i] for i in order[BATCH * number : BATCH * (number + 1)]]
        for number in range(-(-wanted // PART))
    }


def run(world, path: Path, letter: str, count: int, draw: int, wanted: int) -> dict:
    refs = reference_set_from_batch(real_images(letter, count, draw))
    pairs_of = calls(letter, count, draw, wanted)
    each = -(-wanted // len(pairs_of))
    parts = [_part(world, letter, refs, pairs, own, each) for own, pairs in pairs_of.items()]
    images = torch.cat([part["images"] for part in parts])[:wanted]
    drawn = optimized(world, [(letter, 1000 * draw + 40)], wanted, Settings(iterations=0))[0]
    np.savez_compressed(
        path.with_suffix(".npz"),
        plain=pictures(drawn["images"]),
        seedselect=pictures(images),
    )
    rights = [part["right"] for part in parts]
    firsts = [part["kept_first"] for part in parts]
    spent = [part["evaluations"] for part in parts]
    later = sum(len(right) for right in rights) - sum(firsts)
    return {
        "letter": letter,
        "references": count,
        "draw": draw,
        "made": sum(len(right) for right in rights),
        "wanted": wanted,
        "right_plain": drawn["right"],
        "right_first": [x for right, n in zip(rights, firsts, strict=True) for x in right[:n]],
        "right_later": [x for right, n in zip(rights, firsts, strict=True) for x in right[n:]],
        "evaluations_first": sum(each[0] for each in spent) / sum(firsts),
        "evaluations_later": sum(sum(each[1:]) for each in spent) / max(1, later),
        "duplicates": sum(part["duplicates"] for part in parts),
        "misses": sum(part["misses"] for part in parts),
    }


def _part(world, letter: str, refs, pairs: list, draw: int, wanted: int) -> dict:
    """One call of `make_set`, with a prompt for each of ``pairs`` and a batch of as many."""
    _, made = make_set(
        world.scene(prompts(world, [(letter, *pair) for pair in pairs]), refs, len(pairs)),
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


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def of(own: list[dict]) -> dict:
        # The plain pictures of a draw do not depend on the references.
        plain = {(unit["letter"], unit["draw"]): unit["right_plain"][:MADE] for unit in own}
        row = {"right_plain": mean_and_interval([(x, right) for (x, _), right in plain.items()])}
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
