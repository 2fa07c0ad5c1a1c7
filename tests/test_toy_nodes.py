"""The nodes of the toy models: which there are, what they load, and the hands' references."""

import sys

import pytest
import torch

import tiny
from pocket.hands.references import hand_pictures
from seedselect_core.pocket import Toy


@pytest.fixture
def module(nodes):
    return nodes("pocket")


@pytest.fixture
def with_hands(module, monkeypatch, random_hands):
    """The nodes where the hands' weights are installed, with a model that has learned nothing."""
    monkeypatch.setattr(sys.modules[module.toys.__module__], "HANDS", random_hands)
    return module


@pytest.fixture
def without_hands(module, monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules[module.toys.__module__], "HANDS", Toy(tmp_path))
    return module


def worlds(module) -> list[str]:
    (world,) = module.LoadPocketModel.define_schema().inputs
    return world.options


def test_hands_are_offered_where_their_weights_are(with_hands):
    assert worlds(with_hands) == ["letters", "hands"]


def test_letters_are_offered_alone_where_they_are_not(without_hands):
    assert worlds(without_hands) == ["letters"]
    with pytest.raises(ValueError, match=r"^world: must be one of letters\.$"):
        tiny.run_node(without_hands.LoadPocketModel, world="hands")


def test_a_prompt_without_a_world_means_the_letters(with_hands):
    assert without_a_world(with_hands).latent_format.spacial_downscale_ratio == 8


def without_a_world(module):
    return tiny.run_node(module.LoadPocketModel).args[0].model


def test_hands_draw_pictures_of_64_pixels_from_the_hosts_empty_latent(with_hands):
    import comfy.sample

    model, clip, vae, vision, second = tiny.run_node(with_hands.LoadPocketModel, world="hands").args
    with torch.inference_mode():
        empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, 8, 8), 8)
        assert empty.shape == (1, 4, 16, 16)
        assert vae.decode(empty).shape == (1, 64, 64, 3)
        tokens = clip.tokenize("a left hand, palm, horns, on blue")
        assert clip.encode_from_tokens(tokens).shape == (1, 16, 128)
        images = torch.rand(1, 64, 64, 3)
        seen = [each.encode_image(images)["image_embeds"] for each in (vision, second)]
    assert seen[0].shape != seen[1].shape or not torch.equal(*seen)


def test_each_toy_model_is_judged_by_its_own_encoder(with_hands, nodes):
    images = torch.rand(1, 64, 64, 3)
    chosen = {}
    for world in ("letters", "hands"):
        model, _, _, vision, _ = tiny.run_node(with_hands.LoadPocketModel, world=world).args
        with torch.inference_mode():
            chosen[world] = nodes("encoders").image_encoder(None, model)(images)
            assert torch.equal(chosen[world], nodes("encoders").image_encoder(vision)(images))
    assert not torch.equal(chosen["letters"], chosen["hands"])


def test_references_of_hands_are_those_that_ship(module):
    drawn = tiny.run_node(
        module.HandReferences, gesture="horns", side="left", view="back", count=3
    ).args[0]
    shipped = torch.from_numpy(hand_pictures("horns", "left", "back", 3))
    assert torch.equal((drawn * 255).round().to(torch.uint8), shipped)


@pytest.mark.parametrize("wrong", ["gesture", "side", "view"])
def test_what_comes_by_a_link_and_names_no_hand_is_refused_in_words(module, wrong):
    given = {"gesture": "fist", "side": "left", "view": "palm", "count": 1} | {wrong: "sixth"}
    with pytest.raises(ValueError, match=f"^{wrong}: must be one of "):
        tiny.run_node(module.HandReferences, **given)
