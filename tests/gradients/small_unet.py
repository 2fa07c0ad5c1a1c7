"""A UNet of Stable Diffusion's kind that takes milliseconds: what conditionings are tried on.

Its sizes are no family's; the families have rows of their own.
"""

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch

from .measure import Wired
from .models import as_patcher, normal, randomize
from .unet import TOKENS, UNET, WIDTH, TinyLatent
from .wiring import wired

# With attention, which areas, masks and adapters act on.
SIZES = {**UNET, "transformer_depth": [1], "transformer_depth_output": [1, 1]}


def small_unet(
    dtype: torch.dtype = torch.float32, base: type = comfy.model_base.BaseModel, **sizes
) -> comfy.model_patcher.ModelPatcher:
    """MODEL, random.

    Args:
        base: the host's class that prepares conditionings.
        sizes: what differs from `SIZES`.
    """

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        supported_inference_dtypes = [dtype]
        memory_usage_factor = 1.0
        latent_format = TinyLatent

    config = Config({**SIZES, **sizes, "dtype": dtype})
    model = base(config, device=torch.device("cpu"))
    randomize(model.diffusion_model, 1)
    for part in model.diffusion_model.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.weight.add_(1)  # near zero it would all but cut the noise off
    return as_patcher(model)


def text(seed: int, tokens: int = TOKENS, batch: int = 1, **extra) -> list:
    """CONDITIONING of random text, as "CLIPTextEncode" gives it."""
    return [[normal(batch, tokens, WIDTH, seed=seed), {"pooled_output": None, **extra}]]


def graph(
    dtype: torch.dtype,
    positive: list | None = None,
    negative: list | None = None,
    *,
    model: comfy.model_patcher.ModelPatcher | None = None,
    shape: tuple[int, ...] = (1, 4, 8, 8),
    **more,
) -> Wired:
    """`wired` with a small UNet and plain texts, for all that is not given."""
    model = small_unet(dtype) if model is None else model
    return wired(model, positive or text(1), negative or text(2), shape, dtype, **more)
