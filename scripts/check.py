"""What others' tools find in the pack as the registry would publish it.

usage: python3 scripts/host.py check

The archive (archive.py) is installed in the host and started, and each tool of checks.txt is run on
it, from a virtual environment that holds these tools alone. They need no network: the ComfyUI that
they compare with is the host. The exit code is 0 if every check that judges has passed; what a
report finds is for a reader to judge.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import archive
import host
from api_workflow import CHOICE, to_api
from comfy_client import ComfyClient
from host_install import (
    Host,
    HostError,
    cache_folder,
    create_venv,
    find_host,
    find_python,
    install_lock,
    installed_packages,
    pins,
    pip,
    venv_damage,
    venv_python,
    write_stamp,
)

LIST = Path(__file__).resolve().parent / "checks.txt"
# What the tools read of the host's source.
SOURCES = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", ":(glob)*.py")
WHO = ("NAME", "EMAIL")
# Folders of models/ from which a loader offers names.
MODELS = {"CheckpointLoaderSimple": "checkpoints", "CLIPVisionLoader": "clip_vision"}
REPORTED = """[test]
levels = ["warnings", "hazards"]
"""
NOT_RUN = {
    "comfy-test, coverage": (
        "it counts nodes by NODE_CLASS_MAPPINGS, and this pack has comfy_entrypoint instead; every "
        "workflow is opened by tests/test_browser.py"
    ),
    "comfy-test, install and what follows": (
        "it fetches a ComfyUI of its own from GitHub; tests/test_archive.py installs the archive "
        "in the host and runs it"
    ),
}
# Names of the host that are asked for, though not every version has them.
NEWER = {
    "comfy.ldm.modules.attention.AttentionTensorContainer": (
        "asked for only where attention takes containers"
    ),
}
# What nodesafe calls dangerous by its looks: how its title begins, what the line holds, what it is.
HARMLESS = (
    ("code_execution: pattern `compile(`", "re.compile(", "a regular expression"),
    ("code_execution: pattern `eval(`", ".eval()", "the mode of a module"),
    ("code_execution: pattern `importlib.import_module`", "", "a module of the host by its name"),
    ("obfuscation_chains: pattern `lambda", "lambda", "a function"),
    ("obfuscation_chains: pattern `ord(`", "record(", "the end of a longer name"),
    ("Dynamic `getattr`", "getattr(", "an attribute by its name"),
    ("high-entropy literal", "", "a text, or a regular expression"),
    ("Possible typosquat: `moto`", "moto", "an S3 for the tests: https://docs.getmoto.org"),
)


@dataclass(frozen=True)
class Finding:
    """What a tool found; `harmless` says why it is no fault, where it is none."""

    text: str
    harmless: str = ""


@dataclass(frozen=True)
class Check:
    """Commands of a tool.

    Attributes:
        read: makes findings of the JSON that a command prints. Without it, what it prints is shown
            and its exit code tells whether it passed.
        judges: whether the outcome counts, or a reader judges.
    """

    name: str
    commands: list[list[str]]
    read: Callable[[dict], Iterator[Finding]] | None = None
    judges: bool = True


@dataclass(frozen=True)
class Installed:
    """The archive in a host.

    Attributes:
        base: the host's folders, with the pack in custom_nodes.
        work: for what the tools write.
        prompts: the workflows in the format of the API.
    """

    base: Path
    work: Path
    prompts: list[Path]

    @property
    def pack(self) -> Path:
        return self.base / "custom_nodes" / archive.FOLDER


# ---------------------------------------------------------------- what is checked


def installed(work: Path, source: Host) -> Installed:
    """Install the archive, start the host with it, and write down what the tools ask of it."""
    base = work / "base"
    pack = archive.unpack(base / "custom_nodes" / archive.FOLDER)
    files = sorted(pack.glob("workflows/*.json"))
    workflows = {path.name: json.loads(path.read_text("utf-8")) for path in files}
    for graph in workflows.values():
        name_models(graph, base / "models")
    prompts = []
    with host.server(["--cpu"], base_directory=base, host=source, pack=pack) as server:
        nodes = ComfyClient(server.url).get("object_info")
    (work / "object_info.json").write_text(json.dumps(nodes), "utf-8")
    for name, graph in workflows.items():
        prompts.append(work / name)
        prompts[-1].write_text(json.dumps(to_api(graph, nodes)), "utf-8")
    return Installed(base, work, prompts)


def name_models(graph: dict, models: Path) -> None:
    """An empty file for each model that a workflow names, as on a disk that has it."""
    for node in graph["nodes"]:
        models_of = node.get("properties", {}).get("models", ())
        named = [(each["directory"], each["name"]) for each in models_of]
        if node["type"] in MODELS:
            named.append((MODELS[node["type"]], node["widgets_values"][0]))
        for folder, name in named:
            (models / folder).mkdir(parents=True, exist_ok=True)
            (models / folder / name).touch()


def commit_source(comfyui: Path, target: Path) -> None:
    """Make a repository with one commit of the host's source, where comfy-import-guard looks."""
    target.mkdir(parents=True)
    git = ["git", f"--git-dir={target / '.git'}", f"--work-tree={comfyui}"]
    who = {f"GIT_{role}_{part}": "host" for role in ("AUTHOR", "COMMITTER") for part in WHO}
    for command in ("init -q", f"add -- {' '.join(SOURCES)}", "commit -q --no-gpg-sign -m host"):
        subprocess.run([*git, *command.split()], cwd=comfyui, env={**os.environ, **who}, check=True)


