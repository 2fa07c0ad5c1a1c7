"""Every node of the host that patches a model of pictures, called as the server calls it.

MODEL goes in with the node's own defaults, and what comes out is sampled from. Models are two
small ones of the host's classes: a UNet of three levels, and Flux for nodes of transformers. What
the defaults would not show on a latent of 8 x 8 (tiles of 256 pixels, layer 7 of 2) is given.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from unittest import mock

import torch

from .. import measure, small_unet
from ..measure import Case, Finding, Wired, examine
from ..models import normal
from ..wiring import conditioning, wired
from .kinds import flux_weights, flux_wired, load

# Three levels, so that FreeU finds the widths it changes.
LEVELS = {
    "channel_mult": [1, 2, 4],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [1, 0, 0],
    "transformer_depth_output": [0, 0, 0, 0, 1, 1],
}
LATENT = (1, 4, 8, 8)


def node(module: str, name: str) -> type:
    found = importlib.import_module(f"comfy_extras.nodes_{module}")
    return getattr(found, name)


def defaults(cls: type) -> dict:
    """Values of a node's inputs, but for its models, where the user leaves them as they are."""
    kinds = cls.INPUT_TYPES()
    values = {}
    for kind, *options in [*kinds["required"].items(), *kinds.get("optional", {}).items()]:
        spec = options[0]
        settings = spec[1] if len(spec) > 1 else {}
        choices = spec[0] if isinstance(spec[0], list) else settings.get("options")
        if "default" in settings:
            values[kind] = settings["default"]
        elif choices:
            values[kind] = choices[0]
    return values


def patched(model, cls: type, **given):
    """What ``cls`` gives for ``model``."""
    call = getattr(cls, "execute", None) or getattr(cls(), cls.FUNCTION)
    output = call(**{**defaults(cls), **given, "model": model})
    return getattr(output, "args", output)[0]


def unet(patch: Callable, dtype: torch.dtype, **more) -> Wired:
    model = patch(small_unet.small_unet(dtype, **LEVELS))
    texts = [conditioning(small_unet.TOKENS, small_unet.WIDTH, seed) for seed in (1, 2)]
    return wired(model, *texts, LATENT, dtype, **more)


def flux(patch: Callable, dtype: torch.dtype, **more) -> Wired:
    return flux_wired(patch(load(flux_weights(), dtype=dtype)), dtype, **more)


def with_step(run: Callable[[], Finding], step: float) -> Callable[[], Finding]:
    """For what bends so sharply that differences of the usual step are not yet the slope."""

    def finely() -> Finding:
        with mock.patch.object(measure, "STEP", step):
            return dataclasses.replace(run(), remark=f"differences with step {step:.0e}")

    return finely


def on(graph: Callable, module: str, name: str, given: dict, **more) -> Callable[[], Finding]:
    def build(dtype: torch.dtype) -> Wired:
        cls = node(module, name)
        return graph(lambda model: patched(model, cls, **given), dtype, **more)

    return functools.partial(examine, build)


def override(kernel: Callable) -> Callable[[], Finding]:
    """An attention override, as a third-party node sets it."""

    def patch(model):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = kernel
        return model

    return functools.partial(examine, lambda dtype: unet(patch, dtype))


def without_backward(attention: Callable, *args, **options) -> torch.Tensor:
    """A kernel whose result is a constant to autograd, as Sage attention's."""
    with torch.no_grad():
        return attention(*args, **options)


def half_masked(attention: Callable, q, k, v, *args, **options) -> torch.Tensor:
    """An override that computes something else, of its own gradient."""
    return 0.5 * attention(q, k, v, *args, **options) + 0.5 * q


def memory_mask() -> dict:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 0.5
    return {"noise_mask": mask, "latent_image": normal(*LATENT, seed=8)}


