"""What the demo draws, letters and hands that the toy models have hardly seen, and its judges."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from api_workflow import find
from host_install import cache_folder
from pocket.hands.references import hand_pictures
from pocket.hands.words import SIDES, TAIL_ORDER, VIEWS, poses_seen, prompt
from pocket.judges import load_judges, read_signs
from pocket.references import letter_pictures

REPO = Path(__file__).resolve().parent.parent
COLORS = [("red", "yellow"), ("blue", "white"), ("white", "purple"), ("black", "orange")]
MOST = len(COLORS)
REFERENCES = 4
Answers = dict[str, list[bool]]


@dataclass(frozen=True)
class Concept:
    """What a toy model draws badly.

    Attributes:
        name: of the letter or the gesture.
        seen: in how many fonts or poses the model has seen it.
        prompt: that asks for it.
        references: the class of the node that gives its references, and that node's inputs.
        shown: some of these references.
        judge: by each judge's name, whether it passes each of the pictures, IMAGE [B, 64, 64, 3].
    """

    name: str
    seen: int
    prompt: str
    references: tuple[str, dict]
    shown: list[Image.Image]
    judge: Callable[[torch.Tensor], Answers]


@dataclass(frozen=True)
class World:
    """A toy model in the demo.

    Attributes:
        name: as "Load Toy Model" calls it.
        concept: what one of its concepts is called.
        unit: what the model has seen so and so many of.
        verdict: what the share of passed pictures is a share of.
        seeds: of each concept.
        concepts: the rarest first, as many as are asked for.
        share: of the pictures how many pass, from what each judge says.
    """

    name: str
    concept: str
    unit: str
    verdict: str
    seeds: int
    concepts: Callable[[int], list[Concept]]
    share: Callable[[Answers], float]


def asked(prompt: dict, world: World, concept: Concept) -> dict:
    """The letters' API prompt with another model, concept and batch; all other settings stay."""
    prompt = json.loads(json.dumps(prompt))
    prompt[find(prompt, "SeedSelectLoadPocketModel")]["inputs"]["world"] = world.name
    prompt[find(prompt, "CLIPTextEncode", "Prompt")]["inputs"]["text"] = concept.prompt
    kind, inputs = concept.references
    prompt[find(prompt, "SeedSelectPocketReferences")] |= {"class_type": kind, "inputs": inputs}
    prompt[find(prompt, "EmptyLatentImage")]["inputs"]["batch_size"] = world.seeds
    return prompt


# ---------------------------------------------------------------- letters


def letters(count: int) -> list[Concept]:
    """The letters that are seen in the fewest fonts, each in colours of its own."""
    frequency = json.loads((REPO / "pocket/weights/fonts_seen.json").read_text())
    rarest = sorted(frequency, key=frequency.get)[:count]
    return [
        Concept(
            letter,
            frequency[letter],
            f"a {ink} letter {letter} on {ground}",
            ("SeedSelectPocketReferences", {"letter": letter, "count": REFERENCES}),
            [Image.fromarray(picture) for picture in letter_pictures(letter, REFERENCES)],
            functools.partial(_read, letter),
        )
        for letter, (ink, ground) in zip(rarest, COLORS, strict=False)
    ]


def _read(letter: str, images: torch.Tensor) -> Answers:
    return {
        name: [read == letter for read in read_signs(judge, images)]
        for name, judge in load_judges().items()
    }


def _mean(answers: Answers) -> float:
    return sum(sum(each) / len(each) for each in answers.values()) / len(answers)


# ---------------------------------------------------------------- hands

NETWORK = "landmark network"
WELL_FORMED = "outline and skeleton too"
HAND_GROUNDS = ("blue", "green", "purple", "teal")


def hands(count: int) -> list[Concept]:
    """The gestures that are seen in the fewest poses, each of another side or view."""
    found = []
    for number, gesture in enumerate(reversed(TAIL_ORDER[-count:])):
        side, view = SIDES[(number + 1) % 2], VIEWS[number // 2 % 2]
        given = {"gesture": gesture, "side": side, "view": view, "count": REFERENCES}
        pictures = hand_pictures(gesture, side, view, REFERENCES)
        found.append(
            Concept(
                gesture,
                poses_seen(gesture),
                prompt(gesture, side, view, HAND_GROUNDS[number]),
                ("SeedSelectHandReferences", given),
                [Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures],
                functools.partial(_judge, gesture, side, view),
            )
        )
    return found


def _judge(gesture: str, side: str, view: str, images: torch.Tensor) -> Answers:
    """What judge (a) reads as asked for, and what all three accept."""
    # Packages that letters need not have.
    from pocket.hands.judges import judge_hands
    from pocket.hands.landmarks import LandmarkNetwork, fetch_network

    network = LandmarkNetwork(fetch_network(cache_folder()))
    verdicts = judge_hands(network, images, gesture, side, view)
    return {
        NETWORK: [verdict.right for verdict in verdicts],
        WELL_FORMED: [verdict.well_formed for verdict in verdicts],
    }


def _well_formed(answers: Answers) -> float:
    return sum(answers[WELL_FORMED]) / len(answers[WELL_FORMED])


# The latents of hands are four times as large.
WORLDS = {
    "letters": World("letters", "letter", "fonts", "right", 8, letters, _mean),
    "hands": World("hands", "gesture", "poses", "well-formed", 4, hands, _well_formed),
}
