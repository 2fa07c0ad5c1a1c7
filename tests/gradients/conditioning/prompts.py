"""Conditionings as the host's nodes make them, and what packs add to them."""

from collections.abc import Callable
from dataclasses import replace

import comfy.hooks
import comfy.model_base
import comfy.samplers
import torch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_flux import FluxDisableGuidance, FluxGuidance
from comfy_extras.nodes_hooks import (
    ConditioningSetDefaultAndCombine,
    ConditioningSetProperties,
    CreateHookKeyframe,
    SetHookKeyframes,
)
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning

import nodes

from ..families.flux import FLUX
from ..measure import Case, Finding, Wired, examine
from ..models import detected, normal
from ..small_unet import TOKENS, WIDTH, graph, small_unet, text
from ..unets import Eye, picture
from ..wiring import conditioning, wired

Build = Callable[[torch.dtype], Wired]


def left_half(soft: bool = False) -> torch.Tensor:
    """MASK [1, 64, 64], white to the left; ``soft``: fading to the right."""
    ramp = torch.linspace(1, 0, 64)
    return (ramp if soft else (ramp > 0.5).float()).repeat(1, 64, 1)


def lora(strength: float, seed: int) -> comfy.hooks.HookGroup:
    """HOOKS of a random LoRA on every attention of `small_unet`."""
    weights = {}
    for name, weight in small_unet().model.diffusion_model.named_parameters():
        if ".attn" in name and name.endswith(".weight"):
            layer = "diffusion_model." + name.removesuffix(".weight")
            weights[layer + ".lora_up.weight"] = normal(weight.shape[0], 2, seed=seed) / 4
            weights[layer + ".lora_down.weight"] = normal(2, weight.shape[1], seed=seed + 1) / 4
    return comfy.hooks.create_hook_lora(weights, strength, 0.0)


def keyframes(*strengths: float) -> comfy.hooks.HookKeyframeGroup:
    """HOOK_KEYFRAMES at equal distances."""
    group = None
    for i, strength in enumerate(strengths):
        node = CreateHookKeyframe()
        (group,) = node.create_hook_keyframe(strength, i / len(strengths), group)
    return group


def scheduled(hooks: comfy.hooks.HookGroup, *strengths: float) -> comfy.hooks.HookGroup:
    return SetHookKeyframes().set_hook_keyframes(hooks, keyframes(*strengths))[0]


def hooked(conditioning: list, hooks: comfy.hooks.HookGroup, **options) -> list:
    node = ConditioningSetProperties()
    return node.set_properties(conditioning, 1.0, "default", hooks=hooks, **options)[0]


def area(seed: int, x: int = 0, strength: float = 1.0) -> list:
    return nodes.ConditioningSetArea().append(text(seed), 40, 64, x, 0, strength)[0]


def masked(seed: int, bounds: str, strength: float = 1.0, soft: bool = False) -> list:
    return nodes.ConditioningSetMask().append(text(seed), left_half(soft), bounds, strength)[0]


def part(seed: int, start: float, end: float) -> list:
    return nodes.ConditioningSetTimestepRange().set_range(text(seed), start, end)[0]


def regional() -> dict[str, tuple[list, list]]:
    """Name to positive and negative."""
    areas = area(1) + area(3, 24)
    percent = nodes.ConditioningSetAreaPercentage().append(text(1), 0.5, 0.75, 0.25, 0.1, 0.8)[0]
    strong = nodes.ConditioningSetAreaStrength().append(area(1) + text(3), 0.6)[0]
    default = ConditioningSetDefaultAndCombine()
    (with_default,) = default.set_default_and_combine(masked(1, "default", 0.7, True), text(3))
    return {
        "ConditioningSetArea, two": (areas + text(4), text(2)),
        "ConditioningSetAreaPercentage": (percent + text(3), text(2)),
        "ConditioningSetAreaStrength": (strong, text(2)),
        "ConditioningSetMask, default": (masked(1, "default", 0.7) + text(3), text(2)),
        "ConditioningSetMask, mask bounds": (masked(1, "mask bounds") + text(3), text(2)),
        "ConditioningSetMask, soft, on the negative": (text(1), masked(2, "default", 1, True)),
        "ConditioningSetDefaultAndCombine": (with_default, text(2)),
    }


