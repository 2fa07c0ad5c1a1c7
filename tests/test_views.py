"""The views under which pictures are compared."""

import pytest
import torch

from seedselect_core.host import devices
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


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [(12, 12), (8, 16)])
def test_a_view_is_that_of_border_padding_and_so_is_its_gradient(size, complete, monkeypatch):
    """The same on the CPU in the place of a device whose build has no such padding."""
    if not complete:
        monkeypatch.setattr(devices, "COMPLETE", ())
    draw = torch.Generator().manual_seed(1)
    picture = torch.rand(2, *size, 3, generator=draw, dtype=torch.float64)
    views = draw_views(4)
    views[:, :, 2] *= 4  # far beyond the edges
    seen = apply_views(picture, views)
    height, width = size
    for i, view in enumerate(views[1:].double(), 1):
        x, y = torch.meshgrid(
            (torch.arange(width) + 0.5) * 2 / width - 1,
            (torch.arange(height) + 0.5) * 2 / height - 1,
            indexing="xy",
        )
        # In pixels, repeating the edge: what the padding is defined by.
        x, y = (
            view[0, 0] * x + view[0, 1] * y * height / width + view[0, 2],
            view[1, 0] * x * width / height + view[1, 1] * y + view[1, 2],
        )
        x = (((x + 1) * width - 1) / 2).clamp(0, width - 1)
        y = (((y + 1) * height - 1) / 2).clamp(0, height - 1)
        left, top = x.floor(), y.floor()
        expected = 0
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            column, row = column.clamp(max=width - 1).long(), row.clamp(max=height - 1).long()
            expected = expected + share[..., None] * picture[:, row, column]
        # The grid is made in single precision, as on a device.
        torch.testing.assert_close(seen[2 * i : 2 * i + 2], expected, atol=1e-5, rtol=0)

    weights = torch.rand(seen.shape, generator=draw, dtype=torch.float64)
    direction = torch.rand(picture.shape, generator=draw, dtype=torch.float64)
    leaf = picture.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((weights * apply_views(leaf, views)).sum(), leaf)
    ends = [apply_views(picture + h * direction, views) for h in (1e-4, -1e-4)]
    difference = ((ends[0] - ends[1]) * weights).sum() / 2e-4
    assert (gradient * direction).sum() == pytest.approx(difference.item(), rel=1e-9)
