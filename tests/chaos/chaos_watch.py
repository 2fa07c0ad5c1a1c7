"""Hears of every file that a process opens, notes those outside the places it may, fills its disk.

Python tells an audit hook of what is opened, listed, made, moved and removed, of connections and of
programs. `safetensors` opens its files in Rust, unheard; so its two functions are made to tell.
Standard library only: it is installed before anything of the host is imported.
"""

import errno
import functools
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable

MOST = 20  # notes kept between two looks
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link", "os.symlink")
LOOKS = ("os.listdir", "os.scandir")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """What a process did outside.

    Attributes:
        readable, writable: folders below which it may read, or write too.
        on: whether anything is noted.
        found: what was noted, in words.
        full: folders on a disk that is full.
    """

    def __init__(self) -> None:
        self.readable: tuple[str, ...] = ()
        self.writable: tuple[str, ...] = ()
        self.on = False
        self.found: list[str] = []
        self.full: tuple[str, ...] = ()

    def install(self) -> None:
        """Begin to hear; Python has no way to end it."""
        sys.addaudithook(self._hear)

    def allow(self, readable: Iterable[str], writable: Iterable[str]) -> None:
        """Name the places; Python, its packages and what PyTorch keeps are known."""
        self.writable = tuple(map(os.path.realpath, [*writable, *_caches()]))
        self.readable = tuple(map(os.path.realpath, [*readable, *_python()])) + self.writable

    def take(self) -> list[str]:
        """What was noted since this was asked last."""
        found, self.found = self.found, []
        return found

    def _hear(self, event: str, arguments: tuple) -> None:
        if not (self.on or self.full):
            return
        if event == "open":
            path, _, flags = arguments
            self._touched(path, bool((flags or 0) & WRITING))
        elif event in CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._touched(path, True, makes=event == "os.mkdir")
            if event == "os.symlink":
                self._touched(arguments[1], True)
        elif event in LOOKS:
            self._touched(arguments[0], False)
        elif event == "socket.connect":
            self._connected(arguments[1])
        elif event in PROGRAMS:
            self._note(f"started {str(arguments[0])[:100]}")

    def _touched(self, path, writes: bool, makes: bool = True) -> None:
        if not isinstance(path, str | bytes) or not path or "\0" in os.fsdecode(path):
            return  # a descriptor, or what no system call takes
        real = os.path.realpath(os.fsdecode(path))
        if writes and makes and _within(real, self.full):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), real)
        compiled = "__pycache__" in real.split(os.sep)
        places = self.writable if writes and not compiled else self.readable
        if self.on and not _within(real, places):
            self._note(f"{'wrote' if writes else 'read'} {ascii(real)[:200]}")

    def _connected(self, address) -> None:
        local = isinstance(address, str | bytes) or str(address[0]) in ("127.0.0.1", "::1")
        if not local:
            self._note(f"connected to {str(address)[:100]}")

    def _note(self, what: str) -> None:
        if self.on and len(self.found) < MOST:
            self.found.append(what)


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == one or path.startswith(one.rstrip(os.sep) + os.sep) for one in folders)


def _python() -> list[str]:
    """Where Python, its packages and the system's own tables are."""
    tables = ("mime.types", "localtime", "hosts", "resolv.conf", "nsswitch.conf", "ssl", "fonts")
    places = [sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)]
    places += [*sysconfig.get_paths().values(), *(f"/etc/{name}" for name in tables)]
    return [*places, "/proc", "/sys", "/dev", "/usr/lib", "/usr/share", "/lib"]


def _caches() -> list[str]:
    """Where PyTorch writes what it has compiled, and where a process may always write."""
    home = os.path.expanduser("~")
    found = [os.path.join(home, name) for name in (".cache/torch", ".triton")]
    user = os.environ.get("USER", "root")
    return [*found, os.path.join(tempfile.gettempdir(), f"torchinductor_{user}"), os.devnull]


def tell_of_rust() -> None:
    """Make the functions of safetensors tell which file they open, as Python's own do."""
    import safetensors

    safetensors.safe_open = _telling(safetensors.safe_open, 0, os.O_RDONLY)
    safetensors.serialize_file = _telling(safetensors.serialize_file, 1, os.O_WRONLY | os.O_CREAT)


def _telling(function: Callable, place: int, flags: int) -> Callable:
    @functools.wraps(function)
    def told(*arguments, **named):
        path = arguments[place] if len(arguments) > place else named["filename"]
        sys.audit("open", os.fspath(path), None, flags)
        return function(*arguments, **named)

    return told


WATCH = Watch()
