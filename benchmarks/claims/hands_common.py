"""What the sections on hands share: hands, references, prompts, an optimized batch, means."""

from collections.abc import Sequence

import torch

from hands_world import Hand, HandsWorld, grounds_right, real_pictures
from pocket.hands.real import EACH, LEARNED
from pocket.hands.words import GESTURES, GROUNDS, SIDES, TAIL_ORDER, VIEWS, poses_seen, prompt
from pocket_world import SAMPLING
from seedselect_core.references import ReferenceSet, reference_set_from_batch
from seedselect_core.search.settings import Settings

from .common import generator_of, side_by_side
from .intervals import mean_and_interval

# No setting was chosen on any hand.
RARE = TAIL_ORDER[-8:]
OFTEN = tuple(gesture for gesture in TAIL_ORDER if poses_seen(gesture) >= 300)
REFERENCES = 4
# The shares that `judge` gives of a picture: 0 or 1 each.
VERDICTS = ("right", "counted", "explained", "well_formed")


def hand_of(gesture: str, draw: int) -> Hand:
    """Another side or view for every draw of a gesture: four draws show all of them."""
    number = TAIL_ORDER.index(gesture) + draw
    return Hand(gesture, SIDES[number % 2], VIEWS[(number + number // 2) % 2])


def learned(view: str) -> int:
    """How many real hands of a gesture seen from there are references or training data."""
    return LEARNED if view == VIEWS[0] else EACH[view]


def real_order(gesture: str, draw: int) -> list[int]:
    """The palms that are learned from, in the order of a draw."""
    generator = generator_of("real hands", gesture, draw)
    return torch.randperm(LEARNED, generator=generator).tolist()


def references(hand: Hand, count: int, draw: int) -> ReferenceSet:
    """``count`` real hands of that gesture, side and view, on grounds of their own."""
    generator = generator_of("references", *hand, draw)
    which = torch.randperm(learned(hand.view), generator=generator)[:count].tolist()
    return reference_set_from_batch(real_pictures(hand, which, generator))


def grounds_of(hand: Hand, count: int, draw: int) -> list[str]:
    """A ground for each of ``count`` prompts, none twice while others are left."""
    order = torch.randperm(len(GROUNDS), generator=generator_of("grounds", *hand, draw)).tolist()
    names = list(GROUNDS)
    return [names[order[number % len(names)]] for number in range(count)]


def prompts(world: HandsWorld, wanted: Sequence[tuple[Hand, str]]) -> list:
    """One conditioning that holds a prompt for each picture of a batch: hand, ground."""
    each = [world.condition(prompt(*hand, ground))[0] for hand, ground in wanted]
    pooled = torch.cat([extra["pooled_output"] for _, extra in each])
    return [[torch.cat([cond for cond, _ in each]), {"pooled_output": pooled}]]


def number_of(hand: Hand, draw: int) -> int:
    """The host's seed of a run, far from those of the others."""
    return 1_000_000 * (draw + 1) + 1_000 * GESTURES.index(hand.gesture)


def optimized(
    world: HandsWorld,
    groups: Sequence[tuple[Hand, int]],
    count: int,
    settings: Settings,
    *,
    refs: Sequence[ReferenceSet] | None = None,
    **more,
) -> list[dict]:
    """Optimize ``count`` seeds of every group side by side: a large batch costs less than many.

    Args:
        groups: hand and draw of each; a group has prompts and references of its own.
        refs: those of each group, where they are not to be drawn.

    Returns:
        For each group its hand, draw, seed, images, verdicts and figures.
    """
    refs = refs or [references(hand, REFERENCES, draw) for hand, draw in groups]
    grounds = [grounds_of(hand, count, draw) for hand, draw in groups]
    wanted = [
        (hand, ground) for (hand, _), own in zip(groups, grounds, strict=True) for ground in own
    ]
    sampling = SAMPLING.override(seed=number_of(*groups[0]))
    seed, images = side_by_side(world, prompts(world, wanted), refs, sampling, settings, **more)
    norms = seed.noise.flatten(1).norm(dim=1).tolist()
    found = []
    for number, ((hand, draw), own) in enumerate(zip(groups, grounds, strict=True)):
        rows = slice(count * number, count * (number + 1))
        found.append(
            hand._asdict()
            | judge(world, images[rows], hand)
            | {
                "draw": draw,
                "seed": seed.with_noise(seed.noise[rows]),
                "images": images[rows],
                "ground": grounds_right(images[rows], own),
                "semantic": seed.semantic[rows],
                "norm": norms[rows],
                "evaluations": seed.evaluations / len(wanted),
            }
        )
    return found


def judge(world: HandsWorld, images: torch.Tensor, hand: Hand) -> dict[str, list[int]]:
    """Of each picture whether it is right, counted, explained, and well-formed: `VERDICTS`."""
    told = world.judged(images, hand)
    return {key: [int(getattr(verdict, key)) for verdict in told] for key in VERDICTS}


def real_group(world: HandsWorld, hand: Hand) -> dict:
    """A group of real hands, palms that are no references, and what the judges say of them."""
    first = LEARNED if hand.view == VIEWS[0] else 0
    which = list(range(first, EACH[hand.view]))
    images = real_pictures(hand, which, generator_of("judged", *hand))
    return hand._asdict() | judge(world, images, hand)


FIGURES = (*Hand._fields, *VERDICTS, "draw", "ground", "semantic", "norm", "evaluations")


def figures(group: dict) -> dict:
    """What of a group of `optimized` goes into JSON."""
    return {key: group[key] for key in FIGURES}


def means(groups: list[dict], keys: Sequence[str]) -> dict[str, dict]:
    """Mean and interval of each of these figures, over gestures, groups and pictures."""
    return {
        key: mean_and_interval([(group["gesture"], group[key]) for group in groups]) for key in keys
    }


def paired(ours: list[dict], theirs: list[dict], key: str) -> dict:
    """How far ours are ahead, picture by picture: mean and interval of the difference.

    Both were made from the same first noise, gesture by gesture and draw by draw.
    """
    other = {(group["gesture"], group["side"], group["draw"]): group[key] for group in theirs}
    gaps = [
        (
            group["gesture"],
            [
                our - their
                for our, their in zip(
                    group[key],
                    other[group["gesture"], group["side"], group["draw"]],
                    strict=True,
                )
            ],
        )
        for group in ours
    ]
    return mean_and_interval(gaps)
