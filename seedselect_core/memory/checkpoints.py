"""PyTorch's checkpoints, leaving nothing behind where what they run fails."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop


def checkpointed(
    function: Callable,
    *inputs: torch.Tensor,
    early_stop: bool = False,
    forward: Callable[[], AbstractContextManager] = contextlib.nullcontext,
    again: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> Any:
    """`torch.utils.checkpoint.checkpoint` that leaves nothing behind where ``function`` fails.

    PyTorch's own keeps its hooks on every tensor that is saved from then on, in any graph, for as
    long as somebody holds the exception. So an error, or Cancel, is raised when they are gone.

    Args:
        early_stop: whether the backward pass may leave ``function`` by an exception as soon as it
            has what it needs. Loops of the host are not made for that.
        forward, again: make the contexts that ``function`` runs in the first time, and when it
            runs for the backward pass.
    """
    failure: BaseException | None = None
    recorded = False

    def caught(*inputs):
        nonlocal failure
        if recorded:  # the backward pass runs it again, and cleans up by itself
            return function(*inputs)
        try:
            return function(*inputs)
        except BaseException as error:
            failure = error
            return inputs[0]

    with set_checkpoint_early_stop(early_stop):
        output = checkpoint(
            caught, *inputs, use_reentrant=False, context_fn=lambda: (forward(), again())
        )
    recorded = True
    if failure is not None:
        raise failure
    return output
