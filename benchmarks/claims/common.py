"""What the sections of the quality benchmark share: prompts, references, an optimized batch."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch

from pocket.atlas import load_atlas, paint_glyphs
from pocket.drawing import LETTERS, TAIL_ORDER, prompt
from pocket_world import COLORS, SAMPLING, PocketWorld, ToyWorld, colors_right
from seedselect_core.likeness.comparison import compare_with
from seedselect_core.references import ReferenceSet, combine, reference_set_from_batch
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.settings import Settings
from seedselect_core.seeds.seed import SamplingSettings, Seed

RARE = TAIL_ORDER[-8:]
# Settings were chosen on three of the first four. The last four, the rarest, were held out, but for
# what docs/results.md tells of P and S.
HELD_OUT = RARE[4:]


def generator_of(*parts) -> torch.Generator:
    """A generator that depends on its arguments alone."""
    number = 0
    for part in "/".join(map(str, parts)).encode():
        number = (number * 257 + part) % (2**63 - 25)
    return torch.Generator().manual_seed(number)


def glyphs(letter: str, count: int, draw: int):
    """Masks [count, 64, 64] of a letter in ``report`` fonts, and the generator they used."""
    generator = generator_of("references", letter, draw)
    masks = load_atlas("report")[:, LETTERS.index(letter)]
    return masks[torch.randperm(len(masks), generator=generator)[:count]], generator


def references(letter: str, count: int, draw: int) -> ReferenceSet:
    """``count`` glyphs of a letter in ``report`` fonts, in random colours."""
    return reference_set_from_batch(paint_glyphs(*glyphs(letter, count, draw)).movedim(1, -1))


def color_pairs_of(letter: str, count: int, draw: int) -> list[tuple[str, str]]:
    """Ink and ground for each of ``count`` prompts."""
    generator = generator_of("colours", letter, draw)
    order = [torch.randperm(len(COLORS), generator=generator)[:2].tolist() for _ in range(count)]
    return [(COLORS[ink], COLORS[ground]) for ink, ground in order]


def prompts(world: PocketWorld, wanted: Sequence[tuple[str, str, str]]) -> list:
    """One conditioning that holds a prompt for each picture of a batch: letter, ink, ground."""
    each = [world.condition(prompt(*what))[0] for what in wanted]
    pooled = torch.cat([extra["pooled_output"] for _, extra in each])
    return [[torch.cat([cond for cond, _ in each]), {"pooled_output": pooled}]]


def number_of(letter: str, draw: int) -> int:
    """The host's seed of a run, far from those of the others."""
    return 1_000_000 * (draw + 1) + 1_000 * LETTERS.index(letter)


