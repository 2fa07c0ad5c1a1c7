"""Builds of PyTorch that lack operations of a run: docs/devices.md has the list.

| what is patched | why | what puts it back |
| --- | --- | --- |
| nothing | pictures are turned and resized on the CPU instead | - |

MPS and DirectML have no backward for it, and on other cards it adds up in any order. What nobody
has measured a gradient on is named here, for the check before a search.

Tried on the hosts that docs/hosts.md lists as proven.
"""

import re
from collections.abc import Callable

import torch

# Kinds of devices that can turn and resize pictures and take the gradient of it; ROCm calls its own
# "cuda". The others turn up as "mps" and "privateuseone" (DirectML).
COMPLETE = ("cpu", "cuda", "xpu")

ON_THIS_DEVICE = "on this device, whose build of PyTorch lacks an operation (see docs/devices.md)"
# What a build says where it has no such operation, or no such kind of number.
_LACKING = re.compile(
    r"not (currently )?(implemented|supported) (for|on) the \w+ (device|backend)"
    r"|Could not run '[\w:.]+' with arguments from the|MPS framework doesn't support"
    r"|does not support Double|Required aspect fp64|MPS: Unsupported",
    re.IGNORECASE,
)


def where_complete(
    function: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor
) -> torch.Tensor:
    """``function(images)``, made on the CPU where the device's build is not `COMPLETE`.

    To have a few pictures come and go costs nothing beside the model's calls.
    """
    device = images.device
    ordered = device.type == "cpu" or not torch.are_deterministic_algorithms_enabled()
    if device.type in COMPLETE and ordered:
        return function(images)
    return moved(function(moved(images, torch.device("cpu"))), device)


def moved(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    return images.to(device)


def lacks_operation(error: BaseException) -> bool:
    """Whether ``error`` is that of a build without an operation, or without a kind of number."""
    return isinstance(error, RuntimeError | TypeError) and bool(_LACKING.search(str(error)))


def unproven_device(device: torch.device) -> str:
    """The kind of ``device``, as a user knows it, where no gradient was ever measured on one."""
    if device.type == "cuda":
        return "ROCm" if torch.version.hip else ""
    names = {"cpu": "", "mps": "MPS", "privateuseone": "DirectML", "xpu": "XPU"}
    return names.get(device.type, device.type)
