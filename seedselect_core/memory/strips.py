"""Image decoders differentiated in strips of rows, so that their widest layers need little memory.

A decoder is local: but for the attention at its lowest resolution, a row of what a block makes
depends on a few rows of what it is given. So the backward pass of a block can run over one strip of
rows after the other, each with a margin on both sides as wide as the convolutions reach (its halo),
and only the activations of one strip are alive. What is not local in such blocks are group norms,
whose mean and deviation are those of the whole picture:

    x_k = f_k(x, s_1, ..., s_k-1)    input of the k-th group norm: local
    s_k = statistics of x_k          over the whole picture
    y   = f(x, s_1, ..., s_K)        output of the block: local

The forward pass is the host's own, and notes the statistics. The backward pass is that of these
equations: strips of y give the gradient for x and for every s; then, for k from K to 1, that for
s_k gives one for x_k in closed form, and strips of x_k give what it adds to x and to the statistics
before it. Nothing is approximated.

Wide activations between blocks are not kept either: where several blocks follow each other, only
the narrowest place is, and the input of each is made again from there.

How far a block looks is found with a small part of its input, and so is whether all this gives the
gradient of that part. Where it does not, the block is differentiated as a whole, still without
keeping its activations. One that remembers something, or is given more than one tensor, is left
alone.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..host.session import entered_again, function_modes
from ..host.weights import unviewed
from .blocks import put_back, repeated_blocks
from .failures import out_of_memory

# So much of the input or the output of a block, whichever is larger, is a strip; in bytes.
STRIP = 32 * 2**20
# Rows and columns of the part of an input by which a block is examined, and its number of strips.
PROBE = 32
PROBE_STRIPS = 8
# Blocks that are run one after the other to make the input of the next one again.
LONGEST_CHAIN = 3
# Largest relative difference between the gradients by strips and of the whole, in full precision,
# and in units of the last place. What rounding makes of it is below, what is not local far above.
LIMIT = 1e-4
LAST_PLACES = 4

# Types of further arguments that nothing can be differentiated by or written to.
PLAIN = (bool, int, float, str, type(None))
# Where the host notes on a layer which weights of it are on the device.
LOADED = ("_v_weight", "_v_bias", "_v_signature")
GROUP_NORMS = (torch.group_norm, torch.nn.functional.group_norm)
# Names of functions between any two pixels. Linear layers are between channels.
GLOBAL = ("baddbmm", "bmm", "einsum", "matmul", "scaled_dot_product_attention", "softmax")


# ---------------------------------------------------------------- reach


def _vertical(size: int | tuple) -> int:
    """That of rows, of what is given for the last dimensions or for all."""
    if isinstance(size, int):
        return size
    return size[-2] if len(size) > 1 else size[0]


def _convolution(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> int:
    return _vertical(dilation) * (weight.shape[-2] // 2)


def _cudnn_convolution(x, weight, padding, stride, dilation, groups=1, **options) -> int:
    return _convolution(x, weight, dilation=dilation)


def _transposed(
    x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> int:
    return math.ceil(_vertical(dilation) * (weight.shape[-2] - 1) / _vertical(stride))


def _interpolation(x, size=None, scale_factor=None, mode="nearest", *args, **options) -> int:
    return 0 if mode.startswith("nearest") else 2


# Rows above and below that these functions look at, in rows of their input.
REACH = {
    torch.conv2d: _convolution,
    torch.conv3d: _convolution,
    torch.cudnn_convolution: _cudnn_convolution,
    torch.conv_transpose2d: _transposed,
    torch.conv_transpose3d: _transposed,
    torch.nn.functional.interpolate: _interpolation,
}


class _Reach(TorchFunctionMode):
    """How many rows above and below a block looks at, by the functions that it calls.

    Args:
        rows: of the block's input.

    Attributes:
        halo: that number, in rows of the block's input.
        is_local: False if something was called that may look at all of them.
    """

    def __init__(self, rows: int):
        super().__init__()
        self.halo = Fraction(0)
        self.is_local = True
        self._rows = rows

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "").strip("_")
        if name in GLOBAL or (function in GROUP_NORMS and args[0].ndim < 4):
            self.is_local = False
        elif function in REACH:
            # It was enlarged by a whole factor, and padded by less than its own size.
            enlarged = args[0].shape[-2] // self._rows
            self.is_local &= enlarged > 0
            self.halo += Fraction(REACH[function](*args, **kwargs), max(1, enlarged))
        return function(*args, **kwargs)


# ---------------------------------------------------------------- group norms


@dataclass(frozen=True)
class _Norm:
    """What a group norm computes over the whole picture.

    Attributes:
        mean, scale: [B, groups], in float32 or float64; the scale is one by the deviation.
        elements: how many numbers there are in a group.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    elements: int

    def of_input(
        self, x: torch.Tensor, mean_gradient: torch.Tensor, scale_gradient: torch.Tensor
    ) -> torch.Tensor:
        """Gradient for rows ``x`` of the norm's input, given those for mean and scale."""
        grouped = _grouped(x, self.mean.shape[1]).to(self.mean.dtype)
        mean, scale, of_mean, of_scale = (
            _over(statistic, grouped)
            for statistic in (self.mean, self.scale, mean_gradient, scale_gradient)
        )
        found = of_mean - (grouped - mean) * (of_scale * scale**3)
        return found.div_(self.elements).flatten(1, 2)

    def leaf(self) -> "_Norm":
        """The same, with statistics that a gradient can be asked for."""
        mean = self.mean.detach().requires_grad_()
        return _Norm(mean, self.scale.detach().requires_grad_(), self.elements)


