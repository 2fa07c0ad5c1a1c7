"""The same noise in every run of a sampler that draws from PyTorch's global generators.

Most samplers make a generator of their own from the seed. Some (`sample_lcm_upscale`, euler with
churn, many of other makes) call ``torch.randn_like``, so that every iteration would sample along
another path and none along the one that sampling from the seed takes.
"""

import contextlib
from collections.abc import Callable, Iterator

import comfy.model_management
import torch


class FirstDraws:
    """The state of the generators when this was made, which is when the host starts to sample."""

    def __init__(self):
        self._first = [read() for read, _ in _generators()]

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Draw from that state, and leave the generators as they were before."""
        before = [read() for read, _ in _generators()]
        try:
            _write(self._first)
            yield
        finally:
            _write(before)


def _generators() -> list[tuple[Callable, Callable]]:
    device = comfy.model_management.get_torch_device()
    places = [torch]
    if device.type != "cpu" and hasattr(torch.get_device_module(device), "get_rng_state"):
        places.append(torch.get_device_module(device))
    return [(place.get_rng_state, place.set_rng_state) for place in places]


def _write(states: list[torch.Tensor]) -> None:
    for (_, write), state in zip(_generators(), states, strict=True):
        write(state)
