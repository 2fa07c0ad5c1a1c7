"""Three judges of a pictured hand, of which none takes part in any optimization.

(a) MediaPipe's landmark network reads which fingers are extended, the side, and the view.
(b) Fingers are counted by the hand's outline alone (`silhouette`).
(c) The skeleton that the network found must explain the skin that is there (`skeleton`).

Right is what (a) reads as the prompt asks for; well-formed, what is right and (b) and (c) accept.
The network alone takes six fingers, fused and broken ones for an open hand. Real hands are not
always well-formed to these judges either: ``judges.md`` has their own rates.
"""

from typing import NamedTuple

import torch

from .landmarks import (
    KNUCKLES,
    MIDDLE_JOINTS,
    THUMB_KNUCKLE,
    THUMB_TIP,
    TIPS,
    WRIST,
    LandmarkNetwork,
)
from .silhouette import count_fingers, skin_masks
from .skeleton import explains, misfit
from .words import SIDES, VIEWS, extended

# How far the thumb's tip is from the ring finger's knuckle, to how far its own knuckle is.
THUMB_REACH = 0.9
RING_KNUCKLE = KNUCKLES[2]


class Reading(NamedTuple):
    """What the landmark network reads in a picture.

    Attributes:
        extended: thumb to pinky.
        side: "left" or "right".
        view: "palm" or "back".
        points: float [21, 2] in 0..1 from the upper left.
    """

    extended: tuple[bool, ...]
    side: str
    view: str
    points: torch.Tensor


class Verdict(NamedTuple):
    """What the judges say of a picture that was to show a certain hand, (a), (b) and (c)."""

    right: bool
    counted: bool
    explained: bool

    @property
    def well_formed(self) -> bool:
        return all(self)


def judge_hands(
    network: LandmarkNetwork, images: torch.Tensor, gesture: str, side: str, view: str
) -> list[Verdict]:
    """All three judges; ``images`` is ComfyUI's IMAGE, square, [B, H, W, 3] in 0..1."""
    wanted = extended(gesture)
    verdicts = []
    for reading, mask in zip(read_hands(network, images), skin_masks(images), strict=True):
        right = reading[:3] == (wanted, side, view)
        counted = count_fingers(mask) == sum(wanted)
        found = misfit(reading.points.numpy(), reading.extended, mask)
        verdicts.append(Verdict(right, counted, explains(found)))
    return verdicts


def read_hands(network: LandmarkNetwork, images: torch.Tensor) -> list[Reading]:
    """Judge (a), for each picture; ``images`` is ComfyUI's IMAGE, square, [B, H, W, 3] in 0..1."""
    found = network(images)
    return [
        read_points(points, right.item() > 0.5)
        for points, right in zip(found.points, found.right, strict=True)
    ]


def read_points(points: torch.Tensor, is_right: bool) -> Reading:
    """Fingers and view of a hand with these points [21, 2]."""

    def far(a: int, b: int) -> float:
        return (points[a] - points[b]).norm().item()

    thumb = far(THUMB_TIP, RING_KNUCKLE) > THUMB_REACH * far(THUMB_KNUCKLE, RING_KNUCKLE)
    fingers = [
        far(tip, WRIST) > far(middle, WRIST)
        for tip, middle in zip(TIPS, MIDDLE_JOINTS, strict=True)
    ]
    (ax, ay), (bx, by) = (points[[KNUCKLES[0], KNUCKLES[-1]]] - points[WRIST]).tolist()
    # From index to pinky it goes clockwise around the wrist of a left palm and of a right back.
    clockwise = ax * by - ay * bx > 0
    view = VIEWS[int(clockwise == is_right)]
    return Reading((thumb, *fingers), SIDES[int(is_right)], view, points)
