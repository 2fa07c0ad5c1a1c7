"""The node that optimizes seeds."""

from comfy_api.latest import io

from ..seedselect_core.search.optimize import optimize_seed
from .display import Display, Searching
from .inputs import (
    connections,
    contrast_inputs,
    contrast_of,
    memory_input,
    outputs,
    sampling_inputs,
    sampling_of,
    scene_of,
    search_vae_input,
    settings_inputs,
    settings_of,
)
from .sockets import SeedType, inputs_checked


class SeedSelectOptimize(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectOptimize",
            display_name="SeedSelect Optimize",
            category="SeedSelect",
            description=(
                "Finds initial noise from which the model draws what the references show. The "
                "model itself is not changed. An iteration costs about two samplings at 10 steps, "
                "one and a half at 20, and four where gradient_steps is 0."
            ),
            search_aliases=["optimize noise", "rare concept", "seedselect"],
            inputs=[
                *connections(),
                *sampling_inputs(),
                *settings_inputs(),
                memory_input(),
                SeedType.Input(
                    "start",
                    optional=True,
                    tooltip=(
                        "Starts the search here instead of at random noise: an inverted picture, a "
                        "centroid, points between two seeds, an earlier seed. As many as the "
                        "batch. With several candidates, random draws compete with it. The seed of "
                        "a search that was stopped goes on with the iterations that are left, if "
                        "no setting but the seed's number has changed."
                    ),
                ),
                *contrast_inputs(),
                search_vae_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @inputs_checked
    def execute(cls, preset, start=None, **values) -> io.NodeOutput:
        settings = settings_of(preset, values)
        show = Display(cls.hidden.unique_id, cls.settled)
        scene = scene_of(values)
        sampling = sampling_of(values)
        best, drawn, history = optimize_seed(
            scene,
            sampling,
            settings,
            start=start,
            contrast=contrast_of(values, scene, sampling),
            callbacks=show.callbacks(),
        )
        return io.NodeOutput(best, show.pictures(scene.vae, drawn, best), history)
