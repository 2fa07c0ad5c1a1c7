"""What the pocket model draws: one capital letter in a palette colour on a ground of another."""

import math
import string

import numpy as np
import torch
import torch.nn.functional as F

LETTERS = string.ascii_uppercase
SIZE = 64  # pixels of a side
PALETTE = {
    "red": "#E63946",
    "orange": "#F18C32",
    "yellow": "#FAD23C",
    "green": "#50AF5A",
    "teal": "#28A0AA",
    "blue": "#3264C8",
    "purple": "#7850B4",
    "pink": "#E16EAA",
    "white": "#F5F5F0",
    "black": "#1E1E23",
}
COLORS = list(PALETTE)
RGB = torch.tensor(
    [[int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)] for code in PALETTE.values()]
)
MAX_SHIFT = 3
MAX_SCALE = 0.12
COMMONEST = 2200
RAREST = 4
# Which letters are rare is arbitrary: an alphabet shuffled once by numpy's default_rng(2304).
TAIL_ORDER = "".join(np.random.default_rng(2304).permutation(list(LETTERS)))


def fonts_seen(letter: str) -> int:
    """How many fonts of ``letter`` the diffusion model may see (fewer where fewer exist)."""
    rank = TAIL_ORDER.index(letter)
    return round(COMMONEST * (RAREST / COMMONEST) ** (rank / 25))


def prompt(letter: str, ink: str, ground: str) -> str:
    return f"a {ink} letter {letter} on {ground}"


def jitter(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to 3 pixels and scale by up to 12 %; float [B, 64, 64] in 0..1."""
    count = masks.shape[0]
    size = masks.shape[-1]
    draw = torch.rand(3, count, generator=generator) * 2 - 1
    zoom = torch.exp(draw[0] * math.log1p(MAX_SCALE))
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / zoom
    theta[:, :, 2] = draw[1:].T * MAX_SHIFT * 2 / size
    grid = F.affine_grid(theta, (count, 1, size, size), align_corners=False)
    return F.grid_sample(masks[:, None].float() / 255, grid, align_corners=False)[:, 0]


def paint(ink_mask: torch.Tensor, ink: torch.Tensor, ground: torch.Tensor) -> torch.Tensor:
    """Pictures float [B, 3, 64, 64] in 0..1 from masks [B, 64, 64] and two colours [B, 3]."""
    alpha = ink_mask[:, None]
    return alpha * ink[:, :, None, None] + (1 - alpha) * ground[:, :, None, None]


def color_pairs(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices into the palette [B] and [B], ink and ground, never the same."""
    ink = torch.randint(len(COLORS), (count,), generator=generator)
    step = torch.randint(1, len(COLORS), (count,), generator=generator)
    return ink, (ink + step) % len(COLORS)
