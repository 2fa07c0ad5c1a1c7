"""The Seed: optimized noise, and the settings under which it draws what it was optimized for.

File format: safetensors with one tensor ``noise`` and, as metadata ``seedselect``, a JSON object of
the other fields. Seeds travel between strangers, so a file is read without running anything from
it, and every field is checked before it is used.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import comfy.sample
import comfy.samplers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import Rule, SeedSelectError, require_rules
from .rescue import Unfinished, write_whole

FORMAT = 1
NO_STEP = "sigmas: there is no step to denoise. Connect a scheduler with one step or more."
MAX_VALUES = 2**26  # 256 MiB of float32: 64 latents of 2048 x 2048 pixels, 16 channels


def _seed_rule(seed) -> Rule:
    holds = type(seed) is int and 0 <= seed < 2**64
    return Rule("seed", holds, "a whole number of 0 to 2^64 - 1", seed)


@dataclass(frozen=True)
class SamplingSettings:
    """What a KSampler is told: a seed draws the same picture only with the same."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int

    def __post_init__(self):
        steps = type(self.steps) is int and 1 <= self.steps <= 10_000
        cfg = type(self.cfg) in (int, float) and 0 <= self.cfg <= 100
        sampler = self.sampler_name in comfy.samplers.SAMPLER_NAMES
        scheduler = self.scheduler in comfy.samplers.SCHEDULER_NAMES
        require_rules(
            Rule("steps", steps, "a whole number of 1 to 10,000", self.steps),
            Rule("cfg", cfg, "a number of 0 to 100", self.cfg),
            Rule("sampler_name", sampler, "one of the host's samplers", self.sampler_name),
            Rule("scheduler", scheduler, "one of the host's schedulers", self.scheduler),
            _seed_rule(self.seed),
        )

    def override(self, **changes) -> "SamplingSettings":
        """A copy with those of ``changes`` that are not None."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})

    def describe(self) -> str:
        """What is set, for a user to read."""
        return f"{self.sampler_name}, {self.scheduler}, {self.steps} steps, cfg {self.cfg}"


@dataclass(frozen=True)
class CustomSampling:
    """How a graph of GUIDER, SAMPLER and SIGMAS drew a seed.

    It names them, for people; sampling again needs the graph.

    Attributes:
        guider: class of the guider.
        sampler: the host's name of the sampler.
        sigmas: the schedule, steps + 1 numbers, descending.
        seed: number of the NOISE, also that of what a sampler adds on the way.
    """

    guider: str
    sampler: str
    sigmas: tuple[float, ...]
    seed: int

    def __post_init__(self):
        if isinstance(self.sigmas, tuple) and len(self.sigmas) < 2:
            raise SeedSelectError(NO_STEP)
        numbers = isinstance(self.sigmas, tuple) and all(
            type(sigma) is float and 0 <= sigma < 1e9 for sigma in self.sigmas
        )
        guider = isinstance(self.guider, str) and len(self.guider) <= 100
        sampler = isinstance(self.sampler, str) and len(self.sampler) <= 100
        sigmas = numbers and len(self.sigmas) <= 10_001
        require_rules(
            Rule("guider", guider, "a name of at most 100 letters", self.guider),
            Rule("sampler", sampler, "a name of at most 100 letters", self.sampler),
            Rule("sigmas", sigmas, "at most 10,001 numbers of 0 or more", self.sigmas),
            _seed_rule(self.seed),
        )

    def override(self, **changes) -> SamplingSettings:
        """The settings that ``changes`` give in full.

        Raises:
            SeedSelectError: one is missing, and a KSampler cannot take it from here.
        """
        given = {"seed": self.seed} | {k: v for k, v in changes.items() if v is not None}
        missing = [f.name for f in fields(SamplingSettings) if f.name not in given]
        if missing:
            raise SeedSelectError(
                f"seed: it was found with {self.guider}, sampler {self.sampler} and sigmas of its "
                "own. To draw its picture, give it to SamplerCustomAdvanced by 'Seed To Noise', "
                f"with the same three; or set {', '.join(missing)} here."
            )
        return SamplingSettings(**given)

    def describe(self) -> str:
        """What is set, for a user to read."""
        return f"{self.guider}, {self.sampler}, {len(self.sigmas) - 1} steps of its own sigmas"


@dataclass(frozen=True)
class Seed:
    """Optimized noise of a batch of pictures.

    Attributes:
        noise: [B, C, h, w], or [B, C, T, h, w] where the model has latents of videos; float32 on
            the CPU, unit Gaussian before the sampler scales it.
        sampling: how it is to be sampled.
        latent_format: name of the host's latent format class of the model, such as "SDXL".
        semantic, first_semantic: semantic loss of each picture, optimized and as it was when one
            was first drawn in full.
        total: the whole loss of each picture.
        evaluations: what it cost: predictions by the guider, one for each picture, those that the
            backward pass makes again included.
        unfinished: how far the search had come, where it did not end.
        unfinished: how far the search had come, where this is the best of one that did not end.
    """

    noise: torch.Tensor
    sampling: SamplingSettings | CustomSampling
    latent_format: str = ""
    semantic: list[float] = field(default_factory=list)
    first_semantic: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    evaluations: int = 0
    unfinished: Unfinished | None = None

    def with_noise(self, noise: torch.Tensor) -> "Seed":
        """Other noise for the same model and settings; what it draws is not known."""
        return replace(self, noise=noise, semantic=[], first_semantic=[], total=[], unfinished=None)

    def parts(self) -> list["Seed"]:
        """This seed, in as many as it takes for a file to hold each."""
        parts = self.noise.split(max(1, MAX_VALUES // self.noise[0].numel()))
        return [self] if len(parts) == 1 else [self.with_noise(noise) for noise in parts]

    def require_fit(self, model, samples: torch.Tensor | None, name: str = "seed") -> None:
        """Raise `SeedSelectError` where this noise was made for another model or size.

        Args:
            name: the input's, for the message.
        """
        latent_format = model.get_model_object("latent_format")
        kind = type(latent_format).__name__
        channels = latent_format.latent_channels
        if channels != self.noise.shape[1] or self.latent_format not in ("", kind):
            raise SeedSelectError(
                f"{name}: made for latents of {self.latent_format or 'another kind'} with "
                f"{self.noise.shape[1]} channels, but the model's are {kind} with {channels}. "
                "Load the checkpoint that the seed was optimized with, or optimize a new seed."
            )
        if samples is not None:
            self.require_shape(samples)

    def require_shape(self, samples: torch.Tensor) -> None:
        """Raise `SeedSelectError` where a latent differs in size from the noise."""
        if samples.shape == self.noise.shape:
            return
        raise SeedSelectError(
            f"latent: the seed was made for {describe_batch(self.noise)}, the latent is "
            f"{describe_batch(samples)}. Give the empty latent the seed's size and batch."
        )

    def save(self, path: Path) -> None:
        """Write the file that `load_seed` reads."""
        write_whole(path, self.encoded())

    def encoded(self) -> bytes:
        """What the file of this seed holds.

        Raises:
            SeedSelectError: the noise is too large to be loaded again.
        """
        if self.noise.numel() > MAX_VALUES:
            raise SeedSelectError(
                f"seed: its noise has {self.noise.numel()} values, a file at most {MAX_VALUES}. "
                "Make fewer or smaller pictures at a time."
            )
        facts = asdict(replace(self, noise=None)) | {"format": FORMAT}
        del facts["noise"]
        with torch.inference_mode(False):
            noise = self.noise.clone()
        return save({"noise": noise}, {"seedselect": json.dumps(facts)})


def describe_batch(latents: torch.Tensor) -> str:
    """Number and shape of latents [B, C, ...], in an artist's words."""
    return f"{len(latents)} x {describe_shape(latents[0].shape)}"


