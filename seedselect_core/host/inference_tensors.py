"""Let autograd meet tensors that were made in inference mode, wherever they come from.

Nodes run inside ``torch.inference_mode()``, so that every tensor they make is an inference tensor,
and autograd refuses to save it for the backward pass. Weights and conditionings can be looked up
and viewed beforehand (`borrowed_weights`); the tensors that a custom patch, wrapper, guider or
conditioning keeps for itself cannot. They are viewed as they are used.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .borrowed_weights import ordinary_view

# These change the tensor object itself and not its values, which a view would not pass on.
_OF_THE_OBJECT = {
    "__set__",
    "as_strided_",
    "detach_",
    "is_inference",
    "requires_grad_",
    "resize_",
    "resize_as_",
    "set_",
    "squeeze_",
    "swapaxes_",
    "swapdims_",
    "t_",
    "transpose_",
    "unsqueeze_",
}


class _OrdinaryArguments(TorchFunctionMode):
    """Every PyTorch function gets an ordinary view for an inference tensor.

    The same view each time, so that it counts the changes and keeps the history of what is written
    to the tensor.
    """

    def __init__(self):
        super().__init__()
        self.views = WeakIdKeyDictionary()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") not in _OF_THE_OBJECT:
            args = [self._viewed(value) for value in args]
            kwargs = {name: self._viewed(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    def _viewed(self, value):
        if isinstance(value, torch.Tensor):
            return self.view(value) if _uncounted(value) else value
        if type(value) in (list, tuple):  # as `torch.cat` and indexing take them
            return type(value)(self._viewed(item) for item in value)
        return value

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        view = self.views.get(tensor)
        # A module that is moved gives its parameters other memory.
        if view is None or not (view.is_set_to(tensor) and view.dtype == tensor.dtype):
            view = ordinary_view(tensor)
            if view is not tensor:
                self.views[tensor] = view
        return view


_running: list[_OrdinaryArguments] = []


def as_used(tensor: torch.Tensor) -> torch.Tensor:
    """The ordinary tensor that functions get in place of ``tensor``: itself, if it is one."""
    if not _uncounted(tensor):
        return tensor
    return _running[-1].view(tensor) if _running else ordinary_view(tensor)


def _uncounted(tensor: torch.Tensor) -> bool:
    """Whether autograd refuses ``tensor``; `is_inference` is denied by a module's moved weights."""
    try:
        return tensor._version < 0
    except RuntimeError:
        return True


@contextlib.contextmanager
def inference_tensors_as_ordinary() -> Iterator[None]:
    """View inference tensors at every use. Must be entered outside inference mode.

    To be entered again inside a recomputed call: the backward pass runs with the modes of the
    forward pass switched off.
    """
    mode = _running[-1] if _running else _OrdinaryArguments()
    _running.append(mode)
    try:
        with mode:
            yield
    finally:
        _running.pop()
