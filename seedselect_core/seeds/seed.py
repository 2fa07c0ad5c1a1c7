"""The Seed: optimized noise, and the settings under which it draws what it was optimized for.

File format (docs/seed-format.md): safetensors with one tensor ``noise`` and, as metadata
``seedselect``, a JSON object of the other fields. Seeds travel between strangers, so a file is read
without running anything from it, what is large is refused before it is read, and every field must
be what `schema.FIELDS` says.
"""

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType

import comfy.sample
import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from ..errors import Rule, SeedSelectError, require_rules
from ..text import printable
from .carrier import place_of_seed
from .origin import Origin
from .rescue import Unfinished, write_whole
from .schema import FIELDS, require_fields

# Raised when an older version would read a file wrongly. Every version reads all formats before it.
FORMAT = 1
NO_STEP = "sigmas: there is no step to denoise. Connect a scheduler with one step or more."
MAX_VALUES = 2**26  # 256 MiB of float32: 64 latents of 2048 x 2048 pixels, 16 channels
# Bytes of a file's header. safetensors itself reads up to 100 MB, for which it takes 30 times that.
MAX_HEADER = 2**20
HEADER_OF_NOISE = 2**10  # bytes of it that are not metadata, and more
LOSSES = ("semantic", "first_semantic", "total")
NO_GRAPH: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class SamplingSettings:
    """What a KSampler is told: a seed draws the same picture only with the same.

    The names may be those of another node pack. Only who samples with them must know them.
    """

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    seed: int

    def __post_init__(self):
        require_fields(vars(self))

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
        require_fields(vars(self))

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
                f"with the same three; or set your own {', '.join(missing)} here."
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
        semantic, first_semantic: semantic loss of each picture, optimized and as it was with the
            noise that the search was given.
        total: the whole loss of each picture.
        evaluations: what it cost: predictions by the guider, one for each picture, those that the
            backward pass makes again included.
        unfinished: how far the search had come, where this is the best of one that did not end.
        origin: what it was found with, as far as it is known.
    """

    noise: torch.Tensor
    sampling: SamplingSettings | CustomSampling
    latent_format: str = ""
    semantic: list[float] = field(default_factory=list)
    first_semantic: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)
    evaluations: int = 0
    unfinished: Unfinished | None = None
    origin: Origin = field(default_factory=Origin)

    def with_noise(self, noise: torch.Tensor) -> "Seed":
        """Other noise for the same model and settings; what it draws is not known."""
        return replace(self, noise=noise, semantic=[], first_semantic=[], total=[], unfinished=None)

    def take(self, places: Sequence[int]) -> "Seed":
        """Some pictures of the batch, by their places from 0, with what is known of each."""
        known = {
            name: [values[p] for p in places] for name in LOSSES if (values := getattr(self, name))
        }
        return replace(self.with_noise(self.noise[list(places)]), **known)

    def joined(self, other: "Seed") -> "Seed":
        """Both batches in one, sampled as this; of what is told, what both tell."""
        known = {}
        for name in LOSSES:
            mine, others = getattr(self, name), getattr(other, name)
            known[name] = mine + others if mine and others else []
        noise = torch.cat([self.noise, other.noise])
        return replace(
            self.with_noise(noise), evaluations=self.evaluations + other.evaluations, **known
        )

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

    def save(self, path: Path, graph: Mapping[str, str] = NO_GRAPH) -> None:
        """Write the file that `load_seed` reads; ``graph`` as for `encoded`."""
        write_whole(path, self.encoded(graph))

    def encoded(self, graph: Mapping[str, str] = NO_GRAPH) -> bytes:
        """What the file of this seed holds.

        Args:
            graph: texts by the keys under which the host's page looks for them in a file that is
                dropped on it, the most important last. What would make the header too large is
                left out.

        Raises:
            SeedSelectError: the noise is too large to be loaded again.
        """
        if self.noise.numel() > MAX_VALUES:
            raise SeedSelectError(
                f"seed: its noise has {self.noise.numel()} values, a file at most {MAX_VALUES}. "
                "Make fewer or smaller pictures at a time."
            )
        with torch.inference_mode(False):
            noise = self.noise.clone()
        facts = {"seedselect": self._facts()}
        kept = {}
        room = MAX_HEADER - HEADER_OF_NOISE - len(json.dumps(facts))
        for key, text in reversed(graph.items()):
            room -= len(json.dumps({key: text}))
            if room < 0:
                logging.warning("SeedSelect: the graph is too large for a seed file: left out.")
                break
            kept[key] = text
        return save({"noise": noise}, kept | facts)

    def _facts(self) -> str:
        """All but the noise, as a file holds it: what it could not be read with is left out."""
        facts = asdict(replace(self, noise=None)) | {"format": FORMAT}
        del facts["noise"]
        if self.unfinished is None:
            del facts["unfinished"]
        if self.origin == Origin():
            del facts["origin"]
        for name in ("latent_format", *LOSSES):
            if not FIELDS[name].holds(facts[name]):
                facts[name] = type(facts[name])()
        text = json.dumps(facts)
        if len(text) > MAX_HEADER // 2:  # of tens of thousands of pictures
            text = json.dumps(facts | {name: [] for name in LOSSES})
        return text


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
        """Noise for a LATENT; for a part of its batch ('Latent From Batch') that of those pictures.

        Raises:
            SeedSelectError: the seed was made for another size or number.
        """
        samples = input_latent["samples"]
        noise = self._of_places(input_latent.get("batch_index"))
        if noise.shape != samples.shape:
            noise = self.optimized.noise
            self.optimized.require_shape(samples)
        # The host's RandomNoise leaves PyTorch's own generators in the state from which some
        # samplers go on; so the draw is made, though what it gives is not used.
        comfy.sample.prepare_noise(samples, self.seed, input_latent.get("batch_index"))
        return noise.clone()

    def _of_places(self, places: Sequence[int] | None) -> torch.Tensor:
        noise = self.optimized.noise
        known = places is not None and all(0 <= place < len(noise) for place in places)
        return noise[list(places)] if known else noise


def load_seed(path: Path) -> Seed:
    """Read a seed file, or a picture that carries one.

    Raises:
        SeedSelectError: not a seed file, of a newer format, too large, or with values out of range.
    """
    try:
        text, noise = _read(path)
        return _seed_of(noise, json.loads(text))
    except SeedSelectError as error:
        raise SeedSelectError(f"seed file: '{path.name}' {error}") from None
    # ValueError: no JSON, or a number of too many digits.
    except (OSError, SafetensorError, ValueError, RecursionError):
        raise SeedSelectError(
            f"seed file: '{path.name}' cannot be read as a seed. Copy it again from where it came."
        ) from None


def _read(path: Path) -> tuple[str, torch.Tensor]:
    """The JSON text and the noise in a file, whose sizes are looked at before they are read.

    The file is not mapped into memory: one that is cut short meanwhile would end the process.
    """
    with open(path, "rb") as file:
        place, size = place_of_seed(file, os.fstat(file.fileno()).st_size)
        file.seek(place)
        start = file.read(8)
        header = int.from_bytes(start, "little")
        if header > MAX_HEADER:
            raise SeedSelectError(
                f"is not a SeedSelect seed: its header would have {header} bytes, that of a seed "
                f"has at most {MAX_HEADER}."
            )
        if size > 8 + header + 4 * MAX_VALUES:
            raise SeedSelectError(f"holds more noise than a seed: at most {MAX_VALUES} values.")
        content = start + file.read(max(0, size - 8))
    tensors = deserialize(content)
    text = (json.loads(content[8 : 8 + header]).get("__metadata__") or {}).get("seedselect")
    if not isinstance(text, str) or [name for name, _ in tensors] != ["noise"]:
        raise SeedSelectError("is not a SeedSelect seed.")
    shape = tensors[0][1]["shape"]
    kind = tensors[0][1]["dtype"]
    if kind != "F32" or len(shape) not in (4, 5) or not 0 < math.prod(shape) <= MAX_VALUES:
        raise SeedSelectError(
            f"holds noise of {printable(shape, 60)} {kind}; expected four or five dimensions of "
            f"F32 and at most {MAX_VALUES} values."
        )
    return text, torch.frombuffer(tensors[0][1]["data"], dtype=torch.float32).view(shape)


def _seed_of(noise: torch.Tensor, facts) -> Seed:
    """The seed that a file tells, each field checked."""
    if not isinstance(facts, dict) or type(facts.get("format")) is not int or facts["format"] < 1:
        raise SeedSelectError("is not a SeedSelect seed.")
    if facts["format"] > FORMAT:
        raise SeedSelectError("has a format that this version cannot read. Update the node pack.")
    if not torch.isfinite(noise).all() or not noise.flatten(1).any(dim=1).all():
        raise SeedSelectError("holds noise whose values are no numbers, or nothing but 0.")
    told = {f.name: facts.get(f.name) for f in fields(Seed) if f.name in FIELDS}
    try:
        require_fields(told)
        for name in LOSSES:
            count = len(told[name])
            rule = f"one number for each of {len(noise)} pictures"
            require_rules(Rule(name, count in (0, len(noise)), rule, f"{count} numbers"))
        sampling = _sampling_of(facts.get("sampling"))
        unfinished = _unfinished_of(facts.get("unfinished"))
        origin = _origin_of(facts.get("origin"))
        return Seed(noise, sampling, **told, unfinished=unfinished, origin=origin)
    except SeedSelectError as error:
        raise SeedSelectError(f"holds what no seed does: {error}") from None


def _sampling_of(facts) -> SamplingSettings | CustomSampling:
    """How to sample a seed, as a file tells it: the names of the fields say which kind it is."""
    kinds = {frozenset(f.name for f in fields(k)): k for k in (SamplingSettings, CustomSampling)}
    if not isinstance(facts, dict) or frozenset(facts) not in kinds:
        raise SeedSelectError("sampling: it does not tell how to sample the noise.")
    sigmas = facts.get("sigmas")
    if isinstance(sigmas, list):
        facts = facts | {"sigmas": tuple(sigmas)}
    return kinds[frozenset(facts)](**facts)


def _unfinished_of(facts) -> Unfinished | None:
    """How far the search had come, as a file tells it."""
    if facts is None:
        return None
    if not isinstance(facts, dict) or facts.keys() != {f.name for f in fields(Unfinished)}:
        raise SeedSelectError("unfinished: it does not tell how far its search had come.")
    return Unfinished(**facts)


def _origin_of(facts) -> Origin:
    """What a seed was found with, as a file tells it. It may tell more, or less."""
    if facts is None:
        return Origin()
    if not isinstance(facts, dict):
        raise SeedSelectError("origin: it does not tell what the seed was found with.")
    told = {f.name: facts[f.name] for f in fields(Origin) if f.name in facts}
    if isinstance(told.get("loras"), list):
        told["loras"] = tuple(told["loras"])
    return Origin(**told)
