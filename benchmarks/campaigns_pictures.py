"""Picture files that are damaged, that lie, or that are no pictures, and names that do harm."""

import io
import random
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SIZES = (1, 2, 7, 16, 33)


def _encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _pixels(rng: random.Random, channels: int = 3, dtype=np.uint8) -> np.ndarray:
    shape = (rng.choice(SIZES), rng.choice(SIZES), channels)
    drawn = np.random.default_rng(rng.getrandbits(32))
    pixels = drawn.integers(0, 256, shape).astype(dtype)
    return pixels[..., 0] if channels == 1 else pixels


def _rgb(kind: str, **options) -> Callable[[random.Random], bytes]:
    return lambda rng: _encode(_pixels(rng), kind, **options)


def _mode(kind: str, mode: str, **options) -> Callable[[random.Random], bytes]:
    return lambda rng: _encode(Image.fromarray(_pixels(rng)).convert(mode), kind, **options)


def _float(rng: random.Random) -> bytes:
    pixels = _pixels(rng, 1, np.float32) / 255
    pixels.flat[0] = rng.choice([np.nan, np.inf, -np.inf, -1, 2, 1e30, 0.5])
    return _encode(pixels, "TIFF")


def _deep(kind: str) -> Callable[[random.Random], bytes]:
    return lambda rng: _encode((_pixels(rng, 1, np.uint16) * 257).astype(np.uint16), kind)


def _animated(kind: str) -> Callable[[random.Random], bytes]:
    def make(rng: random.Random) -> bytes:
        frames = [Image.new("RGB", (9, 9), (rng.randrange(256), 0, 0)) for _ in range(3)]
        return _encode(frames[0], kind, save_all=True, append_images=frames[1:])

    return make


def _turned(rng: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 3, 6, 8, 9, 65535])
    exif[0x010E] = rng.choice(["\x1b[2J", "a\0b", "x" * 60000, "\u202e"])
    return _encode(_pixels(rng), rng.choice(["JPEG", "PNG", "WEBP"]), exif=exif)


def _profiled(rng: random.Random) -> bytes:
    profile = rng.randbytes(rng.choice([1, 127, 128, 500]))
    return _encode(_pixels(rng), rng.choice(["JPEG", "PNG", "TIFF", "WEBP"]), icc_profile=profile)


