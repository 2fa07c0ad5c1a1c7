"""Is the gradient exact? One graph, measured in every way that matters.

Forward: the unrolled chain returns what the host's own sampling returns, to the last bit, in
float32 on the CPU. Weights: the very tensors that were there before are there afterwards, and hold
the same bytes. Gradient: of a number made of the last three predictions, against central
differences in float64 along several directions. A central difference with step h = 1e-4 is wrong by
about h^2 = 1e-8 (truncation) and 1e-16 / h = 1e-12 (rounding), so that agreement to 1e-5 leaves no
room for a missing path.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import comfy.samplers
import torch

from seedselect_core.chain.parts import parts_of
from seedselect_core.chain.unroll import Chain, Denoising, unrolled_sampling
from seedselect_core.errors import SeedSelectError
from seedselect_core.memory.levels import BLOCKS

from .double import in_double
from .models import normal

STEP = 1e-4
LIMIT = 1e-5
DIRECTIONS = 3
KEEP = 3


@dataclass
class Wired:
    """What is connected to a sampling node.

    Attributes:
        guider: with conditionings and cfg set.
        sampler: the host's SAMPLER.
        sigmas: [steps + 1].
        noise, latent_image: [B, C, h, w], or [B, C, T, h, w].
        noise_mask: as LATENT holds it, or None.
    """

    guider: comfy.samplers.CFGGuider
    sampler: comfy.samplers.Sampler
    sigmas: torch.Tensor
    noise: torch.Tensor
    latent_image: torch.Tensor
    noise_mask: torch.Tensor | None = None
    seed: int = 11


@dataclass(frozen=True)
class Finding:
    """What a measurement gave.

    Attributes:
        forward: whether the unrolled chain equals the host's sampling bit for bit; None: not run.
        gradient_error: largest relative error of a directional derivative; None: not run.
        weights_kept: whether all weights are the same objects and bytes afterwards; None: not run.
        refusal: the error that the user gets instead, or "".
        remark: anything else to tell.
        parts: what of the host's the graph is made of, see `seedselect_core.chain.parts`.
        blocks_error: largest relative error of a directional derivative where every block is made
            again by itself; None: not run, or the graph cannot be cut so.
    """

    forward: bool | None = None
    gradient_error: float | None = None
    weights_kept: bool | None = None
    refusal: str = ""
    remark: str = ""
    parts: tuple[str, ...] = ()
    blocks_error: float | None = None

    @property
    def verdict(self) -> str:
        """ "exact", "refused", "wrong", or "not run" where nothing was measured."""
        if self.refusal:
            return "refused"
        if self.forward is None and self.gradient_error is None:
            return "not run"
        kept = self.forward and self.weights_kept
        near = self.gradient_error is not None and self.gradient_error <= LIMIT
        near = near and (self.blocks_error is None or self.blocks_error <= LIMIT)
        return "exact" if kept and near else "wrong"

    def as_row(self) -> dict:
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        section: "samplers", "schedulers", "families", "weights", "conditioning", "memory" or
            "encoders".
        name: the host's own name for it, unique in its section.
        examine: makes the measurement.
        quick: whether it is among the part that continuous integration runs.
    """

    section: str
    name: str
    examine: Callable[[], Finding]
    quick: bool = False


@torch.inference_mode()
def examine(build: Callable[[torch.dtype], Wired], remark: str = "") -> Finding:
    """Measure the graph that ``build`` wires for a type of weights.

    Nodes run in inference mode, and so does this, the building included.
    """
    graph = build(torch.float32)
    parts = own_parts(graph)
    stock = sample(graph)
    before = snapshot(graph.guider)  # patches are in the weights by now, and stay
    try:
        forward = torch.equal(sample_unrolled(graph), stock)
    except SeedSelectError as error:
        return Finding(refusal=str(error), remark=remark)
    kept = unchanged(graph.guider, before)
    with in_double():
        graph = build(torch.float64)
        error, blocks_error = gradient_errors(graph)
    return Finding(forward, error, kept, "", remark, parts, blocks_error)


def worst(found: Sequence[Finding], remark: str = "") -> Finding:
    """What can be said of several measurements together."""
    for finding in found:
        if finding.refusal:
            return replace(finding, remark=remark)
    apart = [finding.blocks_error for finding in found if finding.blocks_error is not None]
    return Finding(
        all(finding.forward for finding in found),
        max(finding.gradient_error for finding in found),
        all(finding.weights_kept for finding in found),
        remark=remark,
        parts=tuple(sorted({part for finding in found for part in finding.parts})),
        blocks_error=max(apart) if apart else None,
    )


def own_parts(graph: Wired) -> tuple[str, ...]:
    """Parts of the graph that are the host's or this pack's; a test's own prove nothing."""
    known = ("comfy.", "comfy_extras.", "seedselect_core.", "option ")
    return tuple(sorted(part for part in parts_of(graph.guider) if part.startswith(known)))


