"""Image encoders of other makes than the host's, and the input that takes either."""

from typing import Any

import folder_paths
from comfy_api.latest import io

from ..seedselect_core.likeness.encoders import ClipVisionEncoder, ImageEncoder
from ..seedselect_core.likeness.open_clip import OpenClipEncoder
from .sockets import EncoderType, inputs_checked

FOLDER = "clip_vision"


def encoder_input(tooltip: str) -> io.MultiType.Input:
    """The input 'clip_vision': the host's CLIP_VISION, or an encoder of this pack."""
    return io.MultiType.Input("clip_vision", types=[io.ClipVision, EncoderType], tooltip=tooltip)


def image_encoder(connected: Any) -> ImageEncoder:
    """What is connected to `encoder_input`, as an encoder."""
    return connected if isinstance(connected, OpenClipEncoder) else ClipVisionEncoder(connected)


class LoadOpenClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadOpenClip",
            display_name="Load OpenCLIP Encoder",
            category="SeedSelect",
            description=(
                "An image encoder of open_clip, for SeedSelect's nodes: connect it to clip_vision. "
                "Needs the Python package open_clip_torch."
            ),
            search_aliases=["open_clip", "laion", "clip vision", "seedselect"],
            inputs=[
                io.String.Input(
                    "architecture",
                    default="ViT-B-32",
                    tooltip="Its name in open_clip: ViT-B-32, ViT-L-14, ViT-H-14, convnext_base_w.",
                ),
                io.Combo.Input(
                    "checkpoint",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="Its weights, in models/clip_vision. Nothing is downloaded.",
                ),
            ],
            outputs=[
                EncoderType.Output(
                    "encoder", tooltip="For the input clip_vision of SeedSelect's nodes."
                )
            ],
        )

    @classmethod
    @inputs_checked
    def execute(cls, architecture, checkpoint) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise(FOLDER, checkpoint)
        return io.NodeOutput(OpenClipEncoder(architecture.strip(), path))
