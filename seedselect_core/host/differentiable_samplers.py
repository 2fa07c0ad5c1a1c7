"""The host's own samplers, with the ``torch.no_grad()`` that decorates them taken off.

``functools.wraps`` keeps the plain function as ``__wrapped__``. A sampler may call further
decorated functions of its module, so for the length of the run every one of them is unwrapped.
"""

import contextlib
import copy
import inspect
from collections.abc import Iterator

import comfy.k_diffusion.sampling
import comfy.samplers

from ..errors import SeedSelectError
from .borrowed_weights import ordinary_view

# Those whose gradient is proven against central differences in tests/test_gradients.py.
PROVEN = (
    "euler",
    "euler_ancestral",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "lcm",
    "ddim",
    "uni_pc",
)


def require_proven(sampler_name: str) -> None:
    """Raise `SeedSelectError` for a sampler whose gradient nobody has checked."""
    if sampler_name not in PROVEN:
        raise SeedSelectError(
            f"sampler: gradients through '{sampler_name}' are not proven exact yet. "
            f"Choose one of: {', '.join(PROVEN)}."
        )


@contextlib.contextmanager
def differentiable_samplers() -> Iterator[None]:
    """Unwrap every decorated function of the host's sampling module, and put them back."""
    module = comfy.k_diffusion.sampling
    decorated = {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function) and hasattr(function, "__wrapped__")
    }
    try:
        for name, function in decorated.items():
            setattr(module, name, inspect.unwrap(function))
        yield
    finally:
        for name, function in decorated.items():
            setattr(module, name, function)


def without_no_grad(sampler: comfy.samplers.KSAMPLER) -> comfy.samplers.KSAMPLER:
    """A copy of ``sampler`` whose function records gradients."""
    plain = inspect.unwrap(sampler.sampler_function)

    def function(model, noise, sigmas, **options):
        # uni_pc writes to the last sigma after the first was saved for the backward pass. The view
        # is of the same memory, as the host relies on, but autograd counts its changes apart.
        return plain(model, noise, ordinary_view(sigmas), **options)

    bare = copy.copy(sampler)
    bare.sampler_function = function
    return bare
