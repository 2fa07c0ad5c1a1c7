"""Seed files that lie, that are damaged, or that are no seeds, and names that lead elsewhere."""

import json
import math
import random
import struct
from collections.abc import Callable

FACTS = {
    "sampling": {
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "ddim",
        "scheduler": "normal",
        "seed": 5,
    },
    "latent_format": "PocketLatent",
    "semantic": [0.5],
    "first_semantic": [0.7],
    "total": [5.0],
    "evaluations": 100,
    "format": 1,
}
CUSTOM = {"guider": "CFGGuider", "sampler": "ddim", "sigmas": [14.6, 1.0, 0.0], "seed": 5}
SHAPE = (1, 4, 8, 8)
SHAPES = (
    *([], [256], [4, 8, 8], [1, 1, 4, 8, 8], [1, 1, 1, 4, 8, 8], [0, 4, 8, 8], [256, 1, 1, 1]),
    *([2**31, 2**31, 2**31, 4], [1, 4, 8, -8], [1, 4, 8, 8.5], [2**63, 1, 1, 1], ["1"], None),
)

LITERALS = (
    *(
        "null",
        "true",
        "0",
        "-1",
        "1",
        "2",
        "1.5",
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
    ),
    *("18446744073709551615", "18446744073709551616", "9" * 400, "9" * 5000, "-0.0", "1e-400"),
    *('""', '"ddim"', '"\\ud800"', '"\\u0000"', '"\\u001b[2J"', '"a\\nb"', '"\\u202e"', '"5"'),
    *("[]", "{}", "[null]", '["a"]', "[NaN]", "[1e999]", "[[]]", '{"a": 1}', "[1, 2, 3]"),
    *('"' + "x" * 101 + '"', '"' + "x" * 100_000 + '"', "[" + "0," * 20_000 + "0]"),
    *("[" * 3000 + "]" * 3000, '{"a":' * 3000 + "0" + "}" * 3000),
    *('"%n%s{0}"', '"<script>"', '"../../x"', '"' + "\u0301" * 90 + '"', '"\\ud83d"'),
)
NOT_JSON = ("", "{", "nul", "\ufeff{}", "{'a': 1}", "[1,]", "\x00", '{"a": 1} x', "[" * 100_000)


def file_of(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file of these parts, with a claimed length of the header if one is given."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def noise_of(rng: random.Random, values: int = math.prod(SHAPE)) -> bytes:
    return struct.pack(f"<{values}f", *(rng.gauss(0, 1) for _ in range(values)))


def header_of(text: str | None, dtype: str = "F32", shape=SHAPE, end: int | None = None) -> dict:
    size = 4 * math.prod(SHAPE) if end is None else end
    header = {"noise": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}}
    return header if text is None else {"__metadata__": {"seedselect": text}} | header


def whole_seed(text: str | None = None) -> bytes:
    header = header_of(json.dumps(FACTS) if text is None else text)
    return file_of(json.dumps(header).encode(), noise_of(random.Random(0)))


# ---------------------------------------------------------------- what is wrong


def _field(rng: random.Random) -> tuple[bytes, str]:
    """Another value in one or two fields, also such as Python's own JSON would not write."""
    facts = json.loads(json.dumps(FACTS))
    if rng.random() < 0.3:
        facts["sampling"] = dict(CUSTOM)
    marks = {}
    told = []
    for number in range(rng.choice([1, 1, 2])):
        owner = rng.choice([facts, facts["sampling"]])
        owner = owner if isinstance(owner, dict) else facts
        name = rng.choice([*owner, "__class__", "extra"])
        mark = f"@{number}@"
        owner[name] = mark
        marks[json.dumps(mark)] = literal = rng.choice(LITERALS)
        told.append(f"{name} = {literal[:30]}")
    text = json.dumps(facts)
    for mark, literal in marks.items():
        text = text.replace(mark, literal)
    return whole_seed(text), ", ".join(told)


def _without(rng: random.Random) -> tuple[bytes, str]:
    facts = json.loads(json.dumps(FACTS))
    owner = rng.choice([facts, facts["sampling"]])
    name = rng.choice(list(owner))
    del owner[name]
    return whole_seed(json.dumps(facts)), f"no {name}"


def _text(rng: random.Random) -> tuple[bytes, str]:
    text = rng.choice([*NOT_JSON, *LITERALS])
    return whole_seed(text), f"text {text[:30]}"


def _twice(rng: random.Random) -> tuple[bytes, str]:
    literal = rng.choice(LITERALS)
    return whole_seed(
        json.dumps(FACTS)[:-1] + f', "sampling": {literal}}}'
    ), f"twice: {literal[:30]}"


def _noise(rng: random.Random) -> tuple[bytes, str]:
    values = [rng.gauss(0, 1) for _ in range(math.prod(SHAPE))]
    wrong = rng.choice([math.nan, math.inf, -math.inf, 3e38, 1e-45, 0.0])
    for place in rng.sample(range(len(values)), rng.choice([1, 5, len(values)])):
        values[place] = wrong
    data = struct.pack(f"<{len(values)}f", *values)
    return file_of(json.dumps(header_of(json.dumps(FACTS))).encode(), data), f"noise with {wrong}"