# Name, usual extension, maker.
PICTURES = (
    ("PNG", ".png", _rgb("PNG")),
    ("PNG of one bit", ".png", _mode("PNG", "1")),
    ("grey PNG", ".png", _mode("PNG", "L")),
    ("PNG with alpha", ".png", _mode("PNG", "RGBA")),
    ("grey PNG with alpha", ".png", _mode("PNG", "LA")),
    ("PNG with a palette", ".png", _mode("PNG", "P", transparency=3)),
    ("PNG of 16 bits", ".png", _deep("PNG")),
    ("moving PNG", ".png", _animated("PNG")),
    ("JPEG", ".jpg", _rgb("JPEG")),
    ("progressive JPEG", ".jpeg", _rgb("JPEG", progressive=True)),
    ("CMYK JPEG", ".jpg", _mode("JPEG", "CMYK")),
    ("grey JPEG", ".jfif", _mode("JPEG", "L")),
    ("TIFF", ".tif", _rgb("TIFF")),
    ("CMYK TIFF", ".tiff", _mode("TIFF", "CMYK")),
    ("LAB TIFF", ".tiff", _rgb("TIFF", compression="tiff_lzw")),
    ("float TIFF", ".tif", _float),
    ("TIFF of 16 bits", ".tif", _deep("TIFF")),
    ("WebP", ".webp", _rgb("WEBP")),
    ("WebP with alpha", ".webp", _mode("WEBP", "RGBA")),
    ("moving WebP", ".webp", _animated("WEBP")),
    ("GIF", ".gif", _mode("GIF", "P")),
    ("moving GIF", ".gif", _animated("GIF")),
    ("BMP", ".bmp", _rgb("BMP")),
    ("BMP of one bit", ".bmp", _mode("BMP", "1")),
    ("TGA", ".tga", _rgb("TGA")),
    ("PPM", ".ppm", _rgb("PPM")),
    ("PGM of 16 bits", ".pgm", _deep("PPM")),
    ("JPEG 2000", ".jp2", _rgb("JPEG2000")),
    ("icon", ".ico", _rgb("ICO")),
    ("picture with EXIF", ".jpg", _turned),
    ("picture with a broken profile", ".png", _profiled),
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    sum_of = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", sum_of)


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + _chunk(b"IEND", b"")


def _bomb(kind: bytes, start: bytes) -> bytes:
    """A text or profile of 80 MB in a picture of 80 KB."""
    squeezed = zlib.compress(bytes(80_000_000), 9)
    pixels = _chunk(b"IDAT", zlib.compress(b"\0" + b"\x80" * 3))
    return _png(1, 1, _chunk(kind, start + squeezed), pixels)


def _loop() -> bytes:
    """A TIFF whose directory is followed by itself."""
    return b"II*\0" + struct.pack("<IHHHII", 8, 1, 256, 4, 1, 1) + struct.pack("<I", 8)


STRANGERS: tuple[tuple[str, str, Callable[[random.Random], bytes]], ...] = (
    ("an empty file", ".png", lambda rng: b""),
    ("noise", ".png", lambda rng: rng.randbytes(rng.choice([1, 10, 1000]))),
    ("zeros", ".tif", lambda rng: bytes(5000)),
    ("a Photoshop file", ".psd", lambda rng: b"8BPS\0\1" + bytes(6) + rng.randbytes(40)),
    ("a Photoshop file called JPEG", ".jpg", lambda rng: b"8BPS\0\1" + bytes(6) + bytes(40)),
    ("HEIC", ".heic", lambda rng: b"\0\0\0\x18ftypheic" + rng.randbytes(60)),
    ("HEIC called JPEG", ".jpg", lambda rng: b"\0\0\0\x18ftypheic" + rng.randbytes(60)),
    ("AVIF without a picture", ".avif", lambda rng: b"\0\0\0\x18ftypavif" + rng.randbytes(60)),
    ("JPEG XL", ".jxl", lambda rng: b"\xff\x0a" + rng.randbytes(60)),
    (
        "PostScript",
        ".png",
        lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9",
    ),
    (
        "SVG",
        ".png",
        lambda rng: b"<svg><image href='file:///etc/passwd'/></svg>",
    ),
    ("a web page", ".jpg", lambda rng: b"<!doctype html>404"),
    ("an archive", ".png", lambda rng: b"PK\3\4" + rng.randbytes(100)),
    ("a pickle", ".png", lambda rng: b"\x80\4cos\nsystem\n(S'true'\ntR."),
    ("a claim of 60000 x 60000", ".png", lambda rng: _png(60_000, 60_000)),
    ("a claim of 2^31 pixels wide", ".png", lambda rng: _png(2**31 - 1, 1)),
    ("a claim of no pixel", ".png", lambda rng: _png(0, 0)),
    ("a bomb of text", ".png", lambda rng: _bomb(b"zTXt", b"a\0\0")),
    ("a bomb of a profile", ".png", lambda rng: _bomb(b"iCCP", b"a\0\0")),
    ("a TIFF in a loop", ".tif", lambda rng: _loop()),
    ("a PPM of digits", ".ppm", lambda rng: b"P3 " + b"9" * 5000 + b" 1 255 0"),
)


# ---------------------------------------------------------------- damage


def _flip(rng: random.Random, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.choice([1, 3, 30])):
        place = rng.randrange(len(flipped))
        flipped[place] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _flip_head(rng: random.Random, data: bytes) -> bytes:
    return _flip(rng, data[:64]) + data[64:]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _cut(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.choice([1, 4, 50]) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data))
    more = rng.choice([bytes(40), b"\xff" * 40, rng.randbytes(40)])
    return data[:place] + more + data[place:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start : start + 60] * rng.choice([2, 50]) + data[start:]


def _claim(rng: random.Random, data: bytes) -> bytes:
    """Another width or height, where the kind of file has it at a known place."""
    size = rng.choice([0, 1, 60_000, 65_535, 2**31 - 1, 2**32 - 1])
    frame = re.search(rb"\xff[\xc0\xc2]", data)
    for magic, place, form in (
        (b"\x89PNG", 16, ">I"),
        (b"BM", 18, "<I"),
        (b"GIF8", 6, "<H"),
        (b"\xff\xd8", frame.start() + 5 if frame else 0, ">H"),
    ):
        if data.startswith(magic) and place:
            value = struct.pack(form, size % 2 ** (8 * struct.calcsize(form)))
            changed = data[:place] + value + data[place + len(value) :]
            return _summed(changed) if magic == b"\x89PNG" else changed
    return _flip_head(rng, data)


def _summed(png: bytes) -> bytes:
    """A PNG with the right sum of its first chunk."""
    return png[:29] + struct.pack(">I", zlib.crc32(png[12:29])) + png[33:]


DAMAGE = (_flip, _flip_head, _truncate, _cut, _insert, _repeat, _claim)


