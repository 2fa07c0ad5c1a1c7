"""Pictures of no character, made from the glyphs of one font: what a judge must not read.

python -m pocket.making.no_characters --work WORK

writes ``WORK/no_characters.npz``: ``masks`` uint8 [N, 64, 64], their ``kinds``, and the
``families`` and ``split`` of their fonts (``judge`` and ``unseen`` alone); and
``no_characters.png`` to look at, a row a kind.

Much of what comes out of such operations is a character again: a mirrored A is an A, an E without
its lowest stroke an F, a mirrored S nearly a 2. Three things keep those out. ``TURNS`` names the
characters that each reflection and rotation makes nothing of. Whatever looks like a character of
its own font (``looks_like``) is made anew. And a classifier that saw no font of the family, trained
in two folds, tells what still passes for a character (``train_judges.py check``).
"""

import argparse
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from ..drawing import LETTERS, SIZE
from ..judges import CHARACTERS
from .glyphs import Glyphs, fitted

PER_FONT = {"judge": 64, "unseen": 20}  # of all kinds together
# Each turns a mask, and leaves none of these characters a character. Left out are those that stay
# the same, and those that come near another: J and L, M and W, S, 2 and 5, N and Z, P and 9, F and
# 7, V and an A without its bar, 3 and a round E, and those whose small parts may be overlooked.
TURNS = {
    "mirrored left to right": (np.fliplr, "BCDFGKNR467"),
    "mirrored top to bottom": (np.flipud, "AFGNRTUY4"),
    "turned by half": (lambda mask: np.rot90(mask, 2), "ABCDFGKPRTUY4"),
    "turned to the left": (lambda mask: np.rot90(mask, 1), "ABDFGKPRSTVY45689"),
    "turned to the right": (lambda mask: np.rot90(mask, 3), "ABDFGKPRSTVY45689"),
}
TRIES = 60


class Alphabet:
    """The characters of one font: masks uint8 [characters, 64, 64] and which they are."""

    def __init__(self, masks: np.ndarray, characters: str):
        self.masks = masks
        self.characters = characters
        self.looks = np.stack([_look(mask) for mask in masks])

    def pick(self, rng: np.random.Generator, count: int, among: str = CHARACTERS):
        """``count`` different characters: their masks float [count, 64, 64] in 0..1, and names."""
        places = [i for i, sign in enumerate(self.characters) if sign in among]
        chosen = rng.choice(places, count, replace=False)
        return self.masks[chosen] / np.float32(255), "".join(self.characters[i] for i in chosen)

    def looks_like(self, mask: np.ndarray) -> float:
        """Likeness in 0..1 to the most alike character, as the mask lies and fitted as glyphs are.

        Cosine of the masks, blurred so that a shift by a pixel or two changes little.
        """
        looks = np.stack([_look(mask), _look(_fit(mask))])
        return float((looks @ self.looks.T).max())


