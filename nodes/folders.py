"""What lies below the host's folders, without reading them at every look at a node's definition."""

import functools
import os
import time
from collections.abc import Iterator

# Two changes of a folder so close together may bear the same time, where that is kept coarsely.
SETTLED = 5 * 10**9
REMEMBERED = 10_000


def below(
    root: str, endings: tuple[str, ...] = ()
) -> Iterator[tuple[str, tuple[tuple[str, int], ...]]]:
    """Every folder at and below ``root``, and the names in it that end in one of ``endings``.

    A folder is read again only when its time has changed, as the host does with folders of models.
    Hidden files and folders are left out. A link to a folder is given, and not followed.

    Returns:
        Paths relative to ``root``, with slashes, "" for the root itself, which comes first; each
        with its files and the times in nanoseconds at which they had changed when it was read.
    """
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        place = os.path.join(root, inner)
        try:
            changed = os.stat(place).st_mtime_ns
            read = _read if time.time_ns() - changed > SETTLED else _read.__wrapped__
            files, folders, links = read(place, changed, endings)
        except OSError:  # it may not be read, or is gone
            files, folders, links = (), (), ()
        start = f"{inner}/" if inner else ""
        yield inner, files
        yield from ((start + name, ()) for name in links)
        waiting += [start + name for name in folders]


@functools.lru_cache(REMEMBERED)
def _read(place: str, changed: int, endings: tuple[str, ...]) -> tuple[tuple, ...]:
    """What is in a folder as it was at that time: files, folders, links to folders."""
    files = []
    folders = []
    links = []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.name)
            elif entry.name.endswith(endings) and entry.is_file():
                files.append((entry.name, entry.stat().st_mtime_ns))
    return tuple(files), tuple(folders), tuple(links)
