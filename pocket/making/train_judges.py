"""Train the judges, and before that what tells letters from ornaments and what is no character.

python -m pocket.making.train_judges filter --work WORK  two-fold, writes ornaments.txt
python -m pocket.making.train_judges check --work WORK   two-fold, writes real_digits.npy and
                                                         no_characters_checked.npy
python -m pocket.making.train_judges plain --work WORK   trains one judge, writes its weights
python -m pocket.making.train_judges residual --work WORK
"""

import argparse
import collections
import math
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.utils import save_image

from ..drawing import LETTERS, RGB, color_pairs, jitter, paint
from ..judges import CHARACTERS, JUDGES, SIGNS, PlainJudge, normalize
from .checkpoint import Progress, save_weights
from .glyphs import ORNAMENTS, Glyphs
from .no_characters import KINDS, NoCharacters

REAL_ABOVE = 0.8
NONE = len(CHARACTERS)  # the class of what is no character
# Capitals and digits in a batch; the rest is no character. Judges are for pictures of capitals, so
# they see more of those.
CHECK_SHARES = (0.5, 0.15)
JUDGE_SHARES = (0.64, 0.06)
# Masks uint8 [B, 64, 64] and classes [B], drawn for a training step.
Draw = Callable[[int, torch.Generator], tuple[torch.Tensor, torch.Tensor]]


class DrawCapitals:
    def __init__(self, masks: torch.Tensor):
        self.masks = masks

    def __call__(self, count: int, generator: torch.Generator):
        font = torch.randint(len(self.masks), (count,), generator=generator)
        letter = torch.randint(len(LETTERS), (count,), generator=generator)
        return self.masks[font, letter], letter


class DrawSigns:
    """Capitals [N, 26, 64, 64], digits [M, 10, 64, 64] and no characters [K, 64, 64], uint8.

    ``families`` names those of each, [N], [M] and [K]; without it every font is drawn alike.
    """

    def __init__(self, *masks: torch.Tensor, shares: tuple[float, float], families=None):
        self.masks = masks
        self.shares = shares
        self.weights = [family_weights(part) for part in families] if families else [None] * 3

    def __call__(self, count: int, generator: torch.Generator):
        capitals, digits = (round(share * count) for share in self.shares)
        none = count - capitals - digits
        font = self._places(0, capitals, generator)
        letter = torch.randint(len(LETTERS), (capitals,), generator=generator)
        masks = [self.masks[0][font, letter]]
        font = self._places(1, digits, generator)
        digit = torch.randint(10, (digits,), generator=generator)
        masks += [self.masks[1][font, digit], self.masks[2][self._places(2, none, generator)]]
        return torch.cat(masks), torch.cat(
            [letter, len(LETTERS) + digit, torch.full((none,), NONE)]
        )

    def _places(self, part: int, count: int, generator: torch.Generator) -> torch.Tensor:
        if self.weights[part] is None:
            return torch.randint(len(self.masks[part]), (count,), generator=generator)
        return torch.multinomial(self.weights[part], count, replacement=True, generator=generator)


def family_weights(families: np.ndarray) -> torch.Tensor:
    """A weight each, float [N]: families are drawn by the square root of their number of fonts.

    Three of five fonts that judges learn from are of one family.
    """
    _, place, size = np.unique(families, return_inverse=True, return_counts=True)
    return torch.from_numpy(1 / np.sqrt(size[place]))


def hard_pictures(
    masks: torch.Tensor, generator: torch.Generator, colors: tuple[int, int] | None = None
) -> torch.Tensor:
    """Pictures [B, 3, 64, 64], sheared, stretched, blurred and noisy.

    ``colors`` are ink and ground of all; without them each has its own.
    """
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
    if colors is not None:
        ink, ground = (torch.full_like(ink, color) for color in colors)
    pictures = paint(alpha[:, 0], RGB[ink], RGB[ground])
    noise = torch.rand(count, 1, 1, 1, generator=generator) * 0.06
    return (pictures + noise * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)


