"""The best seed so far, on disk while a search runs, so that no crash and no power cut loses it.

The file is replaced as a whole after every evaluation, and removed when the run has ended well. Its
name says how far the search had come and how alike the pictures were, so that a list of files says
it too. What goes wrong here is logged and never raised: it must not hide why a run has ended.
"""

import contextlib
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..text import printable
from .schema import require_fields

EXTENSION = ".seed.safetensors"
PREFIX = "unfinished_"
KEPT = 20  # files of earlier runs that a folder holds at most
# Writing takes at most this share of the time, unless so many seconds have passed since.
SHARE = 0.05
LONGEST_WAIT = 30.0
_OURS = re.compile(rf"{PREFIX}[\w.-]+{re.escape(EXTENSION)}(\.part)?")


@dataclass(frozen=True)
class Unfinished:
    """How far the search had come that a seed is the best so far of.

    Attributes:
        iterations: gradient steps that were taken, of so many ``planned``.
        draws: of the noise, beside the first.
        settings: `Settings.fingerprint` of the search.
    """

    iterations: int
    planned: int
    draws: int
    settings: str

    def __post_init__(self):
        require_fields(vars(self))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all; it replaces one of that name."""
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class Rescue:
    """The file of one run.

    Args:
        folders: where it may be; the first that can be written to is taken.
        clock: seconds.

    Attributes:
        paths: the files that hold what was written last; several where one could not hold it.
        error: why the last attempt to write failed, if it did.
    """

    def __init__(self, folders: Sequence[Path], clock: Callable[[], float] = time.monotonic):
        self.paths: list[Path] = []
        self.error: Exception | None = None
        self._folders = list(folders)
        self._clock = clock
        self._not_before = -math.inf
        self._make: Callable[[], Any] | None = None
        self._run = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"

    def offer(self, make: Callable[[], Any], new: bool = True) -> None:
        """Write what ``make`` gives, a `Seed`, now or soon.

        Args:
            new: whether it differs from what was offered before. To be called often otherwise too,
                so that what had to wait is written.
        """
        if new:
            self._make = make
        if self._make is None or self._clock() < self._not_before:
            return
        began = self._clock()
        self.write(self._make)
        ended = self._clock()
        self._not_before = ended + min(LONGEST_WAIT, (ended - began) / SHARE)

    def write(self, make: Callable[[], Any]) -> bool:
        """Write what ``make`` gives; whether that could be done."""
        self._make = None
        before = self.paths
        failed = self.error
        try:
            parts = make().parts()
            names = [self._name(part, n, len(parts)) for n, part in enumerate(parts)]
            files = {name: part.encoded() for name, part in zip(names, parts, strict=True)}
            self.paths = self._write_somewhere(files)
        except Exception as error:
            self.error = error
            if failed is None:
                logging.warning(
                    "SeedSelect: the best seed so far cannot be written: %s", printable(error)
                )
            return False
        self.error = None
        if not before:
            _remove_oldest(self.paths[0].parent)
        _remove(path for path in before if path not in self.paths)
        return True

    def done(self) -> None:
        """The run has ended well: what was found is in other hands."""
        self._make = None
        _remove(self.paths)
        self.paths = []

    def _name(self, seed: Any, number: int, count: int) -> str:
        name = f"{PREFIX}{self._run}"
        if count > 1:
            name += f"_part_{number + 1}_of_{count}"
        if seed.unfinished is not None:
            name += f"_iteration_{seed.unfinished.iterations}_of_{seed.unfinished.planned}"
        if seed.semantic and seed.first_semantic:
            now, first = (sum(v) / len(v) for v in (seed.semantic, seed.first_semantic))
            name += f"_loss_{now:.4f}_was_{first:.4f}"
        return name + EXTENSION

    def _write_somewhere(self, files: dict[str, bytes]) -> list[Path]:
        """Write into the first folder that takes them all."""
        first: OSError | None = None
        for folder in self._folders:
            written: list[Path] = []
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name, data in files.items():
                    write_whole(folder / name, data)
                    written.append(folder / name)
                return written
            except OSError as error:
                first = first or error
                _remove(written)
        raise first or FileNotFoundError("there is no folder to write to")


def _remove(paths) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()


def _remove_oldest(folder: Path) -> None:
    """Leave only the newest files of runs that did not end well."""
    with contextlib.suppress(OSError):
        keep_newest([path for path in folder.iterdir() if _OURS.fullmatch(path.name)], KEPT)


def keep_newest(paths: list[Path], count: int) -> None:
    """Remove all files but the ``count`` that were changed last."""
    with contextlib.suppress(OSError):
        ordered = sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        _remove(ordered[count:])
