"""The fastest way to take a gradient that the free memory holds, and the next smaller one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .levels import KEPT, NONE, Level
from .meter import Meter

# What is counted leaves out what kernels need for themselves, and gaps between tensors.
MARGIN = 1.15
GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """How a search takes its gradients.

    Attributes:
        level: what of a call is kept.
        batch: so many seeds at a time, each of which is its own.
        strips: whether pictures are decoded in strips of rows.
        kept_calls: so many last calls are kept whole, where the level keeps any.
        keeps_pictures: whether pictures are decoded and compared once, and not again for the
            backward pass.
    """

    level: Level
    batch: int
    strips: bool
    kept_calls: int = 0
    keeps_pictures: bool = False

    def describe(self, seeds: int) -> str:
        """What is done, in words."""
        said = [self.level.name]
        if self.batch < seeds and self.level is not NONE:
            said.append(f"{self.batch} of {seeds} seeds at a time")
        if self.strips and self.level is not NONE:
            said.append("the picture decoded in strips")
        return ", ".join(said)


@dataclass(frozen=True)
class Needs:
    """Bytes beside the weights that a run is alive with at its worst moments.

    Attributes:
        call: a metered call of the model.
        seeds: of that call.
        pictures: decoding and comparing one picture.
        strips: the same in strips of rows.
        differentiated: calls that a gradient goes through, as far as is known before a run.
        compared: pictures of every seed that are decoded and compared.
    """

    call: Meter
    seeds: int
    pictures: int
    strips: int
    differentiated: int
    compared: int = 1

    def of(self, plan: Plan) -> int:
        """What a run by ``plan`` needs, with a margin for what cannot be counted."""
        if plan.level is NONE:
            return 0
        share = plan.batch / self.seeds
        kept = plan.kept_calls * self.call.kept * share
        call = self.call.need(plan.level) * share
        picture = self.strips if plan.strips else self.pictures
        if plan.keeps_pictures:
            picture *= plan.batch * self.compared
        return int(MARGIN * max(call, kept + picture))


def batches(seeds: int, can_split: bool) -> list[int]:
    """Sizes of the parts that a batch can be split into, from all at once to one by one."""
    found = [seeds]
    while can_split and found[-1] > 1:
        found.append((found[-1] + 1) // 2)
    return found


def choose(needs: Needs, free: int, levels: Sequence[Level], sizes: Sequence[int]) -> Plan | None:
    """The fastest plan that ``free`` bytes hold; None where there is none with a gradient."""
    strips = MARGIN * needs.pictures > free
    for level in levels:
        if level is NONE:
            break
        # To split the batch would cost what is saved by keeping calls.
        for batch in sizes[:1] if level is KEPT else sizes:
            for keeps_pictures in (True, False):
                plan = Plan(level, batch, strips, keeps_pictures=keeps_pictures)
                if level is KEPT:
                    plan = replace(plan, kept_calls=_room_for_calls(needs, free, plan))
                if needs.of(plan) <= free and (plan.kept_calls or level is not KEPT):
                    return plan
    return None


def _room_for_calls(needs: Needs, free: int, plan: Plan) -> int:
    """Calls that can be kept while pictures are decoded and compared."""
    most = needs.differentiated
    while most and needs.of(replace(plan, kept_calls=most)) > free:
        most -= 1
    return most


def smaller(plan: Plan, levels: Sequence[Level], sizes: Sequence[int]) -> Plan | None:
    """The next plan that needs less than ``plan``; None after the last."""
    if plan.level is NONE:
        return None
    after = levels[levels.index(plan.level) + 1 :]
    if plan.level is KEPT:
        return Plan(after[0], plan.batch, plan.strips)
    if plan.keeps_pictures:
        return replace(plan, keeps_pictures=False)
    if not plan.strips:
        return replace(plan, strips=True)
    less = [size for size in sizes if size < plan.batch]
    if less:
        return replace(plan, batch=less[0])
    return Plan(after[0], plan.batch, True) if after else None
