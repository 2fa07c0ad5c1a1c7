"""Which input is the first that is not a number, when a loss or a gradient is none.

A run costs nothing for it: only once it has failed the chain is run again, and every part is asked
in the order in which a picture is made.
"""

import logging

import comfy.model_management
import torch

from ..chain.finite import NotNumbers, is_finite
from ..chain.unroll import Chain
from ..errors import SeedSelectError
from ..host.session import OrdinaryViews
from ..likeness.losses import norm_prior
from ..likeness.objective import Objective
from ..likeness.targets import Targets

_PRECISION = "Half precision may be too coarse for it: start ComfyUI with"


def require_latent(latent: dict) -> None:
    """Raise `SeedSelectError` where a LATENT holds what is not a number."""
    for key, what in (("samples", "it holds"), ("noise_mask", "its noise mask holds")):
        value = latent.get(key)
        if isinstance(value, torch.Tensor) and not is_finite(value):
            raise SeedSelectError(
                f"latent: {what} values that are not numbers. Make it with 'Empty Latent Image', "
                "or encode the picture with --fp32-vae."
            )


def require_targets(targets: Targets) -> None:
    """Raise `SeedSelectError` where the references' embeddings or latents are not numbers.

    The pictures are: that is asked where a set of them is made.
    """
    for comparison in targets.all_comparisons:
        embedded = [comparison.embeddings, *comparison.targets]
        embedded += [] if comparison.contrast is None else [comparison.contrast]
        if not all(map(is_finite, embedded)):
            raise SeedSelectError(_encoder(comparison.name, "what it gives for the references is"))
    if not is_finite(targets.latents):
        raise SeedSelectError(
            f"vae: what it makes of the references is not a number. {_PRECISION} --fp32-vae."
        )


def _encoder(name: str, what: str) -> str:
    return (
        f"{name}: {what} not a number. The file may be damaged, or its precision too coarse: "
        "load another one."
    )


def blame(
    search_vae,
    chain: Chain,
    objective: Objective,
    noise: torch.Tensor,
    rows: torch.Tensor,
    backward: bool,
) -> str:
    """A sentence for the user on what is not a number first; "" where no part is found out.

    Args:
        search_vae: what is connected to the input of that name, or None.
        noise: of the seeds ``rows``, whose loss is not a number.
        backward: it is the gradient that is none.
    """
    vae = "search_vae" if objective.codec.vae is search_vae else "vae"
    try:
        return _asked(vae, chain, objective, noise, rows, backward)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception:  # what fails here must not hide what is known
        logging.debug("SeedSelect: nothing is found out", exc_info=True)
        return ""


def _asked(vae: str, chain: Chain, objective: Objective, noise, rows, backward: bool) -> str:
    if not is_finite(norm_prior(noise)):
        return (
            "learning_rate: a step took the noise beyond all numbers. Lower it, or set clip_norm "
            "to 1."
        )
    with torch.no_grad():
        try:
            denoised = chain.watched(noise, len(objective.weights.steps))
        except NotNumbers as found:
            return str(found)
    if not all(map(is_finite, denoised)):
        return (
            "sampler: what it ends in is not a number, though the model had given numbers. Choose "
            "another one, or more steps."
        )
    for latents in denoised:
        for latent, place in zip(latents, rows.tolist(), strict=True):  # as much memory as for one
            with OrdinaryViews(), torch.set_grad_enabled(backward):
                found = _picture(vae, objective, latent[None].detach(), place, backward)
            if found:
                return found
    with torch.no_grad():
        losses = objective(noise, denoised, rows, keeper=chain.keeper, plan=chain.plan)
    return _weighed(losses, backward)


def _picture(vae: str, objective: Objective, latent, place: int, backward: bool) -> str:
    """What is found out by decoding and comparing one picture, and by the way back."""
    latent = latent.clone().requires_grad_(backward)
    images = objective.codec.decode(objective.process_latent_out(latent))
    if not is_finite(images):
        return f"{vae}: the picture that it decodes is not a number. {_PRECISION} --fp32-vae."
    seen = images.detach().clone().requires_grad_(backward)
    for comparison in objective.targets.all_comparisons:
        if not is_finite(comparison.embed(seen.detach())):
            return _encoder(comparison.name, "what it gives for a picture is")
    if not backward:
        return ""
    slope = torch.zeros_like(seen)
    for comparison in objective.targets.comparisons:
        (own,) = torch.autograd.grad(comparison(seen, place)[0], seen)
        if not is_finite(own):
            return _encoder(comparison.name, "its gradient is")
        slope = slope + own
    (slope,) = torch.autograd.grad(images, latent, slope)
    if not is_finite(slope):
        return f"{vae}: its gradient is not a number. {_PRECISION} --fp32-vae."
    return ""


def _weighed(losses, backward: bool) -> str:
    """What is left where all parts of the picture are numbers."""
    if not is_finite(losses.total):
        return (
            "likeness_what_it_is, likeness_how_it_looks, keep_noise_natural, keep_away: the loss "
            "is beyond all numbers. Lower them."
        )
    if backward:
        return f"model: its gradient is not a number. {_PRECISION} --force-fp32, or lower cfg."
    return ""