def describe_shape(shape: Sequence[int]) -> str:
    """The shape of one latent, [C, h, w] or [C, T, h, w], in an artist's words."""
    frames = f", {shape[1]} latent frames" if len(shape) == 4 else ""
    return f"{shape[-1] * 8} x {shape[-2] * 8} pixels ({shape[0]} channels{frames})"


class SeedNoise:
    """A seed as the host's NOISE, for SamplerCustomAdvanced."""

    def __init__(self, seed: Seed):
        self.optimized = seed
        self.seed = seed.sampling.seed

    def generate_noise(self, input_latent: dict) -> torch.Tensor:
        self.optimized.require_shape(input_latent["samples"])
        # The host's RandomNoise leaves PyTorch's own generators in the state from which some
        # samplers go on; so the draw is made, though what it gives is not used.
        comfy.sample.prepare_noise(
            input_latent["samples"], self.seed, input_latent.get("batch_index")
        )
        return self.optimized.noise.clone()


def load_seed(path: Path) -> Seed:
    """Read a seed file.

    Raises:
        SeedSelectError: not a seed file, of a newer format, too large, or with values out of range.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("seedselect")
            if text is None or list(file.keys()) != ["noise"]:
                raise SeedSelectError(f"seed file: '{path.name}' is not a SeedSelect seed.")
            part = file.get_slice("noise")
            shape = part.get_shape()
            kind = part.get_dtype()
            if kind != "F32" or len(shape) not in (4, 5) or not 0 < math.prod(shape) <= MAX_VALUES:
                raise SeedSelectError(
                    f"seed file: the noise in '{path.name}' is {shape} {kind}; expected four "
                    f"or five dimensions of F32 and at most {MAX_VALUES} values."
                )
            noise = file.get_tensor("noise")
        facts = json.loads(text)
    except SeedSelectError:
        raise
    # ValueError: no JSON, or a number of too many digits.
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise SeedSelectError(f"seed file: '{path.name}' cannot be read as a seed.") from error
    return _checked(path.name, noise, facts)


def _checked(name: str, noise: torch.Tensor, facts) -> Seed:
    if not isinstance(facts, dict) or type(facts.get("format")) is not int:
        raise SeedSelectError(f"seed file: '{name}' is not a SeedSelect seed.")
    if facts["format"] != FORMAT:
        raise SeedSelectError(
            f"seed file: '{name}' has a format that this version cannot read. Update the node pack."
        )
    if not torch.isfinite(noise).all() or not noise.flatten(1).any(dim=1).all():
        raise SeedSelectError(
            f"seed file: the noise in '{name}' holds values that are no numbers, or nothing but 0."
        )
    sampling = facts.get("sampling")
    latent_format = facts.get("latent_format")
    kinds = {frozenset(f.name for f in fields(k)): k for k in (SamplingSettings, CustomSampling)}
    if not isinstance(sampling, dict) or frozenset(sampling) not in kinds:
        raise SeedSelectError(f"seed file: '{name}' does not tell how to sample it.")
    if isinstance(sampling.get("sigmas"), list):
        sampling["sigmas"] = tuple(sampling["sigmas"])
    sampling = kinds[frozenset(sampling)](**sampling)
    losses = {key: facts.get(key) for key in ("semantic", "first_semantic", "total")}
    numbers = all(
        isinstance(values, list)
        and len(values) in (0, len(noise))
        and all(type(v) in (int, float) and abs(v) < 1e9 for v in values)
        for values in losses.values()
    )
    if not numbers or not isinstance(latent_format, str) or len(latent_format) > 100:
        raise SeedSelectError(f"seed file: '{name}' holds fields that no seed has.")
    evaluations = facts.get("evaluations")
    if type(evaluations) is not int or evaluations < 0:
        raise SeedSelectError(f"seed file: '{name}' does not tell what it cost.")
    return Seed(
        noise,
        sampling,
        latent_format,
        **losses,
        evaluations=evaluations,
        unfinished=_unfinished(name, facts.get("unfinished")),
    )


def _unfinished(name: str, facts) -> Unfinished | None:
    if facts is None:
        return None
    known = {f.name for f in fields(Unfinished)}
    if not isinstance(facts, dict) or facts.keys() != known:
        raise SeedSelectError(f"seed file: '{name}' does not tell how far its search had come.")
    return Unfinished(**facts)
