"""The loss of a sampled batch, seed by seed."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.utils
import torch
from torch.utils.checkpoint import checkpoint

from .encoders import ImageEncoder
from .host.inference_tensors import inference_tensors_as_ordinary
from .host.unspoilt_activations import storages, unspoilt_activations
from .losses import appearance_loss, contrast_loss, norm_prior, semantic_loss
from .settings import Settings
from .targets import Targets
from .vae_codec import VaeCodec
from .views import see


@dataclass
class Losses:
    """One value per seed, each [B]; ``images`` [B, H, W, 3] are the final pictures, detached."""

    total: torch.Tensor
    semantic: torch.Tensor
    appearance: torch.Tensor
    norm: torch.Tensor
    images: torch.Tensor

    def joined(self) -> "Losses":
        """Those of the frames of one film: every frame has the mean."""
        means = (
            x.mean().expand_as(x) for x in (self.total, self.semantic, self.appearance, self.norm)
        )
        return Losses(*means, self.images)


@dataclass(frozen=True)
class Objective:
    """L = w_s * semantic + w_a * appearance + w_n * norm prior (SeedSelect, arXiv 2304.14530).

    Where there is a neighbouring concept to push away from, + w_c * contrast.

    Attributes:
        process_latent_out: the model's, from its scaled latent space to the VAE's.
    """

    encoder: ImageEncoder
    codec: VaeCodec
    targets: Targets
    settings: Settings
    process_latent_out: Callable[[torch.Tensor], torch.Tensor]

    def __call__(
        self, noise: torch.Tensor, denoised: list[torch.Tensor], rows: torch.Tensor | None = None
    ) -> Losses:
        """Losses of ``noise`` [B, C, ...] whose chain ended in ``denoised`` (final last).

        Args:
            rows: [B], which seeds of the whole batch these are; None for all.
        """
        aim, layout = self.targets.of_rows(rows)
        # A chain shorter than the weights keeps the weights of its own last steps.
        weights = self.settings.step_weights[-len(denoised) :]
        weights = [weight / sum(weights) for weight in weights]
        semantic, contrast, images = 0.0, 0.0, None
        for weight, latent in zip(weights, denoised[-len(weights) :], strict=True):
            loss, push, images = self._see(latent, aim)
            semantic = semantic + weight * loss.to(noise.device)
            contrast = contrast + weight * push.to(noise.device)
        layout = layout.to(denoised[-1]).view(-1, *layout.shape[-denoised[-1].ndim + 1 :])
        if layout.shape[-2:] != denoised[-1].shape[-2:]:  # a sampler may upscale on the way
            height, width = denoised[-1].shape[-2:]
            layout = comfy.utils.common_upscale(layout, width, height, "bilinear", "disabled")
        appearance = appearance_loss(denoised[-1], layout)
        norm = norm_prior(noise)
        s = self.settings
        total = s.semantic_weight * semantic + s.appearance_weight * appearance
        total = total + s.norm_weight * norm + s.contrast_weight * contrast
        parts = (part.detach() for part in (semantic, appearance, norm))
        return Losses(total, *parts, images.detach())

    def _see(self, latent: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Semantic and contrast loss [B] (mean of the views) and picture [B, H, W, 3]."""

        def decode_and_compare(latent):
            images = self.codec.decode(self.process_latent_out(latent))
            views = self.encoder(see(images, self.targets.views))
            # View by view, [V, B, D], so that each seed meets its own target.
            embeddings = views.view(-1, len(images), views.shape[-1])
            target = aim.to(views)
            loss = semantic_loss(embeddings, target).mean(0)
            if self.targets.contrast is None:
                return loss, torch.zeros_like(loss), images
            push = contrast_loss(embeddings, target, self.targets.contrast.to(views))
            return loss, push.mean(0), images

        modules = (self.codec.patcher.model, self.encoder.patcher.model)
        return recomputed(decode_and_compare, latent, modules)


def recomputed(
    function: Callable, latent: torch.Tensor, modules: Sequence[torch.nn.Module]
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """``function(latent)``, whose activations are thrown away and computed again when needed.

    Tensors made in inference mode that are no weights, as the mean and spread of a latent format,
    may take part.

    Args:
        modules: those whose weights it uses. Some overwrite their activations.
    """
    if not torch.is_grad_enabled():
        return function(latent)

    def call(latent):
        with inference_tensors_as_ordinary():
            return function(latent)

    def contexts():
        return contextlib.nullcontext(), unspoilt_activations(storages(modules))

    return checkpoint(call, latent, use_reentrant=False, context_fn=contexts)