def _kind(rng: random.Random) -> tuple[bytes, str]:
    dtype = rng.choice(["F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "f32", ""])
    header = header_of(json.dumps(FACTS), dtype)
    if rng.random() < 0.7:
        wide = {"F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8}
        header["noise"]["data_offsets"][1] = wide.get(dtype, 4) * math.prod(SHAPE)
    return file_of(
        json.dumps(header).encode(), noise_of(rng, 2 * math.prod(SHAPE))
    ), f"kind {dtype}"


def _shape(rng: random.Random) -> tuple[bytes, str]:
    shape = rng.choice(SHAPES)
    header = header_of(json.dumps(FACTS))
    header["noise"]["shape"] = shape
    return file_of(json.dumps(header).encode(), noise_of(rng)), f"shape {shape}"


def _offsets(rng: random.Random) -> tuple[bytes, str]:
    offsets = rng.choice([[0, 0], [4, 1028], [1024, 0], [-4, 1020], [0, 2**40], [0], "0", [0, 1e9]])
    header = header_of(json.dumps(FACTS))
    header["noise"]["data_offsets"] = offsets
    return file_of(json.dumps(header).encode(), noise_of(rng)), f"offsets {offsets}"


def _length(rng: random.Random) -> tuple[bytes, str]:
    length = rng.choice([0, 1, 7, 10**6, 2**31, 2**40, 2**63, 2**64 - 1])
    header = json.dumps(header_of(json.dumps(FACTS))).encode()
    return file_of(header, noise_of(rng), length), f"header said to have {length} bytes"


def _tensors(rng: random.Random) -> tuple[bytes, str]:
    header = header_of(json.dumps(FACTS))
    name = rng.choice(["", "noise2", "\ud800", "x" * 10_000, "__proto__", "../x"])
    header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [1024, 1024]}
    if rng.random() < 0.3:
        header = {key: value for key, value in header.items() if key != "noise"}
    return file_of(json.dumps(header).encode(), noise_of(rng)), f"tensor {ascii(name)[:20]}"


def _metadata(rng: random.Random) -> tuple[bytes, str]:
    metadata = rng.choice([None, [], "x", {"seedselect": 5}, {"seedselect": None}, {"x": "y"}, {}])
    header = header_of(None) | {"__metadata__": metadata}
    return file_of(json.dumps(header).encode(), noise_of(rng)), f"metadata {metadata}"


def _large(rng: random.Random) -> tuple[bytes, str]:
    """A header of megabytes, within what safetensors takes."""
    text = json.dumps(FACTS | {"latent_format": "x" * rng.choice([10**5, 4 * 10**6])})
    return whole_seed(text), "a header of megabytes"


def _flipped(rng: random.Random) -> tuple[bytes, str]:
    data = bytearray(whole_seed())
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(len(data) if rng.random() < 0.3 else 600)] ^= 1 << rng.randrange(8)
    return bytes(data), "bits flipped"


def _cut(rng: random.Random) -> tuple[bytes, str]:
    data = whole_seed()
    end = rng.choice([0, 1, 8, 9, rng.randrange(len(data)), len(data) - 1])
    return data[:end] + rng.choice([b"", bytes(7)]), f"ends after {end} bytes"


def _noisy(rng: random.Random) -> tuple[bytes, str]:
    return rng.randbytes(rng.choice([1, 8, 100, 5000])), "noise"


def _whole(rng: random.Random) -> tuple[bytes, str]:
    facts = FACTS | ({"sampling": CUSTOM} if rng.random() < 0.5 else {})
    return whole_seed(json.dumps(facts)), "whole"


# The first more often: what a stranger would write.
WRONGS = (
    *(_field,) * 8,
    *(_flipped,) * 3,
    *(_without, _text, _text, _twice, _noise, _kind, _shape, _offsets, _length, _tensors),
    *(_metadata, _cut, _noisy, _whole),
)


def hostile_seed(rng: random.Random) -> tuple[bytes, str]:
    """The bytes of a file, and what is wrong with it."""
    wrong = _large if rng.random() < 0.005 else rng.choice(WRONGS)
    return wrong(rng)


def _said(name) -> Callable:
    return lambda place: (f"seed_file {ascii(name)[:60]}", name)


def _locked(place) -> tuple[str, str]:
    path = place.input / "locked.seed.safetensors"
    path.write_bytes(whole_seed())
    path.chmod(0)
    return "a file without permission", f"[input] {path.name}"


def _folder(place) -> tuple[str, str]:
    (place.input / "folder.seed.safetensors").mkdir()
    return "a folder", "[input] folder.seed.safetensors"


END = ".seed.safetensors"
SEED_NAMES = (
    *(_said(f"[input] {name}{END}") for name in ("../outside/secret", "link", "/etc/passwd", "")),
    *(
        _said(f"[input] {name}{END}")
        for name in ("a\0b", "\ud800", "x" * 300, "x/" * 3000, "\x1b[2J")
    ),
    *(
        _said(f"[input] {name}{END}")
        for name in ("no", "a\n[ERROR]", "\x1b[2J", "\u202e", "..\\x", "~/x")
    ),
    *(_said(f"{label}a{END}") for label in ("", "[temp] ", "[output] ", "[input]", "[] ")),
    *(_said(name) for name in ("[input] a.png", "", 5, None, ["a"], {"a": 1}, True, b"a", 1.5)),
    _locked,
    _folder,
)
