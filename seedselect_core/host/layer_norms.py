"""Layer norms of the host's CLIP whose input is overwritten while autograd still needs it."""

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.clip_model
import torch


@contextmanager
def layer_norms_keep_their_input(model: torch.nn.Module) -> Iterator[None]:
    """Let CLIPLayer's `x += attention(layer_norm1(x))` run under autograd.

    The layer norm saves x for its backward pass and the addition then overwrites it, which
    autograd refuses. For the length of the call each layer norm gets a copy; values are the same.
    """
    norms = [
        norm
        for layer in model.modules()
        if isinstance(layer, comfy.clip_model.CLIPLayer)
        for norm in (layer.layer_norm1, layer.layer_norm2)
    ]
    handles = [n.register_forward_pre_hook(lambda _, args: (args[0].clone(),)) for n in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
