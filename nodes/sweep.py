"""The node that shows what the two losses cost each other."""

import numpy as np
import torch
from comfy_api.latest import io

from ..seedselect_core.likeness.losses import likeness
from ..seedselect_core.search.loop import Progress
from ..seedselect_core.search.presets import PRESETS
from ..seedselect_core.sets.sweep import Cell, Sweep, parse_weights, run_sweep
from ..seedselect_core.sheets import draw_sweep
from .display import STAYS, Display, Searching
from .graph import HIDDEN
from .inputs import connections, sampling_inputs, sampling_of, scene_of
from .previews import previewed
from .settings import preset_input
from .sockets import inputs_checked

PREVIEW_SIZE = 1024


class TradeoffSweep(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectTradeoffSweep",
            display_name="Trade-off Sweep",
            category="SeedSelect/search",
            description=(
                "Optimizes the same noise under several weights of the semantic and the appearance "
                "loss, and lays the pictures out as an XY plot. Costs an optimization a cell."
            ),
            search_aliases=["xy plot", "contact sheet", "weights", "seedselect"],
            is_experimental=True,
            inputs=[
                *connections(),
                *sampling_inputs(),
                preset_input("All settings but the two weights, as in 'SeedSelect Optimize'."),
                io.String.Input(
                    "likeness_what_it_is",
                    default="10",
                    tooltip="Rows: what the encoder sees. Numbers with commas between.",
                ),
                io.String.Input(
                    "likeness_how_it_looks",
                    default="0, 0.3, 1, 3, 10",
                    tooltip="Columns: likeness of latents, so of colours and layout too.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="All pictures with their weights and losses."),
                io.Image.Output("images", tooltip="The pictures alone, row by row."),
                io.String.Output("table", tooltip="The losses as text, for 'Preview as Text'."),
            ],
            hidden=[*HIDDEN],
            **STAYS,
        )

    @classmethod
    @inputs_checked
    def execute(cls, preset, likeness_what_it_is, likeness_how_it_looks, **values) -> io.NodeOutput:
        sweep = Sweep(
            parse_weights("likeness_what_it_is", likeness_what_it_is),
            parse_weights("likeness_how_it_looks", likeness_how_it_looks),
        )
        show = SweepDisplay(cls.hidden, cls.settled)
        scene = scene_of(values, show.remark)
        sampling = sampling_of(values)
        show.advise(scene.model, sampling.cfg)
        run_sweep(sweep, scene, sampling, PRESETS[preset], callbacks=show.callbacks())
        sheet = torch.from_numpy(np.asarray(draw_sweep(sweep), dtype=np.float32) / 255)
        show.done(sweep.seed)
        shown = previewed(sheet[None])
        return io.NodeOutput(sheet[None], sweep.images(), sweep.table(), ui=shown)


class SweepDisplay(Display):
    """Progress over all cells, and the sheet as it fills."""

    def __call__(self, progress: Progress, sweep: Sweep, pair: tuple[float, float]) -> None:
        number = len(sweep.cells) + 1
        preview = self.drafted(progress.drafts, f"{number} of {len(sweep.pairs())}: ")
        if progress.new_best:
            best = progress.best
            so_far = Sweep(sweep.semantic_weights, sweep.appearance_weights)
            so_far.cells = sweep.cells | {pair: Cell(best.images)}
            said = (
                f"{number} of {len(sweep.pairs())}: what it is {pair[0]:g}, how it looks "
                f"{pair[1]:g}, iteration {progress.iteration}: "
                f"likeness {likeness(float(best.semantic.mean()))}"
            )
            self.text(said)
            preview = self.preview(said, draw_sweep(so_far), PREVIEW_SIZE)
        self.bar.update_absolute(
            len(sweep.cells) * progress.planned + progress.done,
            len(sweep.pairs()) * progress.planned,
            preview,
        )