def texts() -> dict[str, tuple[list, list]]:
    average = nodes.ConditioningAverage().addWeighted(text(1), text(3), 0.4)[0]
    joined = nodes.ConditioningConcat().concat(text(1), text(3, 7))[0]
    combined = nodes.ConditioningCombine().combine(text(1) + text(4), text(3, 7))[0]
    extra = {"my_pack_strength": 0.5, "my_pack_tensor": normal(1, 3, seed=8)}
    return {
        "ConditioningAverage": (average, text(2)),
        "ConditioningConcat": (joined, text(2)),
        "ConditioningCombine, three prompts": (combined, text(2)),
        "ConditioningSetTimestepRange, meeting": (part(1, 0, 0.5) + part(3, 0.5, 1), text(2)),
        "ConditioningSetTimestepRange, overlapping": (
            part(1, 0, 0.7) + part(3, 0.3, 1),
            part(2, 0, 0.5) + part(4, 0.5, 1),
        ),
        "texts of different length": (text(1, 3 * TOKENS), text(2, 2 * TOKENS)),
        "conditioning with tensors under keys of a pack": (text(1, **extra), text(2)),
    }


def hooks() -> dict[str, Callable[[], tuple[list, list]]]:
    """Rows whose hooks remember, so that every graph needs its own."""
    return {
        "LoRA hook": lambda: (hooked(text(1), lora(0.8, 60)), text(2)),
        "LoRA hooks, one a region": lambda: (
            hooked(text(1), lora(0.8, 60), mask=left_half(True)) + hooked(text(3), lora(0.5, 70)),
            text(2),
        ),
        "LoRA hook, keyframes": lambda: (
            hooked(text(1), scheduled(lora(0.8, 60), 1.0, 0.4, 0.0)),
            text(2),
        ),
        "LoRA hook, keyframes, on both prompts": lambda: _on_both(
            scheduled(lora(0.8, 60), 0.2, 0.9)
        ),
        "LoRA hooks, two sets of keyframes and a timestep range": lambda: (
            hooked(
                text(1),
                scheduled(lora(0.8, 60), 1.0, 0.3).clone_and_combine(
                    scheduled(lora(0.6, 70), 0.1, 0.5, 0.9)
                ),
                timesteps=(0.0, 0.6),
            )
            + text(3),
            text(2),
        ),
    }


def _on_both(group: comfy.hooks.HookGroup) -> tuple[list, list]:
    return hooked(text(1), group), hooked(text(2), group)


def hooked_build(make: Callable[[], tuple[list, list]], **more) -> Build:
    return lambda dtype: graph(dtype, *make(), **more)


def latents() -> dict[str, Build]:
    """What the LATENT decides: size, batch, noise mask, denoise."""
    picture_latent = normal(1, 4, 8, 8, seed=5)

    def truncated(dtype: torch.dtype) -> Wired:
        whole = graph(dtype, steps=6, latent_image=picture_latent)
        return replace(whole, sigmas=whole.sigmas[3:])

    def inpainting(mask: torch.Tensor, **more) -> Build:
        more = {"latent_image": picture_latent, "noise_mask": mask} | more
        return lambda dtype: graph(dtype, **more)

    def differential(dtype: torch.dtype) -> Wired:
        model = DifferentialDiffusion.execute(small_unet(dtype), strength=0.8)[0]
        mask = left_half(True)
        return graph(dtype, model=model, latent_image=picture_latent, noise_mask=mask)

    def own_noise(dtype: torch.dtype) -> Wired:
        latent = torch.zeros(2, 4, 8, 8)
        drawn = comfy.sample.prepare_noise(latent, 7, [3, 5])
        return graph(dtype, shape=(2, 4, 8, 8), noise=drawn)

    def two_texts(dtype: torch.dtype) -> Wired:
        return graph(dtype, text(1, batch=2), text(2), shape=(2, 4, 8, 8))

    return {
        "image to image, denoise 0.5": truncated,
        "noise mask, hard": inpainting(left_half()),
        "noise mask, soft": inpainting(left_half(True)),
        "noise mask, ddim": inpainting(left_half(True), sampler="ddim"),
        "noise mask and denoise 0.5": lambda dtype: replace(
            truncated(dtype), noise_mask=left_half()
        ),
        "DifferentialDiffusion, soft mask": differential,
        "latent 12 x 8": lambda dtype: graph(dtype, shape=(1, 4, 12, 8)),
        "latent 7 x 9": lambda dtype: graph(dtype, shape=(1, 4, 7, 9)),
        "batch of 2, batch_index": own_noise,
        "batch of 2, two texts": two_texts,
    }


