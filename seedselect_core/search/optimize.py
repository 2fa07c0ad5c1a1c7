"""Find noise whose picture agrees with the references: the host's own way."""

import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import comfy.model_base
import comfy.model_management
import comfy.sample
import torch

from ..chain.doubts import doubts
from ..chain.finite import NotNumbers, is_finite
from ..chain.sampling import intermediate, latent_samples, shares_condition
from ..chain.self_check import require_exact_gradient
from ..chain.unroll import Chain, Denoising, unrolled_sampling
from ..errors import NoGradient, SeedSelectError
from ..host.families import require_family
from ..host.samplers import BATCH_INDEPENDENT, require_sampler, sampler_name
from ..likeness.comparison import Comparison, compare_with
from ..likeness.encoders import ImageEncoder
from ..likeness.objective import Objective
from ..likeness.targets import Targets, build_targets
from ..likeness.vae import VaeCodec, require_vae
from ..memory.failures import failure, out_of_memory, with_room
from ..memory.levels import NONE
from ..references import ReferenceSet
from ..seeds.origin import Origin
from ..seeds.seed import NO_STEP, CustomSampling, SamplingSettings, Seed, SeedNoise
from ..text import printable, quoted
from .blame import blame, require_latent, require_targets
from .loop import Progress, Search, SeedHistory
from .scene import Callbacks, CustomScene, Scene
from .settings import Settings


def optimize_seed(
    scene: Scene,
    sampling: SamplingSettings,
    settings: Settings,
    *,
    start: Seed | None = None,
    contrast: ReferenceSet | None = None,
    subsets: Sequence[Sequence[int]] | None = None,
    callbacks: Callbacks | None = None,
) -> tuple[Seed, dict, SeedHistory]:
    """SeedSelect (arXiv 2304.14530, section 4): gradient descent on the initial noise.

    Args:
        sampling: how the picture is drawn; its number is that of the first noise.
        start: where the search starts instead of the noise of ``sampling.seed``, as many as the
            batch; an inverted picture, a centroid, an earlier seed. A search that did not end goes
            on from its unfinished seed with what is left of it, where nothing of ``settings`` and
            of ``sampling`` but the number has changed since.
        contrast: images of the concept that the model confuses this one with.
        subsets: for each seed of the batch the indices of the references that it gets; all else.

    Returns:
        The seed, the LATENT dict that it samples to (in the VAE's space), and the history.

    Raises:
        SeedSelectError: an input does not fit, or the loss or gradient is no number. What no
            gradient can be taken of is no error: the search goes on without, and a note tells why.
    """
    if start is not None:
        start.require_fit(scene.model, latent_samples(scene.model, scene.latent), "start")
        if _goes_on(start, sampling, settings):
            sampling = start.sampling  # its number too, by which further noise is drawn
    return optimize_noise(
        scene.custom(sampling),
        sampling,
        settings,
        start=None if start is None else SeedNoise(start),
        contrast=contrast,
        subsets=subsets,
        callbacks=callbacks,
    )


def optimize_noise(
    scene: CustomScene,
    sampling: SamplingSettings | CustomSampling,
    settings: Settings,
    *,
    start=None,
    contrast: ReferenceSet | None = None,
    subsets: Sequence[Sequence[int]] | None = None,
    check_gradient: bool = False,
    callbacks: Callbacks | None = None,
) -> tuple[Seed, dict, SeedHistory]:
    """`optimize_seed` for any graph that the host's SamplerCustomAdvanced takes.

    Args:
        sampling: what the seed is to say of guider, sampler and sigmas; its number is that of the
            first noise, and those after it give the further draws.
        start: the host's NOISE, instead of the noise of that number.
        check_gradient: compare the gradient with a finite difference first. Done anyway for what
            `seedselect_core.chain.doubts` finds.

        The others, the results and errors are those of `optimize_seed`.
    """
    callbacks = callbacks or Callbacks()
    denoising = scene.denoising
    model = denoising.guider.model_patcher
    samples = latent_samples(model, scene.latent)
    codec = _require_inputs(scene, samples, settings)
    draw = _draws(samples, scene.latent, sampling.seed)
    noise = draw(0) if start is None else _noise_of(start, scene.latent | {"samples": samples})
    objective = _objective(scene, codec, samples, settings, contrast, subsets)
    search = _search(scene, samples, settings, objective, draw, callbacks)
    make = _listened(search, callbacks, start, scene, sampling)
    patchers = [scene.vae.patcher, *(encoder.patcher for encoder in scene.encoders().values())]
    if scene.search_vae is not None:
        search.search_by(replace(objective, codec=VaeCodec(scene.search_vae)))
        patchers.append(scene.search_vae.patcher)
    checked = _checked(search, denoising, check_gradient, callbacks)
    try:
        result = unrolled_sampling(
            denoising,
            noise,
            samples,
            checked,
            patchers=patchers,
            noise_mask=scene.latent.get("noise_mask"),
            seed=sampling.seed,
            needs_gradient=search.room.differentiates,
        )
    except BaseException as error:
        if search.best is not None:
            callbacks.rescue(lambda: replace(make(), unfinished=search.state()))
        told = _out_of_memory(search) if out_of_memory(error) else failure(error, "the search")
        if told is None:
            raise
        raise told from quoted(error)
    return make(), {"samples": intermediate(result)}, search.history


