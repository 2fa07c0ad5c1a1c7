"""What the hands' benchmarks share: the host on the CPU, the model, prompts, references, judges.

The judges' landmark network is fetched by pip into the cache; no search sees what it says.
"""

import sys
from typing import NamedTuple

from pocket_world import REPO, ToyWorld

# isort: split

import torch

from pocket.hands.judges import Verdict, judge_hands
from pocket.hands.landmarks import LandmarkNetwork, fetch_network
from pocket.hands.real import real_hands
from pocket.hands.words import GROUNDS, SIDES, prompt
from pocket.making.hands.world import COLORS, ground_colors, on_grounds
from seedselect_core import hands

sys.path.append(str(REPO / "scripts"))

from host_install import cache_folder

BORDER = 3  # rows from the top that are ground


class Hand(NamedTuple):
    """What a prompt asks for, but for the ground."""

    gesture: str
    side: str
    view: str


class HandsWorld(ToyWorld):
    """That of the hands, and their judges."""

    def __init__(self):
        super().__init__(hands.HANDS)
        self.network = LandmarkNetwork(fetch_network(cache_folder()))

    def prompt(self, hand: Hand, ground: str) -> list:
        return self.condition(prompt(*hand, ground))

    def judged(self, images: torch.Tensor, hand: Hand) -> list[Verdict]:
        """Of each picture what the three judges say."""
        return judge_hands(self.network, images.clamp(0, 1), *hand)

    def points(self, images: torch.Tensor) -> torch.Tensor:
        """The network's landmarks about the wrist, [B, 42]."""
        found = self.network(images.clamp(0, 1)).points
        return (found - found[:, :1]).flatten(1)


def real_pictures(hand: Hand, which: list[int], generator: torch.Generator) -> torch.Tensor:
    """Real hands of `real_hands`, IMAGE [n, 64, 64, 3], each on a ground of its own."""
    pixels = torch.from_numpy(real_hands(hand.gesture, hand.view)[which])
    ground = torch.randint(len(COLORS), (len(which),), generator=generator)
    pictures = on_grounds(pixels, ground_colors(ground, generator)).movedim(1, -1)
    return pictures if hand.side == SIDES[1] else pictures.flip(2)


def grounds_right(images: torch.Tensor, grounds: list[str]) -> list[bool]:
    """Of each picture [B, H, W, 3], whether its upper border is nearest to the ground asked for."""
    seen = images[:, :BORDER].float().flatten(1, 2).median(1).values
    names = list(GROUNDS)
    nearest = torch.cdist(seen, COLORS).argmin(1).tolist()
    return [names[index] == ground for index, ground in zip(nearest, grounds, strict=True)]
