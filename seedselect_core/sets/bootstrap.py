"""Many different pictures of one concept, each for a part of what the first cost.

SeedSelect's bootstrapping (Samuel et al., AAAI 2024, arXiv 2304.14530): noise that draws a concept
right is not far from other noise that does. The first batch is optimized in full. Each later
picture starts from a seed already found, turned away from it so that it differs, is pulled towards
another subset of the references, and is done as soon as it is as near to them as the first were, or
as they are to each other. What is too near to a picture already made is thrown away.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from comfy.sampler_helpers import convert_cond

from ..chain.sampling import shares_condition
from ..errors import Rule, SeedSelectError, is_number, is_whole, require_rules
from ..host.samplers import BATCH_INDEPENDENT
from ..likeness.encoders import unit_embeddings
from ..likeness.vae import host_pictures
from ..references import ReferenceSet
from ..search.loop import Progress
from ..search.optimize import optimize_seed
from ..search.scene import Callbacks, Scene
from ..search.settings import Settings
from ..seeds.geometry import rotate_towards
from ..seeds.seed import SamplingSettings, Seed


@dataclass(frozen=True)
class SetSettings:
    """How a set of pictures is made.

    Attributes:
        count: pictures wanted, 1 or more.
        subset: references that each picture is pulled towards; 0 for all of them.
        angle: radians by which a seed already found is turned for a new start; at a half of pi
            nothing of it is left.
        iterations: gradient steps of a later picture, at most.
        min_distance: two pictures nearer than this are duplicates: cosine distance of the encoder's
            embeddings, as a share of the references' own mean semantic loss. (By this the half of
            what a real glyph of the pocket model's letters is to the nearest other is 0.05 to 0.1.)
        attempts: how many times the batches may be made that would do if nothing were thrown away.
    """

    count: int = 16
    subset: int = 3
    angle: float = 1.1
    iterations: int = 3
    min_distance: float = 0.07
    attempts: float = 3.0

    def __post_init__(self):
        angle = is_number(self.angle) and 0 < self.angle <= 1.571
        least = {"min_distance": (self.min_distance, 0), "attempts": (self.attempts, 1)}
        whole = {"count": (self.count, 1), "subset": (self.subset, 0)}
        whole["iterations"] = (self.iterations, 0)
        require_rules(
            *(
                Rule(name, is_whole(v) and v >= low, f"a whole number of {low} or more", v)
                for name, (v, low) in whole.items()
            ),
            Rule("angle", angle, "above 0 and at most 1.571", self.angle),
            *(
                Rule(name, is_number(v) and v >= low, f"a number of {low} or more", v)
                for name, (v, low) in least.items()
            ),
        )


@dataclass
class PictureSet:
    """The pictures that were kept, and what was spent on them.

    Attributes:
        noise: [n, C, h, w]; images: [n, H, W, 3]; embeddings: unit vectors [n, D].
        rows: [n], the place of each in its batch, and so the prompt where there are several.
        in_seed: which of them the seed holds, in its order.
        semantic, first_semantic: [n], the losses as they are and as they were at the start.
        evaluations: model evaluations of each batch, in order.
        duplicates: thrown away as too near to another picture.
        misses: thrown away as farther from the references than all of the first batch, and than
            they are from their centre.
        kept_first: pictures kept of the first batch.
    """

    noise: torch.Tensor
    images: torch.Tensor
    embeddings: torch.Tensor
    rows: list[int] = field(default_factory=list)
    in_seed: list[int] = field(default_factory=list)
    semantic: list[float] = field(default_factory=list)
    first_semantic: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    duplicates: int = 0
    misses: int = 0
    kept_first: int = 0

    def take(self, seed: Seed, images, embeddings, worst: float, limit: float) -> None:
        """Keep what is no worse than ``worst`` and at least ``limit`` away from all others."""
        self.evaluations.append(seed.evaluations)
        for row, loss in enumerate(seed.semantic):
            likeness = self.embeddings @ embeddings[row]
            if loss > worst:
                self.misses += 1
            elif len(likeness) and 1 - likeness.max() < limit:
                self.duplicates += 1
            else:
                self.noise = torch.cat([self.noise, seed.noise[row : row + 1]])
                self.images = torch.cat([self.images, images[row : row + 1]])
                self.embeddings = torch.cat([self.embeddings, embeddings[row : row + 1]])
                self.rows.append(row)
                self.semantic.append(loss)
                self.first_semantic.append(seed.first_semantic[row])
        self.kept_first = self.kept_first or len(self.semantic)

    def parents(self, batch: int, same_prompt: bool, generator: torch.Generator) -> torch.Tensor:
        """One of the pictures for each row of a batch, [batch].

        Noise found for one prompt rarely does for another, were it but another colour: where a
        batch holds several prompts, a row's parent is one of that row, if there is any.
        """
        chosen = []
        for row in range(batch):
            own = [i for i, place in enumerate(self.rows) if same_prompt or place == row]
            own = own or list(range(len(self.rows)))
            chosen.append(own[int(torch.randint(len(own), (1,), generator=generator))])
        return torch.tensor(chosen)

    def place_by_place(self, batch: int) -> list[int]:
        """As many of the pictures as can stand so that the i-th is of row i modulo ``batch``.

        The host gives the prompts of a batch to its pictures in turn.
        """
        places = [[i for i, own in enumerate(self.rows) if own == row] for row in range(batch)]
        order = []
        while places[len(order) % batch]:
            order.append(places[len(order) % batch].pop(0))
        return order

    def cost(self) -> tuple[float, float]:
        """Model evaluations for each picture kept, of the first batch and of the others."""
        later = len(self.semantic) - self.kept_first
        return self.evaluations[0] / self.kept_first, sum(self.evaluations[1:]) / max(1, later)


def make_set(
    scene: Scene,
    sampling: SamplingSettings,
    settings: Settings,
    wanted: SetSettings,
    *,
    contrast: ReferenceSet | None = None,
    callbacks: Callbacks | None = None,
) -> tuple[Seed, PictureSet]:
    """Make ``wanted.count`` pictures that differ.

    Args:
        scene: the batch of its latent is how many pictures are optimized side by side.
        settings: of the first batch; later ones have another start and fewer iterations.
        contrast: as of `optimize_seed`.
        callbacks: ``progress`` also gets how many pictures are kept so far, ``unfinished`` all that
            were kept and the best of the batch that was under way.

    Returns:
        A seed of as many pictures as were found, at most ``wanted.count``, and the whole set. Where
        prompts differ within a batch, the seed ends where the next prompt has no picture left.

    Raises:
        SeedSelectError: as `optimize_seed`; or the sampler draws noise for the batch as a whole, so
            that a picture could not be drawn again in another batch.
    """
    if sampling.sampler_name not in BATCH_INDEPENDENT:
        raise SeedSelectError(
            f"sampler: '{sampling.sampler_name}' draws otherwise in another batch, so the "
            "set could not be drawn again. Use ddim, euler or another sampler without noise of its "
            "own."
        )
    making = _Making(scene, sampling, settings, wanted, contrast, callbacks or Callbacks())
    attempts = math.ceil(math.ceil(wanted.count / making.batch) * wanted.attempts)
    try:
        for number in range(attempts):
            making.make_batch(number)
            if making.count() >= wanted.count:
                break
    except BaseException:
        making.rescue()
        raise
    return making.result()


class _Making:
    """A set while it is made, batch by batch."""

    def __init__(
        self,
        scene: Scene,
        sampling: SamplingSettings,
        settings: Settings,
        wanted: SetSettings,
        contrast: ReferenceSet | None,
        callbacks: Callbacks,
    ):
        self.scene = scene
        self.sampling = sampling
        self.settings = settings
        self.wanted = wanted
        self.contrast = contrast
        self.callbacks = callbacks
        self.batch = len(scene.latent["samples"])
        self.generator = torch.Generator().manual_seed(sampling.seed)
        conditions = convert_cond([*scene.positive, *scene.negative])
        self.same_prompt = all(shares_condition(cond) for cond in conditions)
        self.made: PictureSet | None = None
        self.seed: Seed | None = None  # of the last batch that was finished
        self.stage = settings
        self.worst = math.inf
        self.limit = 0.0
        self.under_way: list[Seed] = []  # the batch whose pictures are not in ``made`` yet

    def count(self) -> int:
        """Pictures that are kept so far."""
        return 0 if self.made is None else len(self.made.noise)

    def make_batch(self, number: int) -> None:
        """Optimize the batch of this number, counted from 0, and keep what is worth it."""
        start = self._start()
        # The candidates of the first batch count upwards from its number.
        first = (self.sampling.seed + number * self.settings.candidates) % 2**64
        self.seed, drawn, history = optimize_seed(
            self.scene,
            self.sampling.override(seed=first),
            self.stage,
            start=start,
            contrast=self.contrast,
            subsets=self._subsets(),
            callbacks=replace(
                self.callbacks,
                progress=self._show,
                unfinished=self.under_way.append,
                so_far=lambda make, new: self.callbacks.so_far(
                    lambda: self._together([make()]), new
                ),
            ),
        )
        self.under_way.append(self.seed)
        images = host_pictures(self.scene.vae, drawn["samples"]).cpu()
        embeddings = unit_embeddings(self.scene.encoder, images)
        if self.made is None:
            self.made = PictureSet(self.seed.noise[:0], images[:0], embeddings[:0])
            self._set_bar(history.spread)
        self.made.take(self.seed, images, embeddings, self.worst, self.limit)
        self.under_way.clear()

    def rescue(self) -> None:
        """Hand over what an error or Cancel would lose."""
        if self.under_way or self.made is not None:
            self.callbacks.rescue(lambda: self._together(self.under_way))

    def _together(self, under_way: Sequence[Seed]) -> Seed:
        """The noise of all pictures that are kept, and of a batch that is under way."""
        found = [] if self.made is None else [self.made.noise]
        found += [best.noise for best in under_way]
        return [self.seed, *under_way][-1].with_noise(torch.cat(found))

    def result(self) -> tuple[Seed, PictureSet]:
        """The seed of what was found, and the whole set."""
        made = self.made
        order = list(range(len(made.noise)))
        if not self.same_prompt:
            order = made.place_by_place(self.batch)
        made.in_seed = order[: self.wanted.count]
        found = replace(
            self.seed,
            noise=made.noise[made.in_seed],
            sampling=self.sampling,
            semantic=[made.semantic[i] for i in made.in_seed],
            first_semantic=[made.first_semantic[i] for i in made.in_seed],
            total=[],
            evaluations=sum(made.evaluations),
        )
        return found, made

    def _start(self) -> Seed | None:
        """A found seed for each row of the next batch, turned away from itself."""
        if self.made is None:
            return None
        parents = self.made.parents(self.batch, self.same_prompt, self.generator)
        fresh = torch.randn(self.seed.noise.shape, generator=self.generator)
        turned = rotate_towards(self.made.noise[parents], fresh, self.wanted.angle)
        return self.seed.with_noise(turned)

    def _subsets(self) -> list[list[int]]:
        """For each row of the next batch the references that it gets."""
        k = len(self.scene.references)
        size = min(self.wanted.subset or k, k)
        drawn = (torch.randperm(k, generator=self.generator) for _ in range(self.batch))
        return [order[:size].tolist() for order in drawn]

    def _set_bar(self, spread: float) -> None:
        """What later pictures must reach: as near to the references as the first batch.

        No nearer than ``spread``, the references' own: beyond it a picture takes over the style of
        some of them, or of the only one.
        """
        losses = self.seed.semantic
        self.worst = max(*losses, spread)
        self.limit = self.wanted.min_distance * spread
        self.stage = replace(
            self.settings, candidates=1, neighbors=0, iterations=self.wanted.iterations
        )
        if spread > 0:
            target = max(1.0, sum(losses) / self.batch / spread)
            self.stage = replace(self.stage, target=target)

    def _show(self, progress: Progress) -> None:
        self.callbacks.progress(progress, self.count())
