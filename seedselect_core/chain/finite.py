"""Predictions that are no numbers, and what they come from.

Nobody looks at a prediction in an ordinary run, since that would make an accelerator wait; the loss
tells in the end. But a sampler that chooses its own steps goes on for ever once a prediction is NaN
("dpm_adaptive", the host's own node too). So every prediction is looked at as soon as a run has
made more of them than samplers with a fixed number of steps make.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import SeedSelectError

CALLS_PER_STEP = 4  # those of the host make 3 at most
# Whether these hold NaN can be asked on every device.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class NotNumbers(SeedSelectError):
    """A prediction is not a number, so that going on makes no sense."""


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are numbers, and none is infinite."""
    return bool(torch.isfinite(tensor.detach()).all())


class Watched:
    """A guider that stops the sampler at a prediction that is not a number.

    Args:
        trusted: so many predictions are not looked at.
    """

    def __init__(self, guider, trusted: int):
        self._guider = guider
        self._trusted = trusted

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, *arguments, **named):
        prediction = self._guider(x, timestep, *arguments, **named)
        self._trusted -= 1
        if self._trusted < 0 and not is_finite(prediction):
            raise NotNumbers(blamed_for_prediction(self._guider, x, timestep))
        return prediction


def stopping(step: int, prediction: torch.Tensor, total: int) -> None:
    """Raise `NotNumbers` where a plain run of the host's sampler would go on for ever.

    Args:
        step: from 0, as the host's callback gets it, with the prediction there.
        total: steps of the schedule.
    """
    if step >= CALLS_PER_STEP * total and not is_finite(prediction):
        raise NotNumbers(_MODEL)


_MODEL = (
    "model: what it predicts is not a number. Half precision may be too coarse for it: start "
    "ComfyUI with --force-fp32, or lower cfg. Check it with a plain KSampler and 'euler'."
)


def blamed_for_prediction(guider, x: torch.Tensor, timestep: torch.Tensor) -> str:
    """What a prediction that is not a number comes from, in a sentence with the remedy."""
    for name, conds in getattr(guider, "original_conds", {}).items():
        if not all(map(is_finite, tensors(conds))):
            return (
                f"{name}: the prompt's embedding holds values that are not numbers. Load the text "
                "encoder in another precision, or without what changes it."
            )
    if not (is_finite(x) and is_finite(timestep)):
        return (
            "sampler: it led to values that are not numbers, though the model had given numbers. "
            "Choose another one, or more steps."
        )
    model = guider.inner_model.diffusion_model
    if not all(is_finite(weight) for weight in model.parameters() if weight.dtype in _FLOATS):
        return (
            "model: its weights hold values that are not numbers. The file is damaged, or a LoRA "
            "or merge has spoilt it. Load another one."
        )
    return _MODEL


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Tensors of numbers with a point, in nested containers."""
    if isinstance(value, torch.Tensor):
        if value.dtype in _FLOATS:
            yield value
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def watching(callback: Callable | None) -> Callable:
    """``callback`` of the host's sampling, which also stops what would go on for ever."""

    def watched(step, prediction, x, total):
        stopping(step, prediction, total)
        if callback is not None:
            callback(step, prediction, x, total)

    return watched
