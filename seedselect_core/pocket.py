"""The pocket model: a text-to-image model of the host's own classes that ships with this pack.

Each part is what a stock loader would return: ``ModelPatcher`` around ``BaseModel`` with the
UNet of Stable Diffusion, ``CLIP`` with an ``SDClipModel``, ``VAE`` with an ``AutoencoderKL``, and a
``ClipVisionModel``. Only the sizes differ. How it was trained is told in ``pocket/README.md``.
"""

import copy
import json
from pathlib import Path

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from transformers import PreTrainedTokenizerFast

WEIGHTS = Path(__file__).parent.parent / "pocket" / "weights"

TEXT_WIDTH = 128
PROMPT_TOKENS = 16
START = 0
END = 1
UNKNOWN = 2

TEXT_CONFIG = {
    "hidden_size": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "quick_gelu",
    "max_position_embeddings": PROMPT_TOKENS,
    "eos_token_id": END,
}
# A file, as the host's own: before 0.23 it takes nothing else.
VISION_CONFIG = WEIGHTS / "clip_vision.json"
VAE_CONFIG = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 64,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1, 2, 3],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
UNET_CONFIG = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "context_dim": TEXT_WIDTH,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 32,
    "legacy": False,
}


class PocketLatent(comfy.latent_formats.LatentFormat):
    """Four channels at an eighth of the size, as Stable Diffusion's; measured scale, preview."""

    def __init__(self, scale_factor: float = 1.0, latent_rgb_factors=None, latent_rgb_bias=None):
        self.scale_factor = scale_factor
        self.latent_rgb_factors = latent_rgb_factors
        self.latent_rgb_factors_bias = latent_rgb_bias


class PocketModelConfig(comfy.supported_models_base.BASE):
    """Stable Diffusion's noise schedule (scaled-linear betas) with velocity prediction."""

    unet_extra_config = {}
    latent_format = PocketLatent
    supported_inference_dtypes = [torch.float32]
    memory_usage_factor = 1.0

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


class PocketTokenizer(comfy.sd1_clip.SDTokenizer):
    """One token a word; case does not matter; unknown words become one token."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(
            tokenizer_path=str(WEIGHTS / "tokenizer"),
            max_length=PROMPT_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_WIDTH,
            embedding_key="clip_pocket",
            tokenizer_class=PreTrainedTokenizerFast,
            tokenizer_data=tokenizer_data or {},
        )


class PocketClipModel(comfy.sd1_clip.SDClipModel):
    """The host's CLIP text tower with a vocabulary of words instead of 49,408 byte pairs."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=PROMPT_TOKENS,
            textmodel_json_config=TEXT_CONFIG,
            special_tokens={"start": START, "end": END, "pad": END},
            model_options=model_options or {},
        )
        words = len(
            json.loads((WEIGHTS / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
        )
        self.transformer.set_input_embeddings(
            self.operations.Embedding(words, TEXT_WIDTH, dtype=dtype, device=device)
        )
        self.freeze()


class PocketClipTarget:
    """What ``comfy.sd.CLIP`` asks of a model family."""

    params: dict = {}

    @staticmethod
    def clip(**kwargs):
        return comfy.sd1_clip.SD1ClipModel(clip_name="pocket", clip_model=PocketClipModel, **kwargs)

    @staticmethod
    def tokenizer(embedding_directory=None, tokenizer_data=None):
        return comfy.sd1_clip.SD1Tokenizer(
            embedding_directory, tokenizer_data or {}, clip_name="pocket", tokenizer=PocketTokenizer
        )


def share_norm_groups(module: torch.nn.Module, groups: int) -> None:
    """The host's 32 groups would leave one or two channels each here, and wash out flat colours."""
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.num_groups = groups


def build_autoencoder() -> AutoencoderKL:
    """The autoencoder without weights."""
    model = AutoencoderKL(**copy.deepcopy(VAE_CONFIG))
    share_norm_groups(model, 4)
    return model


def build_unet(latent: dict | None = None) -> comfy.model_base.BaseModel:
    """The diffusion model without weights; ``latent`` holds the arguments of `PocketLatent`."""
    config = PocketModelConfig({**UNET_CONFIG, "dtype": torch.float32})
    config.latent_format = PocketLatent(**(latent or {}))
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    share_norm_groups(model, 8)
    return model


def _load(name: str) -> dict[str, torch.Tensor]:
    state = comfy.utils.load_torch_file(str(WEIGHTS / f"{name}.safetensors"), safe_load=True)
    return {key: value.float() for key, value in state.items()}


def load_clip() -> comfy.sd.CLIP:
    return comfy.sd.CLIP(PocketClipTarget, state_dict=[_load("text_encoder")])


def load_vae() -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd=_load("vae"), config={"params": copy.deepcopy(VAE_CONFIG)})
    share_norm_groups(vae.first_stage_model, 4)
    return vae


def load_pocket_model():
    """MODEL, CLIP, VAE and CLIP_VISION, as the host's checkpoint loader would return them."""
    model = build_unet(json.loads((WEIGHTS / "latent.json").read_text()))
    model.diffusion_model.load_state_dict(_load("unet"))
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    clip = load_clip()
    vae = load_vae()
    clip_vision = comfy.clip_vision.ClipVisionModel(str(VISION_CONFIG))
    clip_vision.load_sd(_load("clip_vision"))
    return patcher, clip, vae, clip_vision
