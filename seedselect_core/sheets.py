"""Pictures of pictures: the grid of a preview, the sheet of a sweep, the drawing of a report."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .likeness.losses import likeness
from .sets.diversity import DiversityReport, assign, differing_bins, kmeans
from .sets.sweep import Sweep

INK = "#22262B"
FAINT = "#6B7178"
LINE = "#D9DCE0"
BEST = "#1F7A3D"
CHARACTER = (8, 19)  # pixels that one takes in a caption, with its share of the space around
SET_COLORS = {"real": "#2F6DB5", "plain": "#9AA0A6", "generated": "#E07B28"}


def as_picture(image: torch.Tensor) -> Image.Image:
    """One picture [H, W, 3 or more] in 0..1; some VAEs go beyond."""
    pixels = (image[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.cpu().numpy())


def square(count: int) -> tuple[int, int]:
    """Columns and rows in which ``count`` pictures are nearly a square."""
    columns = math.ceil(math.sqrt(count))
    return columns, math.ceil(count / columns)


def draw_grid(images: torch.Tensor, background: str = "black") -> Image.Image:
    """All pictures [B, H, W, 3] in one."""
    columns, rows = square(len(images))
    height, width = images.shape[1:3]
    grid = Image.new("RGB", (columns * width, rows * height), background)
    for i, image in enumerate(images):
        grid.paste(as_picture(image), (i % columns * width, i // columns * height))
    return grid


def draw_curve(values: Sequence[float], goal: float, width: int) -> Image.Image:
    """A strip with the course of ``values`` from left to right, the best so far, and the goal.

    Args:
        values: cosines, at least one.
        goal: that of the references among themselves.
        width: of the strip in pixels.
    """
    height = max(48, width // 6)
    strip = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(strip)
    low = min(*values, goal)
    span = max(*values, goal) - low or 1.0
    margin = height / 8

    def place(number: int, value: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * number / max(1, len(values) - 1)
        return x, height - margin - (height - 2 * margin) * (value - low) / span

    draw.line([place(0, goal), (width - margin, place(0, goal)[1])], LINE, 2)
    best = itertools.accumulate(values, max)
    for color, course in ((FAINT, values), (BEST, best)):
        points = [place(number, value) for number, value in enumerate(course)]
        draw.line([*points, points[-1]], color, 2)
    return strip


def stacked(top: Image.Image, bottom: Image.Image) -> Image.Image:
    """One picture above another of the same width."""
    sheet = Image.new("RGB", (top.width, top.height + bottom.height))
    sheet.paste(top, (0, 0))
    sheet.paste(bottom, (0, top.height))
    return sheet


def captioned(picture: Image.Image, text: str) -> Image.Image:
    """A picture with a text below it, wrapped to its width; some is cut off where that is tiny."""
    width = max(16, picture.width // CHARACTER[0])
    lines = [part for line in text.split("\n") for part in wrap(line, width)]
    strip = Image.new("RGB", (picture.width, CHARACTER[1] * len(lines) + 10), "white")
    ImageDraw.Draw(strip).text((6, 4), "\n".join(lines), INK, ImageFont.load_default(14), spacing=3)
    return stacked(picture, strip)


# ---------------------------------------------------------------- the sweep


@dataclass(frozen=True)
class _Frame:
    """Where the cells of a sweep's sheet are, in pixels."""

    side: int
    tall: int
    left: int = 110
    top: int = 84
    gap: int = 14
    foot: int = 52

    def place(self, column: int, row: int) -> tuple[int, int]:
        """The upper left corner of a cell."""
        x = self.left + column * (self.side + self.gap)
        return x, self.top + row * (self.tall + self.foot)