@torch.no_grad()
def answers(judge: nn.Module, masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Probabilities [N, classes] of masks uint8 [N, 64, 64], painted once in random colours."""
    judge.eval()
    found = []
    for chunk in masks.split(32 * len(LETTERS)):
        ink, ground = color_pairs(len(chunk), generator)
        pictures = paint(jitter(chunk, generator), RGB[ink], RGB[ground])
        found.append(judge(normalize(pictures)).softmax(1))
    judge.train()
    return torch.cat(found)


def train(
    judge: nn.Module,
    draw: Draw,
    steps: int,
    seed: int,
    progress: Progress,
    batch: int = 128,
) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(judge.parameters(), 2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.15)
    first = progress.resume(judge, optimizer, schedule)
    judge.train()
    began = time.time()
    for step in range(first, steps):
        generator.manual_seed(seed * 1_000_003 + step)
        masks, target = draw(batch, generator)
        pictures = hard_pictures(masks, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            answer = judge(normalize(pictures))
        loss = F.cross_entropy(answer.float(), target, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.3f} {time.time() - began:.0f} s", flush=True)
        if step % 50 == 49 or step == steps - 1:
            progress.save(step + 1, judge, optimizer, schedule)
    return judge


def fold_of(families: np.ndarray) -> torch.Tensor:
    """One of two folds [N], by the family's name."""
    return torch.tensor([zlib.crc32(str(family).encode()) % 2 for family in families])


def filter_ornaments(work: Path, steps: int) -> None:
    """A font is of letters if a judge that saw no font of its family reads 80 % of it."""
    with np.load(work / "glyphs.npz") as file:
        masks = torch.from_numpy(file["masks"])
        fold = fold_of(file["families"])
        paths = file["paths"]
    share = torch.zeros(len(masks))
    for half in (0, 1):
        progress = Progress(work / f"filter_{half}.pt")
        judge = PlainJudge(len(LETTERS), width=32)
        train(judge, DrawCapitals(masks[fold != half]), steps, half, progress)
        generator = torch.Generator().manual_seed(half)
        read = answers(judge, masks[fold == half].flatten(0, 1), generator).argmax(1)
        right = read.view(-1, len(LETTERS)) == torch.arange(len(LETTERS))
        share[fold == half] = right.float().mean(1)
    real = share >= REAL_ABOVE
    ORNAMENTS.write_text("".join(f"{path}\n" for path in paths[~real.numpy()]))
    rejected = masks[~real][:: max(1, int((~real).sum()) // 16)][:16]
    save_image(1 - rejected.flatten(0, 1)[:, None].float() / 255, work / "ornaments.png", nrow=26)
    print(f"{int(real.sum())} of {len(real)} fonts are letters, read {share[real].mean():.4f}")


def check(work: Path, steps: int) -> None:
    """What passes for a character with a reader that saw no font of its family is not none.

    The reader learns from characters and no characters of the other fold. To pass is to be taken
    for any character as surely as nine of ten real capitals are. The digits of a font count if
    it reads 80 % of them, 0 as O and 1 as I included.
    """
    (work / "real_digits.npy").unlink(missing_ok=True)  # else what it left out stays out
    parts = [Glyphs(work, split) for split in ("judge", "unseen")]
    capitals = torch.cat([part.masks for part in parts])
    digits = torch.cat([part.digits for part in parts])
    has_digits = torch.cat([part.has_digits for part in parts])
    fold = fold_of(np.concatenate([part.families for part in parts]))
    none = NoCharacters(work)
    none_fold = fold_of(none.families)
    passes = torch.zeros(len(none.masks), dtype=torch.bool)
    digits_read = torch.zeros(len(capitals))
    for half in (0, 1):
        other = fold != half
        learned = capitals[other], digits[other & has_digits], none.masks[none_fold != half]
        draw = DrawSigns(*learned, shares=CHECK_SHARES)
        reader = PlainJudge(width=32)
        train(reader, draw, steps, 20 + half, Progress(work / f"check_{half}.pt"))
        generator = torch.Generator().manual_seed(half)
        real = answers(reader, capitals[~other][::4].flatten(0, 1), generator)
        limit = (1 - real[:, NONE]).quantile(0.1)
        found = answers(reader, none.masks[none_fold == half], generator)
        passes[none_fold == half] = 1 - found[:, NONE] >= limit
        own = ~other & has_digits
        read = answers(reader, digits[own].flatten(0, 1), generator).argmax(1).view(-1, 10)
        digits_read[own] = torch.stack([_is_digit(read, i) for i in range(10)]).float().mean(0)
        print(f"fold {half}: to pass is to be a character by {limit:.3f}")
    save_check(work, none, passes.numpy())
    paths = np.concatenate([part.paths for part in parts])
    unfit = set(paths[(digits_read < REAL_ABOVE).numpy()])
    with np.load(work / "glyphs.npz") as file:
        np.save(work / "real_digits.npy", np.array([path not in unfit for path in file["paths"]]))
    real = int((digits_read >= REAL_ABOVE).sum())
    print(f"digits are read as such in {real} of {int(has_digits.sum())} fonts that have them")


def _is_digit(read: torch.Tensor, digit: int) -> torch.Tensor:
    """Whether classes [N, 10], read in the ten digits, are right for one of them; bool [N]."""
    right = read[:, digit] == len(LETTERS) + digit
    alike = {0: "O", 1: "I"}.get(digit)
    return right | (read[:, digit] == LETTERS.index(alike)) if alike else right


def save_check(work: Path, none: NoCharacters, passes: np.ndarray) -> None:
    """Keep what does not pass for a character; print and show what does."""
    np.save(work / "no_characters_checked.npy", ~passes)
    for kind in KINDS:
        of_kind = none.kinds == kind
        print(f"{kind}: {passes[of_kind].mean():.3f} of {of_kind.sum()} pass for a character")
    image = none.masks[torch.from_numpy(passes)]
    image = 1 - image[:: max(1, len(image) // 416)][:416, None].float() / 255
    save_image(image, work / "taken_for_characters.png", nrow=26)
    print(f"{(~passes).sum()} of {len(passes)} are no character")


def report_characters(
    judge: nn.Module, what: str, masks: torch.Tensor, first: int, generator: torch.Generator
) -> torch.Tensor:
    """Print how glyphs uint8 [N, G, 64, 64] are read, G classes from ``first``.

    Gives those that were misread, [M, 64, 64].
    """
    target = (first + torch.arange(masks.shape[1])).expand(masks.shape[:2]).flatten()
    read = answers(judge, masks.flatten(0, 1), generator).argmax(1)
    right = read == target
    print(f"{what}: {right.float().mean():.4f} right in {len(masks)} unseen fonts")
    shares = right.view(masks.shape[:2]).float().mean(0).tolist()
    print("  " + ", ".join(f"{SIGNS[first + i]} {share:.3f}" for i, share in enumerate(shares)))
    wrong = zip(target[~right].tolist(), read[~right].tolist(), strict=True)
    worst = collections.Counter(wrong).most_common(20)
    print("  most often: " + ", ".join(f"{SIGNS[a]} as {SIGNS[b]} {n}" for (a, b), n in worst))
    return masks.flatten(0, 1)[~right]


def report_none(judge: nn.Module, none: NoCharacters, generator: torch.Generator) -> torch.Tensor:
    """Print how much of what is no character is told as such; gives what is not, [M, 64, 64]."""
    read = answers(judge, none.masks, generator).argmax(1)
    right = read == NONE
    print(f"no character, all that were made: {right.float().mean():.4f} of {len(right)}")
    print(f"no character: {right[none.checked].float().mean():.4f} of {int(none.checked.sum())}")
    for kind in KINDS:
        own = none.checked & torch.from_numpy(none.kinds == kind)
        print(f"  {kind} {right[own].float().mean():.3f} of {int(own.sum())}")
    wrong = none.checked & ~right
    signs = collections.Counter(SIGNS[i] for i in read[wrong].tolist())
    print("  most often: " + ", ".join(f"{sign} {n}" for sign, n in signs.most_common(20)))
    return none.masks[wrong]


@torch.no_grad()
def even_out(judge: nn.Module) -> None:
    """Make up for how rarely digits were drawn: a judge must read a 6 that may nearly be an S.

    A class drawn so many times rarer lost the logarithm of it in the last layer's bias. 0 and 1
    stay behind: many fonts draw O and I like them, and what may be both is read as the capital.
    """
    rarer = (JUDGE_SHARES[0] / len(LETTERS)) / (JUDGE_SHARES[1] / 10)
    judge[-1].bias[CHARACTERS.index("2") : NONE] += math.log(rarer)


def train_judge(name: str, work: Path, steps: int) -> None:
    seen = Glyphs(work, "judge")
    none = NoCharacters(work, "judge")
    fit = none.checked
    draw = DrawSigns(
        seen.masks,
        seen.digits[seen.has_digits],
        none.masks[fit],
        shares=JUDGE_SHARES,
        families=(
            seen.families,
            seen.families[seen.has_digits.numpy()],
            none.families[fit.numpy()],
        ),
    )
    progress = Progress(work / f"judge_{name}.pt")
    # In this order of memory the CPU's convolutions take a quarter less time.
    judge = JUDGES[name]().to(memory_format=torch.channels_last)
    train(judge, draw, steps, seed=7, progress=progress)
    even_out(judge)
    print(f"{name}: {sum(weight.numel() for weight in judge.parameters()) / 1e6:.2f} M parameters")
    unseen = Glyphs(work, "unseen")
    digits = unseen.digits[unseen.has_digits]
    generator = torch.Generator().manual_seed(1)
    misread = [
        report_characters(judge, "capitals", unseen.masks, 0, generator),
        report_characters(judge, "digits", digits, len(LETTERS), generator),
        report_none(judge, NoCharacters(work, "unseen"), generator),
    ]
    image = 1 - torch.cat(misread)[:, None].float() / 255
    save_image(image, work / f"judge_{name}.png", nrow=26)
    save_weights(judge.state_dict(), f"judge_{name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["filter", "check", *JUDGES])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.stage == "filter":
        filter_ornaments(args.work, min(args.steps, 450))
    elif args.stage == "check":
        check(args.work, min(args.steps, 450))
    else:
        train_judge(args.stage, args.work, args.steps)


if __name__ == "__main__":
    main()
