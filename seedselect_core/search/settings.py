"""Settings of the optimization."""

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, field, replace

from ..errors import Rule, is_number, is_whole, require_rules
from ..likeness.comparison import CENTROID, NEAREST
from ..likeness.weights import LossWeights
from ..memory.levels import AUTOMATIC, LEVELS

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine", "published")
DRAFTS = ("few steps", "first steps")
SHELLS = ("free", "sphere", "channels")
TOWARDS = (CENTROID, NEAREST)
MEMORY = (AUTOMATIC, *(level.name for level in LEVELS))
SMALLEST = sys.float_info.min  # greater than 0


@dataclass(frozen=True)
class Settings:
    """How the noise is optimized.

    Attributes:
        iterations: gradient steps, 0 or more.
        learning_rate: of the first step, as a share of the noise's length: of "adamw" whatever the
            gradient is, of "sgd" for a gradient of norm 1.
        optimizer: "adamw", or "sgd" (Nesterov, momentum 0.9, as ReNO uses; its rate of 5 at 512 x
            512 pixels is 0.04 here).
        weight_decay: of "adamw"; PyTorch's own default is 0.01.
        schedule: "constant", "cosine" (to a tenth), or "published" (a tenth after 3 iterations).
        clip_norm: largest gradient norm of one seed, 0 for none.
        white: whether the gradient is made white before the step (GPER, arXiv 2602.08646), so that
            what is added to the noise is like noise.
        weights: how much each loss counts.
        views: under how many slight transformations the encoder compares each picture; 1 is the
            picture alone.
        towards: what pictures are pulled towards: "centroid" of the references, or the two of them
            that are "nearest".
        rollback: after so many iterations in a row that the first encoder likes better than the
            best and the second opinion does not, a seed goes on from its best; 0 for never.
        candidates: draws of the initial noise per seed of which the best starts the descent.
        draft_steps: where there are several candidates, they are compared by drafts of so many
            steps, and only the best of them is drawn in all; 0 for drawing each in all.
        draft: what a draft is: "few steps", spread over the whole schedule, or the "first steps" of
            the schedule, whose prediction of the clean latent is compared.
        neighbors: after them, so many rounds of zero-order search: the best so far is rotated by
            ``neighbor_angle`` in a random direction, and replaced where that is better.
        neighbor_angle: radians, greater than 0; a half-turn is pi.
        gradient_steps: so many denoising steps at the end of the chain are differentiated; in those
            before them the prediction counts as constant, and its gradient costs nothing (DRaFT-K,
            arXiv 2309.17400). 0 for all, which alone is the exact gradient.
        shell: what happens to the noise after each step: "free" (only the norm prior acts),
            "sphere" (back to the likeliest norm), "channels" (each channel to mean 0, variance 1).
        target: a seed is done when its semantic loss is at most this times the references' own
            (`Targets.spread`): at 1 it is as near to the centroid as they are. 0 for never.
        patience: stop after so many iterations without any seed improving; 0 for never.
        memory: "automatic", or the name of a level of `seedselect_core.memory.levels`.
    """

    iterations: int = 20
    learning_rate: float = 0.2
    optimizer: str = "adamw"
    schedule: str = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    white: bool = False
    weights: LossWeights = field(default_factory=LossWeights)
    views: int = 4
    towards: str = CENTROID
    rollback: int = 3
    candidates: int = 1
    draft_steps: int = 0
    draft: str = DRAFTS[0]
    neighbors: int = 0
    neighbor_angle: float = 0.5
    gradient_steps: int = 0
    shell: str = "free"
    target: float = 0.0
    patience: int = 0
    memory: str = AUTOMATIC

    def __post_init__(self):
        # By API, or by a link from another node, anything comes: "not a number" too.
        def whole(least: int, *names: str) -> list[Rule]:
            values = [(name, getattr(self, name)) for name in names]
            rule = f"a whole number of {least} or more"
            return [Rule(name, is_whole(v) and v >= least, rule, v) for name, v in values]

        def number(least: float, rule: str, *names: str) -> list[Rule]:
            values = [(name, getattr(self, name)) for name in names]
            return [Rule(name, is_number(v) and v >= least, rule, v) for name, v in values]

        def one_of(name: str, choices: tuple[str, ...]) -> Rule:
            value = getattr(self, name)
            return Rule(name, value in choices, f"one of {', '.join(choices)}", value)

        require_rules(
            *whole(0, "iterations", "draft_steps", "neighbors", "gradient_steps", "patience"),
            *whole(0, "rollback"),
            *whole(1, "views", "candidates"),
            *number(SMALLEST, "a number greater than 0", "learning_rate", "neighbor_angle"),
            *number(0, "a number of 0 or more", "clip_norm", "weight_decay", "target"),
            Rule("white", isinstance(self.white, bool), "yes or no", self.white),
            one_of("draft", DRAFTS),
            one_of("optimizer", OPTIMIZERS),
            one_of("schedule", SCHEDULES),
            one_of("shell", SHELLS),
            one_of("towards", TOWARDS),
            one_of("memory", MEMORY),
        )

    def fingerprint(self) -> str:
        """The same for two searches that take the same way."""
        facts = asdict(replace(self, memory=AUTOMATIC))  # the gradient is the same with less of it
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def reweighted(self, **weights: float | tuple[float, ...]) -> "Settings":
        """A copy with other loss weights, by the names of `LossWeights`."""
        return replace(self, weights=replace(self.weights, **weights))

    def rate(self, iteration: int) -> float:
        """Learning rate of an iteration, counted from 0."""
        if self.schedule == "published":
            return self.learning_rate * (1.0 if iteration < 3 else 0.1)
        if self.schedule == "cosine":
            progress = iteration / max(1, self.iterations)
            return self.learning_rate * (0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2)
        return self.learning_rate
