"""What the pictures are worth as training data: see `classification`."""

from pathlib import Path

import numpy as np
import torch

from . import classification, sets
from .classification import ARMS, FREQUENT, SHOTS
from .common import RARE
from .intervals import mean_and_interval

NAME = "classification"
DEPENDS = (classification,)
NEEDS = sets
RIVALS = ("real", "augmented", "balanced", "adjusted", "plain")
DRAWS = {"real": 1, "augmented": 1, "nearest centroid": 1}  # of the others two


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
        for draw in range(DRAWS.get(arm, 2))
    }


def run(world, path: Path, made: Path, arm: str, n: int, draw: int, quick: bool) -> dict:
    how = {"arm": arm, "n": n, "draw": draw}
    if arm == "nearest centroid":
        return how | classification.nearest_centroid(world.encoder, n, 0)
    generated = {}
    if arm in ("plain", "seedselect"):
        sets_of = [sets.stored(made, letter, n)[arm][: sets.FEW] for letter in RARE]
        generated[arm] = torch.stack(sets_of)
    # Gradients: the caller's inference mode would keep them off.
    with torch.inference_mode(False), torch.enable_grad():
        generated = {key: value.clone() for key, value in generated.items()}
        return how | classification.run(arm, n, draw, reals=0, quick=quick, **generated)


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for n in dict.fromkeys(unit["n"] for unit in found.values()):
        own = [unit for unit in found.values() if unit["n"] == n]
        arms = dict.fromkeys(unit["arm"] for unit in own)
        rights = {arm: _rights([u["right"] for u in own if u["arm"] == arm]) for arm in arms}
        rows = {
            arm: {name: _mean(right, letters) for name, letters in GROUPS.items()}
            for arm, right in rights.items()
        }
        best = max(
            (arm for arm in RIVALS if arm in rows), key=lambda arm: rows[arm]["rare"]["mean"]
        )
        table[f"{n} real images"] = {"arms": rows, "best rival": best}
        if "seedselect" in rows:
            ours, theirs = rights["seedselect"], rights[best]
            gain = {letter: ours[letter] - theirs[letter] for letter in ours}
            table[f"{n} real images"]["gain"] = {
                name: _mean(gain, letters) for name, letters in GROUPS.items()
            }
    return {"table": table, "generated for each rare letter": sets.FEW}


GROUPS = {"rare": RARE, "frequent": FREQUENT, "overall": [*RARE, *FREQUENT]}


def _rights(draws: list[dict]) -> dict[str, np.ndarray]:
    """Per letter, of each test picture the share of the classifiers that read it."""
    return {letter: np.mean([right[letter] for right in draws], axis=0) for letter in draws[0]}


def _mean(right: dict[str, np.ndarray], letters) -> dict:
    return mean_and_interval([(letter, right[letter]) for letter in letters])
