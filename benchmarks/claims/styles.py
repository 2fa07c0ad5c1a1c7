"""References in another style than the prompt's: the model draws flat letters in two colours."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from pocket.atlas import paint_glyphs
from pocket.drawing import RGB, paint
from seedselect_core.references import reference_set_from_batch
from seedselect_core.settings import PRESETS, Settings

from .common import HELD_OUT, figures, glyphs, optimized, pictures
from .intervals import mean_and_interval

NAME = "styles"
SEEDS, DRAWS = 2, (9, 10)


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
        return {"P_1_9": {"letter": "P", "draw": 9, "style": "outlined"}}
    return {
        f"{letter}_{number}_{draw}": {"letter": letter, "draw": draw, "style": style}
        for letter in HELD_OUT
        for draw in DRAWS
        for number, style in enumerate(STYLES)
    }


def run(world, path: Path, letter: str, draw: int, style: str) -> dict:
    """The same glyphs, prompts and first noise in every style."""
    images = STYLES[style](*glyphs(letter, 4, draw)).movedim(1, -1)
    refs = reference_set_from_batch(images)
    plain = optimized(world, letter, SEEDS, draw, Settings(iterations=0), refs=refs)
    found = optimized(world, letter, SEEDS, draw, PRESETS["default"], refs=refs)
    np.savez_compressed(
        path.with_suffix(".npz"),
        references=pictures(images),
        plain=pictures(plain["images"]),
        seedselect=pictures(found["images"]),
    )
    return {"letter": letter, "style": style, "without": figures(plain), "with": figures(found)}


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def row(part: str, own: list[dict]) -> dict:
        return {
            key: mean_and_interval([(unit["letter"], unit[part][key]) for unit in own])
            for key in ("right", "colours", "norm")
        }

    styles = list(dict.fromkeys(unit["style"] for unit in found.values()))
    first = [unit for unit in found.values() if unit["style"] == styles[0]]
    return {
        "without": row("without", first),  # which references there are makes no difference to it
        "styles": {
            style: row("with", [unit for unit in found.values() if unit["style"] == style])
            for style in styles
        },
    }
