"""The figures of docs/results.md, from nothing.

python3 scripts/host.py bench quality [--quick] [--only SECTION ...] [--jobs N]

Each section is a file in ``claims/`` and consists of units that are worked on side by side, each in
a process of its own. A finished unit is kept and not done again while the code is the same, so that
a run that was stopped goes on. Writes ``results/quality/<section>.json``, beside it pictures where
units keep them, and then ``docs/results.md``. With ``--quick``: a small part of every section, into
``results/quick/``.
"""

import argparse
import functools
import hashlib
import inspect
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from pocket_world import REPO, RESULTS, PocketWorld

# isort: split

import comfyui_version
import numpy as np
import torch
from torchvision.utils import save_image

from claims import (
    classification_section,
    diversity_section,
    frequency,
    rivals,
    sets,
    styles,
    tradeoff,
    transfer,
)

SECTIONS = {
    module.NAME: module
    for module in (
        sets,
        rivals,
        frequency,
        tradeoff,
        styles,
        transfer,
        # These need the sets.
        diversity_section,
        classification_section,
    )
}
# Whatever a unit depends on: other code, other figures.
SOURCES = (
    "seedselect_core/**/*.py",
    "benchmarks/claims/common.py",
    "benchmarks/pocket_world.py",
    "pocket/*.py",
    "pocket/references.png",
    "pocket/**/*.json",
    "pocket/weights/*.safetensors",
    "pocket/atlas/*.png",
)


@functools.cache
def _shared_code(versions: str):
    digest = hashlib.sha256(versions.encode())
    for pattern in SOURCES:
        for path in sorted(REPO.glob(pattern)):
            digest.update(path.read_bytes())
    return digest


def code_of(module, versions: str = "") -> str:
    """Digest of all the code and data that a section's units depend on."""
    digest = _shared_code(versions).copy()
    for part in (module, *getattr(module, "DEPENDS", ())):
        # Summaries are made anew every time.
        summarize = inspect.getsource(part.summarize) if hasattr(part, "summarize") else ""
        digest.update(inspect.getsource(part).replace(summarize, "").encode())
    if needed := getattr(module, "NEEDS", None):
        digest.update(code_of(needed, versions).encode())
    return digest.hexdigest()[:16]


def folder_of(module, quick: bool) -> Path:
    """Where a section's units are kept: another place for other code, data or libraries."""
    versions = f"{torch.__version__} {comfyui_version.__version__}"
    kind = "quick" if quick else "quality"
    return RESULTS / "units" / kind / module.NAME / code_of(module, versions)


def save_pictures(folder: Path, units: dict[str, dict], path: Path) -> None:
    """A row for each unit of the first draw that kept pictures: of each kind as many of the first.

    Args:
        folder: holds for each such unit its kinds, uint8 [n, H, W, 3], or [rows, n, H, W, 3].
        units: what each unit was given.
    """
    rows = []
    first = min(how.get("draw", 0) for how in units.values())
    for name, how in units.items():
        if how.get("draw", 0) == first and (folder / f"{name}.npz").exists():
            with np.load(folder / f"{name}.npz") as file:
                kinds = [file[kind] for kind in file]
            rows += zip(*kinds, strict=True) if kinds[0].ndim == 5 else [kinds]
    if rows:
        each = min(8, *(len(kind) for row in rows for kind in row))
        shown = torch.from_numpy(np.concatenate([kind[:each] for row in rows for kind in row]))
        save_image(shown.movedim(-1, 1) / 255, path, nrow=each * len(rows[0]))


@functools.cache
def _world() -> PocketWorld:
    """One for each process, which is made when the process begins."""
    torch.set_num_threads(1)
    return PocketWorld()


@torch.inference_mode()
def _work(section: str, arguments: dict, folder: Path, name: str, commit: str) -> None:
    """Do one unit; what it found is there whole or not at all."""
    began = time.monotonic()
    found = SECTIONS[section].run(_world(), folder / name, **arguments)
    found |= {"seconds": round(time.monotonic() - began, 1), "commit": commit}
    part = folder / f"{name}.part"
    part.write_text(json.dumps(found))
    part.replace(folder / f"{name}.json")


def submit(module, pool: ProcessPoolExecutor, quick: bool) -> list[Future]:
    """Begin with what is not done yet of a section's units."""
    folder = folder_of(module, quick)
    commit = commit_now()
    folder.mkdir(parents=True, exist_ok=True)
    needed = getattr(module, "NEEDS", None)
    more = {"made": folder_of(needed, quick)} if needed else {}
    units = module.units(quick)
    missing = {name: how for name, how in units.items() if not (folder / f"{name}.json").exists()}
    print(f"{module.NAME}: {len(units)} units, {len(missing)} to do", flush=True)
    return [
        pool.submit(_work, module.NAME, how | more, folder, name, commit)
        for name, how in missing.items()
    ]


def wait(module, jobs: list[Future], began: float) -> None:
    """Until the last of a section's units is done, telling how far it is."""
    for done, job in enumerate(as_completed(jobs), 1):
        job.result()
        minutes = (time.monotonic() - began) / 60
        print(f"  {module.NAME} {done} of {len(jobs)}, {minutes:.1f} minutes", flush=True)


def write(module, output: Path, quick: bool) -> None:
    """A section's JSON, and the pictures that its units kept."""
    folder = folder_of(module, quick)
    units = module.units(quick)
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in units}
    summary = module.summarize(found, folder, output)
    save_pictures(folder, units, output / f"{module.NAME}.png")
    result = {"section": module.NAME, "quick": quick, "code": code_of(module)}
    result |= provenance(found)
    result["core_seconds"] = round(sum(unit["seconds"] for unit in found.values()))
    result["summary"] = summary
    (output / f"{module.NAME}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary, indent=1)[:3000], flush=True)


def commit_now() -> str:
    """The commit, so that a figure can be traced; with a star where files differ from it."""

    def git(*command: str) -> str:
        done = subprocess.run(["git", *command], cwd=REPO, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs")
    return git("rev-parse", "HEAD") + ("*" if changed else "")


def provenance(found: dict[str, dict]) -> dict:
    """Commits that the units were measured at, and the machine."""
    return {
        "commits": sorted({unit["commit"] for unit in found.values()}),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part, in ten minutes")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    output = RESULTS / ("quick" if args.quick else "quality")
    output.mkdir(parents=True, exist_ok=True)
    wanted = {SECTIONS[name] for name in args.only}
    wanted |= {module.NEEDS for module in wanted if hasattr(module, "NEEDS")}
    sections = [module for module in SECTIONS.values() if module in wanted]
    began = time.monotonic()
    with ProcessPoolExecutor(args.jobs, initializer=_world) as pool:
        try:
            # All at once, so that no process waits for the last unit of a section.
            first = [module for module in sections if not hasattr(module, "NEEDS")]
            jobs = {module: submit(module, pool, args.quick) for module in first}
            for module in sections:
                if module not in jobs:
                    jobs[module] = submit(module, pool, args.quick)
                wait(module, jobs[module], began)
                write(module, output, args.quick)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not args.quick:
        page = [sys.executable, str(Path(__file__).parent / "results_page.py")]
        subprocess.run(page, check=True)


if __name__ == "__main__":
    main()
