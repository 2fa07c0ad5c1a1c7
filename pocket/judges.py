"""Two independent judges: CNNs that read which capital letter or digit a 64 x 64 picture shows.

They can also say that it is no character at all: a blend of two, one mirrored or broken, a blob.
They were trained on fonts that neither the vision tower nor the diffusion model saw, and take no
part in any optimization: tests, the demo and the benchmarks ask them afterwards.
"""

import string
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from .drawing import LETTERS

WEIGHTS = Path(__file__).parent / "weights"
CHARACTERS = LETTERS + string.digits
NO_CHARACTER = "?"  # what is read where there is none; no prompt asks for it
SIGNS = CHARACTERS + NO_CHARACTER


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PlainJudge(nn.Sequential):
    """Stacked 3 x 3 convolutions with pooling, at half the resolution."""

    def __init__(self, classes: int = len(SIGNS), width: int = 40):
        super().__init__(
            nn.AvgPool2d(2),
            _conv(3, width),
            _conv(width, width),
            nn.MaxPool2d(2),
            _conv(width, 2 * width),
            _conv(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _conv(2 * width, 4 * width),
            nn.Dropout2d(0.1),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(4 * width * 16, classes),
        )


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class ResidualJudge(nn.Sequential):
    """Residual blocks after a strided 7 x 7 stem, at full resolution."""

    def __init__(self):
        super().__init__(
            _conv(3, 48, 7, 4),
            _Residual(48),
            _conv(48, 96, 3, 2),
            _Residual(96),
            _conv(96, 192, 3, 2),
            _Residual(192),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(192 * 16, len(SIGNS)),
        )


JUDGES = {"plain": PlainJudge, "residual": ResidualJudge}


def load_judges(folder: Path = WEIGHTS) -> dict[str, nn.Module]:
    """Both judges, ready to read, in float32 on the CPU."""
    judges = {}
    for name, architecture in JUDGES.items():
        judge = architecture()
        state = load_file(folder / f"judge_{name}.safetensors")
        judge.load_state_dict({key: value.float() for key, value in state.items()})
        judges[name] = judge.eval()
    return judges


@torch.no_grad()
def read_signs(judge: nn.Module, images: torch.Tensor) -> str:
    """One of ``SIGNS`` per picture; ``images`` is ComfyUI's IMAGE, [B, 64, 64, 3] in 0..1."""
    pictures = images.movedim(-1, 1).float()
    if pictures.shape[-2:] != (64, 64):
        pictures = F.interpolate(pictures, (64, 64), mode="bilinear", antialias=True)
    return "".join(SIGNS[i] for i in judge(normalize(pictures)).argmax(1))


def normalize(pictures: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit spread per picture, so that colours and contrast matter little."""
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return (pictures - mean) / pictures.std((1, 2, 3), keepdim=True).clamp_min(1e-3)
