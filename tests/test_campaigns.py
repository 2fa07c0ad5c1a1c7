"""The campaigns of docs/reliability.md in short forms; and they count what they should."""

import os
import random
import re
import signal
import sys
import time

import pytest

import tiny
from conftest import HOST, REPO

sys.path += [str(REPO / "benchmarks"), str(REPO / "tests" / "chaos")]
os.environ.setdefault("COMFYUI_DIR", str(HOST))

from chaos_watch import WATCH

import campaigns_files
import campaigns_inputs
import campaigns_live
import campaigns_page
import campaigns_server
from campaigns_ledger import FULL, GOALS, Found, Ledger, growth, printable, unsafe
from campaigns_server import Interruption
from seedselect_core.seeds.seed import SamplingSettings, Seed


def faults(items) -> list[str]:
    """Every item with a fault, in words."""
    return [f"{n}: {sorted(one.faults)} {one.what}" for n, one in enumerate(items) if one.faults]


# ---------------------------------------------------------------- short forms, in process


def test_hostile_reference_files_and_names_are_read_or_refused_in_words():
    assert faults(campaigns_files.references(0, 100)) == []


def test_hostile_seed_files_and_names_are_read_or_refused_in_words():
    assert faults(campaigns_files.seeds(0, 300)) == []


# ---------------------------------------------------------------- short forms, in a server


@pytest.fixture(scope="module")
def running():
    with campaigns_live.live() as one:
        yield one


def test_inputs_at_and_past_their_bounds_are_taken_or_refused_in_words(running):
    assert faults(campaigns_inputs.inputs(0, 15, running)) == []


@pytest.mark.parametrize("kind", [kind for kind in campaigns_server.KINDS if kind != "SIGTERM"])
def test_an_interruption_loses_nothing_and_leaves_the_model_alone(running, kind, monkeypatch):
    monkeypatch.setattr(campaigns_server, "SECONDS_TO_WRITE", 2)
    killed = kind == "SIGKILL"
    changes = campaigns_server.ENDLESS if killed or "cancel" in kind else {"iterations": 6}
    what = Interruption("opt", kind, "model", 300, False, 4.0 if killed else 1.0, changes)
    assert faults([campaigns_server.interrupted(running, what)]) == []


def test_memory_descriptors_and_files_stay_flat(running):
    assert faults(campaigns_server.runs(0, 8, running)) == []


def test_two_users_get_what_each_gets_alone(running):
    assert faults(campaigns_server.users(0, 2, running)) == []


def test_damaged_graphs_are_refused_in_words(running):
    assert faults(campaigns_inputs.graphs(0, 8, running)) == []


# ---------------------------------------------------------------- they count what they should


def test_every_node_has_a_graph_and_every_input_is_tried(running):
    ours = {key for key in running.info if key.startswith("SeedSelect")}
    bases = campaigns_inputs.bases()
    assert bases.keys() == ours
    for kind, (nodes, key) in bases.items():
        assert nodes[key][0] == kind
    pools = campaigns_inputs.pools(running.info)
    item = campaigns_inputs.number_of_inputs(pools)
    singles = sum(map(len, pools.values()))
    tried = {item(n)[0][:2] for n in range(singles)}
    assert tried == pools.keys() and len(item(singles)) == 2
    assert [repr(item(n)) for n in (7, singles + 7)] == [repr(item(n)) for n in (7, singles + 7)]


def test_what_a_layer_does_is_counted(running):
    """The trap is sprung, the error told; a picture that differs is seen."""
    what = Interruption("opt", "error", "vae", 5, False, 0.0, {"iterations": 2})
    ended = running.run(what.prompt(running))
    assert ended.was == "refused" and "chaos: a layer failed" in ended.text
    found = campaigns_server.interrupted(running, what)
    assert found.was == "told", found
    before = running.before
    running.before = before | {"picture": "another", "weights": "others"}
    try:
        assert running.damage()[0] == {"picture", "weights"}
    finally:
        running.before = before
    assert running.damage()[0] == set()


