"""Real glyphs that ship with the pack, so that benchmarks run without any font.

``atlas/*.png`` are mosaics of masks in eight greys, made by ``making/draw_atlas.py``;
``atlas/fonts.json`` names the font of every mask. The groups:

- ``seen``: glyphs that the shipped diffusion model was trained on, the first 300 of each letter;
- ``tuning``, ``report``, ``test``: fonts that neither the diffusion model, the autoencoder, the
  towers nor the judges were trained on, no family in two groups. References for choosing settings,
  references for reported figures, and fonts that are only ever measured against.
"""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from .drawing import LETTERS, RGB, SIZE, color_pairs, paint

ATLAS = Path(__file__).parent / "atlas"
GROUPS = ("tuning", "report", "test")
LEVELS = 8  # greys in the files
SEEN_CAP = 300
SEEN_PER_ROW = 60


@functools.cache
def atlas_fonts() -> dict:
    """Which font is where: ``fonts.json`` as it is.

    Each group is a list of {"family", "path", "references"}, the last naming shipped reference
    pictures in that font. ``seen`` holds "paths", and per letter the positions of its fonts there.
    """
    return json.loads((ATLAS / "fonts.json").read_text())


@functools.cache
def load_atlas(name: str) -> torch.Tensor | dict[str, torch.Tensor]:
    """Glyph masks, 255 where there is ink. Read once: callers must not write into them.

    Args:
        name: "tuning", "report" or "test" for uint8 [fonts, 26, 64, 64], A to Z; "seen" for a
            dict from letter to uint8 [glyphs, 64, 64].

    Raises:
        ValueError: another name.
    """
    if name not in (*GROUPS, "seen"):
        raise ValueError(f"There is no group {name!r} in the atlas, only {(*GROUPS, 'seen')}.")
    with Image.open(ATLAS / f"{name}.png") as file:
        mosaic = torch.from_numpy(np.asarray(file.convert("L")).copy())
    rows = mosaic.shape[0] // SIZE
    columns = mosaic.shape[1] // SIZE
    masks = mosaic.view(rows, SIZE, columns, SIZE).transpose(1, 2).contiguous()
    if name != "seen":
        return masks
    counts = [len(atlas_fonts()["seen"]["letters"][letter]) for letter in LETTERS]
    return dict(zip(LETTERS, masks.flatten(0, 1)[: sum(counts)].split(counts), strict=True))


def paint_glyphs(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures float [B, 3, 64, 64] in 0..1 of masks uint8 [B, 64, 64], any two palette colours."""
    ink, ground = color_pairs(len(masks), generator)
    return paint(masks.float() / 255, RGB[ink], RGB[ground])
