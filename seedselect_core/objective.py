"""The loss of a sampled batch, seed by seed."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from .encoders import ImageEncoder, VaeCodec
from .losses import appearance_loss, contrast_loss, norm_prior, semantic_loss
from .settings import Settings
from .targets import Targets
from .views import see


@dataclass
class Losses:
    """One value per seed, each [B]; ``images`` [B, H, W, 3] are the final pictures, detached."""

    total: torch.Tensor
    semantic: torch.Tensor
    appearance: torch.Tensor
    norm: torch.Tensor
    images: torch.Tensor


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
        """Losses of ``noise`` [B, C, h, w] whose chain ended in ``denoised`` (final last).

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
        appearance = appearance_loss(denoised[-1], layout.to(denoised[-1]))
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

        if not torch.is_grad_enabled():
            return decode_and_compare(latent)
        return checkpoint(decode_and_compare, latent, use_reentrant=False)
