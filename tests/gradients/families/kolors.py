"""Kolors: SDXL's UNet reading ChatGLM through a projection, as packs of nodes add it to the host.

The host itself does not know the file. Packs derive a family from SDXL and load that.
"""

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch

from ..measure import Case, Finding, Wired, examine
from ..unets import connected, file_of, texts
from .unet import SDXL, SHAPE

CHATGLM = 4096  # width of its text, and of its pooled form


class KolorsUNet(openaimodel.UNetModel):
    def __init__(self, *args, dtype=None, device=None, operations=openaimodel.ops, **sizes):
        super().__init__(*args, dtype=dtype, device=device, operations=operations, **sizes)
        self.encoder_hid_proj = operations.Linear(CHATGLM, 2048, dtype=dtype, device=device)

    def forward(self, x, timesteps=None, context=None, *args, **kwargs):
        return super().forward(x, timesteps, self.encoder_hid_proj(context), *args, **kwargs)


class KolorsModel(comfy.model_base.SDXL):
    def __init__(self, config, device=None):
        comfy.model_base.BaseModel.__init__(self, config, device=device, unet_model=KolorsUNet)
        self.embedder = openaimodel.Timestep(256)
        self.noise_augmentor = None


class Kolors(comfy.supported_models.SDXL):
    unet_config = comfy.supported_models.SDXL.unet_config | {"adm_in_channels": CHATGLM + 6 * 256}
    sampling_settings = {"linear_start": 0.00085, "linear_end": 0.014, "timesteps": 1100}

    def get_model(self, state_dict, prefix="", device=None):
        return KolorsModel(self, device)


@torch.inference_mode()
def loaded(weights: dict[str, torch.Tensor], dtype: torch.dtype):
    """MODEL of the file, as a pack of nodes loads it."""
    config = Kolors(comfy.model_detection.detect_unet_config(weights, ""))
    config.set_inference_dtype(dtype, None)
    base = config.get_model(weights)
    base.load_model_weights(dict(weights))
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def kolors() -> Finding:
    sizes = SDXL | {"adm_in_channels": Kolors.unet_config["adm_in_channels"]}
    weights = file_of("SDXL", sizes, KolorsUNet)
    known = comfy.model_detection.model_config_from_unet(weights, "") is not None

    def build(dtype: torch.dtype) -> Wired:
        inputs = texts(CHATGLM, CHATGLM)
        return connected(loaded(weights, dtype), inputs, SHAPE, dtype, steps=2)

    whose = "the host's own" if known else "not of the host; as node packs derive it from SDXL"
    return examine(build, whose)


def cases() -> list[Case]:
    return [Case("families", "Kolors", kolors)]
