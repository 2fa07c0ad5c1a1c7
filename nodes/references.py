"""Nodes that load reference pictures."""

import hashlib
import logging
from pathlib import Path

import folder_paths
from comfy_api.latest import io
from server import PromptServer

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.references import (
    CROPS,
    ORDERS,
    combine,
    list_image_files,
    load_reference_folder,
    parse_color,
    reference_set_from_batch,
    resolve_folder,
)
from ..seedselect_core.text import printable, printable_lines
from .folders import below
from .previews import previewed
from .sockets import ReferenceSetType

NO_FOLDER = "(none)"
PREVIEW_SIZE = 512


def _input_folders() -> list[str]:
    """Folders under the host's input directory at any depth, as relative paths with slashes."""
    return sorted(folder for folder, _ in below(folder_paths.get_input_directory()) if folder)


def _resolve(folder: str) -> Path:
    if not isinstance(folder, str):
        raise SeedSelectError(f"folder: must be a name, got {printable(folder, 60)}.")
    root = folder_paths.get_input_directory()
    return resolve_folder(Path(root) / folder, [root])


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
                    tooltip="Pictures to use as well as, or instead of, those in the folder.",
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
        )

    # Naming `folder` here also takes it out of the host's check against the list of options, which
    # would refuse a folder made after the page was loaded, or given over the API.
    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        if folder is None or folder == NO_FOLDER:
            return True
        try:
            _resolve(folder)
        except SeedSelectError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **kwargs) -> str | float:
        if folder is None:  # comes by a link, and the host does not tell which: run every time
            return float("nan")
        digest = hashlib.sha256()
        if folder != NO_FOLDER:
            for path in list_image_files(_resolve(folder)):
                stat = path.stat()
                name = printable(path.name)
                digest.update(f"{name}\0{stat.st_mtime_ns}\0{stat.st_size}\0".encode())
        return digest.hexdigest()

    @classmethod
    def execute(cls, folder, crop, background, limit, order, seed, images=None) -> io.NodeOutput:
        color = parse_color(background)
        sets = []
        warnings = []
        if folder != NO_FOLDER:
            root = folder_paths.get_input_directory()
            loaded, warnings = load_reference_folder(
                _resolve(folder),
                allowed_roots=[root],
                limit=limit,
                order=order,
                seed=seed,
                crop=crop,
                background=color,
            )
            sets.append(loaded)
        if images is not None:
            sets.append(reference_set_from_batch(images, crop=crop, background=color))
        if not sets:
            raise SeedSelectError(
                "folder: no references. Choose a folder of pictures, or connect some to 'images'."
            )
        references = combine(*sets)

        for warning in warnings:
            logging.warning("Load Reference Set: %s", printable(warning))
        text = "\n".join([f"{len(references)} references", *warnings])
        PromptServer.instance.send_progress_text(printable_lines(text), cls.hidden.unique_id)
        preview = references.preview(PREVIEW_SIZE)
        shown = previewed(preview) | {"text": [text]}
        return io.NodeOutput(references, preview, ui=shown)
