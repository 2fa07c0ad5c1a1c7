"""Data sets of rare classes: specs, units, stores, outputs, and the command in a process."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from conftest import REPO
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.datasets import choose as choosing
from seedselect_core.datasets.choose import Choice, choose, first_round, next_round
from seedselect_core.datasets.driver import Run, keys_of
from seedselect_core.datasets.finish import finish
from seedselect_core.datasets.maker import Maker
from seedselect_core.datasets.spec import Gates, expand, load_spec
from seedselect_core.datasets.store import Store
from seedselect_core.datasets.units import Made, Unit, decoded, encoded, sha256
from seedselect_core.datasets.work import Here, find
from seedselect_core.errors import SeedSelectError
from seedselect_core.seeds.seed import load_seed

SMALL = {
    "seed": 3,
    "model": {"toy": True, "second_opinion": "second_vision"},
    "sampling": {"steps": 2},
    "search": {"preset": "quick", "candidates": 1, "draft_steps": 0, "iterations": 1, "views": 1},
    "bootstrap": {"iterations": 0},
    "units": {"pictures": 3, "batch": 2},
    "references": 2,
    "words": {"ink": ["red", "blue"], "ground": ["white", "yellow"]},
    "classes": [{"name": "P", "pictures": 4}, {"name": "S", "pictures": 4}],
}


def write_spec(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spec.yaml"
    data = {"output": str(folder / "made"), **SMALL, **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}))
    return path


def spec_of(folder: Path, **changes):
    return load_spec(write_spec(folder, **changes))


def files_below(folder: Path) -> dict[str, str]:
    """Hashes of all files but the log, which alone tells of times."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", "running.lock")
    }


class Told(list):
    """Outcomes of a run."""

    def __call__(self, outcome, classes) -> None:
        if outcome is not None:
            self.append(outcome)


def make(spec, maker: Maker | None = None) -> Told:
    """All of a spec in this process, outputs too."""
    store = Store(spec.output)
    with store.alone():
        keys, _ = keys_of(spec, store)
        told = Told()
        run = Run(spec, store, keys, told)
        run(Here(spec, store, (maker or Maker(spec)).make))
        finish(spec, store, keys)
    return told


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small set, made once: its folder."""
    folder = tmp_path_factory.mktemp("small")
    told = make(spec_of(folder))
    assert len(told) >= 4
    return folder / "made"


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the small set, and its spec."""
    shutil.copytree(made, tmp_path / "made")
    return spec_of(tmp_path)


# ---------------------------------------------------------------- the spec


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 3}, "spec: there is no field 'steps'"),
        ({"classes": None}, "spec: the field 'classes' is missing"),
        ({"classes": [{"name": "P"}]}, "classes[0]: the field 'pictures' is missing"),
        ({"classes": [{"name": "../P", "pictures": 1}]}, "class '../P'.name"),
        ({"classes": [{"name": "PQ", "pictures": 1}]}, "class 'PQ'.name"),
        ({"classes": [{"name": "P", "pictures": 0}]}, "class 'P'.pictures"),
        ({"classes": [{"name": x, "pictures": 1} for x in "PP"]}, "classes: must be of different"),
        ({"model": {}}, "model: must be toy, a checkpoint or a diffusion_model"),
        ({"model": {"checkpoint": "a"}}, "model.clip_vision"),
        ({"model": {"toy": True, "vea": "a"}}, "model: there is no field 'vea'"),
        ({"sampling": {"steps": 0}}, "sampling.steps"),
        ({"outputs": [["seeds"]]}, "outputs"),
        ({"words": {"ink": [["red"]]}}, "class 'P'.words.ink"),
        ({"search": {"preset": "fast"}}, "search.preset"),
        ({"search": {"iterations": -1}}, "search.iterations"),
        ({"bootstrap": {"angle": 9}}, "bootstrap.angle"),
        ({"units": {"batch": 0}}, "units.batch"),
        ({"gates": {"max_loss": -1}}, "gates.max_loss"),
        ({"outputs": ["zip"]}, "outputs"),
        ({"output": "ssh://elsewhere/x"}, "output: 'ssh' is no kind of store"),
        ({"output": "simplecache::s3://x"}, "output: 'simplecache::s3' is no kind of store"),
        ({"prompts": ["a {colour} P"]}, "has {colour}, for which there are no words"),
        ({"prompts": ["a {ink"]}, "class 'P'.prompts"),
        ({"prompts": ["{class.__class__}"]}, "for which there are no words"),
    ],
)
def test_an_error_names_the_field(changes, told, tmp_path):
    with pytest.raises(SeedSelectError) as error:
        Store(spec_of(tmp_path, **changes).output)
    assert told in str(error.value)


