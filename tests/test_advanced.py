"""Guider, sampler and sigmas of the user's own, and the check of what nobody has tried."""

import logging
import re

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    DisableNoise,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)

import tiny
from seedselect_core.chain.sampling import sample_from_seed
from seedselect_core.chain.unroll import Denoising
from seedselect_core.errors import SeedSelectError
from seedselect_core.search import optimize
from seedselect_core.search.optimize import optimize_noise
from seedselect_core.seeds.seed import CustomSampling, Seed, SeedNoise, load_seed

SIGMAS = torch.tensor([14.0, 5.0, 1.5, 0.5, 0.0])
SAMPLING = CustomSampling("CFGGuider", "heun", tuple(SIGMAS.tolist()), 5)


def guider_of(graph: tiny.Graph, cfg: float = 3.0) -> comfy.samplers.CFGGuider:
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.set_conds(graph.positive, graph.negative)
    guider.set_cfg(cfg)
    return guider


def run(graph=None, guider=None, sampler=None, sigmas=SIGMAS, settings=tiny.SETTINGS, **more):
    graph = graph or tiny.Graph()
    with torch.inference_mode():
        denoising = Denoising(
            guider or guider_of(graph), sampler or comfy.samplers.sampler_object("heun"), sigmas
        )
        return optimize_noise(
            graph.custom(denoising), SAMPLING, settings, **tiny.with_callbacks(more)
        )


def third_party(hidden: bool) -> comfy.samplers.KSAMPLER:
    """Euler of somebody else's, which may hide a half of what it does from autograd."""

    def sample_midnight(model, x, sigmas, extra_args=None, callback=None, disable=None):
        ones = x.new_ones([x.shape[0]])
        for i in range(len(sigmas) - 1):
            denoised = model(x, sigmas[i] * ones, **extra_args)
            if hidden:
                with torch.no_grad():
                    denoised = denoised * 1.0
            x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
            callback({"x": x, "i": i, "sigma": sigmas[i], "denoised": denoised})
        return x

    return comfy.samplers.KSAMPLER(sample_midnight)


def test_the_simple_front_does_the_same():
    graph = tiny.Graph(latent=tiny.latent(2))
    simple, drawn, _ = tiny.optimize(graph)
    ksampler = comfy.samplers.KSampler(
        graph.model, 3, graph.model.load_device, sampler="euler", scheduler="normal"
    )
    sampler = comfy.samplers.sampler_object("euler")
    advanced, same, _ = run(graph, sampler=sampler, sigmas=ksampler.sigmas)
    assert torch.equal(simple.noise, advanced.noise)
    assert torch.equal(drawn["samples"], same["samples"])


@pytest.mark.parametrize("kind", ["CFGGuider", "BasicGuider"])
def test_the_hosts_custom_sampling_draws_what_the_search_ended_with(kind):
    graph = tiny.Graph(latent=tiny.latent(2))
    guider = guider_of(graph)
    if kind == "BasicGuider":
        guider = BasicGuider.execute(graph.model, graph.positive).result[0]
    sampler = KSamplerSelect.execute("dpmpp_2m").result[0]
    settings = tiny.settings(iterations=3)
    seed, drawn, history = run(
        graph, guider, sampler, settings=settings, start=RandomNoise.execute(5).result[0]
    )
    assert min(min(row) for row in history.total[1:]) < max(history.total[0])
    with torch.inference_mode():
        output = SamplerCustomAdvanced.execute(
            SeedNoise(seed), guider, sampler, SIGMAS, graph.latent
        ).result[0]
    assert torch.equal(output["samples"], drawn["samples"])


