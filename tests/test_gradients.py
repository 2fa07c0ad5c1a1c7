"""Gradients of the whole chain against central differences, sampler by sampler.

Everything runs in float64: the tiny model is one of float64, and `tiny.exact` keeps the host from
rounding its predictions to float32 on the way. A central difference with step h = 1e-4 is then
wrong by about h^2 = 1e-8 (truncation) and 1e-16 / h = 1e-12 (rounding), so that agreement to 1e-6
leaves no room for a missing path.
"""

import comfy.samplers
import pytest
import tiny
import torch

from seedselect_core.encoders import VaeCodec
from seedselect_core.errors import SeedSelectError
from seedselect_core.host.differentiable_samplers import PROVEN
from seedselect_core.objective import Objective
from seedselect_core.optimize import optimize_seed
from seedselect_core.seed import SamplingSettings
from seedselect_core.targets import build_targets
from seedselect_core.unroll import unrolled_sampling

H, TOLERANCE = 1e-4, 1e-6
# Flow models take other ways through some samplers (sample_euler_ancestral_RF).
PREDICTIONS = ("EPS", "V_PREDICTION", "FLOW")
STEPS = 4  # enough for the third order of uni_pc


@pytest.fixture(scope="module")
def models():
    return {kind: tiny.model(kind, torch.float64) for kind in PREDICTIONS}


@torch.inference_mode()
def within(model, search, sampler="euler", scheduler="normal", cfg=3.0, batch=1, **latents):
    """Run ``search(chain, noise)``, with the noise in float64, where the host's guider samples."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(
        latents.get("positive", tiny.conditioning(1)), latents.get("negative", tiny.conditioning(2))
    )
    guider.set_cfg(cfg)
    ksampler = comfy.samplers.KSampler(model, STEPS, model.load_device, sampler, scheduler)
    samples = latents.get("samples", torch.zeros(batch, 4, 8, 8))
    found = []

    def recorded(chain, noise):
        found.append(search(chain, noise.double()))
        return noise

    with tiny.exact():
        unrolled_sampling(
            guider,
            comfy.samplers.sampler_object(sampler),
            ksampler.sigmas.double(),
            tiny.normal(*samples.shape, seed=7),
            samples,
            recorded,
            patchers=latents.get("patchers", ()),
            noise_mask=latents.get("noise_mask"),
            seed=11,
        )
    return found[0]


def relative_errors(f, noise: torch.Tensor, directions: int) -> list[float]:
    """Of the directional derivatives of the scalar ``f``, against central differences."""
    z = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z), z)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    errors = []
    for i in range(directions):
        direction = tiny.normal(*noise.shape, seed=20 + i).double()
        direction = direction / direction.norm()
        with torch.no_grad():
            quotient = (f(noise + H * direction) - f(noise - H * direction)).item() / (2 * H)
        # Relative to the slope that a random direction has; this one's own may be near zero.
        usual = gradient.norm().item() / gradient.numel() ** 0.5
        errors.append(abs((gradient * direction).sum().item() - quotient) / usual)
    return errors


def probed(chain, keep: int):
    """All kept predictions with random weights, as one number."""

    def value(z):
        kept = chain(z, keep=keep)
        assert len(kept) == keep
        weights = (tiny.normal(*z.shape, seed=30 + i).double() for i in range(keep))
        return sum((w * x.tanh()).sum() for w, x in zip(weights, kept, strict=True))

    return value


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", PROVEN)
def test_gradient_of_every_sampler(models, sampler, prediction):
    def search(chain, noise):
        return relative_errors(probed(chain, keep=3), noise, directions=2)

    errors = within(models[prediction], search, sampler)
    print(f"relative error: {max(errors):.1e}")
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_gradient_with_every_scheduler(models, scheduler):
    def search(chain, noise):
        return relative_errors(probed(chain, keep=1), noise, directions=1)

    assert max(within(models["EPS"], search, scheduler=scheduler)) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_gradient_of_inpainting(models, sampler):
    """The noise enters every model call here, not only the first."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0

    def search(chain, noise):
        return relative_errors(probed(chain, keep=2), noise, directions=2)

    samples = tiny.normal(1, 4, 8, 8, seed=8)
    errors = within(models["EPS"], search, sampler, samples=samples, noise_mask=mask)
    assert max(errors) < TOLERANCE


