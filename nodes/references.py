"""Nodes that load reference pictures."""

import contextlib
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
    load_reference_files,
    load_reference_folder,
    parse_color,
    reference_set_from_batch,
    resolve_folder,
    stamp,
)
from ..seedselect_core.text import printable, printable_lines
from .display import STAYS
from .folders import below
from .inputs import only
from .previews import previewed
from .sockets import ReferenceSetType, inputs_checked

NONE = "(none)"
INPUT = "(input)"  # the directory itself
PREVIEW_SIZE = 512
SHOWN = 10  # warnings below the node; the console has all


def _input_folders() -> list[str]:
    """Folders under the host's input directory at any depth, as relative paths with slashes."""
    return sorted(folder for folder, _ in below(folder_paths.get_input_directory()) if folder)


def _input_pictures() -> list[str]:
    """As the host's own 'Load Image' lists them."""
    names = []
    with contextlib.suppress(OSError):  # it may not be read, or is gone
        with os.scandir(folder_paths.get_input_directory()) as entries:
            names += [entry.name for entry in entries if entry.is_file()]
    return sorted(folder_paths.filter_files_content_types(names, ["image"]))


def _resolve(folder: Any) -> Path:
    if not isinstance(folder, str):  # the host lets anything come over the API
        raise SeedSelectError(
            f"folder: expected the name of a folder, got {type(folder).__name__}. Choose one of "
            "the list."
        )
    root = folder_paths.get_input_directory()
    return resolve_folder(Path(root) if folder == INPUT else Path(root) / folder, [root])


def _chosen(pictures: list | None) -> list[Path]:
    """Files of the pictures that were uploaded into the node, or chosen from its list.

    Args:
        pictures: a list of names, as the page gives a single one, or of lists of names.
    """
    files = []
    for name in (name for each in pictures or [] for name in _names(each)):
        if not isinstance(name, str):
            raise SeedSelectError(
                f"pictures: expected names of files, got {type(name).__name__}. Choose files."
            )
        relative, root = folder_paths.annotated_filepath(name)
        files.append(Path(root or folder_paths.get_input_directory(), relative))
    return files


def _names(given: Any) -> list:
    if isinstance(given, list):
        return given
    return [] if given in ("", None) else [given]  # None: it comes by a link


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