def test_a_schedule_that_stops_early_is_judged_by_its_prediction():
    graph = tiny.Graph()
    seed, drawn, _ = run(graph, sigmas=SIGMAS[:3], settings=tiny.settings(iterations=3))
    with torch.inference_mode():
        noisy, predicted = SamplerCustomAdvanced.execute(
            SeedNoise(seed),
            guider_of(graph),
            comfy.samplers.sampler_object("heun"),
            SIGMAS[:3],
            graph.latent,
        ).result
    torch.testing.assert_close(drawn["samples"], predicted["samples"])
    assert not torch.allclose(drawn["samples"], noisy["samples"], atol=0.1)


def test_no_noise_and_no_step_are_named():
    with pytest.raises(SeedSelectError, match=r"^noise: it is empty"):
        run(start=DisableNoise.execute().result[0])
    with pytest.raises(SeedSelectError, match=r"^sigmas: there is no step"):
        run(sigmas=SIGMAS[:1])


def test_a_seed_of_a_custom_graph_is_saved_and_says_what_it_needs(tmp_path):
    graph = tiny.Graph()
    seed, *_ = run(graph)
    seed.save(tmp_path / "a.safetensors")
    loaded = load_seed(tmp_path / "a.safetensors")
    assert loaded.sampling == seed.sampling == SAMPLING
    assert torch.equal(loaded.noise, seed.noise)
    with pytest.raises(SeedSelectError, match=r"SamplerCustomAdvanced.*steps, cfg"):
        sample_from_seed(graph.model, graph.positive, graph.negative, loaded)
    everything = loaded.sampling.override(
        steps=3, cfg=3.0, sampler_name="euler", scheduler="normal"
    )
    with torch.inference_mode():
        sample_from_seed(graph.model, graph.positive, graph.negative, loaded, everything)


@pytest.mark.parametrize(
    "wrong",
    [
        {"guider": 3},
        {"sampler": "x" * 101},
        {"sigmas": (1.0,)},
        {"sigmas": (1.0, float("nan"))},
        {"sigmas": [1.0, 0.0]},
        {"seed": -1},
        {"seed": 1.0},
    ],
)
def test_impossible_custom_sampling(wrong):
    good = {"guider": "g", "sampler": "s", "sigmas": (1.0, 0.0), "seed": 1}
    CustomSampling(**good)
    with pytest.raises(SeedSelectError, match=f"^{next(iter(wrong))}: "):
        CustomSampling(**good | wrong)


@pytest.mark.doubts
def test_a_sampler_nobody_has_tried_is_checked_once(monkeypatch, caplog):
    checks = []
    real = optimize.require_exact_gradient
    monkeypatch.setattr(
        optimize, "require_exact_gradient", lambda *args: (checks.append(args[2]), real(*args))
    )
    notes = []
    settled = set()
    with caplog.at_level(logging.WARNING):
        graph = tiny.Graph()
        sampler = third_party(hidden=False)
        for _ in range(2):
            seed, *_ = run(graph, sampler=sampler, on_note=notes.append, on_settled=settled)
    assert isinstance(seed, Seed)
    (doubted,) = checks
    assert "sampler 'midnight'" in doubted
    assert sum("Nobody has tried" in record.message for record in caplog.records) == 1
    (note,) = (note for note in notes if "Nobody has tried" in note)
    assert doubted in note


@pytest.mark.doubts
def test_a_sampler_that_hides_from_autograd_is_found_out():
    notes = []
    settled = set()
    seed, _, history = run(
        sampler=third_party(hidden=True), on_note=notes.append, on_settled=settled
    )
    told = r"gradient through sampler 'midnight'.* is wrong.*Going on without a gradient"
    assert re.search(told, notes[-1]) and not settled
    # Two iterations' worth of tries: four draws each, where all steps would be differentiated.
    assert len(history.total) == 1 + 2 * 4 and seed.semantic[0] <= seed.first_semantic[0]


def test_the_switch_checks_what_is_known(monkeypatch):
    checks = []
    monkeypatch.setattr(optimize, "require_exact_gradient", lambda *args: checks.append(args[2]))
    run()
    assert not checks
    run(check_gradient=True)
    assert checks == ["heun"]