def _look(mask: np.ndarray) -> np.ndarray:
    small = mask.reshape(SIZE // 2, 2, SIZE // 2, 2).mean((1, 3), dtype=np.float32)
    blurred = ndimage.gaussian_filter(small, 1).ravel()
    return blurred / max(float(np.linalg.norm(blurred)), 1e-6)


def _fit(mask: np.ndarray) -> np.ndarray:
    """Cut to its ink and scaled as glyphs are; uint8 [64, 64]. An empty mask stays empty."""
    image = Image.fromarray(mask)
    box = image.point(lambda value: 255 * (value > 40)).getbbox()
    return fitted(image.crop(box)) if box else np.zeros((SIZE, SIZE), np.uint8)


def _to_bytes(ink: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(ink, 0, 1) * 255).astype(np.uint8)


def ghost(alphabet: Alphabet, rng: np.random.Generator):
    """Two characters, both half there: a weighted mean."""
    (first, second), names = alphabet.pick(rng, 2)
    share = rng.uniform(0.4, 0.6)
    return share * first + (1 - share) * second, names


def morphed(alphabet: Alphabet, rng: np.random.Generator):
    """The shape half way between two characters, with the mean of their ink."""
    (first, second), names = alphabet.pick(rng, 2)
    share = rng.uniform(0.42, 0.58)
    depth = share * _depth(first) + (1 - share) * _depth(second)
    edge = np.quantile(depth, 1 - (first.mean() + second.mean()) / 2)
    return depth - edge + 0.5, names


def _depth(mask: np.ndarray) -> np.ndarray:
    """Pixels to the edge of the ink, negative outside."""
    ink = mask > 0.5
    inside, outside = (ndimage.distance_transform_edt(part) for part in (ink, ~ink))
    return inside - outside


def halved(alphabet: Alphabet, rng: np.random.Generator):
    """One half of a character beside the other half of another."""
    (first, second), names = alphabet.pick(rng, 2)
    cut = SIZE // 2 + rng.integers(-4, 5)
    result = first.copy()
    if rng.random() < 0.5:
        result[cut:] = second[cut:]
    else:
        result[:, cut:] = second[:, cut:]
    return result, names


def overlaid(alphabet: Alphabet, rng: np.random.Generator):
    """Two characters, one over the other."""
    (first, second), names = alphabet.pick(rng, 2)
    return np.maximum(first, second), names


def slid(alphabet: Alphabet, rng: np.random.Generator):
    """Cut through the middle, one half moved along the cut by 14 to 19 pixels of 46."""
    (mask,), name = alphabet.pick(rng, 1)
    sideways = rng.random() < 0.5
    wide = np.pad(mask if sideways else mask.T, ((0, 0), (20, 20)))
    cut = SIZE // 2 + rng.integers(-5, 6)
    wide[cut:] = np.roll(wide[cut:], rng.choice([-1, 1]) * rng.integers(14, 20), axis=1)
    return _fit(_to_bytes(wide if sideways else wide.T)) / np.float32(255), name


def jumbled(alphabet: Alphabet, rng: np.random.Generator):
    """Its four quarters in another order."""
    (mask,), name = alphabet.pick(rng, 1)
    rows, columns = (np.flatnonzero((mask > 0.2).any(axis)) for axis in (1, 0))
    middle = (rows[0] + rows[-1] + 1) // 2, (columns[0] + columns[-1] + 1) // 2
    high, wide = (max(4, (seen[-1] - seen[0]) // 2 + 1) for seen in (rows, columns))
    corners = [(middle[0] - a, middle[1] - b) for a in (high, 0) for b in (wide, 0)]
    corners = [(max(0, top), max(0, left)) for top, left in corners]
    result = np.zeros_like(mask)
    order = rng.permutation(4)
    while (order == np.arange(4)).all():
        order = rng.permutation(4)
    for (top, left), other in zip(corners, order, strict=True):
        source = mask[corners[other][0] :, corners[other][1] :][:high, :wide]
        result[top : top + source.shape[0], left : left + source.shape[1]] = source
    return result, name


def _line(angle: float, length: int = 15) -> np.ndarray:
    """A line of pixels as a structuring element, bool [length, length]."""
    along = np.arange(length) - length // 2
    element = np.zeros((length, length), bool)
    rows = np.rint(length // 2 - along * np.sin(angle)).astype(int)
    columns = np.rint(length // 2 + along * np.cos(angle)).astype(int)
    element[rows, columns] = True
    return element


LINES = [_line(step * np.pi / 8) for step in range(8)]


def strokes(mask: np.ndarray) -> list[np.ndarray]:
    """Straight strokes, bool [64, 64] each, of an eighth to the half of the ink."""
    ink = mask > 0.5
    found = []
    for line in LINES:
        parts, count = ndimage.label(ndimage.binary_opening(ink, line), np.ones((3, 3)))
        found += [parts == number + 1 for number in range(count)]
    return [part for part in found if 0.125 <= part.sum() / max(1, ink.sum()) <= 0.5]


def reduced(alphabet: Alphabet, rng: np.random.Generator):
    """A straight stroke removed; where there is none, what lies in a disc."""
    (mask,), name = alphabet.pick(rng, 1)
    found = strokes(mask)
    if found:
        gone = ndimage.binary_dilation(found[rng.integers(len(found))], iterations=2)
    else:
        places = np.argwhere(mask > 0.5)
        center = places[rng.integers(len(places))]
        rows, columns = np.ogrid[:SIZE, :SIZE]
        radius = rng.uniform(11, 18)
        gone = np.hypot(rows - center[0], columns - center[1]) < radius
    return np.where(gone, 0, mask), name


def extended(alphabet: Alphabet, rng: np.random.Generator):
    """One or two strokes added, straight or bent, as thick as those of the character."""
    (mask,), name = alphabet.pick(rng, 1)
    # Twice the depth of its deepest point would be the thickest place, where strokes meet.
    width = max(2, round(1.6 * float(ndimage.distance_transform_edt(mask > 0.5).max())))
    image = Image.new("L", (4 * SIZE, 4 * SIZE))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 3)):
        middle = rng.uniform(20, 44, 2)
        reach = rng.uniform(14, 24)
        if rng.random() < 0.5:
            angle = rng.uniform(0, np.pi)
            step = reach * np.array([np.cos(angle), np.sin(angle)])
            ends = [*(4 * (middle - step)), *(4 * (middle + step))]
            draw.line(ends, fill=255, width=4 * min(width, 14))
        else:
            start = rng.uniform(0, 360)
            box = [*(4 * (middle - reach)), *(4 * (middle + reach))]
            draw.arc(box, start, start + rng.uniform(90, 200), fill=255, width=4 * min(width, 14))
    added = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)) / np.float32(255)
    return np.maximum(mask, added), name


def formless(alphabet: Alphabet, rng: np.random.Generator):
    """Nothing, a blob, noise of any grain, or a scribble; no character of the font is in it."""
    which = rng.integers(8)
    if which == 0:
        return np.zeros((SIZE, SIZE), np.float32), ""
    if which <= 3:
        smooth = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), rng.uniform(3, 9))
        rows, columns = np.ogrid[:SIZE, :SIZE]
        smooth[np.hypot(rows - 31.5, columns - 31.5) > rng.uniform(22, 45)] = smooth.min()
        return (smooth > np.quantile(smooth, rng.uniform(0.6, 0.9))).astype(np.float32), ""
    if which <= 5:
        grain = 2 ** rng.integers(2, 7)
        noise = Image.fromarray(rng.random((grain, grain)).astype(np.float32))
        noise = np.asarray(noise.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        return (noise if rng.random() < 0.5 else (noise > 0.5).astype(np.float32)), ""
    image = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(4, 10)):
        ends = rng.integers(8, 57, 4).tolist()
        draw.line(ends, fill=255, width=int(rng.integers(2, 8)))
    return np.asarray(image) / np.float32(255), ""


