"""Several views of one picture, so that the encoder has to be convinced and not just fooled.

Gradient descent on one embedding finds pictures that the encoder likes and an eye does not. One
that is liked shifted, turned and zoomed as well is much harder to forge (expectation over
transformation, Athalye et al., ICML 2018, arXiv 1707.07397). The views are drawn once and stay the
same, so that losses of different iterations can be compared.
"""

import functools
import math

import torch
import torch.nn.functional as F

from ..host.devices import where_complete

MAX_SHIFT = 0.06
MAX_ZOOM = 0.12
MAX_TURN = math.radians(8)


def draw_views(count: int) -> torch.Tensor:
    """Affine maps [count, 2, 3] for `apply_views`; the first is the picture itself.

    Shifts of up to 6 % of the side, zooms of up to 12 % either way, turns of up to 8 degrees.
    """
    draw = torch.rand(4, count, generator=torch.Generator().manual_seed(0)) * 2 - 1
    draw[:, 0] = 0
    zoom = torch.exp(draw[0] * math.log1p(MAX_ZOOM))
    turn = draw[1] * MAX_TURN
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = torch.cos(turn) / zoom
    maps[:, 0, 1] = -torch.sin(turn) / zoom
    maps[:, 1, 0] = torch.sin(turn) / zoom
    maps[:, :, 2] = draw[2:].T * 2 * MAX_SHIFT
    return maps


def apply_views(images: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3] under views [V, 2, 3]: [V * B, H, W, 3], view by view.

    The first view is passed on untouched. What a view shows beyond the edge repeats the edge.
    """
    if len(views) == 1:
        return images
    others = functools.partial(_moved, views=views[1:])
    return torch.cat([images, where_complete(others, images)])


def _moved(images: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
    seen = []
    pictures = images.movedim(-1, 1)
    height, width = images.shape[1:3]
    # Maps are of pixels; the grid measures each side by its own length.
    to_grid = torch.tensor([[1, height / width, 1], [width / height, 1, 1]])
    for view in (views * to_grid.to(views)).to(images):
        grid = F.affine_grid(
            view.expand(len(images), 2, 3), list(pictures.shape), align_corners=False
        )
        moved = F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
        seen.append(moved.movedim(1, -1))
    return torch.cat(seen)
