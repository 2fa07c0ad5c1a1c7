"""What the seed is pulled towards: the references, seen by the encoders and by the VAE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..references import ReferenceSet
from .comparison import Comparison
from .vae import VaeCodec


@dataclass(frozen=True)
class Targets:
    """What the losses compare with. Its tensors are ordinary ones.

    Attributes:
        comparisons: by the encoders that are descended on, at least one. The first is the one in
            whose units losses are told.
        latents: [k, C, h, w], the references' latents in the model's scaled latent space;
            [k, C, 1, h, w] where the model has latents of videos.
        appearance: the mean of the latents: [C, ...], or one for each seed, [B, C, ...].
        opinion: a comparison by an encoder that is never descended on, or None.
    """

    comparisons: tuple[Comparison, ...]
    latents: torch.Tensor
    appearance: torch.Tensor
    opinion: Comparison | None = None

    @property
    def spread(self) -> float:
        """Mean semantic loss of the references themselves."""
        return self.comparisons[0].spread

    @property
    def all_comparisons(self) -> tuple[Comparison, ...]:
        """Those of all encoders, the second opinion last."""
        return self.comparisons + (() if self.opinion is None else (self.opinion,))

    def of_subsets(self, subsets: Sequence[Sequence[int]]) -> "Targets":
        """Each seed of the batch gets the references with these indices for its own."""
        with torch.inference_mode(False), torch.no_grad():
            means = [self.latents[list(subset)].mean(dim=0) for subset in subsets]
            appearance = torch.stack(means)
        return Targets(
            tuple(comparison.of_subsets(subsets) for comparison in self.comparisons),
            self.latents,
            appearance,
            None if self.opinion is None else self.opinion.of_subsets(subsets),
        )

    def appearance_of(self, places: Sequence[int]) -> torch.Tensor:
        """The appearance target of these seeds of the batch, or the one that all share."""
        shared = self.appearance.ndim < self.latents.ndim
        return self.appearance if shared else self.appearance[list(places)]


def build_targets(
    references: ReferenceSet,
    comparisons: Sequence[Comparison],
    codec: VaeCodec,
    process_latent_in: Callable[[torch.Tensor], torch.Tensor],
    size: tuple[int, int],
    *,
    opinion: Comparison | None = None,
    is_video: bool = False,
) -> Targets:
    """Encode ``references`` once by the VAE.

    Args:
        references: at least one image.
        comparisons: with them. The VAE may take the encoders' place.
        codec: loads its own weights to encode.
        process_latent_in: the model's, from the VAE's latent space to the scaled one.
        size: width and height of the picture to be made, in pixels.
        opinion: as of `Targets`.
        is_video: the model's latents have a dimension of frames, [B, C, T, h, w].
    """
    pictures = references.fitted(*codec.encoding_size(*size))
    latents = [codec.encode(image[None]) for image in pictures]
    with torch.inference_mode(False), torch.no_grad():
        latents = torch.cat(latents)
        if is_video and latents.ndim == 4:
            latents = latents.unsqueeze(2)
        latents = process_latent_in(latents).clone()
    return Targets(tuple(comparisons), latents, latents.mean(dim=0), opinion)
