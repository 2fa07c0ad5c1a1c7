"""Diversity figures against counts worked out by hand, and against what chance does."""

import math

import pytest
import torch

from seedselect_core.sets.diversity import (
    bin_counts,
    choose_bins,
    cluster_entropy,
    differing_bins,
    diversity_report,
    kmeans,
    ndb,
    nearest,
    share_entropy,
)

torch.set_num_threads(1)


def around(centers: torch.Tensor, counts: list[int], seed: int = 0) -> torch.Tensor:
    """Tight clouds of so many points around each centre."""
    random = torch.Generator().manual_seed(seed)
    points = torch.cat([center.expand(n, -1) for center, n in zip(centers, counts, strict=True)])
    return points + 0.01 * torch.randn(points.shape, generator=random)


CORNERS = 10.0 * torch.eye(4)


def test_entropy_of_counts():
    assert share_entropy(torch.tensor([5, 5, 5, 5])) == pytest.approx(2.0)
    assert share_entropy(torch.tensor([20, 0, 0, 0])) == 0.0
    assert share_entropy(torch.tensor([2, 1, 1, 0])) == pytest.approx(1.5)
    # 0.75 log2(4/3) + 0.25 log2(4)
    assert share_entropy(torch.tensor([3, 1])) == pytest.approx(0.8112781, abs=1e-6)


def test_differing_bins_by_hand():
    # Bin 0: 0.5 and 0.4, pooled 0.45, error sqrt(0.45 * 0.55 * 0.02) = 0.0704, z = 1.42.
    # Bin 1: 0.3 and 0.45, pooled 0.375, error 0.0685, z = 2.19.
    # Bin 2: 0.2 and 0.15, pooled 0.175, error 0.0537, z = 0.93. Bin 3: empty in both.
    real = torch.tensor([50, 30, 20, 0])
    other = torch.tensor([40, 45, 15, 0])
    assert differing_bins(real, other).tolist() == [False, True, False, False]
    # z = 2.19 has a probability of 0.0285 on both sides together.
    assert differing_bins(real, other, 0.029)[1] and not differing_bins(real, other, 0.028)[1]
    # Of 20 each, 4 and 10: pooled 0.35, error 0.1508, z = 1.99; 4 and 9: z = 1.71.
    assert differing_bins(torch.tensor([4, 16]), torch.tensor([10, 10])).tolist() == [True, True]
    assert not differing_bins(torch.tensor([4, 16]), torch.tensor([9, 11])).any()
    # Of 20 and 200: 4 and 90 (0.45): pooled 0.427, error 0.116, z = 2.16.
    assert differing_bins(torch.tensor([4, 16]), torch.tensor([90, 110])).all()
    assert not differing_bins(torch.tensor([7, 0]), torch.tensor([9, 0])).any()


def test_kmeans_finds_clouds_and_survives_copies():
    points = around(CORNERS, [3, 10, 20, 40])
    for seed in range(5):
        counts = bin_counts(points, kmeans(points, 4, seed))
        assert sorted(counts.tolist()) == [3, 10, 20, 40]
    copies = torch.ones(6, 3)
    assert sorted(bin_counts(copies, kmeans(copies, 3)).tolist()) == [0, 0, 6]


def test_entropy_and_ndb_of_uniform_and_collapsed():
    real = around(CORNERS, [25, 25, 25, 25])
    uniform = around(CORNERS, [25] * 4, 1)
    collapsed = around(CORNERS[:1], [100], 1)
    assert cluster_entropy(real, uniform, bins=4) == pytest.approx(2.0)
    assert cluster_entropy(real, collapsed, bins=4) == 0.0
    assert ndb(real, uniform, bins=4) == 0
    assert ndb(real, collapsed, bins=4) == 4
    # 40 instead of 25 of 100 differs (z = 2.26), 20 does not (z = 0.85).
    assert ndb(real, around(CORNERS, [40, 20, 20, 20], 1), bins=4) == 1
    # As many bins as real features at most.
    assert cluster_entropy(real[::25], uniform, bins=20) == pytest.approx(2.0)


