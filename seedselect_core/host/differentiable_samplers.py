"""The host's own samplers, recording gradients."""

import contextlib
import copy
from collections.abc import Iterator

import comfy.k_diffusion.sampling
import comfy.samplers

from ..errors import SeedSelectError
from .borrowed_weights import ordinary_view
from .plain_functions import namespace_of, plain_function, plain_functions
from .same_draws import FirstDraws
from .slerp import differentiable_slerp
from .step_sizes import differentiable_step_sizes

# Name of the sampler, and a sentence for the user.
REFUSED: dict[str, str] = {
    "ar_video": (
        "It draws a video block by block and keeps what the model remembers of one block for the "
        "next, which a gradient cannot follow. Choose another sampler, such as euler."
    ),
}


def sampler_name(sampler: comfy.samplers.Sampler) -> str:
    """The host's name of a SAMPLER: "euler", "ddim"; else that of its function or class."""
    wanted = _identity(sampler)
    for name in comfy.samplers.SAMPLER_NAMES:
        if _identity(comfy.samplers.sampler_object(name)) == wanted:
            return name
    return wanted[1].rpartition(".")[2].removeprefix("sample_").removesuffix("_function")


def _identity(sampler: comfy.samplers.Sampler) -> tuple:
    """What two SAMPLERs of the same name have in common, however their options differ."""
    function = getattr(sampler, "sampler_function", type(sampler))
    while hasattr(function, "func"):
        function = function.func
    if not hasattr(function, "__qualname__"):
        function = type(function)
    # "ddim" is euler that takes other noise for what an inpainting mask keeps.
    random = getattr(sampler, "inpaint_options", {}).get("random", False)
    return function.__module__, function.__qualname__, random


def require_sampler(sampler: comfy.samplers.Sampler) -> None:
    """Raise `SeedSelectError` for a sampler whose gradient cannot be taken."""
    name = sampler_name(sampler)
    if name in REFUSED:
        raise SeedSelectError(f"sampler: '{name}' cannot be optimized through. {REFUSED[name]}")


@contextlib.contextmanager
def differentiable_samplers() -> Iterator[None]:
    """Let gradients through the host's sampling functions for the length of a run."""
    with (
        plain_functions(vars(comfy.k_diffusion.sampling)),
        differentiable_step_sizes(),
        differentiable_slerp(),
    ):
        yield


class _Recorded(comfy.samplers.Sampler):
    """A sampler that records gradients and takes the same path each time."""

    def __init__(self, sampler: comfy.samplers.Sampler):
        self._sampler, self._draws = copy.copy(sampler), FirstDraws()
        if isinstance(sampler, comfy.samplers.KSAMPLER):
            function = sampler.sampler_function
            self._sampler.sampler_function = _with_own_sigmas(plain_function(function))
            self._sample = self._sampler.sample
        else:
            function = type(sampler).sample
            self._sample = plain_function(self._sampler.sample)
        # A sampler of another make may call decorated functions of its own module.
        self._namespace = namespace_of(function)

    def sample(self, model_wrap, sigmas, extra_args, callback, *latents):
        def on_step(step, denoised, x, total):
            # Some samplers add noise to the very tensor that they have shown as the prediction.
            callback(step, denoised.clone(), x, total)

        with self._draws.again(), plain_functions(self._namespace):
            # uni_pc writes to the last sigma, and the next run must not start from that.
            return self._sample(model_wrap, sigmas.clone(), extra_args, on_step, *latents)


def _with_own_sigmas(plain):
    def function(model, noise, sigmas, **options):
        # uni_pc writes to the last sigma after the first was saved for the backward pass. The view
        # is of the same memory, as the host relies on, but autograd counts its changes apart.
        return plain(model, noise, ordinary_view(sigmas), **options)

    return function


def without_no_grad(sampler: comfy.samplers.Sampler) -> comfy.samplers.Sampler:
    """``sampler`` with gradients, drawing the same noise whenever it is called."""
    return _Recorded(sampler)
