"""Keep the weights that one model call has used as they were until its backward pass is done.

The host overwrites weights in two places between the layers of a model, which autograd cannot
notice (it watches tensors, not memory): the gradient would be wrong and nothing would fail.
"""

import contextlib
from collections.abc import Iterator

import comfy.model_management
import comfy.utils
import torch


def _put_in_place_of(obj, attr: str, value: torch.Tensor) -> None:
    """`comfy.utils.copy_to_param`, but the tensor that was there keeps its values."""
    before = comfy.utils.get_attr(obj, attr)
    comfy.utils.set_attr_param(obj, attr, value.to(before, copy=True))


@contextlib.contextmanager
def steady_weights() -> Iterator[None]:
    """Give new values of a weight new memory.

    - LoRA hooks on a prompt switch weights between the prompts of one call.
    - Weights that are kept off the device pass through a few buffers that all layers share, one a
      stream. Without streams every layer gets memory of its own.
    """
    copy_to_param = comfy.utils.copy_to_param
    get_offload_stream = comfy.model_management.get_offload_stream
    try:
        comfy.utils.copy_to_param = _put_in_place_of
        comfy.model_management.get_offload_stream = lambda device: None
        yield
    finally:
        comfy.utils.copy_to_param = copy_to_param
        comfy.model_management.get_offload_stream = get_offload_stream