def _grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, C, ...] as [B, groups, C / groups, ...]."""
    return x.unflatten(1, (groups, -1))


def _over(statistic: torch.Tensor, grouped: torch.Tensor) -> torch.Tensor:
    return statistic.view(*statistic.shape, *[1] * (grouped.ndim - 2))


def _measured(x: torch.Tensor, groups: int, eps: float, strip: int) -> _Norm:
    """The norm of ``x`` [B, C, ..., H, W], looking at parts of ``strip`` bytes."""
    rows = max(1, strip * x.shape[-2] // x.nbytes)
    shares = []
    means = []
    variances = []
    for part in x.split(rows, dim=-2):
        part = _grouped(part, groups).flatten(2).to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(part, dim=2, correction=0)
        shares.append(part.shape[2])
        means.append(mean)
        variances.append(variance)
    elements = sum(shares)
    weights = torch.tensor(shares, dtype=mean.dtype, device=x.device) / elements
    means = torch.stack(means, -1)
    mean = (means * weights).sum(-1)
    spread = torch.stack(variances, -1) + (means - mean[..., None]).square()
    return _Norm(mean, ((spread * weights).sum(-1) + eps).rsqrt(), elements)


def _normalized(
    x: torch.Tensor, norm: _Norm, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """The group norm of rows ``x`` [B, C, ..., h, W] of a picture, as PyTorch computes it."""
    grouped = _grouped(x, norm.mean.shape[1])
    channels = (1, *grouped.shape[1:3], *[1] * (grouped.ndim - 3))
    scale = _over(norm.scale, grouped)
    if weight is not None:
        scale = scale * weight.view(channels).to(scale.dtype)
    shift = -_over(norm.mean, grouped) * scale
    if bias is not None:
        shift = shift + bias.view(channels).to(scale.dtype)
    return (grouped.to(scale.dtype) * scale + shift).to(x.dtype).flatten(1, 2)


def _norm_call(input, num_groups, weight=None, bias=None, eps=1e-5, *args, **options) -> tuple:
    return input, num_groups, weight, bias, eps


class _Measuring(TorchFunctionMode):
    """Notes the statistics of group norms, in the order of their calls."""

    def __init__(self, strip: int):
        super().__init__()
        self.norms: list[_Norm] = []
        self._strip = strip

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in GROUP_NORMS and args[0].ndim > 3:
            x, groups, _, _, eps = _norm_call(*args, **kwargs)
            self.norms.append(_measured(x.detach(), groups, eps, self._strip))
        return function(*args, **kwargs)


class _Given(TorchFunctionMode):
    """Gives group norms their statistics, in the order of their calls.

    Attributes:
        reached: the input of the first norm for which there were none left.
    """

    def __init__(self, norms: list[_Norm]):
        super().__init__()
        self.reached: torch.Tensor | None = None
        self._norms = iter(norms)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function not in GROUP_NORMS or self.reached is not None:
            return function(*args, **kwargs)
        x, _, weight, bias, _ = _norm_call(*args, **kwargs)
        norm = next(self._norms, None)
        if norm is None:
            self.reached = x
            return x.detach().clone()
        return _normalized(x, norm, weight, bias)


# ---------------------------------------------------------------- the gradient of a block


class _Reached(BaseException):
    """The norm that a strip was to be run to has been reached; no error, so that none catches."""


@dataclass(frozen=True)
class _Strip:
    """Rows ``start`` to ``stop`` of a block's input, and ``low`` to ``high`` with the halo."""

    start: int
    stop: int
    low: int
    high: int

    def inner(self, made: torch.Tensor) -> torch.Tensor:
        """Of what was made of the rows with the halo, what was made of those without."""
        ratio = made.shape[-2] // (self.high - self.low)
        return made.narrow(-2, (self.start - self.low) * ratio, (self.stop - self.start) * ratio)


