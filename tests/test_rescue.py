"""The best seed so far is on disk while a search runs, and a search goes on from it."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comfy.model_management import InterruptProcessingException

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.search.scene import Callbacks
from seedselect_core.seeds import rescue as module
from seedselect_core.seeds.rescue import EXTENSION, KEPT, Rescue, Unfinished, write_whole
from seedselect_core.seeds.seed import Seed, load_seed

SETTINGS = tiny.settings(iterations=5, candidates=3)


class Clock:
    """Stands still until it is told otherwise; every look at it costs ``tick`` seconds."""

    def __init__(self, tick: float = 0.0):
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def seed(value: float = 1.0, batch: int = 1, **facts) -> Seed:
    return Seed(torch.full((batch, 4, 8, 8), value), tiny.SAMPLING, "TinyLatent", **facts)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def full(*_) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# --- the file -------------------------------------------------------------------------------------


def test_the_name_says_how_far_the_search_had_come_and_how_alike_the_pictures_are(tmp_path):
    rescue = Rescue([tmp_path])
    best = seed(semantic=[0.25], first_semantic=[0.5], unfinished=Unfinished(3, 16, 7, "settings"))
    rescue.offer(lambda: best)
    (path,) = files(tmp_path)
    assert path.name.startswith("unfinished_") and path.name.endswith(EXTENSION)
    assert "_iteration_3_of_16_likeness_75.0_was_50.0" in path.name
    assert load_seed(path).unfinished == best.unfinished


def test_there_is_one_file_and_in_the_end_it_is_that_of_what_was_found(tmp_path):
    rescue = Rescue([tmp_path], Clock(), keep=3)
    for value in (1.0, 2.0, 3.0):
        rescue.offer(lambda value=value: seed(value, semantic=[value], first_semantic=[9.0]))
        (path,) = files(tmp_path)
        assert load_seed(path).noise.mean() == value
    rescue.done(seed(4.0, semantic=[0.04], first_semantic=[0.5]))
    (path,) = files(tmp_path)
    assert path.name.startswith("found_") and "_likeness_96.0_was_50.0" in path.name
    assert load_seed(path).noise.mean() == 4.0


def test_nothing_is_kept_of_a_run_that_ended_well_where_that_is_turned_off(tmp_path):
    rescue = Rescue([tmp_path], keep=0)
    rescue.offer(seed)
    assert len(files(tmp_path)) == 1
    rescue.done(seed())
    assert files(tmp_path) == []


def test_the_newest_of_what_was_found_are_kept_and_no_kind_takes_the_place_of_another(tmp_path):
    unfinished = tmp_path / f"unfinished_1_{EXTENSION}"
    saved = tmp_path / f"SeedSelect_00001_{EXTENSION}"
    for path in (unfinished, saved):
        path.touch()
        os.utime(path, (0, 0))
    for number in range(5):
        rescue = Rescue([tmp_path], keep=3)
        rescue.offer(seed)
        rescue.done(seed(number + 1.0))
        (found,) = rescue.paths
        os.utime(found, (number, number))
    left = set(files(tmp_path)) - {unfinished, saved}
    assert {load_seed(path).noise.mean().item() for path in left} == {3.0, 4.0, 5.0}
    assert unfinished.exists() and saved.exists()


def test_what_was_found_and_cannot_be_written_leaves_the_last_that_could(tmp_path, monkeypatch):
    rescue = Rescue([tmp_path], keep=3)
    rescue.offer(seed)
    monkeypatch.setattr(module.os, "replace", full)
    rescue.done(seed(2.0))
    (path,) = files(tmp_path)
    assert path.name.startswith("unfinished_") and load_seed(path).noise.mean() == 1.0


def test_what_had_to_wait_is_written_later_and_only_the_last_of_it(tmp_path):
    clock = Clock(tick=1.0)  # so that a write takes a second
    rescue = Rescue([tmp_path], clock)
    made = []

    def offer(value: float) -> None:
        rescue.offer(lambda: made.append(value) or seed(value))

    for value in (1.0, 2.0, 3.0):
        offer(value)
    assert made == [1.0]
    rescue.offer(lambda: made.append("old") or seed(), new=False)
    clock.now += 100
    rescue.offer(lambda: made.append("old") or seed(), new=False)
    assert made == [1.0, 3.0]
    rescue.offer(lambda: made.append("old") or seed(), new=False)
    assert made == [1.0, 3.0]


def test_a_folder_holds_a_limited_number_and_the_newest_stay(tmp_path):
    for n in range(KEPT + 5):
        path = tmp_path / f"unfinished_{n:05}_{EXTENSION}{'.part' if n % 2 else ''}"
        path.touch()
        os.utime(path, (n, n))
    strangers = [tmp_path / "my unfinished.seed.safetensors", tmp_path / "unfinished_plan.txt"]
    for path in strangers:
        path.touch()
        os.utime(path, (0, 0))
    rescue = Rescue([tmp_path])
    rescue.offer(seed)
    left = [path for path in files(tmp_path) if path not in strangers]
    assert len(left) == KEPT and rescue.paths[0] in left
    assert not (tmp_path / f"unfinished_00005_{EXTENSION}.part").exists()
    assert all(path.exists() for path in strangers)


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "one"
    write_whole(path, b"before")
    for name in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(module.os, name, full)
            with pytest.raises(OSError, match="No space"):
                write_whole(path, b"after")
        assert path.read_bytes() == b"before" and files(tmp_path) == [path]


@pytest.mark.parametrize("kind", ["a file", "full", "a link to nowhere"])
def test_another_folder_is_taken_where_the_first_cannot_be_written_to(tmp_path, kind, monkeypatch):
    first = tmp_path / "first"
    if kind == "a file":
        first.touch()
    elif kind == "a link to nowhere":
        first.symlink_to(tmp_path / "gone" / "drive")
    else:
        real = os.replace
        fails = lambda part, path: full() if first in path.parents else real(part, path)  # noqa: E731
        monkeypatch.setattr(module.os, "replace", fails)
    rescue = Rescue([first, tmp_path / "second"])
    assert rescue.write(seed)
    assert rescue.paths[0].parent == tmp_path / "second" and rescue.error is None
    assert [path for path in files(tmp_path) if path.suffix == ".part"] == []


def test_an_earlier_file_stays_where_a_later_one_cannot_be_written(tmp_path, monkeypatch, caplog):
    rescue = Rescue([tmp_path], Clock())
    rescue.offer(lambda: seed(1.0))
    monkeypatch.setattr(module.os, "replace", full)
    for _ in range(3):
        rescue.offer(lambda: seed(2.0, semantic=[1.0], first_semantic=[2.0]))
    assert "No space left" in str(rescue.error)
    (path,) = files(tmp_path)
    assert path in rescue.paths and load_seed(path).noise.mean() == 1.0
    assert caplog.text.count("cannot be written") == 1  # and not at every step


def test_nothing_that_fails_in_it_is_raised(tmp_path):
    def make():
        raise MemoryError

    rescue = Rescue([tmp_path])
    rescue.offer(make)
    assert not rescue.write(make) and not Rescue([]).write(seed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": -1},
        {"iterations": 1.5},
        {"planned": float("nan")},
        {"draws": 2**31},
        {"draws": True},
        {"settings": 7},
        {"settings": "x" * 101},
    ],
)
def test_a_file_cannot_tell_nonsense_of_a_search(wrong, tmp_path):
    facts = {"iterations": 1, "planned": 2, "draws": 0, "settings": ""} | wrong
    with pytest.raises(SeedSelectError, match=rf"^{next(iter(wrong))}: must be"):
        Unfinished(**facts)


# --- the search -----------------------------------------------------------------------------------


def recorded(settings=SETTINGS, graph=None, **more):
    """A search, and every seed that would have been written on its way."""
    seen = []

    def so_far(make, new):
        if new:
            seen.append(make())

    found, _, history = tiny.optimize(
        graph or tiny.Graph(), settings=settings, on_so_far=so_far, **more
    )
    return seen, found, history


def test_every_evaluation_is_handed_over_with_how_far_the_search_has_come():
    seen, found, history = recorded()
    assert len(seen) == len(history.total) == 3 + 5 + 1
    steps = [(s.unfinished.iterations, s.unfinished.draws) for s in seen]
    assert steps == [(0, 0), (0, 1), (0, 2), *[(i, 2) for i in range(5)], (4, 2)]
    assert [s.total[0] for s in seen] == sorted((s.total[0] for s in seen), reverse=True)
    assert found.unfinished is None and torch.equal(seen[-1].noise, found.noise)


@pytest.mark.parametrize("place", range(8))
def test_a_search_goes_on_with_what_is_left_of_it(place):
    graph = tiny.Graph()
    seen, whole, _ = recorded(graph=graph)
    notes = []
    _, found, history = recorded(graph=graph, start=seen[place], on_note=notes.append)
    state = seen[place].unfinished
    draws = 2 - state.draws
    # What is resumed among the draws is drawn once more, to be compared with those that are left.
    assert len(history.total) == (1 + draws if draws else 0) + (5 - state.iterations) + 1
    assert found.first_semantic == whole.first_semantic
    assert found.evaluations > seen[place].evaluations
    assert found.total[0] <= seen[place].total[0]
    assert any(f"after iteration {state.iterations} of 5" in note for note in notes)
    if draws:  # the descent has not begun, so that nothing of it is lost
        assert torch.equal(found.noise, whole.noise)


def test_drafts_and_neighbors_are_not_drawn_again():
    settings = tiny.settings(iterations=0, candidates=3, draft_steps=2, neighbors=4)
    graph = tiny.Graph()
    seen, whole, history = recorded(settings, graph)
    assert len(history.total) == 1 + 4
    _, found, history = recorded(settings, graph, start=seen[2])
    assert len(history.total) == 1 + 2
    assert torch.equal(found.noise, whole.noise)


@pytest.mark.parametrize(
    ("changes", "resumed"),
    [({}, True), ({"seed": 17}, True), ({"steps": 2}, False), ({"iterations": 9}, False)],
)
def test_only_the_same_search_goes_on(changes, resumed):
    graph = tiny.Graph()
    seen, _, _ = recorded(graph=graph)
    sampling = replace(tiny.SAMPLING, **{k: v for k, v in changes.items() if k != "iterations"})
    settings = replace(SETTINGS, **{k: v for k, v in changes.items() if k == "iterations"})
    _, found, history = recorded(settings, graph, sampling=sampling, start=seen[6])
    if resumed:
        assert len(history.total) == 2 + 1 and found.sampling == tiny.SAMPLING
    else:
        assert len(history.total) == 3 + settings.iterations + 1 and found.sampling == sampling


def test_other_memory_is_the_same_search():
    assert replace(SETTINGS, memory="by blocks").fingerprint() == SETTINGS.fingerprint()
    assert SETTINGS.reweighted(norm=0.3).fingerprint() != SETTINGS.fingerprint()


def test_other_noise_is_not_the_seed_of_an_unfinished_search():
    best = seed(unfinished=Unfinished(1, 2, 0, ""))
    assert best.with_noise(best.noise).unfinished is None


@pytest.mark.parametrize("error", [InterruptProcessingException(), RuntimeError("first")])
def test_what_fails_in_the_rescue_does_not_hide_the_first_error(error, caplog):
    def stop(progress):
        if progress.best is not None:
            raise error

    def fails(best):
        raise OSError("second")

    with pytest.raises(type(error)) as raised:
        tiny.optimize(tiny.Graph(), on_progress=stop, on_unfinished=fails)
    assert raised.value is error and "second" in caplog.text


def test_callbacks_that_nobody_listens_to_do_nothing():
    Callbacks().rescue(seed)
    Callbacks().so_far(seed, True)
