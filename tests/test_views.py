"""The views under which pictures are compared."""

import pytest
import torch

from seedselect_core.likeness.views import apply_views, draw_views


def spot(height: int, width: int) -> torch.Tensor:
    """[1, H, W, 3]: a round spot in the middle."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    square = (y - height / 2).square() + (x - width / 2).square()
    return torch.exp(-square / 50)[None, ..., None].expand(-1, -1, -1, 3)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 64)])
def test_a_turned_picture_is_not_sheared(size):
    views = draw_views(4)
    views[:, :, 2] = 0  # shifts
    for seen in apply_views(spot(*size), views)[..., 0]:
        y, x = torch.meshgrid(*(torch.arange(n) + 0.5 - n / 2 for n in size), indexing="ij")
        spread = torch.stack([(seen * p).sum() for p in (y * y, x * x, x * y)]) / seen.sum()
        assert spread[0] / spread[1] == pytest.approx(1, abs=0.01)
        assert spread[2] / spread[0] == pytest.approx(0, abs=0.01)


def test_the_first_view_is_the_picture_itself():
    picture = spot(8, 8)
    assert torch.equal(apply_views(picture, draw_views(3))[:1], picture)
    assert apply_views(picture.repeat(2, 1, 1, 1), draw_views(3)).shape == (6, 8, 8, 3)
