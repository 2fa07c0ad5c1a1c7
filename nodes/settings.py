"""The preset of a search, and the values of `Settings` that "custom" has as inputs.

A new one is one line in `_plain_settings` or, where only who knows the method will turn it, in
`_fine_settings`. The page labels what a choice brings along with the input's id: it is in the
words of an artist.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from comfy_api.latest import io

from ..seedselect_core.errors import SeedSelectError, is_number
from ..seedselect_core.likeness.comparison import CENTROID, NEAREST
from ..seedselect_core.memory.levels import AUTOMATIC
from ..seedselect_core.search.presets import PRESETS
from ..seedselect_core.search.settings import DRAFTS, OPTIMIZERS, SCHEDULES, Settings

CUSTOM = "custom"
DEFAULT = PRESETS["default"]
WEIGHT = "weights."


@dataclass(frozen=True)
class Setting:
    """A value of `Settings` as an input.

    Attributes:
        field: its name there, or "weights." and its name in `LossWeights`.
        input: of the host; its id is what the page shows of an input that a choice brings along.
        read: from the input's value to the field's.
    """

    field: str
    input: io.Input
    read: Callable[[Any], Any]


def _default(field: str) -> Any:
    return operator.attrgetter(field)(DEFAULT)


def _whole(name: str, field: str, tip: str, low: int = 0, high: int = 10000) -> Setting:
    given = {"default": _default(field), "min": low, "max": high, "tooltip": tip}
    return Setting(field, io.Int.Input(name, **given), lambda value: value)


def _number(name: str, field: str, tip: str, high: float, step: float) -> Setting:
    given = {"default": _default(field), "min": 0.0, "max": high, "step": step, "tooltip": tip}
    return Setting(field, io.Float.Input(name, **given), lambda value: value)


def _degrees(name: str, field: str, tip: str) -> Setting:
    return Setting(field, degrees_input(name, _default(field), tip), radians)


def _choice(name: str, field: str, tip: str, words: dict[str, Any]) -> Setting:
    """``words``: what the node says, and what it means."""
    said = next(word for word, value in words.items() if value == _default(field))
    socket = io.Combo.Input(name, options=list(words), default=said, tooltip=tip)
    # What comes by a link may be none of them, and is refused by its rule.
    return Setting(field, socket, lambda word: words[word] if word in list(words) else word)


def _yes(name: str, field: str, tip: str) -> Setting:
    given = {"default": _default(field), "tooltip": tip}
    return Setting(field, io.Boolean.Input(name, **given), lambda value: value)


def _plain_settings() -> list[Setting]:
    """What an artist may want to turn."""
    return [
        _whole("iterations", "iterations", "Gradient steps on the noise."),
        _whole(
            "first_draws", "candidates", "Draws per seed of which the best is the start.", low=1
        ),
        _whole(
            "quick_drafts",
            "draft_steps",
            "First draws are compared by drafts in so few steps (2 or more); 0: each in full.",
        ),
        _choice(
            "a_draft_is",
            "draft",
            "few steps: the whole picture, roughly. first steps: what the first few promise.",
            {name: name for name in DRAFTS},
        ),
        _whole("tries_nearby", "neighbors", "Then so many tries nearby, without a gradient."),
        _degrees("how_far_degrees", "neighbor_angle", "How far those are; at 90 anywhere."),
        _number(
            "likeness_what_it_is",
            "weights.semantic",
            "How much it counts that the encoder sees what the references show.",
            *(1e4, 0.1),
        ),
        _choice(
            "pull_towards",
            "towards",
            "The centre of all references, or the nearest two: for few that differ much.",
            {"the centre": CENTROID, "the nearest": NEAREST},
        ),
        _number(
            "likeness_how_it_looks",
            "weights.appearance",
            "How much it counts that colours and layout are theirs too.",
            *(1e4, 0.1),
        ),
        _number(
            "keep_noise_natural",
            "weights.norm",
            "How much it counts that the noise is as long as Gaussian noise.",
            *(1e4, 0.001),
        ),
        _number(
            "keep_away",
            "weights.contrast",
            "How much the pictures of 'contrast' push away, where they are connected.",
            *(1e4, 0.1),
        ),
        Setting(
            "target",
            io.Boolean.Input(
                "stop_when_as_near",
                default=bool(DEFAULT.target),
                tooltip="A seed is done when it is as near to the references as they are.",
            ),
            lambda on: float(on) if isinstance(on, bool) else on,
        ),
    ]


def _fine_settings() -> list[Setting]:
    """What only who knows the method will turn."""
    return [
        _number(
            "learning_rate", "learning_rate", "A step, as a share of the noise.", *(100.0, 0.001)
        ),
        _choice(
            "optimizer",
            "optimizer",
            "adamw, or sgd with Nesterov momentum, for which the gradient's size counts.",
            {name: name for name in OPTIMIZERS},
        ),
        _choice(
            "schedule",
            "schedule",
            "Learning rate over the run; published: a tenth after three iterations.",
            {name: name for name in SCHEDULES},
        ),
        _number("weight_decay", "weight_decay", "Of adamw: PyTorch's is 0.01.", *(1.0, 0.001)),
        _yes("white_gradient", "white", "Steps are like noise, so that the noise stays like it."),
        _number("clip_norm", "clip_norm", "Largest gradient of a seed; 0: no limit.", 1000.0, 0.01),
        Setting(
            "weights.steps",
            io.String.Input(
                "step_weights",
                default=", ".join(str(weight) for weight in DEFAULT.weights.steps),
                tooltip="What it is, on the last denoising steps, last one last; they sum to 1.",
            ),
            _numbers,
        ),
        _whole(
            "compare_shifted_copies",
            "views",
            "The encoder compares so many slightly moved copies of each picture.",
            *(1, 64),
        ),
        _choice(
            "hold_the_noise",
            "shell",
            "After each step put the noise back to its usual length, or not at all.",
            {"not at all": "free", "as a whole": "sphere", "by channel": "channels"},
        ),
        _whole(
            "go_back_after",
            "rollback",
            "So many iterations that a second opinion refuses, and a seed goes back to its best.",
        ),
        _whole("patience", "patience", "Stop after so many iterations in vain; 0: never."),
    ]


def _gradient_settings() -> list[Setting]:
    """What "last steps" brings along; "exact" is all of them."""
    return [
        _whole("last_steps", "gradient_steps", "Those that the gradient goes through.", low=1),
    ]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in str(text).split(","))
    except ValueError:
        return ()  # refused with the rule for it


def degrees_input(name: str, radians: float, tip: str) -> io.Float.Input:
    """An angle that is at most a right one, shown in degrees."""
    degrees = round(math.degrees(radians))
    return io.Float.Input(name, default=degrees, min=1.0, max=90.0, step=1.0, tooltip=tip)


def radians(degrees: Any) -> Any:
    """An angle for the core; what is no number goes on, and is refused there."""
    return math.radians(degrees) if is_number(degrees) else degrees


def preset_input(tip: str) -> io.Combo.Input:
    """How thorough a search is, for nodes that have no settings of their own."""
    return io.Combo.Input("preset", options=list(PRESETS), default="default", tooltip=tip)


def settings_input() -> io.DynamicCombo.Input:
    """The preset, of which "custom" brings along every value of `Settings`."""
    groups = (_plain_settings, _gradient_settings, _fine_settings)
    plain, last, fine = ([setting.input for setting in group()] for group in groups)
    option = io.DynamicCombo.Option
    gradient = io.DynamicCombo.Input(
        "gradient",
        options=[option("last steps", last), option("exact", [])],
        tooltip="Through the last denoising steps, or exact, through all of them.",
    )
    tuning = io.DynamicCombo.Input(
        "fine_tuning",
        options=[option("as usual", []), option("my own", fine)],
        tooltip="Optimizer and losses as in 'default', or as you set them.",
    )
    return io.DynamicCombo.Input(
        "preset",
        options=[
            *(option(name, []) for name in PRESETS),
            option(CUSTOM, [*plain, gradient, tuning]),
        ],
        tooltip=(
            "How thorough the search is. default: what works best here. paper: the published "
            "settings. custom: your own."
        ),
    )


def settings_of(preset: str, values: dict) -> Settings:
    """Those of the preset, or for "custom" what `settings_input` brought along."""
    memory = values.get("memory", AUTOMATIC)
    if preset != CUSTOM:
        return replace(PRESETS[preset], memory=memory)
    own = {"memory": memory, "gradient_steps": 0}
    named = {}
    for setting in [*_plain_settings(), *_gradient_settings(), *_fine_settings()]:
        name = setting.input.id
        named[setting.field] = name
        if name in values:
            own[setting.field] = setting.read(values[name])
    weights = {
        field.removeprefix(WEIGHT): own.pop(field) for field in [*own] if field.startswith(WEIGHT)
    }
    try:
        return replace(DEFAULT, **own, weights=replace(DEFAULT.weights, **weights))
    except SeedSelectError as error:
        raise SeedSelectError(_in_words_of_the_node(str(error), named)) from None


def _in_words_of_the_node(told: str, named: dict[str, str]) -> str:
    """An error of `Settings` with the names of inputs; ``named``: those of the fields."""
    fields, _, rule = told.partition(": ")
    names = {
        f"{field.removeprefix(WEIGHT)}_weight" if field.startswith(WEIGHT) else field: name
        for field, name in named.items()
    }
    return f"{', '.join(names.get(field, field) for field in fields.split(', '))}: {rule}"
