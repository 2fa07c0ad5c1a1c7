"""The host's own samplers, recording gradients.

| what is patched | why | what puts it back |
| --- | --- | --- |
| functions of `comfy.k_diffusion.sampling` | ``no_grad``, ``detach`` | `differentiable_samplers` |
| functions of a foreign sampler's module | the same | `without_no_grad` |
| `PIDStepSizeController` | it makes Python numbers | `differentiable_step_sizes` |
| PyTorch's generators | draws differ from run to run | `FixedRng` |

Tried on the hosts that docs/hosts.md lists as proven.

- The decorator keeps the plain function, and since a sampler may call further decorated functions
  of its module, all of them are exchanged.
- Some (`sample_deis`, `sample_ipndm_v`) detach the predictions of earlier steps before they use
  them again. Here ``detach`` returns the tensor itself, whose values are the same.
- Most samplers make a generator of their own from the seed. Some (`sample_lcm_upscale`, euler with
  churn, many of other makes) call ``torch.randn_like``, so that every iteration would sample along
  another path and none along the one that sampling from the seed takes.
"""

import contextlib
import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence

import comfy.k_diffusion.sampling
import comfy.model_management
import comfy.samplers
import torch

from ..errors import NoGradient, SeedSelectError
from ..text import quoted
from .layers import differentiable_slerp
from .needs import Need, exchanged
from .weights import ordinary_view

NEEDS = (
    Need("comfy.samplers:KSAMPLER.sample", ("model_wrap", "sigmas", "extra_args", "callback")),
    Need("comfy.samplers:sampler_object", ("name",)),
    Need("comfy.k_diffusion.sampling:PIDStepSizeController.propose_step", ("error",)),
)


# ---------------------------------------------------------------- which samplers

# Samplers of which a picture comes out the same alone and in a batch. The others draw noise for the
# batch as a whole, or one step size for it ("dpm_adaptive").
BATCH_INDEPENDENT = (
    "euler",
    "euler_cfg_pp",
    "heun",
    "heunpp2",
    "exp_heun_2_x0",
    "dpm_2",
    "lms",
    "dpm_fast",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)

# Name of the sampler, and a sentence for the user.
REFUSED: dict[str, str] = {
    "ar_video": (
        "It draws a video block by block and keeps what the model remembers of one block for the "
        "next, which a gradient cannot follow. Choose another sampler, such as euler."
    ),
}

# Node packs that add names to the host's lists, by how the names begin: seeds travel with them.
PACKS: dict[str, str] = {
    "res_": "RES4LYF",
    "deis_": "RES4LYF",
    "rk_": "RES4LYF",
    "beta57": "RES4LYF",
    "bong_tangent": "RES4LYF",
}


def sampler_name(sampler: comfy.samplers.Sampler) -> str:
    """The host's name of a SAMPLER: "euler", "ddim"; else that of its function or class."""
    wanted = _identity(sampler)
    for name in comfy.samplers.SAMPLER_NAMES:
        # A node pack may have put a name on the list that only its own nodes can sample with.
        with contextlib.suppress(Exception):
            if _identity(comfy.samplers.sampler_object(name)) == wanted:
                return name
    return wanted[1].rpartition(".")[2].removeprefix("sample_").removesuffix("_function")


def _identity(sampler: comfy.samplers.Sampler) -> tuple:
    """What two SAMPLERs of the same name have in common, however their options differ."""
    function = getattr(sampler, "sampler_function", type(sampler))
    while hasattr(function, "func"):
        function = function.func
    if not hasattr(function, "__qualname__"):
        function = type(function)
    # "ddim" is euler that takes other noise for what an inpainting mask keeps.
    random = getattr(sampler, "inpaint_options", {}).get("random", False)
    return function.__module__, function.__qualname__, random


def sampler_of(name: str) -> comfy.samplers.Sampler:
    """The host's SAMPLER of a name.

    Raises:
        SeedSelectError: the host does not know the name, or no function stands behind it.
    """
    _require_name("sampler_name", name, comfy.samplers.SAMPLER_NAMES)
    try:
        return comfy.samplers.sampler_object(name)
    except Exception as error:
        raise SeedSelectError(
            f"sampler: '{name}' is on ComfyUI's list, and no function stands behind it: another "
            "node pack has put it there for nodes of its own. Choose another sampler, such as "
            "euler or ddim."
        ) from quoted(error)


def require_scheduler(name: str) -> None:
    """Raise `SeedSelectError` where the host does not know a scheduler: it would take another."""
    _require_name("scheduler", name, comfy.samplers.SCHEDULER_NAMES)


