"""Gradients of the whole chain against central differences.

Everything runs in float64: the tiny model is one of float64, and `in_double` keeps the host from
rounding on the way. A central difference is then wrong by about 1e-8, so that agreement to 1e-6
leaves no room for a missing path. `make coverage` measures every sampler in every way of
predicting, and much more.
"""

import functools

import comfy.samplers
import pytest
import torch

import tiny
from gradients.double import in_double
from gradients.measure import gradient_error, probed, relative_errors
from gradients.samplers import PREDICTIONS, STEPS, graph
from seedselect_core.chain.unroll import Denoising, unrolled_sampling
from seedselect_core.errors import SeedSelectError
from seedselect_core.host.samplers import REFUSED, sampler_name
from seedselect_core.likeness.comparison import compare_with
from seedselect_core.likeness.objective import Objective
from seedselect_core.likeness.targets import build_targets
from seedselect_core.likeness.vae import VaeCodec
from seedselect_core.likeness.weights import LossWeights

TOLERANCE = 1e-6
# Each sampler with one way of predicting, in turn.
SAMPLERS = [
    (name, PREDICTIONS[i % len(PREDICTIONS)]) for i, name in enumerate(comfy.samplers.SAMPLER_NAMES)
]


@pytest.fixture(scope="module")
def models():
    return {kind: tiny.model(kind, torch.float64) for kind in PREDICTIONS}


@torch.inference_mode()
def within(model, search, sampler="euler", scheduler="normal", cfg=3.0, batch=1, **latents):
    """Run ``search(chain, noise)``, with the noise in float64, where the host's guider samples.

    Args:
        sampler: the host's name of one, or a SAMPLER.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(
        latents.get("positive", tiny.conditioning(1)), latents.get("negative", tiny.conditioning(2))
    )
    guider.set_cfg(cfg)
    if isinstance(sampler, str):
        sampler = comfy.samplers.sampler_object(sampler)
    sampling = model.get_model_object("model_sampling")
    samples = latents.get("samples", torch.zeros(batch, 4, 8, 8))
    found = []

    def recorded(chain, noise):
        found.append(search(chain, noise.double()))
        return noise

    with in_double():
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, STEPS).double()
        unrolled_sampling(
            Denoising(guider, sampler, sigmas),
            tiny.normal(*samples.shape, seed=7),
            samples,
            recorded,
            patchers=latents.get("patchers", ()),
            noise_mask=latents.get("noise_mask"),
            seed=11,
        )
    return found[0]


def errors(chain, noise):
    return relative_errors(probed(chain), noise, directions=2)


@pytest.mark.parametrize("sampler, prediction", SAMPLERS)
@torch.inference_mode()
def test_gradient_of_every_sampler(sampler, prediction):
    with in_double():
        error = gradient_error(graph(prediction, torch.float64, sampler), directions=1)
    print(f"relative error: {error:.1e}")
    assert error < TOLERANCE


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_gradient_with_every_scheduler(models, scheduler):
    assert max(within(models["EPS"], errors, scheduler=scheduler)) < TOLERANCE


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_gradient_of_inpainting(models, sampler):
    """The noise enters every model call here, not only the first."""
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1.0
    samples = tiny.normal(1, 4, 8, 8, seed=8)
    found = within(models["EPS"], errors, sampler, samples=samples, noise_mask=mask)
    assert max(found) < TOLERANCE


def objective_in_double(graph, monkeypatch, weights, encoders, *how, **more) -> Objective:
    """That of a graph, its VAE and ``encoders`` made to reckon in float64.

    Args:
        how: views, contrast and what pictures are pulled towards, as `compare_with` takes them.
        more: as `Objective` takes it.
    """
    codec = VaeCodec(graph.vae)
    with torch.inference_mode():
        base = graph.model.model
        size = (16, 16)
        comparisons = [compare_with(graph.references, one, size, *how) for one in encoders]
        targets = build_targets(graph.references, comparisons, codec, base.process_latent_in, size)
        # Less contrast: clipping would make the gradient one-sided, which it is meant to be.
        graph.vae.first_stage_model.decoder.conv_out.weight.mul_(0.3)
    graph.vae.first_stage_model.double()
    graph.vae.vae_dtype = torch.float64
    for encoder in encoders:
        encoder.clip_vision.model.double()
    # The host rounds pictures to 8 bits before CLIP, so that its values are steps. The gradient
    # passes straight through them; here the host is made not to round.
    monkeypatch.setattr(torch.Tensor, "round", lambda self: self)
    return Objective(codec, targets, weights, base.process_latent_out, **more)


@pytest.mark.parametrize("views", [1, 3])
def test_gradient_of_the_whole_objective(models, monkeypatch, views):
    """Through VAE, CLIP vision, appearance and norm prior, on three weighted denoising steps."""
    graph = tiny.Graph(model=models["EPS"], latent=tiny.latent(2))
    weights = LossWeights(semantic=10.0, appearance=1.0, norm=0.5, steps=(0.05, 0.25, 0.7))
    objective = objective_in_double(graph, monkeypatch, weights, [graph.encoder], views)

    def search(chain, noise):
        def value(z):
            losses = objective(z, chain(z, keep=3), keeper=chain.keeper, plan=chain.plan)
            assert 0 < losses.images.min() and losses.images.max() < 1
            return losses.total.sum()

        return relative_errors(value, noise, directions=2)

    patchers = [graph.vae.patcher, graph.encoder.patcher]
    assert max(within(graph.model, search, patchers=patchers)) < TOLERANCE


# --- noise on the way -----------------------------------------------------------------------------


def runs(chain, noise):
    """Twice without a gradient and once with it, the random state of the caller disturbed."""
    found = []
    for record in (False, False, True):
        torch.rand(1)
        before = torch.get_rng_state()
        with torch.set_grad_enabled(record):
            found.append(chain(noise.clone().requires_grad_(record))[-1].detach())
        assert torch.equal(torch.get_rng_state(), before)
    return found


@torch.no_grad()
def sample_globally(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """Draws from PyTorch's own generator, and adds that to the prediction that it has shown."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
        callback({"x": x, "i": i, "denoised": denoised})
        x = denoised
        x += sigmas[i + 1] * torch.randn_like(x)
    return x


