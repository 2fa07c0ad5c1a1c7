"""Nodes for the model which ships with this pack, and for the references that ship with it."""

import torch
from comfy_api.latest import io

from ..pocket.drawing import LETTERS
from ..pocket.references import PER_LETTER, letter_pictures
from ..seedselect_core.pocket import load_pocket_model
from .sockets import inputs_checked


class LoadPocketModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadPocketModel",
            display_name="Load Pocket Model",
            category="SeedSelect",
            description=(
                "A tiny text-to-image model that ships with SeedSelect. It draws capital letters, "
                'as in "a red letter Q on yellow", 64 x 64 pixels, and draws the rare ones badly. '
                "For trying things out in seconds; all stock nodes work on it."
            ),
            search_aliases=["demo model", "letters", "seedselect"],
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The diffusion model."),
                io.Clip.Output(tooltip="The text encoder."),
                io.Vae.Output(tooltip="The autoencoder, 64 x 64 pixels to 8 x 8 latents."),
                io.ClipVision.Output(tooltip="The image encoder that compares with references."),
            ],
        )

    @classmethod
    @inputs_checked
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(*load_pocket_model())


class PocketReferences(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectPocketReferences",
            display_name="Pocket References",
            category="SeedSelect",
            description=(
                "Pictures of one letter in fonts and colours that the pocket model has not seen. "
                "They ship with SeedSelect. For 'Load Reference Set'."
            ),
            search_aliases=["demo references", "letters", "seedselect"],
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