def _source_inputs() -> list:
    """Where pictures come from."""
    return [
        # A choice of one would stop the page from drawing once it holds several.
        io.MultiCombo.Input(
            "pictures",
            options=_input_pictures(),
            default=[],
            placeholder="no pictures yet",
            extra_dict={io.UploadType.image.value: True, "allow_batch": True},
            tooltip="Drop, paste or choose pictures; several at once.",
        ),
        io.Combo.Input(
            "folder",
            options=[NONE, INPUT, *_input_folders()],
            default=NONE,
            tooltip=(
                "A folder of pictures inside ComfyUI's input directory, or that directory "
                "itself. Changing a file in it runs the node again. Press R after adding "
                "a folder."
            ),
        ),
        io.Image.Input(
            "images",
            optional=True,
            tooltip=(
                "Pictures to use as well as, or instead of, those chosen above: one, a "
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
    ]


def _picture_inputs() -> list:
    """How pictures are fitted, and which of a folder are taken."""
    return [
        io.Combo.Input(
            "crop",
            options=list(CROPS),
            default="center",
            tooltip=(
                "How a picture of another shape is made to fit: center, top, bottom, left and "
                "right keep that part, pad shows all of it on the background, stretch distorts it."
            ),
        ),
        io.Color.Input(
            "background",
            default="#FFFFFF",
            tooltip="Shown through transparent parts, and around padded pictures.",
            advanced=True,
        ),
        io.Int.Input(
            "limit",
            default=5,
            min=1,
            max=64,
            tooltip="Take at most this many pictures from the folder.",
        ),
        io.DynamicCombo.Input(
            "order",
            options=[
                io.DynamicCombo.Option(order, [_random_input()] if order == "random" else [])
                for order in ORDERS
            ],
            tooltip="Which pictures of the folder are taken first when there are more.",
        ),
    ]


def _random_input() -> io.Int.Input:
    return io.Int.Input(
        "choice",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        control_after_generate=False,
        tooltip="Another number chooses other pictures.",
    )


class LoadReferenceSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadReferenceSet",
            display_name="Load Reference Set",
            category="SeedSelect",
            description=(
                "Pictures of the concept that the model draws badly: drop them here, or choose a "
                "folder, or connect an IMAGE. Three to five clear and different ones are usual. "
                "Shows what is used, and says what was left out and why."
            ),
            search_aliases=[
                *("reference images", "load folder", "load images", "upload images"),
                *("image set", "seedselect"),
            ],
            inputs=[
                *_source_inputs(),
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
            **STAYS,
            # A list of pictures is one set: the host would run the node, and all that follow, once
            # for each picture.
            is_input_list=True,
        )

    # Naming them here also takes them out of the host's check against the lists of options, which
    # would refuse what was made after the page was loaded, or given over the API.
    @classmethod
    def validate_inputs(
        cls, pictures: list | None = None, folder: list | None = None, order: dict | None = None
    ) -> bool | str:
        try:  # the host hands over what is chosen, asked for or not
            _chosen(pictures)
            for name in folder or ():
                if name not in (None, NONE):  # None: it comes by a link
                    _resolve(name)
        except SeedSelectError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, pictures: list | None = None, folder: list | None = None, **kwargs
    ) -> str | float:
        if folder is None or None in folder or None in (pictures or ()):
            # It comes by a link, and the host does not tell which: run every time.
            return float("nan")
        digest = hashlib.sha256()
        files = _chosen(pictures)
        for name in folder:
            if name != NONE:
                files += list_image_files(_resolve(name))
        for path in files:
            digest.update(os.fsencode(path.name))
            digest.update(f"\0{stamp(path)}\0".encode())
        return digest.hexdigest()

    @classmethod
    @inputs_checked
    def execute(cls, pictures=None, images=None, mask=None, **lists) -> io.NodeOutput:
        values = {name: only(name, each) for name, each in lists.items()}
        options = {"crop": values["crop"], "background": parse_color(values["background"])}
        sets, warnings, found = _loaded(_chosen(pictures), values, options)
        if images is not None:
            connected = sets_of_lists(images, mask, **options)
            sets += connected
            found += sum(map(len, connected))
        elif mask is not None:
            raise SeedSelectError(
                "mask: there are no pictures that it belongs to. Connect 'images' too."
            )
        if not sets:
            raise SeedSelectError(
                "pictures: no references. Drop some pictures on the node, choose a folder, or "
                "connect some to 'images'."
            )
        references = combine(*sets)

        for warning in warnings:
            logging.warning("Load Reference Set: %s", printable(warning))
        more = [f"and {len(warnings) - SHOWN} more, see the console"] * (len(warnings) > SHOWN)
        used = f"{len(references)} of {found} pictures used"
        text = "\n".join([used, *warnings[:SHOWN], *more])
        PromptServer.instance.send_progress_text(printable_lines(text), cls.hidden.unique_id)
        preview = references.preview(PREVIEW_SIZE)
        shown = previewed(preview) | {"text": [text]}
        return io.NodeOutput(references, preview, ui=shown)


def _loaded(
    files: list[Path], values: dict, options: dict
) -> tuple[list[ReferenceSet], list[str], int]:
    """Sets of the files and of the folder, warnings, and how many files there were."""
    sets = []
    warnings = []
    found = len(files)
    roots = [
        folder_paths.get_input_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
    ]
    if files:
        chosen, warnings = load_reference_files(files, allowed_roots=roots, **options)
        sets.append(chosen)
    if values["folder"] != NONE:
        folder = _resolve(values["folder"])
        found += len(list_image_files(folder))
        loaded, more = load_reference_folder(
            folder,
            allowed_roots=roots[:1],
            limit=values["limit"],
            order=values["order"],
            seed=values.get("choice", 0),
            **options,
        )
        sets.append(loaded)
        warnings += more
    return sets, warnings, found
