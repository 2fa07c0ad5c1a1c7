"""The losses against values computed by hand."""

import math

import pytest
import torch

from seedselect_core.likeness.losses import (
    appearance_loss,
    centroid,
    nearest_loss,
    norm_log_density,
    norm_prior,
    semantic_loss,
)


def test_centroid_gives_every_reference_the_same_say():
    # Long and short embeddings at right angles: the centroid lies at 45 degrees all the same.
    result = centroid(torch.tensor([[10.0, 0.0], [0.0, 0.1]]))
    torch.testing.assert_close(result, torch.tensor([0.5**0.5, 0.5**0.5]))


def test_semantic_loss_is_one_minus_cosine_per_sample():
    embeddings = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [3.0, 4.0]])
    loss = semantic_loss(embeddings, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 2.0, 0.4]))


def test_the_two_nearest_references_count_and_the_same_ones_under_all_views():
    targets = torch.eye(3)
    views = torch.tensor([[0.6, 0.8, 0.0], [0.8, 0.0, 0.6]])
    # Losses of the three: (0.4, 0.2, 1.0) and (0.2, 1.0, 0.4), means 0.3, 0.6 and 0.7.
    assert nearest_loss(views, targets).item() == pytest.approx((0.3 + 0.6) / 2)
    assert nearest_loss(views, targets[:2]).item() == pytest.approx((0.3 + 0.6) / 2)
    alone = nearest_loss(views, targets[2:])
    assert alone == semantic_loss(views, targets[2]).mean()


def test_appearance_loss_is_a_mean_square_per_sample():
    latents = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    target = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    # Errors (0, 0, 0, 4) and (1, 2, 3, 0): means of squares 16 / 4 and 14 / 4.
    torch.testing.assert_close(appearance_loss(latents, target), torch.tensor([4.0, 3.5]))


def test_norm_prior_is_zero_at_the_likeliest_norm_and_positive_elsewhere():
    d = 256
    direction = torch.full((1, 4, 8, 8), d**-0.5, dtype=torch.float64)
    radii = torch.tensor([math.sqrt(d - 1), 14.0, 18.0], dtype=torch.float64)
    loss = norm_prior(direction * radii.view(3, 1, 1, 1))
    assert loss.shape == (3,)
    assert abs(loss[0]) < 1e-9
    # 0.5 r^2 - 255 ln r: at 18, 162 - 255 ln 18; at sqrt(255), 127.5 - 127.5 ln 255.
    by_hand = (162 - 255 * math.log(18)) - (127.5 - 127.5 * math.log(255))
    assert loss[2].item() == pytest.approx(by_hand / math.sqrt(255), rel=1e-9)
    assert loss[1] > 0


def test_norm_prior_pulls_towards_the_shell():
    noise = torch.full((2, 1, 4, 4), 1.0, dtype=torch.float64)
    noise[1] *= 0.5
    noise.requires_grad_()
    norm_prior(noise).sum().backward()
    # d/dz of 0.5 ||z||^2 - (d - 1) ln ||z|| is z (1 - (d - 1) / ||z||^2); ||z||^2 is 16 and 4.
    gradient = noise.grad * math.sqrt(15)
    assert gradient[0, 0, 0, 0].item() == pytest.approx(1.0 * (1 - 15 / 16))
    assert gradient[1, 0, 0, 0].item() == pytest.approx(0.5 * (1 - 15 / 4))


def test_norm_log_density_is_the_chi_density():
    # For d = 2 this is Rayleigh's: r exp(-r^2 / 2).
    r = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(norm_log_density(r, 2), torch.log(r * torch.exp(-r.square() / 2)))
    # It integrates to one, with the peak at sqrt(d - 1).
    r = torch.linspace(0.001, 40, 200001, dtype=torch.float64)
    density = norm_log_density(r, 256).exp()
    assert torch.trapezoid(density, r).item() == pytest.approx(1.0, abs=1e-6)
    assert r[density.argmax()].item() == pytest.approx(math.sqrt(255), abs=1e-3)


def test_norm_prior_and_log_density_differ_by_a_constant_only():
    noise = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = norm_prior(noise) * math.sqrt(15) + norm_log_density(noise.norm(dim=1), 16)
    torch.testing.assert_close(total, total[:1].expand(3))
