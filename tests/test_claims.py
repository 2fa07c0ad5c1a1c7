"""How the quality benchmark counts: cost, intervals, draws."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from test_optimize import run

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import quality
from claims import classification_section, common, diversity_section, frequency, rivals, sets
from claims.intervals import mean_and_interval, paired
from claims.readings import read_by_encoder
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings


def test_cost_by_hand():
    assert common.cost(Settings(iterations=0)) == 10
    assert common.cost(Settings(iterations=0, candidates=4, neighbors=6)) == 100
    # Every iteration: 10 forwards, 10 again, 10 backwards at two each; and the last noise once.
    assert common.cost(PRESETS["paper"]) == 30 * 40 + 10
    assert common.cost(PRESETS["default"]) == 24 * 3 + 16 * (10 + 3 * 3) + 10
    assert common.within(400, PRESETS["paper"]).iterations == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 3},
        {"iterations": 3, "gradient_steps": 2},
        {"iterations": 2, "candidates": 3, "gradient_steps": 1},
        {"iterations": 0, "candidates": 2, "neighbors": 2},
        {"iterations": 0, "candidates": 3, "draft_steps": 2},
        {"iterations": 1, "candidates": 3, "draft_steps": 1, "gradient_steps": 1},
        {"iterations": 1, "draft_steps": 1},
    ],
)
def test_cost_is_what_is_really_spent(changes):
    # Calls that are kept are not made twice.
    settings = tiny.settings(**changes, memory="whole calls")
    steps = tiny.SAMPLING.steps
    _, _, history = run(settings=settings)
    backward = 2 * settings.iterations * (settings.gradient_steps or steps)
    drafted = settings.candidates > 1 and settings.draft_steps > 0
    free = steps + drafted * steps  # the last sampling, and the picture before
    assert history.evaluations + backward - free == common.cost(settings, steps)


def test_mean_and_interval():
    alike = mean_and_interval([("A", [0.5, 0.5]), ("B", [0.5])])
    assert (alike["mean"], alike["low"], alike["high"], alike["count"]) == (0.5, 0.5, 0.5, 3)
    apart = mean_and_interval([("A", [0.0] * 8), ("B", [1.0] * 8)])
    assert apart["mean"] == 0.5 and apart["low"] == 0.0 and apart["high"] == 1.0
    many = mean_and_interval([("A", [0.0, 1.0] * 50)] * 50)
    assert 0.48 < many["low"] < 0.5 < many["high"] < 0.52


def test_letters_are_drawn_again_and_not_only_their_draws():
    one = [("A", [0.0, 1.0] * 4)] * 40 + [("B", [1.0] * 8)] * 40
    other = [(str(number), values) for number, (_, values) in enumerate(one)]
    assert mean_and_interval(one)["low"] == pytest.approx(0.5, abs=0.05)
    assert mean_and_interval(other)["low"] > 0.6


def test_letters_that_are_held_leave_only_what_differs_within_them():
    apart = [("A", [0.0] * 8), ("B", [1.0] * 8)]
    held = mean_and_interval(apart, others=False)
    assert (held["mean"], held["low"], held["high"]) == (0.5, 0.5, 0.5)
    alike = [("A", [0.0, 1.0] * 20), ("B", [1.0, 0.0] * 20)]
    assert 0.35 < mean_and_interval(alike, others=False)["low"] < 0.45


def test_what_one_method_has_over_another_is_paired_by_letter_and_draw():
    def unit(method, budget, **rights):
        groups = [{"letter": x, "draw": 0, "right": right} for x, right in rights.items()]
        return {"method": method, "budget": budget, "groups": groups}

    units = [
        unit("ours", 25, P=[1.0, 0.5], S=[0.0]),
        unit("theirs", 25, S=[0.5], P=[0.0, 0.5]),
        unit("theirs", 100, S=[1.0], P=[1.0, 1.0]),
    ]
    gains = {letter: gain.tolist() for letter, gain in paired(units, 25, "ours", "theirs")}
    assert gains == {"P": [1.0, 0.0], "S": [-0.5]}


def test_where_all_agree_the_interval_is_wilsons():
    all_right = mean_and_interval([("A", [1.0] * 4), ("B", [1.0] * 4)])
    assert all_right == {"mean": 1.0, "low": 0.6756, "high": 1.0, "count": 8}
    assert mean_and_interval([("A", [0.0] * 8)])["high"] == 0.3244
    assert mean_and_interval([("A", [0.0] * 8)], shares=False)["high"] == 0.0


def test_draws_differ_and_repeat():
    def pixels(draw: int) -> torch.Tensor:
        return common.references("K", 4, draw).resized(64, 64)

    assert torch.equal(pixels(0), pixels(0)) and not torch.equal(pixels(0), pixels(1))
    assert common.color_pairs_of("K", 8, 1) == common.color_pairs_of("K", 8, 1)
    assert all(ink != ground for ink, ground in common.color_pairs_of("K", 8, 1))


def test_the_letters_held_out_are_not_those_of_the_presets():
    assert not set(common.HELD_OUT) & set("DBJ")
    assert common.HELD_OUT == "KPCS"


def test_units_are_kept_apart_by_what_they_depend_on_and_not_by_their_summary(tmp_path):
    source = """