@dataclass(frozen=True)
class _Block:
    """A block as it is called, and how it is cut.

    Attributes:
        module: the block.
        forward: from its input to its output, as the host has it.
        halo: rows above and below a row that it looks at.
        rows: of its input, that a strip has.
    """

    module: torch.nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    halo: int
    rows: int

    def gradient(self, x: torch.Tensor, norms: list[_Norm], given: torch.Tensor) -> torch.Tensor:
        """Gradient for the input ``x``, where that for the output is ``given``.

        Args:
            norms: all its group norms, in the order of their calls.
        """
        norms = [norm.leaf() for norm in norms]
        sums = [torch.zeros_like(x), *map(torch.zeros_like, _statistics(norms))]
        strips = list(self._strips(x.shape[-2]))
        for strip in strips:
            self._add_output(sums, strip, x, norms, given)
        for k in reversed(range(len(norms))):
            for strip in strips:
                self._add_norm(sums, strip, x, norms[: k + 1])
        return sums[0]

    def _strips(self, height: int) -> Iterator[_Strip]:
        for start in range(0, height, self.rows):
            stop = min(start + self.rows, height)
            low = max(0, start - self.halo)
            yield _Strip(start, stop, low, min(height, stop + self.halo))

    def _add_output(self, sums: list, strip: _Strip, x, norms: list[_Norm], given) -> None:
        """What the output's rows of a strip add to the gradients of input and statistics."""
        ratio = given.shape[-2] // x.shape[-2]
        part = x[..., strip.low : strip.high, :].clone().requires_grad_()
        with torch.enable_grad(), _Given(norms):
            made = strip.inner(self.forward(part))
        rows = given.narrow(-2, strip.start * ratio, (strip.stop - strip.start) * ratio)
        inputs = [part, *_statistics(norms)]
        found = torch.autograd.grad(made, inputs, rows, materialize_grads=True)
        _add(sums, strip, found)

    def _add_norm(self, sums: list, strip: _Strip, x, norms: list[_Norm]) -> None:
        """What they get from the statistics of the last of ``norms``, whose gradient is known."""
        *before, last = norms
        part = x[..., strip.low : strip.high, :].clone().requires_grad_()
        with torch.enable_grad():
            reached = strip.inner(self._input_of_norm(part, before))
        known = sums[1 + 2 * len(before) :]
        given = last.of_input(reached.detach(), *known[:2]).to(reached.dtype)
        inputs = [part, *_statistics(before)]
        found = torch.autograd.grad(reached, inputs, given, materialize_grads=True)
        _add(sums, strip, found)

    def _input_of_norm(self, part: torch.Tensor, norms: list[_Norm]) -> torch.Tensor:
        """Of the norm that is called after ``norms``."""
        given = _Given(norms)

        def stop(*_):
            if given.reached is not None:
                raise _Reached

        # Behind the layer, and not inside it: the host puts its weights away before it leaves.
        layers = [m for m in self.module.modules() if isinstance(m, torch.nn.GroupNorm)]
        handles = [layer.register_forward_hook(stop) for layer in layers]
        try:
            with given, contextlib.suppress(_Reached):
                self.forward(part)
        finally:
            for handle in handles:
                handle.remove()
        return given.reached


