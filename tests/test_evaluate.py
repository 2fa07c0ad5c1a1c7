"""The evaluation of one's own concepts, on the pocket model, through that very command."""

import json
import os
from argparse import Namespace

import comfy.clip_vision
import comfy.sd
import pytest
import torch
from PIL import Image

import evaluate
import evaluate_figures
from pocket.references import letter_pictures

torch.set_num_threads(1)
QUICK = "--pocket --references 3 --pictures 2 --batch 2 --steps 2 --preset paper --iterations 1"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two concepts of eight and seven pictures, as a user would have them, one file broken."""
    root = tmp_path_factory.mktemp("images")
    for letter in "FS":
        (root / letter).mkdir()
        for number, picture in enumerate(letter_pictures(letter)):
            Image.fromarray(picture).save(root / letter / f"{letter}_{number}.png")
    (root / "S" / "S_7.png").unlink()
    (root / "S" / "S_00.png").write_bytes(b"broken")
    return root


def test_the_whole_path(images, tmp_path, monkeypatch, capsys):
    command = [str(images), *QUICK.split(), "--output", str(tmp_path)]
    assert evaluate.main(command) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["concept"]: row for row in report["concepts"]}
    assert list(rows) == ["F", "S"]
    assert [row["held_out"] for row in rows.values()] == [5, 4]
    for row in rows.values():
        assert row["references"] == 3
        assert set(row["accuracy"]) == {"plain", "seedselect", "real"}
        assert set(row["classification"]) == {"references", "plain", "seedselect"}
        assert row["diversity"]["compared"] == 2 and row["diversity"]["generated"]["count"] == 2
        assert row["model_evaluations"] > 0
        # Other glyphs of a letter are read as it: the judge is not one of chance.
        assert row["accuracy"]["real"] >= 0.8
    notes = " ".join(report["warnings"])
    assert "only 5 held-out" in notes and notes.count("S_00.png was left out") == 1
    assert "flatter" not in notes  # the pocket model's judge is independent
    text = (tmp_path / "report.md").read_text()
    assert all(part in text for part in ("## Accuracy", "## Diversity", "## Few-shot", "| F |"))
    for letter in "FS":
        before, after = (tmp_path / letter / kind / "001.png" for kind in evaluate.KINDS)
        assert Image.open(before).size == (64, 64)
        assert before.read_bytes() != after.read_bytes()
        assert Image.open(tmp_path / letter / "contact_sheet.png").width > 1000

    # Again: nothing is made anew, and the figures are the same.
    monkeypatch.setattr(evaluate, "load_pocket_model", None)
    assert evaluate.main(command) == 0
    assert json.loads((tmp_path / "report.json").read_text()) == report
    with pytest.raises(ValueError, match=r"--output: .*\(sampling\)"):
        evaluate.main([*command, "--cfg", "3"])

    # Folders of different size: the share of all pictures, so that its interval holds it.
    monkeypatch.setattr(evaluate, "real_by_others", lambda real: [[0] * 5, [0] * 4])
    assert evaluate.main(command) == 0
    found = json.loads((tmp_path / "report.json").read_text())["summary"]["accuracy"]["real"]
    assert found["mean"] == pytest.approx(5 / 9)


def test_work_of_other_code_or_another_checkpoint_is_not_reused(images, tmp_path, monkeypatch):
    checkpoint = tmp_path / "model.safetensors"
    folder = tmp_path / "F"
    checkpoint.write_bytes(b"one")
    args = evaluate.parse([str(images), *QUICK.split()])
    concept = evaluate.read_concepts(args)[0][0]
    models = Namespace(paths={"--checkpoint": str(checkpoint)})
    for name in ("plain/000.png", "plain/001.png", "seedselect/000.png", "seedselect/001.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for _ in range(2):
        evaluate.make_pictures(args, models, concept, folder)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "pack_fingerprint", lambda: "another")
        with pytest.raises(ValueError, match=r"--output: .*\(pack\)"):
            evaluate.make_pictures(args, models, concept, folder)
    os.utime(checkpoint, (0, 0))
    with pytest.raises(ValueError, match=r"--output: .*\(checkpoint\)"):
        evaluate.make_pictures(args, models, concept, folder)


def test_fingerprint_of_the_pack_tells_one_source_from_another(tmp_path):
    states = []
    for number, text in enumerate(("a = 1", "a = 2", "a = 2")):
        source = tmp_path / str(number) / "seedselect_core" / "host" / "trick.py"
        source.parent.mkdir(parents=True)
        source.write_text(text)
        states.append(evaluate.pack_fingerprint(tmp_path / str(number)))
    assert states[0] != states[1] == states[2]


def test_accuracy_by_hand():
    east = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    north = torch.tensor([[0.0, 1.0], [0.28, 0.96]])
    others = [torch.tensor([[0.96, 0.28], [0.28, 0.96]]), torch.tensor([[0.0, 1.0]])]
    assert evaluate_figures.nearest_class([east, north], others) == [[0, 1], [1]]
    # These are near to the centroid of their own only while they are part of it.
    stray = [torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.6, 0.8]])]
    assert evaluate_figures.real_by_others(stray) == [[1, 1], [1, 1]]
    assert evaluate_figures.real_by_others([east, north]) == [[0, 0], [1, 1]]
    assert evaluate_figures.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)


def test_linear_probe_learns_from_what_it_is_given():
    random = torch.Generator().manual_seed(0)

    def cloud(center: list[float], count: int) -> torch.Tensor:
        return torch.tensor(center) + 0.1 * torch.randn(count, 3, generator=random)

    test = [cloud([1.0, 0.0, 0.0], 50), cloud([0.0, 1.0, 0.0], 50)]
    good = [cloud([1.0, 0.0, 0.0], 4), cloud([0.0, 1.0, 0.0], 4)]
    assert evaluate_figures.linear_probe(good, test) == [1.0, 1.0]
    assert evaluate_figures.linear_probe(good[::-1], test) == [0.0, 0.0]
    # As the host runs nodes: gradients off.
    with torch.inference_mode():
        assert evaluate_figures.linear_probe(good, test) == [1.0, 1.0]


def test_a_checkpoint_goes_through_the_hosts_loaders(tmp_path, monkeypatch):
    names = ("model", "followed", "judge")
    files = {name: tmp_path / f"{name}.safetensors" for name in names}
    for path in files.values():
        path.write_bytes(b"")
    asked = []
    monkeypatch.setattr(
        comfy.sd,
        "load_checkpoint_guess_config",
        lambda path, embedding_directory: asked.append(path) or ("model", "clip", "vae", None),
    )
    vision = Namespace(patcher="patcher")
    monkeypatch.setattr(comfy.clip_vision, "load", lambda path: asked.append(path) or vision)
    given = ["--checkpoint", str(files["model"]), "--clip-vision", str(files["followed"])]
    models = evaluate.Models(evaluate.parse([str(tmp_path), *given]))
    assert models.judge_is_followed
    given += ["--judge-clip-vision", str(files["judge"])]
    models = evaluate.Models(evaluate.parse([str(tmp_path), *given]))
    assert not models.judge_is_followed
    assert models.generator[:3] == ("model", "clip", "vae")
    assert models.generator[3].clip_vision is vision and models.judge.patcher == "patcher"
    assert asked == [str(files[name]) for name in names]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("/nowhere --pocket", "IMAGES: there is no folder"),
        ("{empty} --pocket", "IMAGES: .* no folders"),
        ("{images}", "--checkpoint: name one"),
        ("{images} --checkpoint a", "--clip-vision: name one"),
        (
            "{images} --checkpoint a.safetensors --clip-vision b",
            "--checkpoint: there is no 'a.safetensors'.* set COMFYUI_DIR",
        ),
        ("{images} --pocket --prompt letter", "--prompt"),
        ("{images} --pocket --sampler midnight", "--sampler"),
        ("{images} --pocket --width 70", "--width"),
        ("{images} --pocket --held-out 0", "--held-out"),
        ("{images} --pocket --references 8", "IMAGES: 'F' .* 8 readable"),
    ],
)
def test_errors_name_the_argument(images, tmp_path, given, message):
    arguments = given.format(images=images, empty=tmp_path).split()
    with pytest.raises(ValueError, match=message):
        evaluate.main([*arguments, "--output", str(tmp_path / "out")])
