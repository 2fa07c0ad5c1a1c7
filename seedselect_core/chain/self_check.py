"""One directional difference: is the gradient right, here, before any time is spent on it?

The proof in float64 is `make coverage`'s business. This is for what that has not seen, a sampler,
model or patch of somebody else's, at the user's own precision. The noise is moved a little along a
random direction u, and the result F moves by J u. Autograd knows J by its transpose alone, so it is
asked for the part of that motion along itself: with w = J u / |J u|,

    <w, J u>  by a central difference,   <J^T w, u>  by autograd.

The two are equal where autograd sees all of J. A path that it cannot see, H = J - J', makes them
differ by <w, H u>, which is about the hidden path's share of the squared motion. (Along its own
gradient the chain would be no witness: what is hidden is all but orthogonal to what is seen.)
"""

import math

import torch

from ..errors import NoGradient
from .finite import NotNumbers, is_finite
from .unroll import Chain

# Lengths of the motion, as shares of the noise's own: the first tells w, the others are compared.
# Rounding in half precision would be taken for motion where one length did both. Rounding and
# curvature leave no more than a few percent of error at the best of them; a missing path leaves
# tens of percent.
FIRST = 1e-2
STEPS = (3e-3, 1.3e-2, 3e-2)
LIMIT = 0.1


def directional_error(chain: Chain, noise: torch.Tensor) -> float:
    """Relative error of the gradient of the motion of the chain's result.

    Args:
        noise: [B, C, h, w], or with a time axis.

    Returns:
        The smallest over `STEPS`, or the first below a tenth of `LIMIT`.

    Raises:
        NotNumbers: the result is none, so that no gradient of it is right or wrong.
    """
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(noise.shape, generator=generator, dtype=torch.float32).to(noise)
    direction = direction * (noise.norm() / direction.norm())

    def result(z: torch.Tensor) -> torch.Tensor:
        return chain(z)[-1].to(noise).tanh()

    def motion(step: float) -> torch.Tensor:
        with torch.no_grad():
            change = result(noise + step * direction) - result(noise - step * direction)
        return change / (2 * step)

    moved = motion(FIRST)
    if not is_finite(moved):
        raise NotNumbers("SeedSelect: the picture is not a number.")
    along = moved / moved.norm()
    z = noise.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((along * result(z)).sum(), z)
    slope = (gradient * direction).sum().item()
    best = float("inf")
    for step in STEPS:
        quotient = (along * motion(step)).sum().item()
        error = abs(quotient - slope) / abs(quotient) if quotient else float("inf")
        best = min(best, error)
        if best < LIMIT / 10:
            break
    return best


def require_exact_gradient(chain: Chain, noise: torch.Tensor, what: str) -> None:
    """Raise `NoGradient` where the gradient does not agree with a difference.

    Args:
        what: the part that is doubted, for the message.
    """
    error = directional_error(chain, noise)
    if not error <= LIMIT:
        share = f"by {error:.0%}" if math.isfinite(error) else "altogether"
        raise NoGradient(
            f"SeedSelect: the gradient through {what} is wrong (it differs from a finite "
            f"difference {share}), since part of it hides its computation from PyTorch. "
            "Choose a sampler from KSamplerSelect, or disconnect the node that puts this on the "
            "model."
        )
