"""Few-shot and long-tail classification: what are SeedSelect's pictures worth as training data?

26 letters. The 18 frequent ones have the real glyphs that the diffusion model was trained on (at
most 300 a letter, 30 for the rarest of them); each of the eight rare ones has ``n`` real pictures,
in fonts of the atlas's ``test`` group, mostly book faces. A small CNN learns from them, from
scratch, and reads all 26 letters in the ``report`` fonts, which are odder and whose families occur
nowhere else. (The other way round the rivals left nothing to gain: 98.9 % of the rare letters at
four real pictures. The groups were exchanged before any picture of SeedSelect was tried.) The arms
differ only in what the CNN learns from:

- ``real``: the real pictures, as they are;
- ``augmented``: turned, sheared, stretched, shifted, bent, emboldened, thinned, blurred and noisy;
- ``balanced``: augmented, all classes equally often;
- ``adjusted``: balanced by the logit-adjusted loss instead (Menon et al. 2021, arXiv 2007.07314),
  classes as often as the square root of their size, so that the rarest are seen at all;
- ``plain``: balanced, and a share of each rare class is plain samples of the diffusion model;
- ``seedselect``: the same with pictures from seeds that were optimized on those very ``n`` images.

Lines of reference, no rivals:

- ``seen fonts``: in their place the glyphs that the diffusion model was trained on, as various as
  what it draws could be;
- ``more real``: in their place further real pictures, the best that any generator could give;
- `nearest_centroid`: what the encoder in SeedSelect's loss, which was trained on all letters, could
  have told without any picture being made.

Generated pictures are used as they come. No judge takes part.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from pocket.atlas import atlas_fonts, load_atlas, paint_glyphs
from pocket.drawing import LETTERS, RGB, TAIL_ORDER, color_pairs, jitter, paint

RARE = TAIL_ORDER[-8:]
FREQUENT = TAIL_ORDER[:-8]
REAL_GROUP = "test"
TEST_GROUP = "report"
RIVALS = ("real", "augmented", "balanced", "adjusted", "plain")
ARMS = (*RIVALS, "seedselect", "seen fonts", "more real")
SHOTS = (1, 2, 4, 8)
MADE = 16  # generated pictures of each rare letter, at most
GENERATED_SHARE = 0.5  # of the rare classes' training pictures, in arms that have such
STEPS = 500
QUICK_STEPS = 125
BATCH = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
SMOOTHING = 0.05


def real_images(letter: str, n: int, draw: int) -> torch.Tensor:
    """Real pictures of a rare letter: training data of the classifier, references of SeedSelect.

    Fonts are drawn at random from the ``test`` group, no family twice while others are left.
    The first of a larger ``n`` are those of a smaller one.

    Returns:
        float [n, 64, 64, 3] in 0..1, the same for the same arguments; n at most 142.
    """
    generator = torch.Generator().manual_seed(7919 * draw + LETTERS.index(letter))
    fonts = atlas_fonts()[REAL_GROUP]
    first = []
    others = []
    families = set()
    for font in torch.randperm(len(fonts), generator=generator).tolist():
        (others if fonts[font]["family"] in families else first).append(font)
        families.add(fonts[font]["family"])
    masks = load_atlas(REAL_GROUP)[first + others, LETTERS.index(letter)]
    return paint_glyphs(masks, generator)[:n].movedim(1, -1)


def known_glyphs(letter: str, count: int, draw: int) -> torch.Tensor:
    """A rare letter as the diffusion model saw it in training, in few fonts: [count, 64, 64, 3]."""
    generator = torch.Generator().manual_seed(6091 * draw + LETTERS.index(letter))
    seen = load_atlas("seen")[letter]
    masks = seen[torch.arange(count) % len(seen)]
    ink, ground = color_pairs(count, generator)
    return paint(jitter(masks, generator), RGB[ink], RGB[ground]).movedim(1, -1)


@functools.cache
def _test_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of every letter in every test font, float [N, 64, 64, 3], and their classes [N]."""
    masks = load_atlas(TEST_GROUP)
    pictures = paint_glyphs(masks.flatten(0, 1), torch.Generator().manual_seed(2207))
    return pictures.movedim(1, -1), torch.arange(len(LETTERS)).repeat(len(masks))


