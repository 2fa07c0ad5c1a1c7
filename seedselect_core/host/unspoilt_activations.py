"""Activations that the host overwrites while autograd still needs them.

Transformers of the host add to the residual stream in place (`img += attention(norm(img))`), after
a layer norm has saved that stream for its backward pass. Autograd refuses this in an ordinary
graph. Inside a checkpoint it does not: what the second run of a prediction saves is handed over
without the check, and the gradient is wrong without a word (by 5% for Flux).
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch.multiprocessing.reductions import StorageWeakRef


def storages(modules: Iterable[torch.nn.Module]) -> set[int]:
    """Addresses of the memory of all parameters and buffers."""
    return {
        tensor.untyped_storage().data_ptr()
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if type(tensor) in (torch.Tensor, torch.nn.Parameter)
    }


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with memory of its own, which is no larger where ``tensor`` is an expanded one."""
    once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())
    return tensor[once].clone().expand(tensor.shape)


@contextlib.contextmanager
def unspoilt_activations(weights: set[int]) -> Iterator[None]:
    """Let every tensor that is saved for the backward pass be saved as a copy.

    To be entered where a checkpoint runs its function again; the copies go where the checkpoint
    would have put the originals, which are freed instead.

    Args:
        weights: addresses of memory that nobody writes to (`storages`), saved without a copy.
    """
    save, load = torch._C._autograd._top_saved_tensors_default_hooks(False)
    # Of a tensor that several operations save, one copy. The weak references keep the address of a
    # freed tensor from being given to another one.
    copies: dict[tuple, tuple[StorageWeakRef, torch.Tensor]] = {}

    def save_copy(tensor: torch.Tensor):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or not tensor.numel():
            return save(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() in weights:
            return save(tensor)
        memory = StorageWeakRef(storage)
        key = (memory.cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
        key += (tensor.dtype, tensor._version)
        if key not in copies:
            copies[key] = memory, _copy(tensor)
        return save(copies[key][1])

    with torch.autograd.graph.saved_tensors_hooks(save_copy, load):
        yield
