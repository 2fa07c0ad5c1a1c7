"""The reference pictures that ship with the pack: one sheet, a row a letter, a column a font."""

from pathlib import Path

import numpy as np
from PIL import Image

from .drawing import LETTERS, SIZE

SHEET = Path(__file__).parent / "references.png"
PER_LETTER = 8


def letter_pictures(letter: str, count: int = PER_LETTER) -> np.ndarray:
    """The first ``count`` reference pictures of a letter, uint8 [count, 64, 64, 3]."""
    with Image.open(SHEET) as file:
        sheet = np.asarray(file.convert("RGB"))
    top = LETTERS.index(letter) * SIZE
    row = sheet[top : top + SIZE].reshape(SIZE, PER_LETTER, SIZE, 3)
    return row.swapaxes(0, 1)[:count].copy()
