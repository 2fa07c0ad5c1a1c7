"""What a graph keeps for itself: tensors made in inference mode, and memory between model calls."""

import types

import pytest
import torch

import tiny
from gradients import small_unet
from gradients.conditioning import attachments, guiders
from gradients.conditioning import prompts as conditioning
from gradients.measure import examine
from seedselect_core.errors import SeedSelectError
from seedselect_core.host import calls
from seedselect_core.host.calls import GuiderState, require_same
from seedselect_core.host.session import OrdinaryViews


def _memory(**remembered) -> tuple[GuiderState, types.SimpleNamespace]:
    """Of a guider that remembers something."""
    patcher = tiny.model()
    patcher.model.current_patcher = patcher
    guider = types.SimpleNamespace(inner_model=patcher.model, **remembered)
    return GuiderState(guider, {}, OrdinaryViews()), guider


@torch.inference_mode()
def _made_by_a_node(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def test_an_inference_tensor_can_be_saved_for_the_backward_pass():
    kept = _made_by_a_node(3)
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        (kept * x).sum()
    with OrdinaryViews():
        y = (torch.cat([kept, kept]) * torch.cat([x, x])).sum()
    assert torch.equal(torch.autograd.grad(y, x)[0], torch.full((3,), 2.0))
    assert kept.is_inference()


def test_what_is_written_to_an_inference_tensor_keeps_its_history():
    kept = _made_by_a_node(3)
    x = torch.ones(3, requires_grad=True)
    with OrdinaryViews() as views:
        before = views.as_used(kept)._version
        kept.mul_(2).add_(3 * x)
        y = (kept * kept).sum()
        assert views.as_used(kept)._version > before
    assert kept[0].item() == 5
    assert torch.equal(torch.autograd.grad(y, x)[0], torch.full((3,), 30.0))


def test_a_view_follows_a_tensor_to_other_memory():
    kept = _made_by_a_node(3)
    with OrdinaryViews():
        assert (kept + 0).sum() == 3
        with torch.inference_mode():
            kept.set_(torch.zeros(2))
        assert (kept + 0).tolist() == [0, 0]


def test_memory_is_recalled_and_put_back_even_after_an_error():
    count = 0

    def patch():
        nonlocal count
        count += 1

    generator = torch.Generator().manual_seed(3)
    memory, guider = _memory(patch=patch, kept={"seen": [1]}, generator=generator)
    state = memory.snapshot()
    drawn = torch.randn(2, generator=generator)
    patch()
    guider.kept["seen"].append(2)
    guider.more = "later"
    with pytest.raises(ZeroDivisionError), memory.restored(state):
        assert (count, guider.kept, hasattr(guider, "more")) == (0, {"seen": [1]}, False)
        assert torch.equal(torch.randn(2, generator=generator), drawn)
        _ = 1 / 0
    assert (count, guider.kept, guider.more) == (1, {"seen": [1, 2]}, "later")
    assert not torch.equal(torch.randn(2, generator=generator), drawn)


def test_a_tensor_that_was_overwritten_is_recalled():
    memory, guider = _memory(mean=torch.zeros(2), constant=torch.ones(2))
    mean = guider.mean
    constant = guider.constant
    state = memory.snapshot()
    mean.add_(1)
    with memory.restored(state):
        assert torch.equal(guider.mean, torch.zeros(2))
        assert guider.constant is constant
        guider.mean.add_(5)
    assert guider.mean is mean
    assert torch.equal(mean, torch.ones(2))


def test_a_call_that_gives_something_else_is_refused():
    first = torch.ones(4)
    require_same(first + 1e-4, first)
    for other in (first * 1.1, first * float("nan")):
        with pytest.raises(SeedSelectError, match="gives something else"):
            require_same(other, first)


def test_memory_out_of_reach_is_refused_and_not_silently_wrong():
    _SEEN.clear()
    build = attachments.wrapped("diffusion_model", _out_of_reach)
    assert "gives something else" in examine(build).refusal


# A function's globals are out of reach.
_SEEN: list[int] = []


def _out_of_reach(tensor, executor, *args, **kwargs):
    _SEEN.append(1)
    return executor(*args, **kwargs) * len(_SEEN)


@pytest.mark.parametrize("forgotten", ["snapshot", "restored"])
def test_keyframes_are_wrong_without_the_memory(monkeypatch, forgotten):
    empty = calls.Snapshot([], {})
    monkeypatch.setattr(calls, "LIMIT", float("inf"))
    if forgotten == "snapshot":
        monkeypatch.setattr(GuiderState, "snapshot", lambda self: empty)
    else:
        restored = GuiderState.restored
        monkeypatch.setattr(GuiderState, "restored", lambda self, state: restored(self, empty))
    build = conditioning.hooked_build(conditioning.hooks()["LoRA hook, keyframes"])
    assert examine(build).verdict == "wrong"


def test_every_guider_of_the_host_has_a_row():
    rows = {case.name.split(",")[0] for case in guiders.cases()}
    assert guiders.guider_nodes() <= rows


def test_the_rows_are_of_graphs_that_differ_from_the_plain_one():
    """A ControlNet that reaches no block, say, would be exact as well."""
    from gradients.conditioning import controlnets
    from gradients.measure import sample

    with torch.inference_mode():
        plain = sample(small_unet.graph(torch.float32))
        for name in ("ControlNet", "ControlLora", "T2I-Adapter", "GLIGENTextBoxApply"):
            graph = controlnets.on_unet()[name](torch.float32)
            changed = sample(graph)
            for part in graph.guider.original_conds.values():
                for cond in part:
                    cond.pop("control", None)
                    cond.pop("gligen", None)
            without = sample(graph)
            assert (changed - without).norm() > 0.02 * plain.norm(), name
