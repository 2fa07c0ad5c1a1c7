"""Inputs and outputs that several nodes share, and what the core makes of them."""

from dataclasses import replace
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..seedselect_core.chain.sampling import draw_references
from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.host.samplers import REFUSED
from ..seedselect_core.likeness.weights import LossWeights
from ..seedselect_core.memory.failures import with_room
from ..seedselect_core.memory.levels import AUTOMATIC
from ..seedselect_core.references import ReferenceSet
from ..seedselect_core.search.scene import Scene
from ..seedselect_core.search.settings import (
    MEMORY,
    OPTIMIZERS,
    PRESETS,
    SCHEDULES,
    SHELLS,
    Settings,
)
from ..seedselect_core.seeds.seed import SamplingSettings
from .encoders import encoder_input, image_encoder
from .sockets import ReferenceSetType, SeedHistoryType, SeedType

CUSTOM = "custom"
DEFAULT = PRESETS["default"]
CONTRAST_PICTURES = 4
# Inputs that are loss weights, by their names in `LossWeights`.
WEIGHTS = {
    "semantic_weight": "semantic",
    "appearance_weight": "appearance",
    "norm_weight": "norm",
    "contrast_weight": "contrast",
}


def only(name: str, values: list) -> Any:
    """The value of an input that takes one, on a node that takes lists."""
    if len(values) != 1:
        raise SeedSelectError(
            f"{name}: a list of {len(values)} values came, and the node takes one. Connect a "
            "single value, or set it on the node."
        )
    return values[0]


def scene_of(graph: dict) -> Scene:
    """What `connections` gave a node, by the names of its inputs."""
    return Scene(
        graph["model"],
        graph["positive"],
        graph["negative"],
        graph["vae"],
        image_encoder(graph["clip_vision"]),
        graph["references"],
        graph["latent"],
        graph.get("search_vae"),
    )


def sampling_of(values: dict) -> SamplingSettings:
    """What `sampling_inputs` gave a node, by the names of its inputs."""
    names = ("steps", "cfg", "sampler_name", "scheduler", "seed")
    return SamplingSettings(*(values[name] for name in names))


def settings_of(preset: str, values: dict) -> Settings:
    """Those of the preset, or the node's own values."""
    if preset != CUSTOM:
        return replace(PRESETS[preset], memory=values["memory"])
    own = {name: value for name, value in values.items() if name in Settings.__dataclass_fields__}
    weights = {field: values[name] for name, field in WEIGHTS.items()}
    try:
        steps = tuple(float(part) for part in values["step_weights"].split(","))
    except ValueError:
        steps = ()  # refused with the rule for it
    return Settings(**own, weights=LossWeights(**weights, steps=steps))


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
        encoder_input("Judges likeness to the references: CLIP, SigLIP or DINO. Load CLIP Vision."),
        ReferenceSetType.Input("references", tooltip="Pictures of the concept, three to five."),
        io.Latent.Input(
            "latent",
            tooltip="Size of the picture. Its batch is the number of seeds optimized together.",
        ),
    ]


def outputs() -> list:
    return [
        SeedType.Output("seed", tooltip="The best noise found, for 'Sample From Seed'."),
        io.Image.Output("images", tooltip="What the best noise of each seed draws."),
        SeedHistoryType.Output(
            "history", tooltip="All losses: of each draw, then of each iteration."
        ),
    ]


def sampling_inputs() -> list:
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            # Another number would search anew as soon as a node is added behind this one, and lose
            # what was found.
            control_after_generate="fixed",  # older hosts have no name for it
            tooltip="Where the search starts: the noise that a KSampler has for this number.",
        ),
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
            options=[name for name in comfy.samplers.SAMPLER_NAMES if name not in REFUSED],
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


