"""What a graph is made of, by the names under which its functions and classes were written.

`make coverage` notes the parts of every graph that it proves exact. A search looks at its own: a
part that no proven graph had, such as a node pack's wrapper, may hide its computation from autograd
without a word, so that the gradient is checked first (`seedselect_core.chain.doubts`).
"""

import functools
import inspect
import sys
from collections.abc import Iterable

import comfy.controlnet
import comfy.hooks
import torch

# Objects that are looked into for what they call; of others the class says enough.
_OPENED = (comfy.controlnet.ControlBase, comfy.hooks.Hook, comfy.hooks.HookGroup)
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Tensor, torch.dtype)
_PLAIN += (torch.device, torch.Generator, torch.Size)
# Attributes of a ModelPatcher that hold what runs during sampling.
_OF_THE_PATCHER = ("object_patches", "patches", "wrappers", "callbacks", "injections")
ATTENTIONS = ("optimized_attention", "optimized_attention_masked", "optimized_attention_for_device")


def origin(value) -> str:
    """Where a function was written, or the class of an object: "package.module.name"."""
    while True:
        if isinstance(value, functools.partial):
            value = value.func
        elif inspect.ismethod(value):
            value = value.__func__
        elif hasattr(value, "__wrapped__") and inspect.isroutine(value):
            value = value.__wrapped__
        else:
            break
    if not (inspect.isroutine(value) or isinstance(value, type)):
        value = type(value)
    name = f"{getattr(value, '__module__', None) or 'builtins'}.{value.__qualname__}"
    # Inside the host this pack is itself part of a package, which is named after its folder.
    before, own, after = name.rpartition("seedselect_core.")
    return own + after if own else before + after


def parts_of(guider) -> set[str]:
    """Everything in a graph that computes, by its `origin`, and the names of its options.

    Args:
        guider: the host's GUIDER, conditionings set: its model with all patches, wrappers and
            hooks, its own class, and the conditionings with their ControlNets.
    """
    patcher = guider.model_patcher
    model = patcher.model
    diffusion = patcher.get_model_object("diffusion_model")
    options = patcher.model_options
    found = {f"option {key}" for key in options} - {"option transformer_options"}
    found |= {f"option {key}" for key in options.get("transformer_options", {})}
    seen: set[int] = set()
    roots = [options, *(getattr(patcher, name, None) for name in _OF_THE_PATCHER)]
    roots += [guider, model, diffusion, getattr(guider, "original_conds", {})]
    for root in roots:
        _walk(root, found, seen)
    for owner in (guider, model, diffusion):
        found |= _replaced(owner)
    for module in diffusion.modules():
        found |= {origin(value) for value in vars(module).values() if inspect.isroutine(value)}
    return found


def _walk(value, found: set[str], seen: set[int]) -> None:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    inner: Iterable = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    elif isinstance(value, _OPENED):
        found.add(origin(value))
        inner = vars(value).values()
    elif callable(value) or type(value).__module__.split(".")[0] not in sys.stdlib_module_names:
        found.add(origin(value))
    for item in list(inner):
        _walk(item, found, seen)


def _replaced(owner) -> set[str]:
    """Methods of an object, or of its classes, that were written elsewhere than the class."""
    found = {origin(value) for value in vars(owner).values() if inspect.isroutine(value)}
    for cls in type(owner).__mro__:
        for function in vars(cls).values():
            if inspect.isfunction(function) and function.__module__ != cls.__module__:
                found.add(origin(function))
    return found


def foreign_attention() -> set[str]:
    """Attention functions that were put in the place of PyTorch's or the host's, by `origin`."""
    found = set()
    # PyTorch's own is built in, and so has no code; the host's are all of its own package.
    if inspect.isfunction(torch.nn.functional.scaled_dot_product_attention):
        found.add(origin(torch.nn.functional.scaled_dot_product_attention))
    for name, module in list(sys.modules.items()):
        if name.startswith("comfy.") and module is not None:
            named = (getattr(module, attention, None) for attention in ATTENTIONS)
            found |= {origin(function) for function in named if function is not None}
    return {name for name in found if not name.startswith("comfy.")}
