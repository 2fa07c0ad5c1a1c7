"""Measure the whole matrix, or a part of it, and write docs/coverage.json and docs/coverage.md.

python3 scripts/host.py coverage [--quick] [--only SECTION ...] [--match TEXT] [--jobs N]

Each row is measured in a process that is used for nothing else at the time. With ``--only``,
``--match`` or ``--quick``, rows that are not measured now stay as they are in the table. Ends with
1 where a row is wrong, or a sampler or family of the host has none.
"""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import subprocess
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
TABLE = REPO / "docs" / "coverage.json"


def prepare() -> None:
    """The host on the CPU, where equality to the last bit can be asked for."""
    sys.path[:0] = [os.environ["COMFYUI_DIR"]]  # set by scripts/host.py coverage
    sys.path += [str(REPO), str(REPO / "tests")]
    from comfy.cli_args import args as host_args

    host_args.cpu = True
    import torch

    torch.set_num_threads(1)


def all_cases() -> dict[tuple[str, str], "object"]:
    """Every `Case` of every module of this folder, by section and name."""
    import gradients

    found = {}
    for module in pkgutil.walk_packages(gradients.__path__, "gradients."):
        for case in getattr(importlib.import_module(module.name), "cases", list)():
            key = case.section, case.name
            if key in found:
                raise ValueError(f"Two cases are called {key}.")
            found[key] = case
    return found


def measure(section: str, name: str) -> dict:
    """The row of one case; what it raises is a row too."""
    began = time.monotonic()
    try:
        row = all_cases()[section, name].examine().as_row()
    except Exception as error:
        traceback.print_exc()
        row = {"verdict": "wrong", "remark": f"{type(error).__name__}: {error}"}
    seconds = round(time.monotonic() - began, 1)
    return {"section": section, "name": name} | row | {"seconds": seconds}


def commit() -> str:
    """Of which every row tells, since a table may be measured in parts."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=REPO, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!docs")
    return git("rev-parse", "HEAD")[:12] + (" and changes" if changed else "")


def provenance() -> dict:
    import torch
    from comfyui_version import __version__

    return {
        "comfyui": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, CPU",
    }


def absent(rows: list[dict]) -> list[str]:
    """Samplers, schedulers and families of the host that have no row."""
    import comfy.samplers
    import comfy.supported_models

    expected = {
        "samplers": comfy.samplers.SAMPLER_NAMES,
        "schedulers": comfy.samplers.SCHEDULER_NAMES,
        "families": [model.__name__ for model in comfy.supported_models.models],
    }
    known = {(row["section"], row["name"]) for row in rows}
    return [
        f"{s}: {name}" for s, names in expected.items() for name in names if (s, name) not in known
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the part that CI runs")
    parser.add_argument("--only", nargs="*", help="sections")
    parser.add_argument("--match", default="", help="part of a row's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    prepare()
    from gradients.page import write_page

    cases = all_cases()
    wanted = [
        key
        for key, case in cases.items()
        if (not args.quick or case.quick)
        and (not args.only or case.section in args.only)
        and args.match.lower() in case.name.lower()
    ]
    rows = {}
    if TABLE.exists():
        old = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
        rows = {(row["section"], row["name"]): row for row in old}
        rows = {key: row for key, row in rows.items() if key in cases}
    measured_at = commit()
    with ProcessPoolExecutor(args.jobs, initializer=prepare) as pool:
        jobs = [pool.submit(measure, *key) for key in wanted]
        for done, job in enumerate(as_completed(jobs), 1):
            row = job.result() | {"commit": measured_at}
            rows[row["section"], row["name"]] = row
            error = row.get("gradient_error")
            shown = "" if error is None else f"{error:.0e}"
            print(
                f"{done} of {len(jobs)} {row['section']} {row['name']}: {row['verdict']} {shown} "
                f"({row['seconds']} s)",
                flush=True,
            )
    ordered = [rows[key] for key in cases if key in rows]
    table = provenance() | {"rows": ordered}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    write_page(table)
    wrong = [f"{row['section']}: {row['name']}" for row in ordered if row["verdict"] == "wrong"]
    missing = absent(ordered)
    for title, names in (("wrong", wrong), ("not measured", missing)):
        if names:
            print(f"{title}: {', '.join(names)}")
    return 1 if wrong or missing else 0


if __name__ == "__main__":
    sys.exit(main())
