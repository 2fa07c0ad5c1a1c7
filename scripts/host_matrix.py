"""Which versions of ComfyUI the pack runs in: every checkout that one has, tried in turn.

usage: python3 scripts/host.py hosts [--pack FOLDER] ... FOLDER ...

Each folder holds a ComfyUI with a Python of its own (see COMFYUI_DIR in host.py), of any version.
In each: are the pack's nodes there, does the demo run with one letter, do the tests in TESTS pass?
With --pack it is a checkout of another node pack instead, whose samplers are tried in the first
ComfyUI that is given, and nothing else is (tests/gradients/pack.py).
The answers go into docs/hosts.json, a row a version and a row a pack, and docs/hosts.md is made
from it; rows of others stay as they are. Nothing is fetched, installed or written into a checkout.
The exit code is 0 if every host given is proven, or refused by the pack in a sentence, and no
sampler of a pack ends in an error that is not one of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import host
from host_install import Host, HostError, existing_host, is_comfyui, require_modules

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO))

from seedselect_core import requirements  # noqa: E402

TABLE = REPO / "docs" / "hosts.json"
PAGE = TABLE.with_suffix(".md")

# Files of tests/ that touch every liberty taken with the host, in a minute or two.
TESTS = (
    "test_host_attention.py",
    "test_host_modes.py",
    "test_host_samplers.py",
    "test_doubts.py",
    "test_host_weights.py",
    "test_kernels_without_backward.py",
    "test_unroll.py",
    "test_gradients.py",
    "test_search_stages.py",
    "test_encoders.py",
    "test_memory.py",
)
MINUTES = 30  # that a demo or the tests may take

GOOD = ("proven", "refused")
# What tests/gradients/pack.py says of a sampler, in the order of the page's columns.
VERDICTS = ("exact", "refused", "without gradient", "told", "broken", "raw")
HEAD = """# Which ComfyUI versions it runs in

Made by `make hosts HOSTS="FOLDER ..."` from checkouts of ComfyUI, each with the packages that it
asks for; nothing here is typed by hand (`hosts.json` has the same figures). On the CPU.

- *proven*: the nodes load, the demo runs with one letter, and every chosen test passes.
- *works*: the nodes load and the demo runs; not all tests pass, or none could be run.
- *refused*: the pack says in one sentence that this ComfyUI is too old, and registers no node.
- *fails*: anything else.

*Tests* are those that touch what the pack takes from the host: `TESTS` in scripts/host_matrix.py.
The *demo* draws an S, seen in four fonts; in the rows up to 1285c66 by judges that knew capitals
alone, and took a 6 for it.

| ComfyUI | verdict | nodes | demo: judged right before, after | tests: passed, failed, skipped | \
why | pack | torch |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
PACKS = """
## Samplers of other node packs

Made by `make hosts PACKS="FOLDER ..." HOSTS=FOLDER`. Each sampler that a pack adds to ComfyUI's
list, and each SAMPLER node of its that needs nothing connected, in a search of a small model after
the check of its gradient.

- *exact*: the gradient agrees with a finite difference, and is descended on.
- *refused*: it does not, as the check says, and the search goes on without a gradient.
- *without gradient*: PyTorch refuses the gradient, as a sentence says, and the search goes on.
- *told*: an error of ours that says what to do, though ComfyUI itself can sample with it.
- *broken*: such an error, and ComfyUI itself cannot sample with it.
- *raw*: any other error. There should be none.

| pack | commit | ComfyUI | samplers | exact | refused | without gradient | told | broken | raw | \
why | ours |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


# ---------------------------------------------------------------- one host


def comfyui_version(folder: Path) -> str:
    """The version that a checkout's own file tells."""
    path = folder / "comfyui_version.py"
    found = path.is_file() and re.search(r'__version__ = "(.+?)"', path.read_text("utf-8"))
    if not found:
        raise HostError(f"{folder} does not tell its version: it has no comfyui_version.py.")
    return found[1]


def expected_nodes() -> set[str]:
    """Ids of all the pack's nodes, read from their source."""
    sources = (path.read_text("utf-8") for path in (REPO / "nodes").rglob("*.py"))
    return {name for source in sources for name in re.findall(r'node_id="(\w+)"', source)}


def try_host(folder: Path) -> dict:
    """The row of one checkout."""
    version = comfyui_version(folder)
    row = {"comfyui": version, "pack": commit(), "torch": "", "nodes": 0}
    row |= {"demo": None, "tests": None, "why": ""}
    with tempfile.TemporaryDirectory(prefix="seedselect-", ignore_cleanup_errors=True) as work:
        try:
            python = existing_host(folder)
            row |= imported(python, Path(work, "base"), version)
            if row["nodes"]:
                row |= demonstrated(python, Path(work))
            if row["demo"]:
                row |= tested(python, Path(work))
        except HostError as error:
            row["why"] = one_line(str(error))
    return row | {"verdict": verdict(row)}


