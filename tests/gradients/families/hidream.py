"""HiDream: a mixture of experts on latents, and O1, which paints pixels with a language model."""

import torch

from ..measure import Case
from ..models import normal, reduced
from .flux import GIVEN, reference, row

HIDREAM = {
    "attention_head_dim": 16,
    "axes_dims_rope": [8, 4, 4],
    "caption_channels": [40, 48],
    "max_resolution": [16, 16],
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "llama_layers": [0, 1, 1],
    "num_attention_heads": 2,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "num_layers": 1,
    "num_single_layers": 2,
    "text_emb_dim": 24,
}

O1 = {
    "text_config_overrides": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rope_dims": [2, 1, 1],
    },
    "vision_config_overrides": {
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "depth": 1,
        "num_position_embeddings": 16,
    },
}

# A prompt in the template of the host's tokenizer: user, text, assistant, and where the time goes.
PROMPT = [151644, 872, 198, 64, 65, 151645, 198, 151644, 77091, 198, 151669, 151673]


def _hidream(name: str, positive: dict | None = None, quick: bool = False) -> Case:
    def model(dtype: torch.dtype):
        return reduced("HiDream", HIDREAM, dtype)

    def llama(seed: int) -> dict:
        return {"conditioning_llama3": normal(1, 2, 5, 48, seed=seed)}

    texts = llama(60) | (positive or {}), llama(61) | (positive or {})
    graph = {"width": 40, "pooled": 24, "cfg": 2.0}
    return row(name, model, texts[0], negative=texts[1], remark=GIVEN, quick=quick, **graph)


def _o1(name: str, positive: dict | None = None, **more) -> Case:
    def model(dtype: torch.dtype):
        return reduced("HiDreamO1", O1, dtype)

    def prompt(word: int) -> dict:
        ids = [*PROMPT[:3], word, *PROMPT[4:]]
        return {"text_input_ids": torch.tensor([ids])}

    texts = prompt(70) | (positive or {}), prompt(71) | (positive or {})
    graph = {"latent": (1, 3, 64, 96), "width": 8} | more
    return row(name, model, texts[0], negative=texts[1], remark=GIVEN, **graph)


def cases() -> list[Case]:
    picture = {"reference_latents": [normal(1, 64, 64, 3, seed=62).sigmoid()]}
    return [
        _hidream("HiDream"),
        _hidream("HiDream E1", {"concat_latent_image": reference(16, 63, 8, 6)}),
        _o1("HiDreamO1"),
        _o1("HiDreamO1, reference", picture, steps=2, cfg=1.0),
    ]
