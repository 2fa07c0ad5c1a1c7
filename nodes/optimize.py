"""The node that optimizes seeds."""

from comfy_api.latest import io

from ..seedselect_core.search.optimize import optimize_seed
from .display import STAYS, Display, Searching
from .graph import HIDDEN
from .inputs import (
    connections,
    contrast_inputs,
    contrast_of,
    extras_input,
    further_encoder_inputs,
    memory_input,
    outputs,
    sampling_inputs,
    sampling_of,
    scene_of,
    search_vae_input,
)
from .settings import settings_input, settings_of
from .sockets import SeedType, inputs_checked


class SeedSelectOptimize(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectOptimize",
            display_name="SeedSelect Optimize",
            category="SeedSelect",
            description=(
                "Finds initial noise from which the model draws what the references show. Start "
                "here: connect what a KSampler gets, and 'Load Reference Set'. The model is not "
                "changed. An iteration costs about two samplings at 10 steps, one and a half at "
                "20, and four with an exact gradient."
            ),
            search_aliases=[
                *("optimize noise", "rare concept", "best of n", "seed search", "find a seed"),
                *("noise optimization", "ksampler", "seedselect"),
            ],
            inputs=[
                *connections(),
                *sampling_inputs(),
                settings_input(),
                extras_input(
                    [
                        start_input(),
                        *further_encoder_inputs(),
                        *contrast_inputs(),
                        search_vae_input(),
                        memory_input(),
                    ]
                ),
            ],
            outputs=outputs(),
            hidden=[*HIDDEN],
            **STAYS,
        )

    @classmethod
    @inputs_checked
    def execute(cls, preset, start=None, **values) -> io.NodeOutput:
        show = Display(cls.hidden, cls.settled)
        scene = scene_of(values, show.remark)
        sampling = sampling_of(values)
        show.advise(scene.model, sampling.cfg)
        best, drawn, history = optimize_seed(
            scene,
            sampling,
            settings_of(preset, values),
            start=start,
            contrast=contrast_of(values, scene, sampling),
            callbacks=show.callbacks(),
        )
        return show.output(scene.vae, best, drawn, history)


def start_input() -> io.Input:
    return SeedType.Input(
        "start",
        optional=True,
        tooltip=(
            "Starts the search here instead of at random noise: an inverted picture, a centroid, "
            "points between two seeds, an earlier seed. As many as the batch. With several first "
            "draws, random ones compete with it. The seed of a search that was stopped goes on "
            "with the iterations that are left, if no setting but the start number has changed."
        ),
    )
