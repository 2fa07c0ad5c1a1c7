"""What semantic and appearance loss cost each other: one noise, optimized under many weights.

Every cell starts from the same noise and differs from the others in nothing but the two weights, so
that their figures, which are the losses without their weights, can be compared.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import SeedSelectError
from .optimize import optimize_seed
from .search import Progress
from .seed import Seed
from .settings import Settings
from .vae_codec import host_pictures

INK, FAINT, LINE, BEST = "#22262B", "#6B7178", "#D9DCE0", "#1F7A3D"
EXAMPLE = "Write numbers of 0 or more with commas between them, for example 0, 1, 10."


@dataclass(frozen=True)
class Cell:
    """What one pair of weights led to.

    Attributes:
        images: [B, H, W, 3] in 0..1, the best picture of every seed.
        losses: semantic and appearance loss of those pictures without their weights, mean of the
            seeds; empty while the cell is under way.
    """

    images: torch.Tensor
    losses: tuple[float, ...] = ()


@dataclass
class Sweep:
    """Cells by their weights, (semantic, appearance); a pair of zeros has none."""

    semantic_weights: Sequence[float]
    appearance_weights: Sequence[float]
    cells: dict[tuple[float, float], Cell] = field(default_factory=dict)

    def pairs(self) -> list[tuple[float, float]]:
        """All pairs in which one of the losses counts, row by row."""
        every = [(s, a) for s in self.semantic_weights for a in self.appearance_weights]
        return [pair for pair in every if pair != (0, 0)]

    def images(self) -> torch.Tensor:
        """The pictures of all cells, [n, H, W, 3], row by row."""
        return torch.cat([self.cells[pair].images for pair in self.pairs()])

    def table(self) -> str:
        """The figures as text, a cell a line."""
        # Short enough for a node of usual width.
        lines = ["sem. weight  app. weight  sem. loss  app. loss"]
        for (semantic, appearance), cell in self.cells.items():
            losses = f"{cell.losses[0]:9.4f}  {cell.losses[1]:9.4f}"
            lines.append(f"{semantic:11g}  {appearance:11g}  {losses}")
        return "\n".join(lines)


def parse_weights(name: str, text: str) -> tuple[float, ...]:
    """Numbers of 0 or more out of "0, 0.3, 1"; ``name`` is the input's, for the message."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise SeedSelectError(f"{name}: '{text}' is no list of numbers. {EXAMPLE}") from None
    for number in numbers:
        if not 0 <= number < math.inf:
            raise SeedSelectError(f"{name}: a weight cannot be {number:g}. {EXAMPLE}")
    if len(set(numbers)) < len(numbers):
        raise SeedSelectError(f"{name}: '{text}' holds a number twice. {EXAMPLE}")
    return tuple(numbers)


def run_sweep(
    semantic_weights: Sequence[float],
    appearance_weights: Sequence[float],
    settings: Settings,
    *,
    on_progress: Callable[[Progress, Sweep, tuple[float, float]], None] | None = None,
    on_unfinished: Callable[[Seed], None] | None = None,
    **inputs,
) -> Sweep:
    """Optimize the same noise under every pair of weights.

    Args:
        settings: all but the two weights.
        on_progress: called after every denoising step, with the cells that are done and the
            weights of the one under way.
        on_unfinished: gets the noise of all cells so far when the run ends by an error or Cancel.
        inputs: all others of `optimize_seed`, by name.

    Raises:
        SeedSelectError: as `optimize_seed`; or there is no pair in which one of the losses counts.
    """
    sweep = Sweep(semantic_weights, appearance_weights)
    if not sweep.pairs():
        raise SeedSelectError(
            "semantic_weights, appearance_weights: both are 0, so nothing pulls the noise "
            "anywhere. Give one of the two lists a number greater than 0."
        )
    found: list[Seed] = []  # of all cells so far, at last the best of the one under way

    try:
        for pair in sweep.pairs():
            seed, drawn, history = optimize_seed(
                **inputs,
                settings=replace(settings, semantic_weight=pair[0], appearance_weight=pair[1]),
                on_progress=on_progress and (lambda p, pair=pair: on_progress(p, sweep, pair)),
                on_unfinished=found.append,
            )
            found.append(seed)
            # The row of the history that each seed's best noise comes from.
            places = [
                max(row for row, totals in enumerate(history.total) if totals[i] == total)
                for i, total in enumerate(seed.total)
            ]
            appearance = [history.appearance[row][i] for i, row in enumerate(places)]
            sweep.cells[pair] = Cell(
                host_pictures(inputs["vae"], drawn["samples"]).cpu(),
                (sum(seed.semantic) / len(seed.semantic), sum(appearance) / len(appearance)),
            )
    except BaseException:
        if found and on_unfinished is not None:
            on_unfinished(found[-1].with_noise(torch.cat([seed.noise for seed in found])))
        raise
    return sweep