def sample(graph: Wired) -> torch.Tensor:
    """What "RandomNoise" and "SamplerCustomAdvanced" do."""
    torch.manual_seed(graph.seed)
    return graph.guider.sample(
        graph.noise,
        graph.latent_image,
        graph.sampler,
        graph.sigmas.clone(),  # uni_pc writes to them
        denoise_mask=graph.noise_mask,
        disable_pbar=True,
        seed=graph.seed,
    )


def sample_unrolled(graph: Wired) -> torch.Tensor:
    """The same by the unrolled chain, with a gradient recorded."""

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        noise.requires_grad_()
        kept = chain(noise, keep=KEEP)
        (gradient,) = torch.autograd.grad(sum(x.sum() for x in kept), noise)
        if not (torch.isfinite(gradient).all() and gradient.any()):
            raise AssertionError("The gradient is zero, or not a number.")
        return chain.final

    return _unrolled(graph, search)


def gradient_error(graph: Wired, directions: int = DIRECTIONS) -> float:
    """Largest relative error of a directional derivative, for a graph of float64."""
    found = []

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        found.extend(relative_errors(probed(chain), noise.double(), directions))
        return noise

    _unrolled(graph, search)
    return max(found)


def gradient_errors(graph: Wired) -> tuple[float, float | None]:
    """`gradient_error` of whole calls and by blocks, None where the graph cannot be cut."""
    found = []

    def search(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        noise = noise.double()
        slopes, quotients, usual = directional(probed(chain), noise, DIRECTIONS)
        found.append(max(relative(slopes, quotients, usual)))
        if BLOCKS in chain.levels():
            chain.plan = replace(chain.plan, level=BLOCKS)
            apart = slopes_of(probed(chain), noise, DIRECTIONS)
            found.append(max(relative(apart, quotients, usual)))
        return noise

    _unrolled(graph, search)
    return found[0], found[1] if found[1:] else None


def _unrolled(graph: Wired, search) -> torch.Tensor:
    def recovering(chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        return chain.recovering(lambda: search(chain, noise.clone()))

    torch.manual_seed(graph.seed)
    return unrolled_sampling(
        Denoising(graph.guider, graph.sampler, graph.sigmas),
        graph.noise,
        graph.latent_image,
        recovering,
        noise_mask=graph.noise_mask,
        seed=graph.seed,
    )


def probed(chain: Chain) -> Callable[[torch.Tensor], torch.Tensor]:
    """All kept predictions with random weights, as one number."""

    def value(noise: torch.Tensor) -> torch.Tensor:
        kept = chain(noise, keep=KEEP)
        weights = (normal(*noise.shape, seed=30 + i).double() for i in range(len(kept)))
        return sum((w * x.tanh()).sum() for w, x in zip(weights, kept, strict=True))

    return value


def relative_errors(f, noise: torch.Tensor, directions: int) -> list[float]:
    """Of the directional derivatives of the scalar ``f``, against central differences."""
    return relative(*directional(f, noise, directions))


def relative(slopes: list[float], quotients: list[float], usual: float) -> list[float]:
    """Errors relative to the slope that a random direction has; one's own may be near zero."""
    pairs = zip(slopes, quotients, strict=True)
    return [abs(slope - quotient) / usual for slope, quotient in pairs]


def directional(f, noise: torch.Tensor, directions: int) -> tuple[list[float], list[float], float]:
    """Slopes by autograd, the same by central differences, and the usual slope."""
    gradient = gradient_of(f, noise)
    quotients = []
    for direction in directions_of(noise, directions):
        with torch.no_grad():
            change = (f(noise + STEP * direction) - f(noise - STEP * direction)).item()
        quotients.append(change / (2 * STEP))
    usual = gradient.norm().item() / gradient.numel() ** 0.5
    return along(gradient, noise, directions), quotients, usual


def slopes_of(f, noise: torch.Tensor, directions: int) -> list[float]:
    """Directional derivatives by autograd alone."""
    return along(gradient_of(f, noise), noise, directions)


def along(gradient: torch.Tensor, noise: torch.Tensor, directions: int) -> list[float]:
    return [(gradient * one).sum().item() for one in directions_of(noise, directions)]


def directions_of(noise: torch.Tensor, count: int) -> list[torch.Tensor]:
    """Unit vectors that are always the same."""
    drawn = (normal(*noise.shape, seed=20 + i).double() for i in range(count))
    return [direction / direction.norm() for direction in drawn]


def gradient_of(f, noise: torch.Tensor) -> torch.Tensor:
    z = noise.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z), z)
    if not (torch.isfinite(gradient).all() and gradient.any()):
        raise AssertionError("The gradient is zero, or not a number.")
    return gradient


def snapshot(guider: comfy.samplers.CFGGuider) -> dict:
    """Every weight of the guider's model: the object, and a copy of its bytes."""
    model = guider.model_patcher.model
    weights = [*model.named_parameters(), *model.named_buffers()]
    return {name: (tensor, tensor.clone()) for name, tensor in weights}


def unchanged(guider: comfy.samplers.CFGGuider, before: dict) -> bool:
    after = snapshot(guider)
    return after.keys() == before.keys() and all(
        after[name][0] is tensor and torch.equal(after[name][1], values)
        for name, (tensor, values) in before.items()
    )
