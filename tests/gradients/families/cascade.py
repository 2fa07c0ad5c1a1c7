"""Stable Cascade: stage C makes a small latent of a text, stage B a larger one of both."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_detection
import torch

from ..measure import Case, Finding, Wired, examine
from ..models import normal, reduced
from ..unets import connected, texts

TEXT = 1280  # width of the text, and of its pooled form
# The host knows two sizes of each stage, both of a billion weights.
STAGE_C = {
    "c_r": 16,
    "c_cond": 64,
    "c_hidden": [64, 64],
    "nhead": [4, 4],
    "blocks": [[1, 2], [2, 1]],
}
STAGE_B = {
    "c_r": 16,
    "c_cond": 64,
    "c_hidden": [32, 48, 64, 64],
    "nhead": [-1, -1, 4, 4],
    "blocks": [[1, 1, 2, 1], [1, 2, 1, 1]],
    "block_repeat": [[1, 1, 1, 1], [2, 2, 1, 1]],
}


def stage(
    family: str, sizes: dict, inputs: Callable[[], tuple], shape: tuple[int, ...]
) -> Callable[[], Finding]:
    def measured() -> Finding:
        found = set()

        def build(dtype: torch.dtype) -> Wired:
            model = reduced(family, sizes, dtype)
            weights = model.model.diffusion_model.state_dict()
            found.add(type(comfy.model_detection.model_config_from_unet(weights, "")).__name__)
            return connected(model, inputs(), shape, dtype, steps=2)

        finding = examine(build)
        if found != {family}:
            raise ValueError(f"The host takes a file of {family} for {', '.join(found)}.")
        return replace(finding, remark="family detected, sizes given")

    return measured


def pictures_as_prompts() -> tuple:
    import nodes

    positive, negative = texts(TEXT, TEXT)
    for seed in (3, 4):
        seen = SimpleNamespace(image_embeds=normal(1, 768, seed=seed))
        positive = nodes.unCLIPConditioning().apply_adm(positive, seen, 0.8, 0.0)[0]
    return positive, negative


def after_stage_c() -> tuple:
    from comfy_extras.nodes_stable_cascade import StableCascade_StageB_Conditioning

    prior = {"samples": normal(1, 16, 3, 5, seed=5)}
    positive, negative = texts(TEXT, TEXT)
    node = StableCascade_StageB_Conditioning
    return node.execute(positive, prior)[0], node.execute(negative, prior)[0]


def cases() -> list[Case]:
    rows = [
        ("Stable_Cascade_C", STAGE_C, lambda: texts(TEXT, TEXT), (1, 16, 5, 7)),
        ("Stable_Cascade_C, pictures as prompts", STAGE_C, pictures_as_prompts, (1, 16, 5, 7)),
        ("Stable_Cascade_B", STAGE_B, after_stage_c, (1, 4, 20, 36)),
    ]
    return [
        Case("families", name, stage(name.split(",")[0], *row), quick=not name.endswith("prompts"))
        for name, *row in rows
    ]
