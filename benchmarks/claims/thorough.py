"""The eight rarest letters at four times the default's cost, and at the default's."""

from pathlib import Path

from seedselect_core.settings import PRESETS

from .common import RARE, figures, optimized
from .intervals import mean_and_interval

NAME = "thorough"
SEEDS = 8


def units(quick: bool) -> dict[str, dict]:
    if quick:
        return {"P": {"letter": "P", "count": 1}}
    return {letter: {"letter": letter, "count": SEEDS} for letter in reversed(RARE)}


def run(world, path: Path, letter: str, count: int) -> dict:
    """Prompts, references and seeds are those of the first draw in the section "frequency"."""
    return {
        "letter": letter,
        "default": figures(optimized(world, letter, count, 0, PRESETS["default"])),
        "thorough": figures(optimized(world, letter, count, 0, PRESETS["thorough"])),
    }


def summarise(found: dict[str, dict], folder: Path, output: Path) -> dict:
    def of(own: list[dict]) -> dict:
        return {
            preset: {
                key: mean_and_interval([(unit["letter"], unit[preset][key]) for unit in own])
                for key in ("right", "colours", "semantic", "norm")
            }
            for preset in ("default", "thorough")
        }

    units = list(found.values())
    return {"all": of(units), "letters": {unit["letter"]: of([unit]) for unit in units}}