def draw_sheet(sweep: Sweep, side: int = 256) -> Image.Image:
    """Contact sheet: a row a semantic weight, a column an appearance weight, losses below.

    Args:
        sweep: cells that are still missing are left blank.
        side: width of a cell's picture in pixels; its height follows the pictures' shape.
    """
    large, small = ImageFont.load_default(20), ImageFont.load_default(15)
    cells = sweep.cells
    shape = next(iter(cells.values())).images.shape if cells else (1, 1, 1)
    tall = round(side * _tiled(shape)[1] / _tiled(shape)[0])
    left, top, gap, foot = 110, 84, 14, 52
    wide, high = side + gap, tall + foot
    columns, rows = sweep.appearance_weights, sweep.semantic_weights
    sheet = Image.new("RGB", (left + len(columns) * wide, top + len(rows) * high), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 10), "appearance weight", FAINT, large)
    draw.text((12, top - 34), "semantic", FAINT, small)
    draw.text((12, top - 17), "weight", FAINT, small)
    done = [cell.losses for cell in cells.values() if cell.losses]
    least = [min(losses) for losses in zip(*done, strict=True)]
    for column, appearance in enumerate(columns):
        x = left + column * wide
        draw.text((x + side / 2, 46), f"{appearance:g}", INK, large, anchor="ma")
        for row, semantic in enumerate(rows):
            y = top + row * high
            if column == 0:
                draw.text((12, y + tall / 2), f"{semantic:g}", INK, large, anchor="lm")
            cell = cells.get((semantic, appearance))
            if cell is None:
                draw.rectangle([x, y, x + side - 1, y + tall - 1], outline=LINE)
                if semantic == appearance == 0:
                    draw.text((x + side / 2, y + tall / 2), "no loss", FAINT, small, anchor="mm")
                continue
            picture = ImageOps.fit(_grid(cell.images), (side, tall), Image.Resampling.BICUBIC)
            sheet.paste(picture, (x, y))
            for line, loss in enumerate(cell.losses):
                name = ("semantic", "appearance")[line]
                colour = BEST if loss == least[line] and len(cells) > 1 else INK
                draw.text((x, y + tall + 4 + 18 * line), f"{name} {loss:.4f}", colour, small)
    return sheet


def _tiled(shape: Sequence[int]) -> tuple[int, int, int]:
    """Width and height of pictures [B, H, W, ..] laid out in a square, and columns."""
    columns = math.ceil(math.sqrt(shape[0]))
    return columns * shape[2], math.ceil(shape[0] / columns) * shape[1], columns


def _grid(images: torch.Tensor) -> Image.Image:
    """All pictures [B, H, W, 3] in one."""
    width, height, columns = _tiled(images.shape)
    grid = Image.new("RGB", (width, height), "white")
    for i, image in enumerate((images.float().clamp(0, 1) * 255).round().to(torch.uint8)):
        place = (i % columns * image.shape[1], i // columns * image.shape[0])
        grid.paste(Image.fromarray(image.numpy()), place)
    return grid
