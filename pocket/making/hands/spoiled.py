"""Hands as models draw them badly, to try the judges on: open ones, each with a fault."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from ...hands.words import FINGERS
from .poses import gesture_turns
from .rig import Rig, joint, turn
from .scene import Mesh, finished, posed

OPEN = (True,) * 5
Turns = dict[str, np.ndarray]


def bent(turns: Turns, name: str, further: np.ndarray) -> Turns:
    """The turns with a joint turned further, [3, 3] or [4, 4]; scaling is a turn as well."""
    before = np.eye(len(further))
    own = turns.get(name, np.eye(3))
    before[: len(own), : len(own)] = own
    return {**turns, name: before @ further}


def part(rig: Rig, finger: int, from_root: bool = True) -> np.ndarray:
    """Faces [F, 3] of a finger; without what follows the metacarpal but for the thumb."""
    own = rig.finger == finger
    if from_root:
        own &= np.char.find(rig.segment.astype(str), "metacarpal") < 0
    return rig.faces[own[rig.faces].all(1)]


def with_copy(rig: Rig, turns: Turns, copied: np.ndarray, faces: np.ndarray) -> Mesh:
    """The hand, and ``faces`` of another pose of it, vertices ``copied`` [V, 3]."""
    vertices, joints = rig.pose(turns)
    both = np.concatenate([vertices, copied])
    return finished(rig, both, np.concatenate([rig.faces, faces + len(vertices)]), joints)


def six_fingers(rig: Rig, rng: np.random.Generator) -> Mesh:
    """Five thinner fingers beside the thumb, side by side: one of the four is there twice."""
    turns = gesture_turns(OPEN, rng, spread=0)
    places = np.array([-0.018, -0.0025, 0.0125, 0.0275, 0.043])  # meters across the palm
    fan = np.array([-1, -0.5, 0, 0.5, 1]) * rng.uniform(7, 11)
    twice = int(rng.integers(4))
    others = dict(turns)
    for place, angle, finger in zip(places, fan, sorted([0, 1, 2, 3, twice]), strict=True):
        name = joint(FINGERS[1 + finger], "phalanx-proximal")
        root = rig.rest[rig.names.index(name)]
        moved = np.eye(4)
        moved[:3, 3] = root[:3, :3].T @ [0, 0, place - root[2, 3]]
        thin = turn("y", -angle) @ turn("x", -4 * rng.normal()) @ np.diag([0.82, 0.82, 1])
        turned = np.eye(4)
        turned[:3, :3] = thin
        if name in others and others[name].shape == (4, 4):
            copied = rig.pose({**others, name: moved @ turned})[0]
        else:
            others[name] = moved @ turned
    return with_copy(rig, others, copied, part(rig, 1 + twice))


def missing_finger(rig: Rig, rng: np.random.Generator, from_joint: str = "proximal") -> Mesh:
    """A finger shrunk to nothing, from a joint on."""
    name = joint(FINGERS[rng.integers(1, 5)], f"phalanx-{from_joint}")
    return posed(rig, bent(gesture_turns(OPEN, rng), name, 0.03 * np.eye(3)))


def stump(rig: Rig, rng: np.random.Generator) -> Mesh:
    return missing_finger(rig, rng, "intermediate")


def fused_fingers(rig: Rig, rng: np.random.Generator) -> Mesh:
    """Two neighbors thickened and moved into each other."""
    turns = gesture_turns(OPEN, rng, spread=rng.uniform(6, 10))
    first = int(rng.integers(1, 4))
    thick = np.diag([1.45, 1.1, 1])
    for finger, angle in ((first, -9), (first + 1, 9)):
        turns = bent(turns, joint(FINGERS[finger], "phalanx-proximal"), turn("y", angle) @ thick)
    return posed(rig, turns)


def two_thumbs(rig: Rig, rng: np.random.Generator) -> Mesh:
    """A second thumb at the other edge of the palm."""
    turns = gesture_turns(OPEN, rng)
    mirrored = rig.pose(turns)[0]
    mirrored = np.array([0, 0.008, 0.013]) + mirrored * [1, 1, -1]
    return with_copy(rig, turns, mirrored, part(rig, 0, from_root=False)[:, ::-1])


def broken_finger(rig: Rig, rng: np.random.Generator) -> Mesh:
    """A finger that goes off sideways in its middle."""
    name = joint(FINGERS[rng.integers(1, 5)], "phalanx-intermediate")
    angle = rng.choice([-1, 1]) * rng.uniform(55, 75)
    return posed(rig, bent(gesture_turns(OPEN, rng), name, turn("y", angle)))


def whole(rig: Rig, rng: np.random.Generator) -> Mesh:
    """No fault: what the others are compared with."""
    return posed(rig, gesture_turns(OPEN, rng))


SPOILED: dict[str, Callable[[Rig, np.random.Generator], Mesh]] = {
    "real": whole,
    "six fingers": six_fingers,
    "one missing": missing_finger,
    "one half as long": stump,
    "two fused": fused_fingers,
    "two thumbs": two_thumbs,
    "one broken sideways": broken_finger,
}


def warped(pixels: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Pixels [H, W, C] pulled about smoothly, by ``strength`` 256ths of a side (RMS) each way."""
    side = len(pixels)
    pulls = [ndimage.gaussian_filter(rng.normal(size=(side, side)), side * 22 / 256) for _ in "xy"]
    places = np.indices((side, side)).astype(float)
    for place, pull in zip(places, pulls, strict=True):
        place += pull / pull.std() * strength * side / 256
    channels = [
        ndimage.map_coordinates(pixels[..., c].astype(np.float32), places, order=1, mode="nearest")
        for c in range(pixels.shape[2])
    ]
    return np.stack(channels, -1).round().clip(0, 255).astype(np.uint8)
