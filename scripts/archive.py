"""What the Comfy registry's archive of this pack holds, and a copy of exactly that.

The registry's client packs the files that git tracks, less what .comfyignore names. The same rules
are applied here by git itself. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
RULES = ".comfyignore"
FOLDER = "seedselect"  # in custom_nodes: the registry's id of the pack, as pyproject.toml names it


class NoCheckout(RuntimeError):
    """There is no git, or this folder is no checkout of it: nobody knows what is tracked."""


def tracked(*rules: str) -> set[str]:
    """Paths that git tracks, with slashes, all or those that `git ls-files` finds by its rules.

    Raises:
        NoCheckout: there is nobody to ask.
    """
    command = ["git", "ls-files", "--cached", "-z", *rules]
    try:
        done = subprocess.run(command, cwd=REPO, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        raise NoCheckout("git is not installed.") from None
    if done.returncode:
        raise NoCheckout(done.stderr.strip())
    return set(filter(None, done.stdout.split("\0")))


def shipped() -> list[str]:
    """Paths in the archive, sorted. Raises NoCheckout."""
    left_out = tracked("--ignored", f"--exclude-from={RULES}")
    return sorted(path for path in tracked() - left_out if (REPO / path).is_file())


def unpack(target: Path) -> Path:
    """Copy what ships into a new folder, as an installation from the registry looks; returns it."""
    for path in shipped():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPO / path, place)
    return target
