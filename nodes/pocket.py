"""Nodes for the models which ship with this pack, and for the references that ship with them."""

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..pocket.drawing import LETTERS
from ..pocket.hands.references import PER_VIEW, hand_pictures
from ..pocket.hands.words import GESTURES, SIDES, VIEWS
from ..pocket.references import PER_LETTER, letter_pictures
from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.hands import TOYS
from ..seedselect_core.pocket import load_pocket_model, load_second_vision
from .sockets import inputs_checked

FIRST = "letters"


def _require_one_of(options: Sequence[str], **given: Any) -> None:
    """The host looks at what a widget says, and not at what comes by a link."""
    for name, value in given.items():
        if value not in options:
            raise SeedSelectError(f"{name}: must be one of {', '.join(options)}.")


class LoadPocketModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadPocketModel",
            display_name="Load Toy Model",
            category="SeedSelect/toy model",
            description=(
                "A tiny text-to-image model that ships with SeedSelect. It draws 64 x 64 pixels, "
                'capital letters, as in "a red letter Q on yellow", or hands, as in "a left hand, '
                'palm, horns, on blue", and draws the rare ones badly. '
                "For trying things out in seconds; all stock nodes work on it."
            ),
            search_aliases=["pocket model", "demo model", "letters", "hands", "seedselect"],
            inputs=[
                io.Combo.Input(
                    "world",
                    options=list(TOYS),
                    default=FIRST,
                    # Prompts that were saved before there was a choice name none.
                    optional=True,
                    tooltip="What it draws: capital letters, or hands that show a gesture.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The diffusion model."),
                io.Clip.Output(tooltip="The text encoder."),
                io.Vae.Output(tooltip="The autoencoder, for 64 x 64 pixels."),
                io.ClipVision.Output(tooltip="The image encoder that compares with references."),
                io.ClipVision.Output(
                    "second_vision",
                    tooltip="Another one, which learned from pictures alone: a second opinion.",
                ),
            ],
        )

    @classmethod
    @inputs_checked
    def execute(cls, world=FIRST) -> io.NodeOutput:
        _require_one_of(list(TOYS), world=world)
        toy = TOYS[world]
        return io.NodeOutput(*load_pocket_model(toy), load_second_vision(toy))


class PocketReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectPocketReferences",
            display_name="Toy References (Letters)",
            category="SeedSelect/toy model",
            description=(
                "Pictures of one letter in fonts and colours that the toy model has not seen. "
                "They ship with SeedSelect. For 'Load Reference Set'."
            ),
            search_aliases=["pocket references", "demo references", "letters", "seedselect"],
            inputs=[
                io.Combo.Input(
                    "letter",
                    options=list(LETTERS),
                    default="S",
                    tooltip="The letter that the prompt asks for. S, C, P and K are the rarest.",
                ),
                io.Int.Input(
                    "count",
                    default=4,
                    min=1,
                    max=PER_LETTER,
                    tooltip="How many of the pictures to take, each in another font.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="For 'Load Reference Set', 64 x 64 each.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, letter, count) -> io.NodeOutput:
        pictures = torch.from_numpy(letter_pictures(letter, count))
        return io.NodeOutput(pictures.float() / 255)


class HandReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectHandReferences",
            display_name="Toy References (Hands)",
            category="SeedSelect/toy model",
            description=(
                "Pictures of one hand, in poses and skins that the toy model has not seen. "
                "They ship with SeedSelect. For 'Load Reference Set'."
            ),
            search_aliases=["demo references", "hands", "fingers", "gestures", "seedselect"],
            inputs=[
                io.Combo.Input(
                    "gesture",
                    options=list(GESTURES),
                    default="point",
                    tooltip=(
                        "The gesture that the prompt asks for: which fingers are extended. eight, "
                        "point, open six and shaka are the rarest."
                    ),
                ),
                io.Combo.Input(
                    "side",
                    options=list(SIDES),
                    default=SIDES[1],
                    tooltip="The hand that the prompt asks for, left or right.",
                ),
                io.Combo.Input(
                    "view",
                    options=list(VIEWS),
                    default=VIEWS[0],
                    tooltip="What the prompt asks for: the palm, or the back of the hand.",
                ),
                io.Int.Input(
                    "count",
                    default=PER_VIEW,
                    min=1,
                    max=PER_VIEW,
                    tooltip="How many of the pictures to take, each of another pose and skin.",
                ),
            ],
            outputs=[io.Image.Output("images", tooltip="For 'Load Reference Set', 64 x 64 each.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, gesture, side, view, count) -> io.NodeOutput:
        _require_one_of(GESTURES, gesture=gesture)
        _require_one_of(SIDES, side=side)
        _require_one_of(VIEWS, view=view)
        pictures = torch.from_numpy(hand_pictures(gesture, side, view, count))
        return io.NodeOutput(pictures.float() / 255)
