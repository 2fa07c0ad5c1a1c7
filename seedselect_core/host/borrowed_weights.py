"""Let autograd run through weights that the host loaded in inference mode, without copying them.

Nodes run inside ``torch.inference_mode()``. Tensors made there are inference tensors, and autograd
refuses to save them for the backward pass. An ordinary tensor over the same storage is not an
inference tensor, so each parameter and buffer is swapped for such a view while the seed is
optimized, and the originals are put back whatever happens.
"""

import contextlib
from collections.abc import Iterator

import torch


def ordinary_view(tensor: torch.Tensor) -> torch.Tensor:
    """An ordinary tensor over the memory of ``tensor``, without its gradient history.

    Must be called outside inference mode, or the view is an inference tensor again. Whether
    ``tensor`` says that it is an inference tensor is not asked: a module moved to another device or
    type outside inference mode has parameters that deny it and still count no versions.
    """
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: it has no storage, its parts have
        names, rest = tensor.__tensor_flatten__()
        parts = {name: ordinary_view(getattr(tensor, name)) for name in names}
        return type(tensor.data).__tensor_unflatten__(parts, rest, tensor.size(), tensor.stride())
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return tensor  # of a kind that only its own layer understands, which makes a plain one
    return tensor.new_empty(0).set_(
        tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def ordinary_views(value):
    """``value`` with every tensor in its dicts, lists, tuples and host conditions viewed.

    Containers are rebuilt, other objects are left alone; conditions (``comfy.conds``) are rebuilt
    by their own copy constructor.
    """
    if isinstance(value, torch.Tensor):
        return ordinary_view(value)
    if isinstance(value, dict):
        return type(value)({key: ordinary_views(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(ordinary_views(item) for item in value)
    if hasattr(value, "_copy_with") and hasattr(value, "cond"):
        return value._copy_with(ordinary_views(value.cond))
    return value


@contextlib.contextmanager
def borrowed_weights(*modules: torch.nn.Module) -> Iterator[None]:
    """Swap parameters and buffers of ``modules`` for ordinary views of the same memory.

    No parameter asks for a gradient meanwhile. On leaving, the very objects that were there before
    are back in place.
    """
    originals = []
    try:
        for module in modules:
            for part in module.modules():
                for name, parameter in part._parameters.items():
                    if parameter is None:
                        continue
                    originals.append((part._parameters, name, parameter))
                    view = ordinary_view(parameter)
                    if view is not parameter:
                        view = torch.nn.Parameter(view, requires_grad=False)
                    part._parameters[name] = view
                for name, buffer in part._buffers.items():
                    if buffer is not None:
                        originals.append((part._buffers, name, buffer))
                        part._buffers[name] = ordinary_view(buffer)
        yield
    finally:
        for store, name, tensor in originals:
            store[name] = tensor
