"""What a recorded pass keeps for its backward pass: as little as will do, and never what is wrong.

Autograd saves tensors themselves. Three kinds are better kept otherwise:

- Activations that the host overwrites. Transformers of the host add to the residual stream in place
  (`img += attention(norm(img))`), after a layer norm has saved that stream. In an ordinary graph
  autograd refuses this; inside a checkpoint it does not, since what the second run of a prediction
  saves is handed over without the check, and the gradient is wrong without a word (by 5 % for
  Flux). Such activations are saved as copies. Which those are is learnt the first time a pass is
  recorded, and checked by version counters whenever one is used.
- Weights that a layer casts, dequantizes, patches or moves for the call. The copy that the call
  computes with is not kept, but made again by the layer where the backward pass needs it. Otherwise
  weights of few bits would need more memory than those of many.
- Anything at all, where the device is short of memory: it waits in main memory.

A checkpoint of PyTorch's asks of what it is given to keep only for ``detach()`` and, where it
compares both runs, for shape, type and device. So stand-ins take the place of such tensors, and
become tensors again when they are unpacked.
"""

import contextlib
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

# Smaller tensors are not worth a way to main memory and back, in bytes.
WORTH_MOVING = 2**20


class Overwritten(RuntimeError):
    """What was saved has been overwritten since. It is known now: the same pass will copy it."""


def storages(modules: Iterable[torch.nn.Module]) -> set[int]:
    """The memory of all parameters and buffers, as `_memory` names it."""
    return {
        _memory(tensor)
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
        if _is_plain(tensor)
    }


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is its storage and no more; those of few bits have parts."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) or isinstance(tensor, FakeTensor)


# ---------------------------------------------------------------- stand-ins


class _StandIn:
    """In the place of a saved tensor; `tensor` is what autograd gets back."""

    requires_grad = False

    def __init__(self, like: torch.Tensor):
        self.shape = like.shape
        self.dtype = like.dtype
        self.device = like.device

    def detach(self) -> "_StandIn":
        return self

    def tensor(self) -> torch.Tensor:
        raise NotImplementedError


class _Original(_StandIn):
    """The tensor itself, unless somebody has written to it.

    Args:
        known: what is overwritten, by `key`, where this tensor is entered in that case.
    """

    def __init__(self, tensor: torch.Tensor, known: dict[tuple, bool], key: tuple):
        super().__init__(tensor)
        self._tensor = tensor.detach()  # without the history, which would hold this in turn
        self._version = tensor._version
        self._known = known
        self._key = key

    def tensor(self) -> torch.Tensor:
        if self._tensor._version != self._version:
            self._known[self._key] = True
            raise Overwritten("An activation was overwritten that never had been before.")
        return self._tensor


class _InMainMemory(_StandIn):
    def __init__(self, tensor: torch.Tensor):
        super().__init__(tensor)
        self._values = tensor.detach().to("cpu", copy=True)

    def tensor(self) -> torch.Tensor:
        return self._values.to(self.device)


class _MadeWeight(_StandIn):
    """A weight as its layer makes it for a call."""

    def __init__(self, layer: torch.nn.Module, place: int, input: torch.Tensor, made: torch.Tensor):
        super().__init__(made)
        # A linear layer saves its weight for each picture where its input is no whole memory.
        self._once = _once(made).shape
        self._layer = layer
        self._place = place
        self._input = input.shape[1:], input.dtype, input.device
        # Hooks exchange the weights of a layer between the prompts of one call.
        self._parameters = dict(layer._parameters)

    def tensor(self) -> torch.Tensor:
        return self.of(self.saved()[self._place])

    def of(self, found: torch.Tensor) -> torch.Tensor:
        """A weight that was saved for another input, as it was for this one."""
        return _once(found).reshape(self._once).expand(self.shape)

    def saved(self) -> list[torch.Tensor]:
        """What autograd saves of the layer for an input without rows."""
        shape, dtype, device = self._input
        found: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            found.append(tensor)
            return tensor

        before = dict(self._layer._parameters)
        self._layer._parameters.update(self._parameters)
        try:
            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            ):
                empty = torch.empty(0, *shape, dtype=dtype, device=device, requires_grad=True)
                type(self._layer).forward(self._layer, empty)
        finally:
            self._layer._parameters.update(before)
        return found


