"""The host's memory modes: the same gradient in each.

On the CPU there is one memory, and the host ignores its modes. Here it is made to decide as for a
GPU, with the CPU in its place: the modes choose how many of the weights are loaded, and the layers
of the others cast and patch their weights each time they run. On a GPU itself they are measured
where there is one.
"""

import contextlib
from collections.abc import Callable, Iterator
from unittest.mock import patch

import comfy.model_management
import comfy.model_patcher
import torch

from ..measure import Case, Finding, Wired, examine
from .kinds import examine_rounded, flux_weights, flux_wired, load, quantized_weights
from .patched import with_adapter

BUDGET = 300_000  # bytes of about 3 million


@contextlib.contextmanager
def little_memory(budget: int = BUDGET) -> Iterator[None]:
    """Have the host load no more than ``budget`` bytes of a model's weights."""
    loads = comfy.model_management.LoadedModel.model_load

    def load_partly(self, lowvram_model_memory=0, force_patch_weights=False):
        return loads(self, budget, force_patch_weights)

    with patch.object(comfy.model_management.LoadedModel, "model_load", load_partly):
        yield


def partly(finding: Callable[[], Finding], seen: list) -> Finding:
    """``finding`` with little memory, and a check that layers were in fact left unloaded."""
    with little_memory():
        found = finding()
    if not all(model.model.model_lowvram for model in seen):
        raise AssertionError("The host loaded the whole model.")
    return found


def plain() -> Finding:
    seen: list = []

    def build(dtype: torch.dtype) -> Wired:
        seen.append(load(flux_weights(), dtype=dtype))
        return flux_wired(seen[-1], dtype)

    return partly(lambda: examine(build), seen)


def with_lora() -> Finding:
    seen: list = []

    def build(dtype: torch.dtype) -> Wired:
        seen.append(with_adapter(load(flux_weights(), dtype=dtype), "LoRA"))
        return flux_wired(seen[-1], dtype)

    return partly(lambda: examine(build), seen)


def rounded(read: Callable) -> Callable[[], Finding]:
    def run() -> Finding:
        seen: list = []

        def build():
            seen.append(with_adapter(read(), "LoRA"))
            return seen[-1]

        return partly(lambda: examine_rounded(build), seen)

    return run


def decided(mode: str, left_out: bool) -> Callable[[], Finding]:
    """A mode of the host, which takes the CPU for a GPU while it loads.

    Args:
        left_out: whether the mode leaves weights unloaded, which is checked.
    """
    management = comfy.model_management
    load_models = management.load_models_gpu
    # As much as a sampling needs at least, and the budget.
    scarce = management.minimum_inference_memory() + BUDGET
    free = management.get_free_memory

    def as_on_a_gpu(*args, **options):
        measured = (lambda *_, **__: scarce) if mode == "LOW_VRAM" else free
        with (
            patch.object(management, "is_device_cpu", lambda device: False),
            patch.object(management, "vram_state", management.VRAMState[mode]),
            patch.object(management, "get_free_memory", measured),
        ):
            return load_models(*args, **options)

    def run() -> Finding:
        seen: list = []

        def build(dtype: torch.dtype) -> Wired:
            seen.append(with_adapter(load(flux_weights(), dtype=dtype), "LoRA"))
            return flux_wired(seen[-1], dtype)

        with patch.object(management, "load_models_gpu", as_on_a_gpu):
            found = examine(build)
        if any(model.model.model_lowvram != left_out for model in seen):
            raise AssertionError(f"{mode} did not load what it should.")
        return found

    return run


def on_gpu(mode: str, dynamic: bool = False) -> Callable[[], Finding]:
    """A mode of the host that only a GPU has."""

    def run() -> Finding:
        if not torch.cuda.is_available() or comfy.model_management.cpu_state.name == "CPU":
            return Finding(remark="not run: needs a GPU")
        found = comfy.model_patcher.CoreModelPatcher is not comfy.model_patcher.ModelPatcher
        if dynamic != found:
            state = "on" if dynamic else "off"
            return Finding(remark=f"not run: needs the host started with dynamic VRAM {state}")
        state = comfy.model_management.VRAMState[mode]
        with patch.object(comfy.model_management, "vram_state", state):
            return examine(lambda dtype: flux_wired(load(flux_weights(), dtype=dtype), dtype))

    return run


def normal_mode() -> Finding:
    return examine(lambda dtype: flux_wired(load(flux_weights(), dtype=dtype), dtype))


def cases() -> list[Case]:
    def fp8():
        return load(flux_weights(), dtype=torch.float8_e4m3fn)

    rows = [
        ("--cpu", normal_mode),
        ("partly loaded", plain),
        ("partly loaded, LoRA", with_lora),
        ("partly loaded, LoRA, float8_e4m3fn", rounded(fp8)),
        (
            "partly loaded, LoRA, quantised float8_e4m3fn",
            rounded(lambda: load(quantized_weights("float8_e4m3fn"))),
        ),
        ("normal, the CPU as device, LoRA", decided("NORMAL_VRAM", left_out=False)),
        ("--lowvram, the CPU as device, LoRA", decided("LOW_VRAM", left_out=True)),
        ("--novram, the CPU as device, LoRA", decided("NO_VRAM", left_out=True)),
        ("--highvram, the CPU as device, LoRA", decided("HIGH_VRAM", left_out=False)),
        ("normal, GPU", on_gpu("NORMAL_VRAM")),
        ("--lowvram, GPU", on_gpu("LOW_VRAM")),
        ("--novram, GPU", on_gpu("NO_VRAM")),
        ("--highvram, GPU", on_gpu("HIGH_VRAM")),
        ("dynamic VRAM, GPU", on_gpu("NORMAL_VRAM", dynamic=True)),
    ]
    return [Case("memory", name, run, quick=name == "partly loaded, LoRA") for name, run in rows]
