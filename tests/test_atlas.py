"""The glyphs that ship with the pack are what they are said to be."""

import json

import pytest
import torch

from pocket.atlas import GROUPS, SEEN_CAP, atlas_fonts, load_atlas, paint_glyphs
from pocket.drawing import LETTERS
from pocket.judges import WEIGHTS


def test_groups_have_a_row_of_masks_for_every_named_font():
    fonts = atlas_fonts()
    assert [len(fonts[group]) for group in GROUPS[:2]] == [16, 24]
    for group in GROUPS:
        masks = load_atlas(group)
        assert masks.dtype == torch.uint8
        assert masks.shape == (len(fonts[group]), 26, 64, 64)
        # Glyphs are scaled to a longer side of 46 pixels, so each has ink and ground.
        assert bool((masks.flatten(2).max(2).values > 150).all())
        assert bool((masks[:, :, 0] == 0).all())


def test_no_family_is_in_two_groups_nor_among_the_fonts_trained_on():
    fonts = atlas_fonts()
    families = [{row["family"] for row in fonts[group]} for group in GROUPS]
    families.append({"/".join(path.split("/")[-3:-1]) for path in fonts["seen"]["paths"]})
    assert sum(map(len, families)) == len(set().union(*families))


def test_reported_fonts_are_not_those_that_settings_were_tuned_on():
    fonts = atlas_fonts()
    shipped = {name for row in fonts["report"] + fonts["test"] for name in row["references"]}
    assert not {name for name in shipped if name[0] in "BDJU"}


def test_seen_has_as_many_glyphs_as_the_model_saw_up_to_the_cap():
    seen = load_atlas("seen")
    expected = json.loads((WEIGHTS / "fonts_seen.json").read_text())
    assert "".join(seen) == LETTERS
    for letter, count in expected.items():
        assert seen[letter].shape == (min(count, SEEN_CAP), 64, 64)
        assert bool((seen[letter].flatten(1).max(1).values > 150).all()), letter


def test_painting_repeats_and_uses_two_colors():
    masks = load_atlas("tuning")[0]
    first = paint_glyphs(masks, torch.Generator().manual_seed(3))
    again = paint_glyphs(masks, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert first.shape == (26, 3, 64, 64)
    assert 0 <= first.min() and first.max() <= 1
    assert len({tuple(picture[:, 0, 0].tolist()) for picture in first}) > 3


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="no group 'validation'"):
        load_atlas("validation")
