"""What is kept, what is made again, and how that is planned."""

import gc
import weakref
from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch

import tiny
from gradients.conditioning import prompts
from gradients.measure import sample_unrolled
from gradients.models import randomize
from gradients.unet import tiny_unet
from gradients.weights.kinds import flux_weights, flux_wired, load
from live import Live
from seedselect_core.chain.unroll import Denoising, unrolled_sampling
from seedselect_core.errors import SeedSelectError
from seedselect_core.memory import saved
from seedselect_core.memory.blocks import repeated_blocks
from seedselect_core.memory.levels import AWAY, BLOCKS, KEPT, LEVELS, NONE, PROMPTS, WHOLE
from seedselect_core.memory.plan import Needs, Plan, batches, choose, smaller
from seedselect_core.search import optimize

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


@torch.inference_mode()
def gradients_of(graph, *levels, again: int = 1, live: list | None = None) -> list[torch.Tensor]:
    """The gradient at each level, the last of so many times; peaks of live bytes into ``live``."""
    found = []

    def search(chain, noise):
        for level in levels:
            chain.plan = Plan(level, len(noise), False, kept_calls=10 if level is KEPT else 0)
            for _ in range(again):
                gradient = None
                with Live([graph.guider.model_patcher.model]) as counted:
                    z = noise.clone().requires_grad_()
                    gradient = torch.autograd.grad(chain(z)[-1].square().sum(), z)[0]
            found.append(gradient)
            if live is not None:
                live.append(counted.peak)
        return noise

    denoising = Denoising(graph.guider, graph.sampler, graph.sigmas)
    unrolled_sampling(denoising, graph.noise, graph.latent_image, search, seed=graph.seed)
    assert not any("forward" in vars(m) for m in graph.guider.model_patcher.model.modules())
    return found


def test_all_levels_have_the_same_gradient_and_need_less_and_less():
    graph = flux_wired(load(flux_weights(depth=4), dtype=torch.float32), side=16)
    levels = KEPT, WHOLE, PROMPTS, BLOCKS
    peaks = []
    found = gradients_of(graph, *levels, again=2, live=peaks)
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-3, atol=1e-4)
    print(peaks)
    assert peaks[0] > 1.5 * peaks[1] and peaks[1] > 1.5 * peaks[2] > 1.5 * peaks[3]


def test_hooks_that_exchange_weights_are_not_cut():
    found = []
    build = prompts.hooked_build(prompts.hooks()["LoRA hook, keyframes"])

    def search(chain, noise):
        found.append(chain.levels())
        return noise

    with torch.inference_mode():
        graph = build(torch.float32)
        denoising = Denoising(graph.guider, graph.sampler, graph.sigmas)
        unrolled_sampling(denoising, graph.noise, graph.latent_image, search, seed=1)
        sample_unrolled(graph)
    assert found == [(KEPT, WHOLE, NONE)]


# --- what is saved --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [WHOLE, BLOCKS])
def test_weights_of_few_bits_need_no_more_than_those_of_many(level):
    peaks = []
    for dtype in (torch.float32, torch.float8_e4m3fn):
        graph = flux_wired(load(flux_weights(depth=2), dtype=dtype), side=16)
        gradients_of(graph, level, again=2, live=peaks)
    assert peaks[1] < 1.2 * peaks[0], peaks


def test_weights_are_made_again_as_the_call_made_them(monkeypatch):
    made = []
    real = saved._MadeWeight.tensor
    monkeypatch.setattr(
        saved._MadeWeight, "tensor", lambda self: made.append(real(self)) or made[-1]
    )
    graph = flux_wired(load(flux_weights(), dtype=torch.float8_e4m3fn))
    (found,) = gradients_of(graph, WHOLE)
    assert len(made) > 20
    monkeypatch.setattr(saved, "_makes_weights", lambda layer: False)
    (kept,) = gradients_of(graph, WHOLE)
    assert torch.equal(found, kept)
    monkeypatch.undo()
    monkeypatch.setattr(saved._MadeWeight, "tensor", lambda self: 2 * real(self))
    (wrong,) = gradients_of(graph, WHOLE)
    assert not torch.allclose(wrong, kept)


def test_only_what_is_overwritten_is_copied(monkeypatch):
    """Flux adds to its residual stream in place."""
    copies = []
    real = saved._copy
    monkeypatch.setattr(saved, "_copy", lambda tensor: copies.append(tensor.nbytes) or real(tensor))
    graph = flux_wired(load(flux_weights(), dtype=torch.float32))
    first = []
    kept = []

    def search(chain, noise):
        for found in (first, kept):
            copies.clear()
            z = noise.clone().requires_grad_()
            torch.autograd.grad(chain(z)[-1].square().sum(), z)
            found.extend(copies)
        return noise

    with torch.inference_mode():
        denoising = Denoising(graph.guider, graph.sampler, graph.sigmas)
        unrolled_sampling(denoising, graph.noise, graph.latent_image, search, seed=graph.seed)
    assert 0 < len(kept) and sum(kept) < 0.4 * sum(first)


