"""Nodes that find seeds without optimizing: from a picture, and from other seeds."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.utils
import torch
from comfy_api.latest import io

from ..seedselect_core.chain.inversion import INVERTIBLE, Inversion, Refinement, invert_images
from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.likeness.vae import host_pictures
from ..seedselect_core.seeds.geometry import (
    linear_path,
    norms,
    shell_centroid,
    shell_path,
    shell_radius,
    spherical_path,
)
from ..seedselect_core.seeds.seed import MAX_VALUES, SamplingSettings, Seed, describe_shape
from .sockets import SeedType, inputs_checked

PATHS = {"norm-aware": shell_path, "spherical": spherical_path, "linear": linear_path}


def _mean(seeds: torch.Tensor) -> torch.Tensor:
    return seeds.mean(0)


def _scaled_mean(seeds: torch.Tensor) -> torch.Tensor:
    """The mean direction, at the seeds' mean norm."""
    mean = seeds.mean(0)
    if mean.norm() < 1e-6 * norms(seeds).mean():
        raise SeedSelectError(
            "seed: the seeds cancel each other out, so they have no mean direction. Set mode to "
            "norm-aware."
        )
    return mean * (norms(seeds).mean() / mean.norm())


CENTROIDS = {"norm-aware": shell_centroid, "spherical": _scaled_mean, "mean": _mean}


def joined(first: Seed, second: Seed | None, names: tuple[str, str]) -> torch.Tensor:
    """Noise [k, C, ...] of the pictures of both seeds.

    Raises:
        SeedSelectError: they are of another size, kind of latent, or settings; ``names`` are
            the inputs that the message speaks of.
    """
    a, b = names
    if second is None:
        return first.noise
    if first.noise.shape[1:] != second.noise.shape[1:]:
        raise SeedSelectError(
            f"{b}: it is for {describe_shape(second.noise.shape[1:])}, {a} for "
            f"{describe_shape(first.noise.shape[1:])}. Make both at the same size."
        )
    if first.latent_format != second.latent_format and first.latent_format and second.latent_format:
        raise SeedSelectError(
            f"{b}: it is for latents of {second.latent_format}, {a} for {first.latent_format}. Use "
            "seeds of the same model."
        )
    ignored = {"seed": 0}  # the number is where each search started
    if replace(first.sampling, **ignored) != replace(second.sampling, **ignored):
        raise SeedSelectError(
            f"{b}: it is sampled with {second.sampling.describe()}, {a} with "
            f"{first.sampling.describe()}. What lies between them means nothing then. Make both "
            "with the same settings."
        )
    return torch.cat([first.noise, second.noise])


def require_room(name: str, count: int, values: int) -> None:
    """Raise `SeedSelectError` where no file could hold ``count`` pictures of so many values."""
    if count * values > MAX_VALUES:
        raise SeedSelectError(
            f"{name}: {count} seeds of this size are more than a seed file may hold. Ask for at "
            f"most {MAX_VALUES // values}."
        )


def derived(noise: torch.Tensor, *parents: Seed | None) -> Seed:
    """A new seed of ``noise`` with the first parent's settings; its losses are not known."""
    parents = [parent for parent in parents if parent is not None]
    latent_format = next((p.latent_format for p in parents if p.latent_format), "")
    return Seed(noise, parents[0].sampling, latent_format, origin=parents[0].origin)


def report(found: Inversion) -> str:
    """What an artist needs to know of an inversion, a line for each picture."""
    noise = found.seed.noise
    usual = shell_radius(noise[0].numel())
    lines = [f"{found.seed.sampling.describe()}; {found.seed.evaluations} model evaluations"]
    for n, (rmse, relative, norm) in enumerate(
        zip(found.rmse.tolist(), found.relative.tolist(), norms(noise).tolist(), strict=True)
    ):
        lines.append(
            f"image {n + 1}: latent error {rmse:.4f} ({relative:.2%}), norm of the noise "
            f"{norm:.1f} (Gaussian noise: {usual:.1f})"
        )
    if (found.relative > 0.05).any():
        lines.append(
            "Some images are not drawn again: raise refinements, lower cfg, or use a prompt that "
            "describes them."
        )
    return "\n".join(lines)


class InvertImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectInvertImage",
            display_name="Invert Image To Seed",
            category="SeedSelect/seeds",
            description=(
                "Finds the noise from which model and prompt draw a given picture, by running the "
                "sampler backwards. 'Sample From Seed' then draws the picture again."
            ),
            search_aliases=[
                "unsampler",
                "ddim inversion",
                "image to noise",
                "invert",
                "seedselect",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any image model, with LoRAs and patches."),
                io.Conditioning.Input("positive", tooltip="A prompt that describes the picture."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Vae.Input("vae", tooltip="The VAE of the model."),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "One picture or a batch, at the size that the model draws. Edges that are "
                        "no multiple of the VAE's (8 pixels for most) are cut off."
                    ),
                ),
                *_inversion_inputs(),
            ],
            outputs=[
                SeedType.Output("seed", tooltip="For 'Sample From Seed' with the same prompts."),
                io.Image.Output("image", tooltip="What the seed draws: the picture again."),
                io.String.Output("report", tooltip="How near that is to the picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @inputs_checked
    def execute(
        cls,
        model,
        positive,
        negative,
        vae,
        image,
        steps,
        cfg,
        sampler_name,
        scheduler,
        refinements,
    ) -> io.NodeOutput:
        bar = comfy.utils.ProgressBar(1, cls.hidden.unique_id)

        def progress(done: int, planned: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update_absolute(done, planned)

        sampling = SamplingSettings(steps, cfg, sampler_name, scheduler, 0)
        found = invert_images(
            model,
            positive,
            negative,
            vae,
            image,
            sampling,
            refinement=Refinement(refinements),
            on_step=progress,
        )
        return io.NodeOutput(found.seed, host_pictures(vae, found.latent["samples"]), report(found))


def _inversion_inputs() -> list:
    return [
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Denoising steps to run back."),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip=(
                "Guidance. The higher it is, the further the noise lies from Gaussian "
                "noise; NAO inverts at 1."
            ),
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(INVERTIBLE),
            default="ddim",
            tooltip="Samplers that can be run backwards.",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.SCHEDULER_NAMES,
            default="normal",
            tooltip="How the noise levels are spread over the steps.",
        ),
        io.Int.Input(
            "refinements",
            default=20,
            min=1,
            max=1000,
            tooltip=(
                "Evaluations of each step at most; fewer where it is solved before. 1 is "
                "plain DDIM inversion, which does not give the picture back."
            ),
        ),
    ]


class SeedCentroid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSeedCentroid",
            display_name="Seed Centroid",
            category="SeedSelect/seeds",
            description="The seed in the middle of several: a new picture of what they share.",
            search_aliases=["average seeds", "mean noise", "blend seeds", "seedselect"],
            inputs=[
                SeedType.Input("seed", tooltip="A seed, usually of a batch of pictures."),
                SeedType.Input(
                    "other_seed",
                    optional=True,
                    tooltip="More seeds, of the same model, size and settings.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(CENTROIDS),
                    default="norm-aware",
                    tooltip=(
                        "norm-aware: the smallest sum of angles, at the likeliest norm (NAO). "
                        "spherical: the mean at the seeds' mean norm. mean: the plain mean, whose "
                        "pictures are flat."
                    ),
                ),
            ],
            outputs=[SeedType.Output("seed", tooltip="A seed of one picture.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed, mode, other_seed=None) -> io.NodeOutput:
        noise = CENTROIDS[mode](joined(seed, other_seed, ("seed", "other_seed")))
        return io.NodeOutput(derived(noise[None], seed, other_seed))


class InterpolateSeeds(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectInterpolateSeeds",
            display_name="Interpolate Seeds",
            category="SeedSelect/seeds",
            description="A batch of seeds on the way from one seed to another.",
            search_aliases=["seed travel", "slerp", "variation seed", "blend seeds", "seedselect"],
            inputs=[
                SeedType.Input("seed_a", tooltip="Where the path starts; its first picture."),
                SeedType.Input(
                    "seed_b",
                    tooltip=(
                        "Where it ends; its first picture. Same model, size and settings. The "
                        "same seed as the first: from its first picture to its last."
                    ),
                ),
                io.Int.Input(
                    "points",
                    default=8,
                    min=2,
                    max=1024,
                    tooltip="Pictures along the path, both ends included.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(PATHS),
                    default="norm-aware",
                    tooltip=(
                        "norm-aware: all points between at the likeliest norm (NAO). spherical: "
                        "norm and angle change evenly. linear: straight, flat pictures midway."
                    ),
                ),
            ],
            outputs=[SeedType.Output("seed", tooltip="A batch along the path.")],
        )

    @classmethod
    @inputs_checked
    def execute(cls, seed_a, seed_b, points, mode) -> io.NodeOutput:
        joined(seed_a, seed_b, ("seed_a", "seed_b"))
        require_room("points", points, seed_a.noise[0].numel())
        last = seed_b.noise[-1 if seed_b is seed_a else 0]
        path = PATHS[mode](seed_a.noise[0], last, points)
        return io.NodeOutput(derived(path, seed_a, seed_b))
