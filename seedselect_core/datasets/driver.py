"""The run: which units are still to be made, handed to an engine, until every class is complete."""

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import SeedSelectError
from .choose import first_round, next_round
from .maker import references_of, sizes_of
from .spec import ClassSpec, Spec
from .store import Store, told
from .units import FOLDER, Made, Unit, facts_of, key_of
from .work import Outcome, find

MADE_WITH = "made_with.json"
LOG = "log.jsonl"


class Engine(Protocol):
    """What makes units: see `work.Here`."""

    slots: int

    def submit(self, unit: Unit, key: str) -> None: ...

    def wait(self) -> list[Outcome]: ...

    def close(self) -> None: ...


@dataclass
class ClassRun:
    """How far a class has come.

    Attributes:
        made: units of the rounds so far, by number.
        due: units of the round under way that are not made yet.
        count: pictures made.
    """

    one: ClassSpec
    key: str
    made: dict[int, Made] = field(default_factory=dict)
    due: set[int] = field(default_factory=set)
    count: int = 0

    def add(self, made: Made) -> None:
        """A unit that is there now."""
        self.made[made.unit.number] = made
        self.count += len(made.hashes)

    @property
    def pictures(self) -> int:
        """Pictures made so far, of those wanted; gates may throw some away yet."""
        return min(self.one.pictures, self.count)

    def units(self) -> list[Made]:
        """What is made, in order."""
        return [self.made[number] for number in sorted(self.made)]


def keys_of(spec: Spec, store: Store) -> tuple[dict[str, str], list[str]]:
    """The key of each class's units, and notes on its references.

    What they depend on is written down in the output, and must be the same there ever after.

    Raises:
        SeedSelectError: the output holds units of the same class by another spec.
    """
    files = sizes_of(spec.model)
    facts = {}
    notes = []
    for one in spec.classes:
        references, warnings = references_of(spec, one)
        facts[one.name] = facts_of(spec, one, references.fingerprint(), files)
        notes += [f"{one.name}: {text}" for text in warnings]
    before = _made_with(store)
    for name, now in facts.items():
        then = before.get(name, now)
        changed = [key for key in now if then.get(key) != now[key]]
        if changed:
            raise SeedSelectError(
                f"output: '{store.address}' holds units of class '{name}' that were made with "
                f"another {', '.join(changed)}. Choose another output, or take back the change."
            )
    if before.keys() != (before | facts).keys():
        store.write(MADE_WITH, json.dumps(before | facts, indent=1).encode())
    return {name: key_of(of_class) for name, of_class in facts.items()}, notes


def _made_with(store: Store) -> dict:
    try:
        found = json.loads(store.read(MADE_WITH))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise SeedSelectError(f"output: {MADE_WITH} in '{store.address}' is damaged.")
    return found


class Run:
    """One run towards a spec.

    Args:
        tell: gets every outcome as it comes, and the classes' states after it.
    """

    def __init__(
        self,
        spec: Spec,
        store: Store,
        keys: dict[str, str],
        tell: Callable[[Outcome | None, Sequence[ClassRun]], None],
    ):
        self.spec = spec
        self.store = store
        self.tell = tell
        self.classes = {one.name: ClassRun(one, keys[one.name]) for one in spec.classes}
        self.waiting: deque[Unit] = deque()
        for state in self.classes.values():
            self._resume(state)
        self.waiting = deque(_in_turn(self.waiting))
        self.tell(None, list(self.classes.values()))

    def __call__(self, engine: Engine) -> None:
        """Until every class has its pictures, or has used up its units."""
        under_way = 0
        while self.waiting or under_way:
            while self.waiting and under_way < engine.slots:
                unit = self.waiting.popleft()
                engine.submit(unit, self.classes[unit.label].key)
                under_way += 1
            for outcome in engine.wait():
                under_way -= 1
                self._take(outcome)

    def _resume(self, state: ClassRun) -> None:
        """Take what is there, round by round; what is missing of a round waits."""
        there = set(self.store.names(f"{FOLDER}/{state.one.name}"))
        due = first_round(self.spec, state.one)
        while due:
            for unit in due:
                found = None
                if unit.name in there:
                    found = find(self.store, unit, state.key)
                if found is None:
                    state.due.add(unit.number)
                    self.waiting.append(unit)
                else:
                    state.add(found)
            due = [] if state.due else next_round(self.spec, state.one, state.units())

    def _take(self, outcome: Outcome) -> None:
        unit = outcome.made.unit
        state = self.classes[unit.label]
        state.add(outcome.made)
        state.due.discard(unit.number)
        if not state.due:
            further = next_round(self.spec, state.one, state.units())
            state.due = {unit.number for unit in further}
            self.waiting.extend(further)
        self.tell(outcome, list(self.classes.values()))


def _in_turn(units: Iterable[Unit]) -> Iterator[Unit]:
    """Units of all classes by turns, so that each is seen early whether it works."""
    of_class: dict[str, list[Unit]] = {}
    for unit in units:
        of_class.setdefault(unit.label, []).append(unit)
    for turn in itertools.zip_longest(*of_class.values()):
        yield from filter(None, turn)


class Log:
    """A line for each unit and each run in ``log.jsonl``, where the output is a folder.

    Times and workers are here and nowhere else: units hold nothing that differs between runs.
    """

    def __init__(self, store: Store):
        self.path = Path(store.path(LOG)) if store.is_local else None

    def add(self, **facts: Any) -> None:
        if self.path is not None:
            line = json.dumps({"time": round(time.time(), 3)} | facts)
            with told(str(self.path)), open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
