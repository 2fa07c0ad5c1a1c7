"""The node that tells how various pictures are, beside real ones."""

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.likeness.encoders import ImageEncoder, unit_embeddings
from ..seedselect_core.memory.failures import with_room
from ..seedselect_core.references import Fitted, combine, reference_set_from_batch
from ..seedselect_core.sets.diversity import DiversityReport, diversity_report
from ..seedselect_core.sheets import draw_report
from ..seedselect_core.text import printable_lines
from .encoders import encoder_input, image_encoder
from .inputs import only
from .sockets import ReferenceSetType, inputs_checked

BATCH = 16  # pictures that are compared at a time


class DiversityReportNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectDiversityReport",
            display_name="How Varied Are They?",
            category="SeedSelect/search",
            description=(
                "Are generated pictures as various as real ones? Sorts both into bins of "
                "look-alikes and compares the bins' shares: entropy and NDB, beside what real "
                "pictures reach."
            ),
            search_aliases=[
                *("diversity report", "entropy", "ndb", "mode collapse", "variety", "seedselect"),
            ],
            inputs=[
                io.Image.Input(
                    "generated", tooltip="Pictures to judge, a batch or a list of 8 or more."
                ),
                ReferenceSetType.Input(
                    "references",
                    tooltip="Real pictures of the concept: 4 at least, 40 for figures to rely on.",
                ),
                encoder_input(
                    "clip_vision",
                    "Tells what looks alike; best another one than the search's. Not connected: a "
                    "known one in models/clip_vision.",
                ),
                io.Image.Input(
                    "plain", optional=True, tooltip="Pictures of plain sampling, to compare with."
                ),
                io.Int.Input(
                    "bins",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Bins that the real pictures make; 0 chooses by their number.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.String.Output("report", tooltip="The figures as text."),
                io.Image.Output("picture", tooltip="Shares of the bins, with a picture of each."),
            ],
            is_output_node=True,
            is_input_list=True,  # a list of pictures is one set, not many reports
        )

    @classmethod
    @inputs_checked
    def execute(cls, generated, references, bins, clip_vision=None, plain=None) -> io.NodeOutput:
        connected = None if clip_vision is None else only("clip_vision", clip_vision)
        encoder = image_encoder(connected)
        made = pictures_of("generated", generated)
        pictures = {"real": only("references", references).fitted(made.width, made.height)}
        if plain is not None:
            pictures["plain"] = pictures_of("plain", plain)
        pictures["generated"] = made
        text, picture = with_room(
            _report,
            (pictures, encoder, only("bins", bins)),
            where="comparing the pictures",
            remedy="Give fewer or smaller pictures.",
        )
        return io.NodeOutput(text, picture, ui=ui.PreviewText(printable_lines(text)))


def _report(
    pictures: dict[str, Fitted], encoder: ImageEncoder, bins: int
) -> tuple[str, torch.Tensor]:
    features = {name: _features(encoder, images) for name, images in pictures.items()}
    report = diversity_report(features["real"], features["generated"], features.get("plain"), bins)
    drawing = draw_report(report, pictures, features)
    picture = torch.from_numpy(np.asarray(drawing).astype(np.float32) / 255)[None]
    return report_text(report), picture


def pictures_of(name: str, images: list) -> Fitted:
    """The pictures of all IMAGEs of a list, each at the size of the first."""
    if not images:
        raise SeedSelectError(f"{name}: the list is empty. Check the node that it comes from.")
    sets = [reference_set_from_batch(each, name=name) for each in images]
    height, width = images[0].shape[1:3]
    return combine(*sets).fitted(width, height)


def _features(encoder: ImageEncoder, pictures: Fitted) -> torch.Tensor:
    """[n, D], of so many pictures at a time as memory is sure to hold."""
    parts = [pictures[first : first + BATCH] for first in range(0, len(pictures), BATCH)]
    return torch.cat([unit_embeddings(encoder, torch.stack(part)) for part in parts])


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