def test_one_bin_in_twenty_differs_by_chance():
    # Fixed bins of equal share, so that nothing but the test's own level is measured.
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(20, (2, 400, 1000), generator=random)
    differing = 0
    for one, other in zip(*draws, strict=True):
        counts = [torch.bincount(draw, minlength=20) for draw in (one, other)]
        differing += int(differing_bins(*counts).sum())
    assert 0.042 < differing / (400 * 20) < 0.058  # three standard errors are 0.007


def test_report_compares_with_unseen_real_pictures():
    random = torch.Generator().manual_seed(1)
    real, same = (torch.randn(n, 6, generator=random) for n in (400, 100))
    narrow = 0.3 * torch.randn(100, 6, generator=random)
    report = diversity_report(real, same, narrow, bins=20)
    assert (report.bins, report.fitted, report.compared) == (20, 200, 100)
    assert report.ceiling == pytest.approx(math.log2(20)) and not report.notes
    assert list(report.sets) == ["real", "plain", "generated"]
    # Draws of one distribution are alike: chance moves the entropy of 100 by 2 % (one sigma), and
    # about 5 % of 20 bins differ.
    assert report.generated.entropy == pytest.approx(report.real.entropy, rel=0.06)
    assert report.real.ndb < 2.5 and report.generated.ndb < 2.5
    assert report.generated.pairwise == pytest.approx(report.real.pairwise, rel=0.05)
    assert report.generated.nearest_real == pytest.approx(report.real.nearest_real, rel=0.1)
    assert report.plain.entropy < report.real.entropy - 0.5
    assert report.plain.ndb > 3 * report.real.ndb
    assert report.plain.pairwise < 0.5 * report.real.pairwise
    # Real pictures judged by bins made of themselves would look better than unseen ones can.
    assert report.real.ndb > ndb(real, real) == 0
    again = diversity_report(real, same, narrow, bins=20)
    assert again == report


def test_report_compares_equally_many_pictures():
    random = torch.Generator().manual_seed(2)
    real, generated = (torch.randn(n, 4, generator=random) for n in (400, 12))
    report = diversity_report(real, generated, bins=20)
    assert report.compared == 12 and report.plain is None
    # Twelve pictures cannot reach log2 20 bits; the real ones' own figure is as low.
    assert report.real.entropy < math.log2(12)
    assert report.generated.entropy == pytest.approx(report.real.entropy, abs=0.3)
    assert any("12 pictures" in note for note in report.notes)


def test_report_finds_copies_and_duplicates():
    random = torch.Generator().manual_seed(3)
    real = torch.randn(40, 16, generator=random)
    fresh = torch.randn(8, 16, generator=random)
    copied = torch.cat([fresh, real[:3] + 1e-3, fresh[:1] + 1e-3])
    report = diversity_report(real, copied, fresh)
    assert (report.generated.copies, report.generated.duplicates) == (3, 2)
    assert (report.plain.copies, report.plain.duplicates) == (0, 0)
    assert report.real.copies is None and report.real.duplicates == 0
    assert nearest(fresh, fresh).max() < 1e-2 < nearest(fresh).min()


def test_copies_lie_at_distance_zero_in_large_sets_too():
    features = torch.randn(20, 16, generator=torch.Generator().manual_seed(3))
    assert not nearest(torch.nn.functional.normalize(features, dim=1).repeat(2, 1)).any()


def test_bins_fit_the_number_of_real_pictures():
    assert [choose_bins(n) for n in (4, 20, 60, 200, 1000)] == [2, 2, 6, 20, 20]
    assert [choose_bins(n, 20) for n in (4, 20, 60, 200)] == [2, 5, 15, 20]
    report = diversity_report(torch.randn(20, 3), torch.randn(20, 3))
    assert report.bins == 5 and any("5 bins instead of 20" in note for note in report.notes)


@pytest.mark.parametrize(
    ("real", "generated", "bins", "message"),
    [
        (torch.randn(3, 2), torch.randn(9, 2), 0, "real pictures: 3"),
        (torch.randn(9, 2), torch.randn(1, 2), 0, "generated pictures: 1"),
        (torch.randn(9, 2), torch.randn(9, 2), 1, "bins"),
        (torch.randn(9, 2), torch.randn(9, 3), 0, "features"),
        (torch.randn(9, 2), torch.full((9, 2), math.nan), 0, "no numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(real, generated, bins, message):
    with pytest.raises(ValueError, match=message):
        diversity_report(real, generated, bins=bins)
