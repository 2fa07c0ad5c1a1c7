"""The node that optimizes seeds."""

import logging
import math

import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image
from server import PromptServer

from ..seedselect_core.host.differentiable_samplers import REFUSED
from ..seedselect_core.optimize import draw_references, optimize_seed
from ..seedselect_core.search import Progress
from ..seedselect_core.seed import MAX_VALUES, SamplingSettings, Seed
from ..seedselect_core.settings import OPTIMIZERS, PRESETS, SCHEDULES, SHELLS, Settings
from ..seedselect_core.vae_codec import host_pictures
from .encoders import encoder_input, image_encoder
from .seeds import save_numbered
from .types import ReferenceSetType, SeedHistoryType, SeedType, require_seed

CUSTOM = "custom"
DEFAULT = PRESETS["default"]
PREVIEW_SIZE = 512
CONTRAST_PICTURES = 4


class SeedSelectOptimize(io.ComfyNode):
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
                *descent_inputs(),
                SeedType.Input(
                    "start",
                    optional=True,
                    tooltip=(
                        "Starts the search here instead of at random noise: an inverted picture, a "
                        "centroid, points between two seeds, an earlier seed. As many as the "
                        "batch. With several candidates, random draws compete with it."
                    ),
                ),
                *contrast_inputs(),
            ],
            outputs=outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        vae,
        clip_vision,
        references,
        latent,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        preset,
        start=None,
        contrast=None,
        contrast_prompt=None,
        **custom,
    ) -> io.NodeOutput:
        if start is not None:
            require_seed("start", start)
        settings = chosen_settings(preset, custom)
        show = Display(cls.hidden.unique_id)
        sampling = SamplingSettings(steps, cfg, sampler_name, scheduler, seed)
        if contrast is None and contrast_prompt is not None:
            contrast = draw_contrast(model, contrast_prompt, negative, vae, latent, sampling)

        best, drawn, history = optimize_seed(
            model,
            positive,
            negative,
            vae,
            image_encoder(clip_vision),
            references,
            latent,
            sampling,
            settings,
            start=start,
            contrast=contrast,
            on_progress=show,
            on_unfinished=show.keep,
            on_note=show.text,
        )
        return io.NodeOutput(best, show.pictures(vae, drawn, best), history)


def chosen_settings(preset: str, custom: dict) -> Settings:
    """Those of the preset, or the node's own values."""
    if preset != CUSTOM:
        return PRESETS[preset]
    weights = custom["step_weights"]
    try:
        numbers = tuple(float(part) for part in weights.split(","))
    except ValueError:
        numbers = ()  # refused below with the rule for it
    return Settings(**custom | {"step_weights": numbers})


