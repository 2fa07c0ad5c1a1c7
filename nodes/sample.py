"""The node that samples an optimized seed."""

import comfy.samplers
import latent_preview
from comfy_api.latest import io

from ..seedselect_core.chain.sampling import sample_from_seed
from .sockets import SeedType, inputs_checked

FROM_SEED = "from the seed"


class SampleFromSeed(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSampleFromSeed",
            display_name="Sample From Seed",
            category="SeedSelect",
            description=(
                "A KSampler that starts from an optimized seed. With model, prompt and settings as "
                "they were, it draws the very picture that the optimization ended with."
            ),
            search_aliases=["ksampler", "seedselect"],
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
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=10000,
                    tooltip="Denoising steps; 0 takes the number from the seed.",
                ),
                io.Float.Input(
                    "cfg",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Guidance; -1 takes it from the seed.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=[FROM_SEED, *comfy.samplers.SAMPLER_NAMES],
                    default=FROM_SEED,
                    tooltip="Any sampler of the host, or the one the seed was optimized with.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[FROM_SEED, *comfy.samplers.SCHEDULER_NAMES],
                    default=FROM_SEED,
                    tooltip="Any scheduler of the host, or the one the seed was optimized with.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="For VAE Decode.")],
        )

    @classmethod
    @inputs_checked
    def execute(
        cls, model, positive, negative, seed, steps, cfg, sampler_name, scheduler, latent=None
    ) -> io.NodeOutput:
        sampling = seed.sampling.override(
            steps=steps or None,
            cfg=None if cfg < 0 else cfg,  # not a number goes on, and is refused
            sampler_name=sampler_name if sampler_name != FROM_SEED else None,
            scheduler=scheduler if scheduler != FROM_SEED else None,
        )
        callback = latent_preview.prepare_callback(model, sampling.steps)
        return io.NodeOutput(
            sample_from_seed(model, positive, negative, seed, sampling, latent, callback)
        )
