"""Families built on other diffusion transformers: SD3, AuraFlow, PixArt, HunyuanDiT, Lens."""

import torch

from ..measure import Case
from ..models import detected, normal, reduced
from .flux import GIVEN, row

# The host knows a head by its 64 channels, and takes as many heads as blocks.
SD3 = {
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    },
    "num_patches": 64,
    "pos_embed_max_size": 8,
}

AURA_FLOW = {
    "cond_seq_dim": 2048,
    "dim": 48,
    "n_heads": 2,
    "n_layers": 2,
    "n_double_layers": 1,
    "global_conddim": 32,
    "max_seq": 64,
}

PIXART = {
    "num_heads": 2,
    "hidden_size": 48,
    "in_channels": 4,
    "patch_size": 2,
    "depth": 2,
    "model_max_length": 8,
}

HUNYUAN_DIT = {
    "hidden_size": 64,
    "num_heads": 4,
    "depth": 4,
    "text_states_dim": 32,
    "text_states_dim_t5": 64,
    "text_len": 7,
    "text_len_t5": 9,
}

LENS = {
    "in_channels": 128,
    "out_channels": 32,
    "num_layers": 2,
    "num_attention_heads": 1,
    "enc_hidden_dim": 96,
    "multi_layer_encoder_feature": True,
    "selected_layer_index": (0, 1, 2),
}


def _sd3(name: str, quick: bool = False, **sizes) -> Case:
    def model(dtype: torch.dtype):
        model = detected("SD3", SD3 | sizes, dtype)
        network = model.model.diffusion_model
        network.pos_embed.copy_(normal(1, 64, 128, seed=3))
        for key, parameter in network.named_parameters():
            if key.endswith(("ln_q.weight", "ln_k.weight")):
                parameter += 1
        return model

    return row(name, model, pooled=2048, quick=quick)


def _aura_flow(name: str, latent: tuple[int, ...], **sizes) -> Case:
    def model(dtype: torch.dtype):
        return reduced("AuraFlow", AURA_FLOW | sizes, dtype)

    return row(name, model, width=2048, latent=latent, remark=GIVEN)


def _pixart(name: str, **sizes) -> Case:
    def model(dtype: torch.dtype):
        return reduced(name, PIXART | sizes, dtype)

    # Positions are relative to a size that the host rounds to 64, so that smaller ones are none.
    return row(name, model, latent=(1, 4, 2, 64), scheduler="normal", remark=GIVEN)


def _hunyuan_dit(name: str, **sizes) -> Case:
    def model(dtype: torch.dtype):
        return reduced(name, HUNYUAN_DIT | sizes, dtype)

    def texts(seed: int) -> dict:
        return {
            "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
            "conditioning_mt5xl": normal(1, 9, 64, seed=seed),
            "attention_mask_mt5xl": torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0]]),
        }

    graph = {"tokens": 7, "width": 32, "latent": (1, 4, 8, 6), "scheduler": "normal"}
    return row(name, model, texts(55), negative=texts(56), remark=GIVEN, **graph)


def _lens(name: str, positive: dict | None = None, quick: bool = False, **sizes) -> Case:
    def model(dtype: torch.dtype):
        return detected("Lens", LENS | sizes, dtype)

    layers = len((LENS | sizes)["selected_layer_index"])
    return row(name, model, positive, latent=(1, 128, 4, 3), width=96 * layers, quick=quick)


def cases() -> list[Case]:
    masked = {"attention_mask": torch.tensor([[True] * 4 + [False] * 2])}
    one_layer = {"multi_layer_encoder_feature": False, "selected_layer_index": (0,)}
    return [
        _sd3("SD3", quick=True),
        _sd3("SD3.5", qk_norm="rms", x_block_self_attn_layers=[0, 1]),
        _aura_flow("AuraFlow", (1, 4, 8, 6)),
        _aura_flow("AuraFlow, larger than its positions", (1, 4, 8, 6), max_seq=4),
        _pixart("PixArtAlpha", image_model="pixart_alpha", micro_condition=True),
        _pixart("PixArtSigma", image_model="pixart_sigma", micro_condition=False),
        _hunyuan_dit("HunyuanDiT"),
        _hunyuan_dit("HunyuanDiT1", size_cond=True, use_style_cond=True),
        _lens("Lens", masked, quick=True),
        _lens("Lens, one layer of text", **one_layer),
    ]
