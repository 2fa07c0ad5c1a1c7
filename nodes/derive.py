"""Nodes that make seeds of seeds: some of a batch, two batches in one, other sizes, variations."""

import math

import comfy.latent_formats
import torch
from comfy_api.latest import io

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.geometry import resized, rotate_towards
from ..seedselect_core.seeds.seed import Seed
from .explore import joined, require_room
from .sockets import SeedType, inputs_checked

EXAMPLE = "0, 2, 5-7"


def places_of(text: str, count: int) -> list[int]:
    """Places in a batch of ``count``: numbers from 0 and ranges, with commas between.

    Raises:
        SeedSelectError: it is none, or leads out of the batch.
    """
    places = []
    for part in text.split(","):
        first, dash, last = (each.strip() for each in part.partition("-"))
        ends = [first, last if dash else first]
        if not all(end.isdecimal() and len(end) < 10 for end in ends):
            raise SeedSelectError(
                f"pictures: '{part.strip()}' is no number or range. Write them as in {EXAMPLE}."
            )
        first, last = map(int, ends)
        if not first <= last < count:
            raise SeedSelectError(
                f"pictures: '{part.strip()}' is not in the batch, which goes from 0 to {count - 1}."
            )
        places += range(first, last + 1)
    return places


def best_of(seed: Seed, count: int) -> list[int]:
    """Places of the ``count`` pictures that are most like the references, the best first."""
    if not seed.semantic:
        raise SeedSelectError(
            "seed: how like the references its pictures are is not known. Name some in 'pictures'."
        )
    return sorted(range(len(seed.semantic)), key=seed.semantic.__getitem__)[:count]


def generator_of(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def number_input() -> io.Int.Input:
    return io.Int.Input(
        "number",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="Where the noise that is added comes from: another number adds other noise.",
    )


class PickSeeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectPickSeeds",
            display_name="Pick Seeds",
            category="SeedSelect/seeds",
            description="Some of a batch of seeds: the best, or those that you name.",
            search_aliases=["best of n", "select seed", "seed from batch", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="A seed of a batch of pictures."),
                io.Int.Input(
                    "best",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="So many, the most like the references first.",
                ),
                io.String.Input(
                    "pictures",
                    default="",
                    tooltip=f"Or these, counted from 0 as in Latent From Batch: {EXAMPLE}.",
                ),
            ],
            outputs=[SeedType.Output("seed", tooltip="A seed of those pictures alone.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, best, pictures) -> io.NodeOutput:
        places = places_of(pictures, len(seed.noise)) if pictures.strip() else best_of(seed, best)
        require_room("pictures", len(places), seed.noise[0].numel())
        return io.NodeOutput(seed.take(places))


class JoinSeeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectJoinSeeds",
            display_name="Join Seeds",
            category="SeedSelect/seeds",
            description="Two batches of seeds in one.",
            search_aliases=["batch seeds", "concatenate seeds", "merge seeds", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="What comes first; its settings are kept."),
                SeedType.Input(
                    "other_seed", tooltip="What follows, of the same model, size and settings."
                ),
            ],
            outputs=[SeedType.Output("seed", tooltip="A seed of all the pictures.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, other_seed) -> io.NodeOutput:
        noise = joined(seed, other_seed, ("seed", "other_seed"))
        require_room("other_seed", len(noise), noise[0].numel())
        return io.NodeOutput(seed.joined(other_seed))


class ResizeSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectResizeSeed",
            display_name="Resize Seed",
            category="SeedSelect/seeds",
            description=(
                "The same composition at another size. The noise stays Gaussian, which no "
                "interpolation of it does: a larger picture draws more detail, a smaller one less."
            ),
            search_aliases=["upscale noise", "resize noise", "noise warping", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="A seed of any size."),
                io.Int.Input(
                    "width",
                    default=1024,
                    min=16,
                    max=16384,
                    step=8,
                    tooltip="Pixels. Another shape stretches the composition.",
                ),
                io.Int.Input("height", default=1024, min=16, max=16384, step=8, tooltip="Pixels."),
                number_input(),
            ],
            outputs=[SeedType.Output("seed", tooltip="A seed for pictures of that size.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, width, height, number) -> io.NodeOutput:
        # Of a latent format that this host does not know, as of most that it does.
        known = getattr(comfy.latent_formats, seed.latent_format, None)
        ratio = getattr(known, "spacial_downscale_ratio", 8)
        height, width = (max(1, side // ratio) for side in (height, width))
        values = seed.noise[0, ..., 0, 0].numel() * height * width
        require_room("width, height", len(seed.noise), values)
        noise = resized(seed.noise, height, width, generator_of(number))
        return io.NodeOutput(seed.with_noise(noise))


class SeedVariation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSeedVariation",
            display_name="Seed Variation",
            category="SeedSelect/seeds",
            description="Variations: a step from the found noise towards other Gaussian noise.",
            search_aliases=["variation", "variation seed", "subseed", "seed travel", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="A seed of one picture or a batch."),
                io.Float.Input(
                    "angle",
                    default=20.0,
                    min=0.0,
                    max=90.0,
                    step=1.0,
                    tooltip="Degrees: 0 is the seed itself, 90 leaves nothing of it.",
                ),
                io.Int.Input(
                    "count", default=4, min=1, max=1024, tooltip="Variations of each picture."
                ),
                number_input(),
            ],
            outputs=[SeedType.Output("seed", tooltip="A batch of all the variations.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, angle, count, number) -> io.NodeOutput:
        require_room("count", len(seed.noise) * count, seed.noise[0].numel())
        noise = seed.noise.repeat_interleave(count, dim=0)
        fresh = torch.randn(noise.shape, generator=generator_of(number))
        return io.NodeOutput(seed.with_noise(rotate_towards(noise, fresh, math.radians(angle))))
