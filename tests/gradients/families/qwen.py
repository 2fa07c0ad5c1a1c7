"""Families built on a transformer: Qwen-Image and its kin, and those of one-frame videos.

The latents of most of these have a time axis of length one: [B, 16, 1, h, w].
"""

from collections.abc import Callable

import torch

from ..measure import Case
from ..models import normal
from ..wiring import conditioning
from .dit import counted, family_case, prompts

QWEN = {
    "in_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "axes_dims_rope": (4, 6, 6),
}
MAGE = QWEN | {"in_channels": 128}
JOY = {
    "in_channels": 16,
    "hidden_size": 128,
    "patch_size": [1, 2, 2],
    "num_layers": 1,
    "num_attention_heads": 1,
    "text_dim": 4096,
}
# Twelve layers of the text encoder, of which each token brings twenty heads.
KREA = {
    "features": 256,
    "channels": 16,
    "patch": 2,
    "layers": 2,
    "heads": 2,
    "kvheads": 1,
    "txtlayers": 12,
    "txtdim": 40,
}
# The image model is known by its width of 2560: one block of that for the detection.
KANDINSKY_FOUND = {
    "model_dim": 2560,
    "axes_dims": (32, 48, 48),
    "rope_scale_factor": (1.0, 1.0, 1.0),
    "time_dim": 32,
    "ff_dim": 96,
    "visual_embed_dim": 64,
    "num_text_blocks": 1,
    "num_visual_blocks": 1,
}
KANDINSKY = KANDINSKY_FOUND | {"model_dim": 64, "axes_dims": (8, 12, 12), "num_visual_blocks": 2}
# Of any width but two, the host expects ten blocks of sixteen heads.
COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 192,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
}


def padded(width: int, **extra) -> Callable:
    """Masks that reach the model: the host leaves out those without padding."""
    mask = torch.ones(1, 7, dtype=torch.long)
    mask[:, 5:] = 0
    return lambda: (
        conditioning(7, width, 1, **extra),
        conditioning(7, width, 2, attention_mask=mask, **extra),
    )


def anima_prompts() -> tuple[list, list]:
    """Text of Qwen 3, and T5's token numbers, which an adapter in the model turns into text."""
    return tuple(
        conditioning(
            7, 1024, seed, t5xxl_ids=torch.tensor(ids), t5xxl_weights=torch.tensor([1.0, 1.0, 1.2])
        )
        for seed, ids in ((1, [37, 1712, 1]), (2, [3, 9, 1]))
    )


def cases() -> list[Case]:
    frame = (1, 16, 1, 8, 8)
    patches = (1, 128, 4, 4)
    drawn = {"reference_latents": [normal(1, 16, 1, 8, 4, seed=3)]}
    twice = {"reference_latents": [normal(1, 16, 1, 8, 4, seed=3), normal(1, 16, 1, 4, 8, seed=4)]}
    flat = {"reference_latents": [normal(1, 128, 4, 2, seed=3)]}
    timed = {"reference_latents_method": "index_timestep_zero"}
    return [
        family_case("QwenImage", QWEN, padded(3584), frame, quick=True),
        family_case("QwenImage, reference latents", QWEN, padded(3584, **twice), frame),
        family_case(
            "QwenImage, reference latents of Edit 2511",
            QWEN | {"default_ref_method": "index_timestep_zero"},
            padded(3584, **twice),
            frame,
        ),
        family_case(
            "QwenImage, Layered",
            QWEN | {"use_additional_t_cond": True, "default_ref_method": "negative_index"},
            padded(3584, **drawn),
            (1, 16, 3, 4, 4),
        ),
        family_case("MageFlow", MAGE, padded(2560), patches),
        family_case("MageFlow, reference latents", MAGE, padded(2560, **flat), patches),
        family_case("JoyImage", JOY, counted(4096), frame, read=True, quick=True),
        family_case("JoyImage, reference latents", JOY, counted(4096, **drawn), frame, read=True),
        family_case("Krea2", KREA, prompts(480, (7, 5)), frame, read=True),
        family_case(
            "Krea2, reference latents",
            KREA,
            prompts(480, (7, 5), **drawn, **timed),
            frame,
            read=True,
        ),
        family_case(
            "Kandinsky5Image",
            KANDINSKY_FOUND,
            counted(3584, pooled_output=normal(1, 768, seed=3)),
            (1, 16, 4, 4),
            read=True,
            steps=2,
        ),
        family_case(
            "Kandinsky5Image, image conditioning",
            KANDINSKY,
            counted(
                3584,
                pooled_output=normal(1, 768, seed=3),
                time_dim_replace=normal(1, 16, 1, 8, 8, seed=4),
            ),
            (1, 16, 3, 8, 8),
        ),
        family_case("CosmosT2IPredict2", COSMOS, prompts(1024), frame, read=True),
        # Its adapter has one size only, and takes most of the time.
        family_case("Anima", COSMOS, anima_prompts, (1, 16, 1, 4, 4), read=True, steps=2),
    ]
