"""Inputs and outputs that several nodes share, and what the core makes of them."""

from collections.abc import Callable, Container
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seedselect_core.chain.sampling import draw_references
from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.host.samplers import REFUSED
from ..seedselect_core.likeness.encoders import ImageEncoder
from ..seedselect_core.memory.failures import with_room
from ..seedselect_core.memory.levels import AUTOMATIC
from ..seedselect_core.references import ReferenceSet
from ..seedselect_core.search.scene import Scene
from ..seedselect_core.search.settings import MEMORY
from ..seedselect_core.seeds.seed import SamplingSettings
from .encoders import encoder_input, image_encoder
from .sockets import ReferenceSetType, SeedType

CONTRAST_PICTURES = 4


def only(name: str, values: list) -> Any:
    """The value of an input that takes one, on a node that takes lists."""
    if len(values) != 1:
        raise SeedSelectError(
            f"{name}: a list of {len(values)} values came, and the node takes one. Connect a "
            "single value, or set it on the node."
        )
    return values[0]


def scene_of(graph: dict, tell: Callable[[str], None]) -> Scene:
    """What `connections` gave a node, by the names of its inputs; see `image_encoder`."""
    return Scene(
        graph["model"],
        graph["positive"],
        graph["negative"],
        graph["vae"],
        image_encoder(graph.get("clip_vision"), graph["model"], tell),
        graph["references"],
        graph["latent"],
        graph.get("search_vae"),
        further_encoders(graph),
        second_opinion(graph),
    )


def further_encoders(graph: dict) -> list[ImageEncoder]:
    """What is connected to `clip_vision_2`."""
    connected = graph.get("clip_vision_2")
    return [] if connected is None else [image_encoder(connected)]


def second_opinion(graph: dict) -> ImageEncoder | None:
    """What is connected to `second_opinion`."""
    connected = graph.get("second_opinion")
    return None if connected is None else image_encoder(connected)


def sampling_of(values: dict) -> SamplingSettings:
    """What `sampling_inputs` gave a node, by the names of its inputs."""
    names = ("steps", "cfg", "sampler_name", "scheduler", "seed")
    return SamplingSettings(*(values[name] for name in names))


def contrast_of(graph: dict, scene: Scene, sampling: SamplingSettings) -> ReferenceSet | None:
    """What `contrast_inputs` gave a node: the pictures, or those that the prompt draws."""
    pictures = graph.get("contrast")
    prompt = graph.get("contrast_prompt")
    if pictures is not None or prompt is None:
        return pictures
    return with_room(
        draw_references,
        *[
            (scene.model, prompt, scene.negative, scene.vae, scene.latent, sampling, count)
            for count in (CONTRAST_PICTURES, 1)
        ],
        where="drawing pictures of contrast_prompt",
        remedy="Lower the size of 'Empty Latent Image', or connect pictures to 'contrast'.",
    )


def connections() -> list:
    return [
        io.Model.Input("model", tooltip="Any image model, with LoRAs and patches as you like."),
        io.Conditioning.Input("positive", tooltip="The prompt. Name the concept as usual."),
        io.Conditioning.Input("negative", tooltip="The negative prompt."),
        *likeness_inputs(),
    ]


def likeness_inputs() -> list:
    """What the pictures are compared by, and their size."""
    return [
        io.Vae.Input("vae", tooltip="The VAE of the model."),
        ReferenceSetType.Input("references", tooltip="Pictures of the concept, three to five."),
        io.Latent.Input(
            "latent",
            tooltip="Size of the picture. Its batch is the number of noises searched together.",
        ),
        encoder_input(
            "clip_vision",
            "Judges likeness to the references: CLIP, SigLIP or DINO. Not connected: a known one "
            "in models/clip_vision.",
        ),
    ]


def outputs() -> list:
    return [
        SeedType.Output(
            "seed",
            display_name="found noise",
            tooltip="The best noise found, for 'Sample From Seed' and 'Save Seed'.",
        ),
        io.Image.Output("images", tooltip="What the found noise draws."),
        io.Image.Output("before", tooltip="What the first noise drew, to compare with."),
        io.Latent.Output("latent", tooltip="The images as latents: no need to sample again."),
        io.LossMap.Output(
            "loss", tooltip="Mean loss of each picture drawn, for 'Plot Loss Graph'."
        ),
    ]


def sampling_inputs(refused: Container[str] = REFUSED) -> list:
    """A KSampler's, without the samplers that are ``refused``."""
    return [
        io.Int.Input(
            "seed",
            display_name="start number",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            # Another number would search anew as soon as a node is added behind this one, and lose
            # what was found.
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Where the search starts: the noise that a KSampler has for this seed.",
        ),
        *drawing_inputs(refused),
    ]


def drawing_inputs(refused: Container[str] = ()) -> list:
    """How a KSampler draws from the noise that it has."""
    return [
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10000,
            tooltip="Denoising steps. Time grows with them, memory does not.",
        ),
        io.Float.Input(
            "cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Classifier-free guidance."
        ),
        io.Combo.Input(
            "sampler_name",
            options=[name for name in comfy.samplers.SAMPLER_NAMES if name not in refused],
            default="ddim",
            tooltip="Any of the host's. Whose gradient nobody has proven is checked first.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            default="normal",
            tooltip="How the noise levels are spread over the steps.",
        ),
    ]


def extras_input(inputs: list) -> io.DynamicCombo.Input:
    """Inputs that take no height where nobody needs them."""
    return io.DynamicCombo.Input(
        "extras",
        options=[io.DynamicCombo.Option("off", []), io.DynamicCombo.Option("on", inputs)],
        tooltip=f"on: shows {', '.join(socket.id for socket in inputs)}.",
    )


def contrast_input() -> io.Input:
    return ReferenceSetType.Input(
        "contrast",
        optional=True,
        tooltip="Pictures of what the model draws instead: the search pushes away from them.",
    )


def contrast_inputs() -> list:
    return [
        contrast_input(),
        io.Conditioning.Input(
            "contrast_prompt",
            optional=True,
            tooltip=(
                "The same, as a prompt: a few plain pictures of it are drawn. Not needed where "
                "'contrast' is connected."
            ),
        ),
    ]


def further_encoder_inputs() -> list:
    """Encoders beside `clip_vision`, that make it harder to fool."""
    return [
        encoder_input(
            "clip_vision_2",
            "Another image encoder, of another kind, which counts as much: two are harder to fool.",
        ),
        encoder_input(
            "second_opinion",
            "An image encoder that only looks on: the best picture is one that it likes too.",
        ),
    ]


def search_vae_input() -> io.Vae.Input:
    return io.Vae.Input(
        "search_vae",
        optional=True,
        tooltip=(
            "A small VAE for the same latents (TAESD: 'Load VAE'), which decodes while searching "
            "and needs far less memory. The last iterations and the picture are by 'vae'."
        ),
    )


def memory_input() -> io.Combo.Input:
    return io.Combo.Input(
        "memory",
        options=list(MEMORY),
        default=AUTOMATIC,
        tooltip=(
            "How gradients are taken, from fast to small. automatic: the fastest that the free "
            "memory holds, and a smaller one where it runs out. The gradient is the same in all "
            "but the last, which takes random steps and keeps the best."
        ),
        advanced=True,
    )
