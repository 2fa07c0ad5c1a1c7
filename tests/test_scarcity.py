"""Memory runs out, at any moment: the search goes on, or ends with figures and the best so far."""

import random
import sys
from dataclasses import replace

import comfy.model_management
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from seedselect_core.errors import SeedSelectError
from seedselect_core.memory.failures import out_of_memory
from seedselect_core.memory.levels import AUTOMATIC, AWAY, BLOCKS, KEPT, PROMPTS, WHOLE
from seedselect_core.search import optimize

FULL = comfy.model_management.OOM_EXCEPTION
SETTINGS = tiny.settings(iterations=3, learning_rate=0.5, optimizer="sgd")
PARTS = {
    "model": lambda graph: graph.model.model.diffusion_model,
    "decoder": lambda graph: graph.vae.first_stage_model.decoder,
    "encoder": lambda graph: graph.encoder.clip_vision.model.vision_model,
}
BETWEEN = "between"  # the backward passes too


# --- at any allocation ----------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Notes what asks for memory, or refuses some of it.

    Args:
        graph: the part that asks is told by its modules; None where nobody asks for it.
        refused: the numbers of the allocations that are refused, counted from 0.

    Attributes:
        parts: of all allocations, in order.
    """

    def __init__(self, graph: tiny.Graph | None = None, refused=()):
        super().__init__()
        self.parts = []
        self._count = 0
        self._refused = refused
        self._owners = {id(part(graph)): name for name, part in PARTS.items()} if graph else {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(returned.alias_info is None for returned in function._schema.returns):
            if self._owners:
                self.parts.append(self._part())
            self._count += 1
            if self._count - 1 in self._refused:
                raise FULL("CUDA out of memory.")
        return function(*args, **(kwargs or {}))

    def _part(self) -> str:
        """Found on the stack: what hooks remember belongs to the guider's state."""
        frame = sys._getframe()
        while frame is not None:
            name = self._owners.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return BETWEEN


def some_of(allocations: Allocations, count: int, until: float = 1.0) -> list[int]:
    """Numbers of allocations in every part, drawn at random from so much of the search."""
    whole = allocations.parts[: int(until * len(allocations.parts))]
    numbers = {part: [] for part in (*PARTS, BETWEEN)}
    for number, part in enumerate(whole):
        numbers[part].append(number)
    drawn = random.Random(len(whole))
    return [number for each in numbers.values() for number in drawn.sample(each, count)]


def searched(monkeypatch, graph: tiny.Graph, settings, allocations=None, **more):
    """`tiny.optimize` whose search, from the plan to the last picture, meets ``allocations``."""
    real = optimize._checked

    def met(*arguments):
        search = real(*arguments)

        def scarce(chain, noise):
            with allocations:
                return search(chain, noise)

        return scarce

    with monkeypatch.context() as patch:
        if allocations is not None:
            patch.setattr(optimize, "_checked", met)
        return tiny.optimize(graph, settings=settings, **more)


def weights_of(graph: tiny.Graph) -> list[torch.Tensor]:
    return [w for part in PARTS.values() for w in part(graph).parameters()]


def left_as_it_was(graph: tiny.Graph) -> bool:
    modules = [m for part in PARTS.values() for m in part(graph).modules()]
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    flags = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    plain = not any("forward" in vars(module) for module in modules)
    return hooks is None and flags == (True, False) and plain


@pytest.mark.parametrize("level", [AUTOMATIC, *(x.name for x in (KEPT, WHOLE, PROMPTS, BLOCKS))])
def test_the_same_seed_is_found_where_memory_runs_out(monkeypatch, level):
    settings = replace(SETTINGS, memory=level)
    graph = tiny.Graph(latent=tiny.latent(2))
    quiet = Allocations(graph)
    expected, _, _ = searched(monkeypatch, graph, settings, quiet)
    for number in some_of(quiet, 2):
        graph = tiny.Graph(latent=tiny.latent(2))
        before = [(w, w.clone(), w.requires_grad) for w in weights_of(graph)]
        seed, _, _ = searched(monkeypatch, graph, settings, Allocations(refused=[number]))
        torch.testing.assert_close(seed.noise, expected.noise, rtol=1e-3, atol=1e-3)
        assert left_as_it_was(graph)
        for now, (weight, bytes_before, asked) in zip(weights_of(graph), before, strict=True):
            assert now is weight and torch.equal(now, bytes_before) and now.requires_grad == asked


