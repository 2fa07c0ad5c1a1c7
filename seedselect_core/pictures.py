"""One picture: a file as a viewer shows it, or a part of the host's IMAGE of whatever kind.

A file becomes 8 bits of sRGB, upright, as viewers show it: its orientation and its color profile
are applied, deeper values are scaled, and of an animation the first frame is taken. Whoever needs
float and no transparency (`opaque`) has it made of the part that is at hand: a photograph takes
four times its memory as float.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from .errors import SeedSelectError
from .text import quoted

Color = tuple[float, float, float]

WHITE: Color = (1.0, 1.0, 1.0)

# Only plain pictures: some of Pillow's other readers start programs (EPS) or fetch parts elsewhere.
# HEIF and JXL are there where another node pack has taught Pillow to read them.
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "TGA", "PPM"),
    *("HEIF", "JXL"),
)
# What a file is by its name that may not be read, and the format with which Pillow would read it. A
# RAW photograph is mostly a TIFF, of which Pillow would read the thumbnail.
_KINDS = (
    ("HEIC", "HEIF", (".heic", ".heif", ".hif")),
    ("JPEG XL", "JXL", (".jxl",)),
    ("AVIF", "AVIF", (".avif",)),
    ("a RAW photograph", None, (".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".srf")),
    ("a RAW photograph", None, (".sr2", ".raf", ".orf", ".rw2", ".pef", ".srw", ".3fr", ".fff")),
    ("a RAW photograph", None, (".iiq", ".kdc", ".dcr", ".mrw", ".x3f", ".raw")),
    ("a vector drawing", None, (".svg", ".svgz", ".eps", ".ai", ".wmf", ".emf")),
    ("a Photoshop file", None, (".psd", ".psb")),
    ("OpenEXR", None, (".exr",)),
    ("Radiance HDR", None, (".hdr",)),
    ("an icon", None, (".ico", ".icns", ".cur")),
    ("a rare kind", None, (".qoi", ".dds", ".pcx", ".xcf", ".jxr", ".wdp", ".bpg")),
)
EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(extension for _, _, extensions in _KINDS for extension in extensions),
)
_NEVER = tuple(name for _, reader, names in _KINDS if reader is None for name in names)
# What a file is that cannot be read, by how it begins, whatever its name says.
_BEGINNINGS = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "a vector drawing"),
    (b"%PDF", "a PDF document"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"FUJIFILMCCD-RAW", "a RAW photograph"),
    (b"<svg", "a vector drawing"),
    (b"<?xml", "a vector drawing"),
    (b"<!DOCTYPE", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file"),
)
_REMEDY = "Save as PNG or JPEG."
# Pillow's own limit for a picture that may be a decompression bomb (a quarter of a gigabyte at
# 24 bits), held to here whatever else in the process has done to Pillow's setting.
_MAX_PIXELS = 1024**3 // 4 // 3
# Chunks of a PNG that its pixels need.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Tags of a TIFF.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _DNG_VERSION = 258, 262, 339, 50706
_SIGNED, _FLOAT = 2, 3


# ---------------------------------------------------------------- files


def read_image(path: str | Path, background: Color = WHITE) -> torch.Tensor:
    """One picture file to [H, W, 3], float32 in 0..1: upright, opaque, the first frame.

    Raises:
        SeedSelectError: it cannot be read to its end; why, and the way out, without its name.
    """
    return opaque(read_pixels(path)[0], background)


def read_pixels(path: str | Path) -> tuple[torch.Tensor, list[str]]:
    """One picture file to [H, W, 3 or 4], uint8 of sRGB with or without alpha, upright.

    Returns:
        The pixels, and what a viewer of the file ought to know ("its color profile is damaged").

    Raises:
        SeedSelectError: it cannot be read to its end; why, and the way out, without its name.
    """
    path = Path(path)
    notes: list[str] = []
    try:
        if path.suffix.lower() in _NEVER:
            raise SeedSelectError(refusal(path))
        with _to_the_end():
            image = _upright(path, notes)
        colors = _to_srgb(image, notes)
    except SeedSelectError:
        raise
    except Exception as error:  # readers of damaged files raise errors of every kind
        raise SeedSelectError(_why(path, error)) from quoted(error)
    return torch.from_numpy(np.array(colors)), notes


def refusal(path: Path) -> str | None:
    """Why a file of this name is not read, and the way out; None where it may be tried."""
    Image.init()  # AVIF and JPEG 2000 are not in every build of Pillow
    for kind, reader, extensions in _KINDS:
        if path.suffix.lower() in extensions and reader not in Image.OPEN:
            return _cannot(kind)
    return None


def _cannot(kind: str) -> str:
    return f"{kind}, which cannot be read here. {_REMEDY}"


@contextmanager
def _to_the_end() -> Iterator[None]:
    """No half pictures: other node packs tell Pillow, for the whole process, to pass them."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _upright(path: Path, notes: list[str]) -> Image.Image:
    """The file's first picture in one of Pillow's modes of 8 bits, upright."""
    try:
        return _load(path, notes)
    except Exception:
        data = _png_pixels(path)
        if data is None:
            raise
        image = _load(io.BytesIO(data), notes)
        notes.append("a block beside the pixels is damaged, so orientation and colors may be off")
        return image


