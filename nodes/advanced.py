"""The node that optimizes seeds for whatever graph the host's custom sampling takes."""

from comfy_api.latest import io

from ..seedselect_core.chain.unroll import Denoising
from ..seedselect_core.host.samplers import sampler_name
from ..seedselect_core.search.optimize import optimize_noise
from ..seedselect_core.search.scene import CustomScene
from ..seedselect_core.seeds.schema import LONGEST_NAME
from ..seedselect_core.seeds.seed import CustomSampling
from ..seedselect_core.text import printable
from .display import Display, Searching
from .encoders import image_encoder
from .inputs import (
    likeness_inputs,
    memory_input,
    outputs,
    search_vae_input,
    settings_inputs,
    settings_of,
)
from .sockets import ReferenceSetType, inputs_checked


class SeedSelectOptimizeAdvanced(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectOptimizeAdvanced",
            display_name="SeedSelect Optimize (Advanced)",
            category="SeedSelect",
            description=(
                "'SeedSelect Optimize' for any graph of 'SamplerCustomAdvanced': connect the same "
                "NOISE, GUIDER, SAMPLER and SIGMAS, and give it the seed by 'Seed To Noise'."
            ),
            search_aliases=["optimize noise", "guider", "sigmas", "custom sampling", "seedselect"],
            inputs=[
                io.Noise.Input(
                    "noise",
                    tooltip=(
                        "Where the search starts: RandomNoise, or 'Seed To Noise' to go on, also "
                        "with the unfinished seed of a search that was stopped."
                    ),
                ),
                io.Guider.Input(
                    "guider", tooltip="Model and prompts: BasicGuider, CFGGuider or any other."
                ),
                io.Sampler.Input("sampler", tooltip="From KSamplerSelect or a sampler node."),
                io.Sigmas.Input("sigmas", tooltip="The schedule, from any scheduler node."),
                *likeness_inputs(),
                *settings_inputs(),
                ReferenceSetType.Input(
                    "contrast",
                    optional=True,
                    tooltip="Pictures of what the model draws instead: the search pushes away.",
                ),
                io.Boolean.Input(
                    "check_gradient",
                    default=False,
                    tooltip=(
                        "Compare the gradient with a finite difference before the search, which "
                        "costs about eight samplings. Whatever nobody has proven is "
                        "checked in any case."
                    ),
                ),
                memory_input(),
                search_vae_input(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @inputs_checked
    def execute(
        cls,
        noise,
        guider,
        sampler,
        sigmas,
        vae,
        clip_vision,
        references,
        latent,
        preset,
        check_gradient,
        contrast=None,
        search_vae=None,
        **values,
    ) -> io.NodeOutput:
        show = Display(cls.hidden.unique_id, cls.settled)
        sampling = CustomSampling(
            printable(type(guider).__name__, LONGEST_NAME),
            printable(sampler_name(sampler), LONGEST_NAME),
            tuple(sigmas.tolist()),
            noise.seed,
        )
        denoising = Denoising(guider, sampler, sigmas)
        best, drawn, history = optimize_noise(
            CustomScene(denoising, vae, image_encoder(clip_vision), references, latent, search_vae),
            sampling,
            settings_of(preset, values),
            start=noise,
            contrast=contrast,
            check_gradient=check_gradient,
            callbacks=show.callbacks(),
        )
        return io.NodeOutput(best, show.pictures(vae, drawn, best), history)
