"""Norm-aware geometry: known values, edge cases, and closed form against optimization."""

import math
from itertools import pairwise

import pytest
import torch

from seedselect_core.errors import SeedSelectError
from seedselect_core.likeness.losses import norm_log_density
from seedselect_core.seeds.geometry import (
    _eps,
    angle_between,
    centroid_objective,
    geodesic_radius,
    linear_path,
    norms,
    optimized_centroid,
    optimized_path,
    path_objective,
    resized,
    rotate_towards,
    shell_centroid,
    shell_path,
    shell_radius,
    spherical_path,
    standardize_channels,
    to_shell,
    white,
)

D = 256
SHELL = shell_radius(D)


def noise(count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def step(angle: float) -> torch.Tensor:
    """On the shell, in one plane: [4, 8, 8] at ``angle``."""
    flat = torch.zeros(D, dtype=torch.float64)
    flat[0] = math.cos(angle)
    flat[100] = math.sin(angle)
    return (SHELL * flat).view(4, 8, 8)


def fits(path: torch.Tensor) -> float:
    """Excess of the widest gap over eps."""
    flat = path.double().flatten(1)
    eps = _eps(flat[0], flat[-1], len(flat))
    return float((flat[1:] - flat[:-1]).norm(dim=1).max()) - eps


# --- single noises --------------------------------------------------------------------------------


def test_to_shell_keeps_direction():
    given = noise(3) * torch.tensor([0.1, 1.0, 7.0]).view(3, 1, 1, 1)
    moved = to_shell(given)
    torch.testing.assert_close(norms(moved), torch.full((3,), SHELL))
    torch.testing.assert_close(moved / SHELL, given / norms(given).view(3, 1, 1, 1))


def test_channels_are_standardized_each():
    given = noise(2) * torch.tensor([1.0, 2.0, 0.3, 5.0]).view(4, 1, 1) + 3
    given[1, 2] = 4.0  # no spread to scale
    moved = standardize_channels(given)
    mean = moved.mean(dim=(2, 3))
    var = moved.var(dim=(2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(var, torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 1]]))
    assert abs(norms(moved)[0] - SHELL) < 0.04


def spectrum(given):
    """Complex values [B, d / 2] of mean square 1 where ``given`` is Gaussian noise of d values."""
    found = torch.fft.rfft(given.flatten(1).double(), norm="ortho")
    ends = torch.complex(found[:, 0].real, found[:, -1].real) / math.sqrt(2)
    return torch.cat([ends[:, None], found[:, 1:-1]], 1)


def test_what_is_white_has_the_moduli_of_noise_in_every_block():
    ramp = torch.linspace(-1, 1, 256).view(1, 4, 8, 8).repeat(2, 1, 1, 1)
    given = ramp + 0.01 * noise(2)
    moduli = spectrum(white(given)).abs().view(2, -1, 16)
    torch.testing.assert_close(moduli.square().mean(2), torch.ones(2, 8, dtype=torch.float64))
    mean = torch.full((2, 8), math.sqrt(math.pi) / 2, dtype=torch.float64)
    torch.testing.assert_close(moduli.mean(2), mean, rtol=1e-5, atol=1e-5)
    assert spectrum(given).abs().view(2, -1, 16).mean(2).std() > 0.05


def test_what_is_white_keeps_phases_and_the_order_of_the_moduli_in_a_block():
    given = noise(1) * torch.linspace(0.1, 3, 8)
    before = spectrum(given)[0]
    after = spectrum(white(given))[0]
    kept = after.abs() > 1e-3
    torch.testing.assert_close(after[kept].angle(), before[kept].angle(), atol=1e-4, rtol=0)
    for old, new in zip(before.abs().view(-1, 16), after.abs().view(-1, 16), strict=True):
        assert (new[old.argsort()].diff() > -1e-5).all()


def test_white_noise_stays_as_it_is():
    given = white(noise(2))
    torch.testing.assert_close(white(given), given, atol=1e-4, rtol=0)
    torch.testing.assert_close(white(7 * given), given, atol=1e-4, rtol=0)
    assert not white(torch.zeros(1, 4, 8, 8)).any()


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (1, 16, 2, 6, 6), (1, 3, 5, 5), (1, 1, 1, 2)])
def test_white_takes_any_shape(shape):
    given = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = white(given)
    assert found.shape == given.shape and torch.isfinite(found).all()
    if given.numel() > 64:
        assert found.square().mean().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.5])
