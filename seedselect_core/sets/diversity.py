"""Are the pictures of a concept as various as real ones? Figures on features of an image encoder.

Entropy of cluster assignment (SeedSelect, arXiv 2304.14530): cluster real pictures into K bins with
k-means, assign the others to the nearest centre, and take ``-sum p log2 p`` of the bins' shares;
the ceiling is ``log2 K``. NDB (Richardson & Weiss, arXiv 1805.12462): the number of bins whose
share differs significantly from the real one, by a two-sample test of proportions.

Both depend on the number of pictures: few pictures cannot fill many bins, which lowers the entropy,
and cannot prove a difference, which lowers NDB. And bins fit the pictures that they were made of
better than any others. So a figure means something only beside that of other real pictures, as many
as were generated and unseen when the bins were made. That is what `diversity_report` does.

Features are compared as they are, by Euclidean distance; make those of a CLIP unit vectors first.
"""

import math
import warnings
from dataclasses import dataclass

import torch
from scipy.cluster.vq import kmeans2

from ..errors import Rule, SeedSelectError, require_rules

LEVEL = 0.05  # of the significance test, Richardson & Weiss, section 2
BINS = 20  # SeedSelect's number of clusters
LEAST_REALS = 4
LEAST_GENERATED = 2


@dataclass(frozen=True)
class Diversity:
    """Figures of one set of pictures; entropy, ndb and distances are means over the splits.

    Attributes:
        entropy: bits, 0 (all in one bin) to the report's ceiling.
        ndb: bins whose share differs from that of the real pictures that made the bins.
        pairwise: mean distance between two pictures of the set.
        nearest_own: mean distance to the nearest other picture of the set.
        nearest_real: mean distance to the nearest of the real pictures that made the bins.
        duplicates: pictures, of all in the set, nearer than `DiversityReport.copy_distance` to
            another picture of the set.
        copies: the same, to a real picture. None for the real pictures themselves.
        count: pictures in the set.
    """

    entropy: float
    ndb: float
    pairwise: float
    nearest_own: float
    nearest_real: float
    duplicates: int
    copies: int | None
    count: int


@dataclass(frozen=True)
class DiversityReport:
    """What `diversity_report` found.

    Attributes:
        real: held-out real pictures: what the other figures are to be compared with.
        generated, plain: the pictures in question, and those of plain sampling if there are any.
        bins: clusters that were made, at most as many as asked for.
        ceiling: log2 of bins, the entropy of equal shares.
        fitted, compared: real pictures that made the bins, and pictures of each set that were
            assigned to them, in each of the splits.
        splits: random splits averaged over.
        copy_distance: half the median distance between a real picture and its nearest other one.
        notes: what the reader should know, such as too few pictures.
    """

    real: Diversity
    generated: Diversity
    plain: Diversity | None
    bins: int
    ceiling: float
    fitted: int
    compared: int
    splits: int
    copy_distance: float
    notes: tuple[str, ...]

    @property
    def sets(self) -> dict[str, Diversity]:
        """The sets that there are, by name, real first."""
        named = {"real": self.real, "plain": self.plain, "generated": self.generated}
        return {name: figures for name, figures in named.items() if figures is not None}


def kmeans(features: torch.Tensor, bins: int, seed: int = 0) -> torch.Tensor:
    """Centres [bins, D] of features [n, D], n at least ``bins``.

    Where fewer than ``bins`` features differ, some centres coincide, and the later of them gets
    nothing assigned.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of centres with nothing assigned
        centers, _ = kmeans2(features.double().numpy(), bins, iter=50, minit="++", seed=seed)
    return torch.from_numpy(centers).to(features)


def assign(features: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Index [n] of the nearest of centres [K, D] for features [n, D]; the first of equals."""
    return _distances(features, centers).argmin(1)


