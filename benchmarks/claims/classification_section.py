"""What the pictures are worth as training data: see `classification`."""

from pathlib import Path

import numpy as np
import torch

from . import classification, sets
from .classification import ARMS, FREQUENT, MADE, RIVALS, SHOTS
from .common import RARE
from .intervals import mean_and_interval

NAME = "classification"
DEPENDS = (classification,)
NEEDS = sets


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {
            f"{arm}_4_0": {"arm": arm, "n": 4, "draw": 0, "quick": True}
            for arm in ("augmented", "balanced")
        }
    return {
        f"{arm}_{n}_{draw}": {"arm": arm, "n": n, "draw": draw, "quick": False}
        for n in SHOTS
        for arm in (*ARMS, "nearest centroid")
        # A draw of real pictures, which are the sets' references, and of an initialisation.
        for draw in range(sets.REFERENCES[n])
    }


def run(world, path: Path, made: Path, arm: str, n: int, draw: int, quick: bool) -> dict:
    how = {"arm": arm, "n": n, "draw": draw}
    if arm == "nearest centroid":
        return how | classification.nearest_centroid(world.encoder, n, draw)
    generated = {}
    if arm in ("plain", "seedselect"):
        # A set may have found fewer.
        generated[arm] = [sets.stored(made, letter, n, draw)[arm][:MADE] for letter in RARE]
    # Gradients: the caller's inference mode would keep them off.
    with torch.inference_mode(False), torch.enable_grad():
        generated = {key: [own.clone() for own in value] for key, value in generated.items()}
        return how | classification.run(arm, n, draw, reals=draw, quick=quick, **generated)


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for n in dict.fromkeys(unit["n"] for unit in found.values()):
        own = [unit for unit in found.values() if unit["n"] == n]
        arms = dict.fromkeys(unit["arm"] for unit in own)
        rights = {arm: [u["right"] for u in own if u["arm"] == arm] for arm in arms}
        rows = {arm: _means(draws) for arm, draws in rights.items()}
        best = max(
            (arm for arm in RIVALS if arm in rows), key=lambda arm: rows[arm]["rare"]["mean"]
        )
        table[f"{n} real images"] = {"arms": rows, "best rival": best}
        if "seedselect" in rows:
            # Test picture by test picture, between classifiers with the same real images.
            gains = [
                {letter: np.subtract(ours[letter], theirs[letter]) for letter in ours}
                for ours, theirs in zip(rights["seedselect"], rights[best], strict=True)
            ]
            table[f"{n} real images"]["gain"] = _means(gains)
            table[f"{n} real images"]["gained share"] = _gained(rows, best)
    return {"table": table, "generated for each rare letter, at most": MADE}


def _gained(rows: dict[str, dict], best: str) -> float | None:
    """What ours gains of what the glyphs of the diffusion model's own training would.

    None where these gain nothing over ``best``, so that there is nothing to share in.
    """
    if "seen fonts" not in rows:
        return None
    theirs, ours, most = (rows[arm]["rare"]["mean"] for arm in (best, "seedselect", "seen fonts"))
    return round((ours - theirs) / (most - theirs), 4) if most > theirs else None


GROUPS = {"rare": RARE, "frequent": FREQUENT, "overall": [*RARE, *FREQUENT]}


def _means(draws: list[dict]) -> dict[str, dict]:
    """Of each group of letters the mean over draws, letters and test pictures."""
    return {
        name: mean_and_interval([(letter, right[letter]) for right in draws for letter in letters])
        for name, letters in GROUPS.items()
    }