def test_the_last_level_goes_on_without_a_gradient(monkeypatch):
    settings = replace(SETTINGS, memory=AWAY.name)
    graph = tiny.Graph()
    quiet = Allocations(graph)
    searched(monkeypatch, graph, settings, quiet)
    for number in some_of(quiet, 2, until=0.5):
        graph = tiny.Graph()
        notes = []
        scarce = Allocations(refused=[number])
        seed, _, _ = searched(monkeypatch, graph, settings, scarce, on_note=notes.append)
        assert notes[-1].endswith("no gradient.")
        assert seed.semantic[0] <= seed.first_semantic[0]
        assert left_as_it_was(graph)


def test_the_error_after_the_last_level_leaves_all_as_it_was(monkeypatch):
    graph = tiny.Graph(latent=tiny.latent(2))
    quiet = Allocations(graph)
    searched(monkeypatch, graph, SETTINGS, quiet)
    for number in some_of(quiet, 2):
        graph = tiny.Graph(latent=tiny.latent(2))
        scarce = Allocations(refused=range(number, 10**9))
        with pytest.raises(SeedSelectError, match="out of memory"):
            searched(monkeypatch, graph, SETTINGS, scarce)
        assert left_as_it_was(graph)


# --- at a layer -----------------------------------------------------------------------------------


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


def test_out_of_memory_between_the_parts(monkeypatch):
    """Where latents are made into pictures, which is no layer."""
    expected, _, _ = tiny.optimize(tiny.Graph(), settings=SETTINGS)
    graph = tiny.Graph()
    calls = []
    real = graph.model.model.process_latent_out

    def scarce(latent):
        calls.append(latent)
        if len(calls) == 4:
            raise FULL("CUDA out of memory.")
        return real(latent)

    monkeypatch.setattr(graph.model.model, "process_latent_out", scarce)
    seed, _, _ = tiny.optimize(graph, settings=SETTINGS)
    assert len(calls) > 4
    torch.testing.assert_close(seed.noise, expected.noise, rtol=1e-3, atol=1e-3)


def test_plain_pictures_are_drawn_one_by_one_where_a_batch_does_not_fit():
    expected, drawn, _ = tiny.optimize(tiny.Graph(latent=tiny.latent(2)), settings=SETTINGS)
    graph = tiny.Graph(latent=tiny.latent(2))

    def scarce(module, args):
        if len(args[0]) > 2:  # two seeds under two prompts
            raise FULL("CUDA out of memory.")

    graph.model.model.diffusion_model.register_forward_pre_hook(scarce)
    seed, alone, _ = tiny.optimize(graph, settings=SETTINGS)
    torch.testing.assert_close(seed.noise, expected.noise, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alone["samples"], drawn["samples"], rtol=1e-3, atol=1e-2)


def test_weights_leave_the_device_where_nothing_fits(monkeypatch):
    asked = []
    monkeypatch.setattr(
        comfy.model_management, "free_memory", lambda size, device: asked.append(size)
    )

    def none(device=None, torch_free_too=False):
        return (1, 1) if torch_free_too else 1

    monkeypatch.setattr(comfy.model_management, "get_free_memory", none)
    seed, _, _ = tiny.optimize(tiny.Graph(), settings=SETTINGS)
    assert len(asked) == 1 and asked[0] > 1000
    assert seed.semantic[0] < seed.first_semantic[0]


@pytest.mark.doubts
def test_the_check_of_the_gradient_goes_on_with_less():
    graph = tiny.Graph()
    # One call is metered, two samplings of three steps, and then the first gradient.
    Full(graph.model.model.diffusion_model.out, 9)
    notes = []
    seed, _, _ = tiny.optimize(graph, settings=SETTINGS, on_note=notes.append)
    assert "Nobody has tried" in notes[1] and "Out of memory" in notes[2]
    assert seed.semantic


def test_progress_still_ends_where_it_was_planned():
    graph = tiny.Graph()
    Full(graph.model.model.diffusion_model.out, 8)
    seen = []
    tiny.optimize(graph, settings=SETTINGS, on_progress=seen.append)
    assert seen[-1].done == seen[-1].planned


def test_the_error_comes_after_the_last_level_and_the_best_is_kept():
    graph = tiny.Graph()
    Full(graph.model.model.diffusion_model.out, 8, always=True)
    kept = []
    notes = []
    with pytest.raises(SeedSelectError, match=r"out of memory.*The best seed so far is kept"):
        tiny.optimize(graph, settings=SETTINGS, on_unfinished=kept.append, on_note=notes.append)
    assert len(kept) == 1 and "no gradient" in notes[-1]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    assert out_of_memory(MemoryError()) and out_of_memory(FULL("full"))
    assert not out_of_memory(RuntimeError("shapes"))
