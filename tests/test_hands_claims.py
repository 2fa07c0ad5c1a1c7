"""The benchmarks on hands: what they ask for, how they judge, and that every section runs.

The model has learned nothing: its pictures are of no hand, and their figures mean nothing.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny  # noqa: F401  the host's settings
from conftest import REPO

sys.path.append(str(REPO / "benchmarks"))

import quality
import results_page
from claims import (
    hands_classification,
    hands_common,
    hands_diversity,
    hands_frequency,
    hands_palms,
    hands_rivals,
    hands_sets,
)
from claims.common import generator_of
from claims.hands_common import Hand
from hands_world import HandsWorld, grounds_right, real_pictures
from pocket.hands.real import EACH, LEARNED, SHEET, real_hands
from pocket.hands.references import hand_pictures
from pocket.hands.words import GESTURES, GROUNDS, SIDES, TAIL_ORDER, VIEWS
from seedselect_core import hands
from seedselect_core.search.settings import Settings

SHORT = Settings(iterations=1, candidates=1, gradient_steps=1)
FIST = Hand("fist", "right", "palm")


@pytest.fixture(scope="module")
def world(random_hands) -> HandsWorld:
    pytest.importorskip("ai_edge_litert")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hands, "HANDS", random_hands)
        return HandsWorld()


@pytest.fixture
def short(monkeypatch):
    """Searches of one step, in the place of every preset and rival's."""
    presets = dict.fromkeys(("default", "quick"), SHORT)
    for module in (hands_frequency, hands_sets):
        monkeypatch.setattr(module, "PRESETS", presets)
    for methods in (hands_palms.METHODS, hands_rivals.OURS):
        for name in methods:
            monkeypatch.setitem(methods, name, SHORT)
    monkeypatch.setitem(hands_rivals.METHODS, "ours", hands_rivals.OURS.get)


def test_the_real_hands_are_as_many_as_told_and_none_is_there_twice_or_a_reference():
    every = [real_hands(gesture, view) for gesture in GESTURES for view in VIEWS]
    assert [len(own) for own in every[:2]] == list(EACH.values())
    pixels = np.concatenate(every)
    assert len({picture.tobytes() for picture in pixels}) == len(pixels) == 800
    assert SHEET.stat().st_size <= 2_000_000
    assert set(np.unique(pixels)) <= {*range(0, 256, 4), 255}
    shipped = hand_pictures("fist", "right", "palm")
    shapes = real_hands("fist", "palm")[..., 3] > 127
    ground = shipped[:, :1, :1].astype(int)
    masks = np.abs(shipped - ground).max(-1) > 40
    assert not any(np.array_equal(a, b) for a in shapes for b in masks)


def test_a_left_hand_is_a_right_one_mirrored_on_the_same_ground():
    right, left = (
        real_pictures(Hand("gun", side, "back"), [0, 5], generator_of("x")) for side in SIDES[::-1]
    )
    assert right.shape == (2, 64, 64, 3)
    assert torch.equal(left.flip(2), right)
    assert not torch.equal(right[0], right[1])


def test_four_draws_show_every_side_and_view():
    for gesture in TAIL_ORDER:
        seen = {hands_common.hand_of(gesture, draw) for draw in range(4)}
        assert len(seen) == 4


def test_draws_of_references_differ_and_repeat_and_leave_the_test_alone():
    def pixels(draw: int) -> torch.Tensor:
        return hands_common.references(FIST, 4, draw).resized(64, 64)

    assert torch.equal(pixels(0), pixels(0)) and not torch.equal(pixels(0), pixels(1))
    assert sorted(hands_common.real_order("fist", 0)) == list(range(LEARNED))
    assert hands_common.real_order("fist", 0) != hands_common.real_order("fist", 1)
    assert hands_common.learned("back") == EACH["back"]


def test_no_ground_is_asked_for_twice_while_others_are_left():
    assert len(set(hands_common.grounds_of(FIST, 10, 0))) == 10
    assert len(hands_common.grounds_of(FIST, 13, 0)) == 13


def test_the_ground_is_read_at_the_border():
    names = list(GROUNDS)
    images = torch.tensor([GROUNDS[name] for name in names])[:, None, None].repeat(1, 64, 64, 1)
    images[:, 10:, 10:50] = 0.5
    assert all(grounds_right(images, names))
    assert not any(grounds_right(images, names[1:] + names[:1]))


def test_rivals_add_to_a_longer_noise_what_they_add_to_the_letters():
    assert hands_rivals.LONGER == 2
    assert hands_rivals.RENO.learning_rate == 5 / 32
    assert hands_rivals.RENO.weights.norm == pytest.approx(0.32)
    assert hands_rivals.METHODS["best of N"](400).candidates == 40


def test_ours_is_compared_with_another_hand_by_hand():
    def group(draw: int, right: list[int]) -> dict:
        return {**FIST._asdict(), "draw": draw, "right": right}

    ours = [group(0, [1, 1]), group(1, [1, 0])]
    gap = hands_common.paired(ours, [group(1, [1, 0]), group(0, [0, 0])], "right")
    assert gap["mean"] == 0.5 and gap["count"] == 4


def test_other_weights_of_hands_are_other_data_for_hands_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "REPO", tmp_path)
    weights = tmp_path / "pocket/hands/weights/unet.safetensors"
    weights.parent.mkdir(parents=True)
    found = {}
    for content in ("first", "other"):
        weights.write_text(content)
        found[content] = [quality._data.__wrapped__(name) for name in ("letters", "hands")]
    assert found["first"][0] == found["other"][0] and found["first"][1] != found["other"][1]


