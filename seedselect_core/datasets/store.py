"""Where a data set is: a folder, or a place in an object store that fsspec knows.

A file is there whole or not at all. On a disk it is written under another name, flushed and
renamed; an object store shows an object when all of it has arrived.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import filelock
import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..errors import SeedSelectError
from ..seeds.rescue import write_whole
from ..text import printable, quoted

# fsspec knows many more: some run programs, some chain one store to another.
PROTOCOLS = ("file", "local", "memory", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf")
PART = ".part"
LOCK = "running.lock"


class Store:
    """Files by their paths below ``address``, with slashes."""

    def __init__(self, address: str):
        protocol, _, rest = address.partition("://") if "://" in address else ("file", "", address)
        if protocol not in PROTOCOLS or "::" in address:
            raise SeedSelectError(
                f"output: '{printable(protocol, 20)}' is no kind of store, only "
                f"{', '.join(PROTOCOLS)}."
            )
        if protocol in ("file", "local"):
            address = str(Path(rest).expanduser().absolute())
        self.address = address
        with told(address):
            self.files, self.root = fsspec.core.url_to_fs(address)
        self.is_local = isinstance(self.files, LocalFileSystem)

    def path(self, name: str) -> str:
        """As the file system calls a file."""
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it replaces one of that name.

        Raises:
            SeedSelectError: the disk is full, or the store does not answer.
        """
        with told(self.address):
            if self.is_local:
                _write_whole(Path(self.path(name)), data)
            else:
                self.files.pipe_file(self.path(name), data)

    def read(self, name: str) -> bytes:
        """All of a file. Raises FileNotFoundError where there is none."""
        with told(self.address):
            return self.files.cat_file(self.path(name))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading in parts. Raises FileNotFoundError where there is none."""
        with told(self.address):
            self.files.invalidate_cache()
            with self.files.open(self.path(name), "rb") as file:
                yield file

    def names(self, folder: str) -> list[str]:
        """The files in a folder and below it, by their paths below the address, sorted."""
        with told(self.address):
            self.files.invalidate_cache()
            found = self.files.find(self.path(folder))
        start = len(self.path(""))
        return sorted(path[start:] for path in found if not path.endswith(PART))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with told(self.address), contextlib.suppress(FileNotFoundError):
            self.files.rm_file(self.path(name))

    def keep_only(self, folder: str, names: Sequence[str]) -> None:
        """Remove the files of a folder that are not among ``names``."""
        for name in set(self.names(folder)) - set(names):
            self.remove(name)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other run works on this folder meanwhile; the lock of a dead process is void.

        Raises:
            SeedSelectError: another one does.
        """
        if not self.is_local:  # an object store has no locks: two runs give the same bytes
            yield
            return
        root = Path(self.root)
        with told(self.address):
            root.mkdir(parents=True, exist_ok=True)
        try:
            lock = filelock.FileLock(root / LOCK).acquire(blocking=False)
        except filelock.Timeout:
            raise SeedSelectError(
                f"output: another run is at work in '{self.address}'. Wait for it, or stop it."
            ) from None
        with lock:
            for left in root.rglob(f".*{PART}"):
                left.unlink(missing_ok=True)
            yield


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """Errors of a store as one that says what to do."""
    try:
        yield
    except (FileNotFoundError, SeedSelectError):
        raise
    except ImportError as error:
        raise SeedSelectError(
            f"output: '{address}' needs a package that is not installed. {error}"
        ) from quoted(error)
    except Exception as error:  # each store has errors of its own
        raise SeedSelectError(
            f"output: '{address}' cannot be written or read ({type(error).__name__}: {error}). "
            "When the cause is gone, the same command goes on."
        ) from quoted(error)


def _write_whole(path: Path, data: bytes) -> None:
    # Two processes may write the same file, one of them left over from a run that was killed.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data, part)
