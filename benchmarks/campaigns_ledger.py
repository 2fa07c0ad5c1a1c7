"""What the campaigns found, item by item, in files that a killed campaign goes on from.

A file has a JSON object a line: ``facts`` of the machine and the code when a run began, ``sum`` of
many items, or one item. While a campaign runs, an item a line is appended; when it ends or goes on,
they are summed up, and only those with a fault keep a line of their own.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "campaigns"
# What must not happen, and how the page says it.
GOALS = {
    "hung": "hung",
    "lost": "lost beyond one iteration",
    "raw": "raw errors",
    "outside": "read or written outside",
    "weights": "weights changed",
    "picture": "plain picture changed",
    "growth": "not flat",
}
FULL = {
    "references": 10_000,
    "seeds": 10_000,
    "inputs": 5_000,
    "interruptions": 1_000,
    "runs": 200,
    "users": 100,
    "graphs": 100,
}
MOST_DESCRIBED = 200
WARM = 20  # runs until caches, allocator and thread pools have their size
# The smallest thing that a run could keep is its graph or a batch of pictures: some hundred KiB, so
# in 180 runs tens of MiB. Repeated runs of a process that keeps nothing differ by a few.
MOST_GROWTH = {"memory": 24.0, "descriptors": 4, "temp files": 4, "output files": 4}
# A signal that kills leaves no time to write: a better seed may be so old before it is on the disk.
SECONDS_TO_WRITE = 5
LONGEST = 240


@dataclass
class Found:
    """How one item ended.

    Attributes:
        was: "accepted", "refused", or whatever else may happen to it.
        faults: keys of `GOALS`.
        what: the item and what happened, where there is a fault.
        made: how many inputs, runs or prompts it stands for.
    """

    was: str
    faults: set[str] = field(default_factory=set)
    what: str = ""
    made: int = 1


class Ledger:
    """The file of one campaign.

    Attributes:
        done: items so far; the next one has this number.
        outcomes, faults: how often each.
        described: (number, faults, text) of items with a fault.
        facts: of every run that made some of the items.
    """

    def __init__(self, name: str, folder: Path = RESULTS):
        self.path = folder / f"{name}.jsonl"
        self.clear()
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else ():
            self._read(line)

    def clear(self) -> None:
        self.done = 0
        self.made = 0
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.described: list[tuple[int, list[str], str]] = []
        self.facts: list[dict] = []

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:  # killed while it was written
            return
        if "facts" in entry:
            if entry["facts"] not in self.facts:
                self.facts.append(entry["facts"])
        elif "sum" in entry:
            self.done = entry["sum"]["done"]
            self.made = entry["sum"]["made"]
            self.outcomes.update(entry["sum"]["outcomes"])
            self.faults.update(entry["sum"]["faults"])
        elif "described" in entry:
            self.described.append(tuple(entry["described"]))
        elif entry["n"] == self.done:
            self._count(Found(entry["was"], set(entry["faults"]), entry["what"], entry["made"]))

    def _count(self, found: Found) -> None:
        self.outcomes[found.was] += found.made
        self.faults.update(found.faults)
        if found.faults and len(self.described) < MOST_DESCRIBED:
            self.described.append((self.done, sorted(found.faults), found.what))
        self.done += 1
        self.made += found.made

    def begin(self, facts: dict) -> None:
        if facts not in self.facts:
            self.facts.append(facts)
        self.sum_up()

    def add(self, found: Found) -> None:
        """Count an item, and have it on the disk before the next one begins."""
        found.what = printable(found.what)
        entry = {"n": self.done, "was": found.was, "faults": sorted(found.faults)}
        entry |= {"what": found.what if found.faults else "", "made": found.made}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._count(found)

    def sum_up(self) -> None:
        """Write the file anew, short."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in self._lines()), "utf-8")
        part.replace(self.path)

    def _lines(self) -> Iterator[dict]:
        yield from ({"facts": facts} for facts in self.facts)
        counts = {"outcomes": dict(self.outcomes), "faults": dict(self.faults)}
        yield {"sum": {"done": self.done, "made": self.made, **counts}}
        yield from ({"described": list(one)} for one in self.described)


def printable(text: str) -> str:
    """In one short line of ASCII, whatever is in it."""
    line = " ".join(text.encode("ascii", "backslashreplace").decode().split())
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
    return safe if len(safe) <= LONGEST else safe[: LONGEST - 3] + "..."


def unsafe(text: str) -> str | None:
    """Why a text must not be shown or logged as it is; None where it may."""
    if any("\ud800" <= c <= "\udfff" for c in text):
        return "a lone surrogate in the text"
    if any(not c.isprintable() and c not in "\n" for c in text):
        return "control characters in the text"
    if len(text) > 4000:
        return f"a text of {len(text)} characters"
    return None


def growth(seen: list[dict]) -> str:
    """What grew from the runs after the first ones to the last ones, beyond its bound."""
    warm = seen[min(WARM, len(seen) // 2) :]
    fifth = max(1, len(warm) // 5)
    grown = []
    for name, most in MOST_GROWTH.items():
        values = [one[name] for one in warm if name in one]
        if not values:
            continue
        first, last = (sorted(part)[len(part) // 2] for part in (values[:fifth], values[-fifth:]))
        if last - first > most:
            grown.append(f"{name} from {first:.0f} to {last:.0f}")
    return ", ".join(grown)
