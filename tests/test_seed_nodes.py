"""The nodes that save and list seeds: where they look, how often, and what a file is called."""

import datetime
import os
import re
from pathlib import Path

import comfy.samplers
import folder_paths
import pytest
import torch

import tiny

NOISE = tiny.normal(1, 4, 8, 16)
LONG_AGO = 10**18


@pytest.fixture
def module(nodes, tmp_path, monkeypatch):
    for label in ("input", "output"):
        (tmp_path / label).mkdir()
        monkeypatch.setattr(folder_paths, f"{label}_directory", str(tmp_path / label))
    return nodes("seeds")


@pytest.fixture
def seed(module, nodes):
    return module.Seed(NOISE, nodes("inputs").SamplingSettings(3, 3.0, "euler", "normal", 5))


def settled(root: Path) -> None:
    """Folders that were changed long ago, so that a change now gives them another time."""
    for place, _, _ in os.walk(root):
        os.utime(place, ns=(LONG_AGO, LONG_AGO))


# ---------------------------------------------------------------- looking for files


@pytest.fixture
def scans(monkeypatch):
    """Every folder that is read, in the order of reading."""
    read = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (read.append(str(path)), scandir(path))[1])
    return read


def options(node, name: str) -> list[str]:
    return next(i.options for i in node.define_schema().inputs if i.id == name)


def test_a_look_at_the_definition_reads_no_folder_again(module, nodes, tmp_path, scans):
    (tmp_path / "input" / "rare").mkdir()
    (tmp_path / "output" / "many" / "deep").mkdir(parents=True)
    for name in ("a.seed.safetensors", "many/b.seed.safetensors", "many/deep/x.png"):
        (tmp_path / "output" / name).touch()
    settled(tmp_path)
    listed = ["[output] a.seed.safetensors", "[output] many/b.seed.safetensors"]
    references = nodes("references").LoadReferenceSet
    for reads in (7, 0, 0, 0):  # input and rare twice, output, many, deep
        scans.clear()
        assert options(module.LoadSeed, "seed_file") == listed
        assert options(references, "folder") == ["(none)", "rare"]
        assert len(scans) == reads

    (tmp_path / "output" / "many" / "c.seed.safetensors").touch()
    assert options(module.LoadSeed, "seed_file") == [*listed, "[output] many/c.seed.safetensors"]
    assert scans == [str(tmp_path / "output" / "many")]


def test_what_changes_within_the_grain_of_time_is_seen(module, nodes, tmp_path, monkeypatch):
    """A file system may give a folder the same time before and after a file came."""
    monkeypatch.setattr(nodes("folders").time, "time_ns", lambda: LONG_AGO + 1)
    for number in range(3):
        (tmp_path / "input" / f"{number}.seed.safetensors").touch()
        settled(tmp_path)
        assert len(module.seed_files()) == number + 1


def test_hidden_files_links_and_folders_that_are_gone(module, tmp_path):
    for name in (".trash/a", "._b", "c"):
        path = tmp_path / "input" / f"{name}.seed.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.seed.safetensors").touch()
    (tmp_path / "input" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "input" / "circle").symlink_to(tmp_path / "input")
    (tmp_path / "output").rmdir()
    assert module.seed_files() == ["[input] c.seed.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[2J", b"a\n[ERROR] b", "\u202eab".encode()])
def test_a_file_whose_name_cannot_be_shown_is_listed_and_loaded(module, seed, tmp_path, name):
    path = tmp_path / "input" / (os.fsdecode(name) + ".seed.safetensors")
    seed.save(tmp_path / "plain")
    (tmp_path / "plain").rename(path)
    (shown,) = module.seed_files()
    assert shown.isprintable() and module.LoadSeed.validate_inputs(shown) is True
    assert module.resolve_seed_file(shown) == path
    assert module.resolve_seed_file(f"[input] {path.name}") == path
    (loaded,) = tiny.run_node(module.LoadSeed, seed_file=shown).args
    assert torch.equal(loaded.noise, NOISE)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "[input] ", "[input] x.safetensors", "[models] x.seed.safetensors"),
        *("[input] \0.seed.safetensors", f"[input] {'x' * 300}.seed.safetensors"),
        *("[input] ../x.seed.safetensors", "[input] /etc/x.seed.safetensors", "[input] \ud800"),
        *("[input] gone.seed.safetensors", "[input] folder.seed.safetensors", "x" * 2**20),
        *(5, 0.5, True, ["[input] a.seed.safetensors"], {"a": 1}),
    ],
)
def test_what_names_no_seed_is_refused_in_words(module, tmp_path, name):
    (tmp_path / "x.seed.safetensors").touch()
    (tmp_path / "input" / "folder.seed.safetensors").mkdir()
    told = module.LoadSeed.validate_inputs(name)
    assert told.startswith("seed file: ") and told.isprintable() and len(told) <= 2000
    with pytest.raises(ValueError, match=r"^seed file: "):
        tiny.run_node(module.LoadSeed, seed_file=name)


# ---------------------------------------------------------------- the name of a file

PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7, "model": ["2", 0]}},
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": 'a "red"/blue\nS: 1 < 2'},
        "_meta": {"title": "My prompt"},
    },
    "3": {"class_type": "Note", "inputs": {"text": ["1", 0]}, "_meta": "no title"},
}


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("seeds/SeedSelect", "seeds/SeedSelect"),
        ("%KSampler.seed%/%My prompt.text%", "7/a _red__blue_S_ 1 _ 2"),
        ("%KSampler.model%_%Note.text%", "%KSampler.model%_%Note.text%"),
        ("%Nobody.seed%_%KSampler.%", "%Nobody.seed%_%KSampler.%"),
        ("100%", "100%"),
        ("a\\b", "a/b"),
        ("", "SeedSelect"),
        (" . ", "SeedSelect"),
        ("a//./b/", "a/b"),
        (".hidden/x. ", "hidden/x"),
        ('a:b?c*d"e<f>g|h', "a_b_c_d_e_f_g_h"),
        ("\0\n\x1b\ud800\u202e", "_____"),
        ("CON/nul.txt/com1/console", "_CON/_nul.txt/_com1/console"),
        ("größe 日本", "größe 日本"),
    ],
)
def test_a_prefix_becomes_a_legal_name(module, seed, tmp_path, prefix, name):
    path = module.save_numbered(seed, prefix, PROMPT)
    relative = path.relative_to(tmp_path / "output").as_posix()
    assert relative == f"{name}_00001_.seed.safetensors"
    assert torch.equal(module.load_seed(path).noise, NOISE)
    assert module.save_numbered(seed, prefix, PROMPT).name.endswith("_00002_.seed.safetensors")
    assert len(module.seed_files()) == 2


def test_dates_as_in_save_image(nodes, monkeypatch):
    prefix = nodes("prefix")

    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 3, 4, 5, 6, 7)

    monkeypatch.setattr(prefix.datetime, "datetime", Clock)
    for text, name in {
        "%date:yyyy-MM-dd%": "2026-03-04",
        "%date:yy/M/d%": "26/3/4",
        "%date:hh:mm:ss%_%date:h-m-s%": "05_06_07_5-6-7",
        "%date:%": "SeedSelect",
        "x%date:yyyyMMddhhmmss%y": "x20260304050607y",
    }.items():
        assert prefix.file_prefix(text) == name


def test_the_hosts_own_codes(module, seed, tmp_path):
    path = module.save_numbered(seed, "%year%-%width%x%height%")
    assert re.fullmatch(r"\d{4}-128x64_00001_\.seed\.safetensors", path.name)


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        *((p, "leads out of") for p in ("../x", "a/../../x", "/etc/x", "..\\x", "\\\\a\\..\\b")),
        *((p, "is too long") for p in ("x" * 201, f"a/{'é' * 101}/b", "x" * 2**20)),
    ],
)
def test_a_prefix_that_is_no_name_is_refused_before_the_run(module, seed, tmp_path, prefix, told):
    refusal = module.SaveSeed.validate_inputs(prefix)
    assert refusal.startswith("filename_prefix: ") and told in refusal and len(refusal) <= 2000
    with pytest.raises(ValueError, match=f"^filename_prefix: .*{told}"):
        tiny.run_node(module.SaveSeed, seed=seed, filename_prefix=prefix)
    assert list((tmp_path / "output").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input", "output"]


def test_a_place_that_cannot_be_written_to_is_told_in_words(module, seed, tmp_path):
    (tmp_path / "output" / "taken").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "output" / "link").symlink_to(tmp_path / "elsewhere")
    for prefix in ("taken/x", "link/x", "/".join(["x" * 200] * 30)):
        with pytest.raises(ValueError, match=r"^filename_prefix: the seed cannot be") as e:
            tiny.run_node(module.SaveSeed, seed=seed, filename_prefix=prefix)
        assert str(e.value).isprintable()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_saving_says_where(module, seed):
    output = tiny.run_node(module.SaveSeed, seed=seed, filename_prefix="a\x1b/b\n%KSampler.seed%")
    assert output.ui.as_dict()["text"] == ("Saved b_%KSampler.seed%_00001_.seed.safetensors",)


def test_names_of_foreign_guiders_and_samplers_fit_into_a_seed(nodes, connected, monkeypatch):
    """Else a long or odd one would cost the noise that was found."""
    advanced = nodes("advanced")
    made = []

    def stop(scene, sampling, *settings, **more):
        made.append(sampling)
        raise tiny.Broken

    def sample():
        pass

    monkeypatch.setattr(advanced, "optimize_noise", stop)
    sample.__qualname__ = "sample_\ud800" * 30
    guider = type("G\x1b[2J" * 30, (comfy.samplers.CFGGuider,), {})(tiny.model())
    node = advanced.SeedSelectOptimizeAdvanced
    with pytest.raises(tiny.Broken):
        tiny.run_node(
            node, **connected(node, guider=guider, sampler=comfy.samplers.KSAMPLER(sample))
        )
    assert made[0].guider.startswith(r"G\x1b[2J") and len(made[0].guider) <= 100
    assert made[0].sampler.isprintable() and len(made[0].sampler) <= 100
