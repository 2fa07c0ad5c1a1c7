"""A step of the descent means the same in a latent of 256 values and in one of 262,144.

256 is the pocket model's, 16,384 that of Stable Diffusion at 512 x 512 pixels, 262,144 that of Flux
at 1,024 x 1,024. The loss here is of what a picture is composed of, the coarse part of the noise:
its gradient has the same norm in all of them.
"""

import math

import pytest
import torch
import torch.nn.functional as F

import tiny
from seedselect_core.likeness.losses import norm_prior
from seedselect_core.search.descent import SHELLS, Descent
from seedselect_core.seeds.geometry import angle_between, norms, shell_radius

SIDES = (8, 64, 256)  # of 4 channels each: 256, 16,384 and 262,144 values
AIM = torch.randn(4 * 64, generator=torch.Generator().manual_seed(1))


def coarse(noise: torch.Tensor) -> torch.Tensor:
    """The 256 coarsest parts of the noise, [1, 4, 8, 8], of unit variance as it is."""
    return F.avg_pool2d(noise, noise.shape[-1] // 8) * (noise.shape[-1] // 8)


def gaussian(side: int) -> torch.Tensor:
    """Noise [1, 4, side, side] whose coarse parts are the same for every side."""
    fine = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(side))
    wanted = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    change = (wanted - coarse(fine)) * 8 / side
    return fine + F.interpolate(change, scale_factor=side // 8)


def unlikeness(noise: torch.Tensor) -> torch.Tensor:
    return 1 - F.cosine_similarity(coarse(noise).flatten(1), AIM[None])


def gradient_of(loss, noise: torch.Tensor) -> torch.Tensor:
    noise = noise.detach().requires_grad_()
    return torch.autograd.grad(loss(noise).sum(), noise)[0]


def stretched(side: int) -> torch.Tensor:
    """Noise a tenth too long."""
    noise = gaussian(side)
    return noise * (1.1 * shell_radius(noise.numel()) / norms(noise)).view(-1, 1, 1, 1)


def turned(side: int, **settings) -> float:
    """The angle of the first step in radians."""
    noise = SHELLS.get(settings.get("shell"), torch.clone)(gaussian(side)).requires_grad_()
    before = noise.detach().clone()
    gradient = gradient_of(unlikeness, noise)
    Descent(noise, tiny.settings(schedule="constant", **settings)).step(gradient, 0)
    return angle_between(before[0], noise[0].detach())


def alike(values: list[float], share: float) -> bool:
    return max(values) <= (1 + share) * min(values)


def test_the_gradient_of_what_is_coarse_has_one_norm():
    assert alike([gradient_of(unlikeness, gaussian(s)).norm().item() for s in SIDES], 1e-3)


def test_the_norm_prior_pulls_as_hard_against_the_semantic_gradient():
    pulls = [gradient_of(norm_prior, stretched(side)).norm().item() for side in SIDES]
    assert alike(pulls, 0.01)
    # Of ReNO's, undivided, it is 32 times as hard at 262,144 values as at 256.
    raw = [pull * math.sqrt(4 * side**2 - 1) for pull, side in zip(pulls, SIDES, strict=True)]
    assert raw[-1] / raw[0] == pytest.approx(32, rel=0.02)


@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "adamw", "learning_rate": 0.1},
        {"optimizer": "adamw", "learning_rate": 0.1, "white": True},
        {"optimizer": "adamw", "learning_rate": 0.1, "shell": "sphere"},
        {"optimizer": "adamw", "learning_rate": 0.1, "shell": "channels"},
        {"optimizer": "sgd", "learning_rate": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.1, "clip_norm": 0.05},
        {"optimizer": "sgd", "learning_rate": 0.1, "white": True},
    ],
    ids=lambda how: " ".join(str(value) for value in how.values()),
)
def test_a_step_turns_the_noise_by_as_much(how):
    assert alike([turned(side, **how) for side in SIDES], 0.1)
