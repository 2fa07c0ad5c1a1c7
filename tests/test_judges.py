"""The judges read what ships with the pack, and tell what is no character from what is one."""

import functools

import numpy as np
import pytest
import torch

from pocket.atlas import load_atlas, paint_glyphs
from pocket.drawing import LETTERS
from pocket.judges import CHARACTERS, NO_CHARACTER, SIGNS, load_judges, read_signs
from pocket.making.no_characters import KINDS, TURNS, Alphabet, make, strokes
from pocket.references import letter_pictures


def alphabet(font: int = 0) -> Alphabet:
    return Alphabet(load_atlas("test")[font].numpy(), LETTERS)


def read(name: str, masks: torch.Tensor) -> str:
    """What a judge reads in masks uint8 [B, 64, 64], each in random colours."""
    pictures = paint_glyphs(masks, torch.Generator().manual_seed(0))
    return read_signs(load_judges()[name], pictures.movedim(1, -1))


@functools.cache
def no_characters(kinds: tuple[str, ...]) -> torch.Tensor:
    """Masks uint8 [B, 64, 64]: 20 of each kind in every twelfth test font."""
    masks = []
    for font in range(0, len(load_atlas("test")), 12):
        rng = np.random.default_rng(font)
        made = [make(kind, alphabet(font), rng) for kind in kinds for _ in range(20)]
        masks += [found[0] for found in made if found is not None]
    return torch.from_numpy(np.stack(masks))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_character_repeats_by_its_seed(kind):
    first, again, other = (make(kind, alphabet(), np.random.default_rng(n)) for n in (5, 5, 6))
    assert first[0].dtype == np.uint8 and first[0].shape == (64, 64)
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert not np.array_equal(first[0], other[0])
    assert set(first[1]) <= set(LETTERS)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_made_looks_like_a_character_of_its_font(kind):
    rng = np.random.default_rng(1)
    for font in (0, 9, 30):
        made = [make(kind, alphabet(font), rng) for _ in range(5)]
        assert all(alphabet(font).looks_like(mask) < KINDS[kind][2] for mask, _ in made)


def test_an_e_without_its_lowest_stroke_looks_like_an_f():
    # The first font has no serifs.
    own = alphabet()
    e = own.masks[LETTERS.index("E")].copy()
    assert own.looks_like(e) > 0.999
    rows = np.flatnonzero(e.max(1) > 127)
    stem = np.flatnonzero(e[(rows[0] + rows[-1]) // 3] > 127)
    e[rows[-1] - 9 :, stem[-1] + 1 :] = 0
    assert own.looks_like(e) > 0.9


@pytest.mark.parametrize(
    ("turn", "stay"),
    [
        ("mirrored left to right", "AHIMOTUVWXY08" + "JLSZ25P9"),
        ("mirrored top to bottom", "BCDEHIKOX038" + "MWSZ2569P7LJV"),
        ("turned by half", "HINOSXZ08" + "MW69L7V"),
        ("turned to the left", "OX0" + "HINZCUMWE3"),
        ("turned to the right", "OX0" + "HINZCUMWE3"),
    ],
)
def test_nothing_is_made_by_turning_what_becomes_a_character(turn, stay):
    operation, among = TURNS[turn]
    assert not set(stay) & set(among)
    # What is made is the character turned: another order of the same pixels.
    mask, name = make(turn, alphabet(), np.random.default_rng(2))
    assert np.array_equal(mask, operation(alphabet().masks[LETTERS.index(name)]))


def test_strokes_are_the_straight_parts_of_a_shape():
    e = np.zeros((64, 64), np.float32)
    e[12:52, 20:24] = 1
    for top in (12, 30, 48):
        e[top : top + 4, 20:44] = 1
    found = strokes(e)
    assert len(found) == 4
    assert sum(part.astype(int) for part in found)[e < 0.5].sum() == 0
    assert sorted(part.sum() for part in found) == [96, 96, 96, 160]
    rows, columns = np.ogrid[:64, :64]
    disc = (np.hypot(rows - 32, columns - 32) < 20).astype(np.float32)
    assert not strokes(disc)  # all of it is as long as a stroke


def test_signs_are_the_letters_the_digits_and_one_for_none():
    assert CHARACTERS == "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    assert SIGNS == CHARACTERS + NO_CHARACTER and len(set(SIGNS)) == 37


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_judges_read_the_references(name):
    pictures = np.concatenate([letter_pictures(letter) for letter in LETTERS])
    signs = read_signs(load_judges()[name], torch.from_numpy(pictures) / 255)
    right = sum(a == b for a, b in zip(signs, "".join(x * 8 for x in LETTERS), strict=True))
    assert right >= 0.95 * len(signs)  # measured 0.98 and 0.99


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_judges_read_the_test_fonts(name):
    masks = load_atlas("test")[::3]
    signs = read(name, masks.flatten(0, 1))
    right = sum(a == b for a, b in zip(signs, LETTERS * len(masks), strict=True))
    assert right >= 0.97 * len(signs)  # measured on all of them 0.99 and 0.99


@pytest.mark.parametrize("name", ["plain", "residual"])
@pytest.mark.parametrize(
    ("kinds", "least"),
    [
        (("ghost", "morphed", "halved", "overlaid"), 0.88),
        (tuple(TURNS), 0.9),
        (("slid", "jumbled", "stroke removed", "stroke added"), 0.9),
        (("formless",), 0.95),
    ],
)
def test_judges_call_what_is_no_character_none(name, kinds, least):
    # Measured, plain and residual: 0.91 and 0.94, 0.93 and 0.99, 0.94 and 0.96, 0.99 and 0.98.
    # The check by a classifier, which leaves out some of them, does not ship.
    signs = read(name, no_characters(kinds))
    assert signs.count(NO_CHARACTER) >= least * len(signs)


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_judges_read_nothing_in_plain_color(name):
    pictures = torch.rand(10, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    signs = read_signs(load_judges()[name], pictures.expand(-1, 64, 64, -1))
    assert signs == NO_CHARACTER * 10
