"""The unrolled chain against the host's own sampling: same values, nothing left behind."""

import contextlib

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch

import tiny
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.chain.unroll import Denoising, unrolled_sampling
from seedselect_core.host.weights import borrowed_weights
from seedselect_core.likeness.objective import Objective
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.seeds.seed import SamplingSettings
from tiny import Broken

# One of each kind: steps of one and of several calls, noise on the way, what is read beside the
# prediction, step sizes that depend on the noise.
SAMPLERS = (
    *("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "ddim", "uni_pc"),
    *("deis", "euler_ancestral_cfg_pp", "dpm_adaptive"),
)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@torch.inference_mode()
def unrolled(model, search, sampling, latent, noise, positive=None, negative=None):
    """Like `comfy.sample.sample`, but ``search(chain, noise)`` runs in the sampler's place."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive or tiny.conditioning(1), negative or tiny.conditioning(2))
    guider.set_cfg(sampling.cfg)
    ksampler = comfy.samplers.KSampler(
        model, sampling.steps, model.load_device, sampling.sampler_name, sampling.scheduler
    )
    sampler = comfy.samplers.sampler_object(sampling.sampler_name)
    return unrolled_sampling(
        Denoising(guider, sampler, ksampler.sigmas),
        noise,
        latent["samples"],
        search,
        noise_mask=latent.get("noise_mask"),
        seed=sampling.seed,
    )


@torch.inference_mode()
def stock(model, sampling, latent, noise, sigmas=None):
    return comfy.sample.sample(
        model,
        noise,
        sampling.steps,
        sampling.cfg,
        sampling.sampler_name,
        sampling.scheduler,
        tiny.conditioning(1),
        tiny.conditioning(2),
        latent["samples"],
        noise_mask=latent.get("noise_mask"),
        sigmas=sigmas,
        disable_pbar=True,
        seed=sampling.seed,
    )


def assert_equal_to_stock(model, sampling, latent):
    noise = tiny.normal(*latent["samples"].shape, seed=7)
    seen = []

    def search(chain, given):
        with torch.no_grad():
            seen.append(chain(given)[-1])
        recorded = chain(given.clone().requires_grad_(), keep=2)[-1]
        assert recorded.requires_grad
        seen.append(recorded.detach())
        return seen[0]

    expected = stock(model, sampling, latent, noise)
    assert torch.equal(unrolled(model, search, sampling, latent, noise), expected)
    assert torch.equal(*seen)  # with and without a graph, first and second run
    assert expected.std() > 0 and torch.isfinite(expected).all()


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_to_stock_sampling(model, sampler, batch, cfg):
    sampling = SamplingSettings(4, cfg, sampler, "normal", 5)
    assert_equal_to_stock(model, sampling, tiny.latent(batch))


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc"])
def test_equal_to_stock_sampling_with_every_scheduler(model, sampler, scheduler):
    assert_equal_to_stock(model, SamplingSettings(4, 3.0, sampler, scheduler, 5), tiny.latent())


@pytest.mark.parametrize("sampler", ["euler", "ddim", "uni_pc"])
@pytest.mark.parametrize("masked", [False, True], ids=["image to image", "inpainting"])
def test_equal_to_stock_sampling_of_a_picture(model, sampler, masked):
    latent = {"samples": tiny.normal(2, 4, 8, 8, seed=8)}
    if masked:
        latent["noise_mask"] = torch.ones(1, 1, 16, 16)
        latent["noise_mask"][..., 8:] = 0.0
    assert_equal_to_stock(model, SamplingSettings(4, 3.0, sampler, "normal", 5), latent)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_a_draft_is_stock_sampling_between_fewer_noise_levels(model, sampler):
    sampling = SamplingSettings(10, 3.0, sampler, "normal", 5)
    latent = tiny.latent(2)
    noise = tiny.normal(2, 4, 8, 8, seed=7)
    levels = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "normal", 10
    )[[0, 3, 7, 10]]

    def search(chain, given):
        draft = chain(given, steps=3)[-1].detach()
        assert chain.evaluations == 3 * len(given)
        assert not torch.equal(draft, chain(given)[-1])
        for too_many in (10, 11):
            assert torch.equal(chain(given, steps=too_many)[-1], chain(given)[-1])
        return draft

    drawn = unrolled(model, search, sampling, latent, noise)
    assert torch.equal(drawn, stock(model, sampling, latent, noise, levels))


@pytest.mark.parametrize("prediction", ["V_PREDICTION", "FLOW"])
def test_equal_to_stock_sampling_of_other_predictions(prediction):
    model = tiny.model(prediction)
    for sampler in ("euler", "uni_pc", "euler_ancestral"):
        assert_equal_to_stock(model, SamplingSettings(4, 3.0, sampler, "normal", 5), tiny.latent())


@pytest.mark.parametrize("sampler", ["ddim", "uni_pc", "dpmpp_2m_sde"])
def test_sampling_from_the_seed_gives_the_very_latent_of_the_search(sampler):
    graph = tiny.Graph(latent=tiny.latent(2))
    sampling = SamplingSettings(4, 3.0, sampler, "karras", 5)
    with torch.inference_mode():
        seed, drawn, history = optimize_seed(graph.scene(), sampling, tiny.SETTINGS)
        again = sample_from_seed(graph.model, graph.positive, graph.negative, seed)
    assert torch.equal(again["samples"], drawn["samples"])
    # And it is not what the unoptimized noise gives.
    plain = stock(graph.model, sampling, graph.latent, tiny.normal(2, 4, 8, 8, seed=5))
    assert not torch.equal(plain, drawn["samples"])
    # Two iterations, of which the first makes each call twice and the second has kept them, the
    # evaluation of the last noise, the final run; two pictures each.
    assert history.evaluations == (2 + 1 + 1 + 1) * sampling.steps * 2


# --- nothing is left behind -----------------------------------------------------------------------


def snapshot(graph) -> dict:
    """Identities and bytes of everything that a run could leave changed."""
    modules = {
        "unet": graph.model.model,
        "vae": graph.vae.first_stage_model,
        "vision": graph.encoder.clip_vision.model,
    }
    found = {
        "in_training": comfy.model_management.in_training,
        "functions": {
            name: id(getattr(module, name))
            for module in (
                comfy.model_management,
                comfy.samplers,
                comfy.samplers.k_diffusion_sampling,
                comfy.utils,
            )
            for name in dir(module)
            if callable(getattr(module, name))
        },
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "model_options": repr(graph.model.model_options),
        "patches": (dict(graph.model.patches), dict(graph.model.hook_backup)),
        "conds": [
            (id(cond), id(cond[0]), cond[0].clone(), {k: id(v) for k, v in cond[1].items()})
            for cond in [*graph.positive, *graph.negative]
        ],
        "latent": {name: (id(value), value.clone()) for name, value in graph.latent.items()},
    }
    for kind, module in modules.items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            found[f"{kind}.{name}"] = (id(tensor), tensor.clone(), tensor.requires_grad)
            assert tensor.grad is None
        for name, part in module.named_modules():
            found[f"{kind}.{name} state"] = (
                part.training,
                len(part._forward_hooks) + len(part._forward_pre_hooks),
                len(part._backward_hooks) + len(part._backward_pre_hooks),
                sorted(key for key in vars(part) if key != "current_patcher"),
            )
    return found


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@contextlib.contextmanager
def unchanged(graph):
    with torch.inference_mode():
        sample_from = tiny.normal(1, 4, 8, 8)
        before_sampling = stock(graph.model, tiny.SAMPLING, tiny.latent(), sample_from)
        # Loading sets attributes of the host's own on every module.
        picture = graph.vae.decode(before_sampling)
        graph.encoder.clip_vision.encode_image(picture)
    before = snapshot(graph)
    yield
    after = snapshot(graph)
    assert [key for key in before if not same(before[key], after[key])] == []
    again = stock(graph.model, tiny.SAMPLING, tiny.latent(), sample_from)
    assert torch.equal(before_sampling, again)


class Saboteur:
    """Counts calls of the diffusion model and, at one of them, does something.

    `unchanged` samples once before the run, whose calls are not counted in ``at``. Slots, since a
    patch that remembers in its attributes is made to forget before each run.
    """

    __slots__ = ("at", "calls", "calls_after", "deed")

    def __init__(self, graph, at: int, deed):
        self.calls = -tiny.SAMPLING.steps
        self.calls_after = None
        self.at = at
        self.deed = deed
        graph.model.set_model_unet_function_wrapper(self)

    def __call__(self, apply_model, args):
        self.calls += 1
        if self.calls_after is not None:
            self.calls_after += 1
        if self.calls == self.at:
            self.calls_after = 0
            self.deed()
        return apply_model(args["input"], args["timestep"], **args["c"])


def interrupt():
    comfy.model_management.interrupt_current_processing()


def fail():
    raise Broken


def run(graph, **more):
    tiny.optimize(graph, **more)


# Three steps: the first call is metered, 2 to 4 are the first chain, 5 to 7 its recomputation in
# the backward pass, 8 to 10 the second chain, which is kept, 11 to 13 the last noise's evaluation.
PLACES = {"first chain": 3, "backward pass": 6, "second iteration": 9, "last evaluation": 12}


@pytest.mark.parametrize("place", ["model", "decoder"])
def test_an_error_leaves_no_hook_though_somebody_holds_it(place):
    """PyTorch's checkpoint would catch every tensor that is saved afterwards."""
    graph = tiny.Graph()
    layers = {
        "model": graph.model.model.diffusion_model.out,
        "decoder": graph.vae.first_stage_model.decoder.conv_out,
    }
    handle = layers[place].register_forward_hook(lambda *_: fail())
    with pytest.raises(Broken) as held:
        run(graph)
    handle.remove()
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert held.value is not None


def test_nothing_changes_in_a_run():
    graph = tiny.Graph(latent=tiny.latent(2))
    unfinished = []
    with unchanged(graph):
        run(graph, on_unfinished=unfinished.append)
    assert unfinished == []


@pytest.mark.parametrize("place", PLACES)
def test_nothing_changes_when_the_model_fails(place):
    graph = tiny.Graph()
    unfinished = []
    Saboteur(graph, PLACES[place], fail)
    with unchanged(graph), pytest.raises(Broken):
        run(graph, on_unfinished=unfinished.append)
    assert len(unfinished) == (0 if place == "first chain" else 1)


@pytest.mark.parametrize("place", PLACES)
def test_cancel_stops_within_a_step_and_keeps_the_best(place):
    graph = tiny.Graph()
    unfinished = []
    saboteur = Saboteur(graph, PLACES[place], interrupt)
    with unchanged(graph):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(graph, on_unfinished=unfinished.append)
        assert saboteur.calls_after == 0
        assert not comfy.model_management.processing_interrupted()
    if place == "first chain":
        assert unfinished == []
    else:
        (seed,) = unfinished
        assert seed.noise.shape == (1, 4, 8, 8) and not seed.noise.requires_grad
        assert seed.total[0] <= 10 * seed.first_semantic[0] + 1


@pytest.mark.parametrize("culprit", ["on_progress", "encoder", "encoder in backward"])
def test_nothing_changes_when_something_else_fails(culprit, monkeypatch):
    graph = tiny.Graph()
    steps = []
    calls = []

    def on_progress(progress):
        steps.append(progress)
        if culprit == "on_progress" and len(steps) == 6:
            raise Broken

    call = type(graph.encoder).__call__

    def encode(self, images):
        calls.append(images)
        # Two references, the picture of the recorded chain, its recomputation.
        if len(calls) == {"encoder": 3, "encoder in backward": 4}.get(culprit):
            raise Broken
        return call(self, images)

    monkeypatch.setattr(type(graph.encoder), "__call__", encode)
    with unchanged(graph), pytest.raises(Broken):
        run(graph, on_progress=on_progress)


# --- memory ---------------------------------------------------------------------------------------


def saved_for_backward(model, steps: int, latent) -> list[int]:
    """Bytes of every tensor that the forward pass of the chain saves, weights left out."""
    found = []

    def search(chain, noise):
        weights = {p.untyped_storage().data_ptr() for p in model.model.parameters()}

        def pack(tensor):
            if tensor.untyped_storage().data_ptr() not in weights:
                found.append(tensor.numel() * tensor.element_size())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            chain(noise.requires_grad_())
        return noise.detach()

    sampling = SamplingSettings(steps, 3.0, "dpmpp_2m", "normal", 5)
    unrolled(model, search, sampling, latent, tiny.normal(*latent["samples"].shape))
    return found


def test_activation_memory_does_not_grow_with_the_steps(model):
    latent = tiny.latent(1, size=16)
    one = latent["samples"].numel() * 4
    totals = {steps: sum(saved_for_backward(model, steps, latent)) for steps in (4, 8, 16, 32)}
    growth = [(totals[b] - totals[a]) / (b - a) for a, b in ((4, 8), (8, 16), (16, 32))]
    # What a step adds is a few latents and scalars ...
    assert max(growth) <= 3 * one
    assert max(saved_for_backward(model, 8, latent)) <= one
    # ... and not the activations, which are far larger.
    whole = []

    def search(chain, noise):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: whole.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            chain.guider(noise.requires_grad_(), torch.ones(1), model_options={})
        return noise.detach()

    unrolled(model, search, tiny.SAMPLING, latent, tiny.normal(1, 4, 16, 16))
    assert sum(whole) > 100 * max(growth)


def test_objective_saves_a_latent_only():
    graph = tiny.Graph()
    found = []

    def spy(objective, noise, denoised, rows, **how):
        if not torch.is_grad_enabled():
            return plain(objective, noise, denoised, rows, **how)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: found.append(t.numel()) or t, lambda t: t
        ):
            return plain(objective, noise, denoised, rows, **how)

    plain = Objective.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Objective, "__call__", spy)
        run(graph, settings=tiny.settings(memory="whole calls"))
    assert found and max(found) <= 4 * 8 * 8


def test_weights_are_lent_and_not_copied(model):
    before = {name: (p, p.data_ptr()) for name, p in model.model.named_parameters()}
    with borrowed_weights(model.model):
        for name, parameter in model.model.named_parameters():
            original, address = before[name]
            assert parameter.data_ptr() == address and parameter is not original
            assert not parameter.is_inference() and not parameter.requires_grad
    assert all(p is before[name][0] for name, p in model.model.named_parameters())


def test_settings_with_fewer_steps_than_weights():
    graph = tiny.Graph()
    sampling = SamplingSettings(2, 3.0, "euler", "normal", 5)
    settings = tiny.settings(iterations=1, step_weights=(0.05, 0.25, 0.7))
    seed, _, _ = tiny.optimize(graph, sampling, settings)
    assert seed.semantic[0] <= seed.first_semantic[0] + 1e-6