# ---------------------------------------------------------------- the tools


def tools() -> Path:
    """The folder of the tools' programs, installed or repaired where needed."""
    base, version = find_python()
    venv = cache_folder() / "checks-python{}.{}".format(*version)
    key = pins(LIST.read_text("utf-8"), str(version))
    with install_lock(cache_folder()):
        reason = venv_damage(venv, key, version)
        if reason:
            print(f"Installing the tools of {LIST.name}: {reason} ({venv}).", flush=True)
            create_venv(base, venv, gigabytes=1)
            pip(venv_python(venv), "install", "-q", "-r", str(LIST))
            write_stamp(venv, key, installed_packages(venv))
    return venv_python(venv).parent


def checks(place: Installed) -> list[Check]:
    """Every check, in the order in which they are run."""
    pack = str(place.pack)
    base = str(place.base)
    report = str(place.work / "comfy-test.toml")
    Path(report).write_text(REPORTED, "utf-8")
    clone = ["--cache-dir", str(place.work / "guard"), "--offline", "--target", "HEAD"]
    schema = str(place.work / "object_info.json")
    workflows = sorted(place.pack.glob("workflows/*.json"))
    scan = ["--format", "json", "--fail-on", "none"]
    return [
        Check(
            "what the registry's client asks of code",
            [["ruff", "check", "--isolated", "--select", "S102,S307,E702", pack]],
        ),
        Check("comfy-test, syntax and javascript", [["comfy-test", "lint", pack]]),
        Check(
            "comfy-test, warnings and hazards",
            [["comfy-test", "run", pack, "--config", report]],
            judges=False,
        ),
        Check(
            "comfy-import-guard",
            [["comfy-import-guard", "check", "-q", "--json", *clone, "--comfy-dir", base]],
            of_import_guard,
        ),
        Check(
            "comfy-lint",
            [["comfy-lint", "--json", "--schema-cache", schema, *map(str, place.prompts)]],
            partial(of_lint, brought=brought_along(json.loads(Path(schema).read_text("utf-8")))),
        ),
        Check("nodesafe", [["nodesafe", "scan", *scan, pack]], of_nodesafe),
        Check(
            "nodesafe, workflows",
            [["nodesafe", "scan-workflow", *scan, str(path)] for path in workflows],
            of_nodesafe,
        ),
    ]


def of_import_guard(report: dict) -> Iterator[Finding]:
    """Names and arguments that the host does not have."""
    (pack,) = report["packs"]
    for kind in ("breaking", "soft", "unresolvable", "signature_drift"):
        for row in pack[kind]:
            text = f"{row['file']}:{row['line']}: {row['dotted']}: {row['detail'] or kind}"
            yield Finding(text, NEWER.get(row["dotted"], ""))
    yield from (Finding(f"{each['file']}: {each['error']}") for each in pack["unparseable"])


