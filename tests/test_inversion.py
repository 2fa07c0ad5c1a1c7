"""Inversion: the solver on functions known by hand, and pictures through the host's own classes."""

import comfy.hooks
import comfy.latent_formats
import comfy.model_management
import pytest
import torch

import tiny
from pocket.references import letter_pictures
from seedselect_core.chain.inversion import INVERTIBLE, STALL, Refinement, invert_images, solve_step
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.errors import SeedSelectError
from seedselect_core.pocket import load_pocket_model
from seedselect_core.seeds.seed import SamplingSettings, Seed


class Counted:
    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return self.function(x)


# --- one step -------------------------------------------------------------------------------------


def test_one_refinement_is_plain_ddim_inversion():
    y = tiny.normal(2, 3, 4)
    step = Counted(lambda x: 0.5 * x + 1)
    torch.testing.assert_close(solve_step(step, y, Refinement(1, 1e-6)), y + (y - (0.5 * y + 1)))
    assert step.calls == 1


@pytest.mark.parametrize("slopes", [(0.5, 0.9), (-0.5, 2.5), (0.3, -1.0)])
def test_steps_are_inverted_where_plain_iteration_diverges(slopes):
    # x + (y - F(x)) grows without bounds where a slope is not between 0 and 2.
    slope = torch.tensor(slopes).repeat(8)
    y = tiny.normal(3, 16)
    step = Counted(lambda x: slope * x + 0.01 * torch.sin(x))
    x = solve_step(step, y, Refinement(100, 1e-5))
    error = (step(x) - y).square().mean(1).sqrt() / y.square().mean(1).sqrt()
    assert error.max() < 2e-5 and step.calls < 60


def test_pictures_do_not_depend_on_each_other():
    y = tiny.normal(2, 16)

    def step(x):
        return 0.3 * x + torch.tanh(x)

    together = solve_step(step, y, Refinement(8, 0.0))
    alone = torch.cat([solve_step(step, row[None], Refinement(8, 0.0)) for row in y])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


def test_the_best_guess_is_kept_where_there_is_no_answer():
    y = torch.tensor([[-1.0, 2.0], [1.0, 2.0]])

    def step(x):  # never below 0.5 in its first value
        return torch.stack([x[:, 0].square() + 0.5, 0.5 * x[:, 1]], 1)

    x = solve_step(step, y, Refinement(200, 1e-6))
    residual = (y - step(x)).norm(dim=1)
    assert residual[0] < 1.8 and residual[1] < 1e-5  # 1.5 at best, 3.5 where it starts


def test_values_that_are_no_number_are_stepped_back_from():
    y = torch.tensor([[1.0, 4.0]])
    x = solve_step(
        lambda x: torch.sqrt(x) if (x >= 0).all() else x * torch.nan, y, Refinement(80, 1e-5)
    )
    assert torch.isfinite(x).all()
    assert (y - torch.sqrt(x)).norm() < (y - torch.sqrt(y)).norm()


def test_search_ends_when_done_and_when_nothing_helps():
    done = Counted(lambda x: x)
    solve_step(done, tiny.normal(2, 4), Refinement(50, 1e-4))
    assert done.calls == 1
    stuck = Counted(lambda x: torch.zeros_like(x))
    solve_step(stuck, tiny.normal(2, 4), Refinement(50, 1e-4))
    assert stuck.calls == STALL + 1
    counts = []
    solve_step(lambda x: 0.5 * x, tiny.normal(2, 4), Refinement(3, 0.0), counts.append)
    assert counts == [1, 2, 3]


# --- pictures -------------------------------------------------------------------------------------


@torch.inference_mode()
def pictures(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(9))


def invert(images=None, sampling=tiny.SAMPLING, model=None, vae=None, negative=None, **more):
    with torch.inference_mode():
        return invert_images(
            model or tiny.model(),
            tiny.conditioning(1),
            negative or tiny.conditioning(2),
            vae or tiny.vae(),
            pictures() if images is None else images,
            sampling,
            **more,
        )


def sample(seed: Seed, model=None) -> torch.Tensor:
    with torch.inference_mode():
        return sample_from_seed(
            model or tiny.model(), tiny.conditioning(1), tiny.conditioning(2), seed
        )["samples"]


@pytest.mark.parametrize("prediction", ["V_PREDICTION", "FLOW"])
@pytest.mark.parametrize("sampler", INVERTIBLE)
def test_sampling_the_seed_gives_the_picture_again(prediction, sampler):
    sampling = SamplingSettings(3, 1.5, sampler, "normal", 5)
    model = tiny.model(prediction)
    found = invert(sampling=sampling, model=model, refinement=Refinement(60, 1e-5))
    with torch.inference_mode():
        wanted = tiny.vae().encode(pictures())
    assert found.relative.shape == (2,) and found.relative.max() < 5e-3
    again = sample(found.seed, model)
    torch.testing.assert_close(again, found.latent["samples"])
    torch.testing.assert_close(again, wanted, atol=0.02, rtol=0.02)
    # The errors are in the model's space, half of the VAE's for this model.
    rmse = 0.5 * (again - wanted).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(found.rmse, rmse, atol=1e-5, rtol=1e-3)
    assert not found.seed.noise.is_inference() and found.seed.noise.dtype == torch.float32