def test_what_ends_the_host_by_itself_is_counted_as_its_own(running, monkeypatch):
    """Not a node of this pack in the graph, and one that has no inputs at all."""
    monkeypatch.setattr(campaigns_live, "PATIENCE", 5)
    drawn = {"a": ("EmptyImage", {}), "b": ("PreviewImage", {"images": ["a", 0]})}
    prompt = running.complete(drawn) | {"c": {"class_type": "EmptyImage"}}
    ended = running.run(prompt, going=1)
    assert ended.was == "hung" and running.worker_ended_by_host()
    found = campaigns_live.told(running, "damaged", ended)
    assert found.was == "foreign" and not found.faults
    assert not running.worker_ended_by_host() and running.look()


def test_an_error_of_the_host_or_of_this_pack_is_told_apart():
    of_host = ['File "/x/execution.py", line 1, in execute']
    of_pack = [f'File "/x/custom_nodes/{campaigns_live.host.PACK}/nodes/a.py", line 1']
    assert not campaigns_live.is_ours("KSampler", of_host)
    assert campaigns_live.is_ours("SeedSelectOptimize", of_host)
    assert campaigns_live.is_ours("KSampler", of_pack)
    assert not campaigns_live.is_ours("SeedSelectOptimize", [])  # a cycle: nothing was run


def test_a_file_opened_outside_is_noted(tmp_path):
    WATCH.allow([], [])
    with campaigns_files.Place().taken() as place:
        node = place.node("references", "LoadReferenceSet")
        (place.outside / "secret.png").write_bytes(campaigns_files.PICTURE)

        def peek() -> None:
            (place.outside / "secret.png").read_bytes()
            (place.input / "made.txt").write_text("in the input folder", "utf-8")
            os.listdir(place.outside)

        found = place.judge("peek", peek)
        assert found.faults == {"outside"}
        assert "outside" in found.what
        fine = place.judge("fine", lambda: node.__name__ and None)
    assert (fine.was, fine.faults) == ("accepted", set())


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarms here")
def test_an_item_that_hangs_is_counted(monkeypatch):
    monkeypatch.setattr(campaigns_files, "SECONDS", 1)

    def hang() -> None:
        while True:
            time.sleep(0.01)

    with campaigns_files.Place().taken() as place:
        assert place.judge("hang", hang).faults == {"hung"}
        assert place.judge("raw", lambda: 1 / 0).faults == {"raw"}


def test_a_text_that_may_do_harm_is_counted():
    for text in ("a\ud800", "a\x1b[2J", "a\rb", "\u202egnp", "x" * 5000):
        assert unsafe(text)
        assert printable(text).isascii() and printable(text).isprintable()
    assert unsafe("plain \u00e9\u4e2d words,\non two lines") is None


def test_items_are_made_of_their_number_alone():
    for make in (campaigns_files.hostile_file, campaigns_files.hostile_seed):
        one, other = ([make(random.Random(f"x {n}"))[0] for n in range(40)] for _ in range(2))
        assert one == other and len({bytes(data) for data in one}) > 20
    assert Interruption.number(17) == Interruption.number(17)


def save(path, losses: list[float]):
    sampling = SamplingSettings(2, 3.0, "ddim", "normal", 5)
    noise = tiny.normal(len(losses), 4, 8, 8)
    Seed(noise, sampling, "TinyLatent", losses, losses, losses).save(path)
    os.utime(path, (0, 0))
    return path


