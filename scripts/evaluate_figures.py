"""The figures of `evaluate`: who is taken for whom, a linear probe, and the interval of a share."""

import math

import torch
import torch.nn.functional as F

DECAY = 0.01  # of the linear probe's weights, on features of zero mean and unit spread


def nearest_class(real: list[torch.Tensor], others: list[torch.Tensor]) -> list[list[int]]:
    """Per class, the class of each of its ``others`` [m, D] by the nearest centroid of ``real``."""
    centroids = F.normalize(torch.stack([vectors.mean(0) for vectors in real]), dim=1)
    return [(vectors @ centroids.T).argmax(1).tolist() for vectors in others]


def real_by_others(real: list[torch.Tensor]) -> list[list[int]]:
    """The same for the real ones, each left out of its own centroid (a single one is left in)."""
    answers = []
    for index, vectors in enumerate(real):
        answers.append([])
        for i in range(len(vectors)):
            rest = torch.cat([vectors[:i], vectors[i + 1 :]]) if len(vectors) > 1 else vectors
            sets = [*real[:index], rest, *real[index + 1 :]]
            answers[-1] += nearest_class(sets, [vectors[i : i + 1]])[0]
    return answers


@torch.inference_mode(False)
@torch.enable_grad()
def linear_probe(train: list[torch.Tensor], test: list[torch.Tensor]) -> list[float]:
    """Share of each class's test features [m, D] that a logistic regression gets right.

    Multinomial, trained on the features of every class by L-BFGS, weights decayed by `DECAY`.
    """
    x = torch.cat(train).clone()
    labels = torch.cat([torch.full((len(v),), i) for i, v in enumerate(train)])
    mean = x.mean(0)
    spread = x.std().clamp_min(1e-6)
    x = (x - mean) / spread
    weight = torch.zeros(x.shape[1], len(train), requires_grad=True)
    bias = torch.zeros(len(train), requires_grad=True)
    descent = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        descent.zero_grad()
        value = F.cross_entropy(x @ weight + bias, labels) + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    descent.step(loss)
    with torch.no_grad():
        read = [(((v - mean) / spread) @ weight + bias).argmax(1) for v in test]
    return [float((answers == i).float().mean()) for i, answers in enumerate(read)]


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, JASA 1927)."""
    z = 1.96
    p = right / count
    center = p + z * z / (2 * count)
    width = z * math.sqrt(p * (1 - p) / count + (z / count) ** 2 / 4)
    scale = 1 + z * z / count
    return (center - width) / scale, (center + width) / scale
