"""The host's samplers made differentiable: same values, a gradient, put back afterwards."""

import contextlib
import functools

import comfy.k_diffusion.sampling
import comfy.samplers
import comfy.utils
import pytest
import torch

import tiny
from gradients.double import in_double
from seedselect_core.host.samplers import (
    differentiable_samplers,
    plain_function,
    sampler_name,
    without_no_grad,
)
from tiny import Broken


def test_samplers_are_unwrapped_and_wrapped_again():
    module = comfy.k_diffusion.sampling
    before = dict(vars(module))
    bislerp = comfy.utils.bislerp
    with pytest.raises(Broken), differentiable_samplers():
        changed = {name for name in before if vars(module)[name] is not before[name]}
        assert {"sample_euler", "sample_dpmpp_2m_sde", "sample_euler_ancestral_RF"} <= changed
        assert {"sample_ipndm_v", "sample_deis", "PIDStepSizeController"} <= changed
        assert not any(hasattr(vars(module)[name], "__wrapped__") for name in changed)
        assert module.BatchedBrownianTree.sort is before["BatchedBrownianTree"].sort
        assert comfy.utils.bislerp is not bislerp
        raise Broken
    assert all(vars(module)[name] is before[name] for name in before)
    assert comfy.utils.bislerp is bislerp


def test_functions_are_unwrapped_of_no_grad_alone():
    @contextlib.contextmanager
    def other():
        yield

    def detaching(x, *, factor=2.0):
        return x.detach() * factor

    assert plain_function(other) is other
    assert plain_function(len) is len
    decorated = torch.inference_mode()(torch.no_grad()(detaching))
    for plain in (plain_function(decorated), functools.partial(plain_function(detaching))):
        x = torch.ones(2, requires_grad=True)
        (gradient,) = torch.autograd.grad(plain(x, factor=3.0).sum(), x)
        assert torch.equal(gradient, torch.full((2,), 3.0))
    assert not detaching(x).requires_grad  # the original is as it was


@pytest.mark.parametrize("errors", [(0.2, 3.0, 0.02), (1e-3, 2e-3, 5e-3)])
def test_step_sizes_are_the_host_s_and_have_a_gradient(errors):
    """Here against differences with rejected steps and all three terms of the controller."""
    arguments = (0.05, 0.2, 1.0, 0.1, 3, 0.81)
    host = comfy.k_diffusion.sampling.PIDStepSizeController(*arguments)
    answers = [host.propose_step(torch.tensor(error)) for error in errors]

    def last(scale, kind=torch.float64):
        with differentiable_samplers():
            sizes = comfy.k_diffusion.sampling.PIDStepSizeController(*arguments)
        assert [sizes.propose_step(scale * torch.tensor(e, dtype=kind)) for e in errors] == answers
        return sizes.h

    assert torch.equal(last(1.0, torch.float32), torch.tensor(host.h, dtype=torch.float32))
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(last(scale), scale)
    difference = (last(1 + 1e-6) - last(1 - 1e-6)) / 2e-6
    assert abs(slope - difference) < 1e-6 * abs(slope)


@pytest.mark.parametrize("size", [8, 12])
def test_spherical_upscaling_has_a_gradient(size):
    before = tiny.normal(1, 4, 8, 8).double().requires_grad_()
    plain = comfy.utils.bislerp(before.detach().float(), size, size)
    with differentiable_samplers():
        assert torch.equal(comfy.utils.bislerp(before.detach().float(), size, size), plain)
        with in_double():
            after = comfy.utils.bislerp(before, size, size)
            weights = tiny.normal(*after.shape, seed=1).double()
            (gradient,) = torch.autograd.grad((weights * after).sum(), before)
            direction = tiny.normal(*before.shape, seed=2).double()
            ends = [
                comfy.utils.bislerp(before.detach() + h * direction, size, size)
                for h in (1e-5, -1e-5)
            ]
    slope = ((ends[0] - ends[1]) * weights).sum() / 2e-5
    assert abs((gradient * direction).sum() - slope) < 1e-6 * gradient.norm()


class _Callable:
    def __call__(self, model, x, sigmas, **options):
        return x

    def method(self, model, x, sigmas, **options):
        return x


class _Own(comfy.samplers.Sampler):
    def sample(self, *args):
        return args[4]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: comfy.samplers.KSAMPLER(_Callable()), "_Callable"),
        (lambda: comfy.samplers.KSAMPLER(_Callable().method), "method"),
        (lambda: comfy.samplers.KSAMPLER(functools.partial(_Callable())), "_Callable"),
        (lambda: comfy.samplers.KSAMPLER(lambda model, x, sigmas, **options: x), "<lambda>"),
        (lambda: comfy.samplers.KSAMPLER(len), "len"),
        (_Own, "_Own"),
    ],
)
def test_a_sampler_that_has_no_name_of_the_host_s_is_none_the_less_called_something(
    make, name, monkeypatch
):
    """Also where the host's list holds a name that no function stands behind."""
    monkeypatch.setattr(comfy.samplers, "SAMPLER_NAMES", ["gone", *comfy.samplers.SAMPLER_NAMES])
    sampler = make()
    assert sampler_name(sampler) == name
    assert without_no_grad(sampler) is not sampler
