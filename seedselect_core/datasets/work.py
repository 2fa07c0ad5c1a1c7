"""One unit, done: what a worker does, whoever calls it."""

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import SeedSelectError
from ..text import printable
from .spec import Spec
from .store import Store
from .units import Made, Unit, decoded, encoded


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        made: without its pictures.
        there: it had been made before.
        seconds: that it took now.
        worker: which process made it.
    """

    made: Made
    there: bool
    seconds: float
    worker: str


def find(store: Store, unit: Unit, key: str, whole: bool = False) -> Made | None:
    """A unit that was made before; one that is damaged or of another spec counts as none."""
    try:
        with store.open(unit.name) as file:
            return decoded(file, unit, key, whole)
    except FileNotFoundError:
        return None
    except SeedSelectError as error:
        logging.warning("SeedSelect: made again: %s", printable(error))
        return None


def do(
    store: Store, unit: Unit, key: str, make: Callable[[Unit], Made], check: bool = True
) -> Outcome:
    """Make a unit and write it, unless it is there.

    Raises:
        SeedSelectError: as `Maker.make` and `Store.write`; or this machine's references or model
            files are not those of the machine that asks.
    """
    began = time.monotonic()
    worker = f"{socket.gethostname()}/{os.getpid()}"
    made = find(store, unit, key) if check else None
    if made is not None:
        return Outcome(made, True, 0.0, worker)
    made = make(unit)
    if made.key != key:
        raise SeedSelectError(
            f"{unit.name}: the references or model files of {worker} are not those of the machine "
            "that was started. Put the same there."
        )
    store.write(unit.name, encoded(made))
    return Outcome(made.slim(), False, time.monotonic() - began, worker)


class Here:
    """Works in this process, one unit at a time.

    An engine, as `cluster.Cluster` is one: ``slots`` units may wait in it; `submit` hands it one;
    `wait` gives outcomes when there are some.
    """

    slots = 1

    def __init__(self, spec: Spec, store: Store, make: Callable[[Unit], Made]):
        self.store = store
        self.make = make
        self.waiting: list[tuple[Unit, str]] = []

    def submit(self, unit: Unit, key: str) -> None:
        self.waiting.append((unit, key))

    def wait(self) -> list[Outcome]:
        return [do(self.store, *self.waiting.pop(), self.make)]

    def close(self) -> None:
        """Nothing is left behind."""
