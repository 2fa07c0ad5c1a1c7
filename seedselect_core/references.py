"""Reference pictures: found, read, put upright, flattened, and cut to the size a model works in."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageColor, ImageOps

from .errors import Rule, SeedSelectError, require_rules
from .text import printable, quoted

Crop = Literal["center", "pad", "stretch"]
Order = Literal["name", "newest", "random"]
Color = tuple[float, float, float]

CROPS: tuple[str, ...] = ("center", "pad", "stretch")
ORDERS: tuple[str, ...] = ("name", "newest", "random")
WHITE: Color = (1.0, 1.0, 1.0)

EXTENSIONS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".gif", ".bmp"),
    *(".tif", ".tiff", ".jp2", ".tga", ".ppm", ".pgm"),
)
# Only plain pictures: some of Pillow's other readers start programs (EPS) or fetch parts elsewhere.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "TGA", "PPM")
# Pillow's own limit for a picture that may be a decompression bomb (a quarter of a gigabyte at
# 24 bits), held to here whatever else in the process has done to Pillow's setting.
_MAX_PIXELS = 1024**3 // 4 // 3


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Pictures of the concept, upright, opaque, each in its own size.

    images: each [H, W, 3], float32 in 0..1. names: one per image, for messages.
    crop: how a picture of another shape fills a frame: "center" cuts off what sticks out, "pad"
    shows all of it on the background, "stretch" distorts it. background: RGB in 0..1.
    """

    images: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    crop: Crop = "center"
    background: Color = WHITE

    def __post_init__(self):
        require_rules(Rule("crop", self.crop in CROPS, f"one of {', '.join(CROPS)}", self.crop))

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, width: int, height: int) -> torch.Tensor:
        """All pictures at one size, [k, height, width, 3] in 0..1 (bicubic, antialiased)."""
        return torch.stack([self._fit(image, width, height) for image in self.images])

    def preview(self, size: int) -> torch.Tensor:
        """All pictures as a square model sees them, [k, size, size, 3] in 0..1."""
        return self.resized(size, size)

    def fingerprint(self) -> str:
        """SHA-256 of everything that can change a result: pixels, sizes, crop and background."""
        digest = hashlib.sha256(f"{self.crop} {self.background}".encode())
        for image in self.images:
            digest.update(str(tuple(image.shape)).encode())
            digest.update(image.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _fit(self, image: torch.Tensor, width: int, height: int) -> torch.Tensor:
        h, w = image.shape[:2]
        if self.crop == "stretch":
            return _resize(image, width, height)
        if self.crop == "center":
            cut_w = max(1, min(w, round(h * width / height)))
            cut_h = max(1, min(h, round(w * height / width)))
            top = (h - cut_h) // 2
            left = (w - cut_w) // 2
            return _resize(image[top : top + cut_h, left : left + cut_w], width, height)
        scale = min(width / w, height / h)
        inner_w = max(1, round(w * scale))
        inner_h = max(1, round(h * scale))
        top = (height - inner_h) // 2
        left = (width - inner_w) // 2
        frame = torch.tensor(self.background).repeat(height, width, 1)
        frame[top : top + inner_h, left : left + inner_w] = _resize(image, inner_w, inner_h)
        return frame


def _resize(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    if image.shape[:2] == (height, width):
        return image
    planes = image.movedim(-1, 0).unsqueeze(0)
    planes = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return planes[0].movedim(0, -1).clamp(0.0, 1.0)  # bicubic overshoots at edges


def parse_color(text: str) -> Color:
    """A colour as people write it ("#FFFFFF", "#fff", "white") to RGB in 0..1."""
    try:
        red, green, blue = ImageColor.getrgb(str(text).strip())[:3]
    except ValueError as error:
        raise SeedSelectError(
            f"background: '{text}' is not a colour. Write it as #RRGGBB, for example #FFFFFF."
        ) from quoted(error)
    return red / 255, green / 255, blue / 255


def reference_set_from_batch(
    images: torch.Tensor, *, crop: Crop = "center", background: Color = WHITE
) -> ReferenceSet:
    """A ReferenceSet of the host's IMAGE batch [B, H, W, C] in 0..1: grey, RGB or RGBA."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise SeedSelectError(
            f"images: expected an IMAGE batch [B, H, W, C] with 1, 3 or 4 channels, got "
            f"{list(images.shape)}. Connect the output of a node such as 'Load Image'."
        )
    pixels = images.detach().to(device="cpu", dtype=torch.float32).clamp(0.0, 1.0)
    if pixels.shape[-1] == 4:
        pixels = _flatten(pixels[..., :3], pixels[..., 3:], background)
    pixels = pixels.expand(*pixels.shape[:3], 3).contiguous()
    names = tuple(f"image {i + 1}" for i in range(len(pixels)))
    return ReferenceSet(tuple(pixels), names, crop, background)


def combine(*sets: ReferenceSet) -> ReferenceSet:
    """One set of all pictures in the order given; crop and background are those of the first."""
    return ReferenceSet(
        tuple(image for s in sets for image in s.images),
        tuple(name for s in sets for name in s.names),
        sets[0].crop,
        sets[0].background,
    )


def resolve_folder(folder: str | Path, allowed_roots: Sequence[str | Path] | None = None) -> Path:
    """The real path of an existing folder, which must lie within one of `allowed_roots`, if given.

    Symbolic links count as what they point to.
    """
    path = Path(folder)
    try:
        resolved = path.resolve()
        there = resolved.is_dir()
    except (OSError, ValueError) as error:  # too long, or with a character that no name has
        raise SeedSelectError(
            f"folder: '{folder}' cannot be opened ({printable(error, 100)}). Choose "
            "another one (press R to refresh the list)."
        ) from quoted(error)
    if allowed_roots is not None and (".." in path.parts or not _within(resolved, allowed_roots)):
        raise SeedSelectError(
            f"folder: '{folder}' is not inside ComfyUI's input directory. Copy the folder into "
            f"{' or '.join(str(root) for root in allowed_roots)} and choose it there."
        )
    if not there:
        raise SeedSelectError(
            f"folder: there is no folder '{resolved}'. Create it and put reference pictures in "
            "it, or choose another one (press R to refresh the list)."
        )
    return resolved


def list_image_files(folder: Path) -> list[Path]:
    """Files in `folder` with a picture's extension, in natural order of their names.

    Hidden files are left out: macOS puts a "._photo.jpg" that is no picture beside a photo.jpg.
    """
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in EXTENSIONS
            and not path.name.startswith(".")
            and path.is_file()
        ]
    except OSError as error:
        raise SeedSelectError(
            f"folder: '{folder}' cannot be read ({error.strerror}). Let the user that ComfyUI runs "
            "as read it, or choose another one."
        ) from quoted(error)
    return sorted(files, key=lambda path: (_natural(path.name), path.name))


def load_reference_folder(
    folder: str | Path,
    *,
    allowed_roots: Sequence[str | Path] | None = None,
    limit: int = 5,
    order: Order = "name",
    seed: int = 0,
    crop: Crop = "center",
    background: Color = WHITE,
) -> tuple[ReferenceSet, list[str]]:
    """Read up to `limit` pictures of a folder (not of folders inside it).

    Args:
        allowed_roots: the folder, and what links in it point to, must lie within one of these.
        order: which pictures come first: by "name" (2 before 10), "newest" or "random" by `seed`.
        crop, background: see ReferenceSet. Transparent parts show the background.

    Returns:
        The set, and one warning for each file that could not be read and was left out.

    Raises:
        SeedSelectError: the folder is missing, not allowed, or holds no readable picture.
    """
    require_rules(Rule("order", order in ORDERS, f"one of {', '.join(ORDERS)}", order))
    require_rules(Rule("limit", limit >= 1, "1 or more", limit))
    resolved = resolve_folder(folder, allowed_roots)
    files = list_image_files(resolved)
    if order == "newest":
        files.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    elif order == "random":
        random.Random(seed).shuffle(files)

    images = []
    names = []
    warnings = []
    for path in files:
        if len(images) == limit:
            break
        try:
            if allowed_roots is not None and not _within(path.resolve(), allowed_roots):
                raise ValueError("it is a link that leads out of ComfyUI's input directory")
            images.append(read_image(path, background))
            names.append(printable(path.name))
        except Exception as error:  # readers of damaged files raise errors of every kind
            warnings.append(printable(f"{path.name} was left out: {printable(error)}"))
    if not images:
        raise SeedSelectError(
            f"folder: no readable picture in '{resolved}'. Looked for files ending in "
            f"{', '.join(EXTENSIONS)}. " + " ".join(warnings)
        )
    return ReferenceSet(tuple(images), tuple(names), crop, background), warnings


def read_image(path: str | Path, background: Color = WHITE) -> torch.Tensor:
    """One picture file to [H, W, 3], float32 in 0..1: upright, opaque, the first frame.

    Raises whatever Pillow raises for a file that it cannot read to its end.
    """
    Image.init()  # AVIF and JPEG 2000 are not in every build of Pillow
    with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError(
                f"{image.width} x {image.height} pixels are too many (at most {_MAX_PIXELS})"
            )
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _read_deep_gray(image, background)
    if image.has_transparency_data:
        pixels = torch.from_numpy(np.array(image.convert("RGBA"), dtype=np.float32) / 255)
        return _flatten(pixels[..., :3], pixels[..., 3:], background)
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 255)


def _read_deep_gray(image: Image.Image, background: Color) -> torch.Tensor:
    """Grey of 16 bits or more, which Pillow's own conversion to RGB would clip at 255."""
    values = np.array(image)
    full_scale = 1 if image.mode == "F" else 65535
    if values.min() < 0 or values.max() > full_scale:
        raise ValueError(f"its grey values are not within 0..{full_scale}; save it with 8 bits")
    gray = torch.from_numpy(values.astype(np.float32) / full_scale).unsqueeze(-1)
    pixels = gray.expand(-1, -1, 3).contiguous()
    if "transparency" in image.info:  # PNG names one grey value that stands for "transparent"
        opaque = torch.from_numpy((values != image.info["transparency"]).astype(np.float32))
        pixels = _flatten(pixels, opaque.unsqueeze(-1), background)
    return pixels


def _flatten(pixels: torch.Tensor, alpha: torch.Tensor, background: Color) -> torch.Tensor:
    return pixels * alpha + pixels.new_tensor(background) * (1 - alpha)


def _within(path: Path, roots: Sequence[str | Path]) -> bool:
    return any(path.is_relative_to(Path(root).resolve()) for root in roots)


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
