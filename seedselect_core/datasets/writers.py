"""Outputs: folders of pictures, shards of webdataset, seeds. Each is made from the units alone."""

import functools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..seeds.rescue import EXTENSION
from ..seeds.seed import Seed, load_seed
from .spec import Spec
from .store import Store
from .units import Made

PREFIX = "shard"


@dataclass(frozen=True)
class Picture:
    """A picture that is kept.

    Attributes:
        name: of its files, without extension.
        data: the PNG file.
        row: of the manifest.
        made, place: its unit, and where it is there.
    """

    name: str
    data: bytes
    row: dict
    made: Made
    place: int


Pictures = Callable[[], Iterator[Picture]]


def write_imagefolder(spec: Spec, store: Store, pictures: Pictures) -> None:
    """``imagefolder/LABEL/NAME.png``, and beside the labels ``metadata.jsonl``."""
    names = []
    rows = []
    for picture in pictures():
        file = f"{picture.row['label']}/{picture.name}.png"
        names.append(f"imagefolder/{file}")
        rows.append({"file_name": file, **picture.row})
        store.write(names[-1], picture.data)
    names.append("imagefolder/metadata.jsonl")
    store.write(names[-1], "".join(json.dumps(row) + "\n" for row in rows).encode())
    store.keep_only("imagefolder", names)


def write_webdataset(spec: Spec, store: Store, pictures: Pictures) -> None:
    """``webdataset/shard-000000.tar`` and so on: png, cls and json of each picture, shuffled.

    A class's number is its place among the spec's classes by name; ``classes.json`` tells it.
    """
    import webdataset

    labels = sorted(one.name for one in spec.classes)
    with tempfile.TemporaryDirectory(prefix="seedselect-") as folder:
        kept = Path(folder, "pictures")
        kept.mkdir()
        rows = {}
        for picture in pictures():
            (kept / picture.name).write_bytes(picture.data)
            rows[picture.name] = picture.row
        order = sorted(rows)
        random.Random(spec.sampling.seed).shuffle(order)
        pattern = str(Path(folder, f"{PREFIX}-%06d.tar"))
        with webdataset.ShardWriter(pattern, maxcount=spec.shard, verbose=0, mtime=0) as shards:
            for name in order:
                data = (kept / name).read_bytes()
                row = json.dumps(rows[name]).encode()
                label = str(labels.index(rows[name]["label"])).encode()
                shards.write({"__key__": name, "png": data, "cls": label, "json": row})
        names = []
        for path in sorted(Path(folder).glob("*.tar")):
            names.append(f"webdataset/{path.name}")
            store.write(names[-1], path.read_bytes())
    names.append("webdataset/classes.json")
    store.write(names[-1], json.dumps(labels).encode())
    store.keep_only("webdataset", names)


def write_seeds(spec: Spec, store: Store, pictures: Pictures) -> None:
    """``seeds/LABEL/NAME.seed.safetensors``: the noise of each picture, for 'Load Seed'."""
    names = []
    read = functools.lru_cache(1)(_seed_in)
    for picture in pictures():
        names.append(f"seeds/{picture.row['label']}/{picture.name}{EXTENSION}")
        store.write(names[-1], read(picture.made.noise).take([picture.place]).encoded())
    store.keep_only("seeds", names)


def _seed_in(noise: bytes) -> Seed:
    with tempfile.TemporaryDirectory(prefix="seedselect-") as folder:
        path = Path(folder, f"noise{EXTENSION}")
        path.write_bytes(noise)
        return load_seed(path)


WRITERS = {
    "imagefolder": write_imagefolder,
    "webdataset": write_webdataset,
    "seeds": write_seeds,
}
