"""Glyph masks from font files: the only data of the pocket model.

Debian's package ``texlive-fonts-extra`` holds some 5,400 font files. Unpack it without installing:

    apt-get download texlive-fonts-extra && dpkg -x texlive-fonts-extra_*.deb fonts
    python -m pocket.making.glyphs --fonts fonts --work WORK

writes ``WORK/glyphs.npz``: ``masks`` uint8 [N, 26, 64, 64] (capital A to Z, centred, longer side 46
pixels, 255 where there is ink), ``digits`` uint8 [N, 10, 64, 64] (0 to 9 alike, empty where
``has_digits`` [N] is false), ``others`` uint8 [N, 29, 64, 64] (`OTHERS`, empty where a font lacks
one), ``paths`` and ``families`` [N], and ``split`` [N]: ``train``, ``judge`` or ``unseen``. A font
needs capitals to be kept, not the others. The split is by font family, never by file, so that the
bold cut of a face that was trained on cannot turn up among the unseen.
"""

import argparse
import hashlib
import string
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..drawing import LETTERS, SIZE

LONGER_SIDE = 46
# Fonts that draw no letters, a path a line, as `train_judges filter` found them. It does not find
# quite the same ones each time, and what is made after it must be of the same fonts.
ORNAMENTS = Path(__file__).with_name("ornaments.txt")
EXTENSIONS = {".otf", ".ttf", ".pfb"}
# Lower case, but for what is drawn as its capital once it is as large, and signs.
OTHERS = "abdefghijklmnpqrtuy" + "&!?@$%#+*="
SPLITS = (("train", 0.75), ("judge", 0.10), ("unseen", 0.15))


class Glyphs:
    """The masks of one split, ornaments left out: capitals, digits, others of the same fonts.

    ``masks`` is uint8 [N, 26, 64, 64], ``digits`` uint8 [N, 10, 64, 64], ``has_digits`` bool [N],
    ``others`` uint8 [N, 29, 64, 64].
    """

    def __init__(self, work: Path, split: str):
        with np.load(work / "glyphs.npz") as file:
            keep = (file["split"] == split) & ~np.isin(file["paths"], ORNAMENTS.read_text().split())
            self.masks = torch.from_numpy(file["masks"][keep])
            self.digits = torch.from_numpy(file["digits"][keep])
            self.others = torch.from_numpy(file["others"][keep])
            has_digits = file["has_digits"]
            if (work / "real_digits.npy").exists():
                has_digits = has_digits & np.load(work / "real_digits.npy")
            self.has_digits = torch.from_numpy(has_digits[keep])
            self.paths = file["paths"][keep]
            self.families = file["families"][keep]

    def __len__(self) -> int:
        return len(self.masks)


def glyph_mask(font: ImageFont.FreeTypeFont, text: str) -> np.ndarray | None:
    """Ink of ``text`` as uint8 [64, 64], longer side 46, centred; None where nothing is drawn."""
    left, top, right, bottom = font.getbbox(text)
    width = int(right - left)
    height = int(bottom - top)
    if not (0 < width < 2000 and 0 < height < 2000):
        return None
    canvas = Image.new("L", (width + 8, height + 8))
    ImageDraw.Draw(canvas).text((4 - left, 4 - top), text, font=font, fill=255)
    box = canvas.getbbox()
    if box is None:
        return None
    return fitted(canvas.crop(box))


