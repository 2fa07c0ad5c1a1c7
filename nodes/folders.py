"""What lies below the host's folders, without reading them at every look at a node's definition."""

import functools
import os
import time
from collections.abc import Iterator

# Two changes of a folder so close together may bear the same time, where that is kept coarsely.
SETTLED = 5 * 10**9
REMEMBERED = 10_000


def below(root: str, ending: str | None = None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every folder at and below ``root``, and the names in it that end in ``ending``.

    A folder is read again only when its time has changed, as the host does with folders of models.
    Hidden files and folders are left out. A link to a folder is given, and not followed.

    Returns:
        Paths relative to ``root``, with slashes, "" for the root itself, each with its files.
    """
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        place = os.path.join(root, inner)
        try:
            changed = os.stat(place).st_mtime_ns
            read = _read if time.time_ns() - changed > SETTLED else _read.__wrapped__
            files, folders, links = read(place, changed, ending)
        except OSError:  # it may not be read, or is gone
            files, folders, links = (), (), ()
        start = f"{inner}/" if inner else ""
        yield inner, files
        yield from ((start + name, ()) for name in links)
        waiting += [start + name for name in folders]


@functools.lru_cache(REMEMBERED)
def _read(place: str, changed: int, ending: str | None) -> tuple[tuple[str, ...], ...]:
    """Names in a folder as it was at that time: of files, of folders, of links to folders."""
    files = []
    folders = []
    links = []
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry.name)
            elif ending is not None and entry.name.endswith(ending):
                files.append(entry.name)
    return tuple(files), tuple(folders), tuple(links)
