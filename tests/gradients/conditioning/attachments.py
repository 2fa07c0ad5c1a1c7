"""What packs attach to a model or a prompt: attention patches, wrappers, callbacks."""

from collections.abc import Callable

import comfy.hooks
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..measure import Case, Finding, Wired, examine
from ..models import normal, randomize
from ..small_unet import SIZES, WIDTH, graph, small_unet, text
from .prompts import hooked

CHANNELS = SIZES["model_channels"]
HEADS = SIZES["model_channels"] // SIZES["num_head_channels"]
Build = Callable[[torch.dtype], Wired]


class ImagePrompt:
    """As IP-Adapter does it: a second attention, to the embedding of a picture.

    Its tensors are made by a node, hence in inference mode, and the host knows nothing of them.
    """

    def __init__(self, dtype: torch.dtype):
        self.embeds = normal(1, 3, WIDTH, seed=50).to(dtype)
        self.to_k = normal(CHANNELS, WIDTH, seed=51).to(dtype) / 4
        self.to_v = normal(CHANNELS, WIDTH, seed=52).to(dtype) / 4

    def __call__(self, q, k, v, extra_options):
        embeds = self.embeds.repeat(len(q), 1, 1)
        own = optimized_attention(q, k, v, HEADS)
        ip_k = torch.nn.functional.linear(embeds, self.to_k)
        ip_v = torch.nn.functional.linear(embeds, self.to_v)
        return own + 0.6 * optimized_attention(q, ip_k, ip_v, HEADS)


class Fading(ImagePrompt):
    """Weaker at every call: it counts them, and starts anew where sigma rises."""

    calls = 0
    last = 0.0

    def __call__(self, q, k, v, extra_options):
        sigma = extra_options["sigmas"][0].item()
        self.calls = self.calls + 1 if sigma < self.last else 1
        self.last = sigma
        return super().__call__(q / self.calls, k, v, extra_options)


def patches() -> dict[str, Build]:
    def replaced(kind: type) -> Build:
        def build(dtype: torch.dtype) -> Wired:
            model = small_unet(dtype)
            model.set_model_attn2_replace(kind(dtype), "middle", 0, 0)
            return graph(dtype, model=model)

        return build

    def module(dtype: torch.dtype) -> Wired:
        layer = torch.nn.Linear(CHANNELS, CHANNELS)
        randomize(layer, 53)
        layer = layer.to(dtype)

        def patch(n, extra_options):
            return n + layer(n) * n.mean()

        model = small_unet(dtype)
        model.set_model_attn1_output_patch(patch)
        return graph(dtype, model=model)

    def keys(dtype: torch.dtype) -> Wired:
        scale = [normal(1, 1, WIDTH, seed=54).to(dtype)]

        def patch(n, context, value, extra_options):
            return n * 0.9, context * scale[0], value + scale[0]

        model = small_unet(dtype)
        model.set_model_attn2_patch(patch)
        return graph(dtype, model=model)

    def by_hook(dtype: torch.dtype) -> Wired:
        layers = {"attn2": {("middle", 0, 0): ImagePrompt(dtype)}}
        hooks = comfy.hooks.HookGroup()
        hooks.add(
            comfy.hooks.TransformerOptionsHook(
                {"patches_replace": layers}, comfy.hooks.EnumHookScope.HookedOnly
            )
        )
        return graph(dtype, hooked(text(1), hooks))

    return {
        "attn2_replace patch with tensors of its own (IP-Adapter)": replaced(ImagePrompt),
        "attn2_replace patch that counts its calls": replaced(Fading),
        "attn1_output patch, a module in its closure": module,
        "attn2 patch, a tensor in its closure": keys,
        "patch attached to a prompt (TransformerOptionsHook)": by_hook,
    }