@pytest.mark.parametrize(
    "sampler",
    ["euler_ancestral", "dpmpp_2m_sde", "lcm", comfy.samplers.KSAMPLER(sample_globally)],
    ids=lambda sampler: sampler if isinstance(sampler, str) else "global noise",
)
def test_noise_of_stochastic_samplers_is_the_same_in_every_run(models, sampler):
    first, second, recorded = within(models["EPS"], runs, sampler)
    assert torch.equal(first, second) and torch.equal(first, recorded)


def test_noise_added_to_a_prediction_does_not_change_the_one_that_is_kept(models):
    seen = []

    def search(chain, noise):
        def on_step(step, prediction):
            seen.append(prediction.clone())

        kept = chain(noise, keep=STEPS, on_step=on_step)
        return [x.detach() for x in kept[:-1]]

    kept = within(models["EPS"], search, comfy.samplers.KSAMPLER(sample_globally))
    assert all(torch.equal(a, b) for a, b in zip(kept, seen[:-1], strict=True))


# --- samplers of other makes ----------------------------------------------------------------------


@torch.no_grad()
def euler_step(x, denoised, sigma, to):
    return x + (x - denoised) / sigma * (to - sigma)


@torch.inference_mode()
def sample_foreign(model, x, sigmas, extra_args=None, callback=None, disable=None, share=0.5):
    """Calls a decorated function of its own module, and detaches what it remembers."""
    last = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **extra_args)
        callback({"x": x, "i": i, "denoised": denoised})
        mixed = denoised if last is None else torch.lerp(denoised, last, share)
        x = euler_step(x, mixed, sigmas[i], sigmas[i + 1])
        last = denoised.detach()
    return x


class Foreign(comfy.samplers.Sampler):
    """Not built on the host's KSAMPLER."""

    @torch.no_grad()
    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest):
        x = noise * sigmas[0]
        for i in range(len(sigmas) - 1):
            sigma = sigmas[i] * x.new_ones([x.shape[0]])
            denoised = model_wrap(x, sigma, extra_args["model_options"], extra_args["seed"])
            callback(i, denoised, x, len(sigmas) - 1)
            x = euler_step(x, denoised, sigmas[i], sigmas[i + 1])
        return x


FOREIGN = {
    "module": comfy.samplers.KSAMPLER(sample_foreign),
    "global noise": comfy.samplers.KSAMPLER(sample_globally),
    "partial": comfy.samplers.KSAMPLER(functools.partial(sample_foreign, share=0.3)),
    "class": Foreign(),
}


@pytest.mark.parametrize("make", FOREIGN)
def test_gradient_of_samplers_of_other_makes(models, make):
    before = dict(globals())
    assert max(within(models["EPS"], errors, FOREIGN[make])) < TOLERANCE
    assert all(globals()[name] is value for name, value in before.items())


def test_samplers_have_the_host_s_names():
    for name in comfy.samplers.SAMPLER_NAMES:
        assert sampler_name(comfy.samplers.sampler_object(name)) == name
    assert sampler_name(comfy.samplers.ksampler("lms", {"order": 2})) == "lms"
    assert [sampler_name(sampler) for sampler in FOREIGN.values()] == [
        *("foreign", "globally", "foreign", "Foreign")
    ]


@pytest.mark.skipif(
    not hasattr(comfy.k_diffusion.sampling, "sample_ar_video"), reason="This host does not have it."
)
def test_samplers_without_a_gradient_are_refused_before_any_work(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("work was done")

    monkeypatch.setattr("comfy.model_management.load_models_gpu", refuse)
    sampler = comfy.samplers.ksampler("ar_video")
    with pytest.raises(SeedSelectError, match="'ar_video'") as error:
        unrolled_sampling(Denoising(None, sampler, torch.ones(2)), None, None, None)
    assert REFUSED["ar_video"] in str(error.value)
