"""From noise to denoised latent with exact gradients, through the host's own guider and sampler.

The chain x_T -> x_{T-1} -> ... -> x_0 is the host's sampler itself. Each model call is a checkpoint
(`seedselect_core.memory.recompute`).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch

from ..host.calls import GuiderState
from ..host.families import require_family
from ..host.layers import (
    differentiable_attention,
    differentiable_rope,
    lightricks_rope_as_sampled,
    storages,
)
from ..host.samplers import differentiable_samplers, require_sampler, without_no_grad
from ..host.session import OrdinaryViews, fixed_free_memory, gradients_enabled, uncompiled
from ..host.weights import (
    borrowed_weights,
    ordinary_view,
    ordinary_views,
    pinned_weights,
    quantized_layers,
)
from ..memory.blocks import Blocks
from ..memory.recompute import CheckpointedGuider, Recomputation


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


class Chain:
    """The whole sampling chain as a function of the noise. Made by `unrolled_sampling`.

    Attributes:
        guider: the host's, its model loaded.
        steps: denoising steps.
        evaluations: predictions made so far, one for each picture, those that the backward pass
            makes again included.
        ends_noisy: whether the schedule stops above zero, so that the sampler returns noise too.
        final: what the sampler returned at the last run, without its history.
        by_blocks: whether the backward pass makes each call again block by block, see `spare`.
    """

    def __init__(self, sampler, run: _Run, recomputation: Recomputation, guider):
        self.guider = guider
        self.steps = len(run.sigmas) - 1
        self.evaluations = 0
        # The host's uni_pc writes this small number over a last sigma of zero.
        self.ends_noisy = bool(run.sigmas[-1] > 0.001)
        self.final: torch.Tensor | None = None
        self.by_blocks = False
        self._sampler = sampler
        self._run = run
        self._recomputation = recomputation
        self._fresh = recomputation.state.snapshot()

    def __call__(
        self,
        noise: torch.Tensor,
        keep: int = 1,
        on_step: Callable[[int, torch.Tensor], None] | None = None,
        *,
        steps: int = 0,
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
            gradient_steps: the predictions of so many last steps are differentiated, 0 for all.

        Returns:
            ``keep`` tensors like ``noise`` in the model's scaled latent space, fewer where the
            chain is shorter. The last is what the sampler returns; before it stand the predictions
            of the clean latent at the steps before the last. Of a schedule that stops above zero,
            the last is a prediction too.
        """
        self._recomputation.state.restore(self._fresh)
        sigmas = self._thinned(steps)
        first_exact = max(0, len(sigmas) - 1 - gradient_steps) if gradient_steps else 0
        denoised: list[torch.Tensor] = []
        finished = 0

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

        final = self._sample(noise, sigmas, collect, exact)
        self.final = final.detach()
        if self.ends_noisy:
            return denoised
        # The prediction at the last step is the result, but for samplers that correct it once more.
        return [*denoised[:-1], final]

    def spare(self) -> bool:
        """Need less memory from now on, for the same gradient; False where there is no way left.

        Hooks exchange weights between the prompts of one call, which a block that is made again
        would not meet again.
        """
        hooked = any(
            cond.get("hooks") is not None for conds in self.guider.conds.values() for cond in conds
        )
        if self.by_blocks or hooked or not len(self._recomputation.blocks):
            return False
        self.by_blocks = True
        return True

    def _thinned(self, steps: int) -> torch.Tensor:
        sigmas = self._run.sigmas
        if 0 < steps < self.steps:
            return sigmas[torch.linspace(0, self.steps, steps + 1).round().long()]
        return sigmas

    def _sample(self, noise, sigmas, collect: Callable, exact: Callable) -> torch.Tensor:
        def count(pictures: int) -> None:
            self.evaluations += pictures

        return self._sampler.sample(
            CheckpointedGuider(self.guider, self._recomputation, count, exact, self.by_blocks),
            sigmas,
            dict(self._run.extra_args),
            collect,
            noise,
            # A part of the batch is only ever run alone where its latents are all the same.
            self._run.latent_image[: len(noise)],
            self._run.denoise_mask,
            True,
        )


@contextlib.contextmanager
def _liberties(
    guider, modules: Sequence[torch.nn.Module], options: dict
) -> Iterator[OrdinaryViews]:
    """Every liberty taken with the host for the length of a search.

    Args:
        modules: of all models that take part.
        options: the ``transformer_options`` that are sampled with.
    """
    with (
        gradients_enabled(),
        OrdinaryViews() as views,
        fixed_free_memory(),
        differentiable_samplers(),
        differentiable_rope(),
        lightricks_rope_as_sampled(guider.inner_model.diffusion_model),
        pinned_weights(),
        borrowed_weights(*modules),
        quantized_layers(*modules),
        differentiable_attention(options),
        uncompiled(options),
    ):
        yield views


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
        modules = {id(m): m for m in [model_wrap.inner_model, *(p.model for p in models)]}
        modules = list(modules.values())
        conds = model_wrap.conds
        model_options = extra_args["model_options"]
        with _liberties(model_wrap, modules, model_options["transformer_options"]) as views:
            try:
                model_wrap.conds = ordinary_views(conds)
                run = _Run(
                    ordinary_view(sigmas),
                    extra_args,
                    ordinary_view(latent_image),
                    None if denoise_mask is None else ordinary_view(denoise_mask),
                )
                state = GuiderState(model_wrap, model_options, views)
                weights = storages(modules)
                blocks = Blocks(model_wrap.inner_model.diffusion_model, state, views, weights)
                recomputation = Recomputation(state, views, weights, blocks)
                chain = Chain(self._sampler, run, recomputation, model_wrap)
                return self._search(chain, ordinary_view(noise).clone())
            finally:
                model_wrap.conds = conds


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