def wrapped(kind: str, wrapper: Callable) -> Build:
    """A graph whose model has ``wrapper(tensor, executor, *args)`` as a wrapper of ``kind``."""

    def build(dtype: torch.dtype) -> Wired:
        tensor = normal(1, 4, 1, 1, seed=55).to(dtype)

        def wrap(executor, *args, **kwargs):
            return wrapper(tensor, executor, *args, **kwargs)

        model = small_unet(dtype)
        model.add_wrapper(kind, wrap)
        return graph(dtype, model=model)

    return build


def _scaled(tensor, executor, *args, **kwargs):
    out = executor(*args, **kwargs)
    return out + 0.1 * tensor * out


def _conds_scaled(tensor, executor, *args, **kwargs):
    return [out + 0.1 * tensor * out for out in executor(*args, **kwargs)]


def wrappers() -> dict[str, Build]:
    kinds = {
        "PREDICT_NOISE": _scaled,
        "APPLY_MODEL": _scaled,
        "DIFFUSION_MODEL": _scaled,
        "CALC_COND_BATCH": _conds_scaled,
        "OUTER_SAMPLE": lambda tensor, executor, *args, **more: executor(*args, **more),
        "SAMPLER_SAMPLE": lambda tensor, executor, *args, **more: executor(*args, **more),
        "PREPARE_SAMPLING": lambda tensor, executor, *args, **more: executor(*args, **more),
    }
    rows = {f"wrapper {kind}": wrapped(getattr(WrappersMP, kind), w) for kind, w in kinds.items()}

    def function(dtype: torch.dtype) -> Wired:
        scale = normal(1, 4, 1, 1, seed=56).to(dtype)

        def call(apply_model, args):
            out = apply_model(args["input"], args["timestep"], **args["c"])
            return out + 0.1 * scale * out * out

        model = small_unet(dtype)
        model.set_model_unet_function_wrapper(call)
        return graph(dtype, model=model)

    return rows | {
        "model_function_wrapper": function,
        "wrapper that mixes in the step before": residual,
        "wrapper with a noise generator of its own": noisy,
        "callback ON_PREPARE_STATE that counts steps": counted,
    }


def _with(dtype: torch.dtype, reset: Callable, apply: Callable) -> Wired:
    """``reset`` when sampling starts, ``apply`` around the diffusion model."""

    def start(executor, *args, **kwargs):
        reset()
        return executor(*args, **kwargs)

    model = small_unet(dtype)
    model.add_wrapper(WrappersMP.OUTER_SAMPLE, start)
    model.add_wrapper(WrappersMP.DIFFUSION_MODEL, apply)
    return graph(dtype, model=model)


def residual(dtype: torch.dtype) -> Wired:
    """As step caches do, which use what the model gave at the step before."""
    kept = {}

    def apply(executor, *args, **kwargs):
        out = executor(*args, **kwargs)
        mixed = out if "last" not in kept else 0.7 * out + 0.3 * kept["last"]
        kept["last"] = out
        return mixed

    return _with(dtype, kept.clear, apply)


def noisy(dtype: torch.dtype) -> Wired:
    generator = torch.Generator()

    def apply(executor, x, *args, **kwargs):
        drawn = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        return executor(x + 0.1 * drawn * x, *args, **kwargs)

    return _with(dtype, lambda: generator.manual_seed(3), apply)


def counted(dtype: torch.dtype) -> Wired:
    steps = 0

    def reset():
        nonlocal steps
        steps = 0

    def prepare(model, timestep, model_options):
        nonlocal steps
        steps += 1

    def apply(executor, x, *args, **kwargs):
        return executor(x / steps, *args, **kwargs)

    wired = _with(dtype, reset, apply)
    wired.guider.model_patcher.add_callback(CallbacksMP.ON_PREPARE_STATE, prepare)
    return wired


def cases() -> list[Case]:
    quick = {
        "attn2_replace patch with tensors of its own (IP-Adapter)",
        "wrapper that mixes in the step before",
    }
    return [
        Case("conditioning", name, lambda build=build: _measured(build), name in quick)
        for name, build in (patches() | wrappers()).items()
    ]


def _measured(build: Build) -> Finding:
    return examine(build)
