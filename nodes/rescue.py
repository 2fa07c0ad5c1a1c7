"""Where the best seed of a run that does not end well is put, and how the user learns of it."""

from pathlib import Path

import folder_paths

from ..seedselect_core.seeds.rescue import Rescue
from ..seedselect_core.seeds.seed import Seed


def places() -> list[Path]:
    """Folders to put seeds in, the best first; 'Load Seed' looks into all but the last two."""
    output = Path(folder_paths.get_output_directory())
    seeds = output / "seeds"
    # A link to another drive is left alone: the host saves nothing there, and nobody lists it.
    inside = seeds.resolve().is_relative_to(output.resolve())
    return [
        *([seeds] if inside else []),
        output,
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