def bin_counts(features: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """How many of features [n, D] fall to each of centres [K, D]: whole numbers [K]."""
    return torch.bincount(assign(features, centers), minlength=len(centers))


def share_entropy(counts: torch.Tensor) -> float:
    """Bits: ``-sum p log2 p`` of the shares of counts [K]; 0 to log2 K."""
    shares = counts.double() / counts.sum()
    return float(-torch.xlogy(shares, shares).sum() / math.log(2)) + 0.0  # no -0.0


def differing_bins(
    counts: torch.Tensor, others: torch.Tensor, level: float = LEVEL
) -> torch.Tensor:
    """Bool [K]: bins whose shares of counts [K] and others [K] differ significantly.

    The two-sample z-test of proportions with pooled variance: with shares p and q of m and n
    pictures and P = (m p + n q) / (m + n), they differ where
    ``|p - q| / sqrt(P (1 - P) (1/m + 1/n))`` exceeds the normal quantile of 1 - level / 2.
    """
    counts = counts.double()
    others = others.double()
    m = counts.sum()
    n = others.sum()
    pooled = (counts + others) / (m + n)
    error = (pooled * (1 - pooled) * (1 / m + 1 / n)).sqrt()
    quantile = torch.special.ndtri(torch.tensor(1 - level / 2, dtype=torch.float64))
    # Multiplied out, so that a bin that is empty in both, or holds all of both, does not differ.
    return (counts / m - others / n).abs() > quantile * error


def cluster_entropy(
    real_features: torch.Tensor, generated_features: torch.Tensor, bins: int = BINS, seed: int = 0
) -> float:
    """Entropy in bits of the generated [m, D] over ``bins`` clusters of the real [n, D].

    The ceiling is log2 of the bins, of which there are at most as many as real features.
    """
    real, generated = _checked(real_features, generated_features)
    return share_entropy(bin_counts(generated, kmeans(real, min(bins, len(real)), seed)))


def ndb(
    real_features: torch.Tensor, generated_features: torch.Tensor, bins: int = BINS, seed: int = 0
) -> int:
    """How many of ``bins`` clusters of the real [n, D] hold a significantly other share of the
    generated [m, D] (Richardson & Weiss, arXiv 1805.12462); at most as many as real features."""
    real, generated = _checked(real_features, generated_features)
    centers = kmeans(real, min(bins, len(real)), seed)
    return int(differing_bins(bin_counts(real, centers), bin_counts(generated, centers)).sum())


def nearest(features: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Distance [n] of features [n, D] to the nearest of others [m, D], or of themselves."""
    if others is not None:
        return _distances(features, others).amin(1)
    return _distances(features, features).fill_diagonal_(torch.inf).amin(1)


def _distances(features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """[n, m]; 0 between copies, which the faster way by a matrix product misses."""
    return torch.cdist(features, others, compute_mode="donot_use_mm_for_euclid_dist")


def choose_bins(reals: int, asked: int = 0) -> int:
    """How many bins ``reals`` pictures can fill; ``asked`` 0 chooses, else no more than that.

    Half of the pictures make the bins. Chosen are up to 20 with five of them each; asked for may
    be as many as leave two each.
    """
    half = reals // 2
    if asked == 0:
        return max(2, min(BINS, half // 5))
    return max(2, min(asked, half // 2))


def diversity_report(
    real_features: torch.Tensor,
    generated_features: torch.Tensor,
    plain_features: torch.Tensor | None = None,
    bins: int = BINS,
    seed: int = 0,
    splits: int = 20,
) -> DiversityReport:
    """Entropy, NDB and distances of generated pictures beside those of real ones.

    The real pictures are split at random: one half makes the bins, the other stands for what real
    pictures reach. From every set the same number of pictures is drawn, as many as the smallest has
    (the second half, generated, plain), and compared with the first half. The figures are means
    over ``splits`` such splits and draws.

    Args:
        real_features: [n, D] of real pictures, 4 or more.
        generated_features, plain_features: [m, D], 2 or more each.
        bins: clusters, 2 or more, or 0 to choose by the number of real pictures. There are fewer
            where the real pictures cannot fill them (see `choose_bins`; a note says so).

    Raises:
        SeedSelectError: too few pictures, or features that are not numbers.
    """
    require_rules(
        Rule("bins", bins == 0 or bins >= 2, "2 or more, or 0 to choose by itself", bins),
        Rule("splits", splits >= 1, "1 or more", splits),
    )
    sets = {"generated": generated_features}
    if plain_features is not None:
        sets["plain"] = plain_features
    _require_enough({"real": real_features, **sets})
    real, *rest = _checked(real_features, *sets.values())
    sets = dict(zip(sets, rest, strict=True))
    half = len(real) // 2
    compared = min(len(real) - half, *(len(features) for features in sets.values()))
    made = choose_bins(len(real), bins)
    copy_distance = float(nearest(real).median()) / 2

    means = _means_over_splits(real, sets, made, compared, seed, splits)

    def figures(name: str, features: torch.Tensor) -> Diversity:
        copies = None if name == "real" else int((nearest(features, real) < copy_distance).sum())
        duplicates = int((nearest(features) < copy_distance).sum())
        return Diversity(*means[name], duplicates, copies, len(features))

    return DiversityReport(
        real=figures("real", real),
        generated=figures("generated", sets["generated"]),
        plain=figures("plain", sets["plain"]) if "plain" in sets else None,
        bins=made,
        ceiling=math.log2(made),
        fitted=half,
        compared=compared,
        splits=splits,
        copy_distance=copy_distance,
        notes=_notes(bins, made, half, compared, copy_distance),
    )


def _means_over_splits(
    real: torch.Tensor,
    sets: dict[str, torch.Tensor],
    bins: int,
    compared: int,
    seed: int,
    splits: int,
) -> dict[str, list[float]]:
    """Means of `_figures` for the held-out real pictures and for ``compared`` of every set."""
    half = len(real) // 2
    random = torch.Generator().manual_seed(seed)
    collected = {name: [] for name in ("real", *sets)}
    for split in range(splits):
        order = torch.randperm(len(real), generator=random)
        fitted = real[order[:half]]
        held_out = real[order[half:]]
        centers = kmeans(fitted, bins, seed + split)
        usual = bin_counts(fitted, centers)
        for name, features in {"real": held_out, **sets}.items():
            drawn = features[torch.randperm(len(features), generator=random)[:compared]]
            collected[name].append(_figures(drawn, fitted, centers, usual))
    return {
        name: torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
        for name, rows in collected.items()
    }


def _figures(
    drawn: torch.Tensor, fitted: torch.Tensor, centers: torch.Tensor, usual: torch.Tensor
) -> tuple[float, ...]:
    """Entropy, NDB and the three distances of `Diversity`, of one draw of a set.

    Args:
        drawn: [n, D], the draw.
        fitted: [m, D], the real pictures that made the bins; ``centers`` [K, D], ``usual`` their
            counts [K].
    """
    counts = bin_counts(drawn, centers)
    return (
        share_entropy(counts),
        float(differing_bins(usual, counts).sum()),
        float(torch.pdist(drawn).mean()),
        float(nearest(drawn).mean()),
        float(nearest(drawn, fitted).mean()),
    )


def _require_enough(sets: dict[str, torch.Tensor]) -> None:
    for name, features in sets.items():
        least = LEAST_REALS if name == "real" else LEAST_GENERATED
        if len(features) < least:
            raise SeedSelectError(
                f"{name} pictures: {len(features)} are too few to measure diversity; give {least} "
                "or more, better 40."
            )


def _notes(asked: int, made: int, fitted: int, compared: int, copy_distance: float) -> tuple:
    notes = []
    if asked > made:
        notes.append(
            f"{made} bins instead of {asked}: the {fitted} real pictures that make the bins do not "
            "fill more."
        )
    if fitted < 5 * made:
        notes.append(
            f"Only {fitted / made:.1f} real pictures make a bin; below 5 the figures are rough."
        )
    if compared < 20:
        notes.append(
            f"Only {compared} pictures of each set are compared; differences below a third of a "
            "bit, or of two bins, may be chance."
        )
    if copy_distance == 0:
        notes.append("Half of the real pictures or more are exact copies of each other.")
    return tuple(notes)


def _checked(*sets: torch.Tensor) -> list[torch.Tensor]:
    """The sets of features as ordinary float32 on the CPU."""
    checked = [features.detach().float().cpu() for features in sets]
    for features in checked:
        if features.ndim != 2 or features.shape[1] != checked[0].shape[1]:
            raise SeedSelectError(
                "features: expected [n, D] with one D for all sets, got "
                f"{' and '.join(str(list(f.shape)) for f in checked)}."
            )
        if not torch.isfinite(features).all():
            raise SeedSelectError(
                "features: some are no numbers. Check the pictures, and that the encoder works in "
                "full precision."
            )
    return checked