def _require_name(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        pack = next((pack for start, pack in PACKS.items() if name.startswith(start)), None)
        raise SeedSelectError(
            f"{what}: this ComfyUI has no '{name}'. It comes with {pack or 'another node pack'}: "
            f"install that, or set {what} to one that is there."
        )


def require_sampler(sampler: comfy.samplers.Sampler) -> None:
    """Raise `SeedSelectError` for a sampler whose gradient cannot be taken."""
    name = sampler_name(sampler)
    if name in REFUSED:
        raise NoGradient(f"sampler: '{name}' cannot be optimized through. {REFUSED[name]}")


@contextlib.contextmanager
def differentiable_samplers() -> Iterator[None]:
    """Let gradients through the host's sampling functions for the length of a run."""
    with (
        plain_functions(vars(comfy.k_diffusion.sampling)),
        differentiable_step_sizes(),
        differentiable_slerp(),
    ):
        yield


class _Recorded(comfy.samplers.Sampler):
    """A sampler that records gradients and takes the same path each time."""

    def __init__(self, sampler: comfy.samplers.Sampler):
        self._sampler = copy.copy(sampler)
        self._rng = FixedRng()
        if isinstance(sampler, comfy.samplers.KSAMPLER):
            function = sampler.sampler_function
            self._sampler.sampler_function = _with_own_sigmas(plain_function(function))
            self._sample = self._sampler.sample
        else:
            function = type(sampler).sample
            self._sample = plain_function(self._sampler.sample)
        # A sampler of another make may call decorated functions of its own module.
        self._namespace = namespace_of(function)

    def sample(self, model_wrap, sigmas, extra_args, callback, *latents):
        def on_step(step, denoised, x, total):
            # Some samplers add noise to the very tensor that they have shown as the prediction.
            callback(step, denoised.clone(), x, total)

        with self._rng.replayed(), plain_functions(self._namespace):
            # uni_pc writes to the last sigma, and the next run must not start from that.
            return self._sample(model_wrap, sigmas.clone(), extra_args, on_step, *latents)


def _with_own_sigmas(plain):
    def function(model, noise, sigmas, **options):
        # uni_pc writes to the last sigma after the first was saved for the backward pass. The view
        # is of the same memory, as the host relies on, but autograd counts its changes apart.
        return plain(model, noise, ordinary_view(sigmas), **options)

    return function


def without_no_grad(sampler: comfy.samplers.Sampler) -> comfy.samplers.Sampler:
    """``sampler`` with gradients, drawing the same noise whenever it is called."""
    return _Recorded(sampler)


# ---------------------------------------------------------------- unwrapped

# What ``torch.no_grad()`` and ``torch.inference_mode()`` put around a function, and nothing else:
# other decorators do something that the function needs.
_DECORATED = torch.no_grad()(lambda: None).__code__


def plain_function(function: Callable) -> Callable:
    """``function`` with gradients; itself where nothing stands in their way."""
    if isinstance(function, functools.partial):
        plain = plain_function(function.func)
        return functools.partial(plain, *function.args, **function.keywords)
    if inspect.ismethod(function):
        return types.MethodType(plain_function(function.__func__), function.__self__)
    while getattr(function, "__code__", None) is _DECORATED:
        function = function.__wrapped__
    return _attached(function) if inspect.isfunction(function) else function


def namespace_of(function: Callable) -> dict:
    """Of the module in which ``function`` was written; empty where there is none to be found."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(inspect.unwrap(function), "__globals__", {})


def _attached(function: types.FunctionType) -> types.FunctionType:
    """The same function, calling ``x.positive()``, which is x, where it called ``x.detach()``."""
    code = function.__code__
    if "detach" not in code.co_names:
        return function
    names = tuple("positive" if name == "detach" else name for name in code.co_names)
    attached = types.FunctionType(
        code.replace(co_names=names),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    attached.__kwdefaults__ = function.__kwdefaults__
    return attached


@contextlib.contextmanager
def plain_functions(namespace: dict) -> Iterator[None]:
    """Exchange every function of a module's ``namespace`` by its `plain_function`, and back."""
    before = {name: value for name, value in namespace.items() if inspect.isfunction(value)}
    try:
        namespace.update({name: plain_function(value) for name, value in before.items()})
        yield
    finally:
        namespace.update(before)


# ---------------------------------------------------------------- step sizes


def _differentiable(controller: type) -> type:
    """The host's controller; its numbers are the values, the same formula on tensors the slope."""

    class StepSizes(controller):
        def __init__(self, h, *args, **kwargs):
            super().__init__(h, *args, **kwargs)
            self._value = h
            self._slope = h
            self._inverses = []

        def propose_step(self, error: torch.Tensor) -> bool:
            self.h = self._value
            accept = super().propose_step(error.detach())
            self._value = self.h
            inverse = 1 / (error + self.eps)
            one, two, three = inverse, *(self._inverses or (inverse, inverse))
            factor = one**self.b1 * two**self.b2 * three**self.b3
            self._slope = self._slope * (1 + (factor - 1).atan())
            self._inverses = [one, two] if accept else [two, three]
            # Adds zero to the value, so that sampling is the host's to the last bit.
            self.h = error.new_tensor(self._value) + (self._slope - self._slope.detach())
            return accept

    return StepSizes


@contextlib.contextmanager
def differentiable_step_sizes() -> Iterator[None]:
    """Let the host's adaptive solver make its step sizes with a gradient.

    "dpm_adaptive" chooses each step from the error of the last, which depends on the noise. The
    host turns that error into a Python number, and the gradient would lack what the noise does to
    the times at which the model is asked.
    """
    with exchanged(comfy.k_diffusion.sampling, "PIDStepSizeController", _differentiable):
        yield


# ---------------------------------------------------------------- replayed draws


class FixedRng:
    """The state of the generators when this was made, which is when the host starts to sample."""

    def __init__(self):
        self._first = [read() for read, _ in _generators()]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw from that state, and leave the generators as they were before."""
        before = [read() for read, _ in _generators()]
        try:
            _write(self._first)
            yield
        finally:
            _write(before)


def _generators() -> list[tuple[Callable, Callable]]:
    device = comfy.model_management.get_torch_device()
    places = [torch]
    if device.type != "cpu" and hasattr(torch.get_device_module(device), "get_rng_state"):
        places.append(torch.get_device_module(device))
    return [(place.get_rng_state, place.set_rng_state) for place in places]


def _write(states: list[torch.Tensor]) -> None:
    for (_, write), state in zip(_generators(), states, strict=True):
        write(state)
