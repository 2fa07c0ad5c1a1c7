"""What the benchmarks share: the host on the CPU, the pocket model, prompts, references, judges."""

import json
import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, os.environ["COMFYUI_DIR"])  # set by scripts/host.py bench
sys.path.append(str(REPO))

from comfy.cli_args import args as host_args  # noqa: E402

host_args.cpu = True
host_args.use_pytorch_cross_attention = True  # on the CPU a twentieth faster than the default

import torch  # noqa: E402

from pocket.drawing import COLORS, RGB, TAIL_ORDER, prompt  # noqa: E402
from pocket.judges import load_judges, read_signs  # noqa: E402
from pocket.references import letter_pictures  # noqa: E402
from seedselect_core.likeness.encoders import ClipVisionEncoder  # noqa: E402
from seedselect_core.pocket import LETTERS, WEIGHTS, Toy, load_pocket_model, load_second_vision  # noqa: E402
from seedselect_core.references import ReferenceSet, reference_set_from_batch  # noqa: E402
from seedselect_core.search.scene import Scene  # noqa: E402
from seedselect_core.seeds.seed import SamplingSettings  # noqa: E402

RESULTS = Path(__file__).parent / "results"
FONTS_SEEN = json.loads((WEIGHTS / "fonts_seen.json").read_text())
SAMPLING = SamplingSettings(steps=10, cfg=7.0, sampler_name="ddim", scheduler="normal", seed=0)


def letter_references(letter: str, count: int = 4) -> ReferenceSet:
    """The first ``count`` reference pictures of a letter that ship with the pack."""
    pictures = torch.from_numpy(letter_pictures(letter, count))
    return reference_set_from_batch(pictures.float() / 255)


def colors_of(letter: str, variant: int = 0) -> tuple[str, str]:
    """A pair of ink and ground for a letter's prompt, another for every variant."""
    index = TAIL_ORDER.index(letter) + 3 * variant
    return COLORS[index % 10], COLORS[(index + 3 + variant % 6) % 10]


class ToyWorld:
    """A toy model with its two encoders."""

    def __init__(self, toy: Toy):
        self.model, self.clip, self.vae, self.clip_vision = load_pocket_model(toy)
        self.encoder = ClipVisionEncoder(self.clip_vision)
        self.second_encoder = ClipVisionEncoder(load_second_vision(toy))
        self.negative = self.condition("")
        self._latent = toy.latent_channels, 64 // toy.downscale

    def condition(self, text: str) -> list:
        cond, pooled = self.clip.encode_from_tokens(self.clip.tokenize(text), return_pooled=True)
        return [[cond, {"pooled_output": pooled}]]

    def scene(self, positive: list, references: ReferenceSet, batch: int) -> Scene:
        """The world's models with a prompt, references and an empty latent of 64 x 64 pixels."""
        channels, side = self._latent
        return Scene(
            self.model,
            positive,
            self.negative,
            self.vae,
            self.encoder,
            references,
            {"samples": torch.zeros(batch, channels, side, side)},
        )


class PocketWorld(ToyWorld):
    """That of the letters, and its judges."""

    def __init__(self):
        super().__init__(LETTERS)
        self.judges = load_judges()

    def prompt(self, letter: str, variant: int = 0) -> list:
        return self.condition(prompt(letter, *colors_of(letter, variant)))

    def right(self, images: torch.Tensor, letter: str) -> dict[str, list[bool]]:
        """Per judge and picture, whether it reads ``letter``."""
        return {
            name: [read == letter for read in read_signs(judge, images)]
            for name, judge in self.judges.items()
        }


def colors_right(images: torch.Tensor, ink: str, ground: str) -> torch.Tensor:
    """Bool [B, 2]: whether the palette colours nearest to ink and ground are those asked for.

    The ground is the median of the border; the ink the mean of the 3 % of pixels farthest from it.
    """
    pictures = images.float()
    border = torch.cat([pictures[:, :3].flatten(1, 2), pictures[:, -3:].flatten(1, 2)], 1)
    seen_ground = border.median(1).values
    pixels = pictures.flatten(1, 2)
    distance = (pixels - seen_ground[:, None]).norm(dim=2)
    farthest = distance.topk(int(0.03 * pixels.shape[1]), dim=1).indices
    seen_ink = pixels.gather(1, farthest[..., None].expand(-1, -1, 3)).mean(1)
    nearest = [torch.cdist(seen, RGB).argmin(1) for seen in (seen_ink, seen_ground)]
    wanted = (COLORS.index(ink), COLORS.index(ground))
    return torch.stack([n == w for n, w in zip(nearest, wanted, strict=True)], 1)
