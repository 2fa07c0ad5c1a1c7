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
    rotate_towards,
    shell_centroid,
    shell_path,
    shell_radius,
    spherical_path,
    standardize_channels,
    to_shell,
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


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 2, 2.5])
def test_rotation_turns_by_the_angle_and_keeps_the_norm(angle):
    given = noise(3) * torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1, 1)
    turned = rotate_towards(given, noise(3, seed=4), angle)
    torch.testing.assert_close(norms(turned), norms(given))
    for before, after in zip(given, turned, strict=True):
        assert angle_between(before, after) == pytest.approx(angle, abs=1e-5)
    if angle:
        assert angle_between(turned[0] - given[0], turned[1] - given[1]) > 0.5  # each its own way


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
