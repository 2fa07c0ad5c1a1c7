"""The Wan 2.1 and 2.2 families. One head of 128 channels is the least that the host detects."""

from unittest.mock import patch

import comfy.ldm.wan.model
import comfy.ldm.wan.model_animate
import torch

from ..measure import Case
from ..models import detected, normal, reduced
from ..video import HEIGHT, WIDTH, Video, clip_vision, first_frame_mask

SIZES = {
    "dim": 128,
    "ffn_dim": 64,
    "freq_dim": 256,
    "num_heads": 1,
    "num_layers": 2,
}
# Every fifth block of Animate sees the face; a latent, a start image and its mask.
FIVE = SIZES | {"num_layers": 5, "ffn_dim": 32, "in_dim": 36}
# Music comes in 256 channels, eight pieces a frame.
DANCE = SIZES | {"dim": 256, "num_heads": 2}
SOUND = "sound of fewer channels"
FACE = "a stand-in for the face's encoder"
TEXT = 4096


def start_image(frames: int, seed: int) -> dict:
    """What "WanImageToVideo" adds."""
    return {
        "concat_latent_image": normal(1, 16, frames, HEIGHT, WIDTH, seed=40),
        "concat_mask": first_frame_mask(frames),
        "clip_vision_output": clip_vision(5, 1280, 41),
    }


def control_video(frames: int, seed: int) -> dict:
    """What "WanFunControlToVideo" adds: the control video's latent beside that of the image."""
    return {
        "concat_latent_image": normal(1, 32, frames, HEIGHT, WIDTH, seed=40),
        "clip_vision_output": clip_vision(5, 1280, 41),
    }


def vace(frames: int, seed: int) -> dict:
    """What "WanVaceToVideo" adds."""
    return {
        "vace_frames": [normal(1, 32, frames, HEIGHT, WIDTH, seed=40)],
        "vace_mask": [torch.ones(1, 64, frames, HEIGHT, WIDTH)],
        "vace_strength": [0.8],
    }


def camera(frames: int, seed: int) -> dict:
    """What "WanCameraImageToVideo" adds: a start image and the path of the camera."""
    path = normal(1, 24, frames, HEIGHT * 8, WIDTH * 8, seed=42)
    return start_image(frames, seed) | {"camera_conditions": path}


def sound(frames: int, seed: int) -> dict:
    """What "WanSoundImageToVideo" adds: speech, a portrait, the motion before, a pose video."""
    return {
        "audio_embed": normal(1, 25, 1024, frames * 4, seed=43) * (seed == 1),
        "reference_latents": [normal(1, 16, 1, HEIGHT, WIDTH, seed=44)],
        "control_video": normal(1, 16, frames, HEIGHT, WIDTH, seed=46),
    }


def humo(frames: int, seed: int) -> dict:
    """What "WanHuMoImageToVideo" adds."""
    return {
        "audio_embed": normal(1, frames, 8, 5, 16, seed=43) * (seed == 1),
        "reference_latents": [normal(1, 16, 1, HEIGHT, WIDTH, seed=44) * (seed == 1)],
    }


def animate(frames: int, seed: int) -> dict:
    """What "WanAnimateToVideo" adds: a character, and the poses and the face of a performance."""
    face = normal(1, 3, max(1, 4 * frames - 4), 32, 32, seed=47).clamp(-1, 1)
    return start_image(frames, seed) | {
        "pose_video_latent": normal(1, 16, max(1, frames - 1), HEIGHT, WIDTH, seed=48),
        "face_video_pixels": face if seed == 1 else face * 0.0 - 1.0,
    }


def scail(frames: int, seed: int) -> dict:
    """What "WanSCAILToVideo" adds: a character, and the poses at half the resolution."""
    return {
        "reference_latents": [normal(1, 16, 1, HEIGHT, WIDTH, seed=44)],
        "clip_vision_output": clip_vision(5, 1280, 41),
        "pose_video_latent": normal(1, 16, frames, HEIGHT // 2, WIDTH // 2, seed=48),
    }


def scail2(frames: int, seed: int) -> dict:
    """What it adds for SCAIL 2: also whose body is where."""
    return scail(frames, seed) | {
        "driving_mask_28ch": normal(1, frames, 28, HEIGHT // 2, WIDTH // 2, seed=49),
        "ref_mask_28ch": normal(1, frames + 1, 28, HEIGHT, WIDTH, seed=50),
        "ref_mask_flag": True,
    }


def dance(frames: int, seed: int) -> dict:
    """What "WanDancerVideo" adds: a start image, a reference image, music."""
    return start_image(frames, seed) | {
        "clip_vision_output_ref": clip_vision(5, 1280, 51),
        "audio_embed": normal(1, 16, 35, seed=43),
        "fps": 30,
        "audio_inject_scale": 0.8,
    }


def thin_sound(family: str, config: dict, dtype: torch.dtype):
    """`detected`, with sound of fewer channels than the 1280 that the host writes down."""
    whole = comfy.ldm.wan.model.AudioProjModel

    def thin(**sizes):
        return whole(**sizes | {"channels": 16, "intermediate_dim": 32})

    with patch.object(comfy.ldm.wan.model, "AudioProjModel", thin):
        return detected(family, config, dtype)


class Face(torch.nn.Module):
    """In place of a network of 40 million weights, which sees the face and never the noise."""

    def __init__(self, **sizes):
        super().__init__()

    def get_motion(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] to [n, 512]."""
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 16).flatten(1)[:, :512]


def plain_face(family: str, config: dict, dtype: torch.dtype):
    """`detected`, with `Face` for the network that reads expressions."""
    with patch.object(comfy.ldm.wan.model_animate, "Generator", Face):
        return detected(family, config, dtype)


FAMILIES = [
    Video("WAN21_T2V", SIZES, TEXT, quick=True),
    Video("WAN21_CausalAR_T2V", SIZES, TEXT, read=reduced),
    Video("WAN22_T2V", SIZES | {"in_dim": 48}, TEXT, channels=48, starts=True),
    Video("WAN21_I2V", SIZES, TEXT, extra=start_image),
    Video("WAN21_FunControl2V", SIZES, TEXT, extra=control_video),
    Video("WAN21_Vace", SIZES | {"vace_layers": 1, "vace_in_dim": 96}, TEXT, extra=vace),
    Video("WAN21_Camera", SIZES, TEXT, extra=camera),
    Video("WAN22_Camera", SIZES, TEXT, extra=camera),
    Video("WAN22_S2V", SIZES, TEXT, extra=sound),
    Video("WAN21_HuMo", SIZES, TEXT, extra=humo, read=thin_sound, remark=SOUND),
    Video("WAN22_Animate", FIVE, TEXT, extra=animate, read=plain_face, remark=FACE),
    Video("WAN21_FlowRVS", SIZES, TEXT, read=reduced),
    Video("WAN21_SCAIL", SIZES | {"in_dim": 20}, TEXT, extra=scail),
    Video("WAN21_SCAIL2", SIZES | {"in_dim": 20}, TEXT, extra=scail2),
    Video("WAN22_WanDancer", DANCE, TEXT, extra=dance, size=(4, 8)),
]


def cases() -> list[Case]:
    return [family.case() for family in FAMILIES]
