"""Nodes that save, load and convert seeds."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.rescue import EXTENSION
from ..seedselect_core.seeds.seed import Seed, SeedNoise, load_seed
from .sockets import SeedType, require_seed


def save_numbered(seed: Seed, prefix: str) -> Path:
    """Save under the output directory as the host names its files, and return the path."""
    folder, name, counter, _, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory()
    )
    # The host counts only files that end in an underscore after the number.
    path = Path(folder) / f"{name}_{counter:05}_{EXTENSION}"
    seed.save(path)
    return path


def seed_files() -> list[str]:
    """Seed files under the input and output directories, as "[input] name" or "[output] name"."""
    found = []
    for label, root in _roots().items():
        for place, _, names in os.walk(root):
            for name in names:
                if name.endswith(EXTENSION):
                    relative = (Path(place) / name).relative_to(root).as_posix()
                    found.append(f"[{label}] {relative}")
    return sorted(found)


def _roots() -> dict[str, str]:
    return {
        "input": folder_paths.get_input_directory(),
        "output": folder_paths.get_output_directory(),
    }


def resolve_seed_file(name: str) -> Path:
    label, _, relative = name.partition("] ")
    root = _roots().get(label.removeprefix("["))
    if root is None or not relative.endswith(EXTENSION):
        raise SeedSelectError(
            f"seed file: '{name}' names no seed. Put a *{EXTENSION} file into ComfyUI's input "
            "directory, press R, and choose it."
        )
    path = (Path(root) / relative).resolve()
    if not path.is_relative_to(Path(root).resolve()):
        raise SeedSelectError(f"seed file: '{relative}' lies outside ComfyUI's folders.")
    if not path.is_file():
        raise SeedSelectError(f"seed file: there is no '{relative}' in {root}.")
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
                        "Name of the file; may contain folders, and codes such as %year% and "
                        "%month%."
                    ),
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, seed, filename_prefix) -> io.NodeOutput:
        require_seed("seed", seed)
        path = save_numbered(seed, filename_prefix)
        return io.NodeOutput(ui=ui.PreviewText(f"Saved {path.name}"))


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
    def execute(cls, seed) -> io.NodeOutput:
        require_seed("seed", seed)
        return io.NodeOutput(SeedNoise(seed))
