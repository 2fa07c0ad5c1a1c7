"""From a picture to the noise that draws it: a deterministic sampler run backwards.

A sampler that needs nothing but the current latent is a chain of maps `x_{i+1} = F_i(x_i)`. Each is
inverted by solving `F_i(x) = x_{i+1}` for x. Plain DDIM inversion (Song et al., ICLR 2021) takes
one guess, `x = y + (y - F(y))`, and misses: it asks the model at the wrong place. Repeating that as
a fixed-point iteration finds the place, but crawls or diverges with guidance. Anderson's mixing of
the last few guesses (Walker and Ni, SIAM J. Numer. Anal. 49, 2011; for inversion AIDI, Pan et al.,
ICCV 2023) makes it converge in a few evaluations, without gradients.

F_i is the host's own sampler function on a chain of two sigmas, called with the host's own guider,
so that forwards and backwards cannot disagree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import comfy.samplers
import torch
from comfy.sampler_helpers import convert_cond

from ..errors import Rule, SeedSelectError, is_whole, require_rules
from ..likeness.vae import VaeCodec, require_vae
from ..memory.failures import with_room
from ..pictures import opaque, require_image
from ..seeds.seed import SamplingSettings, Seed
from .finite import blamed_for_prediction, is_finite
from .sampling import host_ksampler, intermediate, shares_condition

# Deterministic, and each step needs the current latent alone. "ddim" is Euler in the host.
INVERTIBLE = ("ddim", "euler", "heun")

WINDOW = 6  # guesses that Anderson's mixing remembers: 5 to 10 is usual
GUARD = 3.0  # a residual that grew by more than this sends the search back to the best guess
STALL = 10  # evaluations without progress after which a step is given up: half precision's floor


@dataclass(frozen=True)
class Inversion:
    """What an inversion found.

    Attributes:
        seed: the noise, with the settings under which it draws the picture.
        latent: LATENT (in the VAE's space) that the host's sampler makes of the seed.
        rmse: [B] root mean square difference between that latent and the picture's own, in the
            model's scaled latent space, whose variance is about one.
        relative: [B] the same as a share of the picture's root mean square.
    """

    seed: Seed
    latent: dict
    rmse: torch.Tensor
    relative: torch.Tensor


@dataclass(frozen=True)
class Refinement:
    """How hard each step is solved.

    Attributes:
        evaluations: of the step at most, 1 or more. One is plain DDIM inversion.
        tolerance: done when every picture's `rms(y - step(x)) / rms(y)` is at most this.
    """

    evaluations: int = 20
    tolerance: float = 1e-4

    def __post_init__(self):
        n = self.evaluations
        require_rules(Rule("refinements", is_whole(n) and n >= 1, "a whole number of 1 or more", n))


def solve_step(
    step: Callable[[torch.Tensor], torch.Tensor],
    y: torch.Tensor,
    refinement: Refinement,
    on_evaluation: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """The x with ``step(x) = y``, or the best guess at it, picture by picture.

    Args:
        step: one step of a sampler, [B, ...] to [B, ...], pictures independent of each other.
        y: [B, ...] float32.
        on_evaluation: called with the number of evaluations so far.
    """
    # On the CPU: the algebra is tiny and wants float64, which some accelerators lack.
    goal = y.flatten(1).cpu().double()
    size = goal.square().mean(1).sqrt().clamp_min(1e-12)
    x = goal
    best = goal
    at_best = torch.zeros_like(goal)
    lowest = torch.full_like(size, torch.inf)
    damping = torch.ones(len(y), 1, dtype=torch.float64)
    guesses = []
    residuals = []
    stale = 0
    for evaluation in range(1, refinement.evaluations + 1):
        value = step(x.to(y).view_as(y)).flatten(1).cpu().double()
        if on_evaluation is not None:
            on_evaluation(evaluation)
        residual = goal - value
        error = residual.square().mean(1).sqrt() / size
        # no number counts as lost
        better = error < lowest
        lost = ~(error <= GUARD * lowest)
        stale = 0 if (better & (lowest > refinement.tolerance)).any() else stale + 1
        lowest = torch.where(better, error, lowest)
        best = torch.where(better[:, None], x, best)
        at_best = torch.where(better[:, None], residual, at_best)
        if (lowest <= refinement.tolerance).all() or stale == STALL:
            return best.to(y).view_as(y)
        x = torch.where(lost[:, None], best, x)
        residual = torch.where(lost[:, None], at_best, residual)
        guesses = [*guesses, x][-WINDOW:]
        residuals = [*residuals, residual][-WINDOW:]
        damping = torch.where(lost[:, None], damping / 2, damping)
        mixed = _mix(guesses, residuals, damping)
        x = torch.where(lost[:, None], best + damping * at_best, mixed)
    # The last guess was not looked at. Where the one before it was the best yet, it is better.
    unseen = better & (lowest > refinement.tolerance)
    return torch.where(unseen[:, None], x, best).to(y).view_as(y)


def _mix(guesses: list, residuals: list, damping: torch.Tensor) -> torch.Tensor:
    """Anderson's next guess: the combination of guesses whose residuals cancel best."""
    x = guesses[-1]
    residual = residuals[-1]
    if len(guesses) == 1:
        return x + damping * residual
    moves = torch.stack(guesses[1:], 1) - torch.stack(guesses[:-1], 1)  # [B, m, d]
    changes = torch.stack(residuals[1:], 1) - torch.stack(residuals[:-1], 1)
    gram = changes @ changes.mT
    ridge = 1e-8 * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-24)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype)
    share = torch.linalg.solve(gram, changes @ residual[:, :, None])
    moves = moves + damping[:, :, None] * changes
    return x + damping * residual - (moves.mT @ share)[:, :, 0]


