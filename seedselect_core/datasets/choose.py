"""Which pictures are kept, and which units are still to be made: both from the units alone.

Units of a class are made in rounds. The first has as many as would do if every picture were kept;
each further one as many as what is missing takes, by what a unit gave so far. So which units there
are depends on their results, and not on how many workers there were or in which order they ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .spec import ClassSpec, Gates, Spec
from .units import Made, Unit, numbered

KEPT = "kept"
SPARE = "spare"  # as good, and more than wanted
DUPLICATE = "duplicate"
MISS = "miss"
SECOND = "second opinion"
STATES = (KEPT, SPARE, DUPLICATE, MISS, SECOND)


@dataclass(frozen=True)
class Choice:
    """What becomes of one picture.

    Attributes:
        unit, place: where it is.
        state: of `STATES`.
    """

    unit: Unit
    place: int
    state: str


def choose(made: Sequence[Made], gates: Gates, wanted: int) -> list[Choice]:
    """What becomes of every picture of a class.

    Args:
        made: units of one class in the order of their numbers.
        wanted: pictures to be kept, at most.
    """
    if not made:
        return []
    kept = np.empty_like(np.concatenate([one.embeddings for one in made]))
    count = 0
    chosen = []
    for one in made:
        for place, vector in enumerate(one.embeddings):
            state = _failed(one, place, gates)
            limit = 1 - gates.min_distance * one.spread[0]
            if state is None and count and (kept[:count] @ vector).max() > limit:
                state = DUPLICATE
            if state is None:
                state = KEPT if count < wanted else SPARE
                kept[count] = vector
                count += 1
            chosen.append(Choice(one.unit, place, state))
    return chosen


def _failed(one: Made, place: int, gates: Gates) -> str | None:
    """The gate that a picture does not pass by itself."""
    if gates.max_loss and one.losses[place] > gates.max_loss * one.spread[0]:
        return MISS
    if gates.max_second and one.opinions:
        if one.opinions[place] > gates.max_second * one.spread[1]:
            return SECOND
    return None


def good(chosen: Sequence[Choice]) -> int:
    """Pictures that passed every gate."""
    return sum(one.state in (KEPT, SPARE) for one in chosen)


def first_round(spec: Spec, one: ClassSpec) -> list[Unit]:
    """The units that would do if every picture were kept."""
    return numbered(one.name, range(math.ceil(one.pictures / spec.units.pictures)))


def most_units(spec: Spec, one: ClassSpec) -> int:
    """Units that are made of a class at most."""
    return math.ceil(len(first_round(spec, one)) * spec.units.more)


def next_round(spec: Spec, one: ClassSpec, made: Sequence[Made]) -> list[Unit]:
    """The units to make after all of the rounds before, ``made``; none where it is enough.

    Args:
        made: in the order of their numbers, all of the rounds so far.
    """
    found = good(choose(made, spec.gates, one.pictures))
    missing = one.pictures - found
    left = most_units(spec, one) - len(made)
    if missing <= 0 or left <= 0:
        return []
    # Where none was kept so far, as many again.
    count = math.ceil(missing * len(made) / found) if found else len(made)
    return numbered(one.name, range(len(made), len(made) + min(count, left)))
