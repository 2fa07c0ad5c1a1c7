"""Find noise whose picture agrees with the references, and sample from it: the host's own way."""

import logging
from collections.abc import Callable, Sequence

import comfy.model_base
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from .coverage import untried
from .encoders import ImageEncoder
from .errors import SeedSelectError
from .host.differentiable_samplers import require_sampler, sampler_name
from .host.refused_families import require_family
from .objective import Objective
from .references import ReferenceSet, reference_set_from_batch
from .search import Progress, Search, SeedHistory
from .seed import NO_STEP, CustomSampling, SamplingSettings, Seed, SeedNoise
from .self_check import require_exact_gradient
from .settings import Settings
from .targets import build_targets
from .unroll import Chain, unrolled_sampling
from .vae_codec import VaeCodec, host_pictures, require_vae

# What a condition may hold a picture for each of the batch in.
PICTURES = {
    "control",
    "concat_image",
    "concat_latent_image",
    "reference_latents",
    "stable_cascade_prior",
}
# Samplers of which a picture comes out the same alone and in a batch. The others draw noise for the
# batch as a whole, or one step size for it ("dpm_adaptive").
PICTURE_BY_PICTURE = (
    "euler",
    "euler_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "dpm_2",
    "lms",
    "dpm_fast",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)


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
    on_note: Callable[[str], None] | None = None,
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
        on_note: gets a sentence for the user where nobody has tried this sampler or model.

    Returns:
        The seed, the LATENT dict that it samples to (in the VAE's space), and the history.

    Raises:
        SeedSelectError: an input does not fit, or the loss or gradient is no number.
    """
    if start is not None:
        start.require_fit(model, latent_samples(model, latent), "start")
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(sampling.cfg)
    return optimize_noise(
        guider,
        comfy.samplers.sampler_object(sampling.sampler_name),
        host_ksampler(model, sampling).sigmas,
        vae,
        encoder,
        references,
        latent,
        sampling,
        settings,
        start=None if start is None else SeedNoise(start),
        contrast=contrast,
        subsets=subsets,
        on_progress=on_progress,
        on_unfinished=on_unfinished,
        on_note=on_note,
    )


def optimize_noise(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.Sampler,
    sigmas: torch.Tensor,
    vae,
    encoder: ImageEncoder,
    references: ReferenceSet,
    latent: dict,
    sampling: SamplingSettings | CustomSampling,
    settings: Settings,
    *,
    start=None,
    contrast: ReferenceSet | None = None,
    subsets: Sequence[Sequence[int]] | None = None,
    check_gradient: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_unfinished: Callable[[Seed], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Seed, dict, SeedHistory]:
    """`optimize_seed` for any graph that the host's SamplerCustomAdvanced takes.

    Args:
        guider: the host's GUIDER, its conditionings set.
        sampler: the host's SAMPLER.
        sigmas: the host's SIGMAS, [steps + 1], descending. Where they stop above zero, what counts
            is the prediction of the clean latent at the last step.
        sampling: what the seed is to say of guider, sampler and sigmas; its number is that of the
            first noise, and those after it give the further draws.
        start: the host's NOISE, instead of the noise of that number.
        check_gradient: compare the gradient with a finite difference first. Done anyway for what
            `seedselect_core.coverage` does not know.

        The others, the results and errors are those of `optimize_seed`.
    """
    model = guider.model_patcher
    if settings.iterations > 0:
        require_sampler(sampler)
        require_family(model)
    if len(sigmas) < 2:
        raise SeedSelectError(NO_STEP)
    codec = VaeCodec(vae)
    samples = latent_samples(model, latent)
    _require_latent(model, samples)
    require_vae(model, vae)
    indices = latent.get("batch_index")

    def draw(candidate: int) -> torch.Tensor:
        return comfy.sample.prepare_noise(samples, (sampling.seed + candidate) % 2**64, indices)

    noise = draw(0) if start is None else start.generate_noise(latent | {"samples": samples})
    if not noise.any():
        raise SeedSelectError("noise: it is empty. Connect RandomNoise, or 'Seed To Noise'.")
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
        film=samples.ndim == 5,
    )
    if subsets is not None:
        targets = targets.of_subsets(subsets)
    noise_mask = latent.get("noise_mask")
    film = isinstance(model.model, comfy.model_base.SVD_img2vid)  # a batch of frames, SV3D's too
    search = Search(
        Objective(encoder, codec, targets, settings, model.model.process_latent_out),
        settings,
        on_progress,
        draw,
        separable=sampler_name(sampler) in PICTURE_BY_PICTURE
        and not film
        and noise_mask is None
        and torch.count_nonzero(samples) == 0
        and all(one_for_all(c) for conds in guider.original_conds.values() for c in conds),
        film=film,
    )
    unknown = untried(sampler, model) if settings.iterations > 0 else []
    doubted = " and ".join(unknown) or (sampler_name(sampler) if check_gradient else "")
    if unknown and doubted not in _passed:
        note = f"Nobody has tried {doubted}. Checking the gradient first."
        logging.warning("SeedSelect: %s", note)
        if on_note is not None:
            on_note(note)

    def checked(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        if check_gradient or (unknown and doubted not in _passed):
            require_exact_gradient(chain, noise, doubted)
            _passed.add(doubted)
            chain.evaluations = 0
        return search(chain, noise)

    try:
        result = unrolled_sampling(
            guider,
            sampler,
            sigmas,
            noise,
            samples,
            checked,
            patchers=[vae.patcher, encoder.patcher],
            noise_mask=noise_mask,
            seed=sampling.seed,
            needs_gradient=settings.iterations > 0,
        )
    except BaseException as error:
        if search.best is not None and on_unfinished is not None:
            on_unfinished(_seed(search, model, sampling))
        if comfy.model_management.is_oom(error):
            raise SeedSelectError(
                "SeedSelect: out of memory. Lower the batch of 'Empty Latent Image' (seeds are "
                "optimized side by side), then its size, or start ComfyUI with --lowvram."
                + search.kept()
            ) from error
        raise
    device = comfy.model_management.intermediate_device()
    result = result.to(device=device, dtype=comfy.model_management.intermediate_dtype())
    return _seed(search, model, sampling), {"samples": result}, search.history


# What nobody has tried but whose gradient was checked since the host started.
_passed: set[str] = set()


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
    return reference_set_from_batch(host_pictures(vae, drawn["samples"]))


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
    sampling = sampling or seed.sampling.override()
    latent = latent or {"samples": torch.zeros_like(seed.noise)}
    samples = latent_samples(model, latent)
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


def latent_samples(model, latent: dict) -> torch.Tensor:
    """The latent as the host's KSampler takes it: an empty one gets the model's channels."""
    return comfy.sample.fix_empty_latent_channels(
        model,
        latent["samples"],
        latent.get("downscale_ratio_spacial"),
        latent.get("downscale_ratio_temporal"),
    )


def host_ksampler(model, sampling: SamplingSettings) -> comfy.samplers.KSampler:
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


def one_for_all(cond: dict) -> bool:
    """Whether a guider's condition holds one text for every picture, and no picture or control."""
    text, mask = cond.get("cross_attn"), cond.get("mask")
    if text is None or len(text) != 1:
        return False
    if mask is not None and mask.ndim > 2 and len(mask) != 1:
        return False
    return cond.keys().isdisjoint(PICTURES)


def _require_latent(model, samples: torch.Tensor) -> None:
    latent_format = model.get_model_object("latent_format")
    if samples.is_nested:
        raise SeedSelectError(
            "latent: a video and its sound cannot be optimized together. Connect the video latent "
            "alone."
        )
    if samples.ndim != 2 + latent_format.latent_dimensions:
        raise SeedSelectError(
            f"latent: it has {samples.ndim} dimensions, the model works on "
            f"{2 + latent_format.latent_dimensions}. Make it with the empty latent node of this "
            "kind of model, or encode the picture with this model's VAE."
        )
    if samples.shape[1] != latent_format.latent_channels:
        raise SeedSelectError(
            f"latent: it has {samples.shape[1]} channels, the model works on "
            f"{latent_format.latent_channels}. Make it with 'Empty Latent Image', or encode the "
            "picture with this model's VAE."
        )
