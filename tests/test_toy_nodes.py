"""The nodes of the toy models: which there are, what they load, and the hands' references."""

import pytest
import torch

import tiny
from pocket.hands.references import hand_pictures


@pytest.fixture
def module(nodes):
    return nodes("pocket")


def test_letters_and_hands_are_offered(module):
    (world,) = module.LoadPocketModel.define_schema().inputs
    assert world.options == ["letters", "hands"]
    with pytest.raises(ValueError, match=r"^world: must be one of letters, hands\.$"):
        tiny.run_node(module.LoadPocketModel, world="feet")


def test_a_prompt_without_a_world_means_the_letters(module):
    model = tiny.run_node(module.LoadPocketModel).args[0].model
    assert model.latent_format.spacial_downscale_ratio == 8


def test_hands_draw_pictures_of_64_pixels_from_the_hosts_empty_latent(module):
    import comfy.sample

    model, clip, vae, vision, second = tiny.run_node(module.LoadPocketModel, world="hands").args
    with torch.inference_mode():
        empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, 8, 8), 8)
        assert empty.shape == (1, 4, 16, 16)
        assert vae.decode(empty).shape == (1, 64, 64, 3)
        tokens = clip.tokenize("a left hand, palm, horns, on blue")
        assert clip.encode_from_tokens(tokens).shape == (1, 16, 128)
        images = torch.rand(1, 64, 64, 3)
        seen = [each.encode_image(images)["image_embeds"] for each in (vision, second)]
    assert seen[0].shape != seen[1].shape or not torch.equal(*seen)


def test_each_toy_model_is_judged_by_its_own_encoder(module, nodes):
    images = torch.rand(1, 64, 64, 3)
    chosen = {}
    for world in ("letters", "hands"):
        model, _, _, vision, _ = tiny.run_node(module.LoadPocketModel, world=world).args
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
