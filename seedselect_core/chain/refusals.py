"""Errors by which PyTorch refuses a gradient, in words.

A sampler, patch or wrapper of somebody else's may overwrite what autograd has saved, leave its
graph, or use what the device's build of PyTorch has no gradient for. Sampling goes well with all of
them, so that a search without a gradient can go on.
"""

import re
from collections.abc import Sequence

from ..errors import NoGradient, SeedSelectError
from ..host.devices import ON_THIS_DEVICE, lacks_operation
from ..text import first_sentence

# What autograd says for itself, whatever has brought it about.
_OF_AUTOGRAD = re.compile(
    r"modified by an inplace operation|does not require grad|requires grad.* in-place operation"
    r"|inference tensor|backward through the graph a second time|on Tensor that requires grad"
    r"|appears to not have been used in the graph|invalid gradient at index"
    r"|derivative for .* is not implemented|does not support computing derivatives"
    r"|is a view .* (is being |has been )?modified in-?place|autograd\W+engine\.cpp",
    re.IGNORECASE,
)


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
    of_the_build = lacks_operation(error)
    if not (of_the_build or suspects or _OF_AUTOGRAD.search(str(error))):
        return None
    through = f"through {' and '.join(suspects) or 'this graph'}"
    if of_the_build:
        through = ON_THIS_DEVICE
    said = first_sentence(error)
    if differentiated:
        return NoGradient(f"SeedSelect: no gradient can be taken {through}: {said}")
    return SeedSelectError(
        f"SeedSelect: sampling failed {through}: {said} Check that a plain KSampler draws "
        "at these settings, and choose another sampler or model where it does not."
    )
