"""Draw the reference pictures that ship with the pack: eight a letter, in fonts nobody trained on.

python -m pocket.draw_references --work WORK

Each is in another font family and other colours. Writes ``pocket/references/<letter>_<n>.png``.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

from .drawing import RGB, Glyphs, colour_pairs, paint
from .glyphs import LETTERS

REFERENCES = Path(__file__).parent / "references"
PER_LETTER = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    glyphs = Glyphs(args.work, "unseen")
    families = ["/".join(path.split("/")[-3:-1]) for path in glyphs.paths]
    REFERENCES.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(1830)
    for index, letter in enumerate(LETTERS):
        chosen: dict[str, int] = {}
        for font in torch.randperm(len(glyphs), generator=generator).tolist():
            chosen.setdefault(families[font], font)
        fonts = list(chosen.values())[:PER_LETTER]
        ink, ground = colour_pairs(len(fonts), generator)
        pictures = paint(glyphs.masks[fonts, index].float() / 255, RGB[ink], RGB[ground])
        for number, picture in enumerate(pictures):
            pixels = (picture.movedim(0, -1) * 255).round().to(torch.uint8).numpy()
            Image.fromarray(pixels).save(REFERENCES / f"{letter}_{number}.png", optimize=True)


if __name__ == "__main__":
    main()