def _statistics(norms: list[_Norm]) -> list[torch.Tensor]:
    return [statistic for norm in norms for statistic in (norm.mean, norm.scale)]


def _add(sums: list[torch.Tensor], strip: _Strip, found: Sequence[torch.Tensor]) -> None:
    rows = sums[0][..., strip.low : strip.high, :]
    for total, part in zip([rows, *sums[1:]], found, strict=False):
        total += part


def _whole_gradient(
    forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, given: torch.Tensor
) -> torch.Tensor:
    """The same as `_Block.gradient`, by PyTorch."""
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        y = forward(leaf)
    return torch.autograd.grad(y, leaf, given)[0]


# ---------------------------------------------------------------- what a block is


@dataclass(frozen=True)
class _Findings:
    """What was found out about a block.

    Attributes:
        halo: rows above and below a row that it looks at; None if it may be all.
        growth: size of its output in sizes of its input.
    """

    halo: int | None
    growth: float

    def rows(self, x: torch.Tensor, strip: int) -> int | None:
        """Of a strip of ``strip`` bytes of ``x``; None where ``x`` is not to be cut."""
        largest = x.nbytes * max(1.0, self.growth)
        if self.halo is None or largest <= strip:
            return None
        return max(1, int(strip * x.shape[-2] / largest))


@contextlib.contextmanager
def _without_traces(module: torch.nn.Module, device: torch.device) -> Iterator[list]:
    """Puts back random numbers, and what ``module`` remembers: yields which of that changed.

    Nothing that is saved for a backward pass in here is seen or counted by a checkpoint.
    """
    parts = [vars(part) for part in module.modules()]
    values = [value for part in parts for value in part.values()]
    holders = [*parts, *(value for value in values if type(value) in (dict, list))]
    before = [(holder, holder.copy()) for holder in holders]
    changed: list = []
    devices = [device] if device.type == "cuda" else []
    same = torch.autograd.graph.saved_tensors_hooks(_same, _same)
    try:
        with torch.random.fork_rng(devices), same:
            yield changed
    finally:
        for holder, copy in before:
            if all(now is then for now, then in zip_longest(_items(holder), _items(copy))):
                continue
            changed.append(holder)
            holder.clear()
            if isinstance(holder, dict):
                holder.update(copy)
            else:
                holder.extend(copy)


def _same(value: Any) -> Any:
    return value


def _items(holder: dict | list) -> list:
    """What it holds, but for the weights that the host has put in place."""
    if isinstance(holder, list):
        return holder
    return [x for item in holder.items() if item[0] not in LOADED for x in item]


