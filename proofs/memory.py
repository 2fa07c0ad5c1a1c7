"""The host's memory modes: the same gradient in each.

On the CPU there is one memory, and the host ignores its modes. What they do to the layers can be
had all the same: a budget for loaded weights, beyond which layers cast and patch their weights each
time they run. The modes themselves are measured where a GPU is.
"""

import contextlib
from collections.abc import Callable, Iterator
from unittest.mock import patch

import comfy.model_management
import comfy.model_patcher
import torch

from .measure import Case, Finding, Wired, examine
from .weights import examine_rounded, flux_weights, flux_wired, load, quantised_weights
from .weights_patched import with_adapter

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


def on_gpu(mode: str, dynamic: bool = False) -> Callable[[], Finding]:
    """A mode of the host that only a GPU has."""

    def run() -> Finding:
        if not torch.cuda.is_available() or comfy.model_management.cpu_state.name == "CPU":
            return Finding(remark="not run: needs a GPU")
        found = comfy.model_patcher.CoreModelPatcher is not comfy.model_patcher.ModelPatcher
        if dynamic != found:
            told = "on" if dynamic else "off"
            return Finding(remark=f"not run: needs the host started with dynamic VRAM {told}")
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
            rounded(lambda: load(quantised_weights("float8_e4m3fn"))),
        ),
        ("normal, GPU", on_gpu("NORMAL_VRAM")),
        ("--lowvram, GPU", on_gpu("LOW_VRAM")),
        ("--novram, GPU", on_gpu("NO_VRAM")),
        ("--highvram, GPU", on_gpu("HIGH_VRAM")),
        ("dynamic VRAM, GPU", on_gpu("NORMAL_VRAM", dynamic=True)),
    ]
    return [Case("memory", name, run, quick=name == "partly loaded, LoRA") for name, run in rows]
