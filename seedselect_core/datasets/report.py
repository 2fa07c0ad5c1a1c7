"""What was made, told: counts, what was thrown away and why, a contact sheet for each class."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from PIL import Image, ImageDraw, ImageFont

from ..sheets import FAINT, INK
from .choose import DUPLICATE, KEPT, MISS, SECOND, SPARE, STATES
from .spec import Spec
from .store import Store
from .writers import Picture

SHOWN = 48  # pictures of a state on a sheet, at most
COLUMNS = 12
CELL = 96
HEAD = 26


@dataclass(frozen=True)
class ClassReport:
    """What became of a class.

    Attributes:
        states: pictures in each of `choose.STATES`.
        thrown_away: pictures that the searches themselves did not keep.
        evaluations: of the model, in all.
        loss, spread: mean semantic loss of what was kept, and the references' own.
    """

    name: str
    wanted: int
    units: int
    states: dict[str, int]
    thrown_away: int
    evaluations: int
    loss: float
    spread: float

    @property
    def complete(self) -> bool:
        """Whether there are as many as wanted."""
        return self.states[KEPT] == self.wanted


def write_report(
    spec: Spec,
    store: Store,
    reports: Sequence[ClassReport],
    pictures: Callable[[str], Iterator[Picture]],
) -> None:
    """``report.json``, ``report.md`` and ``sheets/LABEL.png``.

    Args:
        pictures: all of a class, kept or not.
    """
    facts = {"classes": [asdict(one) for one in reports]}
    store.write("report.json", json.dumps(facts, indent=1).encode())
    store.write("report.md", "\n".join(report_lines(reports)).encode())
    names = []
    for one in reports:
        names.append(f"sheets/{one.name}.png")
        store.write(names[-1], sheet(pictures(one.name)))
    store.keep_only("sheets", names)


def report_lines(reports: Sequence[ClassReport]) -> list[str]:
    """The report as Markdown."""
    head = ("class", "wanted", "kept", "spare", "duplicates", "misses", "by second opinion")
    head += ("thrown away by the search", "units", "evaluations for each kept", "loss", "spread")
    rows = [head, ["---"] * len(head)]
    for one in reports:
        kept = one.states[KEPT]
        each = f"{one.evaluations / kept:.0f}" if kept else "none kept"
        counts = [one.states[state] for state in (KEPT, SPARE, DUPLICATE, MISS, SECOND)]
        told = (one.thrown_away, one.units, each, f"{one.loss:.3f}", f"{one.spread:.3f}")
        rows.append([f"[{one.name}](sheets/{one.name}.png)", one.wanted, *counts, *told])
    short = [one.name for one in reports if not one.complete]
    lines = ["# What was made", ""]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    lines += [
        "",
        "Loss: mean semantic loss of the pictures kept. Spread: that of the references themselves.",
    ]
    if short:
        lines += ["", f"Fewer than wanted, and no unit left: {', '.join(short)}."]
    return [*lines, ""]


def sheet(pictures: Iterator[Picture]) -> bytes:
    """A PNG with the first pictures of every state."""
    found: dict[str, list[bytes]] = {state: [] for state in STATES}
    counts = dict.fromkeys(STATES, 0)
    for picture in pictures:
        state = picture.row["state"]
        counts[state] += 1
        if len(found[state]) < SHOWN:
            found[state].append(picture.data)
    there = [state for state in STATES if found[state]]
    rows = [-(-len(found[state]) // COLUMNS) for state in there]
    height = sum(HEAD + CELL * count for count in rows)
    image = Image.new("RGB", (COLUMNS * CELL, max(HEAD, height)), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(16)
    top = 0
    for state, count in zip(there, rows, strict=True):
        draw.text((6, top + 4), f"{state}: {counts[state]}", INK if state == KEPT else FAINT, font)
        for place, data in enumerate(found[state]):
            with Image.open(io.BytesIO(data), formats=["PNG"]) as file:
                small = file.resize((CELL - 4, CELL - 4), Image.Resampling.BICUBIC)
            row, column = divmod(place, COLUMNS)
            image.paste(small, (column * CELL + 2, top + HEAD + row * CELL + 2))
        top += HEAD + CELL * count
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
