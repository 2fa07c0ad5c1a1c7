"""Connect a model and its conditionings the way a user's graph does."""

import dataclasses

import comfy.samplers
import torch

from .measure import Wired
from .models import normal


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a KSampler is told, by the host's names; `Wired` may hold a SAMPLER of its own."""

    sampler: str = "euler"
    scheduler: str = "normal"
    steps: int = 3
    cfg: float = 3.0


def wired(
    model,
    positive: list,
    negative: list,
    latent: tuple[int, ...],
    dtype: torch.dtype,
    **more,
) -> Wired:
    """A CFGGuider on ``model``; ``latent`` is the shape of an empty latent.

    Args:
        dtype: of the model's weights; sigmas and latent follow it.
        more: settings of `Sampled`, and other fields of `Wired`.
    """
    names = [field.name for field in dataclasses.fields(Sampled)]
    how = Sampled(**{name: more.pop(name) for name in names if name in more})
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(how.cfg)
    model_sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, how.scheduler, how.steps).to(dtype)
    graph = {
        "sampler": comfy.samplers.sampler_object(how.sampler),
        "sigmas": sigmas,
        "noise": normal(*latent, seed=7),
        "latent_image": torch.zeros(latent),
    }
    return Wired(guider, **graph | more)


def conditioning(tokens: int, width: int, seed: int, **extra) -> list:
    """CONDITIONING of random text."""
    return [[normal(1, tokens, width, seed=seed), {"pooled_output": None, **extra}]]