NAME = "one"
def run():
    return 1
def summarize(found):
    return 1
"""

    def place(name: str, text: str) -> Path:
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return quality.folder_of(module, False)

    first = place("first", source)
    assert place("same", source) == first
    assert (
        place("told", source.replace("(found):\n    return 1", "(found):\n    return 2")) == first
    )
    assert place("done", source.replace("run():\n    return 1", "run():\n    return 2")) != first


def test_a_gain_is_between_classifiers_with_the_same_real_images():
    letters = classification_section.GROUPS["overall"]

    def unit(arm: str, draw: int, right: list[int]) -> dict:
        return {"arm": arm, "n": 4, "draw": draw, "right": dict.fromkeys(letters, right)}

    found = [unit("adjusted", 0, [1, 1]), unit("adjusted", 1, [1, 0])]
    found += [unit("seedselect", 0, [1, 1]), unit("seedselect", 1, [1, 0])]
    table = classification_section.summarize(dict(enumerate(found)), None, None)["table"]
    found = table["4 real images"]
    assert found["best rival"] == "adjusted"
    assert found["arms"]["seedselect"]["rare"]["mean"] == 0.75
    assert found["arms"]["seedselect"]["rare"]["low"] < 0.75
    # All that the mean gain is made of is 0, so that its interval cannot go below.
    assert found["gain"]["rare"]["mean"] == found["gain"]["rare"]["low"] == 0


def test_the_pictures_shown_are_those_of_the_first_draw(tmp_path):
    for name, color in (("late", 255), ("early", 0)):
        np.savez(tmp_path / f"{name}.npz", made=np.full((3, 8, 8, 3), color, np.uint8))
    units = {"late": {"draw": 5}, "early": {"draw": 2}, "without": {"draw": 2}}
    quality.save_pictures(tmp_path, units, tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as shown:
        assert np.asarray(shown).max() == 0


def test_a_unit_may_keep_several_rows_of_pictures(tmp_path):
    rows = np.stack([np.full((3, 8, 8, 3), color, np.uint8) for color in (40, 80)])
    np.savez(tmp_path / "both.npz", plain=rows, made=rows[:, :2])
    quality.save_pictures(tmp_path, {"both": {}}, tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as shown:
        # Two kinds of two pictures each, a row of them after the other.
        assert shown.size == (4 * 10 + 2, 2 * 10 + 2)
        assert [int(np.asarray(shown)[y, 5, 0]) for y in (5, 15)] == [40, 80]


def test_groups_side_by_side_keep_to_themselves():
    """Prompts, references and verdicts of a batch are each those of its own group."""
    world = common.PocketWorld()
    groups = [("A", 0), ("F", 1)]
    with torch.inference_mode():
        found = common.optimized(world, groups, 2, Settings(iterations=0))
        for (letter, draw), own in zip(groups, found, strict=True):
            assert (own["letter"], own["draw"]) == (letter, draw)
            assert own["pairs"] == common.color_pairs_of(letter, 2, draw)
            assert own["right"] == [1.0, 1.0] and own["colours"] == [True, True]
            again = common.optimized(
                world, [(letter, draw)], 2, Settings(iterations=0), start=own["seed"]
            )[0]
            assert again["semantic"] == pytest.approx(own["semantic"], abs=1e-4)
            assert read_by_encoder(world, own) == [True, True]
        assert read_by_encoder(world, found[0] | {"letter": "F"}) == [False, False]


def test_what_is_missed_is_told_with_what_the_encoder_reads():
    group = {
        "letter": "B",
        "right": [1.0, 0.5, 0.0, 1.0],
        "semantic": [0.2, 0.3, 0.1, 0.4],
        "read by the encoder": [True, True, False, False],
    }
    row = frequency._missed([group, group | {"letter": "C", "right": [1.0] * 4}])
    assert row == {
        "B": {
            "missed": 1.5,
            "of": 4,
            "read by both": 0.3,
            "others": [0.1, 0.3],
            "others read by the encoder": 1,
        }
    }


def test_of_the_pictures_that_the_encoders_like_it_is_told_how_many_are_right():
    group = {"letter": "B", "right": [1.0, 0.5, 0.0, 1.0], "liked": [True, True, False, False]}
    of_another = group | {"letter": "C", "liked": [False] * 4}
    found = frequency._liked([group, of_another], "liked")
    assert (found["mean"], found["count"]) == (0.75, 2)
    assert frequency._liked([of_another], "liked") is None
    group["agreed"] = [True, False, True, True]
    assert frequency._liked([group], "liked", "agreed")["mean"] == 1.0


def test_evaluations_until_nine_in_ten_are_right():
    def entry(method: str, cost: int, right: float) -> dict:
        return {"method": method, "cost": cost, "right": {"mean": right}}

    found = [entry("ours", 100, 0.95), entry("random", 10, 0.2), entry("random", 100, 0.2)]
    found += [entry("best of N", 1600, 1.0), entry("best of N", 400, 0.8)]
    needed = rivals._needed(found)
    # Halfway between the logarithms of 400 and 1,600.
    assert needed["best of N"] == 800
    assert needed["ours"] == 100 and needed["random"] is None


def test_the_share_that_is_gained_lies_between_the_rival_and_the_seen_fonts():
    def rows(**means: float) -> dict:
        return {arm.replace("_", " "): {"rare": {"mean": mean}} for arm, mean in means.items()}

    gained = classification_section._gained
    assert gained(rows(plain=0.5, seedselect=0.7, seen_fonts=0.75), "plain") == 0.8
    assert gained(rows(plain=0.8, seedselect=0.7, seen_fonts=0.75), "plain") is None
    assert gained(rows(plain=0.5, seedselect=0.7), "plain") is None


def test_other_code_is_whatever_a_section_imports_however_late(tmp_path, monkeypatch):
    files = {
        "section.py": "from core.a import x\n",
        "core/a.py": "def later():\n    from .b import y\n",
        "core/b.py": "import json, core.c\n",
        "core/c.py": "",
        "core/other.py": "",
    }
    (tmp_path / "core").mkdir()
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    monkeypatch.setattr(quality, "ROOTS", (tmp_path,))
    found = quality._imported_by.__wrapped__("section")
    assert {x.name for x in found} == {"section.py", "a.py", "b.py", "c.py"}


def test_ours_is_compared_with_the_best_rival_picture_by_picture():
    def unit(method: str, right: list[float]) -> dict:
        group = {"letter": "K", "draw": 0, "right": right, "colours": right}
        group |= {"semantic_alike": right, "norm": right}
        return {"method": method, "budget": 25, "cost": 10, "groups": [group]}

    found = [unit("random", [0, 0]), unit("best of N", [1, 0]), unit("ours", [1, 0.5])]
    summary = rivals.summarize(dict(enumerate(found)), None, None)
    assert [entry["method"] for entry in summary["table"]] == ["random", "best of N", "ours"]
    assert summary["ahead"][25]["best rival"] == "best of N"
    gap = summary["ahead"][25]["gap"]
    assert gap["mean"] == 0.25 and gap["low"] == 0.0


def test_real_glyphs_in_the_colors_of_a_set():
    images = diversity_section._in_colors_of_the_set("K", 8)
    calls = sets.calls("K", 8, 0, sets.MANY)
    assert len(images) == sets.MANY and len(calls) == 7
    pairs = [pair for own in calls.values() for pair in own]
    assert len(set(pairs)) == len(pairs) == 56
    for number in (0, 55, 56, 99):
        ink, ground = pairs[number % len(pairs)]
        assert common.colors_right(images[number : number + 1], ink, ground).all()
