"""What is made of the units when all are there: manifest, outputs and report."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import SeedSelectError
from .choose import KEPT, STATES, Choice, choose
from .report import ClassReport, write_report
from .spec import ClassSpec, Spec
from .store import Store
from .units import FOLDER, Made, Unit
from .work import find
from .writers import WRITERS, Picture

MANIFEST = "manifest.jsonl"


def require_writers(spec: Spec) -> None:
    """Raise `SeedSelectError` where an output needs a package that is not there."""
    if "webdataset" in spec.outputs and importlib.util.find_spec("webdataset") is None:
        raise SeedSelectError(
            "outputs: webdataset is not installed. pip install webdataset into ComfyUI's Python, "
            "or leave it out of outputs."
        )


@dataclass(frozen=True)
class ClassUnits:
    """What there is of a class: its units in order, slim, and what becomes of each picture."""

    one: ClassSpec
    made: Sequence[Made]
    chosen: Sequence[Choice]


def units_of(spec: Spec, store: Store, one: ClassSpec, key: str) -> ClassUnits:
    """The units of a class that are there, up to the first that is missing."""
    there = len(store.names(f"{FOLDER}/{one.name}"))
    made = []
    for number in range(there):
        found = find(store, Unit(one.name, number), key)
        if found is None:
            break
        made.append(found)
    return ClassUnits(one, made, choose(made, spec.gates, one.pictures))


def finish(spec: Spec, store: Store, keys: dict[str, str]) -> list[str]:
    """Write manifest, outputs and report anew. Gives lines for the user.

    All are made from the units, so that they can be made again, with other gates or outputs too.
    """
    classes = [units_of(spec, store, one, keys[one.name]) for one in spec.classes]
    rows = [row for units in classes for row in rows_of(units)]
    store.write(MANIFEST, "".join(json.dumps(row) + "\n" for row in rows).encode())
    for name in spec.outputs:
        WRITERS[name](spec, store, lambda: _pictures(store, classes, keys))
    reports = [_report(units) for units in classes]
    write_report(spec, store, reports, lambda name: _shown(store, classes, keys, name))
    lines = [
        f"{one.name}: {one.states[KEPT]} of {one.wanted}" + ("" if one.complete else ", too few")
        for one in reports
    ]
    return [*lines, f"{store.address}: {MANIFEST}, report.md, {', '.join(spec.outputs)}"]


def rows_of(units: ClassUnits) -> Iterator[dict]:
    """A row of the manifest for every picture, kept or not."""
    made = {one.unit: one for one in units.made}
    for choice in units.chosen:
        one = made[choice.unit]
        place = choice.place
        row = {"picture": picture_name(choice), "label": units.one.name, "state": choice.state}
        row |= {"unit": one.unit.name, "place": place, "prompt": one.prompts[place]}
        row |= {"loss": one.losses[place], "first_loss": one.first_losses[place]}
        row |= {"spread": one.spread[0], "sha256": one.hashes[place]}
        if one.opinions:
            row |= {"second_opinion": one.opinions[place], "second_spread": one.spread[1]}
        yield row


def picture_name(choice: Choice) -> str:
    """Of a picture's files in every output, without extension."""
    return f"{choice.unit.label}_{choice.unit.number:05}_{choice.place:02}"


def _pictures(
    store: Store, classes: Sequence[ClassUnits], keys: dict[str, str]
) -> Iterator[Picture]:
    """Every picture that is kept, unit by unit."""
    for units in classes:
        yield from _pictures_of(store, units, keys[units.one.name], (KEPT,))


def _pictures_of(
    store: Store, units: ClassUnits, key: str, states: Sequence[str]
) -> Iterator[Picture]:
    rows = {row["picture"]: row for row in rows_of(units)}
    for one in units.made:
        own = [c for c in units.chosen if c.unit == one.unit and c.state in states]
        if not own:
            continue
        whole = find(store, one.unit, key, whole=True)
        if whole is None:
            raise SeedSelectError(f"{one.unit.name}: it was taken away. Start again.")
        for choice in own:
            name = picture_name(choice)
            yield Picture(name, whole.pictures[choice.place], rows[name], whole, choice.place)


def _shown(store: Store, classes: Sequence[ClassUnits], keys: dict[str, str], name: str):
    units = next(units for units in classes if units.one.name == name)
    return _pictures_of(store, units, keys[name], STATES)


def _report(units: ClassUnits) -> ClassReport:
    states = {state: sum(c.state == state for c in units.chosen) for state in STATES}
    losses = [row["loss"] for row in rows_of(units) if row["state"] == KEPT]
    return ClassReport(
        name=units.one.name,
        wanted=units.one.pictures,
        units=len(units.made),
        states=states,
        thrown_away=sum(one.duplicates + one.misses for one in units.made),
        evaluations=sum(one.evaluations for one in units.made),
        loss=sum(losses) / len(losses) if losses else 0.0,
        spread=units.made[0].spread[0] if units.made else 0.0,
    )
