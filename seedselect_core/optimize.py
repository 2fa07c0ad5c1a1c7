"""Find noise whose picture agrees with the references, and sample from it: the host's own way."""

from collections.abc import Callable, Sequence

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from .encoders import ImageEncoder, VaeCodec
from .errors import SeedSelectError
from .host.differentiable_samplers import require_proven
from .objective import Objective
from .references import ReferenceSet, reference_set_from_batch
from .search import Progress, Search, SeedHistory
from .seed import SamplingSettings, Seed
from .settings import Settings
from .targets import build_targets
from .unroll import unrolled_sampling

# These draw their noise for the batch as a whole, so a seed's noise depends on its neighbours.
BATCH_NOISE = ("euler_ancestral", "dpmpp_2m_sde", "lcm")


def optimize_seed(
    model,
    positive: list,
    negative: list,
    vae,
    encoder: ImageEncoder,
    references: ReferenceSet,
    latent: dict,
    sampling: SamplingSettings,
    settings: Settings,
    *,
    start: Seed | None = None,
    contrast: ReferenceSet | None = None,
    subsets: Sequence[Sequence[int]] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_unfinished: Callable[[Seed], None] | None = None,
) -> tuple[Seed, dict, SeedHistory]:
    """SeedSelect (arXiv 2304.14530, section 4): gradient descent on the initial noise.

    Args:
        model: the host's ModelPatcher, as any loader gives it.
        positive, negative: the host's conditioning.
        vae: the host's VAE.
        encoder: an image encoder of `seedselect_core.encoders`.
        references: images of the concept.
        latent: the host's LATENT dict; its size and batch, and its noise mask if it has one.
        start: where the search starts instead of the noise of ``sampling.seed``, as many as the
            batch; an inverted picture, a centroid, an earlier seed.
        contrast: images of the concept that the model confuses this one with.
        subsets: for each seed of the batch the indices of the references that it gets; all else.
        on_progress: called after every denoising step.
        on_unfinished: gets the best seed so far when the run ends by an error or by Cancel.

    Returns:
        The seed, the LATENT dict that it samples to (in the VAE's space), and the history.

    Raises:
        SeedSelectError: an input does not fit, or the loss or gradient is no number.
    """
    if settings.iterations > 0:
        require_proven(sampling.sampler_name)
        _require_steady_hooks(positive, negative)
    codec = VaeCodec(vae)
    samples = _samples(model, latent)
    _require_fit(model, vae, samples)
    indices = latent.get("batch_index")
    if start is None:
        noise = comfy.sample.prepare_noise(samples, sampling.seed, indices)
    else:
        start.require_fit(model, samples)
        noise = start.noise
    ratio = vae.spacial_compression_decode()
    comfy.model_management.load_models_gpu([encoder.patcher])
    targets = build_targets(
        references,
        encoder,
        codec,
        model.model.process_latent_in,
        samples.shape[-1] * ratio,
        samples.shape[-2] * ratio,
        settings.views,
        contrast,
    )
    if subsets is not None:
        targets = targets.of_subsets(subsets)
    ksampler = _ksampler(model, sampling)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(sampling.cfg)

    def draw(candidate: int) -> torch.Tensor:
        return comfy.sample.prepare_noise(samples, (sampling.seed + candidate) % 2**64, indices)

    noise_mask = latent.get("noise_mask")
    search = Search(
        Objective(encoder, codec, targets, settings, model.model.process_latent_out),
        settings,
        on_progress,
        draw,
        separable=sampling.sampler_name not in BATCH_NOISE
        and noise_mask is None
        and torch.count_nonzero(samples) == 0
        and all(one_for_all(cond) for cond in [*positive, *negative]),
    )
    try:
        result = unrolled_sampling(
            guider,
            comfy.samplers.sampler_object(sampling.sampler_name),
            ksampler.sigmas,
            noise,
            samples,
            search,
            patchers=[vae.patcher, encoder.patcher],
            noise_mask=noise_mask,
            seed=sampling.seed,
        )
    except BaseException as error:
        if search.best is not None and on_unfinished is not None:
            on_unfinished(_seed(search, model, sampling))
        if comfy.model_management.is_oom(error):
            raise SeedSelectError(
                "SeedSelect: out of memory. Lower the batch of 'Empty Latent Image' (seeds are "
                "optimized side by side), then its size, or start ComfyUI with --lowvram. The best "
                "seed so far is kept."
            ) from error
        raise
    device = comfy.model_management.intermediate_device()
    result = result.to(device=device, dtype=comfy.model_management.intermediate_dtype())
    return _seed(search, model, sampling), {"samples": result}, search.history


