"""A UNet of Stable Diffusion's kind that is small enough to be sampled hundreds of times."""

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch

from .models import as_patcher, randomize

UNET = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0],
    "context_dim": 16,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 16,
    "legacy": False,
}
# Tokens and width of its prompts; shape of its latents.
TOKENS = 5
WIDTH = 16
LATENT = (1, 4, 8, 8)


class TinyLatent(comfy.latent_formats.LatentFormat):
    def __init__(self):
        self.scale_factor = 0.5


@torch.inference_mode()
def tiny_unet(
    prediction: str = "EPS", dtype: torch.dtype = torch.float32, latent_format=TinyLatent
) -> comfy.model_patcher.ModelPatcher:
    """MODEL of no family: the host's UNet with one of its ways to predict.

    Args:
        prediction: name in `comfy.model_base.ModelType`.
        dtype: of the weights, and of the computation.
    """

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        supported_inference_dtypes = [dtype]
        memory_usage_factor = 1.0

        def model_type(self, state_dict, prefix=""):
            return comfy.model_base.ModelType[prediction]

    config = Config({**UNET, "dtype": dtype})
    config.latent_format = latent_format()
    base = config.get_model({}, device=torch.device("cpu"))
    randomize(base.diffusion_model, 1)
    return as_patcher(base)
