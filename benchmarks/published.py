"""SeedSelect as its authors run it: what `speed.py` compares with.

Samuel et al., AAAI 2024, arXiv 2304.14530, code at https://github.com/dvirsamuel/SeedSelect: a loop
of DDIM steps whose graph is kept as a whole, gradient checkpointing of the blocks inside the UNet,
and nowhere else; pictures of the last three steps, decoded and encoded in the same graph; 10 times
the semantic loss and once the appearance loss; AdamW. This is that algorithm, written anew for the
host's classes, which it calls directly.

Two things differ. The pictures are those of predictions of the clean latent, where the authors
decode the latent after the step, which is noisy still: it costs the same, and the gradient is that
of `seedselect_core.chain.unroll`, so that one can be checked by the other. And checkpoints are of
the kind that PyTorch recommends today, which is not reentrant.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch.utils.checkpoint import checkpoint

from seedselect_core.host.layers import layer_norms_keep_their_input

SEMANTIC_WEIGHT = 10.0
APPEARANCE_WEIGHT = 1.0
STEP_WEIGHTS = (0.05, 0.25, 0.7)
LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Schedule:
    """Of DDIM.

    Attributes:
        timesteps: [steps], as the UNet takes them.
        alphas: [steps + 1], cumulative products of 1 - beta, 1 at the end.
    """

    timesteps: torch.Tensor
    alphas: torch.Tensor

    @classmethod
    def of(cls, model_sampling: Any, sigmas: torch.Tensor) -> "Schedule":
        """That of the host's ``sigmas`` [steps + 1], which end at zero."""
        return cls(model_sampling.timestep(sigmas[:-1]).float(), 1 / (1 + sigmas.square()))

    def first(self, steps: int) -> "Schedule":
        return Schedule(self.timesteps[:steps], self.alphas[: steps + 1])


@dataclass(frozen=True)
class Comparison:
    """The semantic loss: a picture is decoded, encoded and compared with a centroid.

    Attributes:
        vae, clip_vision: the host's VAE and CLIP_VISION.
        process_latent_out: the model's, from its scaled latent space to the VAE's.
        centroid: [D].
    """

    vae: Any
    clip_vision: Any
    process_latent_out: Callable[[torch.Tensor], torch.Tensor]
    centroid: torch.Tensor

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w] in the model's scaled space to [B]."""
        decoded = self.vae.first_stage_model.decode(self.process_latent_out(latents))
        pictures = (decoded / 2 + 0.5).clamp(0, 1)
        eye = self.clip_vision
        pixels = F.interpolate(pictures, size=(eye.image_size, eye.image_size), mode="bicubic")
        mean = pixels.new_tensor(eye.image_mean).view(3, 1, 1)
        std = pixels.new_tensor(eye.image_std).view(3, 1, 1)
        # The host's layers overwrite their input, which those of the authors' encoder do not.
        with layer_norms_keep_their_input(eye.model):
            embeddings = eye.model(pixel_values=(pixels - mean) / std)[2]
        return 1 - F.cosine_similarity(embeddings, self.centroid, dim=-1)


@contextlib.contextmanager
def checkpointed_blocks(unet: torch.nn.Module) -> Iterator[None]:
    """Each residual block and each transformer of a UNet is a checkpoint, as diffusers has it."""
    blocks = [part for part in unet.modules() if isinstance(part, ResBlock | SpatialTransformer)]

    def cut(forward: Callable) -> Callable:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    for block in blocks:
        block.forward = cut(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@dataclass(frozen=True)
class Published:
    """The loss of noise by the authors' loop.

    Attributes:
        unet: the host's UNet, which predicts noise; no weight asks for a gradient.
        schedule: of the steps.
        context: prompts [2, tokens, width], the unconditional one first.
        guidance: scale of classifier-free guidance.
        compare: semantic loss [B] of latents [B, C, h, w].
        layout: [C, h, w], the latent that the appearance loss compares with.
    """

    unet: torch.nn.Module
    schedule: Schedule
    context: torch.Tensor
    guidance: float
    compare: Callable[[torch.Tensor], torch.Tensor]
    layout: torch.Tensor

    def loss(self, noise: torch.Tensor, steps: int = 0) -> torch.Tensor:
        """The loss, a scalar, of one noise [1, C, h, w].

        Args:
            steps: do so many steps only, the first ones; 0 for all.
        """
        schedule = self.schedule.first(steps) if steps else self.schedule
        total = len(schedule.timesteps)
        weights = STEP_WEIGHTS[-total:]
        latents = clean = noise
        semantic = 0.0
        for step, timestep in enumerate(schedule.timesteps):
            epsilon = self._epsilon(latents, timestep)
            alpha = schedule.alphas[step]
            following = schedule.alphas[step + 1]
            clean = (latents - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
            latents = following.sqrt() * clean + (1 - following).sqrt() * epsilon
            late = step - (total - len(weights))
            if late >= 0:
                semantic = semantic + weights[late] * self.compare(clean)
        appearance = (clean - self.layout).square().flatten(1).mean(1)
        return (SEMANTIC_WEIGHT * semantic + APPEARANCE_WEIGHT * appearance).sum()

    def _epsilon(self, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The noise in ``latents``, guided; both prompts in one call."""
        both = torch.cat([latents, latents])
        predicted = self.unet(both, timestep.expand(len(both)), context=self.context)
        without, prompted = predicted.chunk(2)
        return without + self.guidance * (prompted - without)
