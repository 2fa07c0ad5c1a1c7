"""The hand as a shape: what is skin, where the palm is, and how many fingers stand out of it.

Nothing here has learned. Skin is what differs from the ground at the picture's border; the palm is
the largest disc inside it; fingers are what an opening by a smaller disc takes away.
"""

from typing import NamedTuple

import kornia.color
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

SIDE = 256  # pixels that every picture is enlarged to
BORDER = 40  # rows from the top, down to which the sides are ground; an arm leaves further down
SKIN_DISTANCE = 16.0  # of CIELAB, from the ground
SMALLEST_HOLE = 40  # pixels; what is smaller is filled
# In radii of the palm: the disc that fits into no finger, and what a finger has at least.
FINGER_RADIUS = 0.36
LEAST_AREA = 0.10  # of the radius' square
LEAST_REACH = 1.4  # from the palm's center to the tip
LEAST_LENGTH = 0.35
SMALLEST_PALM = 6.0  # pixels


class Palm(NamedTuple):
    """Center and radius, in pixels."""

    row: float
    column: float
    radius: float


def enlarged(images: torch.Tensor) -> torch.Tensor:
    """ComfyUI's IMAGE [B, H, W, 3] in 0..1 as pictures [B, 3, 256, 256]."""
    pictures = images.movedim(-1, 1).float()
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False)


def skin_masks(images: torch.Tensor) -> np.ndarray:
    """Bool [B, 256, 256] of ComfyUI's IMAGE [B, H, W, 3] in 0..1: the largest shape in each."""
    lab = kornia.color.rgb_to_lab(enlarged(images).clamp(0, 1))
    sides = [lab[:, :, 0], lab[:, :, :BORDER, 0], lab[:, :, :BORDER, -1]]
    ground = torch.cat(sides, 2).median(2).values
    differs = (lab - ground[:, :, None, None]).norm(dim=1) > SKIN_DISTANCE
    return np.stack([largest(mask) for mask in differs.numpy()])


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask, its small holes filled."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    mask = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    holes, _ = ndimage.label(~mask)
    return mask | (np.bincount(holes.ravel())[holes] < SMALLEST_HOLE)


def find_palm(mask: np.ndarray) -> Palm:
    """The largest disc inside a mask [H, W]; the picture's border bounds it too."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return Palm(float(row), float(column), float(depth[row, column]))


def opened(mask: np.ndarray, radius: float) -> np.ndarray:
    """What discs of ``radius`` inside the mask cover; an arm goes on beyond the border."""
    margin = int(radius) + 2
    wide = np.pad(mask, margin, mode="edge")
    core = ndimage.distance_transform_edt(wide) > radius
    covered = ndimage.distance_transform_edt(~core) <= radius
    return covered[margin:-margin, margin:-margin]


def count_fingers(mask: np.ndarray) -> int:
    """How many fingers stand out of a mask [256, 256]; 0 where there is no palm."""
    palm = find_palm(mask)
    if palm.radius < SMALLEST_PALM:
        return 0
    rest = mask & ~opened(mask, FINGER_RADIUS * palm.radius)
    parts, count = ndimage.label(ndimage.binary_opening(rest, np.ones((3, 3))))
    rows, columns = np.indices(mask.shape)
    away = np.hypot(rows - palm.row, columns - palm.column) / palm.radius
    fingers = 0
    for part in range(1, count + 1):
        own = away[parts == part]
        is_large = len(own) > LEAST_AREA * palm.radius**2
        is_long = own.max() > LEAST_REACH and np.ptp(own) > LEAST_LENGTH
        fingers += is_large and is_long
    return int(fingers)
