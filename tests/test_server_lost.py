"""Nothing is lost: a server that is killed, a folder that cannot be written to, many runs."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

import host
from comfy_client import ComfyClient
from conftest import HOST
from host_install import Host
from test_server import OURS, optimize, pocket
from test_server import api as completed

SERVER = Host(HOST, Path(sys.executable), managed=False)
ITERATIONS = 60


@contextlib.contextmanager
def started(base: Path) -> Iterator[tuple[host.Server, ComfyClient]]:
    with host.server(["--cpu"], base_directory=base, host=SERVER) as running:
        yield running, ComfyClient(running.url)


def complete(client: ComfyClient, nodes: dict) -> dict:
    """A short prompt with the defaults of its nodes."""
    object_info = client.get("object_info")
    assert object_info.keys() >= OURS
    return completed.__wrapped__(object_info)(nodes)


def searching(**changes) -> dict:
    nodes = pocket() | optimize(**{"iterations": ITERATIONS, "first_draws": 2} | changes)
    return nodes | {"seen": ("PreviewImage", {"images": ["opt", 1]})}


def offered(client: ComfyClient) -> list[str]:
    """Unfinished seeds that 'Load Seed' offers."""
    (kind, *options) = client.get("object_info")["SeedSelectLoadSeed"]["input"]["required"][
        "seed_file"
    ]
    names = options[0]["options"] if kind == "COMBO" else kind
    return [name for name in names if "unfinished" in name]


def likeness_at_first(text: str) -> float:
    """In percent with one decimal, as the name of a file has it."""
    return round(100 * (1 - float(re.search(r"was (\d\.\d+)", text)[1])), 1)


def iteration(text: str) -> int:
    return int(re.search(r"iteration[ _](\d+)", text)[1])


def test_a_search_whose_server_was_killed_is_found_again_and_goes_on(tmp_path):
    told = []
    with started(tmp_path) as (running, client):

        def kill(event):
            if event.kind == "text" and "iteration" in event.text:
                told.append(event.text)
                if iteration(event.text) == 5:
                    running.process.kill()

        with pytest.raises((ConnectionError, aiohttp.ClientError)):
            client.run(complete(client, searching()), kill, timeout=600)
        running.process.wait(timeout=600)

    with started(tmp_path) as (_, client):
        (name,) = offered(client)
        done = iteration(name)
        assert 0 < done <= 6 and f"_of_{ITERATIONS}_likeness_" in name
        likeness, first = map(float, re.search(r"likeness_(.+)_was_(.+)\.seed", name).groups())
        assert likeness > first and f"was {first:.0f} %" in told[-1]

        nodes = searching(start=["found", 0], seed=17)
        nodes["found"] = ("SeedSelectLoadSeed", {"seed_file": name})
        nodes["saved"] = ("SeedSelectSaveSeed", {"seed": ["opt", 0], "filename_prefix": "ended"})
        texts = []

        def note(event):
            if event.kind == "text" and event.node == "opt":
                texts.append(event.text)

        result = client.run(complete(client, nodes), note, timeout=600)
        assert result.status == "success", result.error
        assert f"after iteration {done} of {ITERATIONS}" in " ".join(texts)
        searched = [text for text in texts if text.startswith("iteration")]
        assert iteration(searched[0]) == done and iteration(searched[-1]) == ITERATIONS - 1
        assert f"was {first:.0f} %" in searched[0]
        assert list((tmp_path / "output").glob("ended*"))
        assert offered(client) == [name]  # the run that ended well left what it found instead
        assert len(list((tmp_path / "output/seeds").glob("found_*"))) == 1


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own in the place of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["size=64k", *options]), "tmpfs", folder]
    if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no byte on the file system of a folder."""
    with contextlib.suppress(OSError), open(folder / "rubbish", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("kind", ["read-only", "full", "elsewhere"])
def test_cancel_is_cancel_where_the_output_folder_cannot_be_written_to(tmp_path, kind):
    output = tmp_path / "output"
    with contextlib.ExitStack() as stack:
        if kind == "elsewhere":
            output.mkdir()
            (tmp_path / "other drive").mkdir()
            (output / "seeds").symlink_to(tmp_path / "other drive")
        else:
            stack.enter_context(mounted(output, *(["ro"] if kind == "read-only" else [])))
        if kind == "full":
            (output / "seeds").mkdir()
            fill(output)
        _, client = stack.enter_context(started(tmp_path))
        texts = []

        def cancel(event):
            if event.kind == "text" and event.node == "opt":
                texts.append(event.text)
                if "iteration" in event.text and iteration(event.text) == 2:
                    client.interrupt()

        result = client.run(complete(client, searching(iterations=10_000)), cancel, timeout=600)
        assert result.status == "interrupted"
        place = output / "seeds" if kind == "elsewhere" else tmp_path / "input"
        (kept,) = place.glob("unfinished*")
        assert kept.name in texts[-1]
        shown = f"seeds/{kept.name} [output]" if kind == "elsewhere" else kept.name
        assert offered(client) == [shown]


def test_files_of_previews_do_not_grow_with_the_runs(tmp_path):
    nodes = {
        "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 3}),
        "refs": ("SeedSelectLoadReferenceSet", {"folder": "(none)", "images": ["letters", 0]}),
    }
    with started(tmp_path) as (_, client):
        seen = set()
        for number in range(4):
            nodes["refs"][1]["limit"] = 5 + number  # so that it runs again
            nodes["shown"] = ("PreviewAny", {"source": ["refs", 0]})
            result = client.run(complete(client, nodes), timeout=600)
            assert result.status == "success" and "refs" in result.executed
            shown = result.images("refs")
            assert len(shown) == 3 and all(client.fetch(image)[:4] == b"\x89PNG" for image in shown)
            seen |= {image["filename"] for image in shown}
        assert len(seen) == 3
