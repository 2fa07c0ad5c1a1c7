"""Reference pictures of hands: right ones, four palms and four backs of each gesture, in one sheet.

A left hand is the mirror image of a right one. All are of poses that nothing was trained on; skin,
light and ground differ.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from .words import GESTURES, SIDES, SIZE, VIEWS

SHEET = Path(__file__).parent / "references.png"
PER_VIEW = 4


def hand_pictures(gesture: str, side: str, view: str, count: int = PER_VIEW) -> np.ndarray:
    """The first ``count`` of four reference pictures of a hand, uint8 [count, 64, 64, 3]."""
    with Image.open(SHEET) as file:
        sheet = np.asarray(file.convert("RGB"))
    top = GESTURES.index(gesture) * SIZE
    row = sheet[top : top + SIZE].reshape(SIZE, len(VIEWS), PER_VIEW, SIZE, 3)
    pictures = row[:, VIEWS.index(view)].swapaxes(0, 1)[:count]
    mirrored = side != SIDES[1]
    return (pictures[:, :, ::-1] if mirrored else pictures).copy()
