"""Settings of the optimization, and the presets."""

import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, field, replace

from ..errors import Rule, is_number, is_whole, require_rules
from ..likeness.weights import LossWeights
from ..memory.levels import AUTOMATIC, LEVELS

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine", "published")
SHELLS = ("free", "sphere", "channels")
MEMORY = (AUTOMATIC, *(level.name for level in LEVELS))
SMALLEST = sys.float_info.min  # greater than 0


@dataclass(frozen=True)
class Settings:
    """How the noise is optimized.

    Attributes:
        iterations: gradient steps, 0 or more.
        learning_rate: of the first step; the noise has unit variance.
        optimizer: "adamw", or "sgd" (Nesterov, momentum 0.9, as ReNO uses).
        schedule: "constant", "cosine" (to a tenth), or "published" (a tenth after 3 iterations).
        clip_norm: largest gradient norm of one seed, 0 for none.
        weights: how much each loss counts.
        views: under how many slight transformations the encoder compares each picture; 1 is the
            picture alone.
        candidates: draws of the initial noise per seed of which the best starts the descent.
        draft_steps: where there are several candidates, they are compared by pictures drawn in so
            many steps, and only the best of them is drawn in all; 0 for drawing each in all.
        neighbors: after them, so many rounds of zero-order search: the best so far is rotated by
            ``neighbor_angle`` in a random direction, and replaced where that is better.
        neighbor_angle: radians, greater than 0; a half-turn is pi.
        gradient_steps: so many denoising steps at the end of the chain are differentiated; in those
            before them the prediction counts as constant, and its gradient costs nothing (SDO,
            arXiv 2505.07477). 0 for all, which alone is the exact gradient.
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
    clip_norm: float = 0.0
    weights: LossWeights = field(default_factory=LossWeights)
    views: int = 4
    candidates: int = 1
    draft_steps: int = 0
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
            *whole(1, "views", "candidates"),
            *number(SMALLEST, "a number greater than 0", "learning_rate", "neighbor_angle"),
            *number(0, "a number of 0 or more", "clip_norm", "target"),
            one_of("optimizer", OPTIMIZERS),
            one_of("schedule", SCHEDULES),
            one_of("shell", SHELLS),
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


PRESETS = {
    # Chosen by benchmarks/presets.py on three letters and fonts of their own; in 10 steps
    # they cost about 100, 400 and 1,600 model evaluations a picture.
    "default": Settings(candidates=8, iterations=16, gradient_steps=3, views=2),
    "quick": Settings(candidates=3, iterations=3, gradient_steps=3, views=2, learning_rate=0.4),
    "thorough": Settings(candidates=16, iterations=75, gradient_steps=3, views=2),
    # SeedSelect's published code (method section and settings table of arXiv 2304.14530).
    "paper": Settings(
        iterations=30,
        learning_rate=0.1,
        optimizer="adamw",
        schedule="published",
        weights=LossWeights(semantic=10.0, appearance=1.0, norm=0.0, steps=(0.05, 0.25, 0.7)),
        views=1,
    ),
}
