"""Every sampler and every scheduler of the host, its nodes that make SAMPLER or SIGMAS included."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import comfy.samplers
import comfy_extras
import torch
from comfy_api.latest import io

from seedselect_core.errors import SeedSelectError
from seedselect_core.host.samplers import require_sampler

from .measure import Case, Finding, Wired, examine, worst
from .unet import LATENT, TOKENS, WIDTH, tiny_unet
from .wiring import conditioning, wired

# Samplers take other ways for flow models (`sample_euler_ancestral_RF`).
PREDICTIONS = ("EPS", "V_PREDICTION", "FLOW")
STEPS = 6  # enough for the fourth order of lms, ipndm and sa_solver
QUICK = ("euler", "euler_ancestral_cfg_pp", "deis", "karras", "SamplerLCMUpscale (node)")
# Sigmas that rise are for turning pictures into noise, where there is no noise to optimize;
# KSamplerSelect gives what has rows of its own.
LEFT_OUT = ("FlipSigmas", "KSamplerSelect")
# Where a node's own default does nothing.
SET = {
    "SplitSigmas": {"step": 3},
    "SplitSigmasDenoise": {"denoise": 0.5},
    "ManualSigmas": {"sigmas": "1, 0.8, 0.6, 0.4, 0.2, 0"},
}


def graph(
    prediction: str,
    dtype: torch.dtype,
    sampler: str = "euler",
    scheduler: str = "normal",
    make_sampler: Callable | None = None,
    make_sigmas: Callable | None = None,
) -> Wired:
    """A tiny UNet sampled with cfg 3.

    Args:
        prediction: name in `comfy.model_base.ModelType`.
        sampler, scheduler: the host's names.
        make_sampler: makes the SAMPLER from the MODEL, in place of ``sampler``.
        make_sigmas: makes the SIGMAS from MODEL and SIGMAS, in place of ``scheduler``.
    """
    model = tiny_unet(prediction, dtype)
    # It leaves out the last but one sigma for some samplers, as "KSampler" does.
    sigmas = comfy.samplers.KSampler(model, STEPS, model.load_device, sampler, scheduler).sigmas
    if make_sigmas is not None:
        sigmas = make_sigmas(model=model, sigmas=sigmas)
    texts = conditioning(TOKENS, WIDTH, 1), conditioning(TOKENS, WIDTH, 2)
    connected = wired(model, *texts, LATENT, dtype, sampler=sampler, sigmas=sigmas.to(dtype))
    if make_sampler is not None:
        connected.sampler = make_sampler(model=model)
    return connected


def of_every_prediction(build: Callable[[str, torch.dtype], Wired]) -> Finding:
    """The worst of the measurements for each way to predict."""
    try:
        require_sampler(build(PREDICTIONS[0], torch.float32).sampler)
    except SeedSelectError as error:
        return Finding(refusal=str(error))  # before sampling, for which it may need its own model
    found = [examine(partial(build, prediction)) for prediction in PREDICTIONS]
    return worst(found, ", ".join(PREDICTIONS).lower())


def nodes_that_make(kind: str) -> Iterator[type[io.ComfyNode]]:
    """The host's own nodes whose first output is SAMPLER or SIGMAS, by the order of their files."""
    for path in sorted(Path(comfy_extras.__path__[0]).glob("nodes_*.py")):
        if f"io.{kind.capitalize()}.Output(" not in path.read_text(encoding="utf-8"):
            continue
        for node in vars(importlib.import_module(f"comfy_extras.{path.stem}")).values():
            if (
                isinstance(node, type)
                and issubclass(node, io.ComfyNode)
                and node.__module__ == (f"comfy_extras.{path.stem}")
            ):
                schema = node.define_schema()
                outputs = [output.get_io_type() for output in schema.outputs]
                if outputs[:1] == [kind] and node.__name__ not in LEFT_OUT:
                    yield node


def choices(node: type[io.ComfyNode]) -> Iterator[dict]:
    """Settings of a node, {} for its defaults: every option of its lists, one at a time."""
    yield {}
    for wanted in node.define_schema().inputs:
        for option in (getattr(wanted, "options", None) or [])[1:]:
            yield {wanted.id: option}


def run_node(node: type[io.ComfyNode], settings: dict, **linked):
    """The node's first output, with its own defaults but for ``settings``.

    Args:
        linked: "model" and "sigmas", connected to inputs of these types.
    """
    values = {}
    for wanted in node.define_schema().inputs:
        kind = wanted.get_io_type().lower()
        options = getattr(wanted, "options", None)
        default = getattr(wanted, "default", None)
        if kind in linked:
            values[wanted.id] = linked[kind]
        elif wanted.id == "steps":
            values[wanted.id] = STEPS
        elif not wanted.optional:
            values[wanted.id] = options[0] if default is None and options else default
    return node.execute(**values | SET.get(node.__name__, {}) | settings).result[0]


def scheduled(make_sigmas: Callable) -> Finding:
    """SIGMAS of a node, which is for flow models where noise is at most all of the latent."""
    model = tiny_unet("EPS")
    normal = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", STEPS)
    prediction = "FLOW" if make_sigmas(model=model, sigmas=normal).max() <= 1 else "EPS"

    def build(dtype: torch.dtype) -> Wired:
        return graph(prediction, dtype, "dpmpp_2m", make_sigmas=make_sigmas)

    return examine(build, remark=prediction.lower())


def cases() -> list[Case]:
    found = []

    def add(section: str, name: str, measure: Callable[[], Finding]) -> None:
        found.append(Case(section, name, measure, quick=name in QUICK))

    for name in comfy.samplers.SAMPLER_NAMES:
        add("samplers", name, partial(of_every_prediction, partial(graph, sampler=name)))
    for node in nodes_that_make("SAMPLER"):
        for settings in choices(node):
            name = " ".join([node.__name__, *settings.values(), "(node)"])
            build = partial(graph, make_sampler=partial(run_node, node, settings))
            add("samplers", name, partial(of_every_prediction, build))
    for name in comfy.samplers.SCHEDULER_NAMES:
        build = partial(graph, sampler="dpmpp_2m", scheduler=name)
        add("schedulers", name, partial(of_every_prediction, build))
    for node in nodes_that_make("SIGMAS"):
        measure = partial(scheduled, partial(run_node, node, {}))
        add("schedulers", f"{node.__name__} (node)", measure)
    return found
