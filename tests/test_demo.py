"""The demo: what it asks of each toy model, how it is judged, and what it writes."""

import json

import pytest
import torch
from PIL import Image

import demo
import demo_worlds
from conftest import REPO
from demo_worlds import NETWORK, WELL_FORMED, WORLDS, asked
from pocket.drawing import TAIL_ORDER as LETTERS_TAIL
from pocket.hands.words import TAIL_ORDER

LETTERS = WORLDS["letters"]
HANDS = WORLDS["hands"]


def workflow() -> dict:
    """What of the demo's API prompt is changed."""
    kinds = ("SeedSelectLoadPocketModel", "SeedSelectPocketReferences", "EmptyLatentImage")
    prompt = {kind: {"class_type": kind, "inputs": {}, "_meta": {"title": ""}} for kind in kinds}
    text = {"inputs": {"clip": ["model", 1]}, "_meta": {"title": "Prompt"}}
    return prompt | {"text": {"class_type": "CLIPTextEncode", **text}}


def test_the_rarest_of_each_world_are_drawn():
    assert [c.name for c in LETTERS.concepts(4)] == list(reversed(LETTERS_TAIL[-4:]))
    assert [c.name for c in HANDS.concepts(4)] == list(reversed(TAIL_ORDER[-4:]))
    assert [c.name for c in HANDS.concepts(1)] == [TAIL_ORDER[-1]]
    # Both sides and both views.
    assert len({c.prompt.split(", ")[0] for c in HANDS.concepts(4)}) == 2
    assert len({c.prompt.split(", ")[1] for c in HANDS.concepts(4)}) == 2


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_prompt_references_and_model_are_of_one_concept(world, nodes):
    given = workflow()
    schemas = {
        node.GET_SCHEMA().node_id: {each.id for each in node.GET_SCHEMA().inputs}
        for node in (nodes("pocket").PocketReferences, nodes("pocket").HandReferences)
    }
    for concept in world.concepts(4):
        prompt = asked(given, world, concept)
        assert prompt["SeedSelectLoadPocketModel"]["inputs"] == {"world": world.name}
        assert prompt["EmptyLatentImage"]["inputs"]["batch_size"] == world.seeds
        assert prompt["text"]["inputs"] == {"clip": ["model", 1], "text": concept.prompt}
        node = prompt["SeedSelectPocketReferences"]
        assert schemas[node["class_type"]] == node["inputs"].keys()
        words = [value for value in node["inputs"].values() if isinstance(value, str)]
        assert all(word in concept.prompt for word in words)
    assert given == workflow()


def test_hands_are_judged_by_the_network_and_by_all_three():
    pytest.importorskip("ai_edge_litert")
    (concept,) = HANDS.concepts(2)[1:]
    assert concept.name == "point"
    images = torch.stack(
        [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in concept.shown]
    )
    images = images.view(-1, 64, 64, 3) / 255
    answers = concept.judge(images)
    assert sum(answers[NETWORK]) >= 3 and HANDS.share(answers) >= 0.75
    mirrored = concept.judge(images.flip(2))
    assert not any(mirrored[NETWORK]) and HANDS.share(mirrored) == 0


def row(world, concept, passed: dict) -> dict:
    count = world.seeds
    pictures = {title: [Image.new("RGB", (64, 64), "red")] * count for title in ("Before", "After")}
    answers = {"Before": {name: [False] * count for name in passed}, "After": passed}
    account = {"first_semantic": [1.0] * count, "semantic": [0.5] * count, "evaluations": 100}
    share = {title: world.share(by) for title, by in answers.items()}
    row = {"concept": concept, "pictures": pictures, "answers": answers, "seconds": 1.0}
    return row | {"account": account, "share": share}


def test_the_report_holds_both_worlds_and_each_has_a_sheet(tmp_path):
    half = [True, False] * 4
    letters = [row(LETTERS, c, {"plain": [True] * 8, "other": half}) for c in LETTERS.concepts(2)]
    passed = {NETWORK: [True] * 4, WELL_FORMED: half[:4]}
    hands = [row(HANDS, c, passed) for c in HANDS.concepts(3)]
    demo.write(tmp_path, {LETTERS: letters, HANDS: hands}, 12.0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["judged_right_before"] == 0 and report["judged_right_after"] == 0.75
    assert [each["letter"] for each in report["letters"]] == [c.name for c in LETTERS.concepts(2)]
    assert report["hands"]["judged_well_formed_after"] == 0.5
    told = report["hands"]["gestures"][0]
    assert told["gesture"] == TAIL_ORDER[-1] and told["poses_seen"] == 4
    assert told["judged_right_after"] == {NETWORK: 1.0, WELL_FORMED: 0.5}
    assert len(list((tmp_path / "after").iterdir())) == 2 * 8 + 3 * 4
    # Framed green are those that pass with every judge.
    for name, rows, left in (("contact_sheet", 2, 1122), ("contact_sheet_hands", 3, 834)):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.height == 40 + rows * 82 + 10
            frames = [sheet.convert("RGB").getpixel((left + 72 * i, 41)) for i in range(2)]
        assert frames == [(46, 158, 79), (208, 52, 44)]


def test_without_hands_the_report_is_that_of_the_letters(tmp_path):
    letters = [row(LETTERS, LETTERS.concepts(1)[0], {"plain": [True] * 8})]
    demo.write(tmp_path, {LETTERS: letters}, 12.0)
    assert "hands" not in json.loads((tmp_path / "report.json").read_text())
    assert not (tmp_path / "contact_sheet_hands.png").exists()


def test_what_is_asked_for_is_known_to_the_models():
    assert demo.MOST == demo_worlds.MOST == len(demo_worlds.HAND_GROUNDS)
    assert (REPO / "workflows/pocket_demo.json").is_file()
