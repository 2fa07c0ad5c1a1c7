"""Decoders that draw noise of their own."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def steady_noise(device: torch.device) -> Iterator[None]:
    """Let random numbers on the CPU and on ``device`` be the same each time; set them back.

    LTX Video's decoder mixes a little noise into the latent and into its features. Were it drawn
    anew, the losses of two iterations could not be compared.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
