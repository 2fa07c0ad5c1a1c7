"""The node that shows what the two losses cost each other."""

import numpy as np
import torch
from comfy_api.latest import io

from ..seedselect_core.search.loop import Progress
from ..seedselect_core.search.settings import PRESETS
from ..seedselect_core.sets.sweep import Cell, Sweep, parse_weights, run_sweep
from ..seedselect_core.sheets import draw_sweep
from .display import Display, Searching
from .inputs import connections, preset_input, sampling_inputs, sampling_of, scene_of
from .sockets import inputs_checked

PREVIEW_SIZE = 1024


class TradeoffSweep(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectTradeoffSweep",
            display_name="Trade-off Sweep",
            category="SeedSelect",
            description=(
                "Optimizes the same noise under several weights of the semantic and the appearance "
                "loss, and lays the pictures out as an XY plot. Costs an optimization a cell."
            ),
            search_aliases=["xy plot", "contact sheet", "weights", "seedselect"],
            inputs=[
                *connections(),
                *sampling_inputs(),
                preset_input(
                    list(PRESETS), "All settings but the two weights, as in 'SeedSelect Optimize'."
                ),
                io.String.Input(
                    "semantic_weights",
                    default="10",
                    tooltip="Rows: likeness as the encoder sees it. Numbers with commas between.",
                ),
                io.String.Input(
                    "appearance_weights",
                    default="0, 0.3, 1, 3, 10",
                    tooltip="Columns: likeness of latents, so of colours and layout too.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="All pictures with their weights and losses."),
                io.Image.Output("images", tooltip="The pictures alone, row by row."),
                io.String.Output("table", tooltip="The losses as text, for 'Preview as Text'."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @inputs_checked
    def execute(cls, preset, semantic_weights, appearance_weights, **values) -> io.NodeOutput:
        sweep = Sweep(
            parse_weights("semantic_weights", semantic_weights),
            parse_weights("appearance_weights", appearance_weights),
        )
        show = SweepDisplay(cls.hidden.unique_id, cls.settled)
        run_sweep(
            sweep,
            scene_of(values),
            sampling_of(values),
            PRESETS[preset],
            callbacks=show.callbacks(),
        )
        sheet = torch.from_numpy(np.asarray(draw_sweep(sweep), dtype=np.float32) / 255)
        show.done()
        return io.NodeOutput(sheet[None], sweep.images(), sweep.table())


class SweepDisplay(Display):
    """Progress over all cells, and the sheet as it fills."""

    def __call__(self, progress: Progress, sweep: Sweep, pair: tuple[float, float]) -> None:
        preview = None
        if progress.new_best:
            best = progress.best
            number = len(sweep.cells) + 1
            so_far = Sweep(sweep.semantic_weights, sweep.appearance_weights)
            so_far.cells = sweep.cells | {pair: Cell(best.images)}
            preview = ("JPEG", draw_sweep(so_far), PREVIEW_SIZE)
            self.text(
                f"{number} of {len(sweep.pairs())}: semantic {pair[0]:g}, appearance {pair[1]:g}, "
                f"iteration {progress.iteration}: semantic loss {best.semantic.mean():.4f}"
            )
        self.bar.update_absolute(
            len(sweep.cells) * progress.planned + progress.done,
            len(sweep.pairs()) * progress.planned,
            preview,
        )
