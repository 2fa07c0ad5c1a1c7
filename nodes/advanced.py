"""The node that optimizes seeds for whatever graph the host's custom sampling takes."""

from comfy_api.latest import io

from ..seedselect_core.chain.unroll import Denoising
from ..seedselect_core.host.samplers import sampler_name
from ..seedselect_core.search.optimize import optimize_noise
from ..seedselect_core.search.scene import CustomScene
from ..seedselect_core.seeds.schema import LONGEST_NAME
from ..seedselect_core.seeds.seed import CustomSampling
from ..seedselect_core.text import printable
from .display import STAYS, Display, Searching
from .encoders import image_encoder
from .graph import HIDDEN
from .inputs import (
    contrast_input,
    extras_input,
    further_encoder_inputs,
    further_encoders,
    likeness_inputs,
    memory_input,
    outputs,
    search_vae_input,
    second_opinion,
)
from .settings import settings_input, settings_of
from .sockets import inputs_checked


class SeedSelectOptimizeAdvanced(Searching, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectOptimizeAdvanced",
            display_name="SeedSelect Optimize (Advanced)",
            category="SeedSelect/search",
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
                settings_input(),
                extras_input(
                    [
                        *further_encoder_inputs(),
                        contrast_input(),
                        search_vae_input(),
                        memory_input(),
                        _check_input(),
                    ]
                ),
            ],
            outputs=outputs(),
            hidden=[*HIDDEN],
            **STAYS,
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
        references,
        latent,
        preset,
        clip_vision=None,
        contrast=None,
        search_vae=None,
        check_gradient=False,
        **values,
    ) -> io.NodeOutput:
        show = Display(cls.hidden, cls.settled)
        show.advise(guider.model_patcher, getattr(guider, "cfg", 1.0))
        sampling = CustomSampling(
            printable(type(guider).__name__, LONGEST_NAME),
            printable(sampler_name(sampler), LONGEST_NAME),
            tuple(sigmas.tolist()),
            noise.seed,
        )
        denoising = Denoising(guider, sampler, sigmas)
        encoder = image_encoder(clip_vision, guider.model_patcher, show.remark)
        best, drawn, history = optimize_noise(
            CustomScene(
                denoising,
                vae,
                encoder,
                references,
                latent,
                search_vae,
                further_encoders(values),
                second_opinion(values),
            ),
            sampling,
            settings_of(preset, values),
            start=noise,
            contrast=contrast,
            check_gradient=check_gradient,
            callbacks=show.callbacks(),
        )
        return show.output(vae, best, drawn, history)


def _check_input() -> io.Boolean.Input:
    return io.Boolean.Input(
        "check_gradient",
        default=False,
        tooltip=(
            "Compare the gradient with a finite difference before the search, which costs about "
            "eight samplings. Whatever nobody has proven is checked in any case."
        ),
        advanced=True,
    )
