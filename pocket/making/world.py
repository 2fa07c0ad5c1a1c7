"""What a world is to the commands that train its model: the letters, and the hands.

Facts tell what pictures show: int [B, A], a column for each attribute, an index into its values.
The first attribute is the concept: what is rare, or frequent.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from seedselect_core.pocket import Toy

NAMES = ("letters", "hands")
# How much alike the looks of a batch are: one plain look, one look drawn for all, or any.
LOOKS = ("plain", "one", "any")
Attributes = dict[str, tuple[str, ...]]


class Pictures(Protocol):
    """A source of pictures."""

    def sample(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures float [count, 3, 64, 64] in 0..1, and their facts."""


class Tail(Pictures, Protocol):
    """Pictures of which some concepts are rare.

    Attributes:
        counts: in how many fonts, or poses, each concept is seen.
    """

    counts: dict[str, int]


class Captioned(Protocol):
    """Pictures for the towers, which learn more than prompts ask for.

    Attributes:
        attributes: what a caption tells; the concept first.
        kinds: of each concept, for the account of what was learned.
    """

    attributes: Attributes
    kinds: Sequence[str]

    def sample(
        self, count: int, generator: torch.Generator, look: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `Pictures.sample`, the batch as much alike as one of `LOOKS` says."""

    def named(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Bool [count, A]: which facts a caption names; always the concept."""

    def caption(self, told: Sequence[str]) -> str:
        """The caption that tells these values; "": untold."""


class Views(Protocol):
    """Several views of one thing, for the tower that nobody tells what it sees."""

    def triple(
        self, count: int, generator: torch.Generator, plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views float [B, 3, 64, 64] of ``count`` things, or of all: two, and one closer up."""


class World(Protocol):
    """What there is to draw, and the model that is to draw it.

    Attributes:
        toy: where the model is kept, and its latents.
        attributes: what a prompt tells, and all that it can say of it.
        tail: the concepts, the commonest first.
        untold: of each attribute but the concept, from where to where in 0..1 a draw leaves it out
            of the prompt in training; below 0.1 it leaves out all.
        words: the tokens of the text tower, in order, after start, end and unknown.
        kept: how many of the attributes all views of one thing share, the first ones.
        seen_as: name of the file that tells `Tail.counts`.
    """

    toy: Toy
    attributes: Attributes
    tail: Sequence[str]
    untold: Sequence[tuple[float, float]]
    words: Sequence[str]
    kept: int
    seen_as: str

    def alike(self, work: Path, split: str) -> Pictures:
        """All concepts alike, of the split "train" or "unseen"."""

    def rare(self, work: Path) -> Tail:
        """The long tail that the diffusion model sees."""

    def captioned(self, work: Path, split: str) -> Captioned:
        """What the towers see."""

    def views(self, work: Path) -> Views:
        """What the second tower sees."""

    def text(self, told: Sequence[str]) -> str:
        """The prompt that tells these values, one for each attribute; "": untold."""

    def example(self, rank: int) -> tuple[str, ...]:
        """Values to tell for the concept of a rank in `tail`, for a picture to look at."""


def values(attributes: Attributes, facts: torch.Tensor, named: torch.Tensor) -> list[list[str]]:
    """The values that each row of facts [B, A] tells; "" where ``named`` [B, A] is false."""
    names = list(attributes.values())
    return [
        [of[fact] if told else "" for of, fact, told in zip(names, row, which, strict=True)]
        for row, which in zip(facts.tolist(), named.tolist(), strict=True)
    ]


def load_world(name: str) -> World:
    """The world of one of `NAMES`."""
    if name == "letters":
        from .letters_world import Letters

        return Letters()
    from .hands.world import Hands

    return Hands()