def test_a_spec_of_aliases_is_refused_before_they_are_resolved(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    with pytest.raises(SeedSelectError, match="aliases"):
        load_spec(path)


def test_references_lie_beside_the_spec_or_in_the_hosts_input(tmp_path):
    (tmp_path / "outside").mkdir()
    own = tmp_path / "own"
    (own / "inside").mkdir(parents=True)

    def of(folder):
        return spec_of(own, classes=[{"name": "P", "pictures": 1, "references": folder}])

    assert of("inside").classes[0].references == (own / "inside").resolve()
    for folder in ("../outside", str(tmp_path / "outside"), "nowhere"):
        with pytest.raises(SeedSelectError, match="class 'P'"):
            of(folder)


def test_templates_take_every_word_that_they_name():
    words = {"a": ["1", "2"], "b": ["x", "y"], "unused": ["z"]}
    found = expand("class", ["{a}{b} of {class}", "plain"], words, "grey_seal")
    assert found == tuple([f"{a}{b} of grey seal" for a in "12" for b in "xy"] + ["plain"])


@pytest.mark.parametrize("path", sorted((REPO / "docs" / "datasets").glob("*.yaml")), ids=str)
def test_the_examples_are_specs(path, tmp_path):
    data = yaml.safe_load(path.read_text())
    for one in data["classes"]:
        if "references" in one:
            (tmp_path / one["references"]).mkdir(parents=True)
    (tmp_path / path.name).write_text(path.read_text())
    assert len(load_spec(tmp_path / path.name).classes) >= 2


# ---------------------------------------------------------------- units


def test_each_unit_has_a_noise_and_prompts_of_its_own(tmp_path):
    spec = spec_of(tmp_path)
    units = [Unit(label, number) for label in "PS" for number in range(4)]
    assert len({unit.noise_number(spec.sampling.seed) for unit in units}) == 8
    of_p = [text for unit in units[:2] for text in unit.prompts(spec)]
    assert sorted(of_p) == sorted(spec.of("P").prompts)


def test_a_unit_is_the_same_bytes_whatever_was_made_before(made, tmp_path):
    spec = spec_of(tmp_path)
    maker = Maker(spec)
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for unit in (Unit("S", 1), Unit("P", 0), Unit("S", 1)):
            assert encoded(maker.make(unit)) == (made / unit.name).read_bytes()
    finally:
        torch.set_num_threads(threads)


def test_another_seed_is_another_unit(made, tmp_path):
    unit = Unit("P", 0)
    again = Maker(spec_of(tmp_path, seed=4)).make(unit)
    first = decoded_file(made, unit)
    assert again.hashes != first.hashes and again.key != first.key


def decoded_file(folder: Path, unit: Unit) -> Made:
    with zipfile.ZipFile(folder / unit.name) as archive:
        key = json.loads(archive.read("unit.json"))["key"]
    return decoded(io.BytesIO((folder / unit.name).read_bytes()), unit, key)


def test_what_is_made_is_not_made_again(copied):
    before = files_below(Path(copied.output))
    assert make(copied) == []
    assert files_below(Path(copied.output)) == before


@pytest.mark.parametrize("harm", ["missing", "cut short", "changed"])
def test_a_unit_that_is_not_whole_is_made_again_with_the_same_bytes(copied, harm):
    before = files_below(Path(copied.output))
    path = Path(copied.output, Unit("P", 0).name)
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-50] if harm == "cut short" else data[:200] + b"x" + data[201:])
    told = make(copied)
    assert [outcome.made.unit for outcome in told] == [Unit("P", 0)]
    assert files_below(Path(copied.output)) == before


def test_another_spec_does_not_mix_with_what_is_there(copied):
    with pytest.raises(SeedSelectError, match="made with another sampling"):
        make(replace(copied, sampling=copied.sampling.override(steps=3)))
    more = replace(copied, gates=Gates(max_loss=1e9), outputs=("seeds",))
    assert make(more) == []


def test_a_key_of_another_spec_is_no_unit(made):
    store = Store(str(made))
    assert find(store, Unit("P", 0), "0" * 64) is None


# ---------------------------------------------------------------- what is kept