def imported(python: Host, base: Path, version: str) -> dict:
    """How many of the pack's nodes the started host has; 0 and why, unless all."""
    log = base.with_suffix(".log")
    base.mkdir()
    with host.server(base_directory=base, quiet_log_path=log, host=python) as server:
        nodes = read(f"{server.url}/object_info")
        torch = read(f"{server.url}/system_stats")["system"]["pytorch_version"]
    expected = expected_nodes()
    found = expected & nodes.keys()
    why = "" if found == expected else missing(log.read_text("utf-8", "replace"), version)
    if found and why:
        why = f"{len(found)} of {len(expected)} nodes: {why}"
    return {"nodes": 0 if why else len(found), "why": why, "torch": torch}


def missing(log: str, version: str) -> str:
    """Why nodes are missing, by the host's log: the pack's own sentence, or the import's error."""
    failed = re.search(rf"Cannot import \S*{host.PACK} module.*?: (.*)", log)
    if failed:
        return f"import failed: {one_line(failed[1])}"
    sentence = requirements.refusal(version)
    if sentence and sentence in log:
        return sentence
    return "nodes are missing, and the log does not say why"


def demonstrated(python: Host, work: Path) -> dict:
    """The demo's figures of one letter, or why it ended early."""
    demo = ("scripts/demo.py", "--only", "letters", "--letters", "1")
    command = (*demo, "--output", str(work / "demo"))
    output = run(python, work, *command)
    report = work / "demo" / "report.json"
    if not report.is_file():
        return {"why": f"demo: {one_line(output)}"}
    figures = json.loads(report.read_text("utf-8"))
    right = {when: figures[f"judged_right_{when}"] for when in ("before", "after")}
    return {"demo": {"right_before": right["before"], "right_after": right["after"]}}


def tested(python: Host, work: Path) -> dict:
    """How many of the chosen tests passed, failed and were skipped, and which failed."""
    require_modules(python.python, ["pytest"], f'"{python.python}" -m pip install pytest')
    report = work / "tests.xml"
    files = [f"tests/{name}" for name in TESTS]
    options = ("-q", "-p", "no:cacheprovider", f"--junitxml={report}")
    output = run(python, work, "-m", "pytest", *options, *files)
    if not report.is_file():
        return {"why": f"tests: {one_line(output)}"}
    return counted(report.read_text("utf-8"))


def counted(report: str) -> dict:
    """Counts and failures of a report that pytest wrote as JUnit XML."""
    failed = []
    skipped = 0
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    for case in cases:
        kinds = {child.tag: child for child in case}
        fault = kinds.get("failure", kinds.get("error"))
        if fault is not None:
            failed.append((case.get("name"), fault.get("message", "")))
        elif "skipped" in kinds:
            skipped += 1
    counts = {"passed": len(cases) - len(failed) - skipped, "failed": len(failed)}
    why = ""
    if failed:
        name, message = failed[0]
        others = f" (and {len(failed) - 1} more)" if failed[1:] else ""
        why = f"{name}{others}: {one_line(message.splitlines()[0] if message else 'error')}"
    return {"tests": counts | {"skipped": skipped}, "why": why}


def verdict(row: dict) -> str:
    """One word for a row; see HEAD."""
    if row["demo"]:
        tests = row["tests"]
        return "proven" if tests and tests["passed"] and not tests["failed"] else "works"
    refused = row["why"] and row["why"] == requirements.refusal(row["comfyui"])
    return "refused" if refused else "fails"


# ---------------------------------------------------------------- one pack


def try_pack(folder: Path, host_folder: Path) -> dict:
    """The row of a node pack's samplers in one ComfyUI."""
    row = {"pack": folder.name, "commit": commit_of(folder), "ours": commit()}
    row |= {"comfyui": comfyui_version(host_folder), "why": "", "samplers": {}}
    with tempfile.TemporaryDirectory(prefix="seedselect-", ignore_cleanup_errors=True) as work:
        report = Path(work, "report.json")
        script = REPO / "tests" / "gradients" / "pack.py"
        try:
            python = existing_host(host_folder)
            output = run(python, Path(work), str(script), str(folder), str(report))
        except HostError as error:
            return row | {"why": one_line(str(error))}
        if not report.is_file():
            return row | {"why": one_line(output)}
        found = json.loads(report.read_text("utf-8"))
    samplers = {sampler["name"]: sampler["verdict"] for sampler in found["rows"]}
    return row | {"why": one_line(found["why"]) if found["why"] else "", "samplers": samplers}


def commit_of(folder: Path) -> str:
    """Of a checkout; "-" where it is none."""
    command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    own = done.returncode == 0 and Path(lines[0]).samefile(folder)
    return lines[1] if own else "-"


def counts(row: dict) -> Counter:
    return Counter(row["samplers"].values())


