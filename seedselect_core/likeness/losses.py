"""The losses of SeedSelect: pure functions of tensors, one value per sample.

    L = w_s * semantic_loss + w_a * appearance_loss + w_n * norm_prior

Sources: SeedSelect (Samuel et al., AAAI 2024, arXiv 2304.14530) for the first two,
NAO (Samuel et al., NeurIPS 2023, arXiv 2306.08687) and ReNO (Eyring et al., NeurIPS 2024,
arXiv 2406.04312) for the third.

A batch of seeds is optimized together, so nothing here averages over the batch: the gradient of
the sum of these losses gives every seed its own gradient.
"""

import math

import torch
import torch.nn.functional as F

NEAREST = 2  # references that make up the nearest cluster


def centroid(embeddings: torch.Tensor) -> torch.Tensor:
    """The direction in which k reference embeddings agree, [k, D] to a unit vector [D].

    Each embedding is normalised first, so that every reference has the same say; their mean is
    normalised again, as in SeedSelect.
    """
    return F.normalize(F.normalize(embeddings, dim=-1).mean(dim=0), dim=-1)


def semantic_loss(embeddings: torch.Tensor, centroid: torch.Tensor) -> torch.Tensor:
    """`1 - cos(embedding, centroid)` in 0..2: embeddings [..., B, D], centroid [D] or [B, D]."""
    return 1.0 - F.cosine_similarity(embeddings, centroid, dim=-1)


def nearest_loss(embeddings: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean semantic loss to the `NEAREST` of some targets, in 0..2, a scalar.

    Of one target, such as the centroid, it is the semantic loss.

    Args:
        embeddings: [V, D], one picture under several views, whose losses are averaged first: it
            has the same nearest targets under all of them.
        targets: [n, D].
    """
    losses = semantic_loss(embeddings[:, None], targets).mean(0)
    return losses.topk(min(NEAREST, len(losses)), largest=False).values.mean()


def appearance_loss(latents: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error per sample: latents [B, ...], target [...] or [1, ...], result [B].

    Of videos, [B, C, T, h, w], only the first frame counts, since the target is a picture,
    [C, 1, h, w].

    Both are in the model's scaled latent space (unit variance or so), where SeedSelect measures
    it, and not in the VAE's own.
    """
    if latents.ndim == 5:
        latents = latents[:, :, :1]
    return (latents - target).square().flatten(1).mean(dim=1)


def likeness(loss: float) -> str:
    """A semantic loss in an artist's words: the cosine in percent, at 100 % the same."""
    return f"{100 * (1 - loss):.0f} %"


def contrast_loss(
    embeddings: torch.Tensor, targets: torch.Tensor, neighbor: torch.Tensor
) -> torch.Tensor:
    """How much nearer pictures are to a neighbouring concept than the concept itself is.

    `relu(cos(e, neighbour) - mean cos(target, neighbour))`: 0 once the picture is no more like the
    neighbour than the references are, so that nothing pulls it to where no picture is.
    Embeddings [..., D], targets [n, D], neighbour [D]; result [...].
    """
    allowed = F.cosine_similarity(targets, neighbor, dim=-1).mean()
    return F.relu(F.cosine_similarity(embeddings, neighbor, dim=-1) - allowed)


def norm_log_density(r: torch.Tensor, d: int) -> torch.Tensor:
    """Log density at `r` (any shape) of the norm of Gaussian noise in d dimensions (NAO).

    That norm follows a chi distribution, sharply peaked at sqrt(d - 1).
    """
    return (d - 1) * torch.log(r) - r.square() / 2 - (d / 2 - 1) * math.log(2) - math.lgamma(d / 2)


def norm_prior(noise: torch.Tensor) -> torch.Tensor:
    """How unlikely the norm of each noise is: noise [B, ...] of d values each, result [B] >= 0.

    ReNO's `0.5 * ||z||^2 - (d - 1) log ||z||` less its value at the likeliest norm sqrt(d - 1),
    where it is thus 0, and divided by that norm. Its gradient at a norm that is off by a given
    share has then the same norm whatever d is, as that of the semantic loss has; undivided it would
    pull 8 times harder at 16,384 values than at 256.
    """
    d = noise[0].numel()
    ratio = noise.flatten(1).square().sum(dim=1) / (d - 1)
    return 0.5 * math.sqrt(d - 1) * (ratio - 1 - torch.log(ratio))
