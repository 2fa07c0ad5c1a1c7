"""Gestures as turns of joints: what each finger does, and how much hands differ in doing it."""

import numpy as np

from ...hands.words import FINGERS
from .rig import joint, turn

# Share of the spread that each finger takes, index to pinky; about the middle of the hand.
FAN = (-1.0, -0.25, 0.35, 1.0)
# Degrees: the metacarpal about x, y and z, the proximal and the distal phalanx about x. A thumb
# lies over the fingers of a fist, and over the palm where index and middle are extended.
THUMB_OVER_FIST = np.array([-16.8, -2.2, -15.4, -52.8, -65.5])
THUMB_OVER_PALM = np.array([-12.0, -26.0, -5.0, -66.0, -72.0])


def finger_turns(
    finger: str, is_extended: bool, spread: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Turns of one of the four fingers; ``spread`` in degrees, to its own side."""
    if is_extended:
        angles = np.array([5, 6, 4]) * rng.normal(size=3)
        bends = (angles[0] - 2, abs(angles[1]), abs(angles[2]))
        aside = turn("y", -spread)
    else:
        bends = np.array([78, 100, 55]) + np.array([5, 5, 6]) * rng.normal(size=3)
        aside = turn("y", -0.2 * spread)
    proximal, intermediate, distal = bends
    return {
        joint(finger, "phalanx-proximal"): aside @ turn("x", -proximal),
        joint(finger, "phalanx-intermediate"): turn("x", -intermediate),
        joint(finger, "phalanx-distal"): turn("x", -distal),
    }


def thumb_turns(fingers: tuple[bool, ...], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Turns of the thumb, which lies where the other fingers leave room."""
    if fingers[0]:
        aside, bend, proximal, distal = np.array([5, 4, 5, 5]) * rng.normal(size=4)
        return {
            joint("thumb", "metacarpal"): turn("y", 18 + aside) @ turn("x", 5 + bend),
            joint("thumb", "phalanx-proximal"): turn("x", -abs(proximal)),
            joint("thumb", "phalanx-distal"): turn("x", 6 + distal),
        }
    over_palm = (fingers[1] + fingers[2]) / 2
    angles = THUMB_OVER_FIST + over_palm * (THUMB_OVER_PALM - THUMB_OVER_FIST)
    angles = angles + np.array([2, 2, 2, 4, 5]) * rng.normal(size=5)
    lift, aside, roll, proximal, distal = angles
    return {
        joint("thumb", "metacarpal"): turn("y", aside) @ turn("z", roll) @ turn("x", lift),
        joint("thumb", "phalanx-proximal"): turn("x", proximal),
        joint("thumb", "phalanx-distal"): turn("x", distal),
    }


def gesture_turns(
    fingers: tuple[bool, ...], rng: np.random.Generator, spread: float | None = None
) -> dict[str, np.ndarray]:
    """Turns of all joints for a gesture.

    Args:
        fingers: whether each of `FINGERS` is extended.
        spread: degrees between the middle and the outer fingers, drawn from -2 to 9 by default.
    """
    spread = rng.uniform(-2, 9) if spread is None else spread
    turns = {}
    for finger, share, is_extended in zip(FINGERS[1:], FAN, fingers[1:], strict=True):
        own = share * spread + 1.2 * rng.normal()
        turns |= finger_turns(finger, is_extended, own, rng)
    return turns | thumb_turns(fingers, rng)
