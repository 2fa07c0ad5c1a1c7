"""What is said of a model that was distilled to need no guidance, on the host's own classes."""

import types

import comfy.model_sampling
import comfy.supported_models
import pytest
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import tiny
from seedselect_core.host.families import MAYBE_DISTILLED, advice


def of_family(name: str, **unet_config):
    """Of a MODEL of this family as much as tells what it is."""
    config = getattr(comfy.supported_models, name)({"hidden_size": 64} | unet_config)
    sampling = comfy.model_sampling.ModelSamplingFlux()
    model = types.SimpleNamespace(model_config=config)
    return types.SimpleNamespace(model=model, get_model_object=lambda name: sampling)


DISTILLED = {
    "Flux": ({"guidance_embed": True}, ["cfg 7", "set cfg to 1", "FluxGuidance"]),
    "FluxSchnell": ({"guidance_embed": False}, ["cfg 7", "cfg 1, 4 steps"]),
    "Flux2": ({}, ["klein", "set cfg to 1", "steps to 4"]),
    "ZImage": ({}, ["Turbo", "set cfg to 1", "steps to 9"]),
}


@pytest.mark.parametrize("name", DISTILLED)
def test_a_distilled_family_gets_the_right_values(name):
    config, words = DISTILLED[name]
    model = of_family(name, **config)
    told = advice(model, 7.0)
    assert all(word in told for word in words), told
    assert advice(model, 1.0) == ""


def test_lcm_is_noticed_by_its_sampling():
    (model,) = ModelSamplingDiscrete().patch(tiny.model(), "lcm", False)
    told = advice(model, 7.0)
    assert "cfg 7" in told and "LCM takes cfg 1 to 2, 4 to 8 steps" in told
    assert advice(model, 1.5) == ""


def test_other_models_get_none():
    assert advice(tiny.model(), 7.0) == ""
    assert advice(of_family("SDXL"), 7.0) == ""
    assert advice(of_family("Flux2", guidance_embed=True), 3.5) != ""


def test_every_name_is_one_of_the_host():
    assert all(hasattr(comfy.supported_models, name) for name in MAYBE_DISTILLED)
