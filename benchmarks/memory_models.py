"""Models, VAEs and image encoders at full size, of the host's own classes, without their weights.

They are made on PyTorch's meta device, where a tensor has a shape and a type and no numbers. The
sizes are those that the host detects in the published files.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import comfy.clip_vision
import comfy.ldm.models.autoencoder as autoencoder
import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import torch

F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
F8 = torch.float8_e4m3fn


# ---------------------------------------------------------------- diffusion models


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model and the picture that it usually draws.

    Attributes:
        name: as people know it.
        family: class in `comfy.supported_models`.
        sizes: the family's own are completed by these.
        latent: [1, C, ...], of one picture.
        pixels: side of that picture.
        text: tokens and width of the prompt.
        vae: key of `VAES`.
        dtype: of the weights.
        compute: type that each layer casts its weights to, or None for that of the weights.
        guided: whether a negative prompt is usual, so that a call is for two pictures.
        pooled: width of the pooled prompt, if there is one.
    """

    name: str
    family: str
    sizes: dict = field(hash=False)
    latent: tuple[int, ...]
    pixels: int
    text: tuple[int, int]
    vae: str
    dtype: torch.dtype = BF16
    compute: torch.dtype | None = None
    guided: bool = True
    pooled: int | None = None

    def build(self, device: torch.device) -> comfy.model_patcher.ModelPatcher:
        """MODEL on ``device``, whose weights nobody has filled, taken for loaded by the host."""
        family = getattr(comfy.supported_models, self.family)
        config = family({**family.unet_config, **self.sizes, "dtype": self.dtype})
        config.set_inference_dtype(self.dtype, self.compute)
        base = config.get_model({}, device=device).requires_grad_(False).to(device)
        return as_loaded(comfy.model_patcher.ModelPatcher(base, device, device))

    def guider(self, patcher, device: torch.device) -> comfy.samplers.CFGGuider:
        """GUIDER with prompts of the usual length."""
        guider = comfy.samplers.CFGGuider(patcher)
        guider.set_conds(self._prompt(device), self._prompt(device))
        guider.set_cfg(4.0 if self.guided else 1.0)
        return guider

    def _prompt(self, device: torch.device) -> list:
        options = {} if self.pooled is None else {"pooled_output": self._zeros(device, self.pooled)}
        return [[self._zeros(device, *self.text), options]]

    def _zeros(self, device: torch.device, *size: int) -> torch.Tensor:
        return torch.zeros(1, *size, device=device)


def as_loaded(patcher: comfy.model_patcher.ModelPatcher) -> comfy.model_patcher.ModelPatcher:
    """``patcher``, which the host takes for loaded as a whole."""
    patcher.model.model_loaded_weight_memory = patcher.model_size()
    return patcher


UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "image_size": 32,
    "legacy": False,
    "use_spatial_transformer": True,
    "use_temporal_attention": False,
}
SD1 = UNET | {
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
}
SDXL = UNET | {
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "num_head_channels": 64,
    "num_classes": "sequential",
}


def _sd35(depth: int, positions: int, dual: int) -> dict:
    """Of so many blocks, the first ``dual`` with two attentions, and positions of a side."""
    context = {"in_features": 4096, "out_features": 64 * depth}
    return {
        "in_channels": 16,
        "patch_size": 2,
        "depth": depth,
        "input_size": None,
        "adm_in_channels": 2048,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": context},
        "num_patches": positions**2,
        "pos_embed_max_size": positions,
        "pos_embed_scaling_factor": None,
        "qk_norm": "rms",
        "x_block_self_attn_layers": list(range(dual)),
    }


FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "hidden_size": 3072,
    "num_heads": 24,
    "mlp_ratio": 4.0,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "context_in_dim": 4096,
    "vec_in_dim": 768,
    "txt_ids_dims": [],
    "guidance_embed": True,
}
CHROMA = {name: value for name, value in FLUX.items() if name != "guidance_embed"} | {
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
    "vec_in_dim": None,
}
FLUX2 = FLUX | {
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "hidden_size": 6144,
    "num_heads": 48,
    "mlp_ratio": 3.0,
    "depth": 8,
    "depth_single_blocks": 48,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "qkv_bias": False,
    "context_in_dim": 15360,
    "vec_in_dim": None,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
KLEIN = FLUX2 | {
    "hidden_size": 3072,
    "num_heads": 24,
    "depth": 5,
    "depth_single_blocks": 20,
    "context_in_dim": 7680,
    "guidance_embed": False,
}
LUMINA = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 26,
    "qk_norm": True,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 4.0,
}
Z_IMAGE = LUMINA | {
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
HUNYUAN = {
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "axes_dim": [64, 64],
    "vec_in_dim": None,
    "meanflow": False,
    "meanflow_sum": False,
    "context_in_dim": 3584,
    "hidden_size": 3584,
    "mlp_ratio": 4.0,
    "num_heads": 28,
    "depth": 20,
    "depth_single_blocks": 40,
    "theta": 256,
    "qkv_bias": True,
    "byt5": True,
    "guidance_embed": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
QWEN = {"in_channels": 64, "num_layers": 60}

IN_8_BITS = {"dtype": F8, "compute": BF16}


def _latent(channels: int, pixels: int, down: int = 8, frames: tuple[int, ...] = ()) -> dict:
    side = pixels // down
    return {"latent": (1, channels, *frames, side, side), "pixels": pixels}


def _sdxl(name: str, **weights) -> Diffusion:
    latent = _latent(4, 1024)
    return Diffusion(
        name, "SDXL", SDXL, text=(77, 2048), pooled=1280, vae="SD", **latent, **weights
    )


def _sd3(name: str, sizes: dict) -> Diffusion:
    latent = _latent(16, 1024)
    return Diffusion(
        name, "SD3", sizes, text=(154, 4096), pooled=2048, vae="Flux", dtype=F16, **latent
    )


def _flux(name: str, **weights) -> Diffusion:
    latent = _latent(16, 1024)
    return Diffusion(
        name,
        "Flux",
        FLUX,
        text=(256, 4096),
        pooled=768,
        vae="Flux",
        guided=False,
        **latent,
        **weights,
    )


def _flux2(name: str, sizes: dict, **weights) -> Diffusion:
    text = (512, sizes["context_in_dim"])
    latent = _latent(128, 1024, 16)
    return Diffusion(
        name, "Flux2", sizes, text=text, vae="Flux.2", guided=False, **latent, **weights
    )


def _lumina(name: str, family: str, sizes: dict, **more) -> Diffusion:
    text = (64, sizes["cap_feat_dim"])
    return Diffusion(name, family, sizes, text=text, vae="Flux", **_latent(16, 1024), **more)


def _qwen(name: str, pixels: int, **weights) -> Diffusion:
    latent = _latent(16, pixels, frames=(1,))
    return Diffusion(name, "QwenImage", QWEN, text=(64, 3584), vae="Qwen", **latent, **weights)


MODELS = (
    Diffusion("SD 1.5", "SD15", SD1, text=(77, 768), vae="SD", dtype=F16, **_latent(4, 512)),
    Diffusion(
        "SD 2.1",
        "SD20",
        SD1 | {"num_head_channels": 64},
        text=(77, 1024),
        vae="SD",
        dtype=F16,
        **_latent(4, 768),
    ),
    _sdxl("SDXL", dtype=F16),
    _sdxl("SDXL, fp8", dtype=F8, compute=F16),
    _sd3("SD 3.5 medium", _sd35(24, 384, 13)),
    _sd3("SD 3.5 large", _sd35(38, 192, 0)),
    _flux("Flux-dev"),
    _flux("Flux-dev, fp8", **IN_8_BITS),
    _flux2("Flux.2-klein-4B", KLEIN),
    _flux2("Flux.2-dev, fp8", FLUX2, **IN_8_BITS),
    _lumina("Lumina 2", "Lumina2", LUMINA),
    _lumina("Z-Image-Turbo", "ZImage", Z_IMAGE, guided=False),
    _lumina("Z-Image-Turbo, fp8", "ZImage", Z_IMAGE, guided=False, **IN_8_BITS),
    _lumina("Z-Image", "ZImage", Z_IMAGE),
    Diffusion(
        "Chroma, fp8",
        "Chroma",
        CHROMA,
        text=(64, 4096),
        vae="Flux",
        **_latent(16, 1024),
        **IN_8_BITS,
    ),
    _qwen("Qwen-Image", 1328),
    _qwen("Qwen-Image, fp8", 1024, **IN_8_BITS),
    Diffusion(
        "HunyuanImage 2.1",
        "HunyuanImage21",
        HUNYUAN,
        text=(64, 3584),
        vae="HunyuanImage",
        **_latent(64, 2048, 32),
    ),
)

# As it is run on a CPU.
SD15_IN_FULL = replace(MODELS[0], dtype=F32)


# ---------------------------------------------------------------- VAEs

KL = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}
HUNYUAN_VAE = {
    "z_channels": 64,
    "in_channels": 3,
    "out_channels": 3,
    "num_res_blocks": 2,
    "ffactor_spatial": 32,
    "downsample_match_channel": True,
    "upsample_match_channel": True,
    "block_out_channels": [128, 256, 512, 512, 1024, 1024],
}
WAN_VAE = {
    "dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
}


def _kl(embed: int, **changes) -> torch.nn.Module:
    return autoencoder.AutoencoderKL(ddconfig=KL | changes, embed_dim=embed)


def _engine(package: str, config: dict) -> torch.nn.Module:
    own = "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
    return autoencoder.AutoencodingEngine(
        regularizer_config={"target": own},
        encoder_config={"target": f"{package}.Encoder", "params": config},
        decoder_config={"target": f"{package}.Decoder", "params": config},
    )


_PLAIN = "comfy.ldm.modules.diffusionmodules.model"
# Module, channels of its latents, pixels in a side of one, and dimensions of frames.
VAES: dict[str, tuple[Callable[[], torch.nn.Module], int, int, tuple[int, ...]]] = {
    "SD": (lambda: _kl(4), 4, 8, ()),
    "Flux": (lambda: _engine(_PLAIN, KL | {"z_channels": 16}), 16, 8, ()),
    "Flux.2": (lambda: _kl(32, z_channels=32, batch_norm_latent=True), 128, 16, ()),
    "Qwen": (lambda: comfy.ldm.wan.vae.WanVAE(**WAN_VAE), 16, 8, (1,)),
    "HunyuanImage": (lambda: _engine("comfy.ldm.hunyuan_video.vae", HUNYUAN_VAE), 64, 32, ()),
    "TAESD": (comfy.taesd.taesd.TAESD, 4, 8, ()),
}


def build_vae(kind: str, dtype: torch.dtype, device: torch.device) -> comfy.sd.VAE:
    """VAE of `VAES` on ``device``, its weights of ``dtype``, by the host's own loader."""
    with device:
        weights = VAES[kind][0]().state_dict()
        vae = comfy.sd.VAE(sd=dict(weights), dtype=dtype, device=device)
    vae.first_stage_model.requires_grad_(False)
    as_loaded(vae.patcher)
    return vae


def vae_latent(kind: str, pixels: int) -> tuple[int, ...]:
    """Shape of the latent of one square picture."""
    _, channels, down, frames = VAES[kind]
    return _latent(channels, pixels, down, frames)["latent"]


# ---------------------------------------------------------------- image encoders

ENCODERS = {"ViT-L/14": "vitl", "ViT-H/14": "h"}


def build_encoder(kind: str, device: torch.device) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION of `ENCODERS` on ``device``: weights in half precision, computed in float32."""
    folder = Path(comfy.clip_vision.__file__).parent
    with device:
        encoder = comfy.clip_vision.ClipVisionModel(
            str(folder / f"clip_vision_config_{ENCODERS[kind]}.json")
        )
    encoder.model.requires_grad_(False).to(device=device, dtype=F16)
    encoder.load_device = device
    encoder.patcher.load_device = device
    as_loaded(encoder.patcher)
    return encoder
