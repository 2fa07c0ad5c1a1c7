"""Families of video models, those of Wan apart (`families_wan`)."""

import torch

from ..measure import Case
from ..models import normal, reduced
from ..video import HEIGHT, WIDTH, Video, clip_vision, first_frame_mask

MOCHI = {
    "depth": 2,
    "patch_size": 2,
    "num_heads": 2,
    "hidden_size_x": 64,
    "hidden_size_y": 32,
    "mlp_ratio_x": 192.0,  # its blocks insist on 12288 channels
    "mlp_ratio_y": 2.0,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "posenc_preserve_area": True,
    "attend_to_padding": False,
    "learn_sigma": False,
    "use_t5": True,
    "t5_feat_dim": 64,
    "t5_token_length": 7,
}

# 32 heads, and captions of 4096 channels, are what the host takes for granted.
LTXV = {"num_layers": 2, "attention_head_dim": 4, "cross_attention_dim": 128}

# Its text is that of the video beside that of the sound.
LTXAV = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "cross_attention_dim": 32,
    "audio_attention_head_dim": 8,
    "audio_num_attention_heads": 2,
    "audio_cross_attention_dim": 16,
    "caption_channels": 32,
    "connector_attention_head_dim": 16,
    "connector_num_attention_heads": 2,
    "connector_num_layers": 1,
}

# The host takes every head for 128 channels wide.
HUNYUAN = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "vec_in_dim": 768,
    "axes_dim": [16, 56, 56],
    "meanflow": False,
    "meanflow_sum": False,
    "context_in_dim": 64,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 1,
    "theta": 256,
    "qkv_bias": True,
    "byt5": False,
    "guidance_embed": True,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
HUNYUAN15 = HUNYUAN | {
    "in_channels": 65,
    "out_channels": 32,
    "patch_size": [1, 1, 1],
    "vec_in_dim": None,
    "byt5": True,
    "guidance_embed": False,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
    "meanflow_sum": True,
}

COSMOS = {
    "max_img_h": 16,
    "max_img_w": 16,
    "max_frames": 8,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "block_config": "FA-CA-MLP",
    "concat_padding_mask": True,
    "crossattn_emb_channels": 32,
    "pos_emb_cls": "rope3d",
    "pos_emb_interpolation": "crop",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}

# Of a width that the host does not know it takes 10 blocks of 16 heads.
PREDICT2 = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 192,
    "num_blocks": 10,
    "num_heads": 16,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "use_adaln_lora": True,
    "adaln_lora_dim": 256,
    "rope_enable_fps_modulation": False,
}

KANDINSKY = {
    "model_dim": 64,
    "time_dim": 64,
    "ff_dim": 128,
    "visual_embed_dim": 132,
    "num_text_blocks": 1,
    "num_visual_blocks": 2,
}

COGVIDEO = {
    "num_attention_heads": 1,
    "attention_head_dim": 64,
    "time_embed_dim": 32,
    "num_layers": 2,
    "patch_size": 2,
    "text_embed_dim": 32,
    "use_rotary_positional_embeddings": True,
}
COGVIDEO15 = COGVIDEO | {"patch_size_t": 2}

SEEDVR2 = {
    "norm_eps": 1e-5,
    "num_layers": 2,
    "mlp_type": "swiglu",
    "vid_dim": 32,
    "txt_in_dim": 16,
    "heads": 2,
    "head_dim": 24,
    "mm_layers": 1,
    "rope_dim": 24,
    "vid_out_norm": True,
}


