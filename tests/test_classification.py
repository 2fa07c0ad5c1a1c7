"""The classification benchmark's parts, on very few steps."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from claims import classification, classification_section
from pocket.atlas import atlas_fonts, load_atlas, paint_glyphs
from pocket.drawing import LETTERS, TAIL_ORDER


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(classification, "QUICK_STEPS", 4)
    few = load_atlas(classification.TEST_GROUP)[:3]
    images = paint_glyphs(few.flatten(0, 1), torch.Generator().manual_seed(0)).movedim(1, -1)
    label = torch.arange(26).repeat(3)
    monkeypatch.setattr(classification, "_test_images", lambda: (images, label))


def perfect_pictures(count: int) -> torch.Tensor:
    """Real glyphs in place of generated pictures, uint8 [8, count, 64, 64, 3]."""
    masks = load_atlas("tuning")[:count, [LETTERS.index(k) for k in classification.RARE]]
    pictures = paint_glyphs(masks.transpose(0, 1).flatten(0, 1), torch.Generator().manual_seed(1))
    pictures = (pictures.movedim(1, -1) * 255).round().to(torch.uint8)
    return pictures.view(8, count, 64, 64, 3)


def test_real_images_repeat_and_grow():
    four = classification.real_images("S", 4, draw=1)
    assert four.shape == (4, 64, 64, 3)
    assert torch.equal(four, classification.real_images("S", 4, draw=1))
    assert torch.equal(four[:2], classification.real_images("S", 2, draw=1))
    assert not torch.equal(four, classification.real_images("S", 4, draw=2))
    assert len(torch.unique(four.flatten(1), dim=0)) == 4


def test_real_images_are_in_other_families_than_the_test_fonts():
    # Their strokes must be those of one group, and no family is in both.
    group = load_atlas(classification.REAL_GROUP)[:, LETTERS.index("K")].float() / 255
    for image in classification.real_images("K", 8, draw=0):
        ink = classification.strokes(image[None])[0, 0].clamp(0, 1)
        assert float((group - ink).abs().mean((1, 2)).min()) < 0.01
    fonts = atlas_fonts()
    families = [
        {row["family"] for row in fonts[group]}
        for group in (classification.REAL_GROUP, classification.TEST_GROUP)
    ]
    assert not families[0] & families[1]


def test_rare_letters_are_the_last_eight():
    assert classification.RARE == TAIL_ORDER[-8:] == "JUDBKPCS"
    assert sorted(classification.RARE + classification.FREQUENT) == list(LETTERS)


def test_strokes_do_not_depend_on_the_colors():
    masks = load_atlas("tuning")[0]
    painted = [
        classification.strokes(
            paint_glyphs(masks, torch.Generator().manual_seed(seed)).movedim(1, -1)
        )
        for seed in (0, 1)
    ]
    assert torch.allclose(*painted, atol=0.02)
    assert torch.allclose(painted[0][:, 0], masks.float() / 255, atol=0.06)


@pytest.mark.parametrize("arm", classification.ARMS)
def test_every_arm_runs_and_repeats(arm):
    pictures = {arm: perfect_pictures(2)} if arm in ("plain", "seedselect") else {}
    result = classification.run(arm, 1, 0, **pictures, quick=True)
    assert result == classification.run(arm, 1, 0, **pictures, quick=True)
    assert set(result) == {"overall", "rare", "frequent", "letters", "right"}
    assert list(result["letters"]) == list(LETTERS)
    rare = sum(result["letters"][letter] for letter in classification.RARE) / 8
    assert result["rare"] == pytest.approx(rare)
    assert result["overall"] == pytest.approx((8 * result["rare"] + 18 * result["frequent"]) / 26)


def test_generated_pictures_take_part():
    weights = []
    for pictures in (None, perfect_pictures(2), perfect_pictures(4)):
        real, made = classification.training_data(1, 0, pictures)
        model = classification.train(real, made, True, True, False, draw=0, steps=2)
        weights.append(model[-1].weight)
    assert not any(torch.equal(weights[i], weights[k]) for i, k in ((0, 1), (0, 2), (1, 2)))


def test_an_arm_without_its_pictures_is_refused():
    with pytest.raises(ValueError, match="give plain="):
        classification.run("plain", 1, 0, quick=True)
    with pytest.raises(ValueError, match="no arm 'magic'"):
        classification.run("magic", 1, 0, quick=True)


def test_nearest_centroid_reads_what_an_encoder_tells_apart():
    # An encoder of pixels alone: better than chance, which is 1 in 26.
    result = classification.nearest_centroid(
        lambda images: classification.shrink(classification.strokes(images)).flatten(1), 2, 0
    )
    assert result["overall"] > 0.3


def test_a_set_that_stayed_short_is_learned_from_all_the_same(tmp_path):
    for letter, images in zip(classification.RARE, perfect_pictures(3).numpy(), strict=True):
        few = images[: 2 if letter == "P" else 3]
        np.savez(tmp_path / f"{letter}_4_1.npz", plain=few, seedselect=few)
    how = {"arm": "seedselect", "n": 4, "draw": 1, "quick": True}
    assert len(classification_section.run(None, tmp_path, tmp_path, **how)["right"]) == 26
