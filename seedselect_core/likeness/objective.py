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
from .losses import appearance_loss, norm_prior
from .targets import Targets
from .vae import VaeCodec
from .weights import LossWeights


@dataclass
class Losses:
    """One value per seed, each [B].

    Attributes:
        total: what is descended on.
        semantic: by the first encoder.
        images: [B, H, W, 3], the final pictures, detached.
        opinion: semantic loss by an encoder that is never descended on, or None.
        rank: what the best is chosen by: ``total``, but with the semantic loss of the second
            opinion where that is the less convinced of the two, each over its own spread of the
            references. So no picture is better than either finds it, and one that an encoder was
            talked into is not the best.
    """

    total: torch.Tensor
    semantic: torch.Tensor
    appearance: torch.Tensor
    norm: torch.Tensor
    images: torch.Tensor
    opinion: torch.Tensor | None = None
    rank: torch.Tensor | None = None

    def __post_init__(self):
        if self.rank is None:
            self.rank = self.total.detach()

    def joined(self) -> "Losses":
        """Those of the frames of one video: every frame has the mean."""
        return self._each(lambda x: x.mean().expand_as(x) if x.ndim == 1 else x)

    def detached(self) -> "Losses":
        """The same values without their history."""
        return self._each(torch.Tensor.detach)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Losses":
        values = (getattr(self, part.name) for part in fields(self))
        return Losses(*(None if value is None else change(value) for value in values))

    @classmethod
    def together(cls, parts: Sequence["Losses"]) -> "Losses":
        """Those of all seeds of several parts of a batch."""
        values = ([getattr(part, value.name) for part in parts] for value in fields(cls))
        return cls(*(None if value[0] is None else torch.cat(value) for value in values))


@dataclass(frozen=True)
class Objective:
    """The total loss of `LossWeights`, of pictures that a chain has ended in.

    Where there are several encoders, the semantic and contrast losses are the means of theirs, each
    over its encoder's own spread of the references, in units of the first.

    Attributes:
        process_latent_out: the model's, from its scaled latent space to the VAE's.
    """

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
            plan: whether the decoder is differentiated in strips of rows, and the encoders block by
                block; and whether activations are kept, or made again.
        """
        places = list(range(len(noise))) if rows is None else rows.tolist()
        weights = self.weights.of_last(len(denoised))
        semantic = 0.0
        pull = 0.0
        contrast = 0.0
        images = None
        for weight, latent in zip(weights, denoised[-len(weights) :], strict=True):
            *losses, images = self._compared(latent, places, keeper, plan)
            first, loss, push = (x.to(noise.device) for x in losses)
            semantic = semantic + weight * first
            pull = pull + weight * loss
            contrast = contrast + weight * push
        appearance = self._appearance(denoised[-1], places)
        norm = norm_prior(noise)
        images = images.detach()
        w = self.weights
        total = w.semantic * pull + w.appearance * appearance
        total = total + w.norm * norm + w.contrast * contrast
        parts = (part.detach() for part in (semantic, appearance, norm))
        opinion, doubt = self._opinion(images, places, pull.detach())
        return Losses(total, *parts, images, opinion, total.detach() + w.semantic * doubt)

    def metered(self, latent: torch.Tensor, keeper: Keeper, strips: bool = False) -> Meter:
        """What it takes to decode and compare ``latent`` [1, C, ...] with a gradient."""
        meter = Meter(keeper, self.codec.patcher.model, [])
        with OrdinaryViews(), torch.enable_grad(), meter.counting():
            self._compare(latent.detach().requires_grad_(), 0, keeper, strips)
        return meter

    @functools.cached_property
    def _encoder_blocks(self) -> list[Blocks]:
        """Of the encoder of each comparison."""
        views = OrdinaryViews()
        views.needed = True  # as for all of this, see `recomputed`
        comparisons = self.targets.comparisons
        return [Blocks(one.encoder.patcher.model, None, views) for one in comparisons]

    def _appearance(self, latents: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
        layout = self.targets.appearance_of(places)
        layout = layout.to(latents).view(-1, *layout.shape[-latents.ndim + 1 :])
        if layout.shape[-2:] != latents.shape[-2:]:  # a sampler may upscale on the way
            height, width = latents.shape[-2:]
            layout = comfy.utils.common_upscale(layout, width, height, "bilinear", "disabled")
        return appearance_loss(latents, layout)

    @torch.no_grad()
    def _opinion(
        self, images: torch.Tensor, places: Sequence[int], pull: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What the second opinion is [B], and by how much more than ``pull`` [B] that is."""
        second = self.targets.opinion
        if second is None:
            return None, torch.zeros_like(pull)
        pictures = images.split(1)
        losses = [second(image, place)[0] for image, place in zip(pictures, places, strict=True)]
        opinion = torch.cat(losses).to(pull.device)
        doubt = second.in_units_of(self.targets.comparisons[0]) * opinion - pull
        return opinion, doubt.clamp_min(0)

    def _compared(
        self,
        latent: torch.Tensor,
        places: Sequence[int],
        keeper: Keeper,
        plan: Plan,
    ) -> tuple[torch.Tensor, ...]:
        """`_compare` picture by picture, which needs memory for one."""

        def one_picture(latent: torch.Tensor, place: int) -> tuple[torch.Tensor, ...]:
            compare = functools.partial(
                self._compare, place=place, keeper=keeper, strips=plan.strips
            )
            return recomputed(compare, latent, keeper, plan.keeps_pictures)

        parts = [one_picture(one[None], own) for one, own in zip(latent, places, strict=True)]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def _compare(
        self, latent: torch.Tensor, place: int, keeper: Keeper, strips: bool
    ) -> tuple[torch.Tensor, ...]:
        """What `_look` tells of the picture of ``latent`` [1, C, ...], and that [1, H, W, 3]."""
        with self.codec.strips.cut() if strips else contextlib.nullcontext():
            images = self.codec.decode(self.process_latent_out(latent))
        return *self._look(images, place, keeper, strips), images

    def _look(
        self, image: torch.Tensor, place: int, keeper: Keeper, strips: bool
    ) -> tuple[torch.Tensor, ...]:
        """The first encoder's semantic loss, and semantic and contrast loss of all, [1] each.

        Args:
            image: [1, H, W, 3].
            place: of its seed in the whole batch.
        """
        first = self.targets.comparisons[0]
        semantic = []
        contrast = []
        for comparison, blocks in zip(self.targets.comparisons, self._encoder_blocks, strict=True):
            with blocks.apart("blocks" if strips else "", keeper):
                losses = comparison(image, place)
            loss, push = (x.to(image.device) * comparison.in_units_of(first) for x in losses)
            semantic.append(loss)
            contrast.append(push)
        count = len(semantic)
        return semantic[0].detach(), sum(semantic) / count, sum(contrast) / count
