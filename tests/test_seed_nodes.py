"""The nodes that save and list seeds: where they look, how often, and what a file is called."""

import datetime
import os
import re
from pathlib import Path

import comfy.samplers
import folder_paths
import pytest
import torch
from comfy_api.latest._io import Hidden
from utils.extra_config import load_extra_path_config

import tiny

NOISE = tiny.normal(1, 4, 8, 16)
LONG_AGO = 10**18


@pytest.fixture
def module(nodes, tmp_path, monkeypatch):
    for label in ("input", "output"):
        (tmp_path / label).mkdir()
        monkeypatch.setattr(folder_paths, f"{label}_directory", str(tmp_path / label))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seeds", ([], set()))
    return nodes("seeds")


@pytest.fixture
def files(module, nodes):
    return nodes("seed_files")


@pytest.fixture
def save(module, tmp_path):
    """Runs the node; the path of what it saved."""

    def run(seed, prefix: str, prompt: dict | None = None) -> Path:
        before = set((tmp_path / "output").rglob("*.safetensors"))
        tiny.run_node(module.SaveSeed, {Hidden.prompt: prompt}, seed=seed, filename_prefix=prefix)
        (path,) = set((tmp_path / "output").rglob("*.safetensors")) - before
        return path

    return run


@pytest.fixture
def seed(module, nodes):
    return nodes("sockets").Seed(
        NOISE, nodes("inputs").SamplingSettings(3, 3.0, "euler", "normal", 5)
    )


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
    (tmp_path / "output" / "elsewhere").mkdir()
    (tmp_path / "output" / "seeds" / "mine").mkdir(parents=True)
    for name in ("a.seed.safetensors", "mine/b.seed.safetensors", "mine/x.txt"):
        (tmp_path / "output" / "seeds" / name).touch()
    settled(tmp_path)
    listed = ["seeds/a.seed.safetensors [output]", "seeds/mine/b.seed.safetensors [output]"]
    references = nodes("references").LoadReferenceSet
    # Input for its seeds, its pictures and its folders, rare, seeds, mine: nothing else. Pictures
    # of input are listed anew each time, as the host's own nodes do.
    for reads in (6, 1, 1, 1):
        scans.clear()
        assert sorted(options(module.LoadSeed, "seed_file")) == listed
        assert options(references, "folder") == ["(none)", "(input)", "rare"]
        assert len(scans) == reads

    scans.clear()
    (tmp_path / "output" / "seeds" / "mine" / "c.seed.safetensors").touch()
    assert options(module.LoadSeed, "seed_file")[0] == "seeds/mine/c.seed.safetensors [output]"
    assert scans == [str(tmp_path / "output" / "seeds" / "mine")]


def test_the_newest_seed_comes_first_wherever_it_is(files, tmp_path, monkeypatch):
    """In input only seeds of their own are offered: few of the pictures there carry one."""
    further = str(tmp_path / "further")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seeds", ([further], set()))
    names = {
        "output/seeds/a.seed.safetensors": "seeds/a.seed.safetensors [output]",
        "further/b.png": "b.png [seeds]",
        "input/c.seed.safetensors": "c.seed.safetensors",
        "output/seeds/mine/d.webp": "seeds/mine/d.webp [output]",
        "input/e.png": None,
        "input/inner/f.seed.safetensors": None,
        "output/g.seed.safetensors": None,
    }
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (number, number))
    offered = files.seed_files()
    assert offered == [shown for shown in reversed(names.values()) if shown is not None]
    for name, shown in names.items():
        if shown is not None:
            assert files.resolve_seed_file(shown) == tmp_path / name


