"""From noise to denoised latent with exact gradients, through the host's own guider and sampler.

The chain x_T -> x_{T-1} -> ... -> x_0 is the host's sampler itself. Each model call is a
checkpoint: its activations are thrown away and computed again in the backward pass, so that only a
few latents a step are kept and activation memory does not depend on the number of steps (Chen et
al. 2016, arXiv 1604.06174). Checkpoints are of the non-reentrant kind, because some samplers read
intermediate predictions beside the model's return value, and a reentrant one would lose that path.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from .host.attention import differentiable_attention
from .host.borrowed_weights import borrowed_weights, ordinary_view, ordinary_views
from .host.call_memory import CallMemory, require_same
from .host.differentiable_rope import differentiable_rope
from .host.differentiable_samplers import (
    differentiable_samplers,
    require_sampler,
    without_no_grad,
)
from .host.inference_tensors import inference_tensors_as_ordinary
from .host.lightricks_rope import lightricks_rope_as_sampled
from .host.modes import gradients_enabled, steady_memory
from .host.quantised_layers import quantised_layers
from .host.refused_families import require_family
from .host.steady_weights import steady_weights
from .host.uncompiled import uncompiled
from .host.unspoilt_activations import storages, unspoilt_activations


class _CheckpointedGuider:
    """A guider whose every prediction is recomputed in the backward pass."""

    def __init__(self, guider: comfy.samplers.CFGGuider, weights, memory, on_call, exact):
        self._guider, self._weights, self._memory = guider, weights, memory
        self._on_call, self._exact = on_call, exact

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, model_options=None, seed=None):
        def predict(x, timestep):
            self._on_call(len(x))
            return self._guider(x, timestep, model_options=model_options or {}, seed=seed)

        if not torch.is_grad_enabled() or not self._exact(timestep):
            with torch.no_grad():
                return predict(x, timestep)
        state, first = self._memory.noted(), None

        def predict_alike(x, timestep):
            nonlocal first
            if first is None:
                prediction = predict(x, timestep)
                first = prediction.detach().clone()
                return prediction
            # The backward pass runs with the modes of the forward pass switched off.
            with (
                inference_tensors_as_ordinary(),
                self._memory.recalled(state),
                unspoilt_activations(self._weights),
            ):
                prediction = predict(x, timestep)
            require_same(prediction.detach(), first)
            return prediction

        # Stopped early, a recomputation would leave the host's loops by an exception.
        with set_checkpoint_early_stop(False):
            return checkpoint(predict_alike, x, timestep, use_reentrant=False)


class Chain:
    """The whole sampling chain as a function of the noise. Made by `unrolled_sampling`.

    Attributes:
        steps: denoising steps.
        evaluations: predictions made so far, one for each picture, those that the backward pass
            makes again included.
        ends_noisy: whether the schedule stops above zero, so that the sampler returns noise too.
        final: what the sampler returned at the last run, without its history.
    """

    def __init__(self, guider, weights, sampler, sigmas, extra_args, latent_image, denoise_mask):
        self.guider, self._weights = guider, weights
        self.steps, self.evaluations = len(sigmas) - 1, 0
        # The host's uni_pc writes this small number over a last sigma of zero.
        self.ends_noisy = bool(sigmas[-1] > 0.001)
        self.final: torch.Tensor | None = None
        self._sampler, self._sigmas, self._extra_args = sampler, sigmas, extra_args
        self._latent_image, self._denoise_mask = latent_image, denoise_mask
        self._memory = CallMemory(guider, extra_args["model_options"])
        self._fresh = self._memory.noted()

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
        self._memory.restore(self._fresh)
        denoised: list[torch.Tensor] = []
        sigmas = self._sigmas
        if 0 < steps < self.steps:
            sigmas = sigmas[torch.linspace(0, self.steps, steps + 1).round().long()]
        first_exact = max(0, len(sigmas) - 1 - gradient_steps) if gradient_steps else 0
        finished = 0

        def collect(step, prediction, x, total):
            nonlocal finished
            finished = step + 1
            denoised.append(prediction)
            del denoised[:-keep]
            if on_step is not None:
                on_step(step, prediction.detach())

        def count(pictures):
            self.evaluations += pictures

        def exact(timestep):
            # "dpm_fast" does not tell of every step it makes, so that steps cannot only be counted.
            late = finished >= first_exact
            return late or bool((timestep < sigmas[first_exact]).all())

        final = self._sampler.sample(
            _CheckpointedGuider(self.guider, self._weights, self._memory, count, exact),
            sigmas,
            dict(self._extra_args),
            collect,
            noise,
            # A part of the batch is only ever run alone where its latents are all the same.
            self._latent_image[: len(noise)],
            self._denoise_mask,
            True,
        )
        self.final = final.detach()
        if self.ends_noisy:
            return denoised
        # The prediction at the last step is the result, but for samplers that correct it once more.
        return [*denoised[:-1], final]


class _Unrolled(comfy.samplers.Sampler):
    """What the host takes for a sampler: it is handed the loaded model and runs ``search``."""

    def __init__(self, sampler, search, patchers):
        self._sampler, self._search, self._patchers = sampler, search, patchers

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
        conds = model_wrap.conds
        options = extra_args["model_options"]["transformer_options"]
        with (
            gradients_enabled(),
            inference_tensors_as_ordinary(),
            steady_memory(),
            differentiable_samplers(),
            differentiable_rope(),
            lightricks_rope_as_sampled(),
            steady_weights(),
            borrowed_weights(*modules.values()),
            quantised_layers(*modules.values()),
            differentiable_attention(options),
            uncompiled(options),
        ):
            try:
                model_wrap.conds = ordinary_views(conds)
                chain = Chain(
                    model_wrap,
                    storages(modules.values()),
                    self._sampler,
                    ordinary_view(sigmas),
                    extra_args,
                    ordinary_view(latent_image),
                    None if denoise_mask is None else ordinary_view(denoise_mask),
                )
                return self._search(chain, ordinary_view(noise).clone())
            finally:
                model_wrap.conds = conds


def unrolled_sampling(
    guider: comfy.samplers.CFGGuider,
    sampler: comfy.samplers.Sampler,
    sigmas: torch.Tensor,
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
        guider: the host's guider, conditionings set. Its model, hooks and ControlNets are loaded
            and cleaned up by the host itself.
        sampler: the host's sampler object, as `comfy.samplers.sampler_object` makes it.
        sigmas: [steps + 1], descending.
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
    if needs_gradient:
        require_sampler(sampler)
        require_family(guider.model_patcher)
    unrolled = _Unrolled(without_no_grad(sampler), search, list(patchers))
    return guider.sample(
        noise, latent_image, unrolled, sigmas, noise_mask, disable_pbar=True, seed=seed
    )
