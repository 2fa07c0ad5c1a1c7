"""Draw docs/icon.png and docs/banner.png, by which the Comfy registry shows this pack.

usage: PYTHON scripts/registry_pictures.py      (PYTHON: the host's; see host.py)

The icon is a letter that comes out of noise. The banner holds letters of docs/demo.jpg: of each row
the first reference, and the first pictures before and after. None is chosen by its looks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))

from pocket.drawing import PALETTE, SIZE  # noqa: E402
from pocket.references import letter_pictures  # noqa: E402

DOCS = REPO / "docs"
COLORS = np.array([[int(code[i : i + 2], 16) for i in (1, 3, 5)] for code in PALETTE.values()])
DARK = PALETTE["black"]
LIGHT = PALETTE["white"]

ICON = 400  # pixels of a side: the registry's largest
LETTER = ("S", 7)  # and which of its reference pictures
CELL = 16  # pixels of a side of a grain of noise

BANNER = (1260, 540)  # 21 : 9
PICTURE = 92
GAP = 6
# Where docs/demo.jpg has its pictures, see contact_sheet in demo.py: from the left, and how many of
# a row are shown. The outermost pixels are blurred with the frame.
COLUMNS = {"reference": (210, 1), "before": (522, 3), "after": (1122, 3)}
ROWS = 4
TOP = 40
STEP = (72, 82)
FRAME = 3
EDGE = 2


def letter_mask(side: int) -> np.ndarray:
    """How much of each pixel is ink, float [side, side] in 0..1, of LETTER."""
    letter, which = LETTER
    picture = letter_pictures(letter)[which].astype(float)
    ground = picture[0, 0]
    difference = picture - ground
    ink = difference[np.unravel_index(np.linalg.norm(difference, axis=2).argmax(), (SIZE, SIZE))]
    small = (difference @ ink / (ink @ ink)).clip(0, 1)
    large = Image.fromarray((255 * small).astype(np.uint8)).resize((side, side), Image.BICUBIC)
    # Sharp edges again, one pixel wide.
    return ((np.asarray(large) / 255 - 0.5) * side / SIZE + 0.5).clip(0, 1)


def icon() -> Image.Image:
    """A letter that comes out of coloured noise, from the upper left to the lower right."""
    draw = np.random.default_rng(0)
    cells = ICON // CELL
    mask = letter_mask(ICON)[:, :, None]
    picture = mask * COLORS[2] + (1 - mask) * COLORS[-1]
    y, x = np.mgrid[:cells, :cells] / (cells - 1)
    ink = mask.reshape(cells, CELL, cells, CELL).mean((1, 3))
    noisy = draw.random((cells, cells)) < (1.4 - 1.9 * (x + y) / 2) * (1 - 0.6 * ink)
    noise = COLORS[draw.integers(len(COLORS), size=(cells, cells))]
    grains = np.ones((CELL, CELL, 1))
    noise = np.kron(noise, grains)
    noisy = np.kron(noisy[:, :, None], grains)
    return Image.fromarray((noisy * noise + (1 - noisy) * picture).round().astype(np.uint8))


def banner() -> Image.Image:
    """The name of the pack, and what it does to letters of the demo."""
    sheet = Image.new("RGB", BANNER, DARK)
    pen = ImageDraw.Draw(sheet)
    pen.text((56, 168), "SeedSelect", LIGHT, ImageFont.load_default(76))
    pen.text((60, 276), "finds the noise from which a model", LIGHT, ImageFont.load_default(25))
    pen.text((60, 310), "draws rare concepts right", LIGHT, ImageFont.load_default(25))
    left = 496
    with Image.open(DOCS / "demo.jpg") as demo:
        for title, (start, count) in COLUMNS.items():
            pen.text((left, 59), title, LIGHT, ImageFont.load_default(20))
            for row in range(ROWS):
                for place in range(count):
                    x = start + place * STEP[0] + FRAME + EDGE
                    y = TOP + row * STEP[1] + FRAME + EDGE
                    side = SIZE - 2 * EDGE
                    part = demo.crop((x, y, x + side, y + side))
                    large = part.resize((PICTURE, PICTURE), Image.LANCZOS)
                    sheet.paste(large, (left + place * (PICTURE + GAP), 95 + row * (PICTURE + GAP)))
            left += count * (PICTURE + GAP) + 24
    return sheet


def main() -> int:
    for name, picture in (("icon", icon()), ("banner", banner())):
        picture.quantize(256, dither=Image.Dither.NONE).save(DOCS / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
