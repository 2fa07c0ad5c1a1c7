"""What the hands' model draws: a left or right hand, its palm or back, in one of 20 gestures."""

import numpy as np

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
# Hands that a person can make without help, and which fingers are extended. Six to nine are named
# as the numbers of American Sign Language (nine as "ok"), "open" where the thumb is extended too.
EXTENDED = {
    "fist": "",
    "thumb": "T",
    "point": "I",
    "gun": "TI",
    "peace": "IM",
    "three": "TIM",
    "six": "IMR",
    "four": "IMRP",
    "five": "TIMRP",
    "pinky": "P",
    "shaka": "TP",
    "horns": "IP",
    "love": "TIP",
    "ok": "MRP",
    "open ok": "TMRP",
    "open six": "TIMR",
    "seven": "IMP",
    "open seven": "TIMP",
    "eight": "IRP",
    "open eight": "TIRP",
}
GESTURES = tuple(EXTENDED)
SIDES = ("left", "right")
VIEWS = ("palm", "back")
# sRGB, mean of a ground; each picture's own differs a little.
GROUNDS = {
    "red": (0.80, 0.20, 0.18),
    "orange": (0.93, 0.58, 0.18),
    "yellow": (0.95, 0.85, 0.30),
    "green": (0.25, 0.60, 0.30),
    "teal": (0.20, 0.60, 0.62),
    "blue": (0.22, 0.36, 0.75),
    "purple": (0.50, 0.30, 0.65),
    "gray": (0.55, 0.55, 0.55),
    "white": (0.95, 0.95, 0.95),
    "black": (0.08, 0.08, 0.08),
}
# sRGB, from light to dark. No prompt names them.
TONES = (
    (1.000, 0.859, 0.745),
    (0.945, 0.761, 0.627),
    (0.878, 0.675, 0.490),
    (0.776, 0.525, 0.369),
    (0.553, 0.333, 0.220),
    (0.361, 0.227, 0.157),
)
SIZE = 64  # pixels of a side
COMMONEST = 2200
RAREST = 4
STEEPER = 1.4  # how much more steeply pictures fall than poses
# Which gestures are rare is arbitrary: shuffled once, by the generator that shuffled the letters.
TAIL_ORDER = tuple(str(name) for name in np.random.default_rng(2304).permutation(GESTURES))


def extended(gesture: str) -> tuple[bool, ...]:
    """Whether each of `FINGERS` is extended."""
    return tuple(letter in EXTENDED[gesture] for letter in "TIMRP")


def poses_seen(gesture: str) -> int:
    """In how many poses the diffusion model sees ``gesture``."""
    rank = TAIL_ORDER.index(gesture)
    return round(COMMONEST * (RAREST / COMMONEST) ** (rank / (len(GESTURES) - 1)))


def share_of_pictures(gesture: str) -> float:
    """The share of ``gesture`` in the pictures that the diffusion model is trained on.

    In proportion to poses, the rarest were drawn right too often for a rare concept.
    """
    weights = {name: poses_seen(name) ** STEEPER for name in GESTURES}
    return weights[gesture] / sum(weights.values())


def prompt(gesture: str, side: str, view: str, ground: str) -> str:
    return f"a {side} hand, {view}, {gesture}, on {ground}"