def _turned(turn, among: str):
    def operation(alphabet: Alphabet, rng: np.random.Generator):
        (mask,), name = alphabet.pick(rng, 1, among)
        return turn(mask), name

    return operation


# What is made, how often, and how much like a character of its font it may look. Different letters
# of one font are less alike than 0.82 in 19 of 20 pairs. Of two characters at once more is allowed,
# since each is half there; a ghost is none even of two that are alike.
KINDS = {
    **{name: (_turned(*how), 0.04, 0.9) for name, how in TURNS.items()},
    "ghost": (ghost, 0.08, 0.92),
    "morphed": (morphed, 0.12, 0.88),
    "halved": (halved, 0.10, 0.85),
    "overlaid": (overlaid, 0.07, 0.88),
    "slid": (slid, 0.08, 0.82),
    "jumbled": (jumbled, 0.07, 0.82),
    "stroke removed": (reduced, 0.11, 0.82),
    "stroke added": (extended, 0.11, 0.82),
    "formless": (formless, 0.06, 0.82),
}


def make(kind: str, alphabet: Alphabet, rng: np.random.Generator) -> tuple[np.ndarray, str] | None:
    """A mask uint8 [64, 64] that looks like no character of its font, and what it was made of.

    None where ``TRIES`` tries gave nothing. Half of those that are not turned are fitted as glyphs
    are, so that neither size nor place tells them apart.
    """
    operation, _, limit = KINDS[kind]
    least_ink = 0.35 * float(np.median(alphabet.masks.mean((1, 2))))
    for _ in range(TRIES):
        ink, made_of = operation(alphabet, rng)
        mask = _to_bytes(ink)
        if made_of and mask.mean() < least_ink:
            continue
        if alphabet.looks_like(mask) < limit:
            fit = kind not in TURNS and rng.random() < 0.5
            return (_fit(mask) if fit else mask), made_of
    return None


