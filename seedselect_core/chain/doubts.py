"""What of a graph and its host nobody has proven exact, as `make coverage` and `make hosts` did."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path

from comfyui_version import __version__ as HOST_VERSION

from ..host import calls, layers, samplers, session, weights
from ..host.devices import unproven_device
from ..host.needs import unbound
from ..host.samplers import sampler_name
from .parts import foreign_attention, parts_of
from .unroll import Denoising

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
NEEDS = (*weights.NEEDS, *samplers.NEEDS, *layers.NEEDS, *session.NEEDS, *calls.NEEDS)


def _rows(name: str) -> list[dict]:
    """Rows of a table of docs/; none where there is no table."""
    path = DOCS / name
    return json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else []


@dataclass(frozen=True)
class Proven:
    """What docs/coverage.json says was measured exact.

    Attributes:
        names: the rows by section and name.
        parts: what the graphs of exact rows are made of, see `seedselect_core.chain.parts`.
    """

    names: frozenset[tuple[str, str]]
    parts: frozenset[str]

    @classmethod
    def read(cls) -> "Proven":
        rows = [row for row in _rows("coverage.json") if row["verdict"] == "exact"]
        return cls(
            frozenset((row["section"], row["name"]) for row in rows),
            frozenset(part for row in rows for part in row.get("parts", ())),
        )


def proven_hosts() -> set[str]:
    """Versions of the host that docs/hosts.json lists as proven."""
    return {row["comfyui"] for row in _rows("hosts.json") if row["verdict"] == "proven"}


def doubts(denoising: Denoising) -> list[str]:
    """What nobody has proven, as a user reads it; empty where everything is.

    The sampler, the model's family, every other part of the graph, attention that was replaced
    behind the host's back, the device, the host's version, and what of a liberty does not bind to
    it.
    """
    guider = denoising.guider
    proven = Proven.read()
    found = []
    name = sampler_name(denoising.sampler)
    function = getattr(denoising.sampler, "sampler_function", type(denoising.sampler))
    # A sampler of another node pack may bear the name of one of the host's.
    module = getattr(inspect.unwrap(function), "__module__", None) or ""
    if ("samplers", name) not in proven.names or not module.startswith("comfy."):
        found.append(f"sampler '{name}'")
    family = type(guider.model_patcher.model.model_config)
    # This pack's own family, whatever the folder that it is installed in.
    core = __package__.removesuffix(".chain")
    ours = family.__module__.startswith(("comfy.", f"{core}."))
    if ("families", family.__name__) not in proven.names or not ours:
        found.append(f"model family '{family.__name__}'")
    parts = parts_of(guider) - proven.parts
    found += [f"'{part}' in the graph" for part in sorted(parts)]
    found += [f"attention replaced by '{part}'" for part in sorted(foreign_attention())]
    device = unproven_device(guider.model_patcher.load_device)
    found += [f"the device {device}"] if device else []
    return found + _of_the_host(guider)


def _of_the_host(guider) -> list[str]:
    found = [] if HOST_VERSION in proven_hosts() else [f"ComfyUI {HOST_VERSION}"]
    diffusion = guider.model_patcher.get_model_object("diffusion_model")
    return found + unbound(NEEDS, type(diffusion).__module__)
