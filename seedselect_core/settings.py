"""Settings of the optimization, and the presets."""

import math
from dataclasses import dataclass

from .errors import SeedSelectError

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine", "published")
SHELLS = ("free", "sphere", "channels")


@dataclass(frozen=True)
class Settings:
    """How the noise is optimized.

    Attributes:
        iterations: gradient steps, 0 or more.
        learning_rate: of the first step; the noise has unit variance.
        optimizer: "adamw", or "sgd" (Nesterov, momentum 0.9, as ReNO uses).
        schedule: "constant", "cosine" (to a tenth), or "published" (a tenth after 3 iterations).
        clip_norm: largest gradient norm of one seed, 0 for none.
        semantic_weight, appearance_weight, norm_weight: of the three losses, 0 or more.
        step_weights: weights of the semantic loss on the last denoising steps, the final image
            last; their sum is 1.
        contrast_weight: of the contrast loss, where there is a concept to push away from.
        views: under how many slight transformations the encoder compares each picture; 1 is the
            picture alone.
        candidates: draws of the initial noise per seed of which the best starts the descent.
        draft_steps: where there are several candidates, they are compared by pictures drawn in so
            many steps, and only the best of them is drawn in all; 0 for drawing each in all.
        neighbours: after them, so many rounds of zero-order search: the best so far is rotated by
            ``neighbour_angle`` in a random direction, and replaced where that is better.
        neighbour_angle: radians, greater than 0; a half-turn is pi.
        gradient_steps: so many denoising steps at the end of the chain are differentiated; in those
            before them the prediction counts as constant, and its gradient costs nothing (SDO,
            arXiv 2505.07477). 0 for all, which alone is the exact gradient.
        shell: what happens to the noise after each step: "free" (only the norm prior acts),
            "sphere" (back to the likeliest norm), "channels" (each channel to mean 0, variance 1).
        target: a seed is done when its semantic loss is at most this times the references' own
            (`Targets.spread`): at 1 it is as near to the centroid as they are. 0 for never.
        patience: stop after so many iterations without any seed improving; 0 for never.
    """

    iterations: int = 20
    learning_rate: float = 0.2
    optimizer: str = "adamw"
    schedule: str = "cosine"
    clip_norm: float = 0.0
    semantic_weight: float = 10.0
    appearance_weight: float = 0.0
    norm_weight: float = 0.05
    contrast_weight: float = 5.0
    step_weights: tuple[float, ...] = (1.0,)
    views: int = 4
    candidates: int = 1
    draft_steps: int = 0
    neighbours: int = 0
    neighbour_angle: float = 0.5
    gradient_steps: int = 0
    shell: str = "free"
    target: float = 0.0
    patience: int = 0

    def __post_init__(self):
        weights = [self.semantic_weight, self.appearance_weight, self.norm_weight]
        weights.append(self.contrast_weight)
        checks = [
            (self.iterations >= 0, "iterations", "0 or more"),
            (self.learning_rate > 0, "learning_rate", "greater than 0"),
            (self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}"),
            (self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}"),
            (self.views >= 1, "views", "1 or more"),
            (self.candidates >= 1, "candidates", "1 or more"),
            (self.draft_steps >= 0, "draft_steps", "0 or more"),
            (self.neighbours >= 0, "neighbours", "0 or more"),
            (self.neighbour_angle > 0, "neighbour_angle", "greater than 0"),
            (self.gradient_steps >= 0, "gradient_steps", "0 or more"),
            (self.shell in SHELLS, "shell", f"one of {', '.join(SHELLS)}"),
            (min(weights) >= 0, "loss weights", "0 or more"),
            (
                self.semantic_weight + self.appearance_weight > 0,
                "loss weights",
                "such that semantic or appearance counts",
            ),
            (
                abs(sum(self.step_weights) - 1) < 1e-3
                and min(self.step_weights) >= 0
                # A chain shorter than the weights is left with the last of them.
                and self.step_weights[-1] > 0,
                "step_weights",
                "numbers of 0 or more that sum to 1, the last greater than 0",
            ),
        ]
        for holds, name, rule in checks:
            if not holds:
                value = getattr(self, name, None)
                raise SeedSelectError(f"{name}: must be {rule}, got {value}.")

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
        semantic_weight=10.0,
        appearance_weight=1.0,
        norm_weight=0.0,
        step_weights=(0.05, 0.25, 0.7),
        views=1,
    ),
}