class _Counted:
    """A guider that counts its predictions, one for each picture."""

    def __init__(self, guider: comfy.samplers.CFGGuider):
        self._guider = guider
        self.evaluations = 0

    def __getattr__(self, name: str):
        return getattr(self._guider, name)

    def __call__(self, x, timestep, **kwargs):
        self.evaluations += len(x)
        return self._guider(x, timestep, **kwargs)


class _Backwards(comfy.samplers.Sampler):
    """What the host takes for a sampler: it walks from ``picture`` to noise, and then forwards.

    Attributes, once it has run:
        noise: [B, C, ...], unit Gaussian as the host's NOISE gives it.
        final: [B, C, ...], what that noise is sampled to, in the model's scaled latent space.
        evaluations: predictions by the guider, one for each picture.
    """

    def __init__(self, sampler, picture, refinement: Refinement, on_step):
        self._sampler = sampler
        self._picture = picture
        self._refinement = refinement
        self._on_step = on_step

    @torch.no_grad()
    def sample(
        self,
        model_wrap,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        guider = _Counted(model_wrap)
        scaling = model_wrap.inner_model.model_sampling
        steps = len(sigmas) - 1
        planned = steps * (self._refinement.evaluations + 1)

        def report(done: int) -> None:
            self._on_step(done, planned)

        picture = self._picture.to(noise)
        x = _undo(lambda v: scaling.inverse_noise_scaling(sigmas[-1], v), picture)
        for i in reversed(range(steps)):
            before = (steps - 1 - i) * self._refinement.evaluations
            x = solve_step(
                lambda v, pair=sigmas[i : i + 2]: self._sampler.sampler_function(
                    guider, v, pair, extra_args=extra_args, disable=True
                ),
                x,
                self._refinement,
                lambda done, before=before: report(before + done),
            )
        fully = self.max_denoise(model_wrap, sigmas)
        noise = _undo(lambda v: scaling.noise_scaling(sigmas[0], v, latent_image, fully), x)
        final = self._sampler.sample(
            guider,
            sigmas,
            dict(extra_args),
            lambda step, *_: report(steps * self._refinement.evaluations + step + 1),
            noise.clone(),
            latent_image,
            None,
            True,
        )
        if not (is_finite(noise) and is_finite(final)):
            raise SeedSelectError(blamed_for_prediction(model_wrap, picture, sigmas))
        self.noise = noise
        self.final = final
        self.evaluations = guider.evaluations
        return final


def _undo(line: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    """The x with ``line(x) = value``, for a function that works element by element and is affine.

    The host's scaling of noise differs between kinds of models, but it is always that.
    """
    offset = line(torch.zeros_like(value))
    slope = line(torch.ones_like(value)) - offset
    if (slope == 0).any():
        raise SeedSelectError(
            "model: it does not start from noise, so there is none to find. Connect a "
            "text-to-image model."
        )
    return (value - offset) / slope


def invert_images(
    model,
    positive: list,
    negative: list,
    vae,
    images: torch.Tensor,
    sampling: SamplingSettings,
    *,
    refinement: Refinement | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Inversion:
    """The noise from which the host's sampler draws ``images``.

    An exact answer need not exist: guidance may make a step map no latent to the wanted one, and a
    picture may lie off what the model can draw. The best guess is kept then, and the errors tell.
    Nothing draws the noise towards the Gaussian's norm: the further the picture is from what model
    and prompt would draw, and the higher the guidance, the longer the noise gets.

    Args:
        model: the host's ModelPatcher, as any loader gives it.
        positive, negative: the host's conditioning.
        vae: the host's VAE.
        images: IMAGE, [B, H, W, 1 to 4] in 0..1. The host's VAE crops it to its multiple.
        sampling: how the noise will be sampled; one of the samplers of `INVERTIBLE`.
        refinement: how hard each step is solved, by default as `Refinement` says.
        on_step: called with the number of evaluations done and planned, in steps of the sampler.
            Fewer than planned are needed where steps are done early. May raise to cancel.

    Raises:
        SeedSelectError: an input does not fit, or the result is no number; or there is no memory,
            not even for one picture after the other.
    """
    images = opaque(require_image("image", images))
    if sampling.sampler_name not in INVERTIBLE:
        raise SeedSelectError(
            f"sampler_name: '{sampling.sampler_name}' cannot be run backwards: it adds noise on "
            f"the way, or a step needs those before it. Use one of {', '.join(INVERTIBLE)}; "
            "'Sample From Seed' may draw the seed with a similar one afterwards."
        )

    def inverted(parts: Sequence[torch.Tensor]) -> Inversion:
        def reported(done: int, planned: int) -> None:
            if on_step is not None:
                on_step(len(found) * planned + done, len(parts) * planned)

        found: list[Inversion] = []
        for part in parts:
            backwards = (sampling, refinement or Refinement(), reported)
            found.append(_inverted(model, positive, negative, vae, part, *backwards))
        return _together(found)

    conditions = convert_cond([*positive, *negative])
    alone = [images] if not all(map(shares_condition, conditions)) else images.split(1)
    return with_room(
        inverted,
        ([images],),
        (alone,),
        where="inverting the picture",
        remedy="Give a smaller picture, or start ComfyUI with --lowvram.",
    )


def _inverted(
    model,
    positive: list,
    negative: list,
    vae,
    images: torch.Tensor,
    sampling: SamplingSettings,
    refinement: Refinement,
    on_step: Callable[[int, int], None],
) -> Inversion:
    """`invert_images` of a batch that there is memory for."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(sampling.cfg)
    _require_fixed_hooks(guider.original_conds)
    picture = _encoded(model, vae, images)
    sampler = comfy.samplers.sampler_object(sampling.sampler_name)
    backwards = _Backwards(sampler, picture, refinement, on_step)
    empty = torch.zeros_like(picture)
    result = guider.sample(
        empty,
        empty,
        backwards,
        host_ksampler(model, sampling).sigmas,
        disable_pbar=True,
        seed=sampling.seed,
    )
    return _inversion(model, sampling, backwards, picture, result)


def _together(found: Sequence[Inversion]) -> Inversion:
    """Several inversions as that of one batch."""
    if len(found) == 1:
        return found[0]
    noise = torch.cat([one.seed.noise for one in found])
    evaluations = sum(one.seed.evaluations for one in found)
    return Inversion(
        replace(found[0].seed, noise=noise, evaluations=evaluations),
        {"samples": torch.cat([one.latent["samples"] for one in found])},
        torch.cat([one.rmse for one in found]),
        torch.cat([one.relative for one in found]),
    )


def _inversion(
    model,
    sampling: SamplingSettings,
    backwards: _Backwards,
    picture: torch.Tensor,
    result: torch.Tensor,
) -> Inversion:
    """What ``backwards`` has found, and how near it is."""
    result = intermediate(result)
    rms = (picture.cpu().flatten(1)).square().mean(1).sqrt()
    rmse = (backwards.final.cpu() - picture.cpu()).flatten(1).square().mean(1).sqrt()
    with torch.inference_mode(False):
        noise = backwards.noise.float().cpu().clone()
    seed = Seed(
        noise,
        sampling,
        type(model.get_model_object("latent_format")).__name__,
        evaluations=backwards.evaluations,
    )
    return Inversion(seed, {"samples": result}, rmse, rmse / rms)


def _encoded(model, vae, images: torch.Tensor) -> torch.Tensor:
    """Pictures [B, H, W, 3] to latents in the model's scaled space."""
    codec = VaeCodec(vae)
    ratio = vae.spacial_compression_encode()
    height, width = images.shape[1:3]
    if min(height, width) < ratio:
        raise SeedSelectError(
            f"image: {width} x {height} pixels are too few, this VAE needs {ratio} x {ratio} at "
            "least. Give the size that the model draws."
        )
    require_vae(model, vae)
    picture = model.model.process_latent_in(codec.encode(images).float())
    if not is_finite(picture):
        raise SeedSelectError(
            "vae: what it makes of the picture is not a number. Half precision may be too coarse "
            "for it: start ComfyUI with --fp32-vae."
        )
    if picture.ndim != 2 + model.get_model_object("latent_format").latent_dimensions:
        raise SeedSelectError(
            "vae: it is for pictures, the model makes videos. Connect the VAE that belongs to the "
            "checkpoint."
        )
    return picture


def _require_fixed_hooks(conds: dict[str, list[dict]]) -> None:
    for name, conditions in conds.items():
        for condition in conditions:
            hooks = condition.get("hooks")
            # The host counts keyframes along the steps; an inversion walks the steps back.
            if hooks is not None and any(not h.hook_keyframe.is_empty() for h in hooks.hooks):
                raise SeedSelectError(
                    f"{name}: hooks whose strength changes over the steps (Set Hook Keyframes) "
                    "cannot be run backwards. Disconnect the keyframes, or give the hook one "
                    "strength."
                )
