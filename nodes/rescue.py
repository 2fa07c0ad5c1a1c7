"""Where the seeds of a search are put as they are found, and how the user learns of it."""

import logging
import os
from pathlib import Path

import folder_paths

from ..seedselect_core.seeds.rescue import Rescue
from ..seedselect_core.seeds.seed import Seed
from ..seedselect_core.text import printable
from .graph import encoder_for
from .seed_files import seed_folder

# How many of what was found are kept. A setting of the machine, not of a graph: whose disk it is
# decides, and a graph of somebody else's loses nothing here.
VARIABLE = "SEEDSELECT_KEEP"
KEPT = 100


def rescue_for(hidden) -> Rescue:
    """What keeps the seeds of a run of a node, with the graph in their files."""
    return Rescue(places(), encode=encoder_for(hidden), keep=kept())


def kept() -> int:
    """How many seeds that were found are kept; 0 for none."""
    text = os.environ.get(VARIABLE, str(KEPT))
    if text.isdecimal():
        return int(text)
    logging.warning("SeedSelect: SEEDSELECT_KEEP must be a number, got %s.", printable(text, 60))
    return KEPT


def places() -> list[Path]:
    """Folders to put seeds in, the best first; 'Load Seed' looks into all but the last two."""
    return [
        Path(seed_folder()),
        Path(folder_paths.get_input_directory()),
        # The host keeps such folders from the web.
        Path(folder_paths.get_user_directory()) / "__seedselect",
        Path(folder_paths.get_temp_directory()),
    ]


def rescued(rescue: Rescue, best: Seed) -> str:
    """Write ``best`` where it can be written; a sentence that says where it is."""
    if rescue.write(lambda: best):
        return f"The best seed so far is in {_named(rescue.paths[-1])}"
    told = f"The best seed so far could not be written: {rescue.error}."
    if rescue.paths:
        told += f" An earlier one is in {_named(rescue.paths[-1])}"
    return told


def _named(path: Path) -> str:
    """Where a file is, for somebody who wants to load it."""
    roots = {
        "output": folder_paths.get_output_directory(),
        "input": folder_paths.get_input_directory(),
    }
    for name, root in roots.items():
        if path.is_relative_to(root):
            return f"the {name} folder, for 'Load Seed': {path.relative_to(root).as_posix()}"
    return f"{path}. Move it into the input folder to load it."
