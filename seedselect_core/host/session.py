"""Switches of the host and of PyTorch that hold for the length of a search.

| what is patched | why | what puts it back |
| --- | --- | --- |
| `in_training` of `comfy.model_management` | fused kernels have no backward | `gradients_enabled` |
| inference mode | autograd needs ordinary tensors | `gradients_enabled` |
| every use of an inference tensor | the same | `OrdinaryViews` |
| `get_free_memory`, also of a patcher | calls are batched by it | `fixed_free_memory` |
| `raise_non_oom`, by which the host goes on by itself | see there | `out_of_memory_told` |
| the wrapper of ``torch.compile`` | its graphs have no gradient | `uncompiled` |

Tried on the hosts that docs/hosts.md lists as proven.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from .needs import Need, exchanged
from .weights import ordinary_view

NEEDS = (
    Need("comfy.model_management:in_training"),
    Need("comfy.model_management:get_free_memory", ("dev", "torch_free_too")),
    Need("comfy.model_patcher:ModelPatcher.get_free_memory", ("device",)),
    Need("comfy.model_management:raise_non_oom", ("e",)),
    Need("comfy.patcher_extension:WrappersMP.APPLY_MODEL"),
)


# ---------------------------------------------------------------- modes


@contextlib.contextmanager
def gradients_enabled() -> Iterator[None]:
    """Leave inference mode, record gradients, and choose the host's differentiable kernels.

    The host's ``in_training`` flag turns off in-place rotary embeddings and fused kernels.
    """
    with exchanged(comfy.model_management, "in_training", lambda before: True):
        with torch.inference_mode(False), torch.enable_grad():
            yield


@contextlib.contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Let no part of the host go on by itself where memory runs out in a recorded pass.

    Its attention would go on in smaller slices, which keep as much for the backward pass, and which
    the call that is made again would not take.
    """

    def make(before: Callable) -> Callable:
        def raise_non_oom(e):
            if torch.is_grad_enabled():
                raise e
            before(e)

        return raise_non_oom

    with exchanged(comfy.model_management, "raise_non_oom", make):
        yield


@contextlib.contextmanager
def fixed_free_memory(prompts_apart: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let the host see the same free memory at every model call.

    It asks for it each time, and batches conditionings and slices attention by the answer. A
    recomputed call must take the route of the first one, however full the memory is by then. A
    model's patcher adds the memory of weights that it could drop, which changes as well.

    Args:
        prompts_apart: whether a call that is recorded is to run its prompts one by one, as the
            host does where it sees no free memory.
    """
    seen: dict[tuple, object] = {}

    def remembered(measure: Callable) -> Callable:
        def first_answer(dev=None, torch_free_too=False):
            key = (str(dev), torch_free_too)
            if key not in seen:
                seen[key] = measure(dev, torch_free_too)
            return seen[key]

        return first_answer

    def remembered_beside(measure: Callable) -> Callable:
        def first_answer(patcher, device):
            if torch.is_grad_enabled() and prompts_apart():
                return 0
            key = (str(device), id(patcher))
            if key not in seen:
                seen[key] = measure(patcher, device)
            return seen[key]

        return first_answer

    patcher = comfy.model_patcher.ModelPatcher
    with (
        exchanged(comfy.model_management, "get_free_memory", remembered),
        exchanged(patcher, "get_free_memory", remembered_beside),
    ):
        yield


# ---------------------------------------------------------------- modes of PyTorch's functions


def function_modes() -> list[TorchFunctionMode]:
    """Those that are entered now, which the backward pass will run without."""
    return torch.overrides._get_current_function_mode_stack()


@contextlib.contextmanager
def entered_again(modes: Sequence[TorchFunctionMode]) -> Iterator[None]:
    """``modes``, but for those that are entered already."""
    entered = function_modes()
    with contextlib.ExitStack() as stack:
        for mode in modes:
            if mode not in entered:
                stack.enter_context(mode)
        yield


# ---------------------------------------------------------------- inference tensors

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


class OrdinaryViews(TorchFunctionMode):
    """While it is entered, every PyTorch function gets an ordinary view for an inference tensor.

    Nodes run inside ``torch.inference_mode()``, so that every tensor they make is an inference
    tensor, and autograd refuses to save it for the backward pass. Weights and conditionings can be
    looked up and viewed beforehand (`borrowed_weights`); the tensors that a custom patch, wrapper,
    guider or conditioning keeps for itself cannot. They are viewed as they are used, by the same
    view each time, so that it counts the changes and keeps the history of what is written to the
    tensor.

    To be entered outside inference mode, and again inside a recomputed call: the backward pass runs
    with the modes of the forward pass switched off. Most graphs have no such tensors, and every
    function costs more while the mode is on, so that `where_needed` enters it only once PyTorch has
    refused one of them. It never takes one in silence.

    Attributes:
        needed: whether that has happened.
    """

    def __init__(self):
        super().__init__()
        self.views = WeakIdKeyDictionary()
        self.needed = False

    def where_needed(self) -> contextlib.AbstractContextManager:
        """This mode, or nothing where it has not been needed."""
        return self if self.needed else contextlib.nullcontext()

    def turn_on(self, error: BaseException) -> bool:
        """Whether ``error`` was PyTorch's refusal of an inference tensor, and shall be no more."""
        if self.needed or not isinstance(error, RuntimeError):
            return False
        self.needed = "inference tensor" in str(error).lower()
        return self.needed

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") not in _OF_THE_OBJECT:
            args = [self._viewed(value) for value in args]
            kwargs = {name: self._viewed(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)

    def _viewed(self, value):
        if isinstance(value, torch.Tensor):
            return self.as_used(value)
        if type(value) in (list, tuple):  # as `torch.cat` and indexing take them
            return type(value)(self._viewed(item) for item in value)
        return value

    def as_used(self, tensor: torch.Tensor) -> torch.Tensor:
        """The ordinary tensor that functions get in place of ``tensor``: itself, if it is one."""
        return self.view(tensor) if _uncounted(tensor) else tensor

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        view = self.views.get(tensor)
        # A module that is moved gives its parameters other memory.
        if view is None or not (view.is_set_to(tensor) and view.dtype == tensor.dtype):
            view = ordinary_view(tensor)
            if view is not tensor:
                self.views[tensor] = view
        return view


def _uncounted(tensor: torch.Tensor) -> bool:
    """Whether autograd refuses ``tensor``; `is_inference` is denied by a module's moved weights."""
    try:
        return tensor._version < 0
    except RuntimeError:
        return True


# ---------------------------------------------------------------- torch.compile


@contextlib.contextmanager
def uncompiled(transformer_options: dict) -> Iterator[None]:
    """Leave out the wrapper that puts compiled modules in place of the model's.

    Args:
        transformer_options: of the model options that are sampled with.
    """
    wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    compiled = wrappers.pop(COMPILE_KEY, None)
    try:
        yield
    finally:
        if compiled is not None:
            wrappers[COMPILE_KEY] = compiled
