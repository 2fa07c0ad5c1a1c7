"""Draw the reference pictures of hands, and the spoiled hands that the tests show the judges.

python -m pocket.making.hands.draw_references --work WORK

WORK holds ``hand.glb``, as `draw.py` puts it there. Writes ``pocket/hands/references.png``, a row a
gesture, and ``tests/data/spoiled_hands.png``, a row a fault.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ...hands.references import PER_VIEW, SHEET
from ...hands.words import GESTURES, SIDES, TONES, VIEWS
from .draw import Look, Studio, random_grounds
from .renderer import on_ground
from .spoiled import SPOILED

SPOILED_SHEET = Path(__file__).parents[3] / "tests" / "data" / "spoiled_hands.png"
SPOILED_EACH = 12
# Poses from here on are held out from training, and from what the judges are measured on.
FIRST_POSE = 10_000
SEED = 12


def save_sheet(rows: list[list[np.ndarray]], path: Path, rng: np.random.Generator) -> None:
    """Hands uint8 [64, 64, 4], row by row, each on a ground of its own."""
    drawn = []
    for row in rows:
        _, colors = random_grounds(len(row), rng)
        drawn.append(np.concatenate(list(on_ground(np.stack(row), colors)), 1))
    Image.fromarray(np.concatenate(drawn)).save(path, optimize=True)


def references(studio: Studio, rng: np.random.Generator) -> list[list[np.ndarray]]:
    rows = []
    for gesture in range(len(GESTURES)):
        row = []
        for view in range(len(VIEWS)):
            tones = rng.permutation(len(TONES))[:PER_VIEW]
            for number, tone in enumerate(tones):
                look = Look(SIDES.index("right"), view, int(tone))
                pose = FIRST_POSE + view * PER_VIEW + number
                row.append(studio.shown(gesture, pose, "unseen", look, rng))
        rows.append(row)
    return rows


def spoiled(studio: Studio, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """A row of each fault, as right palms."""
    look = Look(SIDES.index("right"), VIEWS.index("palm"), 0)
    return [
        [studio.of_mesh(make, rng, look)[0] for _ in range(SPOILED_EACH)]
        for make in SPOILED.values()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    studio = Studio(args.work / "hand.glb")
    rng = np.random.default_rng(SEED)
    save_sheet(references(studio, rng), SHEET, rng)
    save_sheet(spoiled(studio, rng), SPOILED_SHEET, rng)
    for path in (SHEET, SPOILED_SHEET):
        print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