def late_overwriter(overwrite: bool):
    """A wrapper that overwrites what autograd has saved, but not in the steps that come last."""

    def wrapper(apply, given):
        squashed = apply(given["input"], given["timestep"], **given["c"]).tanh()
        result = squashed * 2
        if overwrite and given["timestep"].max() > 500:
            squashed.mul_(0.0)  # tanh has saved it
        return result

    return wrapper


def test_what_is_overwritten_for_the_first_time_later_is_noticed():
    found = []
    for overwrite in (False, True):
        model = tiny.model()
        model.set_model_unet_function_wrapper(late_overwriter(overwrite))
        graph = tiny.Graph(model=model)
        for level in (WHOLE, KEPT):
            settings = replace(SETTINGS, memory=level.name)
            seed, _, _ = tiny.optimize(graph, settings=settings)
            found.append(seed.noise)
    for noise in found[1:]:
        torch.testing.assert_close(noise, found[0], rtol=1e-4, atol=1e-4)


def test_what_waits_in_main_memory_comes_back(monkeypatch):
    moved = []
    real = saved._InMainMemory.tensor
    monkeypatch.setattr(
        saved._InMainMemory, "tensor", lambda self: moved.append(self.shape) or real(self)
    )
    monkeypatch.setattr(saved, "WORTH_MOVING", 0)
    monkeypatch.setattr(saved, "_is_on_device", lambda tensor: True)  # the CPU for a GPU
    graph = flux_wired(load(flux_weights(), dtype=torch.float32))
    here, away = gradients_of(graph, BLOCKS, AWAY)
    assert torch.equal(here, away)
    # The latents of the steps, and the inputs of blocks.
    assert {graph.noise.shape} < set(moved)


def says(free: int):
    """In the place of the host's `get_free_memory`."""
    return lambda dev=None, torch_free_too=False: (free, free) if torch_free_too else free


def peak_of_search(batch: int, free: int, monkeypatch) -> int:
    graph = tiny.Graph(latent=tiny.latent(batch))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", says(free))
    patchers = graph.model, graph.vae.patcher, graph.encoder.patcher
    peaks = []
    with Live([patcher.model for patcher in patchers]) as live:
        tiny.optimize(
            graph,
            settings=SETTINGS,
            # After the last of these the whole batch is drawn, as the stock sampler does it.
            on_progress=lambda progress: progress.new_best and peaks.append(live.peak),
        )
    return peaks[-1]


@pytest.mark.parametrize("batch", [4, 8])
def test_a_batch_in_parts_needs_what_one_seed_needs(batch, monkeypatch):
    alone = peak_of_search(1, 1, monkeypatch)
    latents = batch * 4 * 8 * 8 * 4
    pictures = batch * 16 * 16 * 3 * 4
    # Of each seed some latents (noise, best, gradient, the optimizer's), and the best picture.
    assert peak_of_search(batch, 1, monkeypatch) < alone + 12 * latents + 4 * pictures


# --- the plan -------------------------------------------------------------------------------------


class Metered:
    """A call that needs so many bytes at each level, and of which so many are kept."""

    kept = 100

    def need(self, level):
        return {KEPT: 110, WHOLE: 110, PROMPTS: 60, BLOCKS: 30, AWAY: 20}[level]


NEEDS = Needs(Metered(), 1, pictures=50, strips=10, differentiated=3, compared=3)
MOST = 10**6


@pytest.mark.parametrize(
    ("free", "plan"),
    [
        (MOST, Plan(KEPT, 4, False, 3, True)),
        (1100, Plan(KEPT, 4, False, 2)),
        (510, Plan(WHOLE, 4, False)),
        (260, Plan(WHOLE, 2, False)),
        (180, Plan(WHOLE, 1, False, keeps_pictures=True)),
        (130, Plan(WHOLE, 1, False)),
        (80, Plan(PROMPTS, 1, False)),
        (40, Plan(BLOCKS, 1, True, keeps_pictures=True)),
        (25, Plan(AWAY, 1, True)),
        (10, None),
    ],
)
def test_the_fastest_plan_that_fits_is_taken(free, plan):
    assert choose(NEEDS, free, LEVELS, batches(4, True)) == plan
    assert plan is None or NEEDS.of(plan) <= free


@pytest.mark.parametrize("level", [KEPT, WHOLE])
def test_after_each_plan_comes_a_smaller_one(level):
    plan = Plan(level, 4, False, 3 if level is KEPT else 0, True)
    seen = [plan]
    while (plan := smaller(plan, LEVELS, batches(4, True))) is not None:
        seen.append(plan)
    assert seen[-1].level is NONE and seen[1] == Plan(WHOLE, 4, False)
    needs = [NEEDS.of(one) for one in seen]
    assert needs == sorted(needs, reverse=True)
    assert {one.level for one in seen} == set(LEVELS[LEVELS.index(level) :])


