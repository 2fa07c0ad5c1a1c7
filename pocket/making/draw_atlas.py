"""Draw the atlas: real glyphs for the benchmarks, in fonts that are named beside them.

python -m pocket.making.draw_atlas --work WORK

Writes ``pocket/atlas/{seen,tuning,report,test}.png`` and ``fonts.json``; ``atlas.py`` says what
they hold. The unseen fonts come from 27 families only, some with dozens of cuts, so every group
has several fonts of a family; within a family those are taken that differ most.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..atlas import ATLAS, GROUPS, LEVELS, SEEN_CAP, SEEN_PER_ROW
from ..drawing import LETTERS, SIZE, color_pairs, fonts_seen
from ..references import PER_LETTER
from .glyphs import Glyphs

# Fonts of each family, at most. Each group has text and display faces, with and without serifs.
FONTS = {
    "tuning": {"ibm/plex": 6, "public/aesupp": 6, "public/fetamont": 4},
    "report": {
        "arkandis/venturisold": 2,
        "google/tinos": 2,
        "public/cascadia-code": 2,
        "public/cm-lgc": 3,
        "public/epigrafica": 2,
        "public/fontawesome5": 1,
        "public/forum": 2,
        "public/garamond-math": 1,
        "public/gfsartemisia": 2,
        "public/gfsneohellenicmath": 1,
        "public/newtxtt": 2,
        "public/poiretone": 1,
        "public/punknova": 1,
        "public/step": 2,
    },
    "test": {
        "arkandis/universalis": 40,
        "google/roboto": 40,
        "nowacki/iwona": 40,
        "paratype/ptserif": 40,
        "public/beuron": 40,
        "public/gentium-tug": 40,
        "public/gfsbodoni": 40,
        "public/kpfonts": 40,
        "public/libertine": 40,
        "public/rosario": 40,
    },
}
# Settings were first tuned on the shipped references of these letters, in whatever family.
TUNED_LETTERS = "BDJU"


def family_of(path: str) -> str:
    return "/".join(path.split("/")[-3:-1])


def shipped_references(glyphs: Glyphs) -> dict[int, list[str]]:
    """Font to the reference pictures drawn in it; the draws repeat those of draw_references.py."""
    generator = torch.Generator().manual_seed(1830)
    drawn: dict[int, list[str]] = {}
    for letter in LETTERS:
        chosen: dict[str, int] = {}
        for font in torch.randperm(len(glyphs), generator=generator).tolist():
            chosen.setdefault(family_of(glyphs.paths[font]), font)
        for number, font in enumerate(list(chosen.values())[:PER_LETTER]):
            drawn.setdefault(font, []).append(f"{letter}_{number}")
        color_pairs(PER_LETTER, generator)  # only to draw what was drawn there
    return drawn


def most_different(masks: torch.Tensor, count: int) -> list[int]:
    """Positions of ``count`` fonts, each the farthest from those before it; the first one first."""
    looks = F.avg_pool2d(masks.float() / 255, 4).flatten(1)
    distance = torch.cdist(looks, looks)
    chosen = [0]
    while len(chosen) < min(count, len(masks)):
        nearest = distance[:, chosen].min(1).values
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
    return sorted(chosen)


def choose(glyphs: Glyphs, group: str, drawn: dict[int, list[str]]) -> list[int]:
    """Fonts of a group. Only ``tuning`` has any that the shipped settings were tuned on."""
    fonts: list[int] = []
    for family, count in FONTS[group].items():
        of_family = [i for i, path in enumerate(glyphs.paths) if family_of(path) == family]
        tuned = [i for i in of_family if any(r[0] in TUNED_LETTERS for r in drawn.get(i, []))]
        if group == "tuning":
            preferred = tuned if len(tuned) >= count else of_family
        else:
            preferred = [i for i in of_family if i not in tuned]
        fonts += [preferred[i] for i in most_different(glyphs.masks[preferred], count)]
    return fonts


def save_mosaic(masks: torch.Tensor, columns: int, name: str) -> None:
    """Masks uint8 [B, 64, 64], row by row, in ``LEVELS`` grays of 4 bits each."""
    missing = -len(masks) % columns
    masks = torch.cat([masks, torch.zeros(missing, SIZE, SIZE, dtype=torch.uint8)])
    level = (masks.float() / 255 * (LEVELS - 1)).round().to(torch.uint8)
    mosaic = level.view(-1, columns, SIZE, SIZE).transpose(1, 2).reshape(-1, columns * SIZE)
    image = Image.fromarray(mosaic.numpy(), "P")
    grays = np.linspace(0, 255, LEVELS).round().astype(int)
    image.putpalette([int(gray) for gray in grays for _ in range(3)])
    image.save(ATLAS / f"{name}.png", optimize=True, bits=4)


def draw_seen(work: Path) -> dict:
    """The fonts as ``train_diffusion.write_latents`` chose them, in its order."""
    glyphs = Glyphs(work, "train")
    chosen = {}
    for index, letter in enumerate(LETTERS):
        order = torch.randperm(len(glyphs), generator=torch.Generator().manual_seed(index))
        chosen[letter] = order[: min(fonts_seen(letter), SEEN_CAP)].tolist()
    masks = [glyphs.masks[fonts, index] for index, fonts in enumerate(chosen.values())]
    save_mosaic(torch.cat(masks), SEEN_PER_ROW, "seen")
    used = sorted({font for fonts in chosen.values() for font in fonts})
    position = {font: i for i, font in enumerate(used)}
    return {
        "paths": [str(glyphs.paths[font]) for font in used],
        "letters": {letter: [position[f] for f in fonts] for letter, fonts in chosen.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    ATLAS.mkdir(exist_ok=True)
    glyphs = Glyphs(args.work, "unseen")
    drawn = shipped_references(glyphs)
    fonts = {}
    for group in GROUPS:
        chosen = choose(glyphs, group, drawn)
        save_mosaic(glyphs.masks[chosen].flatten(0, 1), len(LETTERS), group)
        fonts[group] = [
            {
                "family": family_of(glyphs.paths[font]),
                "path": str(glyphs.paths[font]),
                "references": drawn.get(font, []),
            }
            for font in chosen
        ]
    fonts["seen"] = draw_seen(args.work)
    # A line a font: readable, and small differences stay small.
    parts = []
    for group in GROUPS:
        rows = ",\n".join("  " + json.dumps(row) for row in fonts[group])
        parts.append(f' "{group}": [\n{rows}\n ]')
    paths = ",\n".join("   " + json.dumps(path) for path in fonts["seen"]["paths"])
    letters = ",\n".join(f'   "{k}": {json.dumps(v)}' for k, v in fonts["seen"]["letters"].items())
    parts.append(f' "seen": {{\n  "paths": [\n{paths}\n  ],\n  "letters": {{\n{letters}\n  }}\n }}')
    (ATLAS / "fonts.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")
    for path in sorted(ATLAS.iterdir()):
        print(f"{path.name} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
