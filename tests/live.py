"""Bytes of tensors that are alive, as a device would have to hold them."""

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Live(TorchDispatchMode):
    """Counts the memory of tensors that come to life while it is entered.

    Args:
        modules: their weights are not counted.

    Attributes:
        now, peak: bytes that are alive, and the most that were.
    """

    def __init__(self, modules: Iterable[torch.nn.Module] = ()):
        super().__init__()
        self.now = 0
        self.peak = 0
        weights = [tensor for m in modules for tensor in (*m.parameters(), *m.buffers())]
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._weights or key in self._alive:
            return
        size = storage.nbytes()

        def died(_) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, died)
        self.now += size
        self.peak = max(self.peak, self.now)
