"""Sampling as the host's own nodes do it: latents, sigmas, and pictures from a seed."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ..errors import SeedSelectError
from ..host.samplers import require_scheduler, sampler_of
from ..likeness.vae import host_pictures
from ..memory.failures import with_room
from ..references import ReferenceSet, reference_set_from_batch
from ..seeds.seed import SamplingSettings, Seed
from .finite import watching

# What a condition may hold a picture for each of the batch in.
PICTURES = {
    "control",
    "concat_image",
    "concat_latent_image",
    "reference_latents",
    "stable_cascade_prior",
}


def draw_references(
    model, positive: list, negative: list, vae, latent: dict, sampling: SamplingSettings, count: int
) -> ReferenceSet:
    """``count`` plain pictures of a prompt, for a concept that the model draws well by itself.

    Args:
        latent: gives the size.
        sampling: as the pictures are to be sampled; the noise is that of its seed.
    """
    samples = latent_samples(model, latent)
    empty = torch.zeros_like(samples[:1]).repeat(count, *[1] * (samples.ndim - 1))
    noise = comfy.sample.prepare_noise(empty, sampling.seed)
    drawn = sample_from_seed(model, positive, negative, Seed(noise, sampling), sampling)
    return reference_set_from_batch(host_pictures(vae, drawn["samples"]), name="contrast_prompt")


def sample_from_seed(
    model,
    positive: list,
    negative: list,
    seed: Seed,
    sampling: SamplingSettings | None = None,
    latent: dict | None = None,
    callback=None,
) -> dict:
    """Sample ``seed`` with the host's KSampler path; returns a LATENT dict.

    Args:
        sampling: other settings than the seed's own.
        latent: what the seed was optimized on, needed only for inpainting.

    Raises:
        SeedSelectError: the seed was made for another model or size, the host does not know its
            sampler or scheduler, the model's prediction is not a number where the sampler would not
            end, or there is no memory.
    """
    sampling = sampling or seed.sampling.override()
    latent = latent or {"samples": torch.zeros_like(seed.noise)}
    samples = latent_samples(model, latent)
    seed.require_fit(model, samples)
    sampler_of(sampling.sampler_name)
    require_scheduler(sampling.scheduler)

    def sample() -> torch.Tensor:
        return comfy.sample.sample(
            model,
            seed.noise,
            sampling.steps,
            sampling.cfg,
            sampling.sampler_name,
            sampling.scheduler,
            positive,
            negative,
            samples,
            noise_mask=latent.get("noise_mask"),
            callback=watching(callback),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=sampling.seed,
        )

    result = with_room(
        sample,
        *[()] * 2,
        where="sampling",
        remedy="Make fewer or smaller pictures at a time.",
    )
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return kept | {"samples": result}


def latent_samples(model, latent: dict) -> torch.Tensor:
    """The latent as the host's KSampler takes it: an empty one gets the model's channels.

    Raises:
        SeedSelectError: there is no picture in it.
    """
    samples = latent["samples"]
    if 0 in samples.shape:
        raise SeedSelectError(
            f"latent: there is no picture in it, its shape is {list(samples.shape)}. Make it with "
            "'Empty Latent Image'."
        )
    # Hosts before 0.22 make no latent that has the second, and take none.
    names = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    ratios = {name: latent[name] for name in names if name in latent}
    return comfy.sample.fix_empty_latent_channels(model, samples, **ratios)


def intermediate(latent: torch.Tensor) -> torch.Tensor:
    """``latent`` where and as the host keeps what goes from node to node."""
    device = comfy.model_management.intermediate_device()
    return latent.to(device=device, dtype=comfy.model_management.intermediate_dtype())


def host_ksampler(model, sampling: SamplingSettings) -> comfy.samplers.KSampler:
    """The host's KSampler, which knows the sigmas of a scheduler and of samplers with rules.

    Raises:
        SeedSelectError: the host does not know the scheduler.
    """
    require_scheduler(sampling.scheduler)
    return comfy.samplers.KSampler(
        model,
        steps=sampling.steps,
        device=model.load_device,
        sampler=sampling.sampler_name,
        scheduler=sampling.scheduler,
        model_options=model.model_options,
    )


def shares_condition(cond: dict) -> bool:
    """Whether a guider's condition holds one text for every picture, and no picture or control."""
    text = cond.get("cross_attn")
    mask = cond.get("mask")
    if text is None or len(text) != 1:
        return False
    if mask is not None and mask.ndim > 2 and len(mask) != 1:
        return False
    return cond.keys().isdisjoint(PICTURES)
