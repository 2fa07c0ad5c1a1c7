"""One gradient step on the noise, of which every size means the same in any number of dimensions.

Noise of d values has the norm sqrt(d), and the gradient of a loss of pictures about the same norm
whatever d is. So a step is told as a share of the noise: 0.1 turns it by about 0.1 radians, in a
latent of 256 values as in one of 262,144.
"""

import copy
import math

import torch

from ..seeds.geometry import standardize_channels, to_shell, white
from .settings import Settings

MOMENTUM = 0.9  # of "sgd", as ReNO's (Eyring et al., NeurIPS 2024, arXiv 2406.04312)
SHELLS = {"sphere": to_shell, "channels": standardize_channels}


class Descent:
    """Steps of `Settings.optimizer` on ``noise`` [B, ...], in place; each seed is its own."""

    def __init__(self, noise: torch.Tensor, settings: Settings):
        self.noise = noise
        self._settings = settings
        # AdamW gives every value about one, as white noise has; a gradient has a norm of its own.
        has_ones = settings.optimizer == "adamw" or settings.white
        self._unit = 1.0 if has_ones else math.sqrt(noise[0].numel())
        # To do many tensors at once is no use for one, and DirectML cannot.
        if settings.optimizer == "adamw":
            decay = settings.weight_decay
            self._optimizer = torch.optim.AdamW([noise], weight_decay=decay, foreach=False)
        else:
            self._optimizer = torch.optim.SGD(
                [noise], momentum=MOMENTUM, nesterov=True, foreach=False
            )

    def step(self, gradient: torch.Tensor, iteration: int) -> None:
        """Go down ``gradient`` [B, ...]; where that fails, nothing has changed."""
        before = self.noise.detach().clone()
        state = copy.deepcopy(self._optimizer.state_dict())
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.rate(iteration)
        try:
            self.noise.grad = self._shaped(gradient) * self._unit
            self._optimizer.step()
            if self._settings.shell != "free":
                with torch.no_grad():
                    self.noise.copy_(SHELLS[self._settings.shell](self.noise))
        except Exception:
            self.noise.detach().copy_(before)
            self._optimizer.load_state_dict(state)
            raise
        finally:
            self.noise.grad = None

    @torch.no_grad()
    def start_again(self, rows: torch.Tensor, noise: torch.Tensor) -> None:
        """Put seeds ``rows`` [b] to ``noise`` [b, ...], and forget which way they were going."""
        here = rows.to(self.noise.device)
        self.noise[here] = noise.to(self.noise)
        for name in ("exp_avg", "momentum_buffer"):  # of AdamW, and of SGD
            if name in self._optimizer.state[self.noise]:
                self._optimizer.state[self.noise][name][here] = 0

    def _shaped(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._settings.clip_norm:
            norms = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
            shrink = (self._settings.clip_norm / norms).clamp(max=1.0)
            gradient = gradient * shrink.view(-1, *[1] * (gradient.ndim - 1))
        return white(gradient) if self._settings.white else gradient
