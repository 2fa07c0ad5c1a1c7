"""Families built on the host's Flux transformer: Flux 1 and 2, LongCat-Image, Chroma, Radiance."""

import dataclasses
from collections.abc import Callable

import torch

from ..measure import Case, Wired, examine
from ..models import detected, normal, reduced
from ..wiring import conditioning, wired

# One attention head, whose width the host knows, and one block of each kind.
FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "hidden_size": 128,
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "context_in_dim": 4096,
    "vec_in_dim": 768,
    "txt_ids_dims": [],
}

FLUX2 = FLUX | {
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "mlp_ratio": 3.0,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "qkv_bias": False,
    "context_in_dim": 96,
    "vec_in_dim": None,
    "txt_ids_dims": [3],
    "guidance_embed": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}

# The host knows only the full size of the network that distils the guidance.
CHROMA = FLUX | {
    "in_channels": 64,
    "out_channels": 64,
    "hidden_size": 32,
    "num_heads": 2,
    "axes_dim": [4, 6, 6],
    "vec_in_dim": None,
    "in_dim": 64,
    "out_dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
}

RADIANCE = CHROMA | {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 8,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 2,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}

GIVEN = "sizes given, not detected"


@dataclasses.dataclass(frozen=True)
class Texts:
    """Sizes of the prompts.

    Attributes:
        tokens, width: of each, and their channels.
        pooled: channels of the pooled output, 0 for none.
        negative: what the negative CONDITIONING holds besides.
    """

    tokens: int = 6
    width: int = 4096
    pooled: int = 0
    negative: dict | None = None

    def conditioning(self, seed: int, extra: dict | None) -> list:
        pool = {"pooled_output": normal(1, self.pooled, seed=40 + seed)} if self.pooled else {}
        return conditioning(self.tokens, self.width, seed, **pool, **(extra or {}))


def row(
    name: str,
    model: Callable[[torch.dtype], object],
    positive: dict | None = None,
    *,
    latent: tuple[int, ...] = (1, 16, 8, 6),
    remark: str = "",
    quick: bool = False,
    **more,
) -> Case:
    """A row with texts of random tokens.

    Args:
        positive: what the positive CONDITIONING holds besides.
        more: fields of `Texts`, and what `wired` takes.
    """
    names = [field.name for field in dataclasses.fields(Texts)]
    texts_of = Texts(**{field: more.pop(field) for field in names if field in more})

    def build(dtype: torch.dtype) -> Wired:
        texts = texts_of.conditioning(1, positive), texts_of.conditioning(2, texts_of.negative)
        return wired(model(dtype), *texts, latent, dtype, **{"scheduler": "simple"} | more)

    return Case("families", name, lambda: examine(build, remark), quick)


def _flux(
    name: str, positive: dict | None = None, family: str = "Flux", sizes=None, **more
) -> Case:
    """A Flux 1 that the host detects, with texts as its T5 and CLIP-L give them."""

    def model(dtype: torch.dtype):
        return detected(family, FLUX | (sizes or {}), dtype)

    return row(name, model, positive, **{"pooled": 768} | more)


def _flux2(name: str, positive: dict | None = None, sizes=None, **more) -> Case:
    def model(dtype: torch.dtype):
        return detected("Flux2", FLUX2 | (sizes or {}), dtype)

    # The host pads texts to 512 tokens: without a negative one and with few steps it stays quick.
    graph = {"latent": (1, 128, 4, 3), "width": 96, "cfg": 1.0, "steps": 2}
    return row(name, model, positive, **graph | more)


def _chroma(name: str, positive: dict | None = None, **more) -> Case:
    def model(dtype: torch.dtype):
        return reduced("Chroma", CHROMA, dtype)

    return row(name, model, positive, remark=GIVEN, **more)


def _radiance(name: str, quick: bool = False, **sizes) -> Case:
    def model(dtype: torch.dtype):
        return reduced("ChromaRadiance", RADIANCE | sizes, dtype)

    return row(name, model, latent=(1, 3, 32, 48), remark=GIVEN, quick=quick)


def reference(channels: int, seed: int, height: int = 4, width: int = 6) -> torch.Tensor:
    """The latent of a picture to edit."""
    return normal(1, channels, height, width, seed=seed)


def cases() -> list[Case]:
    picture = {"reference_latents": [reference(16, 50), reference(16, 51, 6, 4)]}
    picture2 = {"reference_latents": [reference(128, 50), reference(128, 51, 3, 2)]}
    timed = {"reference_latents_method": "index_timestep_zero"}
    inpaint = {"concat_latent_image": reference(16, 52, 8, 6), "concat_mask": mask()}
    style = {
        "attention_mask": normal(1, 54, 54, seed=54).sigmoid().log(),
        "attention_mask_img_shape": (8, 6),
    }
    long_cat = {"family": "LongCatImage", "pooled": 0, "width": 3584}
    long_cat["sizes"] = {"context_in_dim": 3584, "vec_in_dim": None, "txt_ids_dims": [1, 2]}
    return [
        _flux("Flux", {"guidance": 3.5}, quick=True),
        _flux("Flux, deeper", {"guidance": 3.5}, sizes={"depth": 2, "depth_single_blocks": 3}),
        _flux("Flux, odd sizes", {"guidance": 3.5}, latent=(2, 16, 7, 5)),
        _flux("Flux Kontext", {"guidance": 2.5} | picture),
        _flux("Flux Kontext, uxo", {"reference_latents_method": "uxo"} | picture),
        _flux("Flux Kontext, index", {"reference_latents_method": "index"} | picture),
        _flux("FluxInpaint", {"guidance": 30.0} | inpaint, "FluxInpaint", {"in_channels": 96}),
        _flux("Flux Canny", {"guidance": 30.0} | inpaint, sizes={"in_channels": 32}),
        _flux("Flux, attention mask", style),
        _flux("FluxSchnell", family="FluxSchnell", cfg=1.0),
        _flux("LongCatImage", **long_cat, quick=True),
        _flux2("Flux2", {"guidance": 4.0}, {"guidance_embed": True}),
        _flux2("Flux2, reference latents", picture2),
        _flux2("Flux2, index_timestep_zero", timed | picture2),
        _chroma("Chroma", quick=True),
        _chroma("Chroma, attention mask and guidance", {"guidance": 1.5} | style),
        _radiance("ChromaRadiance", quick=True),
        _radiance("ChromaRadiance, x0, text positions", use_x0=True, use_sequential_txt_ids=True),
        _radiance("ChromaRadiance, tiles, linear", nerf_tile_size=4, nerf_final_head_type="linear"),
    ]


def mask() -> torch.Tensor:
    """Half of a picture of 8 x 6 latent pixels, in pixels."""
    mask = torch.zeros(1, 1, 64, 48)
    mask[..., 24:] = 1
    return mask
