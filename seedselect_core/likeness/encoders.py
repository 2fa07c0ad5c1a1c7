"""Differentiable image encoders, and the VAE, behind one small interface.

An encoder is called with images [B, H, W, 3], float in 0..1 (the host's IMAGE layout), and
returns one embedding per image, [B, D]. It has a `patcher`, the host's handle on its weights:
loading them (`comfy.model_management.load_models_gpu`) and lending them to autograd is the
caller's business, since both must happen once and outside the loop.

Values are the host's own, to the last bit on the CPU. Gradients are too, but for the two places of
`seedselect_core.clamping`, where the host's code has none.
"""

from typing import Any, Protocol

import comfy.clip_model
import comfy.model_management
import torch
import torch.nn.functional as F

from ..errors import SeedSelectError
from ..host.devices import where_complete
from ..host.layers import layer_norms_keep_their_input
from ..memory.failures import with_room
from .clamping import clamp_inward, ordinary, with_gradient_of


class ImageEncoder(Protocol):
    """What the losses need of an image encoder: images [B, H, W, 3] in 0..1 to [B, D]."""

    patcher: Any

    def __call__(self, images: torch.Tensor) -> torch.Tensor: ...


def resize_and_crop(image: torch.Tensor, size: int, crop: bool, mode: str) -> torch.Tensor:
    """[B, 3, H, W] to [B, 3, size, size]: shortest edge and centre crop, or squashed."""
    height, width = image.shape[-2:]
    if (height, width) == (size, size):
        return image
    resized = (size, size)
    if crop:
        scale = size / min(height, width)
        resized = (round(scale * height), round(scale * width))
    image = F.interpolate(image, size=resized, mode=mode, antialias=True)
    top = (image.shape[2] - size) // 2
    left = (image.shape[3] - size) // 2
    return image[:, :, top : top + size, left : left + size]


def normalize(image: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    mean, std = (image.new_tensor(v).view(3, 1, 1) for v in (mean, std))
    return (image - mean) / std


class ClipVisionEncoder:
    """The host's CLIP_VISION of any kind: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3.

    Args:
        clip_vision: a `comfy.clip_vision.ClipVisionModel`.
        crop: centre crop to a square, as "CLIP Vision Encode" does by default; otherwise squash.

    The embedding is the host's `image_embeds` where that is one vector per image: the projected
    class token of CLIP, the normalised class token of DINO. The host's SigLIP has no pooling head
    and gives every patch instead; their mean is taken.

    Raises:
        SeedSelectError: when called, if the model gives no image embedding.
    """

    def __init__(self, clip_vision: Any, crop: bool = True):
        self.clip_vision = clip_vision
        self.patcher = clip_vision.patcher
        self.crop = crop

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0..1 to the model's normalised pixels [B, 3, h, w]."""
        return where_complete(self._preprocess, images)

    def _preprocess(self, images: torch.Tensor) -> torch.Tensor:
        c = self.clip_vision
        settings = {"size": c.image_size, "mean": c.image_mean, "std": c.image_std}
        flexible = c.model_type == "siglip2_vision_model"
        patches = (c.config.get("patch_size", 16), c.config.get("num_patches", 256))
        host = comfy.clip_model.clip_preprocess
        if flexible:
            host = comfy.clip_model.siglip2_preprocess
            settings |= {"patch_size": patches[0], "num_patches": patches[1]}
        value = host(images.detach(), crop=self.crop, **settings)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return value

        smooth = images[..., :3].movedim(-1, 1)
        if flexible and c.image_size <= 0:
            size = comfy.clip_model.siglip2_flex_calc_resolution(*smooth.shape[2:], *patches)
            smooth = F.interpolate(smooth, size=size, mode="bilinear", antialias=True)
        else:
            smooth = resize_and_crop(smooth, c.image_size, self.crop, "bicubic")
        return with_gradient_of(value, normalize(clamp_inward(smooth), c.image_mean, c.image_std))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        pixels = self.preprocess(images.to(self.clip_vision.load_device))
        if pixels.dtype != torch.float64:  # float64 is for checking gradients; the host has none
            pixels = pixels.float()
        with layer_norms_keep_their_input(self.clip_vision.model):
            embeddings = self.clip_vision.model(pixel_values=pixels, intermediate_output=-2)[2]
        if embeddings is None or embeddings.ndim not in (2, 3):
            raise SeedSelectError(
                f"clip_vision: this model ({self.clip_vision.model_type}) gives no image embedding "
                "to compare with the references. Load a CLIP, SigLIP or DINO vision model with "
                "'Load CLIP Vision', for example CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors."
            )
        return embeddings.mean(dim=1) if embeddings.ndim == 3 else embeddings


@torch.no_grad()
def encode_references(encoder: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
    """Embeddings [k, D] of references [k, H, W, 3] in 0..1, without gradient.

    The result is an ordinary tensor, which a loss may save for its backward pass, also in
    inference mode. The encoder's weights must have been loaded.
    """
    return ordinary(encoder(images))


def unit_embeddings(encoder: ImageEncoder, images: torch.Tensor) -> torch.Tensor:
    """Unit vectors [B, D] on the CPU of images [B, H, W, C] in 0..1; loads the weights.

    Raises:
        SeedSelectError: there is no memory, not even for one picture after the other.
    """

    def embed(batch: int) -> torch.Tensor:
        comfy.model_management.load_models_gpu([encoder.patcher])
        parts = images.split(batch)
        return torch.cat([encode_references(encoder, part[..., :3]).cpu() for part in parts])

    embeddings = with_room(
        embed,
        *((16,), (1,)),
        where="comparing the pictures",
        remedy="Connect a smaller image encoder to clip_vision, or give smaller pictures.",
    )
    return F.normalize(embeddings.float(), dim=-1)
