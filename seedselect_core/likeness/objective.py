"""The loss of a sampled batch, seed by seed."""

from collections.abc import Callable
from dataclasses import dataclass

import comfy.utils
import torch

from ..memory.recompute import recomputed
from .encoders import ImageEncoder
from .losses import appearance_loss, contrast_loss, norm_prior, semantic_loss
from .targets import Targets
from .vae import VaeCodec
from .views import apply_views
from .weights import LossWeights


@dataclass
class Losses:
    """One value per seed, each [B]; ``images`` [B, H, W, 3] are the final pictures, detached."""

    total: torch.Tensor
    semantic: torch.Tensor
    appearance: torch.Tensor
    norm: torch.Tensor
    images: torch.Tensor

    def joined(self) -> "Losses":
        """Those of the frames of one video: every frame has the mean."""
        means = (
            x.mean().expand_as(x) for x in (self.total, self.semantic, self.appearance, self.norm)
        )
        return Losses(*means, self.images)


@dataclass(frozen=True)
class Objective:
    """The total loss of `LossWeights`, of pictures that a chain has ended in.

    Attributes:
        process_latent_out: the model's, from its scaled latent space to the VAE's.
    """

    encoder: ImageEncoder
    codec: VaeCodec
    targets: Targets
    weights: LossWeights
    process_latent_out: Callable[[torch.Tensor], torch.Tensor]

    def __call__(
        self,
        noise: torch.Tensor,
        denoised: list[torch.Tensor],
        rows: torch.Tensor | None = None,
        *,
        one_by_one: bool = False,
    ) -> Losses:
        """Losses of ``noise`` [B, C, ...] whose chain ended in ``denoised`` (final last).

        Args:
            rows: [B], which seeds of the whole batch these are; None for all.
            one_by_one: decode and compare picture by picture, which needs memory for one.
        """
        aim, layout = self.targets.of_rows(rows)
        weights = self.weights.of_last(len(denoised))
        semantic = 0.0
        contrast = 0.0
        images = None
        for weight, latent in zip(weights, denoised[-len(weights) :], strict=True):
            loss, push, images = self._compared(latent, aim, one_by_one)
            semantic = semantic + weight * loss.to(noise.device)
            contrast = contrast + weight * push.to(noise.device)
        layout = layout.to(denoised[-1]).view(-1, *layout.shape[-denoised[-1].ndim + 1 :])
        if layout.shape[-2:] != denoised[-1].shape[-2:]:  # a sampler may upscale on the way
            height, width = denoised[-1].shape[-2:]
            layout = comfy.utils.common_upscale(layout, width, height, "bilinear", "disabled")
        appearance = appearance_loss(denoised[-1], layout)
        norm = norm_prior(noise)
        w = self.weights
        total = w.semantic * semantic + w.appearance * appearance
        total = total + w.norm * norm + w.contrast * contrast
        parts = (part.detach() for part in (semantic, appearance, norm))
        return Losses(total, *parts, images.detach())

    def _compared(
        self, latent: torch.Tensor, aim: torch.Tensor, one_by_one: bool
    ) -> tuple[torch.Tensor, ...]:
        if not one_by_one:
            return self._compare(latent, aim)
        aims = aim if aim.ndim == 2 else [aim] * len(latent)
        parts = [self._compare(one[None], own) for one, own in zip(latent, aims, strict=True)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _compare(self, latent: torch.Tensor, aim: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Semantic and contrast loss [B] (mean of the views) and picture [B, H, W, 3]."""

        def decode_and_compare(latent):
            images = self.codec.decode(self.process_latent_out(latent))
            views = self.encoder(apply_views(images, self.targets.views))
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
