"""Small random models of the host's real classes, made in inference mode as the host's nodes do."""

import copy
from contextlib import contextmanager

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from seedselect_core.encoders import ClipVisionEncoder
from seedselect_core.references import ReferenceSet, reference_set_from_batch
from seedselect_core.seed import SamplingSettings
from seedselect_core.settings import Settings

# A second thread only costs time at these sizes.
torch.set_num_threads(1)

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
VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
VISION = {
    "model_type": "clip_vision_model",
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "quick_gelu",
    "projection_dim": 16,
}


class TinyLatent(comfy.latent_formats.LatentFormat):
    def __init__(self):
        self.scale_factor = 0.5


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights of a size that keeps activations near one: the host's operations leave them empty."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            parameter.normal_(0, fan_in**-0.5, generator=generator)
        else:  # norms around one, biases around zero
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.normal_(centre, 0.1, generator=generator)


@torch.inference_mode()
def model(
    prediction: str = "EPS", dtype: torch.dtype = torch.float32, latent_format=TinyLatent
) -> comfy.model_patcher.ModelPatcher:
    """MODEL: a UNet of Stable Diffusion's kind for latents of 4 channels."""

    class Config(comfy.supported_models_base.BASE):
        unet_extra_config = {}
        supported_inference_dtypes = [dtype]
        memory_usage_factor = 1.0

        def model_type(self, state_dict, prefix=""):
            return comfy.model_base.ModelType[prediction]

    config = Config({**UNET, "dtype": dtype})
    config.latent_format = latent_format()
    base = config.get_model({}, device=torch.device("cpu"))
    _randomise(base.diffusion_model, 1)
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@torch.inference_mode()
def vae() -> comfy.sd.VAE:
    """VAE for pictures of twice the latent's size."""
    autoencoder = AutoencoderKL(**copy.deepcopy(VAE))
    _randomise(autoencoder, 2)
    host = comfy.sd.VAE(autoencoder.state_dict(), config={"params": copy.deepcopy(VAE)})
    host.downscale_ratio = host.upscale_ratio = 2
    return host


@torch.inference_mode()
def clip_vision() -> comfy.clip_vision.ClipVisionModel:
    host = comfy.clip_vision.ClipVisionModel(VISION)
    _randomise(host.model, 3)
    return host


@torch.inference_mode()
def conditioning(seed: int, **extra) -> list:
    """CONDITIONING of five tokens."""
    return [[normal(1, 5, 16, seed=seed), {"pooled_output": None, **extra}]]


@torch.inference_mode()
def latent(batch: int = 1, size: int = 8, channels: int = 4) -> dict:
    """LATENT as "Empty Latent Image" gives it."""
    return {"samples": torch.zeros(batch, channels, size, size)}


def references() -> ReferenceSet:
    return reference_set_from_batch(
        torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(9))
    )


SAMPLING = SamplingSettings(steps=3, cfg=3.0, sampler_name="euler", scheduler="normal", seed=5)


def settings(**changes) -> Settings:
    """Plain ones, whatever the defaults are."""
    return Settings(
        **{
            "iterations": 2,
            "learning_rate": 0.05,
            "optimizer": "adamw",
            "schedule": "constant",
            "clip_norm": 0.0,
            "semantic_weight": 10.0,
            "appearance_weight": 0.0,
            "norm_weight": 0.01,
            "step_weights": (1.0,),
            "views": 1,
            "candidates": 1,
            "target": 0.0,
            "patience": 0,
        }
        | changes
    )


SETTINGS = settings()


class Graph:
    """What is connected to "SeedSelect Optimize": everything but the settings."""

    def __init__(self, **changes):
        self.inputs = {
            "model": model(),
            "positive": conditioning(1),
            "negative": conditioning(2),
            "vae": vae(),
            "encoder": ClipVisionEncoder(clip_vision()),
            "references": references(),
            "latent": latent(),
        } | changes

    def __getattr__(self, name: str):
        try:
            return self.inputs[name]
        except KeyError:
            raise AttributeError(name) from None


@contextmanager
def exact():
    """Keep float64 where the host forces float32, so that differences can be taken finely."""
    plain = torch.Tensor.float

    def float_or_double(tensor, *args, **kwargs):
        return tensor if tensor.dtype == torch.float64 else plain(tensor, *args, **kwargs)

    try:
        torch.Tensor.float = float_or_double
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = plain