def test_a_best_seed_is_lost_where_no_file_has_what_was_told(tmp_path):
    told = [(10.0, "50"), (11.0, "60"), (12.0, "70")]
    ended = campaigns_live.Ended("stopped", told=told, ended=13.0)

    def lost(losses: list[float] | None, grace: float = 0) -> bool:
        files = [save(tmp_path / "a.seed.safetensors", losses)] if losses else []
        return bool(campaigns_server.lost(ended, files, grace))

    assert lost(None) and lost([0.5]) and lost([0.9])
    assert not lost([0.3]) and not lost([0.4]) and not lost([0.2, 0.4])
    assert not lost([0.5], grace=1.5) and not lost(None, grace=5)
    broken = tmp_path / "b.seed.safetensors"
    broken.write_bytes(b"half a file")
    assert campaigns_server.lost(ended, [broken], 0)
    late = save(tmp_path / "late.seed.safetensors", [0.1])
    os.utime(late, (12.5, 12.5))
    assert not campaigns_server.lost(ended, [late], 0)
    ended.began = ["opt", "end"]
    assert not campaigns_server.lost(ended, [], 0)


def test_what_grows_is_told():
    flat = [{"memory": 900.0 + n % 3, "descriptors": 30, "temp files": 2} for n in range(60)]
    assert growth(flat) == ""
    leaking = [one | {"memory": one["memory"] + n} for n, one in enumerate(flat)]
    assert growth(leaking).startswith("memory from 9")
    filling = [one | {"temp files": n} for n, one in enumerate(flat)]
    assert growth(filling).startswith("temp files from")


# ---------------------------------------------------------------- the ledger and the page


def test_a_killed_campaign_goes_on_where_it_was(tmp_path):
    ledger = Ledger("seeds", tmp_path)
    ledger.begin({"commit": "a"})
    for n in range(5):
        ledger.add(Found("refused", {"raw"} if n == 3 else set(), "a fault: \ud800\x1b"))
    with open(ledger.path, "a", encoding="utf-8") as file:
        file.write('{"n": 5, "was": "acc')
    again = Ledger("seeds", tmp_path)
    assert (again.done, again.made, again.outcomes) == (5, 5, {"refused": 5})
    again.begin({"commit": "b"})
    again.add(Found("accepted", made=2))
    for _ in range(2):
        last = Ledger("seeds", tmp_path)
        assert (last.done, last.made) == (6, 7)
        assert last.faults == {"raw": 1} and last.outcomes == {"refused": 5, "accepted": 2}
        assert last.described == [(3, ["raw"], "a fault: \\ud800\\x1b")]
        assert last.facts == [{"commit": "a"}, {"commit": "b"}]
        last.sum_up()
    assert len(last.path.read_text("utf-8").splitlines()) == 4


def test_the_page_tells_what_was_found(tmp_path):
    ledgers = {name: Ledger(name, tmp_path) for name in FULL}
    facts = {"commit": "0" * 40 + "*", "host": "1", "python": "3", "torch": "2", "machine": "M"}
    for ledger in ledgers.values():
        ledger.begin(facts)
        ledger.add(Found("accepted"))
    page = campaigns_page.page(ledgers)
    assert "So far it is met" in page and "000000000000 and changes" in page
    assert page.count("| 1 of ") == len(FULL) and "What was found" not in page
    for name, ledger in ledgers.items():
        ledger.done = ledger.made = FULL[name]
    assert "**met**" in campaigns_page.page(ledgers)
    ledgers["seeds"].add(Found("raw", {"raw"}, "a | b: KeyError: `x`"))
    page = campaigns_page.page(ledgers)
    assert "**not met**, 1 in all" in page and "a \\| b: KeyError: 'x'" in page


def test_the_page_is_made_of_the_results():
    ledgers = {name: Ledger(name) for name in FULL}
    if not any(ledger.done for ledger in ledgers.values()):
        pytest.skip("no campaign was run yet")
    assert campaigns_page.PAGE.read_text("utf-8") == campaigns_page.page(ledgers)
    goals = re.findall(r"\*\*([a-z ]+)\*\*", campaigns_page.HEAD)
    assert len(goals) == len(GOALS)
