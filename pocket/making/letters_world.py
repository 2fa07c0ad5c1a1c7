"""The letters, as the training commands see them."""

import string
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from seedselect_core.pocket import LETTERS as TOY

from ..drawing import (
    COLORS,
    LETTERS,
    PALETTE,
    RGB,
    TAIL_ORDER,
    color_pairs,
    fonts_seen,
    jitter,
    paint,
)
from .glyphs import OTHERS, Glyphs
from .train_judges import hard_pictures

# What a caption says of each glyph: which kind, and which of it.
KINDS = ["letter"] * 26 + ["digit"] * 10 + ["small" if o.islower() else "sign" for o in OTHERS]
GLYPHS = LETTERS.lower() + string.digits + OTHERS
# Half of the pictures show capitals, as prompts do.
SHARE_OF_KIND = {"letter": 0.5, "digit": 0.2, "small": 0.2, "sign": 0.1}
BLACK_ON_WHITE = (COLORS.index("black"), COLORS.index("white"))
CLOSER = 1.7  # how much nearer the closest view is, at most


class Capitals:
    """Capitals of all fonts alike, in any two colors."""

    def __init__(self, glyphs: Glyphs):
        self._glyphs = glyphs

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        font = torch.randint(len(self._glyphs), (count,), generator=generator)
        letter = torch.randint(26, (count,), generator=generator)
        return painted(self._glyphs.masks[font, letter], letter, generator)


class RareLetters:
    """Each letter in proportion to the number of fonts that it is seen in."""

    def __init__(self, glyphs: Glyphs):
        self._glyphs = glyphs
        seen = [min(fonts_seen(letter), len(glyphs)) for letter in LETTERS]
        self.counts = dict(zip(LETTERS, seen, strict=True))
        self._seen = torch.tensor(seen)
        # Which fonts a rare letter is seen in differs from letter to letter.
        generators = [torch.Generator().manual_seed(letter) for letter in range(26)]
        order = [torch.randperm(len(glyphs), generator=generator) for generator in generators]
        self._order = torch.stack(order)

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        shares = self._seen.float()
        letter = torch.multinomial(shares, count, replacement=True, generator=generator)
        rank = (torch.rand(count, generator=generator) * self._seen[letter]).long()
        return painted(self._glyphs.masks[self._order[letter, rank], letter], letter, generator)


def painted(
    masks: torch.Tensor, letter: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks uint8 [B, 64, 64] shifted, scaled and in any two colors, and their facts."""
    ink, ground = color_pairs(len(masks), generator)
    pictures = paint(jitter(masks, generator), RGB[ink], RGB[ground])
    return pictures, torch.stack([letter, ink, ground], 1)


class EveryGlyph:
    """Glyphs of every kind, painted.

    As a CLIP of the web has, towers see what no prompt of the diffusion model asks for: lower case
    ("a red small q"), digits ("a red digit 6") and signs ("a red sign &"). A tower that knew
    capitals alone would take any 6 for an S.
    """

    attributes = {"glyph": tuple(GLYPHS), "ink": tuple(COLORS), "ground": tuple(COLORS)}
    kinds = KINDS

    def __init__(self, glyphs: Glyphs):
        # uint8 [N, 65, 64, 64]: capitals, digits, then `OTHERS`.
        self._masks = torch.cat([glyphs.masks, glyphs.digits, glyphs.others], 1)
        drawn = self._masks.flatten(2).any(2)
        drawn[:, 26:36] &= glyphs.has_digits[:, None]
        self._fonts = [drawn[:, kind].nonzero().flatten() for kind in range(len(GLYPHS))]
        shares = [SHARE_OF_KIND[kind] / KINDS.count(kind) for kind in KINDS]
        self._shares = torch.tensor(shares)

    def pick(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks uint8 [B, 64, 64], and which glyph each is [B]; of a glyph, every font alike."""
        glyph = torch.multinomial(self._shares, count, replacement=True, generator=generator)
        draw = torch.rand(count, generator=generator)
        fonts = [self._fonts[kind] for kind in glyph]
        font = torch.stack([f[int(d * len(f))] for f, d in zip(fonts, draw, strict=True)])
        return self._masks[font, glyph], glyph

    def sample(
        self, count: int, generator: torch.Generator, look: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        one = BLACK_ON_WHITE
        if look == "one":
            one = tuple(int(color) for color in color_pairs(1, generator))
        masks, glyph = self.pick(count, generator)
        ink, ground = color_pairs(count, generator)
        if look != "any":
            ink, ground = (torch.full_like(ink, color) for color in one)
        pictures = paint(jitter(masks, generator), RGB[ink], RGB[ground])
        noise = torch.rand(count, 1, 1, 1, generator=generator) * 0.05
        pictures = pictures + noise * torch.randn(pictures.shape, generator=generator)
        return pictures.clamp(0, 1), torch.stack([glyph, ink, ground], 1)

    def named(self, count: int, generator: torch.Generator) -> torch.Tensor:
        colors = torch.randint(0, 8, (count,), generator=generator).clamp(max=3)
        return torch.stack([torch.ones_like(colors), colors & 1, colors & 2], 1).bool()

    def caption(self, told: Sequence[str]) -> str:
        glyph, ink, ground = told
        kind = KINDS[GLYPHS.index(glyph)]
        return f"a {ink} {kind} {glyph}" + (f" on {ground}" if ground else "")

    def triple(
        self, count: int, generator: torch.Generator, plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        masks, _ = self.pick(count, generator)
        colors = BLACK_ON_WHITE if plain else None
        first, second = (hard_pictures(masks, generator, colors) for _ in range(2))
        return first, second, hard_pictures(closer_up(masks, generator), generator, colors)


def closer_up(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A part of each mask uint8 [B, 64, 64], up to 1.7 times as large."""
    draw = torch.rand(3, len(masks), generator=generator)
    side = 1 / (1 + draw[0] * (CLOSER - 1))
    theta = torch.zeros(len(masks), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = ((draw[1:] * 2 - 1) * (1 - side)).T
    grid = F.affine_grid(theta, (len(masks), 1, 64, 64), align_corners=False)
    zoomed = F.grid_sample(masks[:, None].float(), grid, align_corners=False)
    return zoomed[:, 0].round().to(torch.uint8)


class Letters:
    """A letter, its ink and its ground."""

    toy = TOY
    attributes = {"letter": tuple(LETTERS), "ink": tuple(COLORS), "ground": tuple(COLORS)}
    tail = tuple(TAIL_ORDER)
    untold = ((0.10, 0.13), (0.115, 0.15))
    words = (
        *("letter", "on", *PALETTE, *LETTERS.lower(), "small", "digit", "sign"),
        *sorted(set(GLYPHS) - set(LETTERS.lower())),
    )
    kept = 1
    seen_as = "fonts_seen"

    def alike(self, work: Path, split: str) -> Capitals:
        return Capitals(Glyphs(work, split))

    def rare(self, work: Path) -> RareLetters:
        return RareLetters(Glyphs(work, "train"))

    def captioned(self, work: Path, split: str) -> EveryGlyph:
        return EveryGlyph(Glyphs(work, split))

    def views(self, work: Path) -> EveryGlyph:
        return self.captioned(work, "train")

    def text(self, told: Sequence[str]) -> str:
        letter, ink, ground = told
        return f"a {ink} letter {letter}" + (f" on {ground}" if ground else "")

    def example(self, rank: int) -> tuple[str, ...]:
        return self.tail[rank], COLORS[rank % 10], COLORS[(rank + 3) % 10]