def _tensor_of(kept: Any) -> Any:
    return kept.tensor() if isinstance(kept, _StandIn) else kept


# ---------------------------------------------------------------- layers that make their weights


class _Call:
    """A call of a layer that is going on."""

    def __init__(self, layer: torch.nn.Module, input: torch.Tensor):
        self.layer = layer
        self.input = input
        self.saved = 0


class MadeWeights:
    """The layers of some modules that cast, dequantize, patch or move their weights when called.

    Found by the host's own marks for them, which packs that load other formats set as well.
    """

    def __init__(self):
        self._calls: list[_Call] = []
        # By layer and place among what is saved: whether a weight stands there that it makes.
        self._known: dict[tuple[torch.nn.Module, int], bool] = {}

    @contextlib.contextmanager
    def noticed(self, modules: Iterable[torch.nn.Module]) -> Iterator[None]:
        """Calls of those layers are noticed for the length of the context."""
        handles = []
        try:
            for layer in {part for module in modules for part in module.modules()}:
                if _makes_weights(layer):
                    handles.append(layer.register_forward_pre_hook(self._begin))
                    handles.append(layer.register_forward_hook(self._end, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._calls.clear()

    def stand_in(self, tensor: torch.Tensor) -> _StandIn | None:
        """In place of ``tensor`` if it is such a weight; asked for all that is saved, in order."""
        if not self._calls:
            return None
        call = self._calls[-1]
        place = call.saved
        call.saved += 1
        known = self._known.get((call.layer, place))
        if known is False or tensor.requires_grad or tensor.numel() == 0:
            return None
        stand_in = _MadeWeight(call.layer, place, call.input, tensor)
        if known is None:
            known = self._known[call.layer, place] = _is_made(stand_in, tensor, place)
        return stand_in if known else None

    def _begin(self, layer: torch.nn.Module, args: tuple) -> None:
        if torch.is_grad_enabled() and args and isinstance(args[0], torch.Tensor):
            self._calls.append(_Call(layer, args[0]))

    def _end(self, layer: torch.nn.Module, args: tuple, output: Any) -> None:
        if self._calls and self._calls[-1].layer is layer:
            self._calls.pop()


def _makes_weights(layer: torch.nn.Module) -> bool:
    marks = ("comfy_cast_weights", "weight_function", "bias_function")
    leaf = next(layer.children(), None) is None
    return leaf and any(getattr(layer, mark, None) for mark in marks)


def _is_made(stand_in: _MadeWeight, tensor: torch.Tensor, place: int) -> bool:
    """Whether the layer saves this very tensor whatever its input: then it is a weight."""
    try:
        found = stand_in.saved()
    except (RuntimeError, ValueError):  # the layer does not take an input without rows
        return False
    if place >= len(found) or _once(found[place]).numel() != _once(tensor).numel():
        return False
    if isinstance(tensor, FakeTensor) or tensor.is_meta:
        return True
    return torch.equal(stand_in.of(found[place]), tensor)


# ---------------------------------------------------------------- what is kept


class Keeper:
    """Chooses what is kept in place of each tensor that autograd saves.

    Args:
        weights: memory that nobody writes to (`storages`), kept as it is.
        made: the layers that make their weights.
    """

    def __init__(self, weights: set[int], made: MadeWeights):
        self.weights = weights
        self.made = made
        # By pass, place, shape and type: whether it is overwritten before it is used.
        self._overwritten: dict[tuple, bool] = {}
        # By pass: whether all that autograd saves may be kept just so.
        self._plain: dict[Hashable, bool] = {}

    def kept(self, name: Hashable) -> contextlib.AbstractContextManager:
        """For a pass that is recorded and not made again.

        Where nothing of it was ever saved otherwise, autograd does it alone. It watches over what
        is overwritten itself; a checkpoint does not.
        """
        return contextlib.nullcontext() if self._plain.get(name) else self.recording(name)

    def distrust(self, error: BaseException) -> bool:
        """Whether ``error`` says that something was overwritten, which is known from now on."""
        found = isinstance(error, RuntimeError) and "modified by an inplace" in str(error)
        if found and any(self._plain.values()):
            self._plain = dict.fromkeys(self._plain, False)
            return True
        return isinstance(error, Overwritten)

    def keeps(self, tensor: torch.Tensor) -> bool:
        """Whether memory is needed to keep ``tensor``; asked for all that is saved, in order."""
        made = self.made.stand_in(tensor)
        return made is None and not self._stays(tensor)

    def _stays(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is kept as it is, since nobody writes to it or it has no memory."""
        return not _is_plain(tensor) or not tensor.numel() or _memory(tensor) in self.weights

    @contextlib.contextmanager
    def recording(self, name: Hashable, away: bool = False) -> Iterator[None]:
        """For a pass that is recorded: saves what this class says.

        Args:
            name: of the pass, the same for passes that save alike.
            away: whether what is saved waits in main memory.
        """
        save, load = _hooks()
        copies: dict[tuple, tuple[weakref.ref, torch.Tensor]] = {}
        learning: list[tuple[tuple, torch.Tensor, int]] = []
        place = 0
        plain = True

        def keep(tensor: torch.Tensor) -> Any:
            nonlocal place, plain
            place += 1
            made = self.made.stand_in(tensor)
            if self._stays(tensor):
                return tensor
            if made is not None:
                plain = False
                return made
            if away and _is_worth_moving(tensor):
                return _InMainMemory(tensor)
            key = (name, place, tensor.shape, tensor.dtype)
            if self._overwritten.get(key) is False:
                return _Original(tensor, self._overwritten, key)
            if key not in self._overwritten:
                learning.append((key, _counter_of(tensor), tensor._version))
            return _copy_once(tensor, copies)

        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: save(keep(tensor)), lambda kept: _tensor_of(load(kept))
        )
        try:
            with hooks:
                yield
        finally:
            for key, counter, version in learning:
                before = self._overwritten.get(key, False)
                self._overwritten[key] = before or counter._version != version
            plain &= not any(value for key, value in self._overwritten.items() if key[0] == name)
            self._plain[name] = self._plain.get(name, True) and plain

    def waiting(self) -> contextlib.AbstractContextManager:
        """What is saved in here and not recorded otherwise waits in main memory."""

        def save(tensor: torch.Tensor) -> Any:
            stays = self._stays(tensor) or not _is_worth_moving(tensor)
            return tensor if stays else _InMainMemory(tensor)

        return torch.autograd.graph.saved_tensors_hooks(save, _tensor_of)

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[None]:
        """For the first pass of a checkpoint, whose second is recorded: makes stand-ins tensors."""
        save, load = _hooks()
        hooks = torch.autograd.graph.saved_tensors_hooks(save, lambda kept: _tensor_of(load(kept)))
        with hooks:
            yield


def _is_worth_moving(tensor: torch.Tensor) -> bool:
    return _is_on_device(tensor) and tensor.nbytes >= WORTH_MOVING


def _is_on_device(tensor: torch.Tensor) -> bool:
    """Whether main memory is another place for ``tensor``."""
    return tensor.device.type not in ("cpu", "mps")


def _same(tensor: Any) -> Any:
    return tensor


def _hooks() -> tuple[Callable, Callable]:
    """Those that would be asked now."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) or (_same, _same)


def _counter_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without memory that counts the changes of another."""
    counter = tensor.detach()
    counter.data = tensor.new_empty(0)
    return counter


def _copy_once(
    tensor: torch.Tensor, copies: dict[tuple, tuple[weakref.ref, torch.Tensor]]
) -> torch.Tensor:
    """Of a tensor that several operations save, one copy."""
    storage = tensor.untyped_storage()
    key = (storage._cdata, tensor.storage_offset(), tensor.shape, tensor.stride())
    key += (tensor.dtype, tensor._version)
    if key not in copies:
        # The address of freed memory may be given to another tensor.
        gone = weakref.ref(storage, lambda _: copies.pop(key, None))
        copies[key] = gone, _copy(tensor)
    return copies[key][1]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy with memory of its own, which is no larger where ``tensor`` is an expanded one."""
    return _once(tensor).clone().expand(tensor.shape)


def _once(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` without the repetitions of one that is expanded."""
    return tensor[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in tensor.stride())]
