"""References in another style than the prompt's: the model draws flat letters in two colours."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pocket.atlas import paint_glyphs
from pocket.drawing import RGB, paint
from seedselect_core.references import reference_set_from_batch
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from .common import HELD_OUT, figures, glyphs, optimized, pictures
from .intervals import means

NAME = "styles"
SEEDS = 2
DRAWS = (9, 10)


def flat(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Masks uint8 [B, 64, 64] to pictures [B, 3, 64, 64], as the model draws them."""
    return paint_glyphs(masks, generator)


def outlined(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The border of each letter, two pixels wide, the inside like the ground."""
    outside = 255 - masks.float()
    inside = 255 - F.max_pool2d(outside, 5, stride=1, padding=2)
    return paint_glyphs((masks - inside).clamp(0, 255), generator)


def wavy(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Bent, as drawn by an unsteady hand: up to about five pixels, smoothly over the picture."""
    images = paint_glyphs(masks, generator)
    bend = torch.randn(len(masks), 2, 5, 5, generator=generator) * 0.07
    bend = F.interpolate(bend, masks.shape[-2:], mode="bicubic", align_corners=True)
    straight = torch.eye(2, 3).expand(len(masks), -1, -1)
    grid = F.affine_grid(straight, images.shape, align_corners=False) + bend.movedim(1, -1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def clouded(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Clouds in the colours, a soft edge, and grain."""
    images = paint_glyphs(F.avg_pool2d(masks.float(), 3, stride=1, padding=1), generator)
    clouds = torch.randn(len(masks), 3, 6, 6, generator=generator) * 0.1
    clouds = F.interpolate(clouds, masks.shape[-2:], mode="bicubic", align_corners=True)
    grain = torch.randn(images.shape, generator=generator) * 0.05
    return (images + clouds + grain).clamp(0, 1)


def black_on_white(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Print: all in the same two colours, whatever the prompts ask for."""
    return paint(masks.float() / 255, RGB[[9] * len(masks)], RGB[[8] * len(masks)])


STYLES = {
    "flat, as the model draws": flat,
    "outlined": outlined,
    "wavy": wavy,
    "clouds and grain": clouded,
    "black on white": black_on_white,
}


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"1": {"letters": "P", "draws": DRAWS[:1], "style": "outlined"}}
    return {
        str(number): {"letters": HELD_OUT, "draws": DRAWS, "style": style}
        for number, style in enumerate(STYLES)
    }


def run(world, path: Path, letters: str, draws: tuple[int, ...], style: str) -> dict:
    """The same glyphs, prompts and first noise in every style."""
    groups = [(letter, draw) for letter in letters for draw in draws]
    images = [STYLES[style](*glyphs(x, 4, draw)).movedim(1, -1) for x, draw in groups]
    refs = [reference_set_from_batch(own) for own in images]
    plain = optimized(world, groups, SEEDS, Settings(iterations=0), refs=refs)
    found = optimized(world, groups, SEEDS, PRESETS["default"], refs=refs)
    kinds = {
        "references": images,
        "plain": [group["images"] for group in plain],
        "seedselect": [group["images"] for group in found],
    }
    first = slice(0, None, len(draws))  # of each letter the first draw
    np.savez_compressed(
        path.with_suffix(".npz"),
        **{kind: pictures(torch.stack(own[first])) for kind, own in kinds.items()},
    )
    return {
        "style": style,
        "without": [figures(group) for group in plain],
        "with": [figures(group) for group in found],
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    units = list(found.values())
    keys = ("right", "colours", "norm")
    return {
        # Which references there are makes no difference to it.
        "without": means(units[0]["without"], keys),
        "styles": {unit["style"]: means(unit["with"], keys) for unit in units},
    }
