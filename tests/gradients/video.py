"""How a family of video models is measured: its latents have a dimension of frames."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from .measure import Case, Finding, Wired, examine, worst
from .models import detected, normal, reduced
from .wiring import conditioning, wired

HEIGHT = 4
WIDTH = 6

# What a family's own node puts beside the text: (frames of the latent, seed) -> fields.
Extra = Callable[[int, int], dict]


def no_extra(frames: int, seed: int) -> dict:
    return {}


@dataclass(frozen=True)
class Video:
    """One family: a small model of it, and what is connected to it.

    Attributes:
        family: name of a class in `comfy.supported_models`.
        config: its sizes.
        text: width of the text's tokens.
        channels: of the latent.
        extra: further fields of the conditioning, made as the family's node makes them.
        read: `detected`, or `reduced` where the host knows the family only by its full size.
        frames: numbers of latent frames to be measured, one after the other.
        size: height and width of the latent.
        starts: whether the first of several frames is given as a latent with a noise mask.
        remark: anything else to tell.
    """

    family: str
    config: dict
    text: int
    channels: int = 16
    extra: Extra = no_extra
    read: Callable = detected
    frames: tuple[int, ...] = (1, 3)
    size: tuple[int, int] = (HEIGHT, WIDTH)
    starts: bool = False
    remark: str = ""
    quick: bool = False

    def examine(self) -> Finding:
        """The worst of all numbers of frames."""
        models = {}

        def build(dtype: torch.dtype, frames: int) -> Wired:
            if dtype not in models:  # every examination finds it as it was, and says so
                models[dtype] = self.read(self.family, self.config, dtype)
            texts = [conditioning(7, self.text, i, **self.extra(frames, i)) for i in (1, 2)]
            latent = (1, self.channels, frames, *self.size)
            more = {}
            if self.starts and frames > 1:
                more["latent_image"] = normal(*latent, seed=39)
                more["noise_mask"] = first_frame_mask(frames, self.size)
            return wired(models[dtype], *texts, latent, dtype, **more)

        found = [examine(lambda dtype, n=n: build(dtype, n)) for n in self.frames]
        counts = " and ".join(f"{n} frame{'s' * (n > 1)}" for n in self.frames)
        remarks = [f"latent of {counts}", self.remark]
        if self.read is reduced:
            remarks.append("sizes given, not detected")
        remark = "; ".join(filter(None, remarks))
        return worst(found, remark)

    def case(self) -> Case:
        return Case("families", self.family, self.examine, self.quick)


def clip_vision(tokens: int, width: int, seed: int) -> SimpleNamespace:
    """CLIP_VISION_OUTPUT with random features."""
    features = normal(1, tokens, width, seed=seed)
    return SimpleNamespace(penultimate_hidden_states=features, last_hidden_state=features)


def first_frame_mask(frames: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> torch.Tensor:
    """Mask beside the latent of a start image, [1, 1, frames, h, w]: nought where it is given."""
    mask = torch.ones(1, 1, frames, *size)
    mask[:, :, 0] = 0.0
    return mask