def test_a_folder_that_the_user_has_named_is_looked_into(files, seed, tmp_path, monkeypatch):
    """As extra_model_paths.yaml names it."""
    named = tmp_path / "named.yaml"
    named.write_text(f"ours:\n  base_path: {tmp_path}\n  seeds: shared/noise\n")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "seeds", ([], set()))
    load_extra_path_config(str(named))
    (tmp_path / "shared" / "noise").mkdir(parents=True)
    seed.save(tmp_path / "shared" / "noise" / "x.seed.safetensors")
    assert files.seed_files() == ["x.seed.safetensors [seeds]"]
    assert files.resolve_seed_file("x.seed.safetensors [seeds]").parent.name == "noise"


@pytest.mark.parametrize("form", ["[{}] {}", "{1} [{0}]"])
@pytest.mark.parametrize("label", ["input", "output"])
def test_a_file_elsewhere_below_input_and_output_is_loaded_by_its_path(
    files, seed, tmp_path, form, label
):
    path = tmp_path / label / "deep" / "inside" / "x.seed.safetensors"
    path.parent.mkdir(parents=True)
    seed.save(path)
    assert files.seed_files() == []
    assert files.resolve_seed_file(form.format(label, "deep/inside/x.seed.safetensors")) == path


def test_what_changes_within_the_grain_of_time_is_seen(files, nodes, tmp_path, monkeypatch):
    """A file system may give a folder the same time before and after a file came."""
    monkeypatch.setattr(nodes("folders").time, "time_ns", lambda: LONG_AGO + 1)
    for number in range(3):
        (tmp_path / "input" / f"{number}.seed.safetensors").touch()
        settled(tmp_path)
        assert len(files.seed_files()) == number + 1


def test_hidden_files_links_and_folders_that_are_gone(files, tmp_path):
    seeds = tmp_path / "output" / "seeds"
    for name in (".trash/a", "._b", "c"):
        path = seeds / f"{name}.seed.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.seed.safetensors").touch()
    (seeds / "link").symlink_to(tmp_path / "elsewhere")
    (seeds / "circle").symlink_to(seeds)
    (seeds / "nowhere.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "input").rmdir()
    assert files.seed_files() == ["seeds/c.seed.safetensors [output]"]


def test_seeds_may_be_a_link_to_another_drive(files, seed, tmp_path):
    (tmp_path / "drive").mkdir()
    (tmp_path / "output" / "seeds").symlink_to(tmp_path / "drive")
    seed.save(tmp_path / "drive" / "x.seed.safetensors")
    (shown,) = files.seed_files()
    assert files.resolve_seed_file(shown) == tmp_path / "drive" / "x.seed.safetensors"


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
@pytest.mark.parametrize("name", [b"caf\xe9", b"\x1b[2J", b"a\n[ERROR] b", "\u202eab".encode()])
def test_a_file_whose_name_cannot_be_shown_is_listed_and_loaded(
    module, files, seed, tmp_path, name
):
    path = tmp_path / "input" / (os.fsdecode(name) + ".seed.safetensors")
    seed.save(tmp_path / "plain")
    (tmp_path / "plain").rename(path)
    (shown,) = files.seed_files()
    assert shown.isprintable() and module.LoadSeed.validate_inputs(shown) is True
    assert files.resolve_seed_file(shown) == path
    assert files.resolve_seed_file(f"[input] {path.name}") == path
    (loaded,) = tiny.run_node(module.LoadSeed, seed_file=shown).args
    assert torch.equal(loaded.noise, NOISE)


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "[input] ", "[input] x.safetensors", "[models] x.seed.safetensors"),
        *("x.png", "../x.seed.safetensors", "x.seed.safetensors [temp]", "../x.png [seeds]"),
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
def test_a_prefix_becomes_a_legal_name(module, seed, save, tmp_path, prefix, name):
    path = save(seed, prefix, PROMPT)
    relative = path.relative_to(tmp_path / "output").as_posix()
    assert relative == f"{name}_00001_.seed.safetensors"
    assert torch.equal(module.load_seed(path).noise, NOISE)
    assert save(seed, prefix, PROMPT).name.endswith("_00002_.seed.safetensors")


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


def test_the_hosts_own_codes(seed, save):
    path = save(seed, "%year%-%width%x%height%")
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
