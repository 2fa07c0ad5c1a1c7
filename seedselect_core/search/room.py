"""Makes a search fit into memory: the plan that it begins with, and a smaller one where that fails.

Before the first iteration one call of the model and one decoding are metered, with gradients on and
nothing kept, and the fastest plan is taken that the free memory holds. Where memory runs out all
the same, the next smaller plan goes on from the best seed so far, with the same noise. After the
last plan that takes a gradient comes the search without one.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import comfy.model_management
import torch

from ..chain.unroll import Chain, MoreRoom
from ..likeness.objective import Objective
from ..memory.failures import out_of_memory
from ..memory.levels import AUTOMATIC, BLOCKS, KEPT, LEVELS, NONE, WHOLE, Level
from ..memory.plan import GIB, Needs, Plan, batches, choose, smaller
from ..text import printable
from .settings import Settings


class Room:
    """What a search does about memory.

    Args:
        settings: tells the level that the user asks for, and the steps that are differentiated.
        can_split_batch: whether seeds may be drawn in parts of the batch.

    Attributes:
        tell: gets sentences for the user.
        differentiates: whether gradients are taken; not so once something has shown that it has
            none.
    """

    def __init__(self, settings: Settings, can_split_batch: bool):
        self.tell: Callable[[str], None] = lambda message: None
        self.differentiates = settings.iterations > 0
        self._settings = settings
        self._can_split = can_split_batch
        self._seeds = 1
        self._levels: Sequence[Level] = LEVELS
        self._sizes = [1]
        self._made_room = False

    def prepare(self, chain: Chain, noise: torch.Tensor, objective: Objective) -> None:
        """Choose the plan of a search that starts at ``noise``, and say which it is.

        Raises:
            MoreRoom: weights of the models have to leave the device first. Asked for once.
        """
        self._seeds = len(noise)
        self._levels = chain.levels()
        self._sizes = batches(self._seeds, self._can_split)
        if not self.differentiates:
            level = NONE if self._settings.iterations else WHOLE
            chain.plan = Plan(level, self._seeds, strips=False)
        elif self._settings.memory == AUTOMATIC:
            self._plan_by_free_memory(chain, noise, objective)
        else:
            self._plan_as_asked(chain)

    def without_gradient(self, reason: str, chain: Chain | None = None) -> None:
        """Nothing is differentiated from now on, and the user learns why."""
        self.differentiates = False
        if chain is not None:
            chain.plan = replace(chain.plan, level=NONE)
        self._say(f"{reason} Going on without a gradient: random steps, of which the best is kept.")

    def shrink(self, chain: Chain) -> bool:
        """Take the next smaller plan after memory has run out; False after the last."""
        plan = smaller(chain.plan, self._levels, self._sizes)
        if plan is None:
            return False
        chain.plan = plan
        self.differentiates &= plan.level is not NONE
        self._say(f"Out of memory: going on with the same noise, {plan.describe(self._seeds)}.")
        return True

    def _plan_as_asked(self, chain: Chain) -> None:
        asked = next(level for level in LEVELS if level.name == self._settings.memory)
        level = asked
        if asked not in self._levels:
            level = WHOLE
            self._say(f"memory: this graph cannot be run {asked.name}; taking {level.name}.")
        else:
            self._say(f"memory: {level.name}, as asked for.")
        keeps = level is KEPT
        strips = level.parts == "blocks"
        chain.plan = Plan(level, self._seeds, strips, chain.steps if keeps else 0, keeps)
        self.differentiates = level is not NONE

    def _plan_by_free_memory(self, chain: Chain, noise: torch.Tensor, objective: Objective) -> None:
        free = comfy.model_management.get_free_memory(noise.device)
        part = noise[:1] if self._can_split else noise
        smallest = Plan(self._levels[-2], self._sizes[-1], True)
        try:
            needs = self._needs(chain, part, objective, free)
        except Exception as error:
            if not out_of_memory(error):
                raise
            # Not even a plain call, with the weights where they are now.
            self._require_room(int(free + GIB))
            plan = smallest
        else:
            plan = choose(needs, free, self._levels, self._sizes)
            if plan is None:
                self._require_room(needs.of(smallest))
                plan = smallest
        chain.plan = plan
        slower = plan.level.time / WHOLE.time
        cost = "" if slower <= 1 else f"; about {slower:.2g} times the time of whole calls"
        self._say(f"{free / GIB:.1f} GB free: {plan.describe(self._seeds)}{cost}.")

    def _needs(self, chain: Chain, noise: torch.Tensor, objective: Objective, free: int) -> Needs:
        call, latent = chain.measured(noise)
        pictures = objective.metered(latent[:1], chain.keeper).need(WHOLE)
        strips = pictures
        if pictures > free / 2:
            strips = objective.metered(latent[:1], chain.keeper, strips=True).need(BLOCKS)
        steps = self._settings.gradient_steps
        differentiated = min(steps, chain.steps) if steps else chain.steps
        compared = len(self._settings.weights.steps)
        return Needs(call, len(noise), pictures, strips, differentiated, compared)

    def _require_room(self, size: int) -> None:
        if not self._made_room:
            self._made_room = True
            raise MoreRoom(size)

    def _say(self, message: str) -> None:
        logging.info("SeedSelect: %s", printable(message))
        self.tell(message)