def contrast_inputs() -> list:
    return [
        ReferenceSetType.Input(
            "contrast",
            optional=True,
            tooltip="Pictures of what the model draws instead: the search pushes away from them.",
        ),
        io.Conditioning.Input(
            "contrast_prompt",
            optional=True,
            tooltip=(
                "The same, as a prompt: a few plain pictures of it are drawn. Not needed where "
                "'contrast' is connected."
            ),
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
        extra_dict={"advanced": True},  # older hosts know no argument for it
    )


def _number(name: str, tip: str, high: float, step: float) -> io.Float.Input:
    owner = DEFAULT.weights if name in WEIGHTS else DEFAULT
    value = getattr(owner, WEIGHTS.get(name, name))
    return io.Float.Input(name, default=value, min=0.0, max=high, step=step, tooltip=tip)


def _whole(name: str, tip: str, low: int, high: int) -> io.Int.Input:
    return io.Int.Input(name, default=getattr(DEFAULT, name), min=low, max=high, tooltip=tip)


def _choice(name: str, options: tuple[str, ...], tip: str) -> io.Combo.Input:
    return io.Combo.Input(name, options=list(options), default=getattr(DEFAULT, name), tooltip=tip)


def preset_input(options: list[str], tip: str) -> io.Combo.Input:
    return io.Combo.Input("preset", options=options, default="default", tooltip=tip)


def settings_inputs() -> list:
    """The preset, and every value of `Settings` for those who choose "custom"."""
    return [
        preset_input(
            [*PRESETS, CUSTOM],
            "default: what works best here. paper: the published settings. custom: the values "
            "below, which the presets ignore.",
        ),
        *_descent_inputs(),
        *_loss_inputs(),
        *_start_inputs(),
        *_ending_inputs(),
    ]


def _descent_inputs() -> list:
    return [
        _whole("iterations", "Gradient steps on the noise.", 0, 10000),
        _number("learning_rate", "Size of a step; the noise has unit variance.", 100.0, 0.001),
        _choice(
            "optimizer",
            OPTIMIZERS,
            "adamw, or sgd with Nesterov momentum (use a learning rate of about 5).",
        ),
        _choice(
            "schedule",
            SCHEDULES,
            "Learning rate over the run; published: a tenth after three iterations.",
        ),
        _number("clip_norm", "Largest gradient norm of a seed; 0 for no limit.", 1000.0, 0.01),
    ]


def _loss_inputs() -> list:
    return [
        _number("semantic_weight", "Likeness to the references as the encoder sees it.", 1e4, 0.1),
        _number("appearance_weight", "Likeness of latents: colours and layout too.", 1e4, 0.1),
        _number("norm_weight", "Keeps the noise as long as Gaussian noise is.", 1e4, 0.001),
        _number("contrast_weight", "Push away from 'contrast', where it is connected.", 1e4, 0.1),
        io.String.Input(
            "step_weights",
            default=", ".join(str(weight) for weight in DEFAULT.weights.steps),
            tooltip="Semantic loss on the last denoising steps, last one last; they sum to 1.",
        ),
        _whole("views", "Slightly moved views of each picture that the encoder compares.", 1, 64),
    ]


def _start_inputs() -> list:
    return [
        _whole("candidates", "Draws per seed of which the best starts the descent.", 1, 10000),
        _whole(
            "draft_steps",
            "Candidates are compared by drafts in so few steps (2 or more); 0: each in full.",
            0,
            10000,
        ),
        _whole("neighbors", "Then so many tries nearby, without a gradient.", 0, 10000),
        _number("neighbor_angle", "How far those are: radians, 1.57 is anywhere.", 1.571, 0.01),
    ]


def _ending_inputs() -> list:
    return [
        _whole(
            "gradient_steps",
            "Last denoising steps that are differentiated; 0: all, the exact gradient.",
            0,
            10000,
        ),
        _choice(
            "shell",
            SHELLS,
            "After each step put the noise back: nowhere, to its usual norm, by channel.",
        ),
        _number("target", "A seed is done this near; 1: as the references; 0: never.", 10.0, 0.01),
        _whole("patience", "Stop after so many iterations without progress; 0: never.", 0, 10000),
    ]
