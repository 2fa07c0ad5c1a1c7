"""What each way to search costs, and what it brings."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from pocket_world import REPO
from seedselect_core.memory.levels import LEVELS
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

from .common import HELD_OUT, figures, optimized
from .intervals import means

sys.path.append(str(REPO / "tests"))

from live import Live

NAME = "modes"
SEEDS = 4
DRAWS = (14, 15)
DEFAULT = PRESETS["default"]
# All but the presets spend about as many evaluations as the default.
MODES = {
    "no search": Settings(iterations=0),
    "best of 40": Settings(iterations=0, candidates=40),
    **{f"preset {name}": settings for name, settings in PRESETS.items()},
    "exact gradient": replace(DEFAULT, gradient_steps=0, iterations=7),
    "gradient of the last step": replace(DEFAULT, gradient_steps=1, iterations=23),
    **{f"memory: {level.name}": replace(DEFAULT, memory=level.name) for level in LEVELS},
}


def units(quick: bool) -> dict[str, dict]:
    modes = ["no search"] if quick else list(MODES)
    how = {"letters": "P", "draws": DRAWS[:1], "count": 2}
    if not quick:
        how = {"letters": HELD_OUT, "draws": DRAWS, "count": SEEDS}
    return {name.replace(" ", "-").replace(":", ""): {"mode": name, **how} for name in modes}


def run(world, path: Path, mode: str, letters: str, draws: tuple[int, ...], count: int) -> dict:
    groups = [(letter, draw) for letter in letters for draw in draws]
    settings = MODES[mode]
    began = time.process_time()
    found = optimized(world, groups, count, settings)
    seconds = time.process_time() - began
    # A picture alone: what one more of a batch takes depends on where it is cut.
    few = replace(settings, iterations=min(2, settings.iterations))
    models = (world.model.model, world.vae.first_stage_model)
    encoders = (each.patcher.model for each in (world.encoder, world.second_encoder))
    with Live([*models, *encoders]) as live:
        optimized(world, groups[:1], 1, few)
    return {
        "mode": mode,
        "cpu_seconds": seconds / (len(groups) * count),
        "mebibytes": live.peak / 2**20,
        "groups": [figures(group) for group in found],
    }


def summarize(found: dict[str, dict], folder: Path, output: Path) -> dict:
    rows = {}
    for unit in found.values():
        rows[unit["mode"]] = means(unit["groups"], ("right", "colours", "semantic"))
        rows[unit["mode"]] |= {key: round(unit[key], 2) for key in ("cpu_seconds", "mebibytes")}
        rows[unit["mode"]]["evaluations"] = round(unit["groups"][0]["evaluations"], 1)
    return {"modes": rows}
