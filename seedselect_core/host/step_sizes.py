"""Adaptive step sizes that autograd can see.

"dpm_adaptive" chooses each step from the error of the last, which depends on the noise. The host
turns that error into a Python number, and the gradient would lack what the noise does to the times
at which the model is asked.
"""

import contextlib
from collections.abc import Iterator

import comfy.k_diffusion.sampling
import torch


class _StepSizes(comfy.k_diffusion.sampling.PIDStepSizeController):
    """The host's controller; its numbers are the values, the same formula on tensors the slope."""

    def __init__(self, h, *args, **kwargs):
        super().__init__(h, *args, **kwargs)
        self._value, self._slope, self._inverses = h, h, []

    def propose_step(self, error: torch.Tensor) -> bool:
        self.h = self._value
        accept = super().propose_step(error.detach())
        self._value = self.h
        inverse = 1 / (error + self.eps)
        one, two, three = inverse, *(self._inverses or (inverse, inverse))
        factor = one**self.b1 * two**self.b2 * three**self.b3
        self._slope = self._slope * (1 + (factor - 1).atan())
        self._inverses = [one, two] if accept else [two, three]
        # Adds zero to the value, so that sampling is the host's to the last bit.
        self.h = error.new_tensor(self._value) + (self._slope - self._slope.detach())
        return accept


@contextlib.contextmanager
def differentiable_step_sizes() -> Iterator[None]:
    """Let the host's adaptive solver make its step sizes with a gradient."""
    module = comfy.k_diffusion.sampling
    before = module.PIDStepSizeController
    try:
        module.PIDStepSizeController = _StepSizes
        yield
    finally:
        module.PIDStepSizeController = before
