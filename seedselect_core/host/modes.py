"""Global switches of the host and of PyTorch that the optimization needs set, and set back."""

import contextlib
from collections.abc import Iterator

import comfy.model_management
import torch


@contextlib.contextmanager
def gradients_enabled() -> Iterator[None]:
    """Leave inference mode, record gradients, and choose the host's differentiable kernels.

    The host's ``in_training`` flag turns off in-place rotary embeddings and fused kernels.
    """
    before = comfy.model_management.in_training
    try:
        comfy.model_management.in_training = True
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = before


@contextlib.contextmanager
def steady_memory() -> Iterator[None]:
    """Let the host see the same free memory at every model call.

    It asks for it each time, and batches conditionings and slices attention by the answer. A
    recomputed call must take the route of the first one, however full the memory is by then.
    """
    measure = comfy.model_management.get_free_memory
    seen: dict[tuple, object] = {}

    def first_answer(dev=None, torch_free_too=False):
        key = (str(dev), torch_free_too)
        if key not in seen:
            seen[key] = measure(dev, torch_free_too)
        return seen[key]

    try:
        comfy.model_management.get_free_memory = first_answer
        yield
    finally:
        comfy.model_management.get_free_memory = measure
