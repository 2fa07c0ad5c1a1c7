"""The errors that a user of the nodes is meant to read, and the rules that raise them."""

import math
from typing import Any, NamedTuple

from .text import printable


class SeedSelectError(ValueError):
    """Something the user can put right: the message names the wrong input and the remedy.

    The message may quote foreign text. So may the error in whose handling this one is raised: the
    host logs that too, unless it is left out here or given as `quoted` cause.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))
        self.__suppress_context__ = True


class NoGradient(SeedSelectError):
    """No gradient can be taken of what is in the graph; a search without one can go on."""


class Rule(NamedTuple):
    """What the value of an input must be, in the words of the message."""

    name: str
    holds: bool
    rule: str
    value: Any


def is_whole(value: Any) -> bool:
    """Whether ``value`` is a whole number; Python takes True for one."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number that one can reckon with: neither infinite nor NaN."""
    return (is_whole(value) or isinstance(value, float)) and math.isfinite(value)


def require_rules(*rules: Rule) -> None:
    """Raise `SeedSelectError` for the first rule that does not hold."""
    for name, holds, rule, value in rules:
        if not holds:
            raise SeedSelectError(f"{name}: must be {rule}, got {printable(value, 60)}.")
