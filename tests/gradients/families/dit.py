"""Families built on a transformer: from Lumina 2 to HunyuanImage 2.1.

Text comes as wide as the host's encoders deliver it; the models are narrow and shallow.
"""

import types
from collections.abc import Callable
from unittest.mock import patch

import comfy.supported_models
import torch

from ..measure import Case, Finding, Wired, examine
from ..models import detected, normal, reduced
from ..wiring import conditioning, wired

GIVEN = "sizes given, not detected"


def family_case(
    name: str,
    sizes: dict,
    texts: Callable[[], tuple[list, list]],
    latent: tuple[int, ...],
    *,
    read: bool = False,
    quick: bool = False,
    **more,
) -> Case:
    """One row of the section "families".

    Args:
        name: the family's class in `comfy.supported_models`, and a mode after a comma.
        sizes: the model's configuration.
        texts: makes the positive and the negative conditioning.
        latent: shape of the empty latent.
        read: whether the host reads the model back from a file and detects its sizes; it
            recognises some families by widths that are too large for a proof.
        more: further arguments of `wired`.
    """

    family = name.split(",")[0]
    own = getattr(comfy.supported_models, family).unet_extra_config

    def build(dtype: torch.dtype) -> Wired:
        # Some families set sizes of their own, whatever the file holds.
        with patch.dict(own, {} if read else sizes):
            model = (detected if read else reduced)(family, sizes, dtype)
        return wired(model, *texts(), latent, dtype, **more)

    def measure() -> Finding:
        return examine(build, "" if read else GIVEN)

    return Case("families", name, measure, quick)


def masked(tokens: int, padding: int) -> torch.Tensor:
    """[1, tokens] attention mask, zero for the padding at the end, as encoders return it."""
    mask = torch.ones(1, tokens, dtype=torch.long)
    mask[:, tokens - padding :] = 0
    return mask


def prompts(width: int, lengths: tuple[int, int] = (7, 7), **extra) -> Callable:
    """Positive and negative random text of ``width``, with ``extra`` in both."""
    return lambda: (
        conditioning(lengths[0], width, 1, **extra),
        conditioning(lengths[1], width, 2, **extra),
    )


def masked_prompts(width: int, **extra) -> Callable:
    """Like `prompts`, but with attention masks, padding in the negative one."""
    return lambda: (
        conditioning(7, width, 1, attention_mask=masked(7, 0), **extra),
        conditioning(7, width, 2, attention_mask=masked(7, 3), **extra),
    )


LUMINA = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "cap_feat_dim": 2304,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "qk_norm": True,
    "n_heads": 4,
    "n_kv_heads": 2,
    "axes_dims": [4, 6, 6],
    "axes_lens": [300, 512, 512],
    "multiple_of": 32,
    "rope_theta": 10000.0,
    "ffn_dim_multiplier": 1.0,
}
# The time embedding is 256 wide at any width of the model.
Z_IMAGE = LUMINA | {
    "dim": 256,
    "cap_feat_dim": 2560,
    "n_kv_heads": 4,
    "axes_dims": [16, 24, 24],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
Z_IMAGE_PIXEL = Z_IMAGE | {
    "patch_size": 8,
    "in_channels": 3,
    "decoder_in_channels": 192,
    "decoder_hidden_size": 32,
    "decoder_num_res_blocks": 2,
    "decoder_max_freqs": 8,
    "use_x0": True,
}


def omni_prompts() -> tuple[list, list]:
    """What the Z-Image Omni node attaches: reference latents, their texts, SigLIP 2 features."""
    picture = types.SimpleNamespace(
        image_sizes=[(3, 32, 32)], last_hidden_state=normal(1, 4, 1152, seed=5)
    )
    extra = {
        "reference_latents": [normal(1, 16, 8, 8, seed=3)],
        "reference_latents_text_embeds": [normal(1, 5, 2560, seed=4), normal(1, 3, 2560, seed=6)],
        "clip_vision_outputs": [picture],
    }
    return masked_prompts(2560, **extra)()


PIXEL_DIT = {
    "num_groups": 4,
    "hidden_size": 64,
    "pixel_hidden_size": 8,
    "pixel_attn_hidden_size": 32,
    "pixel_num_groups": 2,
    "patch_depth": 2,
    "pixel_depth": 2,
    "patch_size": 4,
    "txt_embed_dim": 2304,
    "txt_max_length": 7,
}
PID = PIXEL_DIT | {"lq_hidden_dim": 16, "lq_num_res_blocks": 1, "lq_interval": 1}
PID_15 = PID | {
    "lq_latent_channels": 128,
    "latent_spatial_down_factor": 16,
    "lq_latent_unpatchify_factor": 2,
    "lq_conv_padding_mode": "replicate",
    "lq_gate_per_token": True,
    "pit_lq_inject": True,
    "rope_ref_h": 2048,
    "rope_ref_w": 2048,
}


def pid_prompts(channels: int) -> Callable:
    """What "PiD Conditioning" attaches: the latent to decode, and how noisy it is."""
    return lambda: masked_prompts(
        2304, lq_latent=normal(1, channels, 2, 2, seed=3), degrade_sigma=torch.tensor([0.2])
    )()


OMNIGEN = {
    "axes_dim_rope": [8, 6, 6],
    "axes_lens": [1024, 1664, 1664],
    "hidden_size": 60,
    "in_channels": 16,
    "multiple_of": 32,
    "norm_eps": 1e-05,
    "num_attention_heads": 3,
    "num_kv_heads": 1,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "text_feat_dim": 2048,
    "timestep_scale": 1000.0,
}


def counted(width: int, **extra) -> Callable:
    """Without padding, which these two do not allow for: the masks give the number of tokens."""
    return lambda: (
        conditioning(7, width, 1, attention_mask=masked(7, 0), **extra),
        conditioning(5, width, 2, attention_mask=masked(5, 0), **extra),
    )


BOOGU = {name: value for name, value in OMNIGEN.items() if name != "text_feat_dim"} | {
    "num_double_stream_layers": 1,
    "instruction_feat_dim": 4096,
}
IDEOGRAM = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "intermediate_size": 64,
    "adaln_dim": 32,
    "mrope_section": [6, 5, 5],
}