def pictured() -> dict[str, Build]:
    """Conditionings that hold pictures, on models made for them."""

    def to_pixels(dtype: torch.dtype) -> Wired:
        model = small_unet(dtype, comfy.model_base.SD15_instructpix2pix, in_channels=8)
        node = InstructPixToPixConditioning
        made = node.execute(text(1), text(2), picture(8, 8), Eye())
        return graph(dtype, *made[:2], model=model, latent_image=made[2]["samples"])

    def inpainting(dtype: torch.dtype) -> Wired:
        model = small_unet(dtype, in_channels=9)
        model.model.set_inpaint()
        node = nodes.InpaintModelConditioning()
        p, n, latent = node.encode(text(1), text(2), picture(8, 8), Eye(), left_half(), True)
        return graph(
            dtype,
            p,
            n,
            model=model,
            latent_image=latent["samples"],
            noise_mask=latent["noise_mask"],
        )

    def unclip(dtype: torch.dtype) -> Wired:
        def base(config, device):
            noise = {"noise_schedule_config": {"timesteps": 1000}, "timestep_dim": WIDTH}
            return comfy.model_base.SD21UNCLIP(config, noise, device=device)

        model = small_unet(dtype, base, adm_in_channels=2 * WIDTH, num_classes="sequential")
        seen = Eye(WIDTH).encode_image(picture(8, 8))
        (positive,) = nodes.unCLIPConditioning().apply_adm(text(1), seen, 1.0, 0.1)
        return graph(dtype, positive, model=model)

    return {
        "InstructPixToPixConditioning": to_pixels,
        "InpaintModelConditioning": inpainting,
        "unCLIPConditioning": unclip,
    }


def windows(dtype: torch.dtype) -> Wired:
    """Context windows along the width, as for panoramas."""
    model = ContextWindowsManualNode.execute(
        small_unet(dtype), 8, 4, "standard_uniform", 1, False, "pyramid", 3, False
    )[0]
    return graph(dtype, model=model, shape=(1, 4, 8, 16))


def on_flux() -> dict[str, Build]:
    def build(dtype: torch.dtype, change: Callable[[list], list]) -> Wired:
        pair = (
            change(conditioning(7, 4096, seed, pooled_output=normal(1, 768, seed=40 + seed)))
            for seed in (1, 2)
        )
        model = detected("Flux", FLUX | {"guidance_embed": True}, dtype)
        return wired(model, *pair, (1, 16, 8, 6), dtype, scheduler="simple")

    def referring(texts: list) -> list:
        for i in range(2):
            latent = {"samples": normal(1, 16, 8, 4 + 2 * i, seed=5 + i)}
            (texts,) = ReferenceLatent.execute(texts, latent)
        return texts

    return {
        "FluxGuidance": lambda dtype: build(dtype, lambda c: FluxGuidance.execute(c, 6.0)[0]),
        "FluxDisableGuidance": lambda dtype: build(
            dtype, lambda c: FluxDisableGuidance.execute(c)[0]
        ),
        "ReferenceLatent, two": lambda dtype: build(dtype, referring),
    }


def cases() -> list[Case]:
    builds: dict[str, Build] = {}
    for name, pair in (texts() | regional()).items():
        builds[name] = lambda dtype, pair=pair: graph(dtype, *pair)
    builds |= {name: hooked_build(make) for name, make in hooks().items()}
    builds |= latents() | pictured() | on_flux() | {"context windows along the width": windows}
    quick = {
        "ConditioningSetArea, two",
        "ConditioningCombine, three prompts",
        "LoRA hook, keyframes",
        "noise mask, soft",
    }
    return [
        Case("conditioning", name, lambda build=build: _measured(build), name in quick)
        for name, build in builds.items()
    ]


def _measured(build: Build) -> Finding:
    return examine(build)
