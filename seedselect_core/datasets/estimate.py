"""What a data set takes, from its spec and one unit that is made and thrown away."""

import math
import time

from .choose import first_round
from .maker import Maker
from .spec import Spec
from .units import Unit


def dry_run(spec: Spec) -> list[str]:
    """Lines for the user: classes, pictures, evaluations, hours."""
    units = {one.name: len(first_round(spec, one)) for one in spec.classes}
    total = sum(units.values())
    wanted = sum(one.pictures for one in spec.classes)
    maker = Maker(spec)
    began = time.monotonic()
    loaded = maker.models
    loading = time.monotonic() - began
    began = time.monotonic()
    made = maker.make(Unit(spec.classes[0].name, 0))
    seconds = time.monotonic() - began
    device = loaded.model.load_device
    hours = total * seconds / 3600
    kept = max(1, len(made.hashes))
    lines = [
        f"{one.name}: {one.pictures} pictures, {len(one.prompts)} prompts, {units[one.name]} units"
        for one in spec.classes
    ]
    return [
        *lines,
        f"{len(spec.classes)} classes, {wanted} pictures, {total} units or more",
        f"one unit of {spec.classes[0].name} on {device}: {len(made.hashes)} pictures, "
        f"{made.evaluations} evaluations ({made.evaluations / kept:.0f} a picture), "
        f"{seconds:.0f} s, after {loading:.0f} s to load the models",
        f"all: {total * made.evaluations} evaluations, {hours:.1f} hours of one worker; "
        f"{math.ceil(60 * hours / 8)} minutes of eight",
        "Classes differ, and pictures that the gates throw away are made again: take this for the "
        "least.",
    ]