@pytest.mark.parametrize("views", [1, 3])
def test_gradient_of_the_whole_objective(models, monkeypatch, views):
    """Through VAE, CLIP vision, appearance and norm prior, on three weighted denoising steps."""
    graph = tiny.Graph(model=models["EPS"], latent=tiny.latent(2))
    settings = tiny.settings(
        semantic_weight=10.0,
        appearance_weight=1.0,
        norm_weight=0.5,
        step_weights=(0.05, 0.25, 0.7),
    )
    codec = VaeCodec(graph.vae)
    with torch.inference_mode():
        base = graph.model.model
        targets = build_targets(
            graph.references, graph.encoder, codec, base.process_latent_in, 16, 16, views
        )
        # Less contrast: clipping would make the gradient one-sided, which it is meant to be.
        graph.vae.first_stage_model.decoder.conv_out.weight.mul_(0.3)
    graph.vae.first_stage_model.double()
    graph.vae.vae_dtype = torch.float64
    graph.encoder.clip_vision.model.double()
    objective = Objective(graph.encoder, codec, targets, settings, base.process_latent_out)
    # The host rounds pictures to 8 bits before CLIP, so that its values are steps. The gradient
    # passes straight through them; here the host is made not to round.
    monkeypatch.setattr(torch.Tensor, "round", lambda self: self)

    def search(chain, noise):
        def value(z):
            losses = objective(z, chain(z, keep=3))
            assert 0 < losses.images.min() and losses.images.max() < 1
            return losses.total.sum()

        return relative_errors(value, noise, directions=2)

    patchers = [graph.vae.patcher, graph.encoder.patcher]
    assert max(within(graph.model, search, patchers=patchers)) < TOLERANCE


def test_noise_of_stochastic_samplers_is_the_same_in_every_run(models):
    def search(chain, noise):
        with torch.no_grad():
            runs = [chain(noise)[-1] for _ in range(2)]
        recorded = chain(noise.clone().requires_grad_())[-1]
        return [*runs, recorded.detach()]

    for sampler in ("euler_ancestral", "dpmpp_2m_sde", "lcm"):
        first, second, recorded = within(models["EPS"], search, sampler)
        assert torch.equal(first, second)
        assert torch.equal(first, recorded)


OTHERS = [name for name in comfy.samplers.SAMPLER_NAMES if name not in PROVEN]


@pytest.mark.parametrize("sampler", OTHERS)
def test_other_samplers_are_refused_by_name_before_any_work(sampler, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("work was done")

    monkeypatch.setattr("comfy.model_management.load_models_gpu", refuse)
    graph = tiny.Graph(model=None, vae=None, encoder=None, latent=None)
    settings = SamplingSettings(3, 3.0, sampler, "normal", 0)
    with pytest.raises(SeedSelectError, match=f"'{sampler}'") as error:
        optimize_seed(**graph.inputs, sampling=settings, settings=tiny.SETTINGS)
    assert all(name in str(error.value) for name in PROVEN)


def test_samplers_of_other_makes_are_refused(models):
    class Foreign(comfy.samplers.Sampler):
        pass

    guider = comfy.samplers.CFGGuider(models["EPS"])
    with pytest.raises(SeedSelectError, match="Foreign"):
        unrolled_sampling(guider, Foreign(), torch.ones(2), None, None, None)


def test_the_issue_asks_for_these_samplers():
    asked = "euler ddim euler_ancestral heun dpmpp_2m dpmpp_2m_sde lcm uni_pc"
    assert set(PROVEN) == set(asked.split())