def unit_of(number: int, vectors: list, losses=None, opinions=()) -> Made:
    count = len(vectors)
    losses = losses or [0.1] * count
    each = [f"{number}{place}" for place in range(count)]
    facts = ["p"] * count, losses, losses, list(opinions), 1, 0, 0, each
    vectors = np.array(vectors, dtype=np.float32).reshape(count, -1)
    unit = Unit("P", number)
    return Made(unit, "key", (1.0, 2.0), *facts, vectors, [], b"")


def states(chosen: list[Choice]) -> list[str]:
    return [one.state for one in chosen]


def test_gates_throw_away_what_does_not_pass():
    near = [0.999, (1 - 0.999**2) ** 0.5]
    units = [
        unit_of(0, [[1, 0], [0, 1]], [0.1, 5.0], [1.0, 1.0]),
        unit_of(1, [near, [-1, 0], [0, -1]], None, [1.0, 9.0, 1.0]),
    ]
    chosen = choose(units, Gates(min_distance=0.01, max_loss=2, max_second=2), wanted=9)
    expected = [choosing.KEPT, choosing.MISS, choosing.DUPLICATE, choosing.SECOND, choosing.KEPT]
    assert states(chosen) == expected
    assert states(choose(units, Gates(min_distance=0), wanted=2))[2:] == [choosing.SPARE] * 3


def test_rounds_go_on_until_there_is_enough_or_no_unit_is_left(tmp_path):
    spec = spec_of(tmp_path, units={"pictures": 2, "batch": 2, "more": 2.0}, gates={"max_loss": 1})
    one = spec.of("P")
    assert [unit.number for unit in first_round(spec, one)] == [0, 1]
    eye = np.eye(8)

    def made(number, good):
        vectors = [eye[2 * number], eye[2 * number + 1]]
        return unit_of(number, vectors, [0.1 if place < good else 9.0 for place in range(2)])

    assert next_round(spec, one, [made(0, 2), made(1, 2)]) == []
    assert [u.number for u in next_round(spec, one, [made(0, 2), made(1, 1)])] == [2]
    assert [u.number for u in next_round(spec, one, [made(0, 1), made(1, 0)])] == [2, 3]
    assert [u.number for u in next_round(spec, one, [made(0, 0), made(1, 0)])] == [2, 3]
    assert next_round(spec, one, [made(n, 0) for n in range(4)]) == []