def strokes(images: torch.Tensor) -> torch.Tensor:
    """How far each pixel is from the ground's colour, about 0..1: [B, 1, 64, 64] of IMAGE.

    It makes every arm blind to colours, which are no part of the question.
    """
    pictures = images.float()
    if images.dtype == torch.uint8:
        pictures = pictures / 255
    border = torch.cat([pictures[:, :3].flatten(1, 2), pictures[:, -3:].flatten(1, 2)], 1)
    distance = (pictures - border.median(1).values[:, None, None]).norm(dim=3)
    farthest = distance.flatten(1).topk(80, dim=1).values.mean(1)
    return (distance / farthest.clamp_min(0.05).view(-1, 1, 1))[:, None]


def shrink(ink: torch.Tensor) -> torch.Tensor:
    """[B, 1, 64, 64] to the classifier's [B, 1, 32, 32]."""
    return F.avg_pool2d(ink, 2)


def augment(ink: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random other looks of the same letters, [B, 1, 64, 64] to [B, 1, 32, 32].

    Turned by up to 15 degrees, sheared by 0.3, each side stretched by 30 %, shifted by 4 pixels,
    bent by about 2; strokes up to a pixel and a half bolder or one thinner; blurred; noisy.
    """
    count = len(ink)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    angle, shear, x, y, dx, dy = ((uniform(count) * 2 - 1) for _ in range(6))
    angle = angle * 0.26
    shear = shear * 0.3
    stretch = torch.stack([torch.exp(0.26 * x), torch.exp(0.26 * y)], 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    slant = torch.eye(2).repeat(count, 1, 1)
    slant[:, 0, 1] = shear
    shift = torch.stack([dx, dy], 1)[:, :, None] * 0.125
    theta = torch.cat([turn @ slant * stretch[:, None], shift], 2)
    grid = F.affine_grid(theta, (count, 1, 32, 32), align_corners=False)
    bend = torch.randn(count, 2, 4, 4, generator=generator) * uniform(count, 1, 1, 1) * 0.08
    bend = F.interpolate(bend, (32, 32), mode="bicubic", align_corners=True)
    result = F.grid_sample(ink, grid + bend.movedim(1, -1), align_corners=False)

    weight = uniform(count, 1, 1, 1) * 1.6 - 0.8
    bold = F.max_pool2d(result, 3, 1, 1)
    thin = -F.max_pool2d(-result, 3, 1, 1)
    # Thinning a hairline would erase it: at most half way.
    result = torch.where(weight > 0, result.lerp(bold, weight), result.lerp(thin, -weight * 0.6))
    blur = uniform(count, 1, 1, 1) * (uniform(count, 1, 1, 1) < 0.5)
    result = result.lerp(F.avg_pool2d(result, 3, 1, 1), blur)
    noise = torch.randn(result.shape, generator=generator) * uniform(count, 1, 1, 1) * 0.08
    return result + noise


def build_classifier() -> nn.Module:
    """Four convolutions, [B, 1, 32, 32] to logits [B, 26]."""

    def block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *block(1, 16, 5, 2),
        *block(16, 32, 3, 1),
        nn.MaxPool2d(2),
        *block(32, 64, 3, 1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 16, len(LETTERS)),
    ).to(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=4)
def _frequent_strokes(draw: int) -> dict[str, torch.Tensor]:
    """Strokes of the frequent letters' real pictures, in colours that depend on the draw."""
    generator = torch.Generator().manual_seed(5077 * draw + 1)
    seen = load_atlas("seen")
    return {
        letter: strokes(paint_glyphs(seen[letter], generator).movedim(1, -1)) for letter in FREQUENT
    }


def training_data(
    n: int, reals: int, generated: torch.Tensor | None
) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """Strokes per class [count, 1, 64, 64], real and (rare classes only) generated."""
    frequent = _frequent_strokes(reals)
    real = [
        strokes(real_images(letter, n, reals)) if letter in RARE else frequent[letter]
        for letter in LETTERS
    ]
    made: list[torch.Tensor | None] = [None] * len(LETTERS)
    if generated is not None:
        for letter, images in zip(RARE, generated, strict=True):
            made[LETTERS.index(letter)] = strokes(images)
    return real, made


def train(
    real: list[torch.Tensor],
    made: list[torch.Tensor | None],
    augmented: bool,
    balanced: bool,
    adjusted: bool,
    draw: int,
    steps: int,
) -> nn.Module:
    """A classifier trained for ``steps`` batches; see `run` for the arms."""
    torch.manual_seed(31 * draw + 5)
    generator = torch.Generator().manual_seed(101 * draw + 3)
    model = build_classifier()
    counts = torch.tensor([len(images) for images in real])
    start = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)[:-1]])
    pool = torch.cat(real)
    has_made = torch.tensor([images is not None for images in made])
    if has_made.any():
        extra = torch.tensor([0 if images is None else len(images) for images in made])
        extra_start = len(pool) + torch.cat([torch.zeros(1).long(), extra.cumsum(0)[:-1]])
        pool = torch.cat([pool, *(images for images in made if images is not None)])
    chance = counts.float() ** (0.0 if balanced else 0.5 if adjusted else 1.0)
    # How often a class is drawn: added to the logits in the loss, left out when reading.
    prior = (chance / chance.sum()).log() if adjusted else torch.zeros(len(LETTERS))
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.2)
    for _ in range(steps):
        label = torch.multinomial(chance, BATCH, replacement=True, generator=generator)
        draws = torch.rand(2, BATCH, generator=generator)
        pick = start[label] + (draws[0] * counts[label]).long()
        if has_made.any():
            other = extra_start[label] + (draws[0] * extra[label]).long()
            pick = torch.where(has_made[label] & (draws[1] < GENERATED_SHARE), other, pick)
        ink = pool[pick]
        logits = model(augment(ink, generator) if augmented else shrink(ink)) + prior
        loss = F.cross_entropy(logits, label, label_smoothing=0 if adjusted else SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracies(read: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    """Shares of right readings; ``read`` gives one class per picture [B, 64, 64, 3]."""
    images, label = _test_images()
    right = torch.cat([read(chunk) for chunk in images.split(256)]) == label
    of_letter = {letter: right[label == k] for k, letter in enumerate(LETTERS)}
    letters = {letter: answers.float().mean().item() for letter, answers in of_letter.items()}
    return {
        "overall": right.float().mean().item(),
        "rare": sum(letters[letter] for letter in RARE) / len(RARE),
        "frequent": sum(letters[letter] for letter in FREQUENT) / len(FREQUENT),
        "letters": letters,
        "right": {letter: answers.int().tolist() for letter, answers in of_letter.items()},
    }


def run(
    arm: str,
    n: int,
    draw: int,
    plain: torch.Tensor | None = None,
    seedselect: torch.Tensor | None = None,
    reals: int = 0,
    quick: bool = False,
) -> dict:
    """Train and measure one classifier.

    Args:
        arm: one of `ARMS`.
        n: real pictures of each rare letter.
        draw: another draw has another initialisation and another order.
        plain: plain samples of the rare letters in the order of `RARE`, uint8 [8, M, 64, 64, 3];
            needed by the arm of that name alone.
        seedselect: the same from optimized seeds.
        reals: another number has other real pictures. Generated pictures that were made with some
            real pictures as references belong to those.
        quick: a quarter of the steps, to see that everything runs.

    Returns:
        "overall", "rare" and "frequent" accuracy, and "letters", accuracy of each, and
        "right", 0 or 1 for every test picture of each letter.

    Raises:
        ValueError: an unknown arm, or the arm's pictures are not given.
    """
    if arm not in ARMS:
        raise ValueError(f"There is no arm {arm!r}, only {ARMS}.")
    generated = {"plain": plain, "seedselect": seedselect}.get(arm)
    if arm == "more real":
        generated = [real_images(letter, n + MADE, reals)[n:] for letter in RARE]
    if arm == "seen fonts":
        generated = [known_glyphs(letter, MADE, reals) for letter in RARE]
    if generated is None and arm in ("plain", "seedselect"):
        raise ValueError(f"The arm {arm!r} needs its pictures: give {arm}=.")
    real, made = training_data(n, reals, generated)
    model = train(
        real,
        made,
        augmented=arm != "real",
        balanced=arm == "balanced" or generated is not None,
        adjusted=arm == "adjusted",
        draw=draw,
        steps=QUICK_STEPS if quick else STEPS,
    )
    return accuracies(lambda images: model(shrink(strokes(images))).argmax(1))


@torch.no_grad()
def nearest_centroid(encoder: Callable[[torch.Tensor], torch.Tensor], n: int, draw: int) -> dict:
    """Accuracies of the nearest class mean under ``encoder`` ([B, 64, 64, 3] to [B, D]).

    Classes have the same real pictures as in `run`; embeddings are of unit length.
    """
    generator = torch.Generator().manual_seed(5077 * draw + 1)
    seen = load_atlas("seen")
    centroids = []

    def embed(images: torch.Tensor) -> torch.Tensor:
        return F.normalize(encoder(images).float(), dim=1)

    for letter in LETTERS:
        if letter in RARE:
            images = real_images(letter, n, draw)
        else:
            images = paint_glyphs(seen[letter], generator).movedim(1, -1)
        centroids.append(F.normalize(embed(images).mean(0), dim=0))
    return accuracies(lambda images: (embed(images) @ torch.stack(centroids).T).argmax(1))
