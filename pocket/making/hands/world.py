"""The hands, as the training commands see them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from seedselect_core.hands import HANDS as TOY

from ...hands.words import GESTURES, GROUNDS, SIDES, TAIL_ORDER, VIEWS, poses_seen

# What a ground's color differs from its mean by, as `draw.random_grounds` draws it.
GROUND_SPREAD = 0.02
COLORS = torch.tensor(list(GROUNDS.values()))
PLAIN = list(GROUNDS).index("gray")
PALE = 0.85  # the one skin of plain views
# Of the batches of views: fingers are thin, and lost on a tower that sees nothing but new colors.
ONE_LOOK = 2 / 3
NEARER = 0.2  # more, and fingers are cut off
ATTRIBUTES = {"gesture": GESTURES, "side": SIDES, "view": VIEWS, "ground": tuple(GROUNDS)}


def hand_text(told: Sequence[str]) -> str:
    """The prompt, or caption, that tells a gesture, a side, a view and a ground; "": untold."""
    gesture, side, view, ground = told
    hand = f"a {side} hand" if side else "a hand"
    return ", ".join(filter(None, [hand, view, gesture, ground and f"on {ground}"]))


class Drawn:
    """Hands of a file of `draw.py`, on any ground.

    Attributes:
        pixels: uint8 [N, 64, 64, 4]: colors times coverage, and coverage.
        facts: int [N, 3], gesture, side and view.
    """

    attributes = ATTRIBUTES
    kinds = ("gesture",) * len(GESTURES)

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.pixels = torch.from_numpy(file["pixels"])
            facts = np.stack([file[name] for name in ("gesture", "side", "view")], 1)
        self.facts = torch.from_numpy(facts).long()
        kinds, kind = self.facts.unique(dim=0, return_inverse=True)
        self._alike = [(kind == number).nonzero().flatten() for number in range(len(kinds))]

    @property
    def counts(self) -> dict[str, int]:
        return {gesture: poses_seen(gesture) for gesture in GESTURES}

    def sample(
        self, count: int, generator: torch.Generator, look: str = "any"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ground = torch.randint(len(COLORS), (count,), generator=generator)
        if look != "any":
            ground[:] = PLAIN if look == "plain" else ground[0]
        which = torch.randint(len(self.pixels), (count,), generator=generator)
        return self.painted(which, ground, generator)

    def painted(
        self, which: torch.Tensor, ground: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The hands ``which`` [B] on the grounds [B], and their facts [B, 4]."""
        pictures = on_grounds(self.pixels[which], ground_colors(ground, generator))
        return pictures, torch.cat([self.facts[which], ground[:, None]], 1)

    def named(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Three quarters of all captions name each of side, view and ground."""
        named = torch.rand(count, len(ATTRIBUTES), generator=generator) < 0.75
        named[:, 0] = True
        return named

    def caption(self, told: Sequence[str]) -> str:
        return hand_text(told)

    def triple(
        self, count: int, generator: torch.Generator, plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        one = torch.rand((), generator=generator).item() < ONE_LOOK
        look = "plain" if plain else "one" if one else "any"
        # Nothing twice: a batch's other pictures are what each of them is told from.
        kinds = torch.randperm(len(self._alike), generator=generator)[:count]
        first, second = self.any_of(kinds, generator), self.any_of(kinds, generator)
        views = ((first, 0), (second, 0), (first, NEARER))
        return tuple(
            hard_view(self.pixels[which], nearer, look, generator) for which, nearer in views
        )

    def any_of(self, kinds: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A picture of each of the kinds [B]: gesture, side and view."""
        draw = torch.rand(len(kinds), generator=generator).tolist()
        groups = [self._alike[kind] for kind in kinds.tolist()]
        return torch.stack([own[int(d * len(own))] for own, d in zip(groups, draw, strict=True)])


def ground_colors(ground: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each picture's own color [B, 3] of a ground [B]."""
    noise = GROUND_SPREAD * torch.randn(len(ground), 3, generator=generator)
    return (COLORS[ground] + noise).clamp(0, 1)


def on_grounds(pixels: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Pictures float [B, 3, H, W] in 0..1 of hands uint8 [B, H, W, 4] on colors [B, 3]."""
    hands = pixels.movedim(-1, 1).float() / 255
    return (hands[:, :3] + (1 - hands[:, 3:]) * colors[:, :, None, None]).clamp(0, 1)


def hard_view(
    pixels: torch.Tensor, nearer: float, look: str, generator: torch.Generator
) -> torch.Tensor:
    """Hands uint8 [B, 64, 64, 4] turned, shifted, scaled and in other colors, on other grounds.

    Skin is drawn anew too: who may tell two views of a hand by its tone learns nothing else.

    Args:
        nearer: how much larger they are at most, beside the tenth that all vary by.
        look: "plain": all of the palest skin on gray; "one": all of one skin, on one ground; "any".
    """
    count = len(pixels)
    draw = torch.rand(5, count, generator=generator) * 2 - 1
    angle = draw[0] * 0.2
    side = torch.exp(draw[1] * 0.1) / (1 + nearer * (draw[2] + 1) / 2)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side * torch.cos(angle)
    theta[:, 1, 0] = side * torch.sin(angle)
    theta[:, 0, 1] = -theta[:, 1, 0]
    theta[:, :, 2] = draw[3:].T * (0.08 + 0.3 * nearer)
    grid = F.affine_grid(theta, (count, 4, 64, 64), align_corners=False)
    # An arm goes on beyond the border.
    hands = pixels.movedim(-1, 1).float() / 255
    hands = F.grid_sample(hands, grid, padding_mode="border", align_corners=False)
    looks = count if look == "any" else 1
    ground = torch.randint(len(COLORS), (looks,), generator=generator).expand(count)
    colors = ground_colors(torch.full_like(ground, PLAIN) if look == "plain" else ground, generator)
    cover = hands[:, 3:]
    shade = hands[:, :3].mean(1, keepdim=True)
    shade = shade / shade.sum((2, 3), keepdim=True) * cover.sum((2, 3), keepdim=True)
    tint = 0.7 + 0.6 * torch.rand(looks, 3, generator=generator)
    skin = tint * (0.15 + 0.7 * torch.rand(looks, 1, generator=generator))
    if look == "plain":
        skin = torch.full((1, 3), PALE)
    pictures = (shade * skin[:, :, None, None]).minimum(cover)
    pictures = pictures + (1 - cover) * colors[:, :, None, None]
    noise = torch.rand(count, 1, 1, 1, generator=generator) * 0.06
    return (pictures + noise * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


class Hands:
    """A gesture, the side, from where it is seen, and the ground."""

    toy = TOY
    attributes = ATTRIBUTES
    tail = TAIL_ORDER
    untold = ((0.10, 0.12), (0.11, 0.135), (0.125, 0.15))
    words = (
        *("a", "hand", ",", "on", *SIDES, *VIEWS, *GROUNDS),
        *dict.fromkeys(word for gesture in GESTURES for word in gesture.split()),
    )
    kept = 3
    seen_as = "poses_seen"

    def alike(self, work: Path, split: str) -> Drawn:
        return Drawn(work / f"hands_{split}.npz")

    def rare(self, work: Path) -> Drawn:
        return Drawn(work / "hands_rare.npz")

    def captioned(self, work: Path, split: str) -> Drawn:
        return self.alike(work, split)

    def views(self, work: Path) -> Drawn:
        return self.alike(work, "train")

    def text(self, told: Sequence[str]) -> str:
        return hand_text(told)

    def example(self, rank: int) -> tuple[str, ...]:
        ground = list(GROUNDS)[rank % len(GROUNDS)]
        return self.tail[rank], SIDES[rank % 2], VIEWS[rank // 2 % 2], ground
