"""Families that make sound, bodies or findings about a picture, and no picture."""

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch

from seedselect_core.chain.unroll import Chain, Denoising, unrolled_sampling
from seedselect_core.errors import SeedSelectError

from ..measure import Case, Finding
from ..models import normal

SOUND = ("StableAudio", "StableAudio3", "ACEStep", "ACEStep15", "MiniMaxH3")
BODIES = ("Hunyuan3Dv2", "Hunyuan3Dv2_1", "Hunyuan3Dv2mini", "TripoSplat")
FINDINGS = ("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3")


@torch.inference_mode()
def weightless(family: str) -> comfy.model_patcher.ModelPatcher:
    """MODEL with the family's own configuration, without a network, which would not be used."""
    config_class = getattr(comfy.supported_models, family)
    config = config_class({**config_class.unet_config, "disable_unet_model_creation": True})
    config.set_inference_dtype(torch.float32, None)
    return comfy.model_patcher.CoreModelPatcher(
        comfy.model_base.BaseModel(config, comfy.model_base.ModelType.FLOW),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def refused(family: str) -> Finding:
    """What the unrolled chain says to it, wired as a sampling node is."""

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"{family} was let through.")

    guider = comfy.samplers.CFGGuider(weightless(family))
    guider.set_conds([[normal(1, 7, 32), {}]], [[normal(1, 7, 32), {}]])
    sampler = comfy.samplers.sampler_object("euler")
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    latent = torch.zeros(1, 16, 8)
    try:
        unrolled_sampling(Denoising(guider, sampler, sigmas), normal(1, 16, 8), latent, search)
    except SeedSelectError as error:
        return Finding(refusal=str(error), remark="the family's configuration, without a network")
    raise AssertionError(f"{family} was let through.")


def cases() -> list[Case]:
    families = (*SOUND, *BODIES, *FINDINGS)
    return [Case("families", name, lambda name=name: refused(name), True) for name in families]
