"""Draw the real hands that the benchmarks compare with, learn from and test on.

python -m pocket.making.hands.draw_real --work WORK

WORK holds ``hand.glb``, as `draw.py` puts it there. Writes ``pocket/hands/real.png``, a row a
gesture. Values are rounded to steps of four, so that the sheet stays under 2 MB.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ...hands.real import EACH, SHEET
from ...hands.words import GESTURES, SIDES, TONES, VIEWS
from .draw import Look, Studio

# Far from the poses of training, of the judges' rates and of the references that ship.
FIRST_POSE = 20_000
SEED = 13
STEP = 4


def rounded(pixels: np.ndarray, step: int = STEP) -> np.ndarray:
    """uint8 at multiples of ``step``, and 255."""
    return np.minimum((pixels.astype(int) + step // 2) // step * step, 255).astype(np.uint8)


def real(studio: Studio, rng: np.random.Generator) -> np.ndarray:
    """The sheet, uint8 [20 * 64, 40 * 64, 4]."""
    rows = []
    for gesture in range(len(GESTURES)):
        row = []
        for view, count in EACH.items():
            for _ in range(count):
                tone = int(rng.integers(len(TONES)))
                look = Look(SIDES.index("right"), VIEWS.index(view), tone)
                row.append(studio.shown(gesture, FIRST_POSE + len(row), "unseen", look, rng))
        rows.append(np.concatenate(row, 1))
    return rounded(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    sheet = real(Studio(args.work / "hand.glb"), np.random.default_rng(SEED))
    Image.fromarray(sheet).save(SHEET, optimize=True)
    print(f"{SHEET.name}: {SHEET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
