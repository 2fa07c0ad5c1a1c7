"""The node that tells how various pictures are, beside real ones."""

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..seedselect_core.diversity import (
    DiversityReport,
    assign,
    differing_bins,
    diversity_report,
    kmeans,
)
from ..seedselect_core.encoders import unit_embeddings
from .encoders import encoder_input, image_encoder
from .types import ReferenceSetType

COLOURS = {"real": "#2F6DB5", "plain": "#9AA0A6", "generated": "#E07B28"}
INK, FAINT, LINE = "#22262B", "#6B7178", "#D9DCE0"


class DiversityReportNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectDiversityReport",
            display_name="Diversity Report",
            category="SeedSelect",
            description=(
                "Are generated pictures as various as real ones? Sorts both into bins of "
                "look-alikes and compares the bins' shares: entropy and NDB, beside what real "
                "pictures reach."
            ),
            search_aliases=["diversity", "entropy", "ndb", "mode collapse", "seedselect"],
            inputs=[
                io.Image.Input("generated", tooltip="Pictures to judge, a batch of 8 or more."),
                ReferenceSetType.Input(
                    "references",
                    tooltip="Real pictures of the concept: 4 at least, 40 for figures to rely on.",
                ),
                encoder_input("Tells what looks alike; best another one than the optimization's."),
                io.Image.Input(
                    "plain", optional=True, tooltip="Pictures of plain sampling, to compare with."
                ),
                io.Int.Input(
                    "bins",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Bins that the real pictures make; 0 chooses by their number.",
                ),
            ],
            outputs=[
                io.String.Output("report", tooltip="The figures as text."),
                io.Image.Output("picture", tooltip="Shares of the bins, with a picture of each."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, generated, references, clip_vision, bins, plain=None) -> io.NodeOutput:
        encoder = image_encoder(clip_vision)
        pictures = {"real": references.resized(generated.shape[2], generated.shape[1])}
        if plain is not None:
            pictures["plain"] = plain
        pictures["generated"] = generated
        features = {name: unit_embeddings(encoder, images) for name, images in pictures.items()}
        report = diversity_report(
            features["real"], features["generated"], features.get("plain"), bins
        )
        text = report_text(report)
        drawing = draw_report(report, pictures, features)
        picture = torch.from_numpy(np.asarray(drawing).astype(np.float32) / 255)[None]
        return io.NodeOutput(text, picture, ui=ui.PreviewText(text))


def report_text(report: DiversityReport) -> str:
    """The figures, a line for each set of pictures."""
    lines = [
        f"{report.bins} bins, entropy at most {report.ceiling:.2f} bits. {report.compared} "
        f"pictures of each set against {report.fitted} real ones, mean of {report.splits} random "
        "halves. Read every figure beside that of the real pictures."
    ]
    for name, figures in report.sets.items():
        line = (
            f"{name}: entropy {figures.entropy:.2f} bits, NDB {figures.ndb:.2f}, "
            f"mean distance {figures.pairwise:.3f}, "
            f"to the nearest real {figures.nearest_real:.3f}, "
            f"{figures.duplicates} of {figures.count} near-duplicates"
        )
        if figures.copies is not None:
            line += f", {figures.copies} near-copies of a real picture"
        lines.append(line)
    return "\n".join([*lines, *(f"Note: {note}" for note in report.notes)])


def draw_report(
    report: DiversityReport, pictures: dict[str, torch.Tensor], features: dict[str, torch.Tensor]
) -> Image.Image:
    """Bars of the bins' shares, and under each bin its most typical picture of every set.

    The bins are made of all real pictures here, so that each of them is shown, largest first.
    A star marks a share that differs significantly from the real one.
    """
    centres = kmeans(features["real"], report.bins)
    bin_of = {name: assign(vectors, centres) for name, vectors in features.items()}
    counts = {name: torch.bincount(b, minlength=report.bins) for name, b in bin_of.items()}
    order = counts["real"].argsort(descending=True, stable=True).tolist()
    shares = {name: count / count.sum() for name, count in counts.items()}

    cell = max(64, min(128, 1200 // report.bins))
    thumb, side, head, chart = cell - 8, 110, 88, 260
    bottom = head + chart
    width = max(side + report.bins * cell + 16, 780)
    sheet = Image.new("RGB", (width, bottom + 12 + len(pictures) * cell + 30), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(20), ImageFont.load_default(14)
    draw.text((16, 10), "Share of the pictures in every bin of look-alikes", INK, large)
    for i, (name, figures) in enumerate(report.sets.items()):
        left = 16 + i * 250
        draw.rectangle([left, 48, left + 14, 62], fill=COLOURS[name])
        draw.text((left + 20, 45), f"{name} ({figures.count})", INK, small)
        told = f"{figures.entropy:.2f} of {report.ceiling:.2f} bits, NDB {figures.ndb:.1f}"
        draw.text((left + 20, 63), told, FAINT, small)

    highest = max(float(share.max()) for share in shares.values())
    scale = (chart - 24) / highest
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if highest / s <= 6)
    for tick in range(int(highest / step) + 1):
        y = bottom - tick * step * scale
        draw.line([side, y, width - 16, y], fill=LINE)
        draw.text((side - 8, y), f"{tick * step:.0%}", FAINT, small, anchor="rm")
    bar = (cell - 12) / len(pictures)
    for column, place in enumerate(order):
        for i, name in enumerate(pictures):
            left = side + column * cell + 6 + i * bar
            top = bottom - float(shares[name][place]) * scale
            draw.rectangle([left, top, left + bar - 2, bottom], fill=COLOURS[name])
            if differing_bins(counts["real"], counts[name])[place]:
                draw.text((left + bar / 2, top + 2), "*", INK, large, anchor="mb")

    for row, (name, images) in enumerate(pictures.items()):
        top = bottom + 12 + row * cell
        draw.rectangle([16, top + thumb // 2 - 6, 28, top + thumb // 2 + 6], fill=COLOURS[name])
        draw.text((34, top + thumb // 2), name, INK, small, anchor="lm")
        for column, place in enumerate(order):
            left = side + column * cell + 4
            members = (bin_of[name] == place).nonzero().flatten()
            if len(members) == 0:
                draw.rectangle([left, top, left + thumb - 1, top + thumb - 1], outline=LINE)
                draw.text((left + thumb / 2, top + thumb / 2), "none", FAINT, small, anchor="mm")
                continue
            distance = (features[name][members] - centres[place]).norm(dim=1)
            typical = images[members[distance.argmin()], ..., :3].float().clamp(0, 1).cpu()
            image = Image.fromarray((typical * 255).round().to(torch.uint8).numpy())
            sheet.paste(ImageOps.contain(image, (thumb, thumb)), (left, top))
    told = "* differs significantly from the real share (5 % level)"
    draw.text((side, sheet.height - 22), told, FAINT, small)
    return sheet