class Display:
    """Progress bar, the best pictures so far as preview, and the losses as text."""

    def __init__(self, node_id: str):
        self.node_id, self.bar = node_id, comfy.utils.ProgressBar(1, node_id)

    def text(self, message: str) -> None:
        PromptServer.instance.send_progress_text(message, self.node_id)

    def keep(self, best: Seed) -> None:
        """Save what an error or Cancel would lose, and say where it is."""
        parts = best.noise.split(max(1, MAX_VALUES // best.noise[0].numel()))  # a file's most
        for noise in parts:
            one = best if len(parts) == 1 else best.with_noise(noise)
            path = save_numbered(one, "seeds/unfinished")
        logging.info("SeedSelect: the best seed so far is in %s", path)
        self.text(f"Stopped. The best seed so far is in the output folder: {path.name}")

    def pictures(self, vae, drawn: dict, best: Seed) -> torch.Tensor:
        """Decode what ``best`` draws; the host loses the seed too if that does not end well."""
        try:
            return host_pictures(vae, drawn["samples"])
        except BaseException:
            self.keep(best)
            raise

    def __call__(self, progress: Progress) -> None:
        preview = None
        if progress.new_best:
            best = progress.best
            preview = ("JPEG", grid(best.images), PREVIEW_SIZE)
            now, first = best.semantic.mean(), best.first_semantic.mean()
            self.text(
                f"iteration {progress.iteration}: semantic loss {now:.4f}, was {first:.4f} "
                f"(mean of {len(best.semantic)} seeds, {progress.finished} done)"
            )
        self.bar.update_absolute(progress.done, progress.planned, preview)


def grid(images: torch.Tensor) -> Image.Image:
    """Up to nine pictures [B, H, W, 3] side by side."""
    images = images[:9]
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[1:3]
    grid = torch.zeros(rows * height, columns * width, 3)
    images = images.float().clamp(0, 1)  # some VAEs go beyond
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        grid[top : top + height, left : left + width] = image
    return Image.fromarray((grid * 255).round().to(torch.uint8).numpy())


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
            control_after_generate=True,
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


def draw_contrast(model, prompt, negative, vae, latent, sampling):
    """What 'contrast_prompt' stands for, as a REFERENCE_SET."""
    return draw_references(model, prompt, negative, vae, latent, sampling, CONTRAST_PICTURES)


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


def descent_inputs() -> list:
    def number(name: str, tip: str, high: float, step: float) -> io.Float.Input:
        value = getattr(DEFAULT, name)
        return io.Float.Input(name, default=value, min=0.0, max=high, step=step, tooltip=tip)

    def whole(name: str, tip: str, low: int, high: int) -> io.Int.Input:
        return io.Int.Input(name, default=getattr(DEFAULT, name), min=low, max=high, tooltip=tip)

    return [
        io.Combo.Input(
            "preset",
            options=[*PRESETS, CUSTOM],
            default="default",
            tooltip=(
                "default: what works best here. paper: the published settings. custom: the values "
                "below, which the presets ignore."
            ),
        ),
        whole("iterations", "Gradient steps on the noise.", 0, 10000),
        number("learning_rate", "Size of a step; the noise has unit variance.", 100.0, 0.001),
        io.Combo.Input(
            "optimizer",
            options=list(OPTIMIZERS),
            default=DEFAULT.optimizer,
            tooltip="adamw, or sgd with Nesterov momentum (use a learning rate of about 5).",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            default=DEFAULT.schedule,
            tooltip="Learning rate over the run; published: a tenth after three iterations.",
        ),
        number("clip_norm", "Largest gradient norm of a seed; 0 for no limit.", 1000.0, 0.01),
        number("semantic_weight", "Likeness to the references as the encoder sees it.", 1e4, 0.1),
        number("appearance_weight", "Likeness of latents: colours and layout too.", 1e4, 0.1),
        number("norm_weight", "Keeps the noise as long as Gaussian noise is.", 1e4, 0.001),
        number("contrast_weight", "Push away from 'contrast', where it is connected.", 1e4, 0.1),
        io.String.Input(
            "step_weights",
            default=", ".join(str(weight) for weight in DEFAULT.step_weights),
            tooltip="Semantic loss on the last denoising steps, last one last; they sum to 1.",
        ),
        whole("views", "Slightly moved views of each picture that the encoder compares.", 1, 64),
        whole("candidates", "Draws per seed of which the best starts the descent.", 1, 10000),
        whole(
            "draft_steps",
            "Candidates are compared by drafts in so few steps (2 or more); 0: each in full.",
            0,
            10000,
        ),
        whole("neighbours", "Then so many tries nearby, without a gradient.", 0, 10000),
        number("neighbour_angle", "How far those are: radians, 1.57 is anywhere.", 1.571, 0.01),
        whole(
            "gradient_steps",
            "Last denoising steps that are differentiated; 0: all, the exact gradient.",
            0,
            10000,
        ),
        io.Combo.Input(
            "shell",
            options=list(SHELLS),
            default=DEFAULT.shell,
            tooltip="After each step put the noise back: nowhere, to its usual norm, by channel.",
        ),
        number("target", "A seed is done this near; 1: as the references; 0: never.", 10.0, 0.01),
        whole("patience", "Stop after so many iterations without progress; 0: never.", 0, 10000),
    ]