def test_a_reference_of_the_pocket_model_is_drawn_again():
    # A random model that predicts noise undoes nothing; a trained one is needed for that kind.
    model, clip, vae, _ = load_pocket_model()
    image = torch.from_numpy(letter_pictures("S", 1)) / 255
    with torch.inference_mode():
        prompts = [
            clip.encode_from_tokens_scheduled(clip.tokenize(text))
            for text in ("a red letter S on yellow", "")
        ]
        sampling = SamplingSettings(10, 3.0, "ddim", "normal", 0)
        errors = [
            invert_images(
                model, *prompts, vae, image, sampling, refinement=Refinement(n)
            ).relative.item()
            for n in (1, 20)
        ]
    assert errors[0] > 0.3 and errors[1] < 0.005


def test_noise_comes_back_from_its_own_picture(monkeypatch):
    noise = tiny.normal(2, 4, 8, 8, seed=3)
    sampling = SamplingSettings(4, 1.0, "ddim", "karras", 5)
    drawn = sample(Seed(noise, sampling))
    vae = tiny.vae()
    monkeypatch.setattr(vae, "encode", lambda images: drawn)  # what no VAE does so exactly
    found = invert(sampling=sampling, vae=vae, refinement=Refinement(60, 1e-6))
    assert torch.cosine_similarity(found.seed.noise.flatten(1), noise.flatten(1)).min() > 0.98
    assert found.relative.max() < 1e-3


def test_refinements_are_what_makes_it_exact():
    sampling = SamplingSettings(3, 1.5, "euler", "normal", 5)
    model = tiny.model("V_PREDICTION")
    plain, refined = (
        invert(sampling=sampling, model=model, refinement=Refinement(n)) for n in (1, 30)
    )
    assert (refined.rmse < 0.2 * plain.rmse).all()
    # 3 steps back and 3 forth, 2 pictures.
    assert plain.seed.evaluations == 12 < refined.seed.evaluations
    assert refined.seed.sampling == sampling
    assert refined.seed.latent_format == "TinyLatent" and refined.seed.semantic == []


def test_progress_ends_where_it_was_planned_and_can_cancel():
    calls = []
    invert(refinement=Refinement(4), on_step=lambda *call: calls.append(call))
    done = [d for d, _ in calls]
    assert done == sorted(done) and calls[-1] == (15, 15)

    def cancel(done, planned):
        raise comfy.model_management.InterruptProcessingException()

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        invert(on_step=cancel)


def test_pictures_are_cropped_to_what_the_vae_can_encode():
    assert invert(pictures(1, 17), refinement=Refinement(1)).seed.noise.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("ddim, euler, heun", {"sampling": tiny.SAMPLING.override(sampler_name="dpmpp_2m")}),
        ("ddim, euler, heun", {"sampling": tiny.SAMPLING.override(sampler_name="euler_ancestral")}),
        ("image: 1 x 1", {"images": torch.zeros(1, 1, 1, 3)}),
        ("^image: picture 1 of 1 holds", {"images": torch.full((1, 16, 16, 3), torch.nan)}),
    ],
)
def test_what_does_not_fit_is_named(message, changes):
    with pytest.raises(SeedSelectError, match=message):
        invert(**changes)


def test_no_refinement_is_named():
    with pytest.raises(SeedSelectError, match=r"^refinements: must be a whole number of 1 or more"):
        Refinement(0)


def test_a_model_that_gives_no_numbers_is_named():
    model = tiny.model()
    model.set_model_unet_function_wrapper(lambda apply, given: torch.nan * given["input"])
    with pytest.raises(SeedSelectError, match=r"^model: what it predicts"):
        invert(model=model)


def test_a_vae_of_another_model_is_named():
    with pytest.raises(SeedSelectError, match=r"^vae: its latents have 4 channels, the model's 16"):
        invert(model=tiny.model(latent_format=comfy.latent_formats.SD3))


def test_hooks_with_keyframes_are_refused():
    hook = comfy.hooks.WeightHook(1.0, 1.0)
    hook.hook_keyframe.add(comfy.hooks.HookKeyframe(0.5, 0.3))
    group = comfy.hooks.HookGroup()
    group.add(hook)
    with pytest.raises(SeedSelectError, match="negative: hooks"):
        invert(negative=tiny.conditioning(2, hooks=group))
