"""The loop: from a batch of noises to the best noise found for each.

Three stages, of which each may be left out: the best of N draws, which may be compared by drafts in
few steps; zero-order search, which walks from the best to better neighbours without a gradient (Ma
et al. 2025, arXiv 2501.09732); and gradient descent from there.

Every seed of the batch has its own loss and its own best. The sum of the losses is differentiated,
which gives each seed its own gradient, and AdamW and SGD work element by element, so that the seeds
do not influence each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointError

from ..chain.finite import NotNumbers
from ..chain.refusals import refusal
from ..chain.unroll import Chain
from ..errors import NoGradient, SeedSelectError
from ..host.calls import MADE_OTHERWISE
from ..likeness.losses import norm_prior
from ..likeness.objective import Losses, Objective
from ..memory.failures import free, out_of_memory
from ..memory.levels import NONE
from ..seeds.geometry import rotate_towards
from ..seeds.rescue import Unfinished
from ..text import quoted
from .descent import Descent
from .room import Room
from .settings import DRAFTS, Settings

# The last iteration in so many is by the picture's own VAE where a smaller one guides the others.
LAST = 5


@dataclass
class SeedHistory:
    """What happened: for every picture drawn in full and every seed, the losses."""

    total: list[list[float]] = field(default_factory=list)
    semantic: list[list[float]] = field(default_factory=list)
    appearance: list[list[float]] = field(default_factory=list)
    norm: list[list[float]] = field(default_factory=list)
    opinion: list[list[float]] = field(default_factory=list)  # empty without a second opinion
    evaluations: int = 0  # of the guider, one for each picture, recomputed ones included
    spread: float = 0.0  # mean semantic loss of the references themselves
    opinion_spread: float = 0.0  # the same by the second opinion
    first_opinion: list[float] = field(default_factory=list)  # of each seed, before and
    best_opinion: list[float] = field(default_factory=list)  # after
    before: torch.Tensor | None = None  # [B, H, W, 3], of the noise that the search was given

    def means(self, name: str) -> list[float]:
        """One kind of loss of each picture drawn in full, mean of the seeds."""
        return [sum(row) / len(row) for row in getattr(self, name)]

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        for name, values in losses.items():
            getattr(self, name).append(values.tolist())


@dataclass
class Best:
    """The best noise so far of every seed, on the CPU.

    Attributes:
        noise: [B, C, h, w], unit Gaussian before the sampler scales it.
        rank, total, semantic: [B], its losses; the rank is what it is the best by, see `Losses`.
        first_semantic: [B], semantic loss of the noise that the search was given.
        images: [B, H, W, 3], the picture of each.
        opinion, first_opinion: [B], semantic losses by the second opinion, or None without one.
    """

    noise: torch.Tensor
    rank: torch.Tensor
    total: torch.Tensor
    semantic: torch.Tensor
    first_semantic: torch.Tensor
    images: torch.Tensor
    opinion: torch.Tensor | None = None
    first_opinion: torch.Tensor | None = None

    @classmethod
    def of(cls, noise: torch.Tensor, losses: Losses, before: Losses) -> "Best":
        """All seeds as they are, and what the noise that the search was given has."""
        first = [losses.rank, losses.total.detach(), losses.semantic, before.semantic]
        rest = [losses.images, losses.opinion, before.opinion]
        held = [None if x is None else x.cpu().clone() for x in (noise.detach(), *first, *rest)]
        return cls(*held)

    def take(self, rows: torch.Tensor, noise: torch.Tensor, losses: Losses) -> None:
        """Replace where the rank of the seeds ``rows`` [b] is lower."""
        rank = losses.rank.cpu()
        lower = rank < self.rank[rows]
        better = rows[lower]
        self.noise[better] = noise.detach().cpu()[lower]
        self.rank[better] = rank[lower]
        self.total[better] = losses.total.detach().cpu()[lower]
        self.semantic[better] = losses.semantic.cpu()[lower]
        self.images[better] = losses.images.cpu()[lower]
        if self.opinion is not None:
            self.opinion[better] = losses.opinion.cpu()[lower]


@dataclass(frozen=True)
class Drafts:
    """What the start is chosen from: how many of ``planned`` are done, and the best so far."""

    done: int
    planned: int
    best: Best


@dataclass(frozen=True)
class Progress:
    """Handed to the callback after every denoising step, and when losses are known.

    Attributes:
        done, planned: denoising steps. Fewer than planned are needed where seeds are done early.
        finished: seeds that have reached the target.
        new_best: losses were just evaluated; ``best`` may have changed.
        history: of the search so far.
        drafts: a draft was just compared with those before it; None otherwise.
    """

    done: int
    planned: int
    iteration: int
    best: Best | None
    finished: int
    new_best: bool
    history: SeedHistory
    drafts: Drafts | None = None


class Search:
    """Called by `unrolled_sampling` with the chain and the noise of every seed.

    Args:
        draw: the n-th further draw of Gaussian noise for the whole batch, n from 1.
        on_progress: gets a `Progress` after every denoising step.
        can_split_batch: seeds that are done may be left out of the batch. Not so where a sampler
            draws noise for the batch as a whole, or conditionings or latents differ within it.
        is_video: the batch is the frames of one video, which are found and finished together.
    """

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        on_progress: Callable[["Progress"], None],
        draw: Callable[[int], torch.Tensor],
        can_split_batch: bool,
        is_video: bool = False,
    ):
        self.objective = objective
        self.settings = settings
        self.on_progress = on_progress
        self.draw = draw
        self.can_split_batch = can_split_batch
        self.is_video = is_video
        self.blame: Callable[..., str] = lambda *_: ""  # see `seedselect_core.search.blame`
        self._last_objective: Objective | None = None
        self._first: torch.Tensor | None = None  # the noise that was drawn in full first
        self._before: Losses | None = None  # of it, where the search itself begins with drafts
        self.room = Room(settings, can_split_batch)
        self.suspects: Sequence[str] = ()  # what may hide its computation from autograd
        self.threshold = settings.target * objective.targets.spread
        self.history = SeedHistory(spread=objective.targets.spread)
        if objective.targets.opinion is not None:
            self.history.opinion_spread = objective.targets.opinion.spread
        self.best: Best | None = None
        self.iteration = 0
        self._stale = 0  # iterations since the best became better
        self._refused = torch.zeros(0)  # for how many, one after the other, by the second opinion
        self.done = 0
        self.planned = 0
        self.drawn = 0  # further draws so far
        self.resumed: Unfinished | None = None  # how far the search had come that this goes on with
        self.first_semantic: Sequence[float] = ()  # of its first noise

    def search_by(self, objective: Objective) -> None:
        """Let a cheaper objective guide all but the last iterations."""
        self._last_objective = self.objective
        self.objective = objective

    def __call__(self, chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        s = self.settings
        self.seeds = len(noise)
        self._refused = torch.zeros(self.seeds, dtype=torch.long)
        self.device = noise.device
        self.drafts = s.candidates if s.candidates > 1 and 0 < s.draft_steps < chain.steps else 0
        first = 0
        if self.resumed is not None:
            self.drawn = self.resumed.draws
            first = min(self.resumed.iterations, s.iterations)
        # Runs of the chain: a gradient each, the last noise, the best ones.
        runs = self._draws() + s.iterations - first + (s.iterations > 0) + 1
        self.done = 0
        drafts = self._drafts_left()
        self.planned = s.draft_steps * drafts + chain.steps * (runs + (drafts > 0))
        noise = self._choose_start(chain, noise).clone().requires_grad_()
        descent = Descent(noise, s)
        for self.iteration in range(first, s.iterations):
            if not self.sparing(chain, self._iterate, descent):
                break
        if s.iterations > 0 and chain.plan.level is not NONE:
            self._evaluate(chain, noise.detach(), self._unfinished())
        self._as_drawn(chain)
        return self._final(chain)

    def _iterate(self, chain: Chain, descent: Descent) -> bool:
        """One iteration, which can be done again where it fails; False where none is needed."""
        s = self.settings
        if self.iteration == s.iterations - max(1, s.iterations // LAST):
            self._as_drawn(chain)
        rows = self._unfinished()
        if len(rows) == 0 or (s.patience and self._stale >= s.patience):
            return False
        self._roll_back(descent)
        before = self.best.rank.clone() if self.best else None
        gradient = self.sparing(chain, self._improve, descent.noise, rows)
        improved = before is None or bool((self.best.rank < before).any())
        # What is better to those that are descended on, and still not the best.
        refused = torch.tensor(self.history.total[-1]) < self.best.total
        refused = (self._refused + 1) * refused
        # The last that can fail, for a step is not to be taken twice.
        if gradient is not None:
            descent.step(gradient, self.iteration)
        self._refused = refused
        # The first gradient is taken where the search starts, and so betters nothing.
        self._stale = 0 if improved or self.iteration == 0 else self._stale + 1
        return True

    def _as_drawn(self, chain: Chain) -> None:
        """From now on by the picture's own VAE; what was found by the small one is judged anew."""
        if self._last_objective is None:
            return
        found = []
        if self.best is not None:
            found = [noise.to(self.device) for noise in (self._first, self.best.noise)]
        self.objective = self._last_objective
        self._last_objective = None
        self.best = None
        self.planned += len(found) * chain.steps
        for noise in found:
            self._evaluate(chain, noise, torch.arange(self.seeds))

    def _roll_back(self, descent: Descent) -> None:
        """Seeds that the second opinion has refused too often go on from their best, at rest."""
        rows = (self._refused >= (self.settings.rollback or math.inf)).nonzero().flatten()
        if len(rows):
            descent.start_again(rows, self.best.noise[rows])
            self._refused[rows] = 0  # whatever the last bits of the same picture are on this device

    def _final(self, chain: Chain) -> torch.Tensor:
        """The whole batch once more: what is returned is what the stock sampler makes of it."""
        rows = torch.arange(self.seeds)
        try:
            return self._sampled(chain, [rows])
        except Exception as error:
            if not out_of_memory(error):
                raise
        free()
        parts = rows.split(1) if self.can_split_batch else [rows]
        self.planned += chain.steps * len(parts)
        return self.sparing(chain, self._sampled, parts)

    @torch.no_grad()
    def _sampled(self, chain: Chain, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        best = self.best.noise
        return torch.cat([self._run(chain, best[p].to(self.device), 1)[-1] for p in parts])

    def describe_best(self) -> str:
        """What an error message is to end with."""
        return " The best seed so far is kept." if self.best is not None else ""

    def state(self) -> Unfinished:
        """How far the search has come."""
        s = self.settings
        return Unfinished(self.iteration, s.iterations, self.drawn, s.fingerprint())

    def _drafts_left(self) -> int:
        """Drafts to be drawn; a search has no best seed, and cannot be resumed, before the last."""
        return 0 if self.resumed else self.drafts

    def _tries(self) -> list[Callable[[Chain, torch.Tensor], None]]:
        """What is to be compared with the first noise that is drawn in full."""
        s = self.settings
        drafted = max(0, self.drafts - 1)  # each but the first was a draw
        tries = [self._try_draw] * (0 if self.drafts else s.candidates - 1)
        tries += [self._try_neighbor] * s.neighbors
        return tries[max(0, self.drawn - drafted) :]

    def _draws(self) -> int:
        """Runs of the chain that choose the start; none where the first gradient's is the first."""
        tries = len(self._tries())
        return 0 if tries == 0 and self.settings.iterations > 0 else 1 + tries

    def _choose_start(self, chain: Chain, noise: torch.Tensor) -> torch.Tensor:
        """For every seed the best of the draws."""
        rows = torch.arange(len(noise))
        if self._drafts_left():
            # The search does without; who looks at it wants to know what it was like before.
            self._first = noise.detach().cpu().clone()
            with torch.no_grad():
                self._before = self.sparing(chain, self._losses, noise, rows)
            noise = self._best_draft(chain, noise, rows)
        if not self._draws():
            return noise
        tries = self._tries()
        self._evaluate(chain, noise, rows)
        for one_more in tries:
            one_more(chain, rows)
        return self.best.noise.to(noise.device)

    def _try_draw(self, chain: Chain, rows: torch.Tensor) -> None:
        like = self.best.noise.to(self.device)
        self._evaluate(chain, self.sparing(chain, self._draw, like), rows)

    def _draw(self, chain: Chain, like: torch.Tensor) -> torch.Tensor:
        """The next draw of Gaussian noise."""
        drawn = self.draw(self.drawn + 1).to(like)
        self.drawn += 1
        return drawn

    def _try_neighbor(self, chain: Chain, rows: torch.Tensor) -> None:
        best = self.best.noise.to(self.device)
        drawn = self.sparing(chain, self._draw, best)
        near = rotate_towards(best, drawn, self.settings.neighbor_angle)
        self._evaluate(chain, near, rows)

    def _best_draft(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """For every seed the draw whose picture is best when drawn in few steps."""
        best = None
        for number in range(self.drafts):
            drawn = noise if number == 0 else self.sparing(chain, self._draw, noise)
            with torch.no_grad():
                losses = self.sparing(chain, self._drafted, drawn, rows)
            if best is None:
                best = Best.of(drawn, losses, losses)
            else:
                best.take(rows, drawn, losses)
            self._report(False, Drafts(number + 1, self.drafts, best))
        return best.noise.to(noise)

    def _drafted(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor) -> Losses:
        which = "steps" if self.settings.draft == DRAFTS[0] else "first"
        return self._losses(chain, noise, rows, **{which: self.settings.draft_steps})

    def _unfinished(self) -> torch.Tensor:
        """Seeds still to be optimized; all or none where the batch cannot be split."""
        if self.best is None:
            return torch.arange(self.seeds)
        unfinished = self.best.semantic > self.threshold
        if not self.can_split_batch and unfinished.any():
            unfinished[:] = True
        return unfinished.nonzero().flatten()

    def _run(self, chain: Chain, noise: torch.Tensor, keep: int, **how) -> list[torch.Tensor]:
        def stepped(step, prediction):
            self.done += 1
            self.history.evaluations = chain.evaluations
            self._report(False)

        return chain(noise, keep=keep, on_step=stepped, **how)

    def sparing(self, chain: Chain, work: Callable[..., Any], *arguments) -> Any:
        """``work(chain, *arguments)``; where memory runs out, once more with less of it."""
        while True:
            done = self.done
            try:
                return work(chain, *arguments)
            except NoGradient as error:
                if chain.plan.level is NONE:
                    raise
                self.room.without_gradient(str(error), chain)
            except Exception as error:
                fits = out_of_memory(error) and self.room.shrink(chain)
                if not (fits or chain.recovers(error)):
                    refused = refusal(error, self.suspects, chain.plan.level is not NONE)
                    if refused is None:
                        raise
                    if chain.plan.level is NONE:
                        raise refused from quoted(error)
                    self.room.without_gradient(str(refused), chain)
            # Only now, since the error held what was in the way.
            free()
            self.planned += self.done - done

    def _improve(
        self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor | None:
        """One iteration: the gradient to go down; without one, as many tries as it would cost."""
        if chain.plan.level is not NONE:
            return self._gradient(chain, noise, rows)
        if self.best is None:
            self._evaluate(chain, noise.detach(), rows)
        differentiated = self.settings.gradient_steps or chain.steps
        # A call that is differentiated is made once more, and its backward pass is worth two.
        tries = max(1, round(1 + 3 * min(differentiated, chain.steps) / chain.steps))
        self.planned += (tries - 1) * chain.steps
        for _ in range(tries):
            self._try_neighbor(chain, rows)
        return None

    def _parts(self, chain: Chain, rows: torch.Tensor) -> Sequence[torch.Tensor]:
        """``rows`` in parts that there is memory for."""
        return rows.split(chain.plan.batch) if self.can_split_batch else [rows]

    def _evaluate(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor) -> None:
        def evaluated(chain: Chain) -> None:
            with torch.no_grad():
                self._take(noise, rows, self._losses(chain, noise, rows))

        if len(rows):
            self.sparing(chain, evaluated)

    def _losses(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor, **how) -> Losses:
        parts = self._parts(chain, rows)
        found = [self._drawn_losses(chain, noise[p.to(noise.device)], p, **how) for p in parts]
        return Losses.together(found)

    def _gradient(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        whole = torch.zeros_like(noise)
        found = []
        for part in self._parts(chain, rows):
            gradient, losses = self._gradient_of(chain, noise, part)
            whole[part.to(noise.device)] = gradient
            found.append(losses)
        self._take(noise.detach(), rows, Losses.together(found))
        return whole

    def _gradient_of(
        self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor
    ) -> tuple[torch.Tensor, Losses]:
        part = noise.detach()[rows.to(noise.device)].requires_grad_()
        losses = self._drawn_losses(chain, part, rows, gradient_steps=self.settings.gradient_steps)
        self._remember(part, rows, losses)
        try:
            (gradient,) = torch.autograd.grad(losses.total.sum(), part)
        except CheckpointError as error:
            raise NoGradient(MADE_OTHERWISE) from quoted(error)
        self._require_pull(gradient, part)
        if not torch.isfinite(gradient).all():
            raise self.nonsense(
                "SeedSelect: the gradient is not a number. Half precision may be too coarse for "
                "this model: start ComfyUI with --force-fp32, or lower cfg or the learning rate.",
                *(chain, part, rows),
                backward=True,
            )
        return gradient, losses.detached()

    def _require_pull(self, gradient: torch.Tensor, noise: torch.Tensor) -> None:
        """Raise `NoGradient` where nothing but the norm prior pulls at any of the seeds."""
        prior = self.settings.weights.norm * norm_prior(noise)
        (alone,) = torch.autograd.grad(prior.sum(), noise)
        if torch.equal(gradient, alone):
            hidden = self.suspects or ["the model, the sampler, the VAE or the image encoder"]
            raise NoGradient(
                "SeedSelect: the picture's gradient is zero. Something hides its computation from "
                f"PyTorch: {' or '.join(hidden)}. Disconnect it for a search with a gradient."
            )

    def _drawn_losses(self, chain: Chain, noise: torch.Tensor, rows: torch.Tensor, **how) -> Losses:
        try:
            denoised = self._run(chain, noise, len(self.settings.weights.steps), **how)
        except NotNumbers as error:
            raise self.nonsense(str(error), chain, noise, rows) from None
        denoised = [latent.to(noise.dtype) for latent in denoised]  # some samplers give float64
        losses = self.objective(noise, denoised, rows, keeper=chain.keeper, plan=chain.plan)
        if not torch.isfinite(losses.rank).all():
            raise self.nonsense(
                "SeedSelect: the loss is not a number, so the picture is not one either. Check "
                "that model and VAE give a picture with a plain KSampler at these settings (some "
                "VAEs need --fp32-vae).",
                *(chain, noise, rows),
            )
        return losses.joined() if self.is_video else losses

    def nonsense(
        self, otherwise: str, chain: Chain, noise: torch.Tensor, rows: torch.Tensor, backward=False
    ) -> SeedSelectError:
        """The error that names what is not a number first; ``otherwise`` where none is found."""
        found = self.blame(chain, self.objective, noise.detach(), rows, backward)
        return SeedSelectError((found or otherwise) + self.describe_best())

    def _remember(self, noise: torch.Tensor, rows: torch.Tensor, losses: Losses) -> None:
        """Keep what is better than the best so far, of the seeds ``rows`` [b] with ``noise``."""
        if self.best is not None:
            self.best.take(rows, noise, losses)
        elif len(rows) == self.seeds:
            before = losses
            if self._before is None:
                self._first = noise.detach().cpu().clone()
            else:
                before = self._before
                self._before = None
            self.history.before = before.images.cpu().clone()
            self.best = Best.of(noise, losses, before)
            if self.first_semantic:
                self.best.first_semantic = torch.tensor(self.first_semantic)

    def _take(self, noise: torch.Tensor, rows: torch.Tensor, losses: Losses) -> None:
        """Remember and report ``losses`` of the seeds ``rows`` of ``noise``."""
        self._remember(noise[rows.to(noise.device)], rows, losses)
        named = {"total": losses.total.detach(), "semantic": losses.semantic}
        named |= {"appearance": losses.appearance, "norm": losses.norm}
        if losses.opinion is not None:
            named["opinion"] = losses.opinion
            self.history.first_opinion = self.best.first_opinion.tolist()
            self.history.best_opinion = self.best.opinion.tolist()
        everyone = {}
        for name, values in named.items():
            previous = getattr(self.history, name)
            row = torch.tensor(previous[-1]) if previous else torch.zeros(len(self.best.total))
            row[rows] = values.cpu()
            everyone[name] = row
        self.history.add(everyone)
        self._report(True)

    def _report(self, new_best: bool, drafts: Drafts | None = None) -> None:
        reached = int((self.best.semantic <= self.threshold).sum()) if self.best else 0
        progress = (self.done, self.planned, self.iteration, self.best, reached, new_best)
        self.on_progress(Progress(*progress, self.history, drafts))
