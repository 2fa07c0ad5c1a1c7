"""A unit of work, and its file.

What a unit holds depends on the spec and the unit alone: not on who makes it, when, or after what.
So nothing of time or place is in it, and two workers that make the same one write the same bytes.
The file is a ZIP archive without compression: ``unit.json``, ``noise.seed.safetensors``,
``embeddings.npy`` and the pictures ``00.png``, ``01.png`` and so on.
"""

import hashlib
import io
import json
import random
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np

from ..errors import SeedSelectError
from .spec import ClassSpec, Spec

FOLDER = "units"
FORMAT = 1
FACTS = "unit.json"
NOISE = "noise.seed.safetensors"
EMBEDDINGS = "embeddings.npy"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
MOST_FACTS = 2**24  # bytes


@dataclass(frozen=True, order=True)
class Unit:
    """One call of `make_set`.

    Attributes:
        label: name of its class.
        number: from 0.
    """

    label: str
    number: int

    @property
    def name(self) -> str:
        """Its file, below the output."""
        return f"{FOLDER}/{self.label}/{self.number:05}.zip"

    def noise_number(self, seed: int) -> int:
        """The number of its first noise, far from those of all others; below 2^48."""
        return _number("noise", seed, self.label, self.number) % 2**48

    def prompts(self, spec: Spec) -> list[str]:
        """One for each picture of its batch: the class's prompts take turns, in shuffled order."""
        own = list(spec.of(self.label).prompts)
        random.Random(_number("prompts", spec.sampling.seed, self.label)).shuffle(own)
        first = self.number * spec.units.batch
        return [own[(first + row) % len(own)] for row in range(spec.units.batch)]


@dataclass(frozen=True)
class Made:
    """What a unit found.

    Attributes:
        unit: which.
        key: of all that it depends on, see `key_of`.
        spread: the references' mean semantic loss, to the first encoder and to the second opinion.
        prompts: of each picture.
        losses, first_losses: semantic losses of each picture, found and at the start.
        opinions: losses by the second opinion, of each picture; empty without one.
        hashes: SHA-256 of each picture's file.
        evaluations: of the model, in all.
        duplicates, misses: pictures that the search itself threw away.
        embeddings: unit vectors, float32 [n, D].
        pictures: the PNG files.
        noise: the seed's file; noise and pictures are in the same order.
    """

    unit: Unit
    key: str
    spread: tuple[float, float]
    prompts: list[str]
    losses: list[float]
    first_losses: list[float]
    opinions: list[float]
    evaluations: int
    duplicates: int
    misses: int
    hashes: list[str]
    embeddings: np.ndarray = field(compare=False)
    pictures: list[bytes] = field(compare=False, repr=False)
    noise: bytes = field(compare=False, repr=False)

    def slim(self) -> "Made":
        """Without what is large: enough to choose by."""
        return replace(self, pictures=[], noise=b"")


def _number(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")


def facts_of(spec: Spec, one: ClassSpec, fingerprint: str, files: dict[str, int]) -> dict:
    """All that the units of a class depend on, as JSON has it.

    Args:
        fingerprint: `ReferenceSet.fingerprint` of its references.
        files: sizes of the model's files, by name: they are too large to be read for this.
    """
    shared = {
        name: getattr(spec, name) for name in ("width", "height", "references", "negative")
    } | {name: asdict(getattr(spec, name)) for name in ("model", "sampling", "search")}
    shared["bootstrap"] = asdict(replace(spec.bootstrap, count=1))
    cut = {name: getattr(spec.units, name) for name in ("pictures", "batch", "threads")}
    shared |= {"units": cut, "files": files, "format": FORMAT}
    own = {"name": one.name, "prompts": one.prompts, "pictures of its references": fingerprint}
    return json.loads(json.dumps(shared | own))


def key_of(facts: dict) -> str:
    """The same for two classes whose units are the same."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def encoded(made: Made) -> bytes:
    """The file of a unit."""
    told = asdict(replace(made, embeddings=None, pictures=[], noise=b""))
    for name in ("embeddings", "pictures", "noise"):
        del told[name]
    vectors = io.BytesIO()
    np.save(vectors, made.embeddings, allow_pickle=False)
    parts = {FACTS: json.dumps(told | {"format": FORMAT}, indent=1).encode()}
    parts |= {NOISE: made.noise, EMBEDDINGS: vectors.getvalue()}
    parts |= {f"{place:02}.png": data for place, data in enumerate(made.pictures)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, LONG_AGO), data)
    return file.getvalue()


def decoded(file: BinaryIO, unit: Unit, key: str, whole: bool = True) -> Made:
    """What a unit's file holds.

    Args:
        file: opened for reading, with random access.
        whole: pictures and noise too, each picture compared with its hash.

    Raises:
        SeedSelectError: it is damaged, or another unit's, or was made by another spec.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            made = _facts_in(archive)
            if whole:
                made = _pictures_in(archive, made)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise SeedSelectError(f"{unit.name}: it is damaged ({error}).") from None
    if made.unit != unit or made.key != key:
        raise SeedSelectError(f"{unit.name}: it was made by another spec.")
    return made


def _facts_in(archive: zipfile.ZipFile) -> Made:
    if archive.getinfo(FACTS).file_size > MOST_FACTS:
        raise ValueError("its facts are too many")
    told = json.loads(archive.read(FACTS))
    if told.pop("format") != FORMAT:
        raise ValueError("a format that this version cannot read")
    told["unit"] = Unit(**told["unit"])
    told["spread"] = tuple(told["spread"])
    embeddings = np.load(io.BytesIO(archive.read(EMBEDDINGS)), allow_pickle=False)
    made = Made(**told, embeddings=embeddings, pictures=[], noise=b"")
    each = (made.prompts, made.losses, made.first_losses, made.embeddings)
    if any(len(values) != len(made.hashes) for values in each):
        raise ValueError("it does not tell the same of each picture")
    return made


def _pictures_in(archive: zipfile.ZipFile, made: Made) -> Made:
    pictures = [archive.read(f"{place:02}.png") for place in range(len(made.hashes))]
    if [sha256(one) for one in pictures] != made.hashes:
        raise ValueError("a picture was changed")
    return replace(made, pictures=pictures, noise=archive.read(NOISE))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def numbered(label: str, numbers: Sequence[int]) -> list[Unit]:
    """Units of a class by their numbers."""
    return [Unit(label, number) for number in numbers]
