"""Which card holds which model: the table is complete, still true of this code, and well read."""

import json
import re
import subprocess
import sys
from pathlib import Path

import comfy.model_detection
import pytest
import torch

from conftest import REPO

sys.path.append(str(REPO / "benchmarks"))

import memory
import memory_page

TABLE = json.loads((REPO / "benchmarks/results/memory.json").read_text(encoding="utf-8"))
GIB = 2**30
WORKFLOWS = sorted((REPO / "workflows").glob("*.json"))
# The row of the table that a template's note speaks of.
NOTES = {
    "hand_palms_z_image_turbo": "Z-Image-Turbo",
    "joint_redux_flux_dev": "Flux-dev, fp8",
    "seedselect_flux2_klein": "Flux.2-klein-4B",
    "seedselect_flux_dev": "Flux-dev, fp8",
    "seedselect_qwen_image": "Qwen-Image, fp8",
    "seedselect_sd35_medium": "SD 3.5 medium",
}
LEVELS = {
    "block by block": "by blocks",
    "block by block, the rest in main memory": "by blocks, in main memory",
}


# ---------------------------------------------------------------- the table


def test_the_page_is_made_of_the_table():
    assert memory_page.PAGE.read_text(encoding="utf-8") == memory_page.page(TABLE)


def test_the_goals_are_judged_by_the_figures():
    assert TABLE["goals"] == memory_page.goals(TABLE)


def note_on_cards(workflow: Path) -> str:
    """The line of its notes that names cards, "" if there is none."""
    nodes = json.loads(workflow.read_text(encoding="utf-8"))["nodes"]
    notes = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    return "".join(re.findall(r"^\d+ GB .*$", "\n".join(notes), re.M))


def told_of(name: str) -> dict[int, str]:
    """How each card holds a model, in the words of the table."""
    verdicts = {card: memory_page.verdict(TABLE, name, card) for card in memory_page.CARDS}
    return {card: memory_page._said(verdict) for card, verdict in verdicts.items()}


def first(told: dict[int, str], wanted: str) -> int:
    return next(card for card, words in told.items() if re.search(wanted, words))


def test_every_note_on_cards_is_compared_with_the_table():
    assert {path.stem for path in WORKFLOWS if note_on_cards(path)} == set(NOTES)


@pytest.mark.parametrize("stem", NOTES)
def test_a_template_names_the_cards_of_the_table(stem):
    note = note_on_cards(REPO / f"workflows/{stem}.json")
    told = told_of(NOTES[stem])
    card, level = re.match(r"(\d+) GB \((.*?)\)", note).groups()
    assert int(card) == first(told, "^(?!no|.*streamed)") and told[int(card)] == LEVELS[level]
    for card in re.findall(r"(\d+) GB for whole calls", note):
        assert int(card) == first(told, "^whole calls$")
    streamed = re.search(r"On ([\d and]+) GB a part of the weights is sent", note)
    for card in re.findall(r"\d+", streamed[1]) if streamed else ():
        assert "streamed" in told[int(card)]


def test_every_case_has_a_row():
    made = {section: len(TABLE[section]) for section in memory.MAKERS}
    expected = dict.fromkeys(memory.MAKERS, 0)
    for section, *_ in memory.cases():
        expected[section] += 1
    assert made == expected
    assert [row["name"] for row in TABLE["models"]] == [spec.name for spec in memory.MODELS]


