"""The loss of a sampled batch, seed by seed."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import comfy.utils
import torch

from ..host.session import OrdinaryViews
from ..memory.blocks import Blocks
from ..memory.meter import Meter
from ..memory.plan import Plan
from ..memory.recompute import recomputed
from ..memory.saved import Keeper
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

    def detached(self) -> "Losses":
        """The same values without their history."""
        return Losses(*(getattr(self, part.name).detach() for part in fields(self)))

    @classmethod
    def together(cls, parts: Sequence["Losses"]) -> "Losses":
        """Those of all seeds of several parts of a batch."""
        return cls(
            *(torch.cat([getattr(part, value.name) for part in parts]) for value in fields(cls))
        )


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
        keeper: Keeper,
        plan: Plan,
    ) -> Losses:
        """Losses of ``noise`` [B, C, ...] whose chain ended in ``denoised`` (final last).

        Args:
            rows: [B], which seeds of the whole batch these are; None for all.
            keeper: chooses what is kept for the backward pass.
            plan: whether the decoder is differentiated in strips of rows, and the encoder block by
                block; and whether activations are kept, or made again.
        """
        aim, layout = self.targets.of_rows(rows)
        weights = self.weights.of_last(len(denoised))
        semantic = 0.0
        contrast = 0.0
        images = None
        for weight, latent in zip(weights, denoised[-len(weights) :], strict=True):
            loss, push, images = self._compared(latent, aim, keeper, plan)
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

    def metered(self, latent: torch.Tensor, keeper: Keeper, strips: bool = False) -> Meter:
        """What it takes to decode and compare ``latent`` [1, C, ...] with a gradient."""
        meter = Meter(keeper, self.codec.patcher.model, [])
        aim, _ = self.targets.of_rows(torch.zeros(1, dtype=torch.long))
        with OrdinaryViews(), torch.enable_grad(), meter.counting():
            self._compare(latent.detach().requires_grad_(), aim, keeper, strips)
        return meter

    @functools.cached_property
    def _encoder_blocks(self) -> Blocks:
        views = OrdinaryViews()
        views.needed = True  # as for all of this, see `recomputed`
        return Blocks(self.encoder.patcher.model, None, views)

    def _compared(
        self, latent: torch.Tensor, aim: torch.Tensor, keeper: Keeper, plan: Plan
    ) -> tuple[torch.Tensor, ...]:
        """`_compare` picture by picture, which needs memory for one."""
        aims = aim if aim.ndim == 2 else [aim] * len(latent)

        def one_picture(latent: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
            def compare(latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return self._compare(latent, own, keeper, plan.strips)

            return recomputed(compare, latent, keeper, plan.keeps_pictures)

        parts = [one_picture(one[None], own) for one, own in zip(latent, aims, strict=True)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _compare(
        self, latent: torch.Tensor, aim: torch.Tensor, keeper: Keeper, strips: bool
    ) -> tuple[torch.Tensor, ...]:
        """Semantic and contrast loss [B] (mean of the views) and picture [B, H, W, 3]."""
        with self.codec.strips.cut() if strips else contextlib.nullcontext():
            images = self.codec.decode(self.process_latent_out(latent))
        with self._encoder_blocks.apart("blocks" if strips else "", keeper):
            views = self.encoder(apply_views(images, self.targets.views))
        # View by view, [V, B, D], so that each seed meets its own target.
        embeddings = views.view(-1, len(images), views.shape[-1])
        target = aim.to(views)
        loss = semantic_loss(embeddings, target).mean(0)
        if self.targets.contrast is None:
            return loss, torch.zeros_like(loss), images
        push = contrast_loss(embeddings, target, self.targets.contrast.to(views))
        return loss, push.mean(0), images
