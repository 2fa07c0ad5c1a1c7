"""Where seeds are kept: the folders named `seeds`, and their names in a list.

As for files of models, further folders may be given by extra_model_paths.yaml.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.rescue import EXTENSION, write_whole
from ..seedselect_core.text import printable, quoted
from .folders import below
from .prefix import file_prefix

FOLDER = "seeds"
PICTURES = (".png", ".webp")


def seed_folder() -> str:
    """The folder that seeds are saved to by default."""
    return os.path.join(folder_paths.get_output_directory(), FOLDER)


def seed_folders() -> list[str]:
    """It, and those that the user has named."""
    named, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], ()))
    return list(dict.fromkeys([seed_folder(), *named]))


def seed_files() -> list[str]:
    """What 'Load Seed' offers, the newest first: all in the folders, and seeds just below input.

    Pictures in input, of which few carry a seed, are not offered; the page adds what it uploads.
    """
    return list(_listed())


def _listed() -> dict[str, Path]:
    """The files by the names that they are shown with, which are the host's "name [output]"."""
    found = []
    for root in seed_folders():
        label = f"{FOLDER}/{{}} [output]" if root == seed_folder() else f"{{}} [{FOLDER}]"
        for folder, files in below(root, (EXTENSION, *PICTURES)):
            inner = f"{folder}/" if folder else ""
            for name, changed in files:
                shown = label.format(inner + name)
                found.append((changed, shown, Path(root, inner + name)))
    root = folder_paths.get_input_directory()
    _, files = next(below(root, (EXTENSION,)))
    found += [(changed, name, Path(root, name)) for name, changed in files]
    newest = sorted(found, key=lambda file: (-file[0], file[1]))
    return {printable(name): path for _, name, path in newest}


def resolve_seed_file(name: str) -> Path:
    """The file of a name on the list, or of any below input or output: "folder/name [output]".

    Raises:
        SeedSelectError: it names no seed, or leads out of these folders.
    """
    roots, relative = _parted(name)
    if not relative.endswith((EXTENSION, *PICTURES)):
        raise SeedSelectError(
            f"seed file: '{name}' names no seed. Put a *{EXTENSION} file into output/{FOLDER} or "
            "into ComfyUI's input directory, press R, and choose it."
        )
    known = [Path(root).resolve() for root in [*roots, *seed_folders()]]
    paths = [Path(root, relative) for root in roots]
    if not any(map(os.path.isfile, paths)):
        # A name that cannot be shown is on the list in another form.
        paths = [_listed().get(name, paths[0])]
    inside = [path for path in paths if any(map(_resolved(path).is_relative_to, known))]
    there = next(filter(os.path.isfile, inside), None)
    if there is not None:
        return there.resolve()
    if not inside:
        raise SeedSelectError(f"seed file: '{relative}' lies outside ComfyUI's folders.")
    raise SeedSelectError(
        f"seed file: there is no '{relative}' in {roots[0]}. Press R and choose another."
    )


def _resolved(path: Path) -> Path:
    """``path`` without links; as it is where it is too long or has letters that no name has."""
    try:
        return path.resolve()
    except (OSError, ValueError):
        return path


def _parted(name: str) -> tuple[list[str], str]:
    """The folders that a name may lie in, and the rest of it, which is "" where it is no name."""
    roots = {
        "input": [folder_paths.get_input_directory()],
        "output": [folder_paths.get_output_directory()],
        FOLDER: seed_folders(),
    }
    if not isinstance(name, str):  # the host lets anything come over the API
        return roots["input"], ""
    for label, folders in roots.items():
        if name.endswith(f" [{label}]"):
            return folders, name.removesuffix(f" [{label}]")
        if name.startswith(f"[{label}] "):  # so API prompts may say it
            return folders, name.removeprefix(f"[{label}] ")
    return roots["input"], name


def save_numbered(
    files: Iterable[bytes], ending: str, prefix: str, prompt: dict | None, size: tuple[int, int]
) -> list[Path]:
    """Save under the output directory as the host names its files, and return the paths.

    Args:
        prefix, prompt: see `file_prefix`.
        size: width and height of the picture, which the prefix may name.

    Raises:
        SeedSelectError: the prefix is no path for a file, or nothing can be written there.
    """
    legal = file_prefix(prefix, prompt)
    saved = []
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            legal, folder_paths.get_output_directory(), *size
        )
        for number, data in enumerate(files, counter):
            # The host counts only files that end in an underscore after the number.
            saved.append(Path(folder) / f"{name}_{number:05}_{ending}")
            write_whole(saved[-1], data)
    except SeedSelectError:
        raise
    except Exception as error:  # of the host or the system, which word them in many ways
        raise SeedSelectError(
            f"filename_prefix: the seed cannot be saved as '{legal}' in ComfyUI's output "
            f"directory ({printable(error, 200)}). Check that the disk is not full and the folder "
            "may be written to, or give another prefix."
        ) from quoted(error)
    return saved
