"""Many different pictures of one concept, each for a part of what the first cost.

SeedSelect's bootstrapping (Samuel et al., AAAI 2024, arXiv 2304.14530): noise that draws a concept
right is not far from other noise that does. The first batch is optimized in full. Each later
picture starts from a seed already found, turned away from it so that it differs, is pulled towards
another subset of the references, and is done as soon as it is as near to them as the first were.
What is too near to a picture already made is thrown away.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from comfy.sampler_helpers import convert_cond

from .encoders import ImageEncoder, unit_embeddings
from .errors import SeedSelectError
from .geometry import rotate_towards
from .optimize import PICTURE_BY_PICTURE, one_for_all, optimize_seed
from .references import ReferenceSet
from .search import Progress
from .seed import SamplingSettings, Seed
from .settings import Settings
from .vae_codec import host_pictures


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
            embeddings, as a share of the references' own mean semantic loss. (Real glyphs of the
            pocket model's letters in one colour lie about 0.03 from the nearest other.)
        attempts: how many times the batches may be made that would do if nothing were thrown away.
    """

    count: int = 16
    subset: int = 3
    angle: float = 0.7
    iterations: int = 3
    min_distance: float = 0.02
    attempts: float = 3.0

    def __post_init__(self):
        rules = [
            (self.count >= 1, "count", "1 or more"),
            (self.subset >= 0, "subset", "0 or more"),
            (0 < self.angle <= 1.571, "angle", "above 0 and at most 1.571"),
            (self.iterations >= 0, "iterations", "0 or more"),
            (self.min_distance >= 0, "min_distance", "0 or more"),
            (self.attempts >= 1, "attempts", "1 or more"),
        ]
        for holds, name, rule in rules:
            if not holds:
                raise SeedSelectError(f"{name}: must be {rule}, got {getattr(self, name)}.")


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
        misses: thrown away as farther from the references than all of the first batch.
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
    model,
    positive: list,
    negative: list,
    vae,
    encoder: ImageEncoder,
    references: ReferenceSet,
    latent: dict,
    sampling: SamplingSettings,
    settings: Settings,
    wanted: SetSettings,
    *,
    contrast: ReferenceSet | None = None,
    on_progress: Callable[[Progress, int], None] | None = None,
    on_unfinished: Callable[[Seed], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[Seed, PictureSet]:
    """Make ``wanted.count`` pictures that differ.

    Args:
        latent: its batch is how many pictures are optimized side by side.
        settings: of the first batch; later ones have another start and fewer iterations.
        on_progress: also gets how many pictures are kept so far.
        on_unfinished: gets all that were kept and the best of the batch that was under way.

        The others are those of `optimize_seed`.

    Returns:
        A seed of as many pictures as were found, at most ``wanted.count``, and the whole set. Where
        prompts differ within a batch, the seed ends where the next prompt has no picture left.

    Raises:
        SeedSelectError: as `optimize_seed`; or the sampler draws noise for the batch as a whole, so
            that a picture could not be drawn again in another batch.
    """
    if sampling.sampler_name not in PICTURE_BY_PICTURE:
        raise SeedSelectError(
            f"sampler: '{sampling.sampler_name}' draws otherwise in another batch, so the "
            "set could not be drawn again. Use ddim, euler or another sampler without noise of its "
            "own."
        )
    batch, k = len(latent["samples"]), len(references.images)
    size = min(wanted.subset or k, k)
    generator = torch.Generator().manual_seed(sampling.seed)
    same_prompt = all(one_for_all(cond) for cond in convert_cond([*positive, *negative]))
    made: PictureSet | None = None
    seed: Seed | None = None
    start, stage, worst, limit = None, settings, math.inf, 0.0
    under_way: list[Seed] = []  # the batch whose pictures are not in ``made`` yet

    def show(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress, 0 if made is None else len(made.noise))

    try:
        for number in range(math.ceil(math.ceil(wanted.count / batch) * wanted.attempts)):
            if made is not None:
                parents = made.parents(batch, same_prompt, generator)
                fresh = torch.randn(seed.noise.shape, generator=generator)
                turned = rotate_towards(made.noise[parents], fresh, wanted.angle)
                start = seed.with_noise(turned)
            seed, drawn, history = optimize_seed(
                model,
                positive,
                negative,
                vae,
                encoder,
                references,
                latent,
                # The candidates of the first batch count upwards from its number.
                sampling.override(seed=(sampling.seed + number * settings.candidates) % 2**64),
                stage,
                start=start,
                contrast=contrast,
                subsets=[
                    torch.randperm(k, generator=generator)[:size].tolist() for _ in range(batch)
                ],
                on_progress=show,
                on_unfinished=under_way.append,
                on_note=on_note,
            )
            under_way.append(seed)
            images = host_pictures(vae, drawn["samples"]).cpu()
            embeddings = unit_embeddings(encoder, images)
            if made is None:
                made = PictureSet(seed.noise[:0], images[:0], embeddings[:0])
                worst, limit = max(seed.semantic), wanted.min_distance * history.spread
                stage = replace(settings, candidates=1, neighbours=0, iterations=wanted.iterations)
                if history.spread > 0:
                    stage = replace(stage, target=sum(seed.semantic) / batch / history.spread)
            made.take(seed, images, embeddings, worst, limit)
            under_way.clear()
            if len(made.noise) >= wanted.count:
                break
    except BaseException:
        found = [*([] if made is None else [made.noise]), *(best.noise for best in under_way)]
        if found and on_unfinished is not None:
            on_unfinished((under_way or [seed])[0].with_noise(torch.cat(found)))
        raise
    order = list(range(len(made.noise))) if same_prompt else made.place_by_place(batch)
    made.in_seed = order[: wanted.count]
    found = replace(
        seed,
        noise=made.noise[made.in_seed],
        sampling=sampling,
        semantic=[made.semantic[i] for i in made.in_seed],
        first_semantic=[made.first_semantic[i] for i in made.in_seed],
        total=[],
        evaluations=sum(made.evaluations),
    )
    return found, made