def draw_sweep(sweep: Sweep, side: int = 256) -> Image.Image:
    """Contact sheet: a row a semantic weight, a column an appearance weight, losses below.

    Args:
        sweep: cells that are still missing are left blank.
        side: width of a cell's picture in pixels; its height follows the pictures' shape.
    """
    shape = next(iter(sweep.cells.values())).images.shape if sweep.cells else (1, 1, 1)
    columns, rows = square(shape[0])
    frame = _Frame(side, round(side * rows * shape[1] / (columns * shape[2])))
    size = frame.place(len(sweep.appearance_weights), len(sweep.semantic_weights))
    sheet = Image.new("RGB", size, "white")
    _draw_weights(ImageDraw.Draw(sheet), sweep, frame)
    done = [cell.losses for cell in sweep.cells.values() if cell.losses]
    least = [min(losses) for losses in zip(*done, strict=True)] if len(sweep.cells) > 1 else []
    for column, appearance in enumerate(sweep.appearance_weights):
        for row, semantic in enumerate(sweep.semantic_weights):
            _draw_cell(sheet, frame, frame.place(column, row), sweep, (semantic, appearance), least)
    return sheet


def _draw_weights(draw: ImageDraw.ImageDraw, sweep: Sweep, frame: _Frame) -> None:
    large = ImageFont.load_default(20)
    small = ImageFont.load_default(15)
    draw.text((frame.left, 10), "weight of how it looks", FAINT, large)
    draw.text((12, frame.top - 34), "weight of", FAINT, small)
    draw.text((12, frame.top - 17), "what it is", FAINT, small)
    for column, weight in enumerate(sweep.appearance_weights):
        x, _ = frame.place(column, 0)
        draw.text((x + frame.side / 2, 46), f"{weight:g}", INK, large, anchor="ma")
    for row, weight in enumerate(sweep.semantic_weights):
        _, y = frame.place(0, row)
        draw.text((12, y + frame.tall / 2), f"{weight:g}", INK, large, anchor="lm")


def _draw_cell(
    sheet: Image.Image,
    frame: _Frame,
    place: tuple[int, int],
    sweep: Sweep,
    pair: tuple[float, float],
    least: Sequence[float],
) -> None:
    """The pictures of one pair of weights at ``place``; the ``least`` of the losses stand out."""
    small = ImageFont.load_default(15)
    draw = ImageDraw.Draw(sheet)
    x, y = place
    cell = sweep.cells.get(pair)
    if cell is None:
        draw.rectangle([x, y, x + frame.side - 1, y + frame.tall - 1], outline=LINE)
        if pair == (0, 0):
            middle = (x + frame.side / 2, y + frame.tall / 2)
            draw.text(middle, "no loss", FAINT, small, anchor="mm")
        return
    grid = draw_grid(cell.images, "white")
    sheet.paste(ImageOps.fit(grid, (frame.side, frame.tall), Image.Resampling.BICUBIC), place)
    for line, loss in enumerate(cell.losses):
        told = (f"likeness {likeness(loss)}", f"distance of latents {loss:.3f}")[line]
        color = BEST if least and loss == least[line] else INK
        draw.text((x, y + frame.tall + 4 + 18 * line), told, color, small)


# ---------------------------------------------------------------- the diversity report


@dataclass(frozen=True)
class _Bins:
    """The bins that all real pictures make, largest first, and what falls to them.

    Attributes:
        centers: [K, D].
        of: for each set the bin of every picture.
        counts, shares: for each set, [K].
        order: the bins from the left to the right.
    """

    centers: torch.Tensor
    of: dict[str, torch.Tensor]
    counts: dict[str, torch.Tensor]
    shares: dict[str, torch.Tensor]
    order: list[int]


def _bins(bins: int, features: dict[str, torch.Tensor]) -> _Bins:
    centers = kmeans(features["real"], bins)
    of = {name: assign(vectors, centers) for name, vectors in features.items()}
    counts = {name: torch.bincount(b, minlength=bins) for name, b in of.items()}
    shares = {name: count / count.sum() for name, count in counts.items()}
    order = counts["real"].argsort(descending=True, stable=True).tolist()
    return _Bins(centers, of, counts, shares, order)


@dataclass(frozen=True)
class _Chart:
    """Where the parts of the report's drawing are, in pixels."""

    cell: int
    width: int
    side: int = 110
    height: int = 260
    bottom: int = 88 + 260

    @property
    def thumb(self) -> int:
        return self.cell - 8


