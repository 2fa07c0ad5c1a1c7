"""From noise to denoised latent with exact gradients, through the host's own guider and sampler.

The chain x_T -> x_{T-1} -> ... -> x_0 is the host's sampler itself. Each model call is a checkpoint
(`seedselect_core.memory.recompute`).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch

from ..errors import SeedSelectError
from ..host.calls import GuiderState
from ..host.families import require_family
from ..host.layers import (
    differentiable_attention,
    differentiable_rope,
    lightricks_rope_as_sampled,
)
from ..host.samplers import differentiable_samplers, require_sampler, without_no_grad
from ..host.session import (
    OrdinaryViews,
    fixed_free_memory,
    gradients_enabled,
    out_of_memory_told,
    uncompiled,
)
from ..host.weights import (
    borrowed_weights,
    ordinary_view,
    ordinary_views,
    pinned_weights,
    quantized_layers,
)
from ..memory.blocks import Blocks
from ..memory.levels import LEVELS, PROMPTS, WHOLE, Level
from ..memory.meter import Meter
from ..memory.plan import Plan
from ..memory.recompute import CheckpointedGuider, Recomputation
from ..memory.saved import Keeper, MadeWeights, storages
from .finite import CALLS_PER_STEP, Watched


@dataclass(frozen=True)
class Denoising:
    """How noise becomes a picture: what the host's SamplerCustomAdvanced is given for it.

    Attributes:
        guider: the host's GUIDER, conditionings set. Its model, hooks and ControlNets are loaded
            and cleaned up by the host itself.
        sampler: the host's SAMPLER, as `comfy.samplers.sampler_object` makes it.
        sigmas: the host's SIGMAS, [steps + 1], descending. Where they stop above zero, what counts
            is the prediction of the clean latent at the last step.
    """

    guider: comfy.samplers.CFGGuider
    sampler: comfy.samplers.Sampler
    sigmas: torch.Tensor


@dataclass(frozen=True)
class _Run:
    """What the host hands to a sampler, for every run of the chain."""

    sigmas: torch.Tensor
    extra_args: dict
    latent_image: torch.Tensor
    denoise_mask: torch.Tensor | None

    def viewed(self) -> "_Run":
        """The same with ordinary tensors."""
        mask = None if self.denoise_mask is None else ordinary_view(self.denoise_mask)
        latent_image = ordinary_view(self.latent_image)
        return _Run(ordinary_view(self.sigmas), self.extra_args, latent_image, mask)


class Chain:
    """The whole sampling chain as a function of the noise. Made by `unrolled_sampling`.

    Attributes:
        guider: the host's, its model loaded.
        steps: denoising steps.
        evaluations: predictions made so far, one for each picture, those that the backward pass
            makes again included.
        ends_noisy: whether the schedule stops above zero, so that the sampler returns noise too.
        final: what the sampler returned at the last run, without its history.
        plan: what is kept for the backward pass and what is made again, at one of `levels`. It
            takes a run to know which calls are the last, so that none is kept in the first.
        keeper: chooses what recorded passes keep; knows the weights of all models that take part.
    """

    def __init__(self, sampler, run: _Run, recomputation: Recomputation, guider):
        self.guider = guider
        self.plan = Plan(WHOLE, len(run.latent_image), strips=False)
        self.keeper = recomputation.keeper
        self.steps = len(run.sigmas) - 1
        self.evaluations = 0
        # The host's uni_pc writes this small number over a last sigma of zero.
        self.ends_noisy = bool(run.sigmas[-1] > 0.001)
        self.final: torch.Tensor | None = None
        self._sampler = sampler
        self._run = run
        self._recomputation = recomputation
        self._fresh = recomputation.state.snapshot()
        # How many predictions are differentiated in a run of so many steps.
        self._differentiated: dict[tuple[int, int], int] = {}
        self._trusts = True

    def __call__(
        self,
        noise: torch.Tensor,
        keep: int = 1,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
        *,
        steps: int = 0,
        first: int = 0,
        gradient_steps: int = 0,
    ) -> list[torch.Tensor]:
        """Denoise ``noise``.

        Args:
            noise: [B, C, h, w], or [B, C, T, h, w] with a time axis, unit Gaussian as the host's
                NOISE gives it, float32.
            keep: how many predictions of the clean latent to return, at least 1.
            on_step: called with the step (from 0) and the prediction at that step.
            steps: draw with so many steps only, between noise levels spread evenly over those of
                the schedule, its first and last among them; 0 for all.
            first: so many steps of the schedule only, whose last prediction counts; 0 for all.
            gradient_steps: the predictions of so many last steps are differentiated, 0 for all.

        Returns:
            ``keep`` tensors like ``noise`` in the model's scaled latent space, fewer where the
            chain is shorter. The last is what the sampler returns; before it stand the predictions
            of the clean latent at the steps before the last. Of a schedule that stops above zero,
            the last is a prediction too.
        """
        is_part = 0 < first < self.steps
        sigmas = self._run.sigmas[: first + 1] if is_part else self._thinned(steps)
        first_exact = max(0, len(sigmas) - 1 - gradient_steps) if gradient_steps else 0
        denoised: list[torch.Tensor] = []
        finished = 0

        def denoise() -> torch.Tensor:
            nonlocal finished
            finished = 0
            denoised.clear()
            return self._sample(noise, sigmas, collect, exact, run)

        def collect(step, prediction, x, total):
            nonlocal finished
            finished = step + 1
            denoised.append(prediction)
            del denoised[:-keep]
            if on_step is not None:
                on_step(step, prediction.detach())

        def exact(timestep):
            # "dpm_fast" does not tell of every step it makes, so that steps cannot only be counted.
            late = finished >= first_exact
            return late or bool((timestep < sigmas[first_exact]).all())

        run = (len(sigmas) - 1, gradient_steps)
        final = self.recovering(denoise)
        self.final = final.detach()
        if self.ends_noisy or is_part:
            return denoised
        # The prediction at the last step is the result, but for samplers that correct it once more.
        return [*denoised[:-1], final]

    def watched(self, noise: torch.Tensor, keep: int) -> list[torch.Tensor]:
        """A run in which every prediction is looked at, see `seedselect_core.chain.finite`."""
        self._trusts = False
        try:
            return self(noise, keep)
        finally:
            self._trusts = True

    def recovers(self, error: BaseException) -> bool:
        """Whether a gradient that failed by ``error`` can be taken when it is tried once more."""
        return self.keeper.distrust(error) or self._recomputation.views.turn_on(error)

    def recovering(self, work: Callable[..., Any], *arguments) -> Any:
        """``work(*arguments)``, tried again where it fails by what `recovers` knows of."""
        while True:
            try:
                return work(*arguments)
            except Exception as error:
                if not self.recovers(error):
                    raise

    def levels(self) -> tuple[Level, ...]:
        """The levels that this graph can be run at, from fast to small.

        Hooks exchange weights between the prompts of one call, which a part that is made again
        would not meet again.
        """
        hooked = any(
            cond.get("hooks") is not None for conds in self.guider.conds.values() for cond in conds
        )

        def possible(level: Level) -> bool:
            if level.parts and hooked:
                return False
            return level.parts != "blocks" or bool(self._recomputation.blocks.repeated)

        return tuple(filter(possible, LEVELS))

    def measured(self, noise: torch.Tensor) -> tuple[Meter, torch.Tensor]:
        """What the first call of a run would keep for its backward pass, and its prediction.

        Nothing is kept, so that this needs no more memory than sampling does.

        Args:
            noise: as of a run.
        """
        return self.recovering(self._measure, noise)

    def _measure(self, noise: torch.Tensor) -> tuple[Meter, torch.Tensor]:
        meter = Meter(
            self.keeper,
            self.guider.inner_model.diffusion_model,
            self._recomputation.blocks.repeated,
        )
        plan = self.plan
        self.plan = replace(plan, level=PROMPTS)  # whose calls are told apart
        try:
            self._run_sampler(_MeteredGuider(self.guider, meter), self._run.sigmas, noise, _ignore)
        except _Measured as found:
            return meter, found.prediction
        finally:
            self.plan = plan
        raise SeedSelectError("sampler: it calls no model. Connect another one.")

    def _thinned(self, steps: int) -> torch.Tensor:
        sigmas = self._run.sigmas
        if 0 < steps < self.steps:
            return sigmas[torch.linspace(0, self.steps, steps + 1).round().long()]
        return sigmas

    def _sample(self, noise, sigmas, collect: Callable, exact: Callable, run: tuple):
        def count(pictures: int) -> None:
            self.evaluations += pictures

        before = self._differentiated.get(run)

        def kept(number: int) -> bool:
            # Those that are made last are used first, and give way to the others.
            known = self.plan.level.keeps and before is not None
            return known and number >= before - self.plan.kept_calls

        guider = CheckpointedGuider(
            self.guider, self._recomputation, count, exact, self.plan.level, kept
        )
        trusted = CALLS_PER_STEP * (len(sigmas) - 1) if self._trusts else 0
        with self.keeper.waiting() if self.plan.level.away else contextlib.nullcontext():
            final = self._run_sampler(Watched(guider, trusted), sigmas, noise, collect)
        if torch.is_grad_enabled():
            self._differentiated[run] = guider.differentiated
        return final

    def _run_sampler(self, guider, sigmas, noise, collect: Callable) -> torch.Tensor:
        self._recomputation.state.restore(self._fresh)
        with self._recomputation.views.where_needed():
            return self._sampler.sample(
                guider,
                sigmas,
                dict(self._run.extra_args),
                collect,
                noise,
                # A part of the batch is only ever run alone where its latents are all the same.
                self._run.latent_image[: len(noise)],
                self._run.denoise_mask,
                True,
            )


class MoreRoom(Exception):
    """Raised by a search that cannot begin before weights have left the device.

    Attributes:
        size: bytes that should be free.
    """

    def __init__(self, size: int):
        super().__init__(f"{size} bytes are needed")
        self.size = size


class _Measured(Exception):
    """Ends a run whose first call has been measured."""

    def __init__(self, prediction: torch.Tensor):
        super().__init__()
        self.prediction = prediction


class _MeteredGuider:
    """A guider whose first prediction is metered, and ends the run."""

    def __init__(self, guider, meter: Meter):
        self._guider = guider
        self._meter = meter

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, model_options=None, seed=None):
        with torch.enable_grad(), self._meter.counting():
            x = x.detach().requires_grad_()
            prediction = self._guider(x, timestep, model_options=model_options or {}, seed=seed)
        raise _Measured(prediction.detach())


def _ignore(*_) -> None:
    pass


@contextlib.contextmanager
def _liberties(
    guider, modules: Sequence[torch.nn.Module], options: dict, prompts_apart: Callable[[], bool]
) -> Iterator[None]:
    """Every liberty taken with the host for the length of a search.

    Args:
        modules: of all models that take part.
        options: the ``transformer_options`` that are sampled with.
        prompts_apart: whether the prompts of a call are to be run one by one.
    """
    with (
        gradients_enabled(),
        fixed_free_memory(prompts_apart),
        out_of_memory_told(),
        differentiable_samplers(),
        differentiable_rope(),
        lightricks_rope_as_sampled(guider.inner_model.diffusion_model),
        pinned_weights(),
        borrowed_weights(*modules),
        quantized_layers(*modules),
        differentiable_attention(options),
        uncompiled(options),
    ):
        yield


class _Unrolled(comfy.samplers.Sampler):
    """What the host takes for a sampler: it is handed the loaded model and runs ``search``."""

    def __init__(self, sampler, search, patchers):
        self._sampler = sampler
        self._search = search
        self._patchers = patchers

    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        models = [*model_wrap.loaded_models, *self._patchers]
        if self._patchers:
            # All in one call: what sampling needs must not make room for the encoders.
            comfy.model_management.load_models_gpu([model_wrap.model_patcher, *models])
        run = _Run(sigmas, extra_args, latent_image, denoise_mask)
        try:
            return self._searched(model_wrap, models, run, noise)
        except MoreRoom as wish:
            size = wish.size
        # The host keeps a part of the weights elsewhere then, and moves it in for each call.
        comfy.model_management.free_memory(size, noise.device)
        return self._searched(model_wrap, models, run, noise)

    def _searched(self, model_wrap, models: list, run: _Run, noise: torch.Tensor) -> torch.Tensor:
        modules = {id(m): m for m in [model_wrap.inner_model, *(p.model for p in models)]}
        modules = list(modules.values())
        conds = model_wrap.conds
        options = run.extra_args["model_options"]
        inside = options["transformer_options"]
        chain: Chain | None = None
        made = MadeWeights()
        views = OrdinaryViews()
        with (
            _liberties(model_wrap, modules, inside, lambda: _runs_prompts_apart(chain)),
            made.noticed(modules),
        ):
            try:
                model_wrap.conds = ordinary_views(conds)
                state = GuiderState(model_wrap, options, views)
                keeper = Keeper(storages(modules), made)
                blocks = Blocks(model_wrap.inner_model.diffusion_model, state, views)
                recomputation = Recomputation(state, views, keeper, blocks)
                chain = Chain(self._sampler, run.viewed(), recomputation, model_wrap)
                return self._search(chain, ordinary_view(noise).clone())
            finally:
                model_wrap.conds = conds


def _runs_prompts_apart(chain: Chain | None) -> bool:
    return chain is not None and chain.plan.level.parts == "prompts"


def unrolled_sampling(
    denoising: Denoising,
    noise: torch.Tensor,
    latent_image: torch.Tensor,
    search: Callable[[Chain, torch.Tensor], torch.Tensor],
    *,
    patchers: Sequence[comfy.model_patcher.ModelPatcher] = (),
    noise_mask: torch.Tensor | None = None,
    seed: int | None = None,
    needs_gradient: bool = True,
) -> Any:
    """Run ``search`` where the guider would sample, with gradients on and weights lent to autograd.

    Args:
        noise: [B, C, h, w] or [B, C, T, h, w], unit Gaussian.
        latent_image: like the noise; zeros for text to image.
        search: gets the `Chain` and the noise on the model's device, and returns the final latent
            in the model's scaled latent space.
        patchers: further models that the search calls (encoders), loaded beside the diffusion
            model.
        noise_mask: the LATENT's noise mask, for inpainting.
        seed: for samplers that add noise on the way.
        needs_gradient: whether ``search`` differentiates; any sampler and model will do otherwise.

    Returns:
        The final latent in the VAE's space, as the host's sampling functions return it.

    Raises:
        SeedSelectError: the sampler or the model cannot be differentiated.
    """
    guider = denoising.guider
    if needs_gradient:
        require_sampler(denoising.sampler)
        require_family(guider.model_patcher)
    unrolled = _Unrolled(without_no_grad(denoising.sampler), search, list(patchers))
    return guider.sample(
        noise,
        latent_image,
        unrolled,
        denoising.sigmas,
        noise_mask,
        disable_pbar=True,
        seed=seed,
    )
