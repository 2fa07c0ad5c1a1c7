"""What decoders of videos remember and draw, so that the gradient is whole and the same twice.

| what is patched | why | what puts it back |
| --- | --- | --- |
| ``tensor.detach()`` | frames are remembered without gradient | `attached_memory` |
| PyTorch's generators | LTX Video's decoder draws noise | `fixed_rng` |

Tried on the hosts that docs/hosts.md lists as proven.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode

from .needs import serves

# Packages of the VAEs that remember frames, and of those that draw noise.
REMEMBERING = ("comfy.taesd.taehv", "comfy.ldm.seedvr")
DRAWING = "comfy.ldm.lightricks"


# ---------------------------------------------------------------- frames remembered


class _Attached(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.detach:
            return args[0]
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def attached_memory(decoder: torch.nn.Module) -> Iterator[None]:
    """Let ``tensor.detach()`` give the tensor itself, for a VAE that remembers frames.

    TAEHV and the VAE of SeedVR2 keep features of one frame for the next, detached, as the host
    never differentiates them. One latent frame of TAEHV makes four frames of a picture, so that
    the gradient of even a single picture is wrong without this, and nothing fails.
    """
    module = type(decoder).__module__
    if not (torch.is_grad_enabled() and any(serves(family, module) for family in REMEMBERING)):
        yield
        return
    with _Attached():
        yield


# ---------------------------------------------------------------- noise of its own


@contextlib.contextmanager
def fixed_rng(decoder: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Let random numbers on the CPU and on ``device`` be the same each time; set them back.

    LTX Video's decoder mixes a little noise into the latent and into its features. Were it drawn
    anew, the losses of two iterations could not be compared. What a decoder of another make than
    the host's draws is not known, and fixed as well.
    """
    module = type(decoder).__module__
    if serves("comfy", module) and not serves(DRAWING, module):
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
