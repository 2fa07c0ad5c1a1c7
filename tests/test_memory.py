"""Where memory runs out: blocks are made again one by one, and the same seed is found."""

import gc
import weakref

import comfy.model_management
import pytest
import torch

import tiny
from gradients.conditioning import prompts
from gradients.measure import sample_unrolled
from gradients.unet import tiny_unet
from gradients.weights.kinds import flux_weights, flux_wired, load
from seedselect_core.chain.unroll import Denoising, unrolled_sampling
from seedselect_core.errors import SeedSelectError
from seedselect_core.host import layers
from seedselect_core.likeness.objective import Objective
from seedselect_core.memory.blocks import repeated_blocks
from seedselect_core.memory.plan import out_of_memory

FULL = comfy.model_management.OOM_EXCEPTION
SETTINGS = tiny.settings(iterations=3, learning_rate=0.5, optimizer="sgd")


# --- blocks ---------------------------------------------------------------------------------------


def kinds(model: torch.nn.Module) -> set[str]:
    return {type(block).__name__ for block in repeated_blocks(model)}


def test_blocks_are_neither_whole_levels_nor_single_layers():
    unet = tiny_unet("EPS", torch.float32).model.diffusion_model
    # The first level is a single convolution.
    assert kinds(unet) == {"ResBlock", "BasicTransformerBlock", "TimestepEmbedSequential"}
    (first,) = (b for b in repeated_blocks(unet) if type(b).__name__ == "TimestepEmbedSequential")
    assert [type(layer).__name__ for layer in first] == ["Conv2d"]
    with torch.inference_mode():
        flux = load(flux_weights(), dtype=torch.float32).model.diffusion_model
    assert kinds(flux) == {"DoubleStreamBlock", "SingleStreamBlock"}
    assert repeated_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.SiLU())) == []


def test_no_block_is_inside_another():
    for model in (tiny_unet("EPS", torch.float32).model, tiny.clip_vision().model):
        blocks = repeated_blocks(model)
        inside = {id(part) for block in blocks for part in block.modules() if part is not block}
        assert blocks and not inside & {id(block) for block in blocks}