def hostile_file(rng: random.Random) -> tuple[bytes, str]:
    """A file, and what it is; whole in one case of ten, so that what is right is read too."""
    if rng.random() < 0.15:
        name, extension, make = rng.choice(STRANGERS)
        return make(rng), f"{name} ({extension})"
    name, extension, make = rng.choice(PICTURES)
    data = make(rng)
    done = []
    for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 2, 3])):
        damage = rng.choice(DAMAGE)
        if data:
            data = damage(rng, data)
            done.append(damage.__name__.strip("_"))
    return data, f"{name} ({extension}) {' '.join(done) or 'whole'}"


# ---------------------------------------------------------------- names

NAMES: tuple[tuple[str, Callable[[random.Random, bytes], bytes]], ...] = (
    ("Latin-1", lambda rng, end: b"caf\xe9" + end),
    ("bytes that are no text", lambda rng, end: bytes(rng.choices(range(128, 256), k=30)) + end),
    ("an encoded surrogate", lambda rng, end: b"\xed\xa0\x80" + end),
    ("turned round", lambda rng, end: "\u202egnp.exe".encode() + end),
    ("escape codes", lambda rng, end: b"\x1b[2J\x1b]0;owned\x07" + end),
    ("a line of a log", lambda rng, end: b"a\n[ERROR] deleted everything\r" + end),
    ("control characters", lambda rng, end: bytes(range(1, 32)) + b"\x7f" + end),
    ("long", lambda rng, end: b"x" * (255 - len(end)) + end),
    ("many marks", lambda rng, end: ("a" + "\u0301" * 100).encode() + end),
    ("many digits", lambda rng, end: b"9" * 240 + end),
    ("digits of another script", lambda rng, end: "\u00b2\u0663\U0001d7d9".encode() + end),
    ("format fields", lambda rng, end: b"%s%n{0}{x.__class__}$(id)`id`" + end),
    ("markup", lambda rng, end: b"<img src=x onerror=alert(1)>" + end),
    ("a drive", lambda rng, end: b"C:\\con\\nul" + end),
    ("two dots", lambda rng, end: b"..\\..\\x" + end),
    ("a hidden file", lambda rng, end: b"._photo" + end),
    ("separators of lines", lambda rng, end: "a\u2028b\u2029c\x85".encode() + end),
    ("no width", lambda rng, end: "\u200b\ufeff\u2060".encode() + end),
    ("beyond Unicode", lambda rng, end: b"\xf4\x90\x80\x80" + end),
    ("not assigned", lambda rng, end: "\U000e0001\uffff".encode() + end),
    ("plain", lambda rng, end: b"photo" + end),
)


def hostile_name(rng: random.Random, made: str) -> tuple[bytes, str]:
    """The name of a file, and what it is like."""
    extension = re.search(r"\((\.\w+)\)", made)[1]
    if rng.random() < 0.15:
        extension = rng.choice([".png", ".jpg", ".tif", ".PNG", ".Jpeg", ".webp", ".gif", ""])
    called, name = rng.choice(NAMES)
    return name(rng, extension.encode()), f"name: {called}"


PICTURE = _encode(Image.new("RGB", (12, 8), (200, 30, 30)), "PNG")


def _named(name: str) -> Callable:
    """A folder value that is given as it is; names that can be made are made."""

    def give(place) -> tuple[str, str]:
        try:
            folder = place.input / name
            if folder.resolve().is_relative_to(place.input):
                folder.mkdir(parents=True)
                (folder / "a.png").write_bytes(PICTURE)
        except (OSError, ValueError):
            pass
        return f"folder {ascii(name)[:40]}", name

    return give


def _given(value) -> Callable:
    return lambda place: (f"folder {ascii(value)[:40]}", value)


def _link(place) -> tuple[str, str]:
    (place.input / "leads out").symlink_to(place.outside, target_is_directory=True)
    return "folder that is a link leading out", "leads out"


def _locked(place) -> tuple[str, str]:
    (place.input / "locked").mkdir(mode=0)
    return "folder without permission", "locked"


def _ring(place) -> tuple[str, str]:
    (place.input / "ring").symlink_to(place.input / "ring")
    return "folder that is a link to itself", "ring"


FOLDERS = (
    *(_named(name) for name in ("..", "../outside", "pictures/../../outside", "/etc", "//", "~")),
    *(_named(name) for name in ("a\0b", "x" * 300, "x/" * 3000, "\ud800", "caf\udce9", "")),
    *(_named(name) for name in ("\u202egnp", "\x1b[2J", "a\nb", ".hidden", "pictures/a.png")),
    *(_named(name) for name in ("C:\\", "\\\\server\\share", "file:///etc", "%2e%2e/x", " ")),
    *(_given(value) for value in (5, 0, None, True, 1.5, ["pictures"], {"a": 1}, b"pictures")),
    _link,
    _locked,
    _ring,
)
