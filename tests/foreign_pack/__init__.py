"""A node pack with a sampler of every kind that packs bring: it stands for the public ones."""

import functools
import itertools

import comfy.k_diffusion.sampling
import comfy.samplers
import torch

from . import elsewhere


def steps(x, model, sigmas, extra_args, step):
    """Euler's method, with a step of one's own."""
    for now, then in itertools.pairwise(sigmas):
        denoised = model(x, now * x.new_ones([len(x)]), **extra_args)
        x = step(x, (x - denoised) / now, then - now)
    return x


def plain_step(x, slope, length):
    return x + slope * length


def sample_pack_exact(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, plain_step)


@torch.no_grad()
def sample_pack_decorated(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, plain_step)


def sample_pack_no_grad(model, x, sigmas, extra_args=None, callback=None, disable=None):
    with torch.no_grad():
        return steps(x, model, sigmas, extra_args, plain_step)


def sample_pack_inference(model, x, sigmas, extra_args=None, callback=None, disable=None):
    with torch.inference_mode():
        return steps(x, model, sigmas, extra_args, plain_step)


def sample_pack_elsewhere(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, elsewhere.step)


def sample_pack_detached(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, elsewhere.half_detached)


def sample_pack_data(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, lambda x, d, h: x.data + d * h)


def sample_pack_inplace(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x.mul_(1.0), model, sigmas, extra_args, lambda x, d, h: x.add_(d * h))


def sample_pack_saved(model, x, sigmas, extra_args=None, callback=None, disable=None):
    def step(x, slope, length):
        curved = x.tanh()
        curved += 1.0  # tanh has saved it
        return x + slope * length + 0.0 * curved

    return steps(x, model, sigmas, extra_args, step)


def sample_pack_double(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, plain_step).double()


def sample_pack_slope(model, x, sigmas, extra_args=None, callback=None, disable=None):
    return steps(x, model, sigmas, extra_args, elsewhere.along_half_the_slope)


def sample_pack_numpy(model, x, sigmas, extra_args=None, callback=None, disable=None):
    def step(x, slope, length):
        return torch.from_numpy(x.numpy() + (slope * length).numpy())

    return steps(x, model, sigmas, extra_args, step)


def sample_pack_broken(model, x, sigmas, extra_args=None, callback=None, disable=None):
    raise RuntimeError("pack_broken: this sampler never works")


ADDED = [name for name in dir() if name.startswith("sample_pack_")]
for added in ADDED:
    setattr(comfy.k_diffusion.sampling, added, globals()[added])
    comfy.samplers.SAMPLER_NAMES.append(added.removeprefix("sample_"))
# Only nodes of the pack can sample with this one.
comfy.samplers.SAMPLER_NAMES.append("pack_without_function")


class Callable:
    """A sampler function that has no name."""

    def __call__(self, model, x, sigmas, extra_args=None, callback=None, disable=None):
        return sample_pack_exact(model, x, sigmas, extra_args)


class Own(comfy.samplers.Sampler):
    """A SAMPLER that is none of the host's."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *rest):
        model_sampling = model_wrap.inner_model.model_sampling
        x = model_sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
        extra_args = {**extra_args, "seed": 0}
        return steps(x, model_wrap, sigmas, extra_args, plain_step)


class Node:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"strength": ("FLOAT", {"default": 1.0}), "kind": (["a", "b"],)}}


class PackObject(Node):
    def make(self, strength, kind):
        return (comfy.samplers.KSAMPLER(Callable()),)


class PackPartial(Node):
    def make(self, strength, kind):
        return (comfy.samplers.KSAMPLER(functools.partial(sample_pack_exact, disable=True)),)


class PackOwn(Node):
    def make(self, strength, kind):
        return (Own(),)


class PackNeedsModel(Node):
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def make(self, model):
        return (comfy.samplers.sampler_object("euler"),)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind for kind in (PackObject, PackPartial, PackOwn, PackNeedsModel)
}