def test_every_section_on_hands_depends_on_what_they_share():
    of_hands = [name for name in quality.SECTIONS if name.startswith("hands_")]
    assert len(of_hands) == 6
    for module in (quality.SECTIONS[name] for name in of_hands):
        assert quality.world_of(module) == "hands" and hands_common in module.DEPENDS
        assert REPO / "pocket/hands/judges.py" in quality._imported_by(module.__name__)
        assert module.units(True) and module.units(False)
    letters = [module for name, module in quality.SECTIONS.items() if name not in of_hands]
    assert {quality.world_of(module) for module in letters} == {"letters"}


def test_groups_side_by_side_keep_to_themselves(world):
    groups = [(FIST, 0), (Hand("five", "left", "back"), 1)]
    with torch.inference_mode():
        found = hands_common.optimized(world, groups, 2, Settings(iterations=0))
        for (hand, draw), own in zip(groups, found, strict=True):
            assert (own["gesture"], own["side"], own["view"], own["draw"]) == (*hand, draw)
            assert own["images"].shape == (2, 64, 64, 3)
            again = hands_common.optimized(
                world, [(hand, draw)], 2, Settings(iterations=0), start=own["seed"]
            )[0]
            assert again["semantic"] == pytest.approx(own["semantic"], abs=1e-4)
            assert set(hands_common.figures(own)) == set(hands_common.FIGURES)


def test_real_hands_are_judged_well_formed_and_others_are_not_right(world):
    own = hands_common.real_group(world, Hand("point", "left", "palm"))
    assert len(own["right"]) == EACH["palm"] - LEARNED
    assert np.mean(own["well_formed"]) >= 0.75
    images = real_pictures(Hand("point", "left", "palm"), [0, 1], generator_of("x"))
    assert hands_common.judge(world, images, FIST)["right"] == [0, 0]


def measured(module, world, folder: Path, units: dict[str, dict], **more) -> dict:
    """A section's summary, as `quality` makes it."""
    folder.mkdir(exist_ok=True)
    with torch.inference_mode():
        found = {
            name: module.run(world, folder / name, **how, **more) for name, how in units.items()
        }
    found = json.loads(json.dumps(found))
    return json.loads(json.dumps(module.summarize(found, folder, folder)))


def test_every_section_runs_and_is_told_on_the_page(world, short, monkeypatch, tmp_path):
    some = {
        hands_frequency: {
            name: {"gestures": [name], "draws": 1, "count": 1} for name in ("point", "love")
        },
        hands_rivals: {
            method: {
                "gestures": ["point"],
                "draws": [0],
                "count": 1,
                "budget": 100,
                "method": method,
            }
            for method in ("random", "NAO start", "ours")
        },
        hands_palms: hands_palms.units(True),
        hands_sets: hands_sets.units(True),
    }
    monkeypatch.setattr(hands_rivals, "PAPER", SHORT)
    monkeypatch.setattr(hands_rivals, "within", lambda budget, settings: settings)
    figures = tmp_path / "figures"
    figures.mkdir()
    told = {"quick": True, "commits": ["0" * 40], "machine": "", "torch": "", "core_seconds": 0}
    summaries = {
        module.NAME: measured(module, world, tmp_path / module.NAME, units)
        for module, units in some.items()
    }
    made = {"made": tmp_path / hands_sets.NAME}
    units = hands_diversity.units(True)
    summaries["hands_diversity"] = measured(hands_diversity, world, tmp_path / "d", units, **made)
    arms = {arm: {"arm": arm, "n": 4, "steps": 2} for arm in ("adjusted", "more real", "real")}
    summaries["hands_classification"] = measured(
        hands_classification, world, tmp_path / "c", arms, **made
    )
    for name, summary in summaries.items():
        result = told | {"section": name, "summary": summary}
        (figures / f"{name}.json").write_text(json.dumps(result))
    for name in ("point", "love"):
        assert (tmp_path / f"hands_frequency/{name}.npz").exists() == (name == "point")
    monkeypatch.setattr(results_page, "FIGURES", figures)
    monkeypatch.setattr(results_page, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(results_page, "current", lambda name: name in summaries)
    results_page.main()
    page = results_page.PAGE.read_text()
    assert "<!--" not in page
    part = page[page.index("## Hands") : page.index("## Your own")]
    assert "Not measured" not in part and "eight rarest gestures right in 90 %" in part
    for name in summaries:
        assert f"bench quality --only {name}`" in part


def test_generated_hands_are_learned_from_in_the_place_of_real_ones(world, tmp_path):
    generator = torch.Generator().manual_seed(0)
    pools = [torch.zeros(3, 1, 2, 2)] * len(GESTURES)
    made = {TAIL_ORDER[-1]: torch.ones(3, 1, 2, 2)}

    def share(gesture: str) -> float:
        number = GESTURES.index(gesture)
        drawn = [hands_classification._picked(pools, made, number, generator) for _ in range(400)]
        return torch.stack(drawn).mean().item()

    assert 0.4 < share(TAIL_ORDER[-1]) < 0.6 and share(TAIL_ORDER[0]) == 0


def test_rare_gestures_have_as_many_real_hands_as_told_and_the_test_has_others():
    rare, often = TAIL_ORDER[-1], TAIL_ORDER[0]
    assert len(hands_classification.learned_palms(rare, 2)) == 2
    assert len(hands_classification.learned_palms(often, 2)) == LEARNED
    (more, *_) = hands_classification.generated_palms(Path(), "more real", 8)
    assert len(more) == hands_sets.MADE
    images, label = hands_classification.unseen_palms()
    assert len(images) == len(label) == 20 * 2 * (EACH["palm"] - LEARNED)
    assert torch.bincount(label).tolist() == [24] * 20