def side_by_side(
    world: ToyWorld,
    positive: list,
    refs: Sequence[ReferenceSet],
    sampling: SamplingSettings,
    settings: Settings,
    **more,
) -> tuple[Seed, torch.Tensor]:
    """One search for several groups of as many pictures, each towards references of its own.

    Args:
        positive: a prompt for each picture, group by group.
        refs: of each group.

    Returns:
        The seed of all, and the pictures that it draws.
    """
    pictures = len(positive[0][0])
    ends = list(accumulate(len(own) for own in refs))
    subsets = [list(range(end - len(own), end)) for own, end in zip(refs, ends, strict=True)]
    seed, drawn, _ = optimize_seed(
        world.scene(positive, combine(*refs), pictures),
        sampling,
        settings,
        subsets=[own for own in subsets for _ in range(pictures // len(refs))],
        **more,
    )
    return seed, world.vae.decode(drawn["samples"])


def optimized(
    world: PocketWorld,
    groups: Sequence[tuple[str, int]],
    count: int,
    settings: Settings,
    *,
    reference_count: int = 4,
    sampling=SAMPLING,
    refs: Sequence[ReferenceSet] | None = None,
    **more,
) -> list[dict]:
    """Optimize ``count`` seeds of every group side by side: a large batch costs less than many.

    Args:
        groups: letter and draw of each; a group has prompts and references of its own.
        refs: those of each group, where they are not to be drawn.

    Returns:
        For each group letter, draw, seed, images, prompts' colours, verdicts and figures.
    """
    refs = refs or [references(letter, reference_count, draw) for letter, draw in groups]
    pairs = [color_pairs_of(letter, count, draw) for letter, draw in groups]
    wanted = [(x, *pair) for (x, _), own in zip(groups, pairs, strict=True) for pair in own]
    sampling = sampling.override(seed=number_of(*groups[0]))
    seed, images = side_by_side(world, prompts(world, wanted), refs, sampling, settings, **more)
    norms = seed.noise.flatten(1).norm(dim=1).tolist()
    found = []
    for number, ((letter, draw), own) in enumerate(zip(groups, pairs, strict=True)):
        rows = slice(count * number, count * (number + 1))
        found.append(
            {
                "letter": letter,
                "draw": draw,
                "seed": seed.with_noise(seed.noise[rows]),
                "images": images[rows],
                "pairs": own,
                **verdicts(world, images[rows], letter, own),
                "semantic": seed.semantic[rows],
                "norm": norms[rows],
                "evaluations": seed.evaluations / len(wanted),
            }
        )
    return found


def verdicts(world: PocketWorld, images: torch.Tensor, letter: str, pairs) -> dict:
    """Per picture: "right", the share of the two judges that read the letter; "colours"."""
    answers = list(world.right(images, letter).values())
    colors = [
        bool(colors_right(image[None], *pair).all())
        for image, pair in zip(images, pairs, strict=True)
    ]
    return {"right": [sum(both) / 2 for both in zip(*answers, strict=True)], "colours": colors}


def likeness(world: PocketWorld, images: torch.Tensor, refs: ReferenceSet) -> dict:
    """Per finished picture, under the same views whichever its own search had.

    Returns:
        "semantic_alike", the semantic loss to the encoder that guides; "liked" and "agreed",
        whether the picture is as near to the references as they are to each other, to it and to
        the second encoder, which takes no part.
    """
    size = images.shape[2], images.shape[1]
    losses = {}
    near = {}
    for name, encoder in (("liked", world.encoder), ("agreed", world.second_encoder)):
        comparison = compare_with(refs, encoder, size, views=4)
        own = [comparison(image, place)[0].item() for place, image in enumerate(images.split(1))]
        losses[name] = own
        near[name] = [loss <= comparison.spread for loss in own]
    return {"semantic_alike": losses["liked"], **near}


FIGURES = ("letter", "draw", "right", "colours", "semantic", "norm", "evaluations")


def figures(result: dict) -> dict:
    """What of a group of `optimized` goes into JSON."""
    return {key: result[key] for key in FIGURES}


def pictures(images: torch.Tensor) -> np.ndarray:
    """IMAGE [B, H, W, 3] in 0..1 as uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def cost(settings: Settings, steps: int = SAMPLING.steps) -> int:
    """Model evaluations that a seed costs, the unit in which rivals are compared.

    A forward pass counts as one, a recomputed one too, and a backward pass as two. The last
    sampling, which only hands over a picture that is known, does not count, nor does the picture of
    the first noise where a search that begins with drafts draws it for the user alone.
    """
    s = settings
    exact = min(s.gradient_steps or steps, steps)
    drafted = s.candidates > 1 and 0 < s.draft_steps < steps
    starts = (1 if drafted else s.candidates) + s.neighbors
    if starts == 1 and s.iterations > 0:
        starts = 0
    drafts = s.candidates * s.draft_steps if drafted else 0
    return (
        drafts
        + starts * steps
        + s.iterations * (steps + 3 * exact)
        + (steps if s.iterations else 0)
    )


def within(budget: int, settings: Settings, steps: int = SAMPLING.steps) -> Settings:
    """``settings`` with as many iterations as the budget of model evaluations allows."""
    one = cost(replace(settings, iterations=2), steps) - cost(
        replace(settings, iterations=1), steps
    )
    fixed = cost(replace(settings, iterations=1), steps) - one
    return replace(settings, iterations=max(0, math.floor((budget - fixed) / one)))