def _load(source: Path | io.BytesIO, notes: list[str]) -> Image.Image:
    Image.init()
    with Image.open(source, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise SeedSelectError(
                f"{image.width} x {image.height} pixels, which are too many (at most "
                f"{_MAX_PIXELS}). Save it smaller."
            )
        tags = getattr(image, "tag_v2", {})
        if _DNG_VERSION in tags:
            raise SeedSelectError(_cannot("a RAW photograph"))
        packing = str(image.tile[0][3]) if image.tile else ""
        image.load()
        _scale_transparent_value(image, packing)
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except Exception:  # whatever the block holds, the pixels are whole
            notes.append("the EXIF block is damaged, so it may lie on its side")
    return _eight_bits(image, tags)


def _png_pixels(path: Path) -> bytes | None:
    """A PNG's own bytes without all that is beside its pixels; None if it is no PNG."""
    head = b"\x89PNG\r\n\x1a\n"
    with path.open("rb") as file:
        if file.read(len(head)) != head:
            return None
    data = path.read_bytes()
    kept = [head]
    place = len(head)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in _PNG_PIXELS:
            kept.append(data[place:end])
        place = end
    return b"".join(kept)


def _scale_transparent_value(image: Image.Image, packing: str) -> None:
    """A PNG names its transparent value in its own depth; Pillow scales the pixels, not that."""
    value = image.info.get("transparency")
    if packing in ("L;2", "L;4") and isinstance(value, int):
        image.info["transparency"] = value * (85 if packing == "L;2" else 17)
    elif packing == "RGB;16B" and isinstance(value, tuple):
        image.info["transparency"] = tuple(part >> 8 for part in value)


def _eight_bits(image: Image.Image, tags: Any) -> Image.Image:
    """Gray of 16 bits or more, which Pillow's own conversion would clip at 255, as L or LA."""
    formats = tuple(tags.get(_SAMPLE_FORMAT, ()))
    if _SIGNED in formats:
        raise SeedSelectError(f"values with a sign, of which none is known to be white. {_REMEDY}")
    if not image.mode.startswith("I") and image.mode != "F":
        return image
    values = np.array(image)
    full_scale = 1 if image.mode == "F" else 65535
    if image.mode != "F" and _BITS in tags:
        full_scale = 2 ** tags[_BITS][0] - 1
        if full_scale > 65535:
            values = values.astype(np.int64) % 2**32  # Pillow reads them as if they had a sign
    if not (values.min() >= 0 and values.max() <= full_scale):
        if not np.isfinite(values).all():
            raise SeedSelectError(f"values that are no numbers (NaN or infinite). {_REMEDY}")
        raise SeedSelectError(f"gray values that are not within 0..{full_scale}. {_REMEDY}")
    # PNG names one gray value that stands for "transparent".
    hidden = values == image.info["transparency"] if "transparency" in image.info else None
    scaled = np.rint(values * (255 / full_scale)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow minds up to 8 bits only
        scaled = 255 - scaled
    gray = Image.fromarray(scaled)
    if hidden is not None:
        gray.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    gray.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return gray


def _to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """RGB or RGBA of sRGB, of any of Pillow's modes of 8 bits and with any profile."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert(image.mode.upper())
    mode = "RGBA" if image.has_transparency_data else "RGB"
    profile = image.info.get("icc_profile")
    colors = _by_profile(image, profile, notes) if profile else None
    if colors is None and image.mode == "LAB":
        colors = _transformed(image, ImageCms.createProfile("LAB"))
    if colors is None:
        return _in_mode(image, mode)
    if mode == "RGBA":
        colors.putalpha(image.convert("RGBA").getchannel("A"))
    return colors


def _by_profile(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    """RGB by the file's color profile; None, and a note, where that cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "GRAY" and image.mode in ("1", "L", "LA"):
            return _transformed(_in_mode(image, "L"), source)
        if space == "RGB" and image.mode not in ("CMYK", "LAB"):
            # Pillow would take the one transparent color of an RGB or P along to other modes.
            plain = image.convert("RGBA") if image.has_transparency_data else image
            return _transformed(_in_mode(plain, "RGB"), source)
        if (space, image.mode) in (("CMYK", "CMYK"), ("Lab", "LAB")):
            return _transformed(image, source)
        notes.append(f"the color profile is for {space}, the pixels are not, so it was not used")
    except Exception:  # a Pillow without LittleCMS, or anything that LittleCMS dislikes
        notes.append("the color profile is damaged and was not used, so colors may be off")
    return None


def _transformed(image: Image.Image, source: Any) -> Image.Image:
    target = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, source, target, outputMode="RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """``image`` itself where it is in the mode already: Pillow would copy it."""
    return image if image.mode == mode else image.convert(mode)


def _why(path: Path, error: Exception) -> str:
    """Why a file cannot be read, and the way out."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as refused:
        return f"not to be opened ({refused.strerror}). Let ComfyUI read it."
    if not head:
        return "empty. Copy it here again."
    if isinstance(error, Image.DecompressionBombError):
        return "its pixels are too many. Save it smaller."
    if isinstance(error, MemoryError):
        return "too large for the free memory. Save it smaller."
    kind = _kind_of(head)
    readers = {name: reader for name, reader, _ in _KINDS}
    if kind is not None and readers.get(kind) not in Image.OPEN:
        return _cannot(kind)
    if isinstance(error, UnidentifiedImageError):
        return refusal(path) or f"damaged, or no picture of a kind that can be read. {_REMEDY}"
    return f"damaged ({error}). Copy it here again, or save as PNG or JPEG."


def _kind_of(head: bytes) -> str | None:
    """What a file is that begins like this, where that is a kind that Pillow may lack."""
    if head[4:8] == b"ftyp":
        if b"crx " in head:
            return "a RAW photograph"
        return "AVIF" if b"avif" in head or b"avis" in head else "HEIC"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning) or text.startswith(beginning):
            return kind
    return None


# ---------------------------------------------------------------- the host's IMAGE


def require_image(name: str, images: Any) -> torch.Tensor:
    """``images``, if it is an IMAGE [B, H, W, C] with something in it: gray or RGB, with alpha or
    without, in any precision.

    Args:
        name: of the input that it is connected to.

    Raises:
        SeedSelectError: it is not, or one of its pictures holds values that are no numbers.
    """
    shape = list(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
    if not isinstance(images, torch.Tensor) or images.ndim != 4 or images.shape[-1] > 4:
        raise SeedSelectError(
            f"{name}: expected an IMAGE batch [B, H, W, C] with 1 to 4 channels, got {shape}. "
            "Connect the output of a node such as 'Load Image'."
        )
    if images.numel() == 0:
        raise SeedSelectError(
            f"{name}: there is no picture in it, its shape is {shape}. Check the node that it "
            "comes from."
        )
    if not (images.dtype.is_floating_point or images.dtype == torch.uint8):
        raise SeedSelectError(
            f"{name}: its values are {str(images.dtype).removeprefix('torch.')}, an IMAGE holds "
            "numbers in 0..1. Check the node that it comes from."
        )
    for number, picture in enumerate(images, 1):
        if not picture.float().isfinite().all():
            raise SeedSelectError(
                f"{name}: picture {number} of {len(images)} holds values that are no numbers "
                "(NaN or infinite). Leave it out; if a VAE made it, start ComfyUI with --fp32-vae."
            )
    return images


def require_mask(name: str, mask: Any, count: int) -> torch.Tensor:
    """``mask``, if it is a MASK for ``count`` pictures, as [count, h, w] in 0..1.

    Raises:
        SeedSelectError: it is not, or holds values that are no numbers.
    """
    shape = list(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 3) or mask.numel() == 0:
        raise SeedSelectError(
            f"{name}: expected a MASK [B, H, W], got {shape}. Connect that of 'Load Image'."
        )
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    if len(mask) not in (1, count):
        raise SeedSelectError(
            f"{name}: it is for {len(mask)} pictures, but there are {count}. Connect the MASK "
            "that comes with them."
        )
    if not mask.isfinite().all():
        raise SeedSelectError(
            f"{name}: it holds values that are no numbers (NaN or infinite). Disconnect it, or "
            "make it anew."
        )
    return mask.clamp(0, 1).expand(count, -1, -1)


def opaque(
    pixels: torch.Tensor, background: Color = WHITE, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Gray or RGB, with or without alpha, to float32 RGB in 0..1 on the CPU.

    Args:
        pixels: [..., H, W, 1 to 4], float in 0..1 or uint8.
        background: shown through what is transparent.
        mask: [..., H, W] as the host has it, 1 where nothing is to be seen.
    """
    values = pixels.detach().to("cpu", torch.float32)
    values = values / 255 if pixels.dtype == torch.uint8 else values.clamp(0, 1)
    channels = pixels.shape[-1]
    colors = values[..., : 1 if channels < 3 else 3].expand(*values.shape[:-1], 3)
    alpha = values[..., -1:] if channels in (2, 4) else None
    if mask is not None:
        seen = 1 - mask.unsqueeze(-1)
        alpha = seen if alpha is None else torch.minimum(alpha, seen)
    if alpha is None:
        return colors.contiguous()
    return colors * alpha + colors.new_tensor(background) * (1 - alpha)


def resize_mask(mask: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """[H, W] to [height, width]: where there is no alpha, the host's are 64 x 64."""
    if mask.shape == (height, width):
        return mask
    size = (height, width)
    return F.interpolate(mask[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
