"""What a graph remembers from one model call to the next, put back when a call is made again.

| what is patched | why | what puts it back |
| --- | --- | --- |
| attributes, containers, closures | a call made again must meet the same | `restored` |
| weights that hooks have patched | they belong to another step | `restore` |

Tried on the hosts that docs/hosts.md lists as proven.

The host counts hook keyframes step by step, guidance with momentum keeps a running average, caches
reuse the step before: the same call made again in the backward pass, which walks the steps back,
would give something else. Nothing would fail; the gradient would be wrong. So the state of the
guider is noted before each call, and holds again while that call is recomputed. Tensors in it keep
the history they had, which makes the gradient between the calls exact as well.
"""

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import comfy.model_patcher
import comfy.sd
import torch

from ..errors import NoGradient
from .needs import Need
from .session import OrdinaryViews

NEEDS = (
    Need("comfy.model_patcher:ModelPatcher.clear_cached_hook_weights"),
    Need("comfy.hooks:HookGroup"),
)
# Largest norm of the difference that a recomputed prediction may have, relative to the prediction.
# Rounding of kernels that are not deterministic is far below it, and a forgotten state far above.
LIMIT = 1e-2
MADE_OTHERWISE = (
    "model: the same step gives something else when it is made again, so its gradient cannot be "
    "taken. A custom node in the graph keeps something from one step to the next (a step cache, or "
    "noise of its own). Disconnect it for the optimization."
)
# Tensors of up to so many elements are copied, for code that overwrites what it remembers.
COPIED = 2**20

_CLOSED = (
    type,
    types.ModuleType,
    torch.nn.Module,
    comfy.model_patcher.ModelPatcher,
    comfy.sd.VAE,
)
# Classes of these packages keep nothing about a sampling run, or what must not be touched.
_CLOSED_PACKAGES = ("torch", "numpy", "logging", "threading", "_thread", "asyncio", "concurrent")


class _Copy(NamedTuple):
    """A tensor's values while it, or the view that is used for it, had counted so many changes."""

    original: torch.Tensor
    used: torch.Tensor
    version: int
    values: torch.Tensor
    requires_grad: bool


class Snapshot(NamedTuple):
    """What was remembered at one moment: pairs of a holder and its contents, copies by id."""

    holders: list[tuple]
    tensors: dict[int, _Copy]

    def value_of(self, value):
        """``value``, or for a tensor that was overwritten since, another with its old values."""
        copy = self.tensors.get(id(value))
        if copy is None or copy.used._version == copy.version:
            return value
        with torch.enable_grad():
            # No leaf, which could not be overwritten again.
            return copy.values.clone().requires_grad_(copy.requires_grad).clone()


class GuiderState:
    """The mutable Python state that a guider's predictions read and write.

    Found by following containers, attributes, closures and bound methods from the guider and the
    model's options: hooks and their keyframes, ControlNets, patches, wrappers, context windows.
    Models themselves are not entered, but for the attributes of the diffusion model.
    """

    def __init__(self, guider, model_options: dict, views: OrdinaryViews):
        self._views = views
        self._patcher = guider.inner_model.current_patcher
        attributes = vars(guider.inner_model.diffusion_model)
        self._roots = [guider, model_options, attributes]
        self._copies: dict[int, _Copy] = {}

    def snapshot(self) -> Snapshot:
        """The state as it is now, to be given to `restored` or `restore`."""
        state = Snapshot([], {})
        seen = set()
        todo = list(self._roots)
        while todo:
            value = todo.pop()
            if isinstance(value, torch.Tensor):
                if type(value) is torch.Tensor and value.numel() <= COPIED:
                    state.tensors[id(value)] = self._copy(value)
                continue
            holder = _holder(value)
            if holder is None or id(holder) in seen:
                continue
            seen.add(id(holder))
            contents = _contents(holder)
            state.holders.append((holder, contents))
            if isinstance(contents, dict):
                todo.extend(contents.values())
            elif isinstance(contents, list | tuple):
                todo.extend(contents)
        return state

    def _copy(self, tensor: torch.Tensor) -> _Copy:
        """Copied anew only where the tensor has been changed since."""
        known = self._copies.get(id(tensor))
        used = self._views.as_used(tensor)
        if known is None or known.original is not tensor or known.version != used._version:
            known = _Copy(tensor, used, used._version, used.detach().clone(), used.requires_grad)
            self._copies[id(tensor)] = known
        return known

    def restore(self, state: Snapshot) -> None:
        """Make the graph remember ``state``, and the host patch its weights by it."""
        strengths = self._hook_strengths()
        for holder, contents in state.holders:
            _put(holder, contents, state.value_of)
        if self._hook_strengths() != strengths:
            # The host takes weights that are patched by the same hooks for up to date.
            self._patcher.clear_cached_hook_weights()

    @contextmanager
    def restored(self, state: Snapshot) -> Iterator[None]:
        """``state`` holds for the length of the context, and then what held before."""
        before = self.snapshot()
        try:
            self.restore(state)
            yield
        finally:
            self.restore(before)

    def _hook_strengths(self) -> list[float]:
        hooks = {id(hook): hook for _, hook in self._hooks()}
        return [hook.strength for hook in hooks.values()]

    def _hooks(self):
        groups = [self._patcher.current_hooks, *self._patcher.cached_hook_patches]
        return [(group, hook) for group in groups if group is not None for hook in group.hooks]


def require_same(again: torch.Tensor, first: torch.Tensor) -> None:
    """Raise `NoGradient` where a call that was made again has given something else.

    Args:
        again, first: both predictions of the call.
    """
    difference = torch.linalg.vector_norm((again - first).float())
    if not difference <= LIMIT * torch.linalg.vector_norm(first.float()):
        raise NoGradient(MADE_OTHERWISE)


def _holder(value):
    """The thing whose contents can change: a container, a closure cell, an object's attributes."""
    while isinstance(value, types.MethodType):
        value = value.__self__
    if isinstance(value, dict | list | set | tuple | types.CellType | torch.Generator):
        return value
    if isinstance(value, types.FunctionType):
        return (*(value.__closure__ or ()), vars(value), value.__defaults__, value.__kwdefaults__)
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    if isinstance(value, _CLOSED) or type(value).__module__.split(".")[0] in _CLOSED_PACKAGES:
        return None
    return getattr(value, "__dict__", None)


def _contents(holder):
    if isinstance(holder, types.CellType):
        try:
            return (holder.cell_contents,)
        except ValueError:  # a variable that has no value yet
            return ()
    if isinstance(holder, torch.Generator):
        return holder.get_state()
    return holder if isinstance(holder, tuple) else holder.copy()


def _put(holder, contents, value_of: Callable) -> None:
    if isinstance(holder, torch.Generator):
        holder.set_state(contents)
    elif isinstance(holder, types.CellType):
        if contents:
            holder.cell_contents = value_of(contents[0])
        elif _contents(holder):
            del holder.cell_contents
    elif isinstance(holder, list):
        holder[:] = [value_of(value) for value in contents]
    elif isinstance(holder, dict):
        holder.clear()
        holder.update((key, value_of(value)) for key, value in contents.items())
    elif isinstance(holder, set):
        holder.clear()
        holder.update(contents)