def test_rotation_turns_by_the_angle_and_keeps_the_norm(angle):
    given = noise(3) * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1, 1)
    turned = rotate_towards(given, noise(3, seed=4), angle)
    torch.testing.assert_close(norms(turned), norms(given))
    for before, after in zip(given, turned, strict=True):
        assert angle_between(before, after) == pytest.approx(angle, abs=1e-5)
    if angle:
        assert angle_between(turned[0] - given[0], turned[1] - given[1]) > 0.5  # each its own way


SIZES = [(32, 32), (24, 20), (17, 9), (8, 23), (15, 17)]  # of 16 x 16: larger, smaller, coprime


@pytest.mark.parametrize("size", SIZES)
def test_white_noise_at_another_size_is_white(size):
    given = torch.randn(500, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    made = resized(given, *size, torch.Generator().manual_seed(1))
    assert made.shape == (500, 4, *size) and made.dtype == given.dtype
    error = 4 / math.sqrt(made.numel())  # four standard deviations of each mean below
    assert abs(made.mean()) < error
    assert abs(made.var() - 1) < math.sqrt(2) * error
    assert abs((made**4).mean() - 3) < math.sqrt(96) * error
    for first, second in (
        (made[..., 1:], made[..., :-1]),
        (made[..., 1:, :], made[..., :-1, :]),
        (made[..., 1:, 1:], made[..., :-1, :-1]),
        (made[..., 2:], made[..., :-2]),
    ):
        assert abs((first * second).mean()) < 1.1 * error


@pytest.mark.parametrize("factor", [2, 3])
def test_larger_noise_has_the_integrals_of_the_smaller(factor):
    given = noise(2)
    made = resized(given, 8 * factor, 8 * factor, torch.Generator().manual_seed(1))
    sums = made.view(2, 4, 8, factor, 8, factor).sum((3, 5)) / factor
    torch.testing.assert_close(sums, given, atol=1e-5, rtol=0)
    back = resized(made, 8, 8, torch.Generator().manual_seed(2))
    torch.testing.assert_close(back, given, atol=1e-5, rtol=0)


def test_noise_at_its_own_size_and_that_of_videos():
    given = noise(2)
    assert torch.equal(resized(given, 8, 8, torch.Generator()), given)
    video = given.unsqueeze(2).repeat(1, 1, 3, 1, 1)
    made = resized(video, 12, 10, torch.Generator().manual_seed(1))
    assert made.shape == (2, 4, 3, 12, 10) and made.is_contiguous()
    assert not torch.equal(made[:, :, 0], made[:, :, 1])  # the detail of each frame is its own


@pytest.mark.parametrize("d", [4, 256, 16384])
def test_the_geodesic_circle_is_a_hair_inside_the_shell(d):
    # The least r f(r) by search, around the shell.
    r = torch.linspace(shell_radius(d) - 0.5, shell_radius(d) + 0.5, 2_000_001).double()
    least = r[(-r * norm_log_density(r, d)).argmin()]
    assert geodesic_radius(d) == pytest.approx(float(least), abs=1e-5)
    if d >= 256:
        expected = shell_radius(d) - math.log(math.pi) / 4 / shell_radius(d)
        assert geodesic_radius(d) == pytest.approx(expected, abs=1e-3)


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [linear_path, spherical_path, shell_path])
def test_paths_have_their_ends_bit_by_bit_and_their_length(path):
    a, b = noise(2)
    points = path(a, b, 7)
    assert points.shape == (7, 4, 8, 8) and points.dtype == a.dtype
    assert torch.equal(points[0], a) and torch.equal(points[-1], b)
    assert torch.equal(path(a, b, 2), torch.stack([a, b]))
    with pytest.raises(SeedSelectError, match="points"):
        path(a, b, 1)
    with torch.inference_mode():
        assert torch.equal(path(*noise(2), 7), points)