def fitted(ink: Image.Image) -> np.ndarray:
    """A picture of ink, cut to its edges, as uint8 [64, 64]: longer side 46, centred."""
    scale = LONGER_SIDE / max(ink.size)
    ink = ink.resize([max(1, round(side * scale)) for side in ink.size], Image.Resampling.LANCZOS)
    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(ink, ((SIZE - ink.width) // 2, (SIZE - ink.height) // 2))
    return np.asarray(mask)


def render(font: ImageFont.FreeTypeFont, text: str, distinct: int) -> np.ndarray | None:
    """Every sign of ``text``, uint8 [signs, 64, 64].

    None where the font lacks one, or draws fewer than ``distinct`` different ones.
    """
    missing = font.getmask("\uffff").getbbox(), bytes(font.getmask("\uffff"))
    masks = []
    for sign in text:
        ink = font.getmask(sign)
        if ink.getbbox() is None or (ink.getbbox(), bytes(ink)) == missing:
            return None
        mask = glyph_mask(font, sign)
        if mask is None:
            return None
        masks.append(mask)
    return np.stack(masks) if len({mask.tobytes() for mask in masks}) >= distinct else None


def render_or_none(font: ImageFont.FreeTypeFont, text: str, distinct: int) -> np.ndarray | None:
    """`render`; None, too, where the font's file is broken there."""
    try:
        return render(font, text, distinct)
    except (OSError, ValueError, MemoryError):
        return None


def alike(mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of ``others`` uint8 [N, 64, 64] are ``mask`` [64, 64] but for its edges; bool [N]."""
    different = np.abs(others.astype(int) - mask).sum((1, 2))
    return different < 0.15 * np.maximum(others, mask).astype(int).sum((1, 2))


def render_font(path: Path) -> tuple[np.ndarray, np.ndarray | None, np.ndarray] | None:
    """Capitals uint8 [26, 64, 64], digits [10, 64, 64] and `OTHERS` [29, 64, 64].

    None where the capitals are not usable: such a font is left out. Digits are None where they are
    not. One of the others is empty where the font lacks it, or draws a capital in its place.
    """
    try:
        font = ImageFont.truetype(str(path), 160)
    except (OSError, ValueError, MemoryError):
        return None
    capitals = render_or_none(font, LETTERS, distinct=24)
    if capitals is None:
        return None
    others = np.zeros((len(OTHERS), SIZE, SIZE), np.uint8)
    for place, sign in enumerate(OTHERS):
        mask = render_or_none(font, sign, distinct=1)
        if mask is not None and not alike(mask[0], capitals).any():
            others[place] = mask[0]
    return capitals, render_or_none(font, string.digits, distinct=10), others


def family_of(path: Path, root: Path) -> str:
    """Foundry and family: the two folders above the file in the TeX tree."""
    return "/".join(path.relative_to(root).parts[-3:-1])


def split_of(family: str) -> str:
    """A split drawn from the family's name, so that adding fonts moves no other family."""
    position = int(hashlib.sha256(family.encode()).hexdigest()[:8], 16) / 2**32
    for name, share in SPLITS:
        if position < share:
            return name
        position -= share
    return SPLITS[-1][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fonts", type=Path, required=True, help="folder with unpacked fonts")
    parser.add_argument("--work", type=Path, required=True, help="where glyphs.npz goes")
    args = parser.parse_args()
    target = args.work / "glyphs.npz"
    if target.exists():
        print(f"{target} exists, nothing to do")
        return
    args.work.mkdir(parents=True, exist_ok=True)
    paths = sorted(p for p in args.fonts.rglob("*") if p.suffix.lower() in EXTENSIONS)
    seen = set()
    masks = []
    digits = []
    has_digits = []
    others = []
    kept = []
    with ProcessPoolExecutor() as pool:
        for path, rendered in zip(paths, pool.map(render_font, paths, chunksize=16), strict=True):
            if rendered is None:
                continue
            # The same outlines ship as .otf and .pfb; at 16 pixels with few greys they coincide.
            capitals, figures, rest = rendered
            small = capitals.reshape(26, 16, 4, 16, 4).mean((2, 4)) // 48
            key = small.astype(np.uint8).tobytes()
            if key not in seen:
                seen.add(key)
                masks.append(capitals)
                digits.append(np.zeros((10, SIZE, SIZE), np.uint8) if figures is None else figures)
                has_digits.append(figures is not None)
                others.append(rest)
                kept.append(path)
    families = [family_of(path, args.fonts) for path in kept]
    np.savez_compressed(
        target,
        masks=np.stack(masks),
        digits=np.stack(digits),
        has_digits=has_digits,
        others=np.stack(others),
        paths=[str(path.relative_to(args.fonts)) for path in kept],
        families=families,
        split=[split_of(family) for family in families],
    )
    counts = {name: sum(split_of(f) == name for f in families) for name, _ in SPLITS}
    print(f"{len(kept)} of {len(paths)} fonts, {len(set(families))} families, split {counts}")
    print(f"{sum(has_digits)} of them have ten digits")
    missing = sum(int((~rest.any((1, 2))).sum()) for rest in others)
    print(f"{1 - missing / len(others) / len(OTHERS):.1%} of lower case and signs")


if __name__ == "__main__":
    main()
