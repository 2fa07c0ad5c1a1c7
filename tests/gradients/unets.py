"""Small files of the host's UNet families, read back by its own loader, and what its nodes connect.

The host knows these families by their 320 channels and by how many transformers stand where, so
that a file is made small by its levels, its middle and its latent alone.
"""

from types import SimpleNamespace

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.sd
import comfy.supported_models
import torch

from .measure import Wired
from .models import normal, randomize
from .wiring import wired

# One level, no middle: what every family overrides as it needs.
PLAIN = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_middle": -2,
    "transformer_depth_output": [1, 1],
    "use_spatial_transformer": True,
    "legacy": False,
}
# What the host derives from a file whose transformers also run along time.
VIDEO = {
    "extra_ff_mix_layer": True,
    "use_spatial_context": True,
    "merge_strategy": "learned_with_images",
    "merge_factor": 0.0,
    "video_kernel_size": [3, 1, 1],
}


@torch.inference_mode()
def file_of(family: str, sizes: dict, unet=openaimodel.UNetModel) -> dict[str, torch.Tensor]:
    """State dict of a random UNet of ``family``, float32.

    Args:
        family: name of a class in `comfy.supported_models`.
        sizes: what differs from `PLAIN` and from the family's own ``unet_config``.
        unet: the class.
    """
    known = getattr(comfy.supported_models, family)
    config = {**PLAIN, **known.unet_config, **known.unet_extra_config, **sizes}
    if config.get("adm_in_channels") is not None:
        config.setdefault("num_classes", "sequential")
    model = unet(**config, device=torch.device("cpu"))
    randomize(model, 1)
    for part in model.modules():
        # They have no "norm" in their names; near zero they would all but cut the noise off.
        if isinstance(part, torch.nn.GroupNorm):
            part.weight.add_(1)
    return model.state_dict()


@torch.inference_mode()
def loaded(family: str, weights: dict[str, torch.Tensor], dtype: torch.dtype):
    """MODEL of a file, by the host's loader.

    Raises:
        ValueError: the host takes the file for another family, or does not fill all weights.
    """
    model = comfy.sd.load_diffusion_model_state_dict(dict(weights), model_options={"dtype": dtype})
    found = None if model is None else type(model.model.model_config).__name__
    if found != family:
        raise ValueError(f"The host takes a file of {family} for {found}.")
    missing = model.model.diffusion_model.state_dict().keys() - weights.keys()
    if missing:
        raise ValueError(f"{family}: the file lacks {sorted(missing)}.")
    return model


class Text:
    """A CLIP whose text is random; everything else is as the host's nodes set it."""

    def __init__(self, width: int, pooled: int | None, seed: int):
        self.width = width
        self.pooled = pooled
        self.seed = seed

    def tokenize(self, text: str) -> dict:
        return {"l": [text], "g": [text]}

    def encode_from_tokens_scheduled(self, tokens: dict, add_dict: dict | None = None) -> list:
        pooled = None if self.pooled is None else normal(1, self.pooled, seed=self.seed + 50)
        text = normal(1, 7, self.width, seed=self.seed)
        return [[text, {"pooled_output": pooled, **(add_dict or {})}]]


def texts(width: int, pooled: int | None = None) -> tuple[list, list]:
    """Positive and negative CONDITIONING of "CLIPTextEncode"."""
    return tuple(Text(width, pooled, s).encode_from_tokens_scheduled({}) for s in (1, 2))


class Eye:
    """A VAE and a CLIP_VISION that see nothing in particular.

    Attributes:
        width: of an image embedding.
    """

    def __init__(self, width: int = 1024):
        self.width = width

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        b, h, w, _ = pixels.shape
        return normal(b, 4, h // 8, w // 8, seed=5)

    def encode_image(self, image: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(image_embeds=normal(len(image), self.width, seed=6))


def picture(height: int, width: int) -> torch.Tensor:
    """IMAGE of so many latent pixels."""
    return normal(1, height * 8, width * 8, 3, seed=4).sigmoid()


def connected(model, inputs: tuple, shape: tuple[int, ...], dtype: torch.dtype, **more) -> Wired:
    """`wired` with what a conditioning node puts out.

    Args:
        inputs: positive, negative, and the LATENT if the node has one.
        shape: of the latent, if it has none.
    """
    positive, negative, *latent = inputs
    if latent:
        samples = latent[0]["samples"]
        more = {"latent_image": samples, "noise_mask": latent[0].get("noise_mask")} | more
        shape = tuple(samples.shape)
    return wired(model, positive, negative, shape, dtype, **more)
