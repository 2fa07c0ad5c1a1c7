"""Draw the reference pictures that ship with the pack: eight a letter, in fonts nobody trained on.

python -m pocket.making.draw_references --work WORK

Each is in another font family and other colours. Writes ``pocket/references.png``, a row
a letter.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from ..drawing import LETTERS, RGB, SIZE, color_pairs, paint
from ..references import PER_LETTER, SHEET
from .glyphs import Glyphs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    glyphs = Glyphs(args.work, "unseen")
    families = ["/".join(path.split("/")[-3:-1]) for path in glyphs.paths]
    sheet = Image.new("RGB", (PER_LETTER * SIZE, len(LETTERS) * SIZE))
    generator = torch.Generator().manual_seed(1830)
    for index in range(len(LETTERS)):
        chosen: dict[str, int] = {}
        for font in torch.randperm(len(glyphs), generator=generator).tolist():
            chosen.setdefault(families[font], font)
        fonts = list(chosen.values())[:PER_LETTER]
        ink, ground = color_pairs(len(fonts), generator)
        pictures = paint(glyphs.masks[fonts, index].float() / 255, RGB[ink], RGB[ground])
        for number, picture in enumerate(pictures):
            pixels = (picture.movedim(0, -1) * 255).round().to(torch.uint8).numpy()
            sheet.paste(Image.fromarray(pixels), (number * SIZE, index * SIZE))
    sheet.save(SHEET, optimize=True)


if __name__ == "__main__":
    main()
