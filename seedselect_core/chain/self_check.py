"""One directional difference: is the gradient right, here, before any time is spent on it?

The proof in float64 is `make coverage`'s business. This is for what that has not seen, a sampler,
model or patch of somebody else's, at the user's own precision: the slope of the chain along its own
gradient must be the gradient's length. A path that autograd cannot see makes it another.
"""

import torch

from ..errors import SeedSelectError
from .unroll import Chain

# Rounding in half precision and curvature leave no more than a few percent of error at the best of
# these lengths, which are shares of the noise's own; a missing path leaves tens of percent.
STEPS = (1e-3, 1e-2, 3e-2)
LIMIT = 0.1


def directional_error(chain: Chain, noise: torch.Tensor) -> float:
    """Relative error of the gradient of a number made of the chain's result.

    Args:
        noise: [B, C, h, w], or with a time axis.

    Returns:
        The smallest over `STEPS`, or the first below a tenth of `LIMIT`.
    """
    generator = torch.Generator().manual_seed(0)
    weights: torch.Tensor | None = None

    def value(z: torch.Tensor) -> torch.Tensor:
        nonlocal weights
        end = chain(z)[-1].to(noise).tanh()
        if weights is None:  # a sampler may upscale on the way
            weights = torch.randn(end.shape, generator=generator, dtype=torch.float32).to(noise)
        return (weights * end).sum()

    z = noise.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(z), z)
    slope = gradient.norm().item()
    if not 0 < slope < float("inf"):
        return float("inf")
    best = float("inf")
    with torch.no_grad():
        for step in STEPS:
            away = gradient * (step * noise.norm() / slope)
            change = (value(noise + away) - value(noise - away)).item()
            quotient = change / (2 * away.norm().item())
            best = min(best, abs(quotient - slope) / slope)
            if best < LIMIT / 10:
                break
    return best


def require_exact_gradient(chain: Chain, noise: torch.Tensor, what: str) -> None:
    """Raise `SeedSelectError` where the gradient does not agree with a difference.

    Args:
        what: the part that is doubted, for the message.
    """
    error = directional_error(chain, noise)
    if not error <= LIMIT:
        raise SeedSelectError(
            f"SeedSelect: the gradient through {what} is wrong (it differs from a finite "
            f"difference by {error:.0%}), so the search would be led astray. Part of it hides its "
            "computation from PyTorch. Choose a sampler from KSamplerSelect, or disconnect the "
            "node that puts this on the model; 'iterations' 0 searches without a gradient."
        )
