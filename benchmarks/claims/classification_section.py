"""What the pictures are worth as training data: see `classification`."""

from pathlib import Path

import torch

from . import classification, sets
from .classification import ARMS, SHOTS
from .common import RARE, mean_and_interval

NAME = "classification"
DEPENDS = (sets, classification)
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


def run(world, path: Path, arm: str, n: int, draw: int, quick: bool) -> dict:
    how = {"arm": arm, "n": n, "draw": draw}
    if arm == "nearest centroid":
        return how | classification.nearest_centroid(world.encoder, n, 0)
    generated = {}
    if arm in ("plain", "seedselect"):
        sets_of = [sets.stored(quick, letter, n)[arm][: sets.FEW] for letter in RARE]
        generated[arm] = torch.stack(sets_of)
    # Gradients: the caller's inference mode would keep them off.
    with torch.inference_mode(False), torch.enable_grad():
        generated = {key: value.clone() for key, value in generated.items()}
        return how | classification.run(arm, n, draw, reals=0, quick=quick, **generated)


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for n in dict.fromkeys(unit["n"] for unit in found.values()):
        rows = {}
        for arm in dict.fromkeys(unit["arm"] for unit in found.values()):
            own = [unit for unit in found.values() if (unit["arm"], unit["n"]) == (arm, n)]
            rows[arm] = {
                key: mean_and_interval([[unit[key]] for unit in own])
                for key in ("rare", "frequent", "overall")
            }
        table[f"{n} real images"] = rows
    return {"table": table, "generated for each rare letter": sets.FEW}