def _search(
    scene: CustomScene,
    samples: torch.Tensor,
    settings: Settings,
    objective: Objective,
    draw: Callable[[int], torch.Tensor],
    callbacks: Callbacks,
) -> Search:
    search = Search(
        objective,
        settings,
        callbacks.progress,
        draw,
        can_split_batch=_can_split_batch(scene, samples),
        is_video=_is_video(scene.denoising.guider.model_patcher),
    )
    search.room.tell = callbacks.note
    search.blame = functools.partial(blame, scene.search_vae)
    if settings.iterations > 0:
        try:
            require_sampler(scene.denoising.sampler)
        except NoGradient as error:
            search.room.without_gradient(str(error))
    return search


def _goes_on(start: Seed | None, sampling, settings: Settings) -> bool:
    """Whether a seed is the best of a search by these settings that did not end."""
    if start is None or start.unfinished is None:
        return False
    same = type(sampling) is type(start.sampling)
    same = same and replace(sampling, seed=start.sampling.seed) == start.sampling
    return same and start.unfinished.settings == settings.fingerprint()


def _listened(
    search: Search,
    callbacks: Callbacks,
    start,
    scene: CustomScene,
    sampling: SamplingSettings | CustomSampling,
) -> Callable[[], Seed]:
    """Makes the best seed so far, which is handed over from now on as it changes.

    Args:
        start: the NOISE that the search starts at; it goes on with that of an unfinished search.
    """
    model = scene.denoising.guider.model_patcher
    origin = Origin(references=scene.references.fingerprint())
    earlier = start.optimized if isinstance(start, SeedNoise) else None
    for difference in earlier.origin.differences(origin) if earlier is not None else ():
        callbacks.note(f"The seed to start at was found with something else. {difference}")
    if _goes_on(earlier, sampling, search.settings):
        search.resumed = earlier.unfinished
        search.first_semantic = earlier.first_semantic
        done = f"after iteration {earlier.unfinished.iterations} of {earlier.unfinished.planned}"
        callbacks.note(f"Going on with an unfinished search, {done}.")
    elif earlier is not None and earlier.unfinished is not None:
        earlier = None
        callbacks.note("The unfinished seed was searched for by other settings: starting there.")

    searching = weakref.proxy(search)  # which holds what is made here, and so the model

    def make() -> Seed:
        best = replace(_seed(searching, model, sampling), origin=origin)
        if searching.resumed is None:
            return best
        return replace(best, evaluations=earlier.evaluations + best.evaluations)

    def told(progress: Progress) -> None:
        if progress.best is not None:
            state = searching.state() if progress.new_best else None  # as it is now
            callbacks.so_far(lambda: replace(make(), unfinished=state), progress.new_best)
        callbacks.progress(progress)

    search.on_progress = told
    return make


def _require_inputs(scene: CustomScene, samples: torch.Tensor, settings: Settings) -> VaeCodec:
    """The VAE as a codec. Raises `SeedSelectError` where an input does not fit the others."""
    model = scene.denoising.guider.model_patcher
    if settings.iterations > 0:
        require_family(model)
    if len(scene.denoising.sigmas) < 2:
        raise SeedSelectError(NO_STEP)
    codec = VaeCodec(scene.vae)
    _require_latent(model, samples)
    require_vae(model, scene.vae)
    if scene.search_vae is not None:
        require_vae(model, scene.search_vae, "search_vae")
    require_latent(scene.latent)
    return codec


def _draws(samples: torch.Tensor, latent: dict, number: int) -> Callable[[int], torch.Tensor]:
    """The n-th draw of Gaussian noise for the whole batch, n from 0, as the host makes it."""
    indices = latent.get("batch_index")

    def draw(candidate: int) -> torch.Tensor:
        return comfy.sample.prepare_noise(samples, (number + candidate) % 2**64, indices)

    return draw


