"""Stage 2b: a second vision tower, which nobody tells what it sees (MoCo v3, arXiv 2104.02057).

python -m pocket.making.train_second_tower --work WORK [--world hands] [--steps 3000] [--threads 1]

Its patches are four times as large as the first tower's, and no caption takes part: of pictures of
one thing (a glyph; hands of one gesture, side and view, in any pose), in other colors, another
place, and closer up, a student learns to tell what its own average, the teacher, makes of another
one, from what it makes of all others in the batch. (With the prototypes of DINO, arXiv 2104.14294,
in the place of the others nothing was learned in 1,000 steps.)

Writes ``second_vision.safetensors``.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import host_cpu  # noqa: F401

# isort: split
import comfy.clip_model
from comfy.clip_vision import ClipVisionModel

from seedselect_core import pocket

from .checkpoint import Progress, save_weights
from .train_towers import initialize, out_of_place_layer
from .world import NAMES, Pictures, load_world

BATCH = 128
TEMPERATURE = 0.15
# A tower without a notion of shapes tells pictures apart by color, which two of a thing need not
# share. So the first part is of one plain look.
PLAIN = 0.15


class Tower(nn.Module):
    """The tower, and the heads that are thrown away after training."""

    def __init__(self):
        super().__init__()
        vision = ClipVisionModel(str(pocket.SECOND_VISION_CONFIG))
        self.mean = vision.image_mean[0]
        self.std = vision.image_std[0]
        self.vision = vision.model.float()
        self.requires_grad_(True)
        initialize(self.vision)
        patch = self.vision.vision_model.embeddings.patch_embedding.weight
        nn.init.normal_(patch, std=1 / math.sqrt(patch[0].numel()))
        width = self.vision.visual_projection.out_features
        self.project = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, width))
        self.predict = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, width))

    def embed(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.vision((pictures - self.mean) / self.std)[2].float()

    def forward(self, pictures: torch.Tensor, predict: bool) -> torch.Tensor:
        """Unit vectors [B, 128]: what the picture is projected to, or what another one would be."""
        projected = self.project(self.embed(pictures))
        return F.normalize(self.predict(projected) if predict else projected, dim=1)


def step_loss(student: Tower, teacher: Tower, views: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Cross entropy of what the student tells of each view, of which the teacher sees two."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            aims = [teacher(pictures, predict=False).float() for pictures in views[:2]]
        seen = [student(pictures, predict=True).float() for pictures in views]
    own = torch.arange(len(views[0]))
    terms = [
        F.cross_entropy(told @ aim.T / TEMPERATURE, own)
        for number, told in enumerate(seen)
        for other, aim in enumerate(aims)
        if other != number
    ]
    return sum(terms) / len(terms)


@torch.no_grad()
def nearest_centroid(tower: Tower, seen: Pictures, unseen: Pictures, kept: int) -> float:
    """How often a picture not seen is nearest to the centroid of those that show the same thing.

    Args:
        kept: how many of the facts tell what that is: those that all views of a thing keep.
    """
    generator = torch.Generator().manual_seed(5)

    def embedded(source: Pictures) -> tuple[torch.Tensor, torch.Tensor]:
        pictures, facts = source.sample(1040, generator)
        unit = torch.cat([tower.embed(part) for part in pictures.split(260)])
        return F.normalize(unit, dim=1), facts[:, :kept]

    known, things = embedded(seen)
    which, thing = things.unique(dim=0, return_inverse=True)
    centroids = torch.stack([known[thing == number].mean(0) for number in range(len(which))])
    found, told = embedded(unseen)
    nearest = which[(found @ F.normalize(centroids, dim=1).T).argmax(1)]
    return (nearest == told).all(1).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--world", choices=NAMES, default=NAMES[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    comfy.clip_model.CLIPLayer.forward = out_of_place_layer
    student = Tower()
    teacher = copy.deepcopy(student).requires_grad_(False)
    world = load_world(args.world)
    views = world.views(args.work)
    seen, unseen = (world.alike(args.work, split) for split in ("train", "unseen"))
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, args.steps, pct_start=0.05)
    progress = Progress(args.work / "second_tower.pt")
    first = progress.resume(student, teacher, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    for step in range(first, args.steps):
        generator.manual_seed(step)
        plain = step < PLAIN * args.steps
        loss = step_loss(student, teacher, views.triple(BATCH, generator, plain))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        keep = 1 - 0.01 * (1 + math.cos(math.pi * step / args.steps)) / 2
        with torch.no_grad():
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 1 - keep)
        if step % 50 == 0:
            print(f"step {step} loss {loss:.3f} {time.time() - began:.0f} s", flush=True)
        if step % 300 == 299:
            progress.save(step + 1, student, teacher, optimizer, schedule)
            right = nearest_centroid(teacher, seen, unseen, world.kept)
            print(f"nearest centroid right in {right:.3f} of what was not seen", flush=True)
    save_weights(teacher.vision.state_dict(), "second_vision", world.toy.weights)


if __name__ == "__main__":
    main()
