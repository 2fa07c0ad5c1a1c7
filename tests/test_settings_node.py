"""The preset of a search, and what "custom" brings along: every setting in an artist's words."""

import math
from dataclasses import asdict, fields

import pytest
from comfy_api.latest import io

from seedselect_core.search.presets import PRESETS
from seedselect_core.search.settings import Settings

# What stands beside the preset: how much memory to take changes nothing that is found.
APART = {"memory"}


@pytest.fixture
def module(nodes):
    return nodes("settings")


def chosen(socket: io.DynamicCombo.Input, **keys: str) -> dict:
    """The defaults of all inputs that come with these choices, side by side."""
    (option,) = (o for o in socket.options if o.key == keys.get(socket.id, socket.options[0].key))
    values = {socket.id: option.key}
    for item in option.inputs:
        if isinstance(item, io.DynamicCombo.Input):
            values |= chosen(item, **keys)
        else:
            values[item.id] = item.default
    return values


def of_defaults(module, **changes):
    values = chosen(module.settings_input(), preset="custom", fine_tuning="my own") | changes
    return module.settings_of(values["preset"], values)


def same(one, other) -> bool:
    return asdict(one) == asdict(other)


def test_every_setting_has_an_input_and_only_one(module):
    groups = module._plain_settings(), module._gradient_settings(), module._fine_settings()
    found = [setting.field for group in groups for setting in group]
    wanted = {f.name for f in fields(Settings)} - APART - {"weights"}
    wanted |= {f"weights.{f.name}" for f in fields(type(Settings().weights))}
    assert sorted(found) == sorted(wanted)


def test_a_new_custom_is_the_default_preset_but_for_whole_degrees(module):
    made = asdict(of_defaults(module))
    default = asdict(PRESETS["default"])
    angles = made.pop("neighbor_angle"), default.pop("neighbor_angle")
    assert made == default
    assert math.degrees(angles[0]) == pytest.approx(math.degrees(angles[1]), abs=0.5)
    usual = chosen(module.settings_input(), preset="custom")
    assert "learning_rate" not in usual
    assert same(module.settings_of("custom", usual), of_defaults(module))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_brings_nothing_along_and_is_what_it_was(module, preset):
    values = chosen(module.settings_input(), preset=preset)
    assert values == {"preset": preset}
    assert same(module.settings_of(preset, values), PRESETS[preset])
    assert module.settings_of(preset, {"memory": "by blocks"}).memory == "by blocks"


def test_words_and_degrees_are_what_the_core_calls_them(module):
    made = of_defaults(
        module,
        first_draws=5,
        how_far_degrees=90.0,
        likeness_how_it_looks=2.5,
        stop_when_as_near=True,
        hold_the_noise="by channel",
        step_weights="0.25, 0.75",
        last_steps=7,
    )
    assert made.candidates == 5 and made.neighbor_angle == pytest.approx(math.pi / 2)
    assert made.weights.appearance == 2.5 and made.weights.steps == (0.25, 0.75)
    assert (made.target, made.shell, made.gradient_steps) == (1.0, "channels", 7)


def test_the_exact_gradient_is_that_of_all_steps(module):
    values = chosen(module.settings_input(), preset="custom", gradient="exact")
    assert "last_steps" not in values
    assert module.settings_of("custom", values).gradient_steps == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"first_draws": 0}, "first_draws: must be a whole number of 1 or more, got 0"),
        ({"how_far_degrees": "x"}, "how_far_degrees: must be a number greater than 0, got x"),
        ({"stop_when_as_near": "x"}, "stop_when_as_near: must be a number"),
        ({"hold_the_noise": ["x"]}, "hold_the_noise: must be one of"),
        ({"step_weights": "half"}, "step_weights: must be numbers"),
        ({"keep_away": -1.0}, "keep_away: must be a number of 0 or more, got -1.0"),
        (
            {"likeness_what_it_is": 0.0, "likeness_how_it_looks": 0.0},
            "likeness_what_it_is, likeness_how_it_looks: must be such that one of them counts",
        ),
    ],
)
def test_what_a_link_may_bring_is_refused_by_the_name_of_its_input(module, changes, told):
    with pytest.raises(ValueError) as refused:
        of_defaults(module, **changes)
    assert str(refused.value).startswith(told)
