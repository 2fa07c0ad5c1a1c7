"""What the liberties taken with the host need of it, and which of that this host lacks.

Each chapter of this folder lists its needs in ``NEEDS``. A name that is gone, an argument that is
called otherwise or a closure without the variable that is exchanged means that a liberty does not
bind: nothing breaks, and the gradient may be wrong without a word. `unbound` finds that before a
search, so that the gradient is compared with a finite difference first.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Need:
    """One thing of the host that a liberty takes hold of.

    Attributes:
        place: where it is, as "package.module:name.attribute".
        parameters: arguments that it must take by name.
        cell: variable of its closure that is exchanged; "" for none.
        family: start of the module of the diffusion models that it is for; "" for all of them.
    """

    place: str
    parameters: tuple[str, ...] = ()
    cell: str = ""
    family: str = ""

    def problem(self) -> str:
        """Why it does not bind on this host; "" where it does."""
        module, _, path = self.place.partition(":")
        try:
            found = importlib.import_module(module)
            for name in filter(None, path.split(".")):
                found = getattr(found, name)
        except (ImportError, AttributeError):
            return f"{self.place} is missing"
        if self.cell and self.cell not in closure(found):
            return f"{self.place} holds no '{self.cell}'"
        taken = inspect.signature(found).parameters if self.parameters else {}
        lacking = [name for name in self.parameters if name not in taken]
        return f"{self.place} does not take {', '.join(lacking)}" if lacking else ""


@contextlib.contextmanager
def exchanged(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``make(value)`` in the place of an attribute's value, which is put back afterwards.

    Nothing happens where the host has no such attribute: `unbound` has said so.
    """
    missing = object()
    before = getattr(owner, name, missing)
    if before is missing:
        yield
        return
    setattr(owner, name, make(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


def closure(function) -> dict:
    """The cells of a function's closure by the names of their variables."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    return dict(zip(names, getattr(function, "__closure__", None) or (), strict=True))


def serves(family: str, module: str) -> bool:
    """Whether what is for the models of the package or module ``family`` is for ``module``."""
    return f"{module}.".startswith(f"{family}.") if family else True


def unbound(needs: Iterable[Need], module: str) -> list[str]:
    """What of ``needs`` does not bind, for a diffusion model whose class is of ``module``."""
    problems = (need.problem() for need in needs if serves(need.family, module))
    return [problem for problem in problems if problem]
