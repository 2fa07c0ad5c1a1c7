"""The model that ships with this pack, with its own weights."""

import torch

from seedselect_core.pocket import load_pocket_model

from ..measure import Case, Finding, Wired, examine
from ..wiring import wired


@torch.inference_mode()
def pocket() -> Finding:
    # Files hold what they hold: they cannot be read where everything is to be float64.
    loaded = {dtype: load_pocket_model()[:2] for dtype in (torch.float32, torch.float64)}

    def build(dtype: torch.dtype) -> Wired:
        model, clip = loaded[dtype]
        unet = model.model.diffusion_model.to(dtype)
        unet.dtype = dtype
        texts = [
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in ("a red letter S on yellow", "")
        ]
        return wired(model, *texts, (1, 4, 8, 8), dtype, sampler="ddim", cfg=7.0)

    return examine(build)


def cases() -> list[Case]:
    return [Case("families", "PocketModelConfig", pocket, quick=True)]
