"""The best seed so far, on disk while a search runs, so that no crash and no power cut loses it.

The file is replaced as a whole after every evaluation, and, when the run has ended well, by that of
what was found, so that no later run loses it. Its name says how far the search had come and how
alike the pictures were, so that a list of files says it too. What goes wrong here is logged and
never raised: it must not hide why a run has ended.
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
UNFINISHED = "unfinished_"
FOUND = "found_"
KEPT = 20  # files of earlier runs that did not end well that a folder holds at most
# Writing takes at most this share of the time, unless so many seconds have passed since.
SHARE = 0.05
LONGEST_WAIT = 30.0
_REST = rf"[\w.-]+{re.escape(EXTENSION)}(\.part)?"


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


def write_whole(path: Path, data: bytes, part: Path | None = None) -> None:
    """Write a file that is there whole or not at all; it replaces one of that name.

    Args:
        part: where it is written first, beside it.
    """
    part = part or path.with_name(f"{path.name}.part")
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
        encode: gives the bytes of a `Seed`'s file.
        keep: files of what was found that a folder holds at most, the newest; 0 for none.

    Attributes:
        paths: the files that hold what was written last; several where one could not hold it.
        error: why the last attempt to write failed, if it did.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        clock: Callable[[], float] = time.monotonic,
        encode: Callable[[Any], bytes] = lambda seed: seed.encoded(),
        keep: int = 0,
    ):
        self.paths: list[Path] = []
        self.error: Exception | None = None
        self._folders = list(folders)
        self._clock = clock
        self._encode = encode
        self._keep = keep
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
        return self._write(make, UNFINISHED, KEPT)

    def done(self, found: Any) -> None:
        """The run has ended well: keep the `Seed` that it found, if any are kept."""
        if self._keep:
            self._write(lambda: found, FOUND, self._keep)
            return
        self._make = None
        _remove(self.paths)
        self.paths = []

    def _write(self, make: Callable[[], Any], kind: str, most: int) -> bool:
        self._make = None
        before = self.paths
        failed = self.error
        try:
            parts = make().parts()
            names = [self._name(kind, part, n, len(parts)) for n, part in enumerate(parts)]
            files = {name: self._encode(part) for name, part in zip(names, parts, strict=True)}
            self.paths = self._write_somewhere(files)
        except Exception as error:
            self.error = error
            if failed is None:
                logging.warning(
                    "SeedSelect: the best seed so far cannot be written: %s", printable(error)
                )
            return False
        self.error = None
        if not before or kind == FOUND:
            _remove_oldest(self.paths[0].parent, kind, most)
        _remove(path for path in before if path not in self.paths)
        return True

    def _name(self, kind: str, seed: Any, number: int, count: int) -> str:
        name = f"{kind}{self._run}"
        if count > 1:
            name += f"_part_{number + 1}_of_{count}"
        if seed.unfinished is not None:
            name += f"_iteration_{seed.unfinished.iterations}_of_{seed.unfinished.planned}"
        if seed.semantic and seed.first_semantic:
            now, first = (100 * (1 - sum(v) / len(v)) for v in (seed.semantic, seed.first_semantic))
            name += f"_likeness_{now:.1f}_was_{first:.1f}"
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


def _remove_oldest(folder: Path, kind: str, most: int) -> None:
    """Leave only the newest files of a kind."""
    with contextlib.suppress(OSError):
        ours = [path for path in folder.iterdir() if re.fullmatch(kind + _REST, path.name)]
        keep_newest(ours, most)


def keep_newest(paths: list[Path], count: int) -> None:
    """Remove all files but the ``count`` that were changed last."""
    with contextlib.suppress(OSError):
        ordered = sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        _remove(ordered[count:])