def textless_negative() -> tuple[list, list]:
    """A negative of no text at all, for which the model runs on the picture alone."""
    return conditioning(7, 53248, 1), [[None, {"pooled_output": None}]]


ERNIE = {
    "hidden_size": 48,
    "num_attention_heads": 2,
    "num_layers": 2,
    "ffn_hidden_size": 96,
    "rope_axes_dim": (8, 8, 8),
}
HUNYUAN = {
    "in_channels": 64,
    "out_channels": 64,
    "patch_size": [1, 1],
    "axes_dim": [64, 64],
    "vec_in_dim": None,
    "meanflow": False,
    "context_in_dim": 3584,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "theta": 256,
    "qkv_bias": True,
    "byt5": True,
    "guidance_embed": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
HUNYUAN_DISTILLED = HUNYUAN | {"meanflow": True, "guidance_embed": True}
HUNYUAN_REFINER = HUNYUAN | {
    "in_channels": 128,
    "patch_size": [1, 1, 1],
    "axes_dim": [16, 56, 56],
    "byt5": False,
    "guidance_embed": True,
}


def quoted_prompts(**extra) -> Callable:
    """HunyuanImage: text in quotation marks is encoded by ByT5 as well."""
    return lambda: (
        conditioning(7, 3584, 1, conditioning_byt5small=normal(1, 5, 1472, seed=3), **extra),
        conditioning(7, 3584, 2, **extra),
    )


def refiner_prompts() -> tuple[list, list]:
    """What "Hunyuan Latent Refiner" attaches."""
    drawn = normal(1, 32, 1, 4, 4, seed=3)
    return masked_prompts(3584, concat_latent_image=drawn, noise_augmentation=0.1)()


def cases() -> list[Case]:
    picture = (1, 16, 8, 8)
    pixels = (1, 3, 16, 16)
    patches = (1, 128, 4, 4)
    reference = {"reference_latents": [normal(1, 16, 8, 4, seed=3)]}
    return [
        family_case("Lumina2", LUMINA, masked_prompts(2304), picture, quick=True),
        family_case(
            "Lumina2, NewBie",
            LUMINA | {"clip_text_dim": 1024, "cap_feat_dim": 2560},
            masked_prompts(2560, pooled_output=normal(1, 1024, seed=3)),
            picture,
        ),
        family_case("ZImage", Z_IMAGE, masked_prompts(2560), picture),
        family_case("ZImage, Omni", Z_IMAGE | {"siglip_feat_dim": 1152}, omni_prompts, picture),
        family_case("ZImagePixelSpace", Z_IMAGE_PIXEL, masked_prompts(2560), (1, 3, 32, 32)),
        family_case("PixelDiTT2I", PIXEL_DIT, masked_prompts(2304), pixels, quick=True),
        family_case("PiD", PID, pid_prompts(16), pixels, cfg=1.0),
        family_case("PiD, version 1.5", PID_15, pid_prompts(128), pixels, cfg=1.0),
        family_case("Omnigen2", OMNIGEN, counted(2048), picture),
        family_case("Omnigen2, reference latents", OMNIGEN, counted(2048, **reference), picture),
        family_case("Boogu", BOOGU, counted(4096), picture),
        family_case("Boogu, reference latents", BOOGU, counted(4096, **reference), picture),
        family_case("Ideogram4", IDEOGRAM, masked_prompts(53248), patches),
        family_case("Ideogram4, negative without text", IDEOGRAM, textless_negative, patches),
        family_case("ErnieImage", ERNIE, prompts(3072, (7, 5)), patches, quick=True),
        family_case("HunyuanImage21", HUNYUAN, quoted_prompts(), (1, 64, 4, 4), read=True),
        family_case(
            "HunyuanImage21, distilled",
            HUNYUAN_DISTILLED,
            quoted_prompts(guidance=3.5),
            (1, 64, 4, 4),
            read=True,
            cfg=1.0,
        ),
        family_case(
            "HunyuanImage21Refiner",
            HUNYUAN_REFINER,
            refiner_prompts,
            (1, 64, 1, 4, 4),
            read=True,
        ),
    ]
