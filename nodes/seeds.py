"""Nodes that save, load and convert seeds."""

from comfy_api.latest import io, ui

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.rescue import EXTENSION
from ..seedselect_core.seeds.seed import SeedNoise, load_seed
from ..seedselect_core.text import printable
from . import graph
from .prefix import file_prefix
from .seed_files import resolve_seed_file, save_numbered, seed_files
from .sockets import SeedType, inputs_checked


def prefix_input() -> io.String.Input:
    return io.String.Input(
        "filename_prefix",
        default="seeds/SeedSelect",
        tooltip=(
            "Name of the file; may contain folders, and codes as in Save Image: "
            "%date:yyyy-MM-dd%, %year%, %KSampler.seed%."
        ),
    )


class Saving:
    """What nodes that save files by a prefix have in common."""

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        try:
            file_prefix(filename_prefix or "")
        except SeedSelectError as error:
            return str(error)
        return True


class SaveSeed(Saving, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSaveSeed",
            display_name="Save Seed",
            category="SeedSelect/seeds",
            description=(
                "Saves a seed into the output directory, to use again or to share. The file holds "
                "the graph too: drop it on the page to open that."
            ),
            search_aliases=["save noise", "export seed", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="The seed to save."),
                prefix_input(),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[*graph.HIDDEN],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, filename_prefix) -> io.NodeOutput:
        height, width = (8 * size for size in seed.noise.shape[-2:])
        data = graph.encoder_for(cls.hidden)(seed)
        (path,) = save_numbered(
            [data], EXTENSION, filename_prefix, cls.hidden.prompt, (width, height)
        )
        return io.NodeOutput(ui=ui.PreviewText(printable(f"Saved {path.name}")))


class LoadSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectLoadSeed",
            display_name="Load Seed",
            category="SeedSelect/seeds",
            description=(
                "Loads a seed that was found or saved here, or that somebody shared, as a file of "
                "its own or in a picture."
            ),
            search_aliases=[
                *("load noise", "import seed", "shared seed", "seed from image", "seedselect"),
            ],
            inputs=[
                io.Combo.Input(
                    "seed_file",
                    options=seed_files(),
                    upload=io.UploadType.image,
                    tooltip=(
                        "A seed in output/seeds, the newest first, or a picture of 'Save Image "
                        "With Seed', which may be dropped here. Press R after adding a file. "
                        "'found' is what a search ended with; 'unfinished' the best of one that "
                        "was stopped: connect it to 'start' to go on."
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
            category="SeedSelect/seeds",
            description="Gives a seed to SamplerCustomAdvanced and whatever else takes NOISE.",
            search_aliases=["custom noise", "noise from seed", "seedselect"],
            inputs=[SeedType.Input("seed", tooltip="An optimized seed.")],
            outputs=[io.Noise.Output(tooltip="The seed's noise; the latent must have its size.")],
            hidden=[*graph.HIDDEN],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed) -> io.NodeOutput:
        users = graph.takers(cls.hidden.prompt or {}, cls.hidden.unique_id)
        graph.tell_differences(seed, cls.hidden, users)
        graph.record(cls.hidden, seed)
        return io.NodeOutput(SeedNoise(seed))
