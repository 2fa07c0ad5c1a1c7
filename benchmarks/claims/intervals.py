"""Means with their 95 % intervals. No picture depends on this file."""

import numpy as np
from scipy.stats import binomtest


def mean_and_interval(
    groups: list[tuple[str, list[float]]], shares: bool = True, others: bool = True
) -> dict:
    """Mean of all values, and its 95 % interval by bootstrap.

    Pictures of a group share references and prompt, groups of a letter share how well the model
    knows it: letters are drawn again, then groups of each, then values of each. Where all values
    are 0 or all are 1, which leaves a bootstrap nothing to vary, Wilson's interval of a share.

    Args:
        groups: letter and values of every group, none of them empty.
        shares: values are 0 to 1, and their mean is a share.
        others: what other letters would give, too; else these letters are held.
    """
    letters: dict[str, list[np.ndarray]] = {}
    for letter, values in groups:
        letters.setdefault(letter, []).append(np.asarray(values, float))
    everything = np.concatenate([values for own in letters.values() for values in own])
    mean = float(everything.mean())
    count = len(everything)
    if shares and mean in (0.0, 1.0) and np.ptp(everything) == 0:
        low, high = binomtest(round(mean * count), count).proportion_ci(method="wilson")
    else:
        low, high = np.quantile(_bootstrap(list(letters.values()), others), [0.025, 0.975])
    found = {"mean": mean, "low": float(low), "high": float(high)}
    return {key: round(value, 4) for key, value in found.items()} | {"count": count}


def means(groups: list[dict], keys: tuple[str, ...]) -> dict[str, dict]:
    """Mean and interval of each of these figures, given for every group beside its letter."""
    return {
        key: mean_and_interval([(group["letter"], group[key]) for group in groups]) for key in keys
    }


def paired(
    units: list[dict], budget: int, first: str, second: str
) -> list[tuple[str, list[float]]]:
    """Letter and gains of every group, picture by picture: what the first has over the second.

    Args:
        units: of the section on rivals.
        first, second: methods. The first noise of a letter and draw is the same for all.
    """
    right = {
        (unit["method"], group["letter"], group["draw"]): np.array(group["right"])
        for unit in units
        if unit["budget"] == budget
        for group in unit["groups"]
    }
    return [
        (letter, own - right[second, letter, draw])
        for (method, letter, draw), own in right.items()
        if method == first
    ]


def _bootstrap(letters: list[list[np.ndarray]], others: bool, times: int = 2000) -> np.ndarray:
    """Means of ``times`` samples, all made at once."""
    rng = np.random.default_rng(0)
    often = np.ones((times, len(letters)), int)
    if others:
        often = rng.multinomial(len(letters), [1 / len(letters)] * len(letters), times)
    sums = np.zeros(times)
    counts = np.zeros(times)
    for own, copies in zip(letters, often.T, strict=True):
        sizes = np.array([len(values) for values in own])
        padded = np.zeros((len(own), sizes.max()))
        for row, values in zip(padded, own, strict=True):
            row[: len(values)] = values
        for copy in range(copies.max()):
            samples = np.flatnonzero(copies > copy)
            groups = rng.integers(len(own), size=(len(samples), len(own)))
            size = sizes[groups][..., None]
            picked = (rng.random((*groups.shape, sizes.max())) * size).astype(int)
            drawn = padded[groups[..., None], picked] * (np.arange(sizes.max()) < size)
            sums[samples] += drawn.sum((1, 2))
            counts[samples] += size.sum((1, 2))
    return sums / counts