WINDOWS = {"context_length": 4, "context_overlap": 2, "dim": 2}
LAYERS = {"double_layers": "0", "single_layers": "0"}
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
# Module of comfy_extras, node, what is not its default.
UNET = [
    ("freelunch", "FreeU", {}),
    ("freelunch", "FreeU_V2", {}),
    ("pag", "PerturbedAttentionGuidance", {}),
    ("sag", "SelfAttentionGuidance", {}),
    ("nag", "NAGuidance", {}),
    ("hypertile", "HyperTile", {"tile_size": 16, "swap_size": 4}),
    ("tomesd", "TomePatchModel", {}),
    ("eps", "EpsilonScaling", {"scaling_factor": 1.05}),
    ("eps", "TemporalScoreRescaling", {}),
    ("tcfg", "TCFG", {}),
    ("apg", "APG", {}),
    ("apg", "APG", {"momentum": -0.5}),
    ("cfg", "CFGZeroStar", {}),
    ("cfg", "CFGNorm", {}),
    ("cfg", "CFGNorm", {"pre_cfg": True}),
    ("fresca", "FreSca", {"freq_cutoff": 2}),
    ("lumina2", "RenormCFG", {}),
    ("model_advanced", "RescaleCFG", {}),
    *(
        ("model_advanced", "ModelSamplingDiscrete", {"sampling": kind, "zsnr": zsnr})
        for kind, zsnr in [
            ("v_prediction", False),
            ("v_prediction", True),
            ("lcm", False),
            ("x0", False),
        ]
    ),
    *(
        ("model_advanced", "ModelSamplingContinuousEDM", {"sampling": kind})
        for kind in ("v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow")
    ),
    ("model_advanced", "ModelSamplingContinuousV", {}),
    ("model_advanced", "ModelSamplingStableCascade", {}),
    ("model_advanced", "ModelSamplingSD3", {}),
    ("model_advanced", "ModelSamplingAuraFlow", {}),
    ("model_downscale", "PatchModelAddDownscale", {"block_number": 1}),
    ("attention_multiply", "UNetSelfAttentionMultiply", {"q": 1.2, "out": 0.9}),
    ("attention_multiply", "UNetCrossAttentionMultiply", {"k": 1.2}),
    (
        "context_windows",
        "ContextWindowsManualNode",
        {"context_length": 4, "context_overlap": 2, "dim": 2},
    ),
    ("custom_sampler", "CFGOverride", {"cfg": 2.0}),
]
FLUX = [
    ("slg", "SkipLayerGuidanceDiT", LAYERS | WHOLE),
    ("slg", "SkipLayerGuidanceDiT", LAYERS | WHOLE | {"rescaling_scale": 0.5}),
    ("slg", "SkipLayerGuidanceDiTSimple", LAYERS),
    ("nag", "NAGuidance", {}),
    ("model_advanced", "ModelSamplingFlux", {"width": 64, "height": 64}),
    ("rope", "ScaleROPE", {"scale_x": 2.0, "shift_y": 1.0}),
]
# They need two steps before they can leave one out.
CACHES = [
    ("easycache", "EasyCacheNode", {"reuse_threshold": 1.0}),
    ("easycache", "LazyCacheNode", {"reuse_threshold": 1.0}),
]


def _name(name: str, given: dict) -> str:
    listed = ", ".join(f"{key} {value}" for key, value in given.items())
    return f"{name} ({listed})" if listed else name


def cases() -> list[Case]:
    rows = [
        *((_name(name, given), on(unet, module, name, given)) for module, name, given in UNET),
        *(
            (_name(f"{name} on Flux", given), on(flux, module, name, given))
            for module, name, given in FLUX
        ),
        # Mahiro takes the square root of |x|.
        ("Mahiro", with_step(on(unet, "mahiro", "Mahiro", {}), 1e-6)),
        *(
            (_name(f"{name} on Flux", given), on(flux, module, name, given, steps=7))
            for module, name, given in CACHES
        ),
        (
            "DifferentialDiffusion",
            on(unet, "differential_diffusion", "DifferentialDiffusion", {}, **memory_mask()),
        ),
        ("attention override without a backward", override(without_backward)),
        ("attention override with a gradient of its own", override(half_masked)),
    ]
    quick = (
        "PerturbedAttentionGuidance",
        "NAGuidance on Flux",
        "attention override without a backward",
    )
    return [Case("weights", name, run, quick=name in quick) for name, run in rows]
