"""The node that samples an optimized seed."""

import latent_preview
from comfy_api.latest import io

from ..seedselect_core.chain.sampling import sample_from_seed
from . import graph
from .inputs import drawing_inputs
from .sockets import SeedType, inputs_checked


class SampleFromSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSampleFromSeed",
            display_name="Sample From Seed",
            category="SeedSelect",
            description=(
                "A KSampler that starts from found noise. With model, prompt and settings as they "
                "were, it draws the very picture that the search ended with."
            ),
            search_aliases=["ksampler", "custom noise", "draw again", "seedselect"],
            inputs=[
                io.Model.Input("model", tooltip="The model that the seed was optimized for."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                SeedType.Input("seed", tooltip="From 'SeedSelect Optimize' or 'Load Seed'."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="Only for inpainting: the latent that the seed was optimized on.",
                ),
                io.DynamicCombo.Input(
                    "settings",
                    options=[
                        io.DynamicCombo.Option("as the seed says", []),
                        io.DynamicCombo.Option("my own", drawing_inputs()),
                    ],
                    tooltip=(
                        "Steps, cfg, sampler and scheduler: those that the noise was found with, "
                        "which draw the same picture; or your own."
                    ),
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For VAE Decode.")],
            hidden=[*graph.HIDDEN],
        )

    @classmethod
    @inputs_checked
    def execute(
        cls, model, positive, negative, seed, settings, latent=None, **own
    ) -> io.NodeOutput:
        sampling = seed.sampling.override(**own)
        graph.tell_differences(seed, cls.hidden, [cls.hidden.unique_id])
        graph.record(cls.hidden, seed)
        callback = latent_preview.prepare_callback(model, sampling.steps)
        return io.NodeOutput(
            sample_from_seed(model, positive, negative, seed, sampling, latent, callback)
        )