def test_the_table_claims_what_a_run_shows():
    # The host chooses its attention when it is imported, so by a process of its own.
    command = [sys.executable, str(REPO / "benchmarks" / "memory.py"), "--jobs", "1"]
    command += ["--only", "decoders TAESD", "models SD 1.5"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    unet, decoder = map(json.loads, done.stdout.splitlines())
    claimed = memory_page.row_of(TABLE, "models", name="SD 1.5")
    assert unet["weights"] == claimed["weights"]
    for level, need in claimed["levels"].items():
        assert unet["levels"][level]["device"] == pytest.approx(need["device"], rel=0.03)
    claimed = memory_page.row_of(TABLE, "decoders", name="TAESD")
    assert decoder["whole"] == pytest.approx(claimed["whole"], rel=0.03)
    assert decoder["in strips"] == pytest.approx(claimed["in strips"], rel=0.03)


@pytest.mark.parametrize("spec", memory.MODELS, ids=lambda spec: spec.name)
def test_a_model_has_the_sizes_that_the_host_detects(spec):
    weights = spec.build(memory.META).model.diffusion_model.state_dict()
    found = comfy.model_detection.model_config_from_unet(weights, "")
    assert type(found).__name__ == spec.family
    assert spec.sizes.items() <= found.unet_config.items()


# ---------------------------------------------------------------- counting


def test_what_is_alive_is_counted_once_and_until_it_dies():
    mebi = torch.ones(2**18, device="meta")
    weights = {mebi.untyped_storage()._cdata}
    with memory.NoNumbers(), memory.Alive(memory.META, weights) as alive:
        mebi.view(2, -1)  # of the weights
        sums = [mebi + 1, mebi + 2]
        views = [one[:7] for one in sums]
        assert alive.peak == 2 * 2**20
        del sums, views
        away = (mebi + 3).to("cpu")
        assert (alive.peak, alive.away) == (2 * 2**20, 2**20)
        kept = [mebi + 4, mebi + 5, mebi + 6]
        assert alive.peak == 3 * 2**20
    assert len(kept) == 3 and away.device == memory.CPU


def test_questions_about_numbers_that_are_not_there_are_answered():
    x = torch.ones(3, device="meta")
    with memory.NoNumbers():
        assert torch.equal(x, x + 1) and bool((x > 2).all()) and float(x[0]) == 1.0


def test_function_modes_see_the_kernels_of_a_card():
    seen = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function.__name__)
            return function(*args, **(kwargs or {}))

    q = torch.ones(1, 2, 8, 40, dtype=torch.float16, device="meta", requires_grad=True)
    with memory.without_numbers(), Watching():
        out = torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert seen[0] == "scaled_dot_product_attention"
    assert out.shape == q.shape and "Flash" in str(_origins(out.grad_fn))


def _origins(node) -> list:
    if node is None:
        return []
    return [node, *(one for before, _ in node.next_functions for one in _origins(before))]


# ---------------------------------------------------------------- cards


def small_table(weights: float, whole: float, blocks: float, picture: float) -> dict:
    """Of one model, in GiB."""
    levels = {"whole calls": whole, "by blocks": blocks}
    model = {
        "name": "one",
        "pixels": 64,
        "vae": "SD",
        "weights": weights * GIB,
        "largest layer": 0.1 * GIB,
        "levels": {name: {"device": need * GIB} for name, need in levels.items()},
    }
    pictures = {"name": "SD", "pixels": 64, "weights": GIB}
    pictures |= {"whole": 2 * picture * GIB, "in strips": picture * GIB}
    return {"margin": 1.0, "models": [model], "pictures": [pictures]}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((3, 4, 1, 1), {"level": "whole calls", "streamed": 0}),
        ((3, 5, 1, 1), {"level": "by blocks", "streamed": 0}),
        ((9, 5, 1, 1), {"level": "by blocks", "streamed": 2.6 * GIB}),
        ((9, 9, 7.3, 1), None),  # no room for two layers
        ((3, 4, 1, 6.5), None),  # the picture does not fit
    ],
)
def test_a_card_holds_a_model_at_the_fastest_level_that_fits(sizes, expected):
    found = memory_page.verdict(small_table(*sizes), "one", 8)
    if expected is not None:
        expected = expected | {"streamed": pytest.approx(expected["streamed"])}
    assert found == expected


@pytest.mark.parametrize(("weights", "met"), [(3, True), (9, False)])
def test_a_goal_that_needs_streaming_is_missed(weights, met):
    goal = memory_page._goal_of_card(small_table(weights, 5, 1, 1), "one", 8)
    assert goal["met"] == met and ("streamed" in goal["found"]) != met