def alphabets(glyphs: Glyphs):
    """Path, family and characters of each font; no digits where it has none."""
    for place, path in enumerate(glyphs.paths):
        masks = glyphs.masks[place]
        characters = LETTERS
        if glyphs.has_digits[place]:
            masks = torch.cat([masks, glyphs.digits[place]])
            characters = CHARACTERS
        yield str(path), str(glyphs.families[place]), Alphabet(masks.numpy(), characters)


class NoCharacters:
    """Those of one split or of all: ``masks`` uint8 [N, 64, 64], ``kinds`` and ``families`` [N].

    ``checked`` bool [N]: those that the check did not take for a character, all before it ran.
    """

    def __init__(self, work: Path, split: str | None = None):
        with np.load(work / "no_characters.npz") as file:
            part = file["split"] == split if split else np.ones(len(file["split"]), bool)
            self.masks = torch.from_numpy(file["masks"][part])
            self.kinds = file["kinds"][part]
            self.families = file["families"][part]
            self.checked = torch.ones(len(self.masks), dtype=torch.bool)
            if (work / "no_characters_checked.npy").exists():
                self.checked = torch.from_numpy(np.load(work / "no_characters_checked.npy")[part])


def sheet(masks: list[np.ndarray], kinds: list[str], columns: int = 24) -> Image.Image:
    """Some of each kind, a row a kind, black on white."""
    picture = Image.new("L", (columns * SIZE, len(KINDS) * SIZE), 255)
    for row, kind in enumerate(KINDS):
        of_kind = [mask for mask, other in zip(masks, kinds, strict=True) if other == kind]
        spread = of_kind[:: max(1, len(of_kind) // columns)][:columns]
        for column, mask in enumerate(spread):
            picture.paste(Image.fromarray(255 - mask), (column * SIZE, row * SIZE))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    target = args.work / "no_characters.npz"
    if target.exists():
        print(f"{target} exists, nothing to do")
        return
    made = {name: [] for name in ("masks", "kinds", "families", "split")}
    shares = [share for _, share, _ in KINDS.values()]
    for split, count in PER_FONT.items():
        for path, family, alphabet in alphabets(Glyphs(args.work, split)):
            # By the path, so that adding fonts changes nothing that is made of others.
            rng = np.random.default_rng(zlib.crc32(path.encode()))
            for kind in rng.choice(list(KINDS), count, p=shares):
                found = make(str(kind), alphabet, rng)
                if found is not None:
                    row = (found[0], str(kind), family, split)
                    for values, value in zip(made.values(), row, strict=True):
                        values.append(value)
    sheet(made["masks"], made["kinds"]).save(args.work / "no_characters.png")
    np.savez_compressed(target, **{k: np.stack(v) if k == "masks" else v for k, v in made.items()})
    for kind in KINDS:
        print(f"{kind}: {made['kinds'].count(kind)}")
    print({split: made["split"].count(split) for split in PER_FONT})


if __name__ == "__main__":
    main()