def test_known_points_between_right_angles():
    a = step(0)
    b = 2 * step(math.pi / 2)
    torch.testing.assert_close(linear_path(a, b, 3)[1], (a + b) / 2)
    torch.testing.assert_close(spherical_path(a, b, 3)[1], 1.5 * step(math.pi / 4))
    torch.testing.assert_close(shell_path(a, b, 3)[1], step(math.pi / 4))


def test_shell_path_turns_evenly_on_the_shell():
    a, b = noise(2)
    points = shell_path(a, b, 12)
    torch.testing.assert_close(norms(points[1:-1]), torch.full((10,), SHELL))
    turns = [angle_between(p, q) for p, q in pairwise(points)]
    assert turns == pytest.approx([angle_between(a, b) / 11] * 11, abs=1e-5)


@pytest.mark.parametrize("path", [spherical_path, shell_path])
@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, math.pi - 1e-9, math.pi])
def test_parallel_and_opposite_ends(path, angle):
    points = path(step(0), step(angle), 9)
    torch.testing.assert_close(norms(points), torch.full((9,), SHELL).double())
    turns = [angle_between(p, q) for p, q in pairwise(points)]
    assert turns == pytest.approx([angle / 8] * 8, abs=1e-8)
    assert torch.equal(path(step(0), step(angle), 9), points)
    assert fits(points) <= 1e-6


def test_ends_off_the_shell_are_left_along_the_radius():
    # 4.8 over and 3.2 under; eps is 0.98
    a = 1.3 * step(0)
    b = 0.8 * step(math.pi / 2)
    points = shell_path(a, b, 50)
    assert fits(points) <= 1e-6
    lengths = norms(points)
    assert (lengths - SHELL).abs().lt(1e-9).sum() == 50 - 5 - 4
    assert angle_between(points[5], a) == pytest.approx(0, abs=1e-7)
    # No path with such gaps has likelier norms.
    eps = _eps(a.flatten(), b.flatten(), 50)
    i = torch.arange(50)
    far = torch.maximum(0.3 * SHELL - i * eps, 0.2 * SHELL - (49 - i) * eps).clamp_min(0)
    torch.testing.assert_close((lengths - SHELL).abs(), far.double(), atol=1e-5, rtol=0)


def test_ends_too_far_off_the_shell_for_so_few_points():
    points = shell_path(2 * step(0), 2 * step(0.01), 5)
    torch.testing.assert_close(norms(points[1:-1]), torch.full((3,), SHELL).double())
    same = shell_path(2 * step(0), 2 * step(0), 5)
    assert torch.equal(same[0], same[-1]) and torch.isfinite(same).all()


def objective(path: torch.Tensor) -> float:
    flat = path.double().flatten(1)
    return float(path_objective(flat, _eps(flat[0], flat[-1], len(flat))))