def mask_of_text(frames: int, seed: int) -> dict:
    """The last two tokens are padding."""
    return {"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]])}


def pooled(frames: int, seed: int) -> dict:
    return {"pooled_output": normal(1, 768, seed=60 + seed), "guidance": 5.0}


def first_frame(frames: int, seed: int) -> dict:
    """What "HunyuanImageToVideo" adds in its second version: the first frame has no noise."""
    return pooled(frames, seed) | ({"guiding_frame_index": 0} if frames > 1 else {})


def start_image(frames: int, seed: int) -> dict:
    """What it adds in its first version."""
    return pooled(frames, seed) | {
        "concat_latent_image": normal(1, 16, frames, HEIGHT, WIDTH, seed=40),
        "concat_mask": first_frame_mask(frames),
    }


def start_image15(frames: int, seed: int) -> dict:
    """What "HunyuanVideo15ImageToVideo" adds, and glyphs in the prompt."""
    return {
        "concat_latent_image": normal(1, 32, frames, HEIGHT, WIDTH, seed=40),
        "concat_mask": first_frame_mask(frames),
        "clip_vision_output": clip_vision(5, 1152, 41),
        "conditioning_byt5small": normal(1, 4, 1472, seed=45),
    }


def low_resolution(frames: int, seed: int) -> dict:
    """What "HunyuanVideo15SuperResolution" adds."""
    return {
        "concat_latent_image": normal(1, 66, frames, HEIGHT, WIDTH, seed=40),
        "noise_augmentation": 0.7,
        "clip_vision_output": clip_vision(5, 1152, 41),
    }


def frame_rate(frames: int, seed: int) -> dict:
    return mask_of_text(frames, seed) | {"frame_rate": 25}


def kandinsky(frames: int, seed: int) -> dict:
    """What "Kandinsky5ImageToVideo" adds where there is more than the first frame to make."""
    if frames == 1:
        return pooled(frames, seed)
    return pooled(frames, seed) | {
        "time_dim_replace": normal(1, 16, 1, HEIGHT, WIDTH, seed=44),
        "concat_mask": first_frame_mask(frames),
    }


def cogvideo_image(frames: int, seed: int) -> dict:
    return {"concat_latent_image": normal(1, 16, frames, HEIGHT, WIDTH, seed=40)}


def low_quality(frames: int, seed: int) -> dict:
    """What "SeedVR2Conditioning" adds: the latent of the video to be restored, and a mask."""
    latent = normal(1, 16, frames, HEIGHT, WIDTH, seed=44)
    return {"condition": torch.cat([latent, torch.ones_like(latent[:, :1])], dim=1)}


def restorer(family: str, config: dict, dtype: torch.dtype):
    """`reduced`, with the texts that a file of the family holds, and which a node reads."""
    model = reduced(family, config, dtype)
    for texts in model.model.diffusion_model.buffers():
        texts.fill_(0.5)
    return model


GIVEN = "sizes given, not detected"

FAMILIES = [
    Video("GenmoMochi", MOCHI, 64, channels=12, extra=mask_of_text, read=reduced),
    Video("LTXV", LTXV, 4096, channels=128, extra=frame_rate, starts=True),
    Video(
        "LTXAV",
        LTXAV,
        64,
        channels=128,
        extra=frame_rate,
        starts=True,
        read=reduced,
        remark="video without sound",
    ),
    Video("HunyuanVideo", HUNYUAN, 64, extra=first_frame, starts=True, quick=True),
    Video("HunyuanVideoI2V", HUNYUAN | {"in_channels": 33}, 64, extra=start_image),
    Video("HunyuanVideoSkyreelsI2V", HUNYUAN | {"in_channels": 32}, 64, extra=start_image),
    Video("HunyuanVideo15", HUNYUAN15, 64, channels=32, extra=start_image15),
    Video(
        "HunyuanVideo15_SR_Distilled",
        HUNYUAN15 | {"in_channels": 98, "meanflow": True},
        64,
        channels=32,
        extra=low_resolution,
    ),
    Video("CosmosT2V", COSMOS | {"in_channels": 16}, 32, read=reduced),
    Video("CosmosI2V", COSMOS | {"in_channels": 17}, 32, starts=True, read=reduced),
    Video("CosmosI2VPredict2", PREDICT2, 1024, frames=(1, 2), starts=True),
    Video("Kandinsky5", KANDINSKY, 3584, extra=kandinsky),
    Video("SeedVR2", SEEDVR2, 16, extra=low_quality, read=restorer, remark=GIVEN),
    Video("CogVideoX_T2V", COGVIDEO, 32, quick=True),
    Video("CogVideoX_I2V", COGVIDEO15 | {"ofs_embed_dim": 32}, 32, extra=cogvideo_image),
    Video("CogVideoX_Inpaint", COGVIDEO15, 32, extra=cogvideo_image),
]


def cases() -> list[Case]:
    return [family.case() for family in FAMILIES]
