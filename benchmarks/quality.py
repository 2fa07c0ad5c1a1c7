"""The figures of docs/results.md, from nothing.

python3 scripts/host.py bench quality [--quick] [--only SECTION ...] [--jobs N]

Each section is a file in ``claims/`` and consists of units that are worked on side by side, each in
a process of its own. A finished unit is kept and not done again while the code is the same, so that
a run that was stopped goes on. Writes ``results/quality/<section>.json``, beside it pictures where
units keep them, and then ``docs/results.md``. With ``--quick``: a small part of every section, into
``results/quick/``.
"""

import argparse
import ast
import functools
import hashlib
import inspect
import json
import os
import platform
import re
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
    eyes,
    frequency,
    hands_classification,
    hands_diversity,
    hands_frequency,
    hands_palms,
    hands_rivals,
    hands_sets,
    modes,
    rivals,
    sets,
    styles,
    tradeoff,
    transfer,
)
from hands_world import HandsWorld
from seedselect_core.search.presets import PRESETS

SECTIONS = {
    module.NAME: module
    for module in (
        sets,
        rivals,
        frequency,
        eyes,
        transfer,
        modes,
        tradeoff,
        styles,
        # These need the sets.
        diversity_section,
        classification_section,
        hands_rivals,
        hands_sets,
        hands_frequency,
        hands_palms,
        hands_diversity,
        hands_classification,
    )
}
WORLDS = {"letters": PocketWorld, "hands": HandsWorld}
# Whatever a unit depends on beside the code that it imports: other data, other figures.
DATA = {
    "letters": (
        "pocket/references.png",
        "pocket/atlas/*.*",
        "pocket/weights/**/*.*",
    ),
    "hands": (
        "pocket/hands/*.png",
        "pocket/hands/weights/**/*.*",
        # Towers of all worlds are alike.
        "pocket/weights/*vision.json",
    ),
}
# Of the presets a section depends on those that it names, see `_presets`.
PRESETS_FILE = REPO / "seedselect_core" / "search" / "presets.py"
# Where modules of this repository are imported from.
ROOTS = (REPO, REPO / "benchmarks", REPO / "tests")
CLAIMS = REPO / "benchmarks" / "claims"


@functools.cache
def _imported_by(name: str) -> set[Path]:
    """Files of this repository that a module imports, at once or later, but for other sections."""
    files = {}
    left = [name]
    while left:
        name = left.pop()
        path = next(
            (x for x in (root / f"{name.replace('.', '/')}.py" for root in ROOTS) if x.exists()),
            None,
        )
        if path is None or name in files:
            continue
        files[name] = path
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                left += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = name.split(".")[: -node.level] if node.level else []
                source = ".".join([*above, *filter(None, [node.module])])
                left += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    own = {x for x in files.values() if x.parent != CLAIMS or x.name == "common.py"}
    return own - {PRESETS_FILE}


def _presets(module) -> str:
    """What the presets that a section names are; none where its units' names tell settings."""
    if getattr(module, "NAMES_TELL_SETTINGS", False):
        return ""
    source = inspect.getsource(module)
    named = PRESETS if "PRESETS.items()" in source else re.findall(r'PRESETS\["(\w+)"\]', source)
    return repr([PRESETS[name] for name in sorted(set(named))])


def world_of(module) -> str:
    """The name in `WORLDS` of the world that a section is about."""
    return getattr(module, "WORLD", "letters")


@functools.cache
def _data(world: str) -> bytes:
    digest = hashlib.sha256()
    for pattern in DATA[world]:
        for path in sorted(REPO.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.digest()


def code_of(module, versions: str = "") -> str:
    """Digest of all the code and data that a section's units depend on."""
    digest = hashlib.sha256(versions.encode() + _data(world_of(module)))
    for path in sorted(_imported_by(module.__name__)):
        digest.update(path.read_bytes())
    for part in (module, *getattr(module, "DEPENDS", ())):
        # Summaries are made anew every time.
        summarize = inspect.getsource(part.summarize) if hasattr(part, "summarize") else ""
        digest.update(inspect.getsource(part).replace(summarize, "").encode())
        digest.update(_presets(part).encode())
    if needed := getattr(module, "NEEDS", None):
        digest.update(code_of(needed, versions).encode())
    return digest.hexdigest()[:16]


def state_of(module) -> str:
    """Digest of all that a section's figures depend on: its code, and its units' settings."""
    parts = " ".join([code_of(module), *module.units(False)])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


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
def _world(name: str) -> PocketWorld | HandsWorld:
    """One for each process."""
    return WORLDS[name]()


def _begin(worlds: set[str]) -> None:
    """Makes all that a process will need of `WORLDS`: later it is in inference mode."""
    torch.set_num_threads(1)
    for name in sorted(worlds):
        _world(name)


@torch.inference_mode()
def _work(section: str, arguments: dict, folder: Path, name: str, commit: str) -> None:
    """Do one unit; what it found is there whole or not at all."""
    began = time.monotonic()
    module = SECTIONS[section]
    found = module.run(_world(world_of(module)), folder / name, **arguments)
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
    result = {"section": module.NAME, "quick": quick, "code": state_of(module)}
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


def short(commit: str, digits: int = 12) -> str:
    """A commit of `commit_now` as pages tell it, with its star."""
    return commit[:digits] + "*" * commit.endswith("*")


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


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
    worlds = {world_of(module) for module in sections}
    with ProcessPoolExecutor(args.jobs, initializer=_begin, initargs=(worlds,)) as pool:
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
