"""Nodes that save, load and convert seeds."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.rescue import EXTENSION
from ..seedselect_core.seeds.seed import Seed, SeedNoise, load_seed
from ..seedselect_core.text import printable, quoted
from .folders import below
from .prefix import file_prefix
from .sockets import SeedType, inputs_checked


def save_numbered(seed: Seed, prefix: str, prompt: dict | None = None) -> Path:
    """Save under the output directory as the host names its files, and return the path.

    Args:
        prefix, prompt: see `file_prefix`.

    Raises:
        SeedSelectError: the prefix is no path for a file, or nothing can be written there.
    """
    legal = file_prefix(prefix, prompt)
    height, width = (8 * size for size in seed.noise.shape[-2:])
    try:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            legal, folder_paths.get_output_directory(), width, height
        )
        # The host counts only files that end in an underscore after the number.
        path = Path(folder) / f"{name}_{counter:05}_{EXTENSION}"
        seed.save(path)
    except SeedSelectError:
        raise
    except Exception as error:  # of the host or the system, which word them in many ways
        raise SeedSelectError(
            f"filename_prefix: the seed cannot be saved as '{legal}' in ComfyUI's output "
            f"directory ({printable(error, 200)}). Check that the disk is not full and the folder "
            "may be written to, or give another prefix."
        ) from quoted(error)
    return path


def seed_files() -> list[str]:
    """Seed files under the input and output directories, as "[input] name" or "[output] name"."""
    return sorted(_listed())


def _listed() -> dict[str, Path]:
    """The seed files by the name that they are shown with."""
    found = {}
    for label, root in _roots().items():
        for folder, names in below(root, EXTENSION):
            for name in names:
                relative = f"{folder}/{name}" if folder else name
                found[printable(f"[{label}] {relative}")] = Path(root, relative)
    return found


def _roots() -> dict[str, str]:
    return {
        "input": folder_paths.get_input_directory(),
        "output": folder_paths.get_output_directory(),
    }


def resolve_seed_file(name: str) -> Path:
    label, _, relative = name.partition("] ") if isinstance(name, str) else ("", "", "")
    root = _roots().get(label.removeprefix("["))
    if root is None or not relative.endswith(EXTENSION):
        raise SeedSelectError(
            f"seed file: '{name}' names no seed. Put a *{EXTENSION} file into ComfyUI's input "
            "directory, press R, and choose it."
        )
    path = Path(root, relative)
    try:
        # A name that cannot be shown is on the list in another form.
        path = (path if path.is_file() else _listed().get(name, path)).resolve()
        inside = path.is_relative_to(Path(root).resolve())
        there = path.is_file()
    except (OSError, ValueError):  # too long, or with a character that no name has
        inside = True
        there = False
    if not inside:
        raise SeedSelectError(f"seed file: '{relative}' lies outside ComfyUI's folders.")
    if not there:
        raise SeedSelectError(
            f"seed file: there is no '{relative}' in {root}. Press R and choose another."
        )
    return path


class SaveSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSaveSeed",
            display_name="Save Seed",
            category="SeedSelect",
            description="Saves a seed into the output directory, to use again or to share.",
            inputs=[
                SeedType.Input("seed", tooltip="The seed to save."),
                io.String.Input(
                    "filename_prefix",
                    default="seeds/SeedSelect",
                    tooltip=(
                        "Name of the file; may contain folders, and codes as in Save Image: "
                        "%date:yyyy-MM-dd%, %year%, %KSampler.seed%."
                    ),
                ),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        try:
            file_prefix(filename_prefix or "")
        except SeedSelectError as error:
            return str(error)
        return True

    @classmethod
    @inputs_checked
    def execute(cls, seed, filename_prefix) -> io.NodeOutput:
        path = save_numbered(seed, filename_prefix, cls.hidden.prompt)
        return io.NodeOutput(ui=ui.PreviewText(printable(f"Saved {path.name}")))


class LoadSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadSeed",
            display_name="Load Seed",
            category="SeedSelect",
            description="Loads a seed that was saved here, or that somebody shared.",
            inputs=[
                io.Combo.Input(
                    "seed_file",
                    options=seed_files(),
                    tooltip=(
                        "A seed in the input or output directory. Press R after adding one. "
                        "'unfinished' is the best of a search that was stopped, with its semantic "
                        "loss then and at first: connect it to 'start' to go on."
                    ),
                )
            ],
            outputs=[SeedType.Output("seed", tooltip="For 'Sample From Seed'.")],
        )

    # Naming the input also takes it out of the check against a list made before a run saved a seed.
    @classmethod
    def validate_inputs(cls, seed_file: str | None = None) -> bool | str:
        try:
            if seed_file is not None:
                resolve_seed_file(seed_file)
        except SeedSelectError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, seed_file: str) -> str:
        stat = resolve_seed_file(seed_file).stat()
        return f"{stat.st_mtime_ns} {stat.st_size}"

    @classmethod
    @inputs_checked
    def execute(cls, seed_file) -> io.NodeOutput:
        return io.NodeOutput(load_seed(resolve_seed_file(seed_file)))


class SeedToNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSeedToNoise",
            display_name="Seed To Noise",
            category="SeedSelect",
            description="Gives a seed to SamplerCustomAdvanced and whatever else takes NOISE.",
            inputs=[SeedType.Input("seed", tooltip="An optimized seed.")],
            outputs=[io.Noise.Output(tooltip="The seed's noise; the latent must have its size.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed) -> io.NodeOutput:
        return io.NodeOutput(SeedNoise(seed))
