"""What the gradient was proven exact for, as `make coverage` measured it."""

import functools
import inspect
import json
from pathlib import Path

import comfy.samplers

from .host.differentiable_samplers import sampler_name

TABLE = Path(__file__).resolve().parent.parent / "docs" / "coverage.json"


@functools.cache
def exact(section: str) -> frozenset[str]:
    """Names of a section of the table that were measured exact; none where there is no table."""
    if not TABLE.is_file():
        return frozenset()
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return frozenset(
        row["name"] for row in rows if row["section"] == section and row["verdict"] == "exact"
    )


def untried(sampler: comfy.samplers.Sampler, model) -> list[str]:
    """What nobody has tried, as a user reads it: the sampler, the model's family, both or none.

    Args:
        sampler: the host's SAMPLER.
        model: the host's ModelPatcher.
    """
    found = []
    name = sampler_name(sampler)
    function = inspect.unwrap(getattr(sampler, "sampler_function", type(sampler)))
    # A sampler of another node pack may bear the name of one of the host's.
    if name not in exact("samplers") or not function.__module__.startswith("comfy."):
        found.append(f"sampler '{name}'")
    family = type(model.model.model_config)
    ours = family.__module__.startswith(("comfy.", f"{__package__}."))
    if family.__name__ not in exact("families") or not ours:
        found.append(f"model family '{family.__name__}'")
    return found
