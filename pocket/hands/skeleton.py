"""Whether the skeleton that the landmark network found explains the skin that is there.

The network expects hands that people have: it puts five fingers into six, and straight ones into
fused ones. What it leaves over shows: skin far from every bone, a bone beside the skin, two tips at
one place. Each limit is what 97.5 % of the real hands of the training split keep to; spoiled hands
had no part in the limits (``pocket/making/hands/measure_judges.py``).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .landmarks import KNUCKLES, THUMB_TIP, TIPS, WRIST

PALM = (0, 1, 2, 5, 9, 13, 17)
FINGERS = ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20))
# How far flesh reaches, in hand sizes, from the bones of a finger and from the palm's outline.
FINGER_FLESH = 0.14
PALM_FLESH = 0.35


class Misfit(NamedTuple):
    """How badly a skeleton fits. The unit is a hand's size: the wrist to the outer knuckles.

    Attributes:
        skin: area that no bone explains, in squares of the size; the arm is left out.
        bone: the largest distance of a bone of the fingers from the skin.
        tips: 1 less the distance of the nearest tips of two extended fingers.
    """

    skin: float
    bone: float
    tips: float


LIMITS = Misfit(skin=0.073, bone=0.060, tips=0.696)


def drawn(lines: list[np.ndarray], filled: bool) -> np.ndarray:
    """Mask [256, 256] of lines of points [N, 2] in 0..1; closed and filled, or open."""
    image = Image.new("1", (256, 256))
    draw = ImageDraw.Draw(image)
    for points in lines:
        corners = [tuple(point) for point in points * 256]
        if filled:
            draw.polygon(corners, fill=1, outline=1)
        else:
            draw.line(corners, fill=1)
    return np.asarray(image)


def misfit(points: np.ndarray, extended: tuple[bool, ...], mask: np.ndarray) -> Misfit:
    """How badly a skeleton fits a mask.

    Args:
        points: float [21, 2], x and y in 0..1 from the upper left.
        extended: thumb to pinky.
        mask: bool [256, 256], where there is skin.
    """
    to_knuckles = points[[KNUCKLES[0], KNUCKLES[-1]]] - points[WRIST]
    size = np.linalg.norm(to_knuckles, axis=1).mean()
    fingers = drawn([points[list(finger)] for finger in FINGERS], filled=False)
    palm = drawn([points[list(PALM)]], filled=True)
    if size == 0 or not (fingers.any() and palm.any() and mask.any()):
        return Misfit(np.inf, np.inf, np.inf)
    axis = points[list(KNUCKLES)].mean(0) - points[WRIST]
    rows, columns = np.indices(mask.shape)
    beyond_wrist = (columns / 256 - points[WRIST, 0]) * axis[0]
    beyond_wrist += (rows / 256 - points[WRIST, 1]) * axis[1]
    of_finger = ndimage.distance_transform_edt(~fingers) < FINGER_FLESH * size * 256
    of_palm = ndimage.distance_transform_edt(~palm) < PALM_FLESH * size * 256
    unexplained = mask & (beyond_wrist > 0) & ~of_finger & ~of_palm
    from_skin = ndimage.distance_transform_edt(~mask)[fingers].max()
    tips = points[[tip for tip, out in zip((THUMB_TIP, *TIPS), extended, strict=True) if out]]
    gaps = np.linalg.norm(tips[:, None] - tips, axis=2)[np.triu_indices(len(tips), 1)]
    return Misfit(
        unexplained.sum() / (size * 256) ** 2,
        from_skin / (size * 256),
        1 - gaps.min(initial=size) / size,
    )


def explains(found: Misfit, limits: Misfit = LIMITS) -> bool:
    return all(value <= limit for value, limit in zip(found, limits, strict=True))
