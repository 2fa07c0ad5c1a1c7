"""What the seed is pulled towards: the references, seen by the encoder and by the VAE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..references import ReferenceSet
from .encoders import ImageEncoder, encode_references
from .losses import centroid, semantic_loss
from .vae import VaeCodec
from .views import apply_views, draw_views


@dataclass(frozen=True)
class Targets:
    """Ordinary tensors that the losses compare with.

    Attributes:
        embeddings: unit vectors [k, D], one for each reference (the centroid of its views).
        latents: [k, C, h, w], their latents in the model's scaled latent space; [k, C, 1, h, w]
            where the model has latents of videos.
        semantic: unit vector, the centroid of the embeddings: [D], or one for each seed, [B, D].
        appearance: the mean of the latents: [C, ...], or [B, C, ...].
        views: [V, 2, 3], under which pictures are compared, see `seedselect_core.views`.
        spread: mean semantic loss of the references themselves.
        contrast: unit vector [D], the centroid of a neighbouring concept, or None.
    """

    embeddings: torch.Tensor
    latents: torch.Tensor
    semantic: torch.Tensor
    appearance: torch.Tensor
    views: torch.Tensor
    spread: float
    contrast: torch.Tensor | None = None

    def of_subsets(self, subsets: Sequence[Sequence[int]]) -> "Targets":
        """Each seed of the batch gets the references with these indices for its own."""
        with torch.inference_mode(False), torch.no_grad():
            rows = [list(subset) for subset in subsets]
            semantic = torch.stack([centroid(self.embeddings[row]) for row in rows])
            appearance = torch.stack([self.latents[row].mean(dim=0) for row in rows])
        return replace(self, semantic=semantic, appearance=appearance)

    def of_rows(self, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Semantic and appearance target of the seeds ``rows`` [b], or those that all share."""
        if self.semantic.ndim == 1 or rows is None:
            return self.semantic, self.appearance
        # The two may be on different devices; rows on the CPU will do for both.
        return self.semantic[rows.cpu()], self.appearance[rows.cpu()]


def build_targets(
    references: ReferenceSet,
    encoder: ImageEncoder,
    codec: VaeCodec,
    process_latent_in: Callable[[torch.Tensor], torch.Tensor],
    size: tuple[int, int],
    views: int = 1,
    contrast: ReferenceSet | None = None,
    *,
    is_video: bool = False,
) -> Targets:
    """Encode ``references`` once.

    Args:
        references: at least one image.
        encoder: its weights must be loaded.
        codec: loads its own weights to encode.
        process_latent_in: the model's, from the VAE's latent space to the scaled one.
        size: width and height of the picture to be made, in pixels.
        views: how many views of each picture the encoder gets, 1 for the picture alone.
        contrast: images of the concept that the model confuses this one with.
        is_video: the model's latents have a dimension of frames, [B, C, T, h, w].
    """
    with torch.inference_mode(False):
        maps = draw_views(views)

    def embed(pictures: ReferenceSet) -> torch.Tensor:
        """[k, V, D]"""
        images = pictures.fitted(*size)
        return torch.stack(
            [encode_references(encoder, apply_views(image[None], maps)) for image in images]
        )

    views_of_each = embed(references)
    embeddings = torch.stack([centroid(views_of_one) for views_of_one in views_of_each])
    target = centroid(embeddings)
    # Before the VAE is loaded, which may take the encoder's place.
    neighbor = None if contrast is None else centroid(embed(contrast).flatten(0, 1))
    pictures = references.fitted(*codec.encoding_size(*size))
    latents = [codec.encode(image[None]) for image in pictures]
    with torch.inference_mode(False), torch.no_grad():
        latents = torch.cat(latents)
        if is_video and latents.ndim == 4:
            latents = latents.unsqueeze(2)
        latents = process_latent_in(latents).clone()
    spread = semantic_loss(views_of_each, target).mean()
    return Targets(
        embeddings,
        latents,
        target,
        latents.mean(dim=0),
        maps,
        float(spread),
        neighbor,
    )
