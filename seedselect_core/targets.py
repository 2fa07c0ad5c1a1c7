"""What the seed is pulled towards: the references, seen by the encoder and by the VAE."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .encoders import ImageEncoder, VaeCodec, encode_references
from .losses import centroid
from .references import ReferenceSet
from .views import draw_views, see


@dataclass(frozen=True)
class Targets:
    """Ordinary tensors that the losses compare with.

    Attributes:
        semantic: unit vector [D], the centroid of the references' embeddings.
        appearance: [C, h, w], the mean of their latents in the model's scaled latent space.
        views: [V, 2, 3], under which pictures are compared, see `seedselect_core.views`.
        spread: mean semantic loss of the references themselves.
    """

    semantic: torch.Tensor
    appearance: torch.Tensor
    views: torch.Tensor
    spread: float


def build_targets(
    references: ReferenceSet,
    encoder: ImageEncoder,
    codec: VaeCodec,
    process_latent_in: Callable[[torch.Tensor], torch.Tensor],
    width: int,
    height: int,
    views: int = 1,
) -> Targets:
    """Encode ``references`` once.

    Args:
        references: at least one image.
        encoder: its weights must be loaded.
        codec: loads its own weights to encode.
        process_latent_in: the model's, from the VAE's latent space to the scaled one.
        width, height: of the picture to be made, in pixels.
        views: how many views of each picture the encoder gets, 1 for the picture alone.
    """
    with torch.inference_mode(False):
        maps = draw_views(views)
    images = references.resized(width, height)
    embeddings = torch.cat([encode_references(encoder, see(image[None], maps)) for image in images])
    latents = torch.cat([codec.encode(image[None]) for image in images])
    target = centroid(embeddings)
    with torch.inference_mode(False), torch.no_grad():
        appearance = process_latent_in(latents).mean(dim=0).clone()
    spread = (1 - torch.nn.functional.cosine_similarity(embeddings, target[None])).mean()
    return Targets(target, appearance, maps, float(spread))