# ---------------------------------------------------------------- stores


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")
    store = Store(str(tmp_path))
    store.write("a/b", b"old" * 9000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # as a disk that is full
    try:
        with pytest.raises(SeedSelectError, match=r"output: .* the same command goes on"):
            store.write("a/b", b"new" * 9000)
        with pytest.raises(SeedSelectError, match="output: "):
            store.write("a/c", b"new" * 9000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.read("a/b") == b"old" * 9000
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB, less than the small set, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if mount is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_told_and_the_same_command_goes_on(made, small_disk, tmp_path):
    spec = spec_of(tmp_path, output=str(small_disk / "made"))
    with pytest.raises(SeedSelectError, match=r"No space left .* the same command goes on"):
        make(spec)
    there = files_below(small_disk / "made")
    assert "units/P/00000.zip" in there and not any(".part" in name for name in there)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    make(spec)
    assert files_below(small_disk / "made") == files_below(made)


def test_two_runs_do_not_work_on_one_folder(tmp_path):
    with Store(str(tmp_path)).alone():
        other = "from seedselect_core.datasets.store import Store\nwith Store({!r}).alone(): pass"
        code = other.format(str(tmp_path))
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True
        )
        assert "another run is at work" in done.stderr
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def s3_server(monkeypatch):
    """An address in an object store that runs on this machine, in a process of this test."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket/sets"
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["memory", "file", "s3"])
def test_every_kind_of_store_holds_the_same(kind, copied, monkeypatch, tmp_path):
    with contextlib.ExitStack() as stack:
        address = {"memory": "memory://sets", "file": f"file://{tmp_path}/sets"}.get(kind)
        address = address or stack.enter_context(s3_server(monkeypatch))
        local = Store(copied.output)
        there = Store(address)
        first = local.names("units")
        for name in (*first[1:], "made_with.json"):
            there.write(name, local.read(name))
        told = make(replace(copied, output=address))
        assert [outcome.made.unit.name for outcome in told] == first[:1]
        names = set(there.names("")) - {"log.jsonl", "running.lock"}
        assert {name: sha256(there.read(name)) for name in names} == files_below(
            Path(copied.output)
        )


# ---------------------------------------------------------------- outputs


def rows_of(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_manifest_tells_of_every_picture(made):
    rows = rows_of(made, "manifest.jsonl")
    kept = [row for row in rows if row["state"] == "kept"]
    assert {label: sum(r["label"] == label for r in kept) for label in "PS"} == {"P": 4, "S": 4}
    for row in kept:
        file = made / "imagefolder" / row["label"] / f"{row['picture']}.png"
        assert sha256(file.read_bytes()) == row["sha256"]
        assert row["loss"] > 0 and row["second_opinion"] > 0 and row["label"] in row["prompt"]
    report = json.loads((made / "report.json").read_text())["classes"]
    assert [one["states"]["kept"] for one in report] == [4, 4]
    assert (made / "sheets" / "P.png").is_file()


def test_torchvision_reads_the_folders(made):
    from torchvision.datasets import ImageFolder

    found = ImageFolder(made / "imagefolder")
    assert found.classes == ["P", "S"] and len(found) == 8
    assert found[0][0].size == (64, 64)


def test_webdataset_reads_the_shards(made):
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(map(str, (made / "webdataset").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"))
    assert sorted(sample["cls"] for sample in samples) == [0] * 4 + [1] * 4
    for sample in samples:
        assert sample["png"].shape == (64, 64, 3)
        assert sample["json"]["label"] == "PS"[sample["cls"]]


def test_datasets_reads_the_folders(made, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = str(made / "imagefolder")
    found = datasets.load_dataset("imagefolder", data_dir=folder, cache_dir=str(tmp_path))["train"]
    assert sorted(found["label"]) == ["P"] * 4 + ["S"] * 4
    assert found[0]["image"].size == (64, 64)


@torch.inference_mode()
def test_a_seed_draws_its_picture_again(made, tmp_path):
    row = next(r for r in rows_of(made, "manifest.jsonl") if r["state"] == "kept")
    name = row["picture"]
    seed = load_seed(made / "seeds" / row["label"] / f"{name}.seed.safetensors")
    assert seed.semantic == [row["loss"]]
    maker = Maker(spec_of(tmp_path))
    conds = [maker._condition([text]) for text in (row["prompt"], "")]
    drawn = sample_from_seed(maker.models.model, *conds, seed)["samples"]
    image = maker.models.vae.decode(drawn)[0]
    from torchvision.io import read_image

    shown = read_image(str(made / "imagefolder" / row["label"] / f"{name}.png"))
    assert (image.movedim(-1, 0) - shown / 255).abs().max() < 0.02


# ---------------------------------------------------------------- the command


def command(*arguments: str, before: str = "") -> list[str]:
    code = f"import sys; {before}\nfrom seedselect_core.datasets.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, "dataset", *map(str, arguments)]


def test_a_run_without_ray_needs_nothing_of_it(copied, tmp_path):
    before = "sys.modules.update(dict.fromkeys(('ray', 'webdataset', 's3fs', 'pyarrow')))"
    Path(copied.output, Unit("P", 0).name).unlink()
    spec = write_spec(tmp_path, outputs=["imagefolder", "seeds"])
    done = subprocess.run(command(spec, before=before), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "units/P/00000.zip: " in done.stdout and "P: 4 of 4" in done.stdout
    done = subprocess.run(
        command(spec, "--ray", before=before), cwd=REPO, capture_output=True, text=True
    )
    # All is there: Ray is not even looked for.
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(made, tmp_path):
    spec = write_spec(tmp_path)
    run = subprocess.Popen(
        command(spec), cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline().startswith("units/P/00000.zip: ")
    run.send_signal(signal.SIGINT)
    _, err = run.communicate()
    assert run.returncode == 130, err
    assert "stopped. The same command goes on" in err and "Traceback" not in err
    there = files_below(tmp_path / "made")
    assert "units/P/00000.zip" in there and not any(".part" in name for name in there)
    assert not (tmp_path / "made" / "manifest.jsonl").exists()
    told = make(load_spec(spec))
    assert Unit("P", 0) not in [outcome.made.unit for outcome in told]
    assert files_below(tmp_path / "made") == files_below(made)


def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    done = subprocess.run(
        command(write_spec(tmp_path), "--dry-run"),
        cwd=REPO,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "2 classes, 8 pictures, 4 units or more" in done.stdout
    assert "evaluations" in done.stdout and "hours" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
