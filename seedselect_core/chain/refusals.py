"""Errors by which PyTorch refuses a gradient, in words.

A sampler, patch or wrapper of somebody else's may overwrite what autograd has saved, leave its
graph, or use what the device's build of PyTorch has no gradient for. Sampling goes well with all of
them, so that a search without a gradient can go on.
"""

import re
from collections.abc import Sequence

from ..errors import NoGradient, SeedSelectError

# What autograd says for itself, whatever has brought it about.
_OF_AUTOGRAD = re.compile(
    r"modified by an inplace operation|does not require grad|requires grad.* in-place operation"
    r"|inference tensor|backward through the graph a second time|on Tensor that requires grad"
    r"|appears to not have been used in the graph|invalid gradient at index"
    r"|derivative for .* is not implemented|does not support computing derivatives"
    r"|is a view .* (is being |has been )?modified in-?place|autograd\W+engine\.cpp",
    re.IGNORECASE,
)
# What a build says where it has no such operation, or no such kind of number.
_OF_THE_BUILD = re.compile(
    r"not (currently )?(implemented|supported) (for|on) the \w+ (device|backend)"
    r"|Could not run '[\w:.]+' with arguments from the|MPS framework doesn't support"
    r"|does not support Double|Required aspect fp64|MPS: Unsupported",
    re.IGNORECASE,
)
LONGEST = 200  # characters of PyTorch's own words


def refusal(
    error: Exception, suspects: Sequence[str], differentiated: bool = True
) -> SeedSelectError | None:
    """What ``error`` of a run tells a user: `NoGradient` where only the gradient may be at fault.

    Args:
        suspects: what in the graph nobody has proven. With such, any error of PyTorch's kind may
            come of the gradient, which shows when the search goes on without.
        differentiated: whether a gradient was asked for.

    Returns:
        None where the error is no such thing.
    """
    if isinstance(error, SeedSelectError) or not isinstance(error, RuntimeError | TypeError):
        return None
    said = str(error)
    of_the_build = _OF_THE_BUILD.search(said)
    if not (of_the_build or suspects or _OF_AUTOGRAD.search(said)):
        return None
    through = f"through {' and '.join(suspects) or 'this graph'}"
    if of_the_build:
        through = "on this device, whose build of PyTorch lacks an operation (see docs/devices.md)"
    if differentiated:
        return NoGradient(f"SeedSelect: no gradient can be taken {through}: {_short(said)}")
    return SeedSelectError(
        f"SeedSelect: sampling failed {through}: {_short(said)} Check that a plain KSampler draws "
        "at these settings, and choose another sampler or model where it does not."
    )


def _short(said: str) -> str:
    """The first sentence, on one line, with a full stop."""
    line = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    sentence = line.split(". ")[0].rstrip(".")
    return f"{sentence}." if len(sentence) <= LONGEST else f"{sentence[:LONGEST].rstrip(' .')}..."
