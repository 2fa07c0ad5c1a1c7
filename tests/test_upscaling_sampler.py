"""A sampler whose result is larger than the noise."""

import comfy.samplers
import torch
from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

import tiny
from seedselect_core.chain.unroll import Denoising
from seedselect_core.search.optimize import optimize_noise
from seedselect_core.seeds.seed import CustomSampling, SeedNoise


def test_it_is_searched_checked_and_drawn_again():
    graph = tiny.Graph()
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.set_conds(graph.positive, graph.negative)
    guider.set_cfg(2.0)
    sigmas = torch.tensor([14.0, 6.0, 2.0, 0.0])
    with torch.inference_mode():
        sampler = SamplerLCMUpscale.execute(2.0, 2, "bislerp").result[0]
        told = CustomSampling("CFGGuider", "lcm_upscale", tuple(sigmas.tolist()), 5)
        seed, drawn, _ = optimize_noise(
            graph.custom(Denoising(guider, sampler, sigmas)),
            told,
            tiny.settings(appearance_weight=1.0),
            check_gradient=True,
        )
        again = [
            SamplerCustomAdvanced.execute(SeedNoise(seed), guider, sampler, sigmas, graph.latent)
            for _ in range(2)
        ]
    assert seed.noise.shape[-1] == 8 and drawn["samples"].shape[-1] == 16
    for output in again:
        assert torch.equal(output.result[0]["samples"], drawn["samples"])
