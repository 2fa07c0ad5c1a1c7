"""Image encoders: the input that takes one, what stands in where none is connected, OpenCLIP."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import folder_paths
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.hands import toy_of
from ..seedselect_core.likeness.encoders import ClipVisionEncoder, ImageEncoder
from ..seedselect_core.likeness.open_clip import OpenClipEncoder
from ..seedselect_core.pocket import is_pocket, load_clip_vision
from ..seedselect_core.text import printable
from .sockets import EncoderType, inputs_checked

FOLDER = "clip_vision"
# What is looked for where nothing is connected, the first that is there. All but the second are in
# templates of the host; the second is that of IPAdapter.
KNOWN = (
    "sigclip_vision_patch14_384.safetensors",
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    "clip_vision_h.safetensors",
    "clip_vision_g.safetensors",
)
SOURCE = "https://huggingface.co/Comfy-Org/sigclip_vision_384"
# Names of the weight that makes an embedding of what CLIP has seen; SigLIP has none.
PROJECTIONS = ("visual_projection.weight", "visual.proj")


def encoder_input(name: str, tooltip: str) -> io.MultiType.Input:
    """An input for the host's CLIP_VISION, or an encoder of this pack."""
    kinds = [io.ClipVision, EncoderType]
    return io.MultiType.Input(name, types=kinds, optional=True, tooltip=tooltip)


def image_encoder(
    connected: Any, model: Any = None, tell: Callable[[str], None] = lambda text: None
) -> ImageEncoder:
    """What is connected to `encoder_input`, or else a known one, as an encoder.

    Args:
        model: the MODEL that draws; the toy model has an encoder of its own.
        tell: gets a sentence for the user that says which was found.

    Raises:
        SeedSelectError: nothing is connected, and there is no known file.
    """
    if isinstance(connected, OpenClipEncoder):
        return connected
    if connected is None:
        if model is not None and is_pocket(model):
            name, connected = "that of the toy model", load_clip_vision(toy_of(model))
        else:
            name, connected = _known()
        tell(f"Image encoder: {name}")
        logging.info("SeedSelect: image encoder %s", printable(name))
    return ClipVisionEncoder(connected)


def _known() -> tuple[str, Any]:
    """The first known file of the host's folders that makes embeddings, and what it holds."""
    there = {Path(name).name: name for name in reversed(folder_paths.get_filename_list(FOLDER))}
    for known in KNOWN:
        if known not in there:
            continue
        path = folder_paths.get_full_path_or_raise(FOLDER, there[known])
        found = comfy.clip_vision.load(path) if _embeds(path) else None
        if found is not None:
            return there[known], found
        logging.warning("SeedSelect: %s holds no image encoder of use.", printable(path))
    raise SeedSelectError(
        f"clip_vision: nothing is connected, and no known image encoder was found. Put {KNOWN[0]} "
        f"(from {SOURCE}) into ComfyUI's models/{FOLDER}, or connect 'Load CLIP Vision'."
    )


def _embeds(path: str) -> bool:
    """Whether a file holds all that makes an embedding: the host would make up what is missing."""
    try:
        with safe_open(path, "pt") as file:
            names = set(file.keys())
    except (OSError, SafetensorError):
        return False
    return Path(path).name.startswith("sigclip") or not names.isdisjoint(PROJECTIONS)


class LoadOpenClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadOpenClip",
            display_name="Load OpenCLIP Encoder",
            category="SeedSelect/loaders",
            description=(
                "An image encoder of open_clip, for SeedSelect's nodes: connect it to clip_vision. "
                "Needs the Python package open_clip_torch."
            ),
            search_aliases=["open_clip", "laion", "clip vision", "image encoder", "seedselect"],
            is_experimental=True,
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
