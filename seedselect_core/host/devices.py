"""Builds of PyTorch that lack operations of a run: docs/devices.md has the list.

| what is patched | why | what puts it back |
| --- | --- | --- |
| nothing | pictures are turned and resized on the CPU instead | - |

MPS and DirectML have no backward for it, and on other cards it adds up in any order. What nobody
has measured a gradient on is named here, for the check before a search.

Tried on the hosts that docs/hosts.md lists as proven.
"""

from collections.abc import Callable

import torch

# Kinds of devices that can turn and resize pictures and take the gradient of it; ROCm calls its own
# "cuda". The others turn up as "mps" and "privateuseone" (DirectML).
COMPLETE = ("cpu", "cuda", "xpu")


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


def unproven_device(device: torch.device) -> str:
    """The kind of ``device``, as a user knows it, where no gradient was ever measured on one."""
    if device.type == "cuda":
        return "ROCm" if torch.version.hip else ""
    names = {"cpu": "", "mps": "MPS", "privateuseone": "DirectML", "xpu": "XPU"}
    return names.get(device.type, device.type)