def draw_report(
    report: DiversityReport,
    pictures: dict[str, Sequence[torch.Tensor]],
    features: dict[str, torch.Tensor],
) -> Image.Image:
    """Bars of the bins' shares, and under each bin its most typical picture of every set.

    The bins are made of all real pictures here, so that each of them is shown, largest first.
    A star marks a share that differs significantly from the real one.

    Args:
        pictures: of each set, "real" among them, n pictures [H, W, 3].
        features: [n, D] of the same.
    """
    bins = _bins(report.bins, features)
    cell = max(64, min(128, 1200 // report.bins))
    chart = _Chart(cell, max(110 + report.bins * cell + 16, 780))
    height = chart.bottom + 12 + len(pictures) * cell + 30
    sheet = Image.new("RGB", (chart.width, height), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_legend(draw, report)
    _draw_bars(draw, chart, bins)
    for row, (name, images) in enumerate(pictures.items()):
        _draw_typical(sheet, chart, row, name, _typical(bins, name, images, features[name]))
    note = "* differs significantly from the real share (5 % level)"
    draw.text((chart.side, height - 22), note, FAINT, ImageFont.load_default(14))
    return sheet


def _draw_legend(draw: ImageDraw.ImageDraw, report: DiversityReport) -> None:
    large = ImageFont.load_default(20)
    small = ImageFont.load_default(14)
    draw.text((16, 10), "Share of the pictures in every bin of look-alikes", INK, large)
    for i, (name, figures) in enumerate(report.sets.items()):
        left = 16 + i * 250
        draw.rectangle([left, 48, left + 14, 62], fill=SET_COLORS[name])
        draw.text((left + 20, 45), f"{name} ({figures.count})", INK, small)
        entropy = f"{figures.entropy:.2f} of {report.ceiling:.2f} bits, NDB {figures.ndb:.1f}"
        draw.text((left + 20, 63), entropy, FAINT, small)


def _draw_bars(draw: ImageDraw.ImageDraw, chart: _Chart, bins: _Bins) -> None:
    large = ImageFont.load_default(20)
    small = ImageFont.load_default(14)
    highest = max(float(share.max()) for share in bins.shares.values())
    scale = (chart.height - 24) / highest
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if highest / s <= 6)
    for tick in range(int(highest / step) + 1):
        y = chart.bottom - tick * step * scale
        draw.line([chart.side, y, chart.width - 16, y], fill=LINE)
        draw.text((chart.side - 8, y), f"{tick * step:.0%}", FAINT, small, anchor="rm")
    bar = (chart.cell - 12) / len(bins.shares)
    for column, place in enumerate(bins.order):
        for i, (name, share) in enumerate(bins.shares.items()):
            left = chart.side + column * chart.cell + 6 + i * bar
            top = chart.bottom - float(share[place]) * scale
            draw.rectangle([left, top, left + bar - 2, chart.bottom], fill=SET_COLORS[name])
            if differing_bins(bins.counts["real"], bins.counts[name])[place]:
                draw.text((left + bar / 2, top + 2), "*", INK, large, anchor="mb")


def _typical(
    bins: _Bins, name: str, images: Sequence[torch.Tensor], features: torch.Tensor
) -> list[Image.Image | None]:
    """For each bin in order the picture of a set that is nearest to its center, if it has any."""
    found = []
    for place in bins.order:
        members = (bins.of[name] == place).nonzero().flatten()
        if len(members) == 0:
            found.append(None)
            continue
        distance = (features[members] - bins.centers[place]).norm(dim=1)
        found.append(as_picture(images[int(members[distance.argmin()])]))
    return found


def _draw_typical(
    sheet: Image.Image,
    chart: _Chart,
    row: int,
    name: str,
    typical: Sequence[Image.Image | None],
) -> None:
    small = ImageFont.load_default(14)
    draw = ImageDraw.Draw(sheet)
    thumb = chart.thumb
    top = chart.bottom + 12 + row * chart.cell
    middle = top + thumb // 2
    draw.rectangle([16, middle - 6, 28, middle + 6], fill=SET_COLORS[name])
    draw.text((34, middle), name, INK, small, anchor="lm")
    for column, picture in enumerate(typical):
        left = chart.side + column * chart.cell + 4
        if picture is None:
            draw.rectangle([left, top, left + thumb - 1, top + thumb - 1], outline=LINE)
            draw.text((left + thumb / 2, top + thumb / 2), "none", FAINT, small, anchor="mm")
        else:
            sheet.paste(ImageOps.contain(picture, (thumb, thumb)), (left, top))