class Alive:
    """Bytes of activations that are kept for the backward pass, now and at most."""

    def __init__(self, monkeypatch):
        self.now = 0
        self.most = 0
        self._copy = layers._copy
        monkeypatch.setattr(layers, "_copy", self.counted)

    def counted(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = self._copy(tensor)
        size = copy.numel() * copy.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(copy, self.gone, size)
        return copy

    def gone(self, size: int) -> None:
        self.now -= size


@torch.inference_mode()
def gradient_of(graph, by_blocks: bool) -> tuple[torch.Tensor, list]:
    found = []

    def search(chain, noise):
        assert not by_blocks or chain.spare()
        z = noise.requires_grad_()
        end = chain(z)[-1]
        found.append(torch.autograd.grad(end.square().sum(), z)[0])
        return chain.final

    denoising = Denoising(graph.guider, graph.sampler, graph.sigmas)
    unrolled_sampling(denoising, graph.noise, graph.latent_image, search, seed=graph.seed)
    own = [m for m in graph.guider.model_patcher.model.modules() if "forward" in vars(m)]
    return found[0], own


def test_blocks_need_less_memory_for_the_same_gradient_and_leave_nothing(monkeypatch):
    graph = flux_wired(load(flux_weights(), dtype=torch.float32))
    alive = Alive(monkeypatch)
    whole, _ = gradient_of(graph, False)
    whole_bytes = alive.most
    gc.collect()
    alive.now = alive.most = 0
    apart, own = gradient_of(graph, True)
    assert torch.equal(whole, apart)
    assert own == []
    print(f"{alive.most / whole_bytes:.2f} of the memory")
    assert 0 < alive.most < 0.75 * whole_bytes


def test_hooks_that_exchange_weights_are_not_cut():
    found = []
    build = prompts.hooked_build(prompts.hooks()["LoRA hook, keyframes"])

    def search(chain, noise):
        found.append(chain.spare())
        return noise

    with torch.inference_mode():
        graph = build(torch.float32)
        denoising = Denoising(graph.guider, graph.sampler, graph.sigmas)
        unrolled_sampling(denoising, graph.noise, graph.latent_image, search, seed=1)
        sample_unrolled(graph)
    assert found == [False]


def test_pictures_compared_one_by_one_have_the_same_losses(monkeypatch):
    losses = []
    real = Objective.__call__

    def both(self, noise, denoised, rows=None, *, one_by_one=False):
        losses.append([real(self, noise, denoised, rows, one_by_one=b) for b in (False, True)])
        return losses[-1][0]

    monkeypatch.setattr(Objective, "__call__", both)
    tiny.optimize(tiny.Graph(latent=tiny.latent(3)), subsets=[[0], [1], [0, 1]])
    assert losses
    for together, apart in losses:
        torch.testing.assert_close(apart.total, together.total)
        torch.testing.assert_close(apart.images, together.images)


# --- out of memory --------------------------------------------------------------------------------


class Full:
    """Runs out of memory at the n-th call of a layer: once, or from then on."""

    def __init__(self, layer: torch.nn.Module, call: int, always: bool = False):
        self.call = call
        self.always = always
        self.calls = 0
        layer.register_forward_hook(self)

    def __call__(self, *_):
        self.calls += 1
        if self.calls == self.call or (self.always and self.calls > self.call):
            raise FULL("CUDA out of memory.")


def layer_of(graph: tiny.Graph, part: str) -> torch.nn.Module:
    return {
        "model": graph.model.model.diffusion_model.out,
        "decoder": graph.vae.first_stage_model.decoder.conv_out,
        "encoder": graph.encoder.clip_vision.model.vision_model.encoder,
    }[part]


# Three steps and one decoding: the first recorded chain, its recomputation, the second iteration.
@pytest.mark.parametrize(
    ("part", "call"),
    [
        *[("model", 1), ("model", 2), ("model", 5), ("model", 8)],
        *[("model", 14), ("decoder", 1), ("decoder", 2), ("encoder", 3), ("encoder", 4)],
    ],
)
def test_the_same_seed_is_found(part, call):
    expected, _, _ = tiny.optimize(tiny.Graph(latent=tiny.latent(2)), settings=SETTINGS)
    graph = tiny.Graph(latent=tiny.latent(2))
    # The references are encoded before the search.
    full = Full(layer_of(graph, part), call + 2 * (part == "encoder"))
    notes = []
    seed, _, _ = tiny.optimize(graph, settings=SETTINGS, on_note=notes.append)
    assert full.calls > call and len(notes) == 1 and "block by block" in notes[0]
    torch.testing.assert_close(seed.noise, expected.noise, rtol=1e-3, atol=1e-3)
    assert not any("forward" in vars(module) for module in graph.model.model.modules())
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None


@pytest.mark.doubts
def test_the_check_of_the_gradient_goes_on_with_less():
    graph = tiny.Graph()
    Full(layer_of(graph, "model"), 8)  # two samplings of three steps, and then the first gradient
    notes = []
    seed, _, _ = tiny.optimize(graph, settings=SETTINGS, on_note=notes.append)
    assert "Nobody has tried" in notes[0] and "block by block" in notes[1]
    assert seed.semantic


def test_progress_still_ends_where_it_was_planned():
    graph = tiny.Graph()
    Full(layer_of(graph, "model"), 8)
    seen = []
    tiny.optimize(graph, settings=SETTINGS, on_progress=seen.append)
    assert seen[-1].done == seen[-1].planned


def test_the_error_comes_after_the_last_level_and_the_best_is_kept():
    graph = tiny.Graph()
    Full(layer_of(graph, "model"), 8, always=True)
    kept = []
    notes = []
    with pytest.raises(SeedSelectError, match=r"out of memory.*The best seed so far is kept"):
        tiny.optimize(graph, settings=SETTINGS, on_unfinished=kept.append, on_note=notes.append)
    assert len(kept) == 1 and len(notes) == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert out_of_memory(MemoryError()) and out_of_memory(FULL("full"))
    assert not out_of_memory(RuntimeError("shapes"))