def _noise_of(start, latent: dict) -> torch.Tensor:
    """What a NOISE of the host gives; `SeedSelectError` where it is that of 'Disable Noise'."""
    noise = start.generate_noise(latent)
    if not noise.any():
        raise SeedSelectError("noise: it is empty. Connect RandomNoise, or 'Seed To Noise'.")
    if not is_finite(noise):
        raise SeedSelectError(
            "noise: it holds values that are not numbers. Connect RandomNoise, or 'Seed To Noise'."
        )
    return noise


def _objective(
    scene: CustomScene,
    codec: VaeCodec,
    samples: torch.Tensor,
    settings: Settings,
    contrast: ReferenceSet | None,
    subsets: Sequence[Sequence[int]] | None,
) -> Objective:
    targets = _targets(scene, codec, samples, settings, contrast)
    return Objective(
        codec,
        targets if subsets is None else targets.of_subsets(subsets),
        settings.weights,
        scene.denoising.guider.model_patcher.model.process_latent_out,
    )


def _targets(
    scene: CustomScene,
    codec: VaeCodec,
    samples: torch.Tensor,
    settings: Settings,
    contrast: ReferenceSet | None,
) -> Targets:
    ratio = scene.vae.spacial_compression_decode()
    size = (samples.shape[-1] * ratio, samples.shape[-2] * ratio)

    def compare(name: str, encoder: ImageEncoder) -> Comparison:
        comfy.model_management.load_models_gpu([encoder.patcher])
        how = settings.views, contrast, settings.towards
        return compare_with(scene.references, encoder, size, *how, name)

    def build() -> Targets:
        comparisons = [compare(*named) for named in scene.encoders().items()]
        opinion = None if scene.second_opinion is None else comparisons.pop()
        return build_targets(
            scene.references,
            comparisons,
            codec,
            scene.denoising.guider.model_patcher.model.process_latent_in,
            size,
            opinion=opinion,
            is_video=samples.ndim == 5,
        )

    targets = with_room(
        build,
        *[()] * 2,
        where="encoding the references",
        remedy="Give fewer references, or lower the size of 'Empty Latent Image'.",
    )
    require_targets(targets)
    return targets


def _is_video(model) -> bool:
    """Whether the batch is the frames of one video: Stable Video Diffusion's, SV3D's too."""
    return isinstance(model.model, comfy.model_base.SVD_img2vid)


def _can_split_batch(scene: CustomScene, samples: torch.Tensor) -> bool:
    """Whether a part of the batch alone is drawn as in the whole."""
    conds = scene.denoising.guider.original_conds.values()
    return (
        not _is_video(scene.denoising.guider.model_patcher)
        and sampler_name(scene.denoising.sampler) in BATCH_INDEPENDENT
        and scene.latent.get("noise_mask") is None
        and torch.count_nonzero(samples) == 0
        and all(shares_condition(cond) for each in conds for cond in each)
    )


def _checked(
    search: Search, denoising: Denoising, always: bool, callbacks: Callbacks
) -> Callable[[Chain, torch.Tensor], torch.Tensor]:
    """``search``, after the gradient was checked where somebody asks for it or must doubt it."""
    name = sampler_name(denoising.sampler)
    if search.settings.iterations > 0:
        search.suspects = doubts(denoising)
    doubted = " and ".join(search.suspects)
    family = type(denoising.guider.model_patcher.model.model_config).__name__
    doubt = f"{doubted}, {name} on {family}"
    unsettled = bool(doubted) and doubt not in callbacks.settled

    def checked(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        search.sparing(chain, search.room.prepare, noise, search.objective)
        if (always or unsettled) and chain.plan.level is not NONE:
            if unsettled:
                note = f"Nobody has tried {doubted}. Checking the gradient first."
                logging.warning("SeedSelect: %s", printable(note))
                callbacks.note(note)
            # One picture says as much as the batch, where it is drawn alone as in it.
            part = noise[:1] if search.can_split_batch else noise
            search.sparing(chain, _check, part, search, doubted or name)
            if chain.plan.level is not NONE:
                callbacks.settled.add(doubt)
        chain.evaluations = 0
        return search(chain, noise)

    return checked


def _check(chain: Chain, noise: torch.Tensor, search: Search, what: str) -> None:
    if chain.plan.level is NONE:  # as it is once the check has failed
        return
    try:
        require_exact_gradient(chain, noise, what)
    except NotNumbers as error:
        raise search.nonsense(str(error), chain, noise, torch.arange(len(noise))) from None


def _out_of_memory(search: Search) -> SeedSelectError:
    return SeedSelectError(
        "SeedSelect: out of memory, even for plain pictures without a gradient. Lower the size of "
        "'Empty Latent Image', then its batch (seeds are optimized side by side)."
        + search.describe_best()
    )


def _seed(search: Search, model, sampling: SamplingSettings | CustomSampling) -> Seed:
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
