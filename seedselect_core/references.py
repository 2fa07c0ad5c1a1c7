"""Reference pictures: found in a folder or an IMAGE batch, and cut to the size a model works in."""

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import ImageColor

from .errors import Rule, SeedSelectError, require_rules
from .pictures import (
    EXTENSIONS,
    WHITE,
    Color,
    opaque,
    read_pixels,
    refusal,
    require_image,
    require_mask,
    resize_mask,
)
from .text import printable, quoted

Crop = Literal["center", "top", "bottom", "left", "right", "pad", "stretch"]
Order = Literal["name", "newest", "random"]

# Where the part lies that is kept of what a frame cannot hold: down and across, from 0 to 1.
KEPT_PARTS = {
    "center": (0.5, 0.5),
    "top": (0.0, 0.5),
    "bottom": (1.0, 0.5),
    "left": (0.5, 0.0),
    "right": (0.5, 1.0),
}
CROPS: tuple[str, ...] = (*KEPT_PARTS, "pad", "stretch")
ORDERS: tuple[str, ...] = ("name", "newest", "random")
# Of a usual set the pictures as last asked for are kept, since a search asks again and again.
# Larger sets are read anew: a thousand photographs take no more memory than one at a time.
KEPT = 8
_STRIP = 128  # rows that are float at a time
_NAMED = 3  # files that a warning names


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a set, read when it is needed: of a file only its place is kept.

    name: for messages. read: its pixels [H, W, 1 to 4], float in 0..1 or uint8.
    mask: [h, w], 1 where nothing is to be seen, or None.
    """

    name: str
    read: Callable[[], torch.Tensor]
    mask: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """Pictures of the concept, each in its own size, read one by one.

    crop: how a picture of another shape fills a frame: "center" cuts off what sticks out at both
    ends, "top", "bottom", "left" and "right" keep that end, "pad" shows all of it on the
    background, "stretch" distorts it. background: RGB in 0..1, which shows through transparent
    parts too.
    """

    pictures: tuple[Picture, ...]
    crop: Crop = "center"
    background: Color = WHITE
    _kept: dict = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self):
        require_rules(Rule("crop", self.crop in CROPS, f"one of {', '.join(CROPS)}", self.crop))

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def names(self) -> tuple[str, ...]:
        """As they can be shown."""
        return tuple(printable(picture.name) for picture in self.pictures)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One picture in its own size, opaque, [H, W, 3], float32 in 0..1."""
        return torch.cat(list(self._strips(*self._pixels(index))))

    def fitted(self, width: int, height: int) -> "Fitted":
        """The pictures at one size, each made when it is asked for."""
        return Fitted(self, width, height)

    def resized(self, width: int, height: int) -> torch.Tensor:
        """All pictures at one size, [k, height, width, 3] in 0..1 (bicubic, antialiased)."""
        return torch.stack(list(self.fitted(width, height)))

    def preview(self, size: int) -> torch.Tensor:
        """All pictures as a square model sees them, [k, size, size, 3] in 0..1."""
        return self.resized(size, size)

    def fingerprint(self) -> str:
        """SHA-256 of everything that can change a result: pixels, sizes, crop and background."""
        digest = hashlib.sha256(f"{self.crop} {self.background}".encode())
        for index in range(len(self)):
            pixels, mask = self._pixels(index)
            digest.update(str((*pixels.shape[:2], 3)).encode())
            for strip in self._strips(pixels, mask):
                digest.update(strip.numpy().tobytes())
        return digest.hexdigest()

    def fit(self, index: int, width: int, height: int) -> torch.Tensor:
        """One picture at a size, [height, width, 3] in 0..1."""
        if (width, height) not in self._kept:
            self._kept.clear()
            self._kept[width, height] = {}
        kept = self._kept[width, height]
        if index not in kept:
            fitted = self._fit(*self._pixels(index), width, height)
            if len(self) > KEPT:
                return fitted
            kept[index] = fitted
        return kept[index]

    def _pixels(self, index: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A picture as it was read, and its mask at the same size."""
        picture = self.pictures[index]
        pixels = picture.read()
        height, width = pixels.shape[:2]
        mask = picture.mask
        return pixels, None if mask is None else resize_mask(mask, width, height)

    def _strips(self, pixels: torch.Tensor, mask: torch.Tensor | None) -> Iterator[torch.Tensor]:
        """Opaque rows of a picture from top to bottom, [rows, W, 3], float32."""
        for top in range(0, len(pixels), _STRIP):
            rows = slice(top, top + _STRIP)
            yield opaque(pixels[rows], self.background, None if mask is None else mask[rows])

    def _fit(
        self, pixels: torch.Tensor, mask: torch.Tensor | None, width: int, height: int
    ) -> torch.Tensor:
        h, w = pixels.shape[:2]
        if self.crop == "stretch":
            return _resize(self._strips(pixels, mask), h, width, height)
        if self.crop in KEPT_PARTS:
            down, across = KEPT_PARTS[self.crop]
            cut_w = max(1, min(w, round(h * width / height)))
            cut_h = max(1, min(h, round(w * height / width)))
            top = int((h - cut_h) * down)
            left = int((w - cut_w) * across)
            cut = (slice(top, top + cut_h), slice(left, left + cut_w))
            strips = self._strips(pixels[cut], None if mask is None else mask[cut])
            return _resize(strips, cut_h, width, height)
        scale = min(width / w, height / h)
        inner_w = max(1, round(w * scale))
        inner_h = max(1, round(h * scale))
        top = (height - inner_h) // 2
        left = (width - inner_w) // 2
        frame = torch.tensor(self.background).repeat(height, width, 1)
        inner = _resize(self._strips(pixels, mask), h, inner_w, inner_h)
        frame[top : top + inner_h, left : left + inner_w] = inner
        return frame


@dataclass(frozen=True, eq=False)
class Fitted(Sequence):
    """The pictures of a set at one size, [height, width, 3] in 0..1, one by one."""

    references: ReferenceSet
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.references)

    def __getitem__(self, index: int | slice) -> torch.Tensor | list[torch.Tensor]:
        if isinstance(index, slice):
            return [self[one] for one in range(len(self))[index]]
        return self.references.fit(range(len(self))[index], self.width, self.height)


def _resize(strips: Iterator[torch.Tensor], rows: int, width: int, height: int) -> torch.Tensor:
    """A picture of so many ``rows`` at another size: first each row, then the columns.

    Strip by strip, since a whole photograph as float takes four times its memory.
    """
    narrow = []
    for strip in strips:
        if strip.shape[1] != width:
            strip = _interpolate(strip, width, len(strip))
        narrow.append(strip)
    image = torch.cat(narrow)
    image = image if rows == height else _interpolate(image, width, height)
    return image.clamp(0.0, 1.0)  # bicubic overshoots at edges


def _interpolate(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    planes = image.movedim(-1, 0).unsqueeze(0)
    planes = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return planes[0].movedim(0, -1)


def parse_color(text: str) -> Color:
    """A color as people write it ("#FFFFFF", "#fff", "white") to RGB in 0..1."""
    try:
        red, green, blue = ImageColor.getrgb(str(text).strip())[:3]
    except ValueError as error:
        raise SeedSelectError(
            f"background: '{printable(text, 60)}' is not a color. Write it as #RRGGBB, for example "
            "#FFFFFF."
        ) from quoted(error)
    return red / 255, green / 255, blue / 255


def reference_set_from_batch(
    images: Any,
    *,
    mask: Any = None,
    crop: Crop = "center",
    background: Color = WHITE,
    name: str = "images",
) -> ReferenceSet:
    """A ReferenceSet of an IMAGE batch [B, H, W, C] of any kind that `require_image` takes.

    Args:
        mask: the host's MASK that comes with them: 1 where nothing is to be seen.
        name: of the input, for messages.
    """
    images = require_image(name, images).detach()
    masks: list[torch.Tensor | None] = [None] * len(images)
    if mask is not None:
        # Pictures without transparency come with an empty one.
        masks = [m if m.any() else None for m in require_mask("mask", mask, len(images))]
    pictures = (
        Picture(f"image {number}", partial(_same, image), masked)
        for number, (image, masked) in enumerate(zip(images, masks, strict=True), 1)
    )
    return ReferenceSet(tuple(pictures), crop, background)


def _same(image: torch.Tensor) -> torch.Tensor:
    return image


def combine(*sets: ReferenceSet) -> ReferenceSet:
    """One set of all pictures in the order given; crop and background are those of the first."""
    pictures = tuple(picture for s in sets for picture in s.pictures)
    return ReferenceSet(pictures, sets[0].crop, sets[0].background)


def resolve_folder(folder: str | Path, allowed_roots: Sequence[str | Path] | None = None) -> Path:
    """The real path of an existing folder, which must lie within one of `allowed_roots`, if given.

    Symbolic links count as what they point to.
    """
    path = Path(folder)
    try:
        resolved = path.resolve()
        exists = resolved.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # too long, in a circle, with a NUL
        raise SeedSelectError(
            f"folder: '{printable(folder, 200)}' is no name of a folder ({printable(error, 60)}). "
            "Choose one of the list (press R to refresh it)."
        ) from quoted(error)
    if allowed_roots is not None and (".." in path.parts or not _within(resolved, allowed_roots)):
        raise SeedSelectError(
            f"folder: '{folder}' is not inside ComfyUI's input directory. Copy the folder into "
            f"{' or '.join(str(root) for root in allowed_roots)} and choose it there."
        )
    if not exists:
        raise SeedSelectError(
            f"folder: there is no folder '{resolved}'. Create it and put reference pictures in "
            "it, or choose another one (press R to refresh the list)."
        )
    return resolved


def list_image_files(folder: Path) -> list[Path]:
    """Files in `folder` with a picture's extension, in natural order of their names.

    Those of kinds that cannot be read are among them, to be named with the reason. Hidden files
    are left out: macOS puts a "._photo.jpg" that is no picture beside a photo.jpg.
    """
    try:
        files = [
            path
            for path in folder.iterdir()
            if path.suffix.lower() in EXTENSIONS and path.name[0] != "." and path.is_file()
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
    """Read up to `limit` pictures of a folder (not of folders inside it), each once to its end.

    Args:
        allowed_roots: the folder, and what links in it point to, must lie within one of these.
        order: which pictures come first: by "name" (2 before 10), "newest" or "random" by `seed`.
        crop, background: see ReferenceSet.

    Returns:
        The set, and warnings: which files were left out and why, and what is odd about others.

    Raises:
        SeedSelectError: the folder is missing, not allowed, or holds no readable picture.
    """
    require_rules(Rule("order", order in ORDERS, f"one of {', '.join(ORDERS)}", order))
    require_rules(Rule("limit", limit >= 1, "1 or more", limit))
    resolved = resolve_folder(folder, allowed_roots)
    files = list_image_files(resolved)
    if order == "newest":
        files.sort(key=lambda path: stamp(path) or (0, 0), reverse=True)
    elif order == "random":
        random.Random(seed).shuffle(files)
    pictures, warnings = _read(files, limit, allowed_roots)
    if not pictures:
        raise SeedSelectError(
            f"folder: no readable picture in '{resolved}'. Put PNG or JPEG files there. "
            + " ".join(warnings[:_NAMED])
        )
    return ReferenceSet(pictures, crop, background), warnings


def load_reference_files(
    files: Sequence[Path],
    *,
    allowed_roots: Sequence[str | Path] | None = None,
    crop: Crop = "center",
    background: Color = WHITE,
) -> tuple[ReferenceSet, list[str]]:
    """`load_reference_folder` for files that somebody chose.

    Raises:
        SeedSelectError: none of them can be read.
    """
    pictures, warnings = _read(files, len(files), allowed_roots)
    if not pictures:
        raise SeedSelectError(
            f"pictures: none of them can be read. {' '.join(warnings[:_NAMED])} Choose PNG or JPEG "
            "files."
        )
    return ReferenceSet(pictures, crop, background), warnings


def _read(
    files: Sequence[Path], limit: int, allowed_roots: Sequence[str | Path] | None
) -> tuple[tuple[Picture, ...], list[str]]:
    """Up to ``limit`` pictures, and warnings: what was left out and why, what is odd."""
    pictures: list[Picture] = []
    reasons: dict[str, list[str]] = {}  # why files were left out, and which
    remarks: dict[str, list[str]] = {}  # what is odd about others, and which
    for path in files:
        try:
            if len(pictures) < limit:
                picture, notes = _file(path, allowed_roots)
                pictures.append(picture)
                for note in notes:
                    remarks.setdefault(note, []).append(path.name)
            elif reason := refusal(path):  # named though there are pictures enough before it
                reasons.setdefault(reason, []).append(path.name)
        except SeedSelectError as error:
            reasons.setdefault(str(error), []).append(path.name)
    warnings = [_left_out(names, reason) for reason, names in reasons.items()]
    warnings += [printable(f"{_listed(names)}: {note}.") for note, names in remarks.items()]
    return tuple(pictures), warnings


def _file(path: Path, allowed_roots: Sequence[str | Path] | None) -> tuple[Picture, list[str]]:
    """A file that was read to its end, and notes on it; `SeedSelectError` says why not."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # in a circle, with a NUL
        raise SeedSelectError("its name is that of no file.") from quoted(error)
    if allowed_roots is not None and not _within(real, allowed_roots):
        raise SeedSelectError("a link that leads out of ComfyUI's input directory.")
    picture = Picture(path.name, partial(_read_again, real, stamp(real)))
    return picture, read_pixels(real)[1]


def _read_again(path: Path, before: tuple[int, int] | None) -> torch.Tensor:
    """The pixels of a file that has been read before."""
    if stamp(path) != before:
        raise SeedSelectError(
            f"references: '{path.name}' was changed or taken away since it was loaded. Queue the "
            "prompt again; while it runs, leave its reference files alone."
        )
    try:
        return read_pixels(path)[0]
    except SeedSelectError as error:
        raise SeedSelectError(f"references: '{path.name}': {error}") from None


def stamp(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file does; None if it is gone, or no name of a file."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return status.st_mtime_ns, status.st_size


def _left_out(names: list[str], reason: str) -> str:
    return printable(f"{_listed(names)} {'was' if len(names) == 1 else 'were'} left out: {reason}")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _within(path: Path, roots: Sequence[str | Path]) -> bool:
    return any(path.is_relative_to(Path(root).resolve()) for root in roots)


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.findall(r"\d+|\D+", name.casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