def draw_references(
    model, positive: list, negative: list, vae, latent: dict, sampling: SamplingSettings, count: int
) -> ReferenceSet:
    """``count`` plain pictures of a prompt, for a concept that the model draws well by itself.

    Args:
        latent: gives the size.
        sampling: as the pictures are to be sampled; the noise is that of its seed.
    """
    samples = _samples(model, latent)
    empty = torch.zeros_like(samples[:1]).repeat(count, *[1] * (samples.ndim - 1))
    noise = comfy.sample.prepare_noise(empty, sampling.seed)
    drawn = sample_from_seed(model, positive, negative, Seed(noise, sampling), sampling)
    return reference_set_from_batch(vae.decode(drawn["samples"]))


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
        SeedSelectError: the seed was made for another model or size.
    """
    sampling = sampling or seed.sampling
    latent = latent or {"samples": torch.zeros_like(seed.noise)}
    samples = _samples(model, latent)
    seed.require_fit(model, samples)
    result = comfy.sample.sample(
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
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=sampling.seed,
    )
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return kept | {"samples": result}


def _samples(model, latent: dict) -> torch.Tensor:
    """The latent as the host's KSampler takes it: an empty one gets the model's channels."""
    return comfy.sample.fix_empty_latent_channels(
        model,
        latent["samples"],
        latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )


def _ksampler(model, sampling: SamplingSettings) -> comfy.samplers.KSampler:
    return comfy.samplers.KSampler(
        model,
        steps=sampling.steps,
        device=model.load_device,
        sampler=sampling.sampler_name,
        scheduler=sampling.scheduler,
        model_options=model.model_options,
    )


def _seed(search: Search, model, sampling: SamplingSettings) -> Seed:
    best = search.best
    return Seed(
        best.noise.clone(),
        sampling,
        type(model.get_model_object("latent_format")).__name__,
        best.semantic.tolist(),
        best.first_semantic.tolist(),
        best.total.tolist(),
        search.history.evaluations,
    )


def one_for_all(cond: list) -> bool:
    """Whether a conditioning holds one text for every picture, and no picture or control."""
    if cond[0] is None or len(cond[0]) != 1:
        return False
    return not any(
        key in cond[1] for key in ("control", "concat_latent_image", "reference_latents")
    )


def _require_steady_hooks(positive: list, negative: list) -> None:
    for name, conditioning in (("positive", positive), ("negative", negative)):
        for _, extra in conditioning:
            hooks = extra.get("hooks")
            # The host counts keyframes forwards; the backward pass walks the steps back.
            if hooks is not None and any(not h.hook_keyframe.is_empty() for h in hooks.hooks):
                raise SeedSelectError(
                    f"{name}: hooks whose strength changes over the steps (Set Hook Keyframes) are "
                    "not supported yet. Disconnect the keyframes, or give the hook one strength."
                )


def _require_fit(model, vae, samples: torch.Tensor) -> None:
    latent_format = model.get_model_object("latent_format")
    if latent_format.latent_dimensions != 2 or samples.ndim != 4:
        raise SeedSelectError(
            "model: video and audio models are not supported yet. Connect an image model, such as "
            "Stable Diffusion 1.5 or SDXL."
        )
    if samples.shape[1] != latent_format.latent_channels:
        raise SeedSelectError(
            f"latent: it has {samples.shape[1]} channels, the model works on "
            f"{latent_format.latent_channels}. Make it with 'Empty Latent Image', or encode the "
            "picture with this model's VAE."
        )
    if vae.latent_channels != latent_format.latent_channels:
        raise SeedSelectError(
            f"vae: its latents have {vae.latent_channels} channels, the model's "
            f"{latent_format.latent_channels}. Connect the VAE that belongs to the checkpoint."
        )