def test_batches_are_halved_where_seeds_are_their_own():
    assert batches(8, True) == [8, 4, 2, 1] and batches(5, True) == [5, 3, 2, 1]
    assert batches(8, False) == [8]


def test_the_plan_follows_the_free_memory_and_is_told(monkeypatch):
    """Metered on the graph itself."""
    levels = []
    expected = None
    for free in (10**12, *(2**power for power in range(24, 14, -1)), 1):
        monkeypatch.setattr(comfy.model_management, "get_free_memory", says(free))
        notes = []
        graph = tiny.Graph(latent=tiny.latent(2, 16))
        seed, _, _ = tiny.optimize(graph, settings=SETTINGS, on_note=notes.append)
        assert len(notes) == 1 and "GB free" in notes[0]
        levels.append(notes[0].split("free: ")[1])
        expected = seed.noise if expected is None else expected
        torch.testing.assert_close(seed.noise, expected, rtol=1e-3, atol=1e-3)
    print(levels)
    assert levels[0].startswith("steps kept") and levels[-1].startswith("by blocks, in main memory")
    assert len(set(levels)) >= 4


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_can_be_asked_for(level):
    notes = []
    settings = replace(SETTINGS, memory=level.name)
    seed, _, _ = tiny.optimize(tiny.Graph(), settings=settings, on_note=notes.append)
    assert seed.semantic[0] < seed.first_semantic[0]
    assert notes == [f"memory: {level.name}, as asked for."]


def test_a_search_is_gone_once_it_has_ended(monkeypatch):
    """It holds the user's models, which the host could not let go."""
    searches = []
    real = optimize.Search.__init__

    def made(self, *arguments, **named):
        searches.append(weakref.ref(self))
        real(self, *arguments, **named)

    monkeypatch.setattr(optimize.Search, "__init__", made)
    gc.collect()
    gc.disable()
    try:
        tiny.optimize(tiny.Graph(), settings=SETTINGS, on_note=print, on_so_far=lambda *_: None)
    finally:
        gc.enable()
    assert searches and searches[0]() is None


# --- a small decoder ------------------------------------------------------------------------------


def taesd() -> comfy.sd.VAE:
    """As the host loads its file, with random weights."""
    small = comfy.taesd.taesd.TAESD()
    randomize(small, 7)
    return comfy.sd.VAE(sd=small.state_dict())


@pytest.mark.parametrize("make", [lambda: tiny.vae(seed=7), taesd])
def test_a_small_vae_guides_all_but_the_last_iterations(make):
    graph = tiny.Graph(latent=tiny.latent(2))
    graph.inputs["search_vae"] = small = make()
    used = []
    for name, vae in (("small", small), ("real", graph.vae)):
        autoencoder = vae.first_stage_model
        decoder = getattr(autoencoder, "taesd_decoder", None) or autoencoder.decoder
        decoder.register_forward_hook(lambda *_, name=name: used.append(name))
    settings = replace(SETTINGS, iterations=6)
    seed, *_ = tiny.optimize(graph, settings=settings)
    begun = len(used) - used[::-1].index("small")  # where the small one was used last
    assert used[:begun].count("small") > 4 and set(used[begun:]) == {"real"}
    # What is told is by the real VAE: the very losses of a search that does no more than look.
    graph.inputs["search_vae"] = None
    looked, _, _ = tiny.optimize(graph, settings=replace(SETTINGS, iterations=0), start=seed)
    assert looked.semantic == pytest.approx(seed.semantic, rel=1e-4)
    first, _, _ = tiny.optimize(graph, settings=replace(SETTINGS, iterations=0))
    assert first.semantic == pytest.approx(seed.first_semantic, rel=1e-4)
    assert all(now < then for now, then in zip(seed.semantic, seed.first_semantic, strict=True))


def test_a_small_vae_for_other_latents_is_refused_by_name():
    graph = tiny.Graph(latent=tiny.latent(1))
    graph.inputs["search_vae"] = pixels = tiny.vae()
    pixels.latent_channels = 3
    with pytest.raises(SeedSelectError, match=r"^search_vae: "):
        tiny.optimize(graph, settings=SETTINGS)


# --- the image encoder ----------------------------------------------------------------------------


def test_an_encoder_of_half_precision_keeps_no_weights_that_it_casts(monkeypatch):
    made = []
    real = saved._MadeWeight.tensor
    monkeypatch.setattr(saved._MadeWeight, "tensor", lambda self: made.append(self) or real(self))
    graph = tiny.Graph()
    graph.encoder.clip_vision.model.half()
    settings = replace(SETTINGS, memory=WHOLE.name)
    seed, _, _ = tiny.optimize(graph, settings=settings)
    layers = {type(stand_in._layer).__name__ for stand_in in made}
    assert len(made) > 10 and "Linear" in layers
    monkeypatch.setattr(saved, "_makes_weights", lambda layer: False)
    kept, _, _ = tiny.optimize(graph, settings=settings)
    torch.testing.assert_close(seed.noise, kept.noise)