# ---------------------------------------------------------------- helpers


def run(python: Host, work: Path, *command: str) -> str:
    """What a command of the repository prints under the host's Python, started from `work`."""
    # With a cache of its own, a server that it starts has a base directory of its own.
    own = {"SEEDSELECT_CACHE": str(work / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [str(python.python), *command],
        cwd=REPO,
        env={**python.environment(), **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    try:
        return process.communicate(timeout=60 * MINUTES)[0]
    except subprocess.TimeoutExpired:
        return f"not done after {MINUTES} minutes"
    finally:
        process.kill()


def read(url: str) -> dict:
    """JSON of the server; a proxy of the environment must not see the request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as answer:
        return json.load(answer)


def one_line(text: str, most: int = 200) -> str:
    """The last line of a text that says something, without colours and not too long."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).split("\n")
    line = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return line if len(line) <= most else line[: most - 3] + "..."


def commit() -> str:
    """Of this checkout; docs/ does not count."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=REPO, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!docs")
    return git("rev-parse", "--short", "HEAD") + (" and changes" if changed else "")


# ---------------------------------------------------------------- the table and its page


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """Rows by version, the newest first; a new row replaces the old one of its version."""
    rows = {row["comfyui"]: row for row in [*old, *new]}

    def numbers(version: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", version)]

    return [rows[version] for version in sorted(rows, key=numbers, reverse=True)]


def page(rows: list[dict], packs: Sequence[dict] = ()) -> str:
    """docs/hosts.md of the rows."""
    found = HEAD + "".join(line(row) for row in rows)
    return found + PACKS + "".join(pack_line(row) for row in packs) if packs else found


def pack_line(row: dict) -> str:
    found = counts(row)
    cells = (row["pack"], row["commit"], row["comfyui"], found.total())
    cells += (
        *(found[verdict] for verdict in VERDICTS),
        row["why"].replace("|", "\\|"),
        row["ours"],
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def line(row: dict) -> str:
    demo = row["demo"]
    tests = row["tests"]
    shown = f"{demo['right_before']:.0%}, {demo['right_after']:.0%}" if demo else "-"
    counts = f"{tests['passed']}, {tests['failed']}, {tests['skipped']}" if tests else "-"
    cells = (row["comfyui"], row["verdict"], row["nodes"], shown, counts)
    cells += (row["why"].replace("|", "\\|"), row["pack"], row["torch"])
    return f"| {' | '.join(map(str, cells))} |\n"


def read_rows(kind: str = "rows") -> list[dict]:
    return json.loads(TABLE.read_text("utf-8")).get(kind, []) if TABLE.is_file() else []


def write(rows: list[dict], packs: Sequence[dict]) -> None:
    table = {"rows": rows} | ({"packs": list(packs)} if packs else {})
    TABLE.write_text(json.dumps(table, indent=2) + "\n", "utf-8")
    PAGE.write_text(page(rows, packs), "utf-8")


def merged_packs(old: list[dict], new: dict) -> list[dict]:
    """Rows by pack; a new row replaces the old one of its pack."""
    rows = {row["pack"]: row for row in [*old, new]}
    return [rows[name] for name in sorted(rows, key=str.lower)]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="host.py hosts", description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="a ComfyUI")
    parser.add_argument("--pack", action="append", default=[], metavar="FOLDER", dest="packs")
    given = parser.parse_args(arguments)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # also of the servers
    paths = [Path(folder).expanduser().absolute() for folder in given.folders]
    for path in paths:
        if not is_comfyui(path):
            raise HostError(f"{path} is no ComfyUI: it has no main.py beside a comfy folder.")
    if not paths:
        raise HostError('Which ComfyUI? make hosts HOSTS="FOLDER FOLDER ...", one or more.')
    if given.packs:
        return try_packs([Path(pack).expanduser().absolute() for pack in given.packs], paths[0])
    done = []
    for path in paths:
        row = try_host(path)
        done.append(row)
        print(f"{row['comfyui']}: {row['verdict']}. {row['why']}", flush=True)
        write(merged(read_rows(), [row]), read_rows("packs"))
    return 0 if all(row["verdict"] in GOOD for row in done) else 1


def try_packs(packs: Sequence[Path], host_folder: Path) -> int:
    for pack in packs:
        if not (pack / "__init__.py").is_file():
            raise HostError(f"{pack} is no node pack: it has no __init__.py.")
    raw = 0
    for pack in packs:
        row = try_pack(pack, host_folder)
        found = counts(row)
        raw += found["raw"] or not row["samplers"]
        shown = ", ".join(f"{count} {verdict}" for verdict, count in found.items())
        print(f"{row['pack']}: {shown or 'no sampler'}. {row['why']}", flush=True)
        write(read_rows(), merged_packs(read_rows("packs"), row))
    return 1 if raw else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except HostError as error:
        sys.exit(f"host.py: {error}")