def test_objective_by_hand():
    path = torch.stack([step(0), 0.5 * step(0), step(math.pi / 2)])
    density = norm_log_density(SHELL * torch.tensor([1.0, 0.5, 1.0]).double(), D).sum()
    expected = float(density) - 3 * SHELL * (math.sqrt(1.25) - 1) - 3 * SHELL * max(0, 0.5 - 1)
    flat = path.flatten(1)
    assert float(path_objective(flat, SHELL, 3.0)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("stretch", [1.0, 1.2])
def test_closed_path_and_optimized_path_agree(seed, stretch):
    a, b = noise(2, seed).double()
    a = stretch * a
    closed = shell_path(a, b, 20)
    found = optimized_path(a, b, 20, steps=400, lr=0.02)
    straight = objective(linear_path(a, b, 20))
    assert objective(closed) > straight + 100
    assert objective(closed) >= objective(found) - 1e-6
    assert objective(found) == pytest.approx(objective(closed), abs=0.05)
    torch.testing.assert_close(norms(found[2:-2]), norms(closed[2:-2]), atol=0.15, rtol=0)
    assert fits(found) < 0.05
    # The optimum is flat, and Adam's scaling of each value drifts within it, out of the plane.
    assert max(angle_between(p, q) for p, q in zip(closed, found, strict=True)) < 0.3
    plane = torch.linalg.qr(torch.stack([a.flatten(), b.flatten()], 1))[0]
    flat = closed.flatten(1)
    torch.testing.assert_close(flat @ plane @ plane.T, flat)


def test_optimized_path_leaves_the_origin():
    a = noise(1, 3)[0].double()
    found = optimized_path(a, -a, 5, steps=300, lr=0.05)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(norms(found[1:-1]), torch.full((3,), SHELL).double(), atol=3, rtol=0)


# --- centroids ------------------------------------------------------------------------------------


def sum_of_angles(c: torch.Tensor, seeds: torch.Tensor) -> float:
    return sum(angle_between(c, seed) for seed in seeds)


def test_centroid_of_equal_angles_is_the_mean_on_the_shell():
    basis = torch.eye(D, dtype=torch.float64)[:5].view(5, 4, 8, 8) * torch.arange(1, 6).view(
        5, 1, 1, 1
    )
    expected = to_shell((basis / norms(basis).view(5, 1, 1, 1)).sum(0, keepdim=True))[0]
    torch.testing.assert_close(shell_centroid(basis), expected)


def test_centroid_of_one_two_and_opposite():
    one = noise(1).double()
    torch.testing.assert_close(shell_centroid(one), to_shell(one)[0])
    two = torch.stack([step(0), step(1.0)])
    torch.testing.assert_close(shell_centroid(two), step(0.5))
    c = shell_centroid(torch.stack([step(0), step(math.pi)]))
    assert angle_between(c, step(0)) == pytest.approx(math.pi / 2)
    assert float(c.norm()) == pytest.approx(SHELL)


def test_centroid_is_the_median_and_not_the_mean():
    # On one great circle the median is the middle seed, the Frechet mean the mean angle.
    seeds = torch.stack([step(0), step(0.2), step(1.0)])
    assert angle_between(shell_centroid(seeds), step(0.2)) < 0.01
    heavy = shell_centroid(seeds, torch.tensor([1.0, 1.0, 5.0]))
    assert angle_between(heavy, step(1.0)) < 0.01


def test_centroid_has_the_least_sum_of_angles():
    seeds = noise(4, 7).double()
    seeds[1] = seeds[0] + 0.6 * seeds[1]  # two near each other
    c = shell_centroid(seeds)
    least = sum_of_angles(c, seeds)
    mean = (seeds / norms(seeds).view(-1, 1, 1, 1)).sum(0)
    assert least < sum_of_angles(mean, seeds) - 1e-3
    for n in range(20):
        moved = rotate_towards(c[None], noise(1, seed=n), 0.05)[0]
        assert sum_of_angles(moved, seeds) > least
        towards = c + 0.02 * (seeds[n % 4] - c)
        assert sum_of_angles(towards, seeds) > least


def test_closed_centroid_and_optimized_centroid_agree():
    seeds = noise(4, 8).double()
    n = 10
    found, found_paths = optimized_centroid(seeds, n, steps=500, lr=0.02)
    closed = shell_centroid(seeds)
    closed_paths = torch.stack([shell_path(seed, closed, n) for seed in seeds])
    start = seeds.mean(0).flatten()
    eps = [_eps(seed.flatten(), start, n) for seed in seeds]

    def objective(c, paths):
        return float(centroid_objective(c, paths.flatten(2), eps))

    assert objective(closed, closed_paths) >= objective(found, found_paths) - 1e-6
    assert objective(found, found_paths) == pytest.approx(objective(closed, closed_paths), abs=0.2)
    assert float(found.norm()) == pytest.approx(SHELL, abs=0.05)
    assert angle_between(found, closed) < 0.35  # of 1.0 to each seed: the optimum is flat
    assert found_paths.shape == (4, n, 4, 8, 8)
    assert torch.equal(found_paths[:, -1], found.expand(4, 4, 8, 8))


def test_the_published_objective_does_not_say_which_centroid():
    """Why the centroid is told by the line integral: others do as well."""
    seeds = to_shell(noise(3, 9).double())
    n = 20
    closed = shell_centroid(seeds)
    values = []
    for c in (closed, to_shell((closed + 0.3 * (seeds[0] - closed))[None])[0]):
        paths = torch.stack([shell_path(seed, c, n) for seed in seeds])
        eps = [_eps(seed.flatten(), seeds.mean(0).flatten(), n) for seed in seeds]
        values.append(float(centroid_objective(c, paths.flatten(2), eps)))
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert sum_of_angles(closed, seeds) < sum_of_angles(c, seeds) - 0.01
