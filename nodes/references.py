"""Nodes that load reference pictures."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from server import PromptServer

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.references import (
    CROPS,
    ORDERS,
    ReferenceSet,
    combine,
    list_image_files,
    load_reference_folder,
    parse_color,
    reference_set_from_batch,
    resolve_folder,
    stamp,
)
from ..seedselect_core.text import printable, printable_lines
from .folders import below
from .inputs import only
from .previews import previewed
from .sockets import ReferenceSetType, inputs_checked

NO_FOLDER = "(none)"
PREVIEW_SIZE = 512
SHOWN = 10  # warnings below the node; the console has all


def _input_folders() -> list[str]:
    """Folders under the host's input directory at any depth, as relative paths with slashes."""
    return sorted(folder for folder, _ in below(folder_paths.get_input_directory()) if folder)


def _resolve(folder: Any) -> Path:
    if not isinstance(folder, str):  # the host lets anything come over the API
        raise SeedSelectError(
            f"folder: expected the name of a folder, got {type(folder).__name__}. Choose one of "
            "the list."
        )
    root = folder_paths.get_input_directory()
    return resolve_folder(Path(root) / folder, [root])


def sets_of_lists(images: list, masks: list | None, **options) -> list[ReferenceSet]:
    """A set for each IMAGE of a list, which may be of different sizes, with its MASK."""
    if not images:
        raise SeedSelectError(
            "images: the list is empty. Check the node that it comes from, or disconnect it."
        )
    masks = masks or [None]
    if len(masks) == 1:
        masks = masks * len(images)
    if len(masks) != len(images):
        raise SeedSelectError(
            f"mask: a list of {len(masks)} came, but {len(images)} images. Connect the MASK that "
            "comes with them."
        )
    return [
        reference_set_from_batch(each, mask=mask, **options)
        for each, mask in zip(images, masks, strict=True)
    ]


def _picture_inputs() -> list:
    """How pictures are fitted, and which of a folder are taken."""
    return [
        io.Combo.Input(
            "crop",
            options=list(CROPS),
            default="center",
            tooltip=(
                "How a picture of another shape is made to fit: center cuts off what "
                "sticks out, pad shows all of it on the background, stretch distorts it."
            ),
        ),
        io.Color.Input(
            "background",
            default="#FFFFFF",
            tooltip="Shown through transparent parts, and around padded pictures.",
        ),
        io.Int.Input(
            "limit",
            default=5,
            min=1,
            max=64,
            tooltip="Take at most this many pictures from the folder.",
        ),
        io.Combo.Input(
            "order",
            options=list(ORDERS),
            default="name",
            tooltip="Which pictures of the folder are taken first when there are more.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=False,
            tooltip="For the random order: another number chooses other pictures.",
        ),
    ]


class LoadReferenceSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadReferenceSet",
            display_name="Load Reference Set",
            category="SeedSelect",
            description=(
                "Loads pictures of the concept that the model draws badly, from a folder, from an "
                "IMAGE batch, or from both. Three to five clear and different ones are usual."
            ),
            search_aliases=["reference images", "load folder", "seedselect"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=[NO_FOLDER, *_input_folders()],
                    default=NO_FOLDER,
                    tooltip=(
                        "A folder of pictures inside ComfyUI's input directory. Changing a file in "
                        "it runs the node again. Press R after adding a folder."
                    ),
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip=(
                        "Pictures to use as well as, or instead of, those in the folder: one, a "
                        "batch or a list."
                    ),
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "What is transparent in 'images', which show the background there. For a "
                        "cut-out connect the MASK of its 'Load Image'."
                    ),
                ),
                *_picture_inputs(),
            ],
            outputs=[
                ReferenceSetType.Output(
                    "references", tooltip="The pictures, for 'SeedSelect Optimize'."
                ),
                io.Image.Output(
                    "preview", tooltip=f"The pictures as cropped, {PREVIEW_SIZE} pixels square."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            # A list of pictures is one set: the host would run the node, and all that follow, once
            # for each picture.
            is_input_list=True,
        )

    # Naming `folder` here also takes it out of the host's check against the list of options, which
    # would refuse a folder made after the page was loaded, or given over the API.
    @classmethod
    def validate_inputs(cls, folder: list | None = None) -> bool | str:
        try:
            for name in folder or ():
                if name not in (None, NO_FOLDER):  # None: it comes by a link
                    _resolve(name)
        except SeedSelectError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: list | None = None, **kwargs) -> str | float:
        if folder is None or None in folder:
            # It comes by a link, and the host does not tell which: run every time.
            return float("nan")
        digest = hashlib.sha256()
        for name in folder:
            if name == NO_FOLDER:
                continue
            for path in list_image_files(_resolve(name)):
                digest.update(os.fsencode(path.name))
                digest.update(f"\0{stamp(path)}\0".encode())
        return digest.hexdigest()

    @classmethod
    @inputs_checked
    def execute(cls, images=None, mask=None, **lists) -> io.NodeOutput:
        values = {name: only(name, each) for name, each in lists.items()}
        options = {"crop": values["crop"], "background": parse_color(values["background"])}
        sets = []
        warnings = []
        if values["folder"] != NO_FOLDER:
            loaded, warnings = load_reference_folder(
                _resolve(values["folder"]),
                allowed_roots=[folder_paths.get_input_directory()],
                **{name: values[name] for name in ("limit", "order", "seed")},
                **options,
            )
            sets.append(loaded)
        if images is not None:
            sets += sets_of_lists(images, mask, **options)
        elif mask is not None:
            raise SeedSelectError(
                "mask: there are no pictures that it belongs to. Connect 'images' too."
            )
        if not sets:
            raise SeedSelectError(
                "folder: no references. Choose a folder of pictures, or connect some to 'images'."
            )
        references = combine(*sets)

        for warning in warnings:
            logging.warning("Load Reference Set: %s", printable(warning))
        more = [f"and {len(warnings) - SHOWN} more, see the console"] * (len(warnings) > SHOWN)
        text = "\n".join([f"{len(references)} references", *warnings[:SHOWN], *more])
        PromptServer.instance.send_progress_text(printable_lines(text), cls.hidden.unique_id)
        preview = references.preview(PREVIEW_SIZE)
        shown = previewed(preview) | {"text": [text]}
        return io.NodeOutput(references, preview, ui=shown)
