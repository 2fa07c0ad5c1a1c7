"""What every field of a seed must be: said once, for seeds that are made and for files alike.

docs/seed-format.md says the same of a file, in words.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import Rule, require_rules

LONGEST_NAME = 100
MOST_NAMES = 100


class Field(NamedTuple):
    """What a value must be, in the words of a message, and whether it is."""

    rule: str
    holds: Callable[[Any], bool]


def _whole(low: int, high: int, rule: str) -> Field:
    return Field(rule, lambda value: type(value) is int and low <= value <= high)


def _number(low: float, high: float, rule: str) -> Field:
    return Field(rule, lambda value: type(value) in (int, float) and low <= value <= high)


def _is_list_of_numbers(values) -> bool:
    return isinstance(values, list) and all(map(_number(-1e9, 1e9, "").holds, values))


def _is_schedule(values) -> bool:
    """Sigmas as a tensor's `tolist` gives them, in a tuple."""
    if not isinstance(values, tuple) or not 2 <= len(values) <= 10_001:
        return False
    return all(type(value) is float and 0 <= value < 1e9 for value in values)


def _is_name(value) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()


def _are_names(values) -> bool:
    return isinstance(values, tuple) and len(values) <= MOST_NAMES and all(map(_is_name, values))


NAME = Field(f"a name of at most {LONGEST_NAME} printable letters", _is_name)
LOSSES = Field("a list of numbers between -1e9 and 1e9", _is_list_of_numbers)
COUNT = _whole(0, 2**31 - 1, "a whole number of 0 to 2^31 - 1")
FIELDS: dict[str, Field] = {
    "steps": _whole(1, 10_000, "a whole number of 1 to 10,000"),
    "cfg": _number(0, 100, "a number of 0 to 100"),
    "sampler_name": NAME,
    "scheduler": NAME,
    "seed": _whole(0, 2**64 - 1, "a whole number of 0 to 2^64 - 1"),
    "guider": NAME,
    "sampler": NAME,
    "sigmas": Field("2 to 10,001 numbers of 0 or more", _is_schedule),
    "latent_format": NAME,
    "semantic": LOSSES,
    "first_semantic": LOSSES,
    "total": LOSSES,
    "evaluations": _whole(0, 2**63 - 1, "a whole number of 0 to 2^63 - 1"),
    "iterations": COUNT,
    "planned": COUNT,
    "draws": COUNT,
    "settings": NAME,
    "model": NAME,
    "loras": Field(f"at most {MOST_NAMES} names", _are_names),
    "encoder": NAME,
    "prompt": NAME,
    "references": NAME,
}


def require_fields(values: dict[str, Any]) -> None:
    """Raise `SeedSelectError` for the first value that is not what its field must be."""
    for name, value in values.items():
        rule, holds = FIELDS[name]
        require_rules(Rule(name, holds(value), rule, value))
