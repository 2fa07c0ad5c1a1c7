"""What is not a number is refused, or traced to the input that it comes from first."""

import math
from dataclasses import replace

import comfy.samplers
import pytest
import torch

import tiny
from seedselect_core.chain import finite
from seedselect_core.chain.sampling import draw_references, sample_from_seed
from seedselect_core.errors import SeedSelectError, is_number, is_whole
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.search.optimize import optimize_noise
from seedselect_core.search.settings import Settings
from seedselect_core.seeds.seed import Seed
from seedselect_core.sets.bootstrap import SetSettings

NAN = math.nan
NUMBERS = ("learning_rate", "clip_norm", "neighbor_angle", "target", "weight_decay")
WHOLE = ("iterations", "views", "candidates", "draft_steps", "neighbors", "gradient_steps")
WHOLE += ("patience", "rollback")
WEIGHTS = ("semantic", "appearance", "norm", "contrast")


# --- settings -------------------------------------------------------------------------------------


def test_every_number_of_the_settings_is_tried_below():
    plain = Settings()
    numbers = {name for name, value in vars(plain).items() if is_number(value)}
    assert numbers == {*NUMBERS, *WHOLE}
    assert {name for name, value in vars(plain.weights).items() if is_number(value)} == {*WEIGHTS}


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, "1", None, True], ids=str)
@pytest.mark.parametrize("name", [*NUMBERS, *WHOLE])
def test_a_setting_that_is_not_a_number_is_named(name, value):
    with pytest.raises(SeedSelectError, match=f"^{name}: must be a"):
        Settings(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_part_of_a_number_is_not_a_whole_one(name):
    with pytest.raises(SeedSelectError, match=f"^{name}: must be a whole number"):
        Settings(**{name: 2.5})


@pytest.mark.parametrize("value", [NAN, math.inf, "1", None], ids=str)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_is_not_a_number_is_named(name, value):
    with pytest.raises(SeedSelectError, match=f"^{name}_weight: must be a number"):
        Settings().reweighted(**{name: value})


@pytest.mark.parametrize("steps", [(NAN,), (0.5, NAN), (math.inf, 1.0), (-math.inf, math.inf)])
def test_weights_of_steps_that_are_not_numbers_are_named(steps):
    with pytest.raises(SeedSelectError, match=r"^step_weights: must be"):
        Settings().reweighted(steps=steps)


@pytest.mark.parametrize("name", ["count", "subset", "angle", "iterations", "min_distance"])
def test_a_set_of_what_is_not_a_number_is_named(name):
    for value in (NAN, math.inf):
        with pytest.raises(SeedSelectError, match=f"^{name}: must be"):
            SetSettings(**{name: value})


def test_whole_numbers_and_numbers():
    assert is_whole(3) and not is_whole(True) and not is_whole(3.0)
    assert is_number(3) and is_number(0.5) and not is_number(NAN) and not is_number("3")


# --- runs -----------------------------------------------------------------------------------------


def bad_model(graph):
    graph.model.set_model_unet_function_wrapper(lambda apply, given: NAN * given["input"])


def bad_weights(graph):
    with torch.inference_mode():
        next(graph.model.model.diffusion_model.parameters()).view(-1)[0] = NAN


def bad_prompt(graph):
    with torch.inference_mode():
        graph.negative[0][0][0, 0, 0] = NAN


def bad_vae(graph):
    with torch.inference_mode():
        graph.vae.first_stage_model.decoder.conv_out.bias[0] = NAN


def bad_encoding(graph):
    with torch.inference_mode():
        graph.vae.first_stage_model.encoder.conv_in.bias[0] = NAN


def bad_encoder(graph):
    with torch.inference_mode():
        next(graph.encoder.clip_vision.model.parameters()).view(-1)[0] = NAN


def bad_latent(graph):
    graph.inputs["latent"] = {"samples": torch.full((1, 4, 8, 8), NAN)}


def bad_mask(graph):
    graph.inputs["latent"] = tiny.latent() | {"noise_mask": torch.full((1, 1, 8, 8), NAN)}


CULPRITS = {
    "^model: what it predicts": bad_model,
    "^model: its weights": bad_weights,
    "^negative: ": bad_prompt,
    "^vae: the picture": bad_vae,
    "^vae: what it makes of the references": bad_encoding,
    "^clip_vision: what it gives for the references": bad_encoder,
    "^latent: it holds": bad_latent,
    "^latent: its noise mask": bad_mask,
}


@pytest.mark.parametrize("message", CULPRITS)
def test_the_first_that_is_not_a_number_is_named(message):
    graph = tiny.Graph()
    CULPRITS[message](graph)
    with pytest.raises(SeedSelectError, match=message):
        tiny.optimize(graph)


@pytest.mark.parametrize("message", ["^model: what it predicts", "^vae: the picture"])
@pytest.mark.parametrize(
    "settings",
    [tiny.settings(iterations=0, candidates=2), tiny.settings(candidates=3, draft_steps=2)],
)
def test_it_is_named_where_no_gradient_is_taken(message, settings):
    graph = tiny.Graph()
    CULPRITS[message](graph)
    with pytest.raises(SeedSelectError, match=message):
        tiny.optimize(graph, settings=settings)


@pytest.mark.doubts
def test_a_wrong_number_is_not_taken_for_a_wrong_gradient():
    graph = tiny.Graph()
    bad_model(graph)
    notes = []
    with pytest.raises(SeedSelectError, match=r"^model: what it predicts"):
        tiny.optimize(graph, on_note=notes.append)
    assert any("Nobody has tried" in note for note in notes)
    assert not any("without a gradient" in note for note in notes)


def test_a_sampler_that_spoils_numbers_is_named():
    graph = tiny.Graph()
    real = comfy.samplers.sampler_object("euler")

    def spoils(model, x, sigmas, **more):
        return real.sampler_function(model, x, sigmas, **more) * NAN

    scene = graph.scene().custom(tiny.SAMPLING)
    denoising = replace(scene.denoising, sampler=comfy.samplers.KSAMPLER(spoils))
    with torch.inference_mode(), pytest.raises(SeedSelectError, match=r"^sampler: "):
        optimize_noise(replace(scene, denoising=denoising), tiny.SAMPLING, tiny.SETTINGS)


def test_an_encoder_that_has_no_numbers_for_the_picture_alone_is_named():
    class Picky(ClipVisionEncoder):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            return super().__call__(images) * (NAN if self.calls > 2 else 1.0)

    graph = tiny.Graph(encoder=Picky(tiny.clip_vision()))
    with pytest.raises(SeedSelectError, match=r"^clip_vision: what it gives for a picture"):
        tiny.optimize(graph)


class _NoSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * NAN


def spoil_slope(module: torch.nn.Module) -> None:
    module.register_forward_hook(lambda module, args, output: _NoSlope.apply(output))


GRADIENTS = {
    "^model: its gradient": lambda graph: graph.model.model.diffusion_model.out,
    "^vae: its gradient": lambda graph: graph.vae.first_stage_model.decoder.conv_out,
    "^clip_vision: its gradient": lambda graph: graph.encoder.clip_vision.model.visual_projection,
}


@pytest.mark.parametrize("message", GRADIENTS)
def test_the_first_whose_gradient_is_not_a_number_is_named(message):
    graph = tiny.Graph()
    spoil_slope(GRADIENTS[message](graph))
    with pytest.raises(SeedSelectError, match=message + ".*The best seed so far is kept"):
        tiny.optimize(graph)


def test_a_learning_rate_that_takes_the_noise_away_is_named():
    settings = tiny.settings(learning_rate=1e38, optimizer="sgd")
    with pytest.raises(SeedSelectError, match=r"^learning_rate: "):
        tiny.optimize(tiny.Graph(), settings=settings)


def test_weights_beyond_all_numbers_are_named():
    settings = tiny.settings(semantic_weight=1e39)
    with pytest.raises(SeedSelectError, match=r"^likeness_what_it_is, .*beyond all numbers"):
        tiny.optimize(tiny.Graph(), settings=settings)


def test_a_noise_that_is_not_a_number_is_named():
    start = Seed(torch.full((1, 4, 8, 8), NAN), tiny.SAMPLING, "TinyLatent")
    with pytest.raises(SeedSelectError, match=r"^noise: "):
        tiny.optimize(tiny.Graph(), start=start)


def test_nobody_looks_at_the_predictions_of_an_ordinary_run(monkeypatch):
    """An accelerator would have to wait for each."""
    looks = []
    monkeypatch.setattr(finite, "is_finite", lambda tensor: looks.append(tensor) or True)
    tiny.optimize(tiny.Graph())
    assert looks == []


# --- samplers that would not end ------------------------------------------------------------------

ENDLESS = replace(tiny.SAMPLING, sampler_name="dpm_adaptive")


def no_numbers_after(graph, calls: int) -> list:
    """Let the model give NaN from a call on; a list that grows with the calls."""
    made = []

    def wrapper(apply, given):
        made.append(1)
        assert len(made) < 200, "it does not end"
        prediction = apply(given["input"], given["timestep"], **given["c"])
        return prediction * (NAN if len(made) > calls else 1.0)

    graph.model.set_model_unet_function_wrapper(wrapper)
    return made


@pytest.mark.parametrize("calls", [0, 7])
@pytest.mark.parametrize("iterations", [0, 2])
def test_a_search_ends_where_the_sampler_would_not(calls, iterations):
    graph = tiny.Graph()
    made = no_numbers_after(graph, calls)
    with pytest.raises(SeedSelectError, match=r"^model: what it predicts"):
        tiny.optimize(graph, ENDLESS, tiny.settings(iterations=iterations))
    assert len(made) < 200


@pytest.mark.parametrize("calls", [0, 7])
def test_plain_pictures_end_where_the_sampler_would_not(calls):
    graph = tiny.Graph()
    no_numbers_after(graph, calls)
    model = (graph.model, graph.positive, graph.negative)
    with torch.inference_mode():
        with pytest.raises(SeedSelectError, match=r"^model: what it predicts"):
            draw_references(*model, graph.vae, graph.latent, ENDLESS, 2)
        with pytest.raises(SeedSelectError, match=r"^model: what it predicts"):
            sample_from_seed(*model, Seed(tiny.normal(1, 4, 8, 8), ENDLESS))


def test_an_adaptive_sampler_of_numbers_is_left_alone():
    graph = tiny.Graph()
    seed, _, _ = tiny.optimize(graph, ENDLESS, tiny.settings(iterations=1))
    assert seed.semantic[0] <= seed.first_semantic[0]