def brought_along(nodes: dict) -> set[str]:
    """Inputs that choices of nodes bring along, as "Node.choice.input"."""
    found = set()
    waiting = [(name, info["input"]) for name, info in nodes.items()]
    while waiting:
        start, inputs = waiting.pop()
        for name, (kind, *more) in [row for each in inputs.values() for row in each.items()]:
            for option in more[0]["options"] if kind == CHOICE else ():
                brought = option["inputs"]
                found |= {f"{start}.{name}.{own}" for each in brought.values() for own in each}
                waiting.append((f"{start}.{name}", brought))
    return found


def of_lint(report: dict, brought: Container[str] = ()) -> Iterator[Finding]:
    """What does not fit in the workflows; ``brought`` is of `brought_along`."""
    for file in report["files"]:
        for row in file["diagnostics"]:
            place = f"{row['class_type']}.{row['field']}"
            text = f"{Path(file['path']).name}, {place}: {row['message']}"
            yield Finding(text, _of_schema(row["message"], place in brought))
    yield from (Finding(f"{each['path']}: {each['error']}") for each in report["unreadable"])


def _of_schema(message: str, brought: bool) -> str:
    """What comfy-lint does not know of the host's inputs; "" for a fault."""
    types = re.search(r"expects (\S+,\S+) but .* produces (\S+)$", message)
    if types and types[2] in types[1].split(","):
        return "one of several types that the input takes"
    if brought and message.startswith("unknown input"):
        return "an input that the option of another brings along"
    if message.startswith("{'__value__': []} is not a valid value"):
        return "a choice of several, of which none is chosen"
    return ""


def of_nodesafe(report: dict) -> Iterator[Finding]:
    """What looks dangerous in code or in a workflow."""
    for row in report["findings"]:
        line = row.get("snippet") or ""
        known = (
            meaning
            for title, part, meaning in HARMLESS
            if row["title"].startswith(title) and part in line
        )
        text = f"{row.get('file')}:{row.get('line')}: {row['title']}: {line}"
        yield Finding(text, next(known, ""))


def run(check: Check, programs: Path, work: Path) -> bool:
    """Run one check and show what it finds; whether it passed."""
    print(f"\n=== {check.name}", flush=True)
    suffix = ".exe" if host.WINDOWS else ""
    logs = work / "comfy-test"
    logs.mkdir(exist_ok=True)
    own = {"COMFY_TEST_LOGS_DIR": str(logs), "COMFY_TEST_WORKSPACE_DIR": str(logs)}
    good = True
    harmless = Counter()
    for program, *arguments in check.commands:
        done = subprocess.run(
            [str(programs / (program + suffix)), *arguments],
            cwd=work,
            env={**os.environ, **own, "PYTHONUTF8": "1", "NO_COLOR": "1"},
            stdout=subprocess.PIPE if check.read else None,
            encoding="utf-8",
        )
        if check.read is None:
            good &= done.returncode == 0
            continue
        try:
            findings = list(check.read(json.loads(done.stdout)))
        except (ValueError, KeyError, TypeError):
            print(f"{program} gave no report (exit code {done.returncode}):\n{done.stdout}")
            return False
        harmless.update(found.harmless for found in findings if found.harmless)
        faults = [found.text for found in findings if not found.harmless]
        print(*faults, sep="\n", end="\n" if faults else "")
        good &= not faults
    for reason, count in harmless.items():
        print(f"{count} found that are no fault: {reason}")
    return good


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="seedselect-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        programs = tools()
        source = find_host()
        place = installed(work, source)
        commit_source(source.comfyui, work / "guard" / "ComfyUI")
        listed = checks(place)
        passed = [run(check, programs, work) for check in listed]
    print(f"\n=== {LIST.name} on the {len(archive.shipped())} files of the archive")
    for check, good in zip(listed, passed, strict=True):
        outcome = ("passed" if good else "FAILED") if check.judges else "see above"
        print(f"{outcome:<10} {check.name}")
    for name, reason in NOT_RUN.items():
        print(f"{'not run':<10} {name}: {reason}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (HostError, archive.NoCheckout) as error:
        sys.exit(f"host.py: {error}")
