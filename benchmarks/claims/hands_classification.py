"""Few-shot classification of gestures: what are SeedSelect's hands worth as training data?

Palms of 20 gestures. The 12 frequent ones have 16 real hands each; each of the eight rare ones has
``n``. A small CNN learns from them, from scratch, and reads real palms of all gestures in poses
that nothing was trained on. Left and right hands alike: every picture is mirrored half of the time.
The arms are those of `classification`, as far as there is something to make them of:

- ``real``, ``augmented``, ``balanced``, ``adjusted``: from the real hands alone;
- ``plain``, ``seedselect``: balanced, and a share of each rare class is generated;
- ``more real``: in the place of those, further real hands, the best that any generator could give.

Seven trainings for each ``n``, of 10 seconds each: 5 core-minutes. Generated pictures are used as
they come. No judge takes part.
"""

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pocket.hands.real import EACH, LEARNED
from pocket.hands.words import GESTURES, SIDES, VIEWS

from . import classification, hands_common, hands_sets
from .classification import GENERATED_SHARE, LEARNING_RATE, SMOOTHING, WEIGHT_DECAY
from .common import generator_of
from .hands_common import RARE, Hand, real_order, real_pictures
from .intervals import mean_and_interval

NAME = "hands_classification"
WORLD = "hands"
NEEDS = hands_sets
DEPENDS = (classification, hands_common)
RIVALS = ("real", "augmented", "balanced", "adjusted", "plain")
ARMS = (*RIVALS, "seedselect", "more real")
STEPS = 500
QUICK_STEPS = 20
BATCH = 64
GROUPS = {
    "rare": RARE,
    "frequent": tuple(gesture for gesture in GESTURES if gesture not in RARE),
    "overall": GESTURES,
}


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"balanced_4": {"arm": "balanced", "n": 4, "steps": QUICK_STEPS}}
    return {
        f"{arm}_{n}": {"arm": arm, "n": n, "steps": STEPS}
        for n in hands_sets.REFERENCES
        for arm in ARMS
    }


def run(world, path: Path, made: Path, arm: str, n: int, steps: int) -> dict:
    real = [learned_palms(gesture, n) for gesture in GESTURES]
    generated = generated_palms(made, arm, n)
    # Gradients: the caller's inference mode would keep them off.
    with torch.inference_mode(False), torch.enable_grad():
        real, generated = ([images.clone() for images in own] for own in (real, generated))
        model = train(real, generated, arm, steps)
    images, label = unseen_palms()
    with torch.no_grad():
        read = torch.cat([model(shrunk(chunk)).argmax(1) for chunk in images.split(256)])
    right = {g: (read[label == k] == k).int().tolist() for k, g in enumerate(GESTURES)}
    return {"arm": arm, "n": n, "right": right}


def learned_palms(gesture: str, n: int) -> torch.Tensor:
    """Real right palms [n, 64, 64, 3]: of a rare gesture the very references of the sets."""
    count = n if gesture in RARE else LEARNED
    hand = Hand(gesture, SIDES[1], VIEWS[0])
    return real_pictures(hand, real_order(gesture, 0)[:count], generator_of("learned", gesture))


def generated_palms(made: Path, arm: str, n: int) -> list[torch.Tensor]:
    """Pictures [m, 64, 64, 3] for each rare gesture, in the order of `RARE`; or none at all."""
    if arm == "more real":
        hands = {gesture: Hand(gesture, SIDES[1], VIEWS[0]) for gesture in RARE}
        return [
            real_pictures(hand, real_order(x, 0)[n : n + hands_sets.MADE], generator_of("more", x))
            for x, hand in hands.items()
        ]
    if arm in ("plain", "seedselect"):
        stored = [hands_sets.stored(made, gesture, n)[arm] for gesture in RARE]
        return [images[: hands_sets.MADE].float() / 255 for images in stored]
    return []


@functools.cache
def unseen_palms() -> tuple[torch.Tensor, torch.Tensor]:
    """Palms of both sides that nothing learned from [N, 64, 64, 3], and their gestures [N]."""
    which = list(range(LEARNED, EACH[VIEWS[0]]))
    hands = [Hand(gesture, side, VIEWS[0]) for gesture in GESTURES for side in SIDES]
    images = [real_pictures(hand, which, generator_of("test", *hand)) for hand in hands]
    label = torch.arange(len(GESTURES)).repeat_interleave(len(SIDES) * len(which))
    return torch.cat(images), label


def shrunk(images: torch.Tensor) -> torch.Tensor:
    """How far each pixel is from the ground, [B, 1, 32, 32]: every arm is blind to colours."""
    return classification.shrink(classification.strokes(images))


def build_classifier() -> nn.Module:
    """That of the letters with another last layer, [B, 1, 32, 32] to logits [B, 20]."""
    *layers, last = classification.build_classifier().children()
    return nn.Sequential(*layers, nn.Linear(last.in_features, len(GESTURES)))


def train(
    real: list[torch.Tensor], generated: list[torch.Tensor], arm: str, steps: int
) -> nn.Module:
    """A classifier trained for ``steps`` batches.

    Args:
        real: of each gesture IMAGE [count, 64, 64, 3].
        generated: of each of `RARE`, or none.
    """
    torch.manual_seed(5)
    generator = generator_of("trained", arm)
    model = build_classifier()
    balanced = arm == "balanced" or bool(generated)
    counts = torch.tensor([len(images) for images in real])
    chance = counts.float() ** (0.0 if balanced else 0.5 if arm == "adjusted" else 1.0)
    # How often a class is drawn: added to the logits in the loss, left out when reading.
    prior = (chance / chance.sum()).log() if arm == "adjusted" else torch.zeros(len(counts))
    smoothing = 0 if arm == "adjusted" else SMOOTHING
    pools = [classification.strokes(images) for images in real]
    made = dict(zip(RARE, map(classification.strokes, generated), strict=False))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.2)
    for _ in range(steps):
        label = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
        ink = torch.stack([_picked(pools, made, k, generator) for k in label.tolist()])
        mirrored = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
        ink = torch.where(mirrored, ink.flip(3), ink)
        ink = (
            classification.shrink(ink) if arm == "real" else classification.augment(ink, generator)
        )
        loss = F.cross_entropy(model(ink) + prior, label, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _picked(pools: list, made: dict, gesture: int, generator: torch.Generator) -> torch.Tensor:
    """One picture's strokes [1, 64, 64] of a gesture: real, or a generated one where there are."""
    chance, place = torch.rand(2, generator=generator).tolist()
    pool = pools[gesture]
    if chance < GENERATED_SHARE:
        pool = made.get(GESTURES[gesture], pool)
    return pool[int(place * len(pool))]


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    table = {}
    for n in dict.fromkeys(unit["n"] for unit in found.values()):
        rights = {unit["arm"]: unit["right"] for unit in found.values() if unit["n"] == n}
        rows = {arm: _means(right) for arm, right in rights.items()}
        best = max((x for x in RIVALS if x in rows), key=lambda arm: rows[arm]["rare"]["mean"])
        table[f"{n} real hands"] = {"arms": rows, "best rival": best}
        if "seedselect" in rows:
            ours, theirs = rights["seedselect"], rights[best]
            gain = {gesture: np.subtract(ours[gesture], theirs[gesture]) for gesture in ours}
            table[f"{n} real hands"]["gain"] = _means(gain)
    return {"table": table}


def _means(right: dict) -> dict[str, dict]:
    """Of each group of gestures the mean over gestures and test pictures."""
    return {
        name: mean_and_interval([(gesture, right[gesture]) for gesture in own])
        for name, own in GROUPS.items()
    }
