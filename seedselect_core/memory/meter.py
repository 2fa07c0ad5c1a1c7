"""What a pass would keep for its backward pass, counted while it runs and keeps nothing."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from .levels import AWAY, BLOCKS, KEPT, NONE, PROMPTS, WHOLE, Level
from .saved import Keeper

# So many tensors like the largest one that is kept come and go in a backward pass: the gradient
# that comes in, the one that goes out, and one in between.
GRADIENTS = 3


class _Memory:
    """Distinct storages, in bytes. One that is overwritten is kept as it was each time."""

    def __init__(self):
        self._known: dict[tuple[int, int], StorageWeakRef] = {}
        self.bytes = 0
        self.largest = 0

    def add(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` brings memory that is not counted yet, which is counted now."""
        storage = tensor.untyped_storage()
        key = storage._cdata, tensor._version
        known = self._known.get(key)
        if known is not None and not known.expired():
            return False
        self._known[key] = StorageWeakRef(storage)
        self.bytes += storage.nbytes()
        self.largest = max(self.largest, storage.nbytes())
        return True


class Meter:
    """Counts the memory that the levels of one call need beside the weights.

    Args:
        keeper: knows what is a weight, or is made again as one.
        model: its calls are told apart.
        blocks: of the model, likewise.
    """

    def __init__(self, keeper: Keeper, model: torch.nn.Module, blocks: Sequence[torch.nn.Module]):
        self._keeper = keeper
        self._model = model
        self._blocks = blocks
        self._all = _Memory()
        self._calls = [_Memory()]
        self._between = _Memory()  # the inputs of blocks, and what lies outside of them
        self._inside: list[_Memory] = []
        self._within_block = False

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """For a pass that is recorded and will have no backward pass."""
        handles = []
        try:
            handles.append(self._model.register_forward_pre_hook(self._call))
            for block in self._blocks:
                begin = block.register_forward_pre_hook(self._begin, with_kwargs=True)
                end = block.register_forward_hook(self._end, always_call=True)
                handles += [begin, end]
            with torch.autograd.graph.saved_tensors_hooks(self._count, lambda kept: kept):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def need(self, level: Level) -> int:
        """Bytes that are alive at the worst moment of the backward pass of such a call."""
        gradients = GRADIENTS * self._all.largest
        block = max((inside.bytes for inside in self._inside), default=0)
        kept = {
            KEPT: self._all.bytes,
            WHOLE: self._all.bytes,
            PROMPTS: max(call.bytes for call in self._calls),
            BLOCKS: self._between.bytes + block,
            AWAY: block + self._between.largest,
            NONE: 0,
        }
        return kept[level] + gradients

    @property
    def kept(self) -> int:
        """Bytes of all that is kept of a call of which everything is kept."""
        return self._all.bytes

    def _count(self, tensor: torch.Tensor) -> None:
        if not self._keeper.keeps(tensor):
            return
        self._all.add(tensor)
        self._calls[-1].add(tensor)
        (self._inside[-1] if self._within_block else self._between).add(tensor)

    def _call(self, model: torch.nn.Module, args: tuple) -> None:
        self._calls.append(_Memory())

    def _begin(self, block: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor) and leaf.requires_grad:
                self._between.add(leaf)
        self._inside.append(_Memory())
        self._within_block = True

    def _end(self, block: torch.nn.Module, args: tuple, output) -> None:
        self._within_block = False
