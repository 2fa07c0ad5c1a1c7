"""Video decoders that remember earlier frames, and cut the gradient of what they remember."""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode


class _Attached(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.detach:
            return args[0]
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def attached_memory() -> Iterator[None]:
    """Let ``tensor.detach()`` give the tensor itself.

    TAEHV and the VAE of SeedVR2 keep features of one frame for the next, detached, as the host
    never differentiates them. One latent frame of TAEHV makes four frames of a picture, so that
    the gradient of even a single picture is wrong without this, and nothing fails.
    """
    if not torch.is_grad_enabled():
        yield
        return
    with _Attached():
        yield
