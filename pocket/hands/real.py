"""Real renders for the benchmarks: right hands of held-out poses, one sheet, a row a gesture.

The references that ship are other poses. A left hand is the mirror image of a right one.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image

from .words import GESTURES, SIZE, VIEWS

SHEET = Path(__file__).parent / "real.png"
# How many of each gesture: palms, then backs.
EACH = {"palm": 28, "back": 12}
# Palms that references and training data are taken from; the others are for tests alone.
LEARNED = 16


@functools.cache
def _sheet() -> np.ndarray:
    """uint8 [20, 64, 40, 64, 4]"""
    with Image.open(SHEET) as file:
        return np.asarray(file).reshape(len(GESTURES), SIZE, sum(EACH.values()), SIZE, 4)


def real_hands(gesture: str, view: str) -> np.ndarray:
    """All right hands of a gesture seen from there, uint8 [n, 64, 64, 4].

    Colors times coverage, and coverage, as the renderer draws them: any ground can be put behind.
    """
    start = 0 if view == VIEWS[0] else EACH[VIEWS[0]]
    row = _sheet()[GESTURES.index(gesture)].swapaxes(0, 1)
    return row[start : start + EACH[view]].copy()
