"""Connect a model and its conditionings the way a user's graph does."""

import comfy.samplers
import torch

from .measure import Wired
from .models import normal


def wired(
    model,
    positive: list,
    negative: list,
    latent: tuple[int, ...],
    dtype: torch.dtype,
    *,
    sampler: str = "euler",
    scheduler: str = "normal",
    steps: int = 3,
    cfg: float = 3.0,
    **more,
) -> Wired:
    """A CFGGuider on ``model``; ``latent`` is the shape of an empty latent.

    Args:
        dtype: of the model's weights; sigmas and latent follow it.
        more: other fields of `Wired`.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    model_sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps).to(dtype)
    graph = {
        "sampler": comfy.samplers.sampler_object(sampler),
        "sigmas": sigmas,
        "noise": normal(*latent, seed=7),
        "latent_image": torch.zeros(latent),
    }
    return Wired(guider, **graph | more)


def conditioning(tokens: int, width: int, seed: int, **extra) -> list:
    """CONDITIONING of random text."""
    return [[normal(1, tokens, width, seed=seed), {"pooled_output": None, **extra}]]
