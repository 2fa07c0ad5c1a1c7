"""Train the judges, and before that the filter that tells letters from ornaments.

python -m pocket.making.train_judges filter --work WORK  two-fold, writes real_letters.npy
python -m pocket.making.train_judges plain --work WORK   trains one judge, writes its weights
python -m pocket.making.train_judges residual --work WORK
"""

import argparse
import time
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import save_image

from ..drawing import LETTERS, RGB, color_pairs, jitter, paint
from ..judges import JUDGES, normalize
from .checkpoint import Progress, save_weights
from .glyphs import Glyphs

REAL_LETTERS_ABOVE = 0.8


def hard_pictures(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures [B, 3, 64, 64] in any colours, sheared, stretched, blurred and noisy."""
    count = len(masks)
    draw = torch.rand(6, count, generator=generator) * 2 - 1
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = torch.exp(draw[0] * 0.2)
    theta[:, 1, 1] = torch.exp(draw[1] * 0.2)
    theta[:, 0, 1] = draw[2] * 0.25
    theta[:, 1, 0] = draw[3] * 0.1
    theta[:, :, 2] = draw[4:].T * 0.12
    grid = F.affine_grid(theta, (count, 1, 64, 64), align_corners=False)
    alpha = F.grid_sample(masks[:, None].float() / 255, grid, align_corners=False)
    pick = torch.rand(count, generator=generator)
    # Bolder and thinner strokes, from dilation and erosion by one pixel.
    bold = F.max_pool2d(alpha, 3, 1, 1)
    thin = -F.max_pool2d(-alpha, 3, 1, 1)
    alpha = torch.where((pick < 0.15).view(-1, 1, 1, 1), bold, alpha)
    alpha = torch.where((pick > 0.9).view(-1, 1, 1, 1), thin, alpha)
    blurred = F.avg_pool2d(alpha, 3, 1, 1)
    blur = torch.rand(count, 1, 1, 1, generator=generator)
    alpha = blur * blurred + (1 - blur) * alpha
    ink, ground = color_pairs(count, generator)
    pictures = paint(alpha[:, 0], RGB[ink], RGB[ground])
    noise = torch.rand(count, 1, 1, 1, generator=generator) * 0.06
    return (pictures + noise * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


def accuracy(judge: nn.Module, masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Share of right readings per font [N], each letter painted once in random colours."""
    judge.eval()
    right = []
    with torch.no_grad():
        for chunk in masks.split(32):
            flat = chunk.flatten(0, 1)
            ink, ground = color_pairs(len(flat), generator)
            pictures = paint(jitter(flat, generator), RGB[ink], RGB[ground])
            answer = judge(normalize(pictures)).argmax(1).view(-1, len(LETTERS))
            right.append((answer == torch.arange(len(LETTERS))).float())
    judge.train()
    return torch.cat(right)


def train(
    judge: nn.Module,
    masks: torch.Tensor,
    steps: int,
    seed: int,
    progress: Progress | None = None,
    batch: int = 128,
) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    first = progress.resume(judge, optimizer, schedule) if progress else 0
    judge.train()
    began = time.time()
    for step in range(first, steps):
        generator.manual_seed(seed * 1_000_003 + step)
        font = torch.randint(len(masks), (batch,), generator=generator)
        letter = torch.randint(len(LETTERS), (batch,), generator=generator)
        pictures = hard_pictures(masks[font, letter], generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = judge(normalize(pictures))
        loss = F.cross_entropy(answer.float(), letter, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.time() - began:.0f} s", flush=True)
        if progress and (step % 50 == 49 or step == steps - 1):
            progress.save(step + 1, judge, optimizer, schedule)
    return judge


def filter_ornaments(work: Path, steps: int) -> None:
    """A font is of letters if a judge that saw no font of its family reads 80 % of it."""
    with np.load(work / "glyphs.npz") as file:
        masks = torch.from_numpy(file["masks"])
        families = file["families"]
    fold = torch.tensor([zlib.crc32(family.encode()) % 2 for family in families])
    share = torch.zeros(len(masks))
    for half in (0, 1):
        progress = Progress(work / f"filter_{half}.pt")
        judge = train(JUDGES["plain"](), masks[fold != half], steps, half, progress)
        generator = torch.Generator().manual_seed(half)
        share[fold == half] = accuracy(judge, masks[fold == half], generator).mean(1)
    real = share >= REAL_LETTERS_ABOVE
    np.save(work / "real_letters.npy", real.numpy())
    rejected = masks[~real][:: max(1, int((~real).sum()) // 16)][:16]
    save_image(1 - rejected.flatten(0, 1)[:, None].float() / 255, work / "ornaments.png", nrow=26)
    print(f"{int(real.sum())} of {len(real)} fonts are letters, read {share[real].mean():.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["filter", *JUDGES])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.stage == "filter":
        filter_ornaments(args.work, min(args.steps, 450))
        return
    seen = Glyphs(args.work, "judge")
    unseen = Glyphs(args.work, "unseen")
    progress = Progress(args.work / f"judge_{args.stage}.pt")
    judge = train(JUDGES[args.stage](), seen.masks, args.steps, seed=7, progress=progress)
    right = accuracy(judge, unseen.masks, torch.Generator().manual_seed(1))
    print(f"{args.stage}: {right.mean():.4f} right on {len(unseen)} unseen fonts")
    for letter, share in zip(LETTERS, right.mean(0), strict=True):
        print(f"  {letter} {share:.3f}")
    misread = unseen.masks[right == 0][:208, None].float() / 255
    save_image(1 - misread, args.work / f"judge_{args.stage}.png", nrow=26)
    save_weights(judge.state_dict(), f"judge_{args.stage}")


if __name__ == "__main__":
    main()
