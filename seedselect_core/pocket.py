"""The pocket models: text-to-image models of the host's own classes, made for this pack.

Each part is what a stock loader would return: ``ModelPatcher`` around ``BaseModel`` with the
UNet of Stable Diffusion, ``CLIP`` with an ``SDClipModel``, ``VAE`` with an ``AutoencoderKL``, and a
``ClipVisionModel``. Only the sizes differ. How they are trained is told in ``pocket/README.md``.
"""

import copy
import functools
import json
from dataclasses import dataclass
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

POCKET = Path(__file__).parent.parent / "pocket"
WEIGHTS = POCKET / "weights"


@dataclass(frozen=True)
class Toy:
    """Where a toy model is kept, and the latents that it works on.

    Attributes:
        weights: the folder of its weights and its tokenizer.
        latent_channels: how many numbers a place of the latents holds.
        levels: widths of the autoencoder's levels; each but the first halves the sides.
    """

    weights: Path
    latent_channels: int = 4
    levels: tuple[int, ...] = (1, 1, 2, 3)

    @property
    def downscale(self) -> int:
        """Pixels of a side to one of the latents."""
        return 2 ** (len(self.levels) - 1)


LETTERS = Toy(WEIGHTS)

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
# Files, as the host's own: before 0.23 it takes nothing else. Towers of all worlds are alike.
VISION_CONFIG = WEIGHTS / "clip_vision.json"
SECOND_VISION_CONFIG = WEIGHTS / "second_vision.json"
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
    """Four channels at an eighth of the size, unless told otherwise; measured scale, preview."""

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


def vocabulary(toy: Toy) -> dict[str, int]:
    """The token of every word that a toy model knows."""
    tokenizer = json.loads((toy.weights / "tokenizer/tokenizer.json").read_text())
    return tokenizer["model"]["vocab"]


class PocketTokenizer(comfy.sd1_clip.SDTokenizer):
    """One token a word; case does not matter; unknown words become one token."""

    def __init__(self, embedding_directory=None, tokenizer_data=None, toy: Toy = LETTERS):
        super().__init__(
            tokenizer_path=str(toy.weights / "tokenizer"),
            max_length=PROMPT_TOKENS,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_WIDTH,
            embedding_key="clip_pocket",
            tokenizer_class=PreTrainedTokenizerFast,
            tokenizer_data=tokenizer_data or {},
        )


class PocketClipModel(comfy.sd1_clip.SDClipModel):
    """The host's CLIP text tower with a vocabulary of words instead of 49,408 byte pairs."""

    def __init__(self, device="cpu", dtype=None, model_options=None, toy: Toy = LETTERS):
        super().__init__(
            device=device,
            dtype=dtype,
            max_length=PROMPT_TOKENS,
            textmodel_json_config=TEXT_CONFIG,
            special_tokens={"start": START, "end": END, "pad": END},
            model_options=model_options or {},
        )
        embedding = self.operations.Embedding(
            len(vocabulary(toy)), TEXT_WIDTH, dtype=dtype, device=device
        )
        self.transformer.set_input_embeddings(embedding)
        self.freeze()


class PocketClipTarget:
    """What ``comfy.sd.CLIP`` asks of a model family."""

    def __init__(self, toy: Toy):
        self.params = {}
        self._toy = toy

    def clip(self, **kwargs):
        model = functools.partial(PocketClipModel, toy=self._toy)
        return comfy.sd1_clip.SD1ClipModel(clip_name="pocket", clip_model=model, **kwargs)

    def tokenizer(self, embedding_directory=None, tokenizer_data=None):
        tokenizer = functools.partial(PocketTokenizer, toy=self._toy)
        return comfy.sd1_clip.SD1Tokenizer(
            embedding_directory, tokenizer_data or {}, clip_name="pocket", tokenizer=tokenizer
        )


def share_norm_groups(module: torch.nn.Module, groups: int) -> None:
    """The host's 32 groups would leave one or two channels each here, and wash out flat colours."""
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.num_groups = groups


def vae_config(toy: Toy) -> dict:
    """Arguments of ``AutoencoderKL``."""
    config = copy.deepcopy(VAE_CONFIG)
    config["embed_dim"] = config["ddconfig"]["z_channels"] = toy.latent_channels
    config["ddconfig"]["ch_mult"] = list(toy.levels)
    return config


def build_autoencoder(toy: Toy = LETTERS) -> AutoencoderKL:
    """The autoencoder without weights."""
    model = AutoencoderKL(**vae_config(toy))
    share_norm_groups(model, 4)
    return model


def build_unet(latent: dict | None = None, toy: Toy = LETTERS) -> comfy.model_base.BaseModel:
    """The diffusion model without weights; ``latent`` holds the arguments of `PocketLatent`."""
    channels = {"in_channels": toy.latent_channels, "out_channels": toy.latent_channels}
    config = PocketModelConfig({**UNET_CONFIG, **channels, "dtype": torch.float32})
    config.latent_format = PocketLatent(**(latent or {}))
    config.latent_format.latent_channels = toy.latent_channels
    config.latent_format.spacial_downscale_ratio = toy.downscale
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    share_norm_groups(model, 8)
    return model


def _load(name: str, toy: Toy) -> dict[str, torch.Tensor]:
    path = toy.weights / f"{name}.safetensors"
    state = comfy.utils.load_torch_file(str(path), safe_load=True)
    return {key: value.float() for key, value in state.items()}


def load_clip(toy: Toy = LETTERS) -> comfy.sd.CLIP:
    return comfy.sd.CLIP(PocketClipTarget(toy), state_dict=[_load("text_encoder", toy)])


def load_vae(toy: Toy = LETTERS) -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd=_load("vae", toy), config={"params": vae_config(toy)})
    vae.latent_channels = toy.latent_channels
    vae.downscale_ratio = vae.upscale_ratio = toy.downscale
    share_norm_groups(vae.first_stage_model, 4)
    return vae


def load_pocket_model(toy: Toy = LETTERS):
    """MODEL, CLIP, VAE and CLIP_VISION, as the host's checkpoint loader would return them."""
    model = build_unet(json.loads((toy.weights / "latent.json").read_text()), toy)
    model.diffusion_model.load_state_dict(_load("unet", toy))
    patcher = comfy.model_patcher.CoreModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return patcher, load_clip(toy), load_vae(toy), load_clip_vision(toy)


def load_clip_vision(toy: Toy = LETTERS) -> comfy.clip_vision.ClipVisionModel:
    """The CLIP_VISION that learned with the text tower."""
    return _load_vision("clip_vision", VISION_CONFIG, toy)


def load_second_vision(toy: Toy = LETTERS) -> comfy.clip_vision.ClipVisionModel:
    """One of another shape, which learned from pictures alone: for second opinions."""
    return _load_vision("second_vision", SECOND_VISION_CONFIG, toy)


def _load_vision(name: str, config: Path, toy: Toy) -> comfy.clip_vision.ClipVisionModel:
    vision = comfy.clip_vision.ClipVisionModel(str(config))
    vision.load_sd(_load(name, toy))
    return vision


def is_pocket(model) -> bool:
    """Whether a MODEL is the pocket model, with whatever patches."""
    return isinstance(model.model.model_config, PocketModelConfig)
