"""What one image encoder makes of the references, and how alike it finds a picture to them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..references import ReferenceSet
from .encoders import ImageEncoder, encode_references
from .losses import centroid, contrast_loss, nearest_loss, semantic_loss
from .views import apply_views, draw_views

# What pictures are pulled towards.
CENTROID = "centroid"
NEAREST = "nearest"
# Copies of one picture have no spread but that of rounding.
LEAST_SPREAD = 1e-3
# A single reference has the spread of its views: of so many, where it is compared under one alone.
VIEWS_OF_ONE = 4


@dataclass(frozen=True)
class Comparison:
    """Pictures beside the references, to one encoder. Its tensors are ordinary ones.

    Attributes:
        encoder: its weights must be loaded.
        views: [V, 2, 3], under which pictures are compared, see `seedselect_core.likeness.views`.
        embeddings: unit vectors [k, D], one for each reference (the centroid of its views).
        targets: unit vectors [n, D] of which the nearest count: the centroid of the embeddings
            alone, or the embeddings; or such for each seed of the batch.
        spread: mean semantic loss of the references themselves; of a single one, of its views.
        contrast: unit vector [D], the centroid of a neighbouring concept, or None.
        towards: `CENTROID`, or `NEAREST`: where references differ and are few, their centroid may
            be no picture at all, and a picture is pulled towards those that it is like already.
        name: of the input that the encoder is connected to, for messages.
    """

    encoder: ImageEncoder
    views: torch.Tensor
    embeddings: torch.Tensor
    targets: torch.Tensor | Sequence[torch.Tensor]
    spread: float
    contrast: torch.Tensor | None = None
    towards: str = CENTROID
    name: str = "clip_vision"

    def of_subsets(self, subsets: Sequence[Sequence[int]]) -> "Comparison":
        """Each seed of the batch gets the references with these indices for its own."""
        with torch.inference_mode(False), torch.no_grad():
            own = [_targets(self.embeddings[list(subset)], self.towards) for subset in subsets]
        return replace(self, targets=own)

    def in_units_of(self, other: "Comparison") -> float:
        """What a loss of this encoder is multiplied by to count as one of ``other``.

        Each is measured by how far the references lie apart to its own encoder.
        """
        return max(other.spread, LEAST_SPREAD) / max(self.spread, LEAST_SPREAD)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings [V * B, D], view by view, of images [B, H, W, 3] in 0..1."""
        return self.encoder(apply_views(images, self.views))

    def __call__(self, image: torch.Tensor, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Semantic and contrast loss, [1] each, of one picture [1, H, W, 3] in 0..1.

        Args:
            place: of its seed in the whole batch.
        """
        embeddings = self.embed(image)
        shared = isinstance(self.targets, torch.Tensor)
        targets = (self.targets if shared else self.targets[place]).to(embeddings)
        loss = nearest_loss(embeddings, targets)[None]
        if self.contrast is None:
            return loss, torch.zeros_like(loss)
        push = contrast_loss(embeddings, targets, self.contrast.to(embeddings))
        return loss, push.mean(0, keepdim=True)


def compare_with(
    references: ReferenceSet,
    encoder: ImageEncoder,
    size: tuple[int, int],
    views: int = 1,
    contrast: ReferenceSet | None = None,
    towards: str = CENTROID,
    name: str = "clip_vision",
) -> Comparison:
    """Encode ``references`` once.

    Args:
        references: at least one image.
        encoder: its weights must be loaded.
        size: width and height of the picture to be made, in pixels.
        views: how many views of each picture the encoder gets, 1 for the picture alone.
        contrast: images of the concept that the model confuses this one with.
        towards, name: as of `Comparison`.
    """
    with torch.inference_mode(False):
        maps = draw_views(views)

    def embed(pictures: ReferenceSet, maps: torch.Tensor = maps) -> list[torch.Tensor]:
        """k times [V, D]"""
        images = pictures.fitted(*size)
        return [encode_references(encoder, apply_views(image[None], maps)) for image in images]

    views_of_each = spread_by = embed(references)
    if len(views_of_each) == views == 1:
        spread_by = embed(references, draw_views(VIEWS_OF_ONE))
    neighbors = [] if contrast is None else embed(contrast)
    with torch.inference_mode(False), torch.no_grad():
        embeddings = torch.stack([centroid(views_of_one) for views_of_one in views_of_each])
        return Comparison(
            encoder,
            maps,
            embeddings,
            _targets(embeddings, towards),
            _spread(torch.stack(spread_by), embeddings, towards),
            centroid(torch.cat(neighbors)) if neighbors else None,
            towards,
            name,
        )


def _targets(embeddings: torch.Tensor, towards: str) -> torch.Tensor:
    return centroid(embeddings)[None] if towards == CENTROID else embeddings


def _spread(views_of_each: torch.Tensor, embeddings: torch.Tensor, towards: str) -> float:
    """Mean semantic loss of the references' views [k, V, D]."""
    if towards == CENTROID:
        return float(semantic_loss(views_of_each, centroid(embeddings)).mean())
    # The nearest to each but itself, if there is another.
    own = torch.eye(len(embeddings), dtype=torch.bool)
    others = [embeddings[~row] if len(row) > 1 else embeddings for row in own]
    losses = map(nearest_loss, views_of_each, others)
    return float(torch.stack(list(losses)).mean())