def _examine(module: torch.nn.Module, forward: Callable, x: torch.Tensor) -> _Findings | None:
    """What ``module`` is, for inputs like ``x``; None if it is better left alone."""
    probe = x[:1, ..., :PROBE, :PROBE].detach().clone()
    # Two halves that are unlike each other: what looks at both finds other means than in each.
    probe[..., : probe.shape[-2] // 2, :] = 0
    with _without_traces(module, x.device) as changed:
        try:
            findings = _findings_of(module, forward, probe)
        except Exception as error:
            if out_of_memory(error):
                raise
            findings = None  # no picture of any size is its input, or autograd cannot follow it
    return None if changed else findings


def _findings_of(
    module: torch.nn.Module, forward: Callable, probe: torch.Tensor
) -> _Findings | None:
    height = probe.shape[-2]
    reach = _Reach(height)
    measuring = _Measuring(STRIP)
    x = probe.clone()
    with torch.no_grad(), measuring, reach:
        y = forward(x)
    if not isinstance(y, torch.Tensor) or y.ndim != probe.ndim or len(y) != len(probe):
        return None
    if y.untyped_storage()._cdata == x.untyped_storage()._cdata:
        return None  # it is its input, which autograd has to know
    with torch.no_grad():
        if not _close(forward(probe.clone()), y):  # it draws random numbers
            return None
    given = torch.randn_like(y)
    whole = _whole_gradient(forward, probe, given)
    growth = y.numel() / probe.numel()
    if not reach.is_local or y.shape[-2] % height:
        return _Findings(None, growth)
    halo = math.ceil(reach.halo)
    block = _Block(module, forward, halo, max(1, height // PROBE_STRIPS))
    with torch.no_grad():
        found = block.gradient(probe, measuring.norms, given)
    return _Findings(halo if _close(found, whole) else None, growth)


def _close(found: torch.Tensor, whole: torch.Tensor) -> bool:
    if isinstance(found, FakeTensor):  # it has no numbers
        return True
    limit = max(LIMIT, LAST_PLACES * torch.finfo(whole.dtype).eps)
    error = torch.linalg.vector_norm((found - whole).float())
    return bool(error <= limit * torch.linalg.vector_norm(whole.float()))


# ---------------------------------------------------------------- recorded


@dataclass(frozen=True)
class _Call:
    """A call of a block that is recorded.

    Attributes:
        block: what is called, with its strips.
        whole: whether it is not cut.
        chain: what makes its input from what is kept.
        modes: those under which it was called. The backward pass runs without them.
    """

    block: _Block
    whole: bool
    chain: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    modes: list[TorchFunctionMode]

    def recorded(self, x: torch.Tensor, source: torch.Tensor, strip: int) -> torch.Tensor:
        """The output for ``x``, which the chain makes of ``source``.

        Args:
            strip: bytes of a strip.
        """
        measuring = _Measuring(strip)
        with torch.no_grad(), contextlib.nullcontext() if self.whole else measuring:
            made = [self.block.forward(x)]
        # As PyTorch's own functions, it saves without the modes under which it is called.
        with torch._C.DisableTorchFunction():
            return _MadeAgain.apply(x, source, made, measuring.norms, self)


class _MadeAgain(torch.autograd.Function):
    """A block's output, for which only ``source`` and the statistics of its norms are kept.

    Args:
        x: its input.
        made: a list of the output, which is computed already.
    """

    @staticmethod
    def forward(
        ctx,
        x: torch.Tensor,
        source: torch.Tensor,
        made: list[torch.Tensor],
        norms: list[_Norm],
        call: _Call,
    ) -> torch.Tensor:
        ctx.call = call
        ctx.elements = [norm.elements for norm in norms]
        ctx.save_for_backward(source, *_statistics(norms))
        return unviewed(made.pop())

    @staticmethod
    @once_differentiable
    def backward(ctx, given: torch.Tensor):
        call = ctx.call
        x, *statistics = ctx.saved_tensors
        pairs = zip(statistics[::2], statistics[1::2], ctx.elements, strict=True)
        norms = [_Norm(*pair) for pair in pairs]
        with entered_again(call.modes):
            for forward in call.chain:
                x = forward(x)
            if call.whole:
                found = _whole_gradient(call.block.forward, x, given)
            else:
                found = call.block.gradient(x, norms, given)
        return found, None, None, None, None


@dataclass(frozen=True)
class _Origin:
    """What a tensor was made of: ``source``, by the functions of ``chain``.

    Attributes:
        versions: of both tensors at that time. One that was overwritten is another one.
    """

    source: torch.Tensor
    chain: tuple[Callable[[torch.Tensor], torch.Tensor], ...]
    versions: tuple[int, int]


class Strips:
    """The blocks of a decoder, to be cut while one of its calls is recorded.

    To be made once for a decoder: it remembers what it has found out about each block.

    Args:
        decoder: an image decoder, or the autoencoder around it.
        strip: bytes of a strip.
    """

    def __init__(self, decoder: torch.nn.Module, strip: int = STRIP):
        blocks = {id(block) for block in repeated_blocks(decoder)}
        self._modules = list(_apart(decoder, blocks))
        self._strip = strip
        self._findings: dict[tuple, _Findings | None] = {}
        self._origins = WeakIdKeyDictionary()
        self._entered = False

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Calls of its blocks that are recorded keep little, and are differentiated in strips."""
        if self._entered:
            yield
            return
        with contextlib.ExitStack() as stack:
            self._entered = True
            stack.callback(setattr, self, "_entered", False)
            for module in self._modules:
                # An instance's own "forward" may be a node's.
                own = vars(module).get("forward")
                module.forward = functools.partial(self._called, module, module.forward)
                stack.callback(put_back, module, own)
            yield

    def _called(self, module: torch.nn.Module, forward: Callable, *args, **options) -> Any:
        x, *further = args or (None,)
        rest = (*further, *options.values())
        if not (_is_recorded_picture(x) and all(type(value) in PLAIN for value in rest)):
            return forward(*args, **options)

        def alone(x: torch.Tensor) -> torch.Tensor:
            return forward(x, *further, **options)

        frames = x.shape[2:-2]
        size = (min(x.shape[-2], PROBE), min(x.shape[-1], PROBE))
        key = (module, frames, size, x.dtype, x.device, tuple(options), rest)
        if key not in self._findings:
            self._findings[key] = _examine(module, alone, x)
        findings = self._findings[key]
        if findings is None:
            return forward(*args, **options)
        rows = findings.rows(x, self._strip)
        source, chain = self._made_of(x)
        block = _Block(module, alone, findings.halo or 0, rows or 0)
        modes = function_modes()
        y = _Call(block, rows is None, chain, modes).recorded(x, source, self._strip)
        if rows is not None:
            self._remember(y, x, source, (*chain, alone), findings.growth)
        return y

    def _made_of(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """What to keep of ``x``, and what makes ``x`` of it."""
        origin = self._origins.get(x)
        if origin is None or origin.versions != (origin.source._version, x._version):
            return x.detach(), ()
        return origin.source, origin.chain

    def _remember(self, y, x, source, chain: tuple, growth: float) -> None:
        """How ``y`` was made, if that is what to keep of it, and not ``y`` itself."""
        if growth > 1:  # its input is narrower than all before
            source = x.detach()
            chain = chain[-1:]
        if growth >= 1 and len(chain) <= LONGEST_CHAIN:
            self._origins[y] = _Origin(source, chain, (source._version, y._version))


def _is_recorded_picture(x: Any) -> bool:
    is_picture = isinstance(x, torch.Tensor) and x.ndim in (4, 5) and x.is_floating_point()
    return is_picture and torch.is_grad_enabled() and x.requires_grad


def _apart(module: torch.nn.Module, blocks: set[int]) -> Iterator[torch.nn.Module]:
    """The ``blocks``, and beside them whatever is made of several layers and called as one."""
    parts = list(module.children())
    called = type(module).forward is not torch.nn.Module.forward
    inside = any(id(part) in blocks for part in module.modules() if part is not module)
    if id(module) in blocks or (parts and called and not inside):
        yield module
        return
    for part in parts:
        yield from _apart(part, blocks)
