"""The node that makes many different pictures of one concept."""

import math

import comfy.samplers
import torch
from comfy_api.latest import io

from ..seedselect_core.chain.sampling import latent_samples
from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.host.samplers import BATCH_INDEPENDENT
from ..seedselect_core.likeness.losses import likeness
from ..seedselect_core.search.loop import Progress
from ..seedselect_core.search.presets import PRESETS
from ..seedselect_core.seeds.seed import MAX_VALUES
from ..seedselect_core.sets.bootstrap import PictureSet, SetSettings, make_set
from ..seedselect_core.sheets import draw_grid
from .display import PREVIEW_PICTURES, STAYS, Display, Searching
from .graph import HIDDEN
from .inputs import (
    connections,
    contrast_inputs,
    contrast_of,
    extras_input,
    sampling_inputs,
    sampling_of,
    scene_of,
)
from .previews import previewed
from .settings import degrees_input, preset_input, radians
from .sockets import SeedType, inputs_checked

DEFAULT = SetSettings()
WANTED = ("count", "subset", "iterations", "min_distance")


class DiverseSet(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectDiverseSet",
            display_name="Diverse Set",
            category="SeedSelect/search",
            description=(
                "Makes many different pictures of the concept. The first batch is optimized in "
                "full; the others start from what it found, and cost a part of it."
            ),
            search_aliases=["bootstrap", "dataset", "many seeds", "batch", "variety", "seedselect"],
            is_experimental=True,
            inputs=[
                *connections(),
                # The others cannot draw a picture of the set again in another batch.
                *sampling_inputs(set(comfy.samplers.SAMPLER_NAMES) - set(BATCH_INDEPENDENT)),
                preset_input("How the first batch is optimized, as in 'SeedSelect Optimize'."),
                io.Int.Input(
                    "count", default=DEFAULT.count, min=1, max=4096, tooltip="Pictures wanted."
                ),
                degrees_input(
                    "how_far_degrees",
                    DEFAULT.angle,
                    "How far a found noise is turned for a new start: more differs more and takes "
                    "longer. At 90 nothing of it is left.",
                ),
                extras_input([*contrast_inputs(), *_set_inputs()]),
            ],
            outputs=[
                SeedType.Output(
                    "seed",
                    display_name="found noise",
                    tooltip="The noise of all pictures that were kept.",
                ),
                io.Image.Output("images", tooltip="The pictures."),
                io.String.Output("report", tooltip="What was kept, thrown away and spent."),
            ],
            hidden=[*HIDDEN],
            **STAYS,
        )

    @classmethod
    @inputs_checked
    def execute(cls, preset, **values) -> io.NodeOutput:
        batch = len(values["latent"]["samples"])
        show = SetDisplay(cls.hidden, cls.settled, values["count"], batch)
        own = {name: values[name] for name in WANTED if name in values}
        wanted = SetSettings(**own, angle=radians(values["how_far_degrees"]))
        require_file(wanted.count, values["model"], values["latent"])
        scene = scene_of(values, show.remark)
        sampling = sampling_of(values)
        show.advise(scene.model, sampling.cfg)
        contrast = contrast_of(values, scene, sampling)
        found, made = make_set(
            scene,
            sampling,
            PRESETS[preset],
            wanted,
            contrast=contrast,
            callbacks=show.callbacks(),
        )
        report = describe_set(made, wanted.count)
        show.done(found)
        show.text(report)
        pictures = made.images[made.in_seed]
        return io.NodeOutput(found, pictures, report, ui=previewed(pictures))


class SetDisplay(Display):
    """Progress towards the pictures wanted, and as preview the latest, those thrown away too."""

    def __init__(self, hidden, settled: set[str] | None, count: int, batch: int):
        super().__init__(hidden, settled)
        self.count = count
        self.batch = batch
        self.reached = 0.0
        self.last: Progress | None = None
        self.earlier: list[torch.Tensor] = []

    def __call__(self, progress: Progress, kept: int) -> None:
        if self.last is not None and progress.done < self.last.done:  # another batch began
            self.earlier = [self.last.best.images, *self.earlier][:9]
        self.last = progress
        preview = self.drafted(progress.drafts, f"{kept} of {self.count} pictures found; ")
        if progress.new_best:
            pictures = torch.cat([progress.best.images, *self.earlier])[:PREVIEW_PICTURES]
            now = likeness(float(progress.best.semantic.mean()))
            said = (
                f"{kept} of {self.count} pictures found; under way: {self.batch}, iteration "
                f"{progress.iteration}, likeness {now}"
            )
            self.text(said)
            preview = self.preview(said, draw_grid(pictures))
        under_way = min(self.batch, self.count - kept) * progress.done / progress.planned
        # Pictures that are thrown away would take the bar back.
        self.reached = max(self.reached, kept + under_way)
        self.bar.update_absolute(round(100 * self.reached), 100 * self.count, preview)


def require_file(count: int, model, latent: dict) -> None:
    """Raise `SeedSelectError` where 'Load Seed' would refuse so many pictures in one seed."""
    most = MAX_VALUES // math.prod(latent_samples(model, latent).shape[1:])
    if count > most:
        raise SeedSelectError(
            f"count: {count} pictures of this size are more than a seed file may hold. Ask for at "
            f"most {most}."
        )


def describe_set(made: PictureSet, count: int) -> str:
    """The report: what was kept, what was thrown away, what it cost."""
    kept = len(made.semantic)
    shown = [made.semantic[i] for i in made.in_seed]
    first, later = made.cost()
    lines = [f"{len(shown)} of {count} pictures found"]
    if len(shown) < min(kept, count):
        lines.append("Others are left out: their prompt's turn in the batch did not come again.")
    if kept < count:
        if made.misses > made.duplicates:
            hint = (
                "Raise iterations or lower how_far_degrees: most were farther from the references."
            )
        else:
            hint = (
                "Lower min_distance, raise how_far_degrees, or give more references: most were "
                "alike."
            )
        lines.append(f"Fewer than wanted, all attempts are used up. {hint}")
    mean, worst = likeness(sum(shown) / len(shown)), likeness(max(shown))
    lines.append(f"likeness: mean {mean}, worst {worst}")
    lines.append(f"thrown away: {made.duplicates} duplicates, {made.misses} misses")
    lines.append(f"model evaluations a picture: {first:.0f} in the first batch")
    if kept > made.kept_first:
        lines[-1] += f", {later:.0f} later ({later / first:.0%})"
    return "\n".join(lines)


def _set_inputs() -> list:
    return [
        io.Int.Input(
            "subset",
            default=DEFAULT.subset,
            min=0,
            max=4096,
            tooltip="References that each picture is pulled towards, drawn anew; 0: all.",
        ),
        io.Int.Input(
            "iterations",
            default=DEFAULT.iterations,
            min=0,
            max=10000,
            tooltip="Gradient steps of a later picture, at most.",
        ),
        io.Float.Input(
            "min_distance",
            default=DEFAULT.min_distance,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip=(
                "Pictures nearer than this are duplicates and thrown away; 1 is how far "
                "references are from their centre. 0 keeps all."
            ),
        ),
    ]
