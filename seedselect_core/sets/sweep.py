"""What semantic and appearance loss cost each other: one noise, optimized under many weights.

Every cell starts from the same noise and differs from the others in nothing but the two weights, so
that their figures, which are the losses without their weights, can be compared.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from ..errors import SeedSelectError
from ..likeness.losses import likeness
from ..likeness.vae import host_pictures
from ..search.loop import SeedHistory
from ..search.optimize import optimize_seed
from ..search.scene import Callbacks, Scene
from ..search.settings import Settings
from ..seeds.seed import SamplingSettings, Seed

EXAMPLE = "Write numbers of 0 or more with commas between them, for example 0, 1, 10."


@dataclass(frozen=True)
class Cell:
    """What one pair of weights led to.

    Attributes:
        images: [B, H, W, 3] in 0..1, the best picture of every seed.
        losses: semantic and appearance loss of those pictures without their weights, mean of the
            seeds; empty while the cell is under way.
    """

    images: torch.Tensor
    losses: tuple[float, ...] = ()


@dataclass
class Sweep:
    """Cells by their weights, (semantic, appearance); a pair of zeros has none.

    seed: the noise of all cells, row by row, once there is one.
    """

    semantic_weights: Sequence[float]
    appearance_weights: Sequence[float]
    cells: dict[tuple[float, float], Cell] = field(default_factory=dict)
    seed: Seed | None = None

    def pairs(self) -> list[tuple[float, float]]:
        """All pairs in which one of the losses counts, row by row."""
        every = [(s, a) for s in self.semantic_weights for a in self.appearance_weights]
        return [pair for pair in every if pair != (0, 0)]

    def images(self) -> torch.Tensor:
        """The pictures of all cells, [n, H, W, 3], row by row."""
        return torch.cat([self.cells[pair].images for pair in self.pairs()])

    def table(self) -> str:
        """The figures as text, a cell a line."""
        # Short enough for a node of usual width.
        lines = ["what it is  how it looks  likeness  distance of latents"]
        for (semantic, appearance), cell in self.cells.items():
            figures = f"{likeness(cell.losses[0]):>8}  {cell.losses[1]:19.4f}"
            lines.append(f"{semantic:10g}  {appearance:12g}  {figures}")
        return "\n".join(lines)


def parse_weights(name: str, text: str) -> tuple[float, ...]:
    """Numbers of 0 or more out of "0, 0.3, 1"; ``name`` is the input's, for the message."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise SeedSelectError(f"{name}: '{text}' is no list of numbers. {EXAMPLE}") from None
    for number in numbers:
        if not 0 <= number < math.inf:
            raise SeedSelectError(f"{name}: a weight cannot be {number:g}. {EXAMPLE}")
    if len(set(numbers)) < len(numbers):
        raise SeedSelectError(f"{name}: '{text}' holds a number twice. {EXAMPLE}")
    return tuple(numbers)


def run_sweep(
    sweep: Sweep,
    scene: Scene,
    sampling: SamplingSettings,
    settings: Settings,
    *,
    callbacks: Callbacks | None = None,
) -> Sweep:
    """Optimize the same noise under every pair of weights.

    Args:
        sweep: the weights; its cells are filled.
        scene, sampling: as of `optimize_seed`.
        settings: all but the two weights.
        callbacks: ``progress`` also gets the sweep with the cells that are done and the weights of
            the one under way, ``unfinished`` the noise of all cells so far.

    Raises:
        SeedSelectError: as `optimize_seed`; or there is no pair in which one of the losses counts.
    """
    callbacks = callbacks or Callbacks()
    if not sweep.pairs():
        raise SeedSelectError(
            "likeness_what_it_is, likeness_how_it_looks: both are 0, so nothing pulls the noise "
            "anywhere. Give one of the two lists a number greater than 0."
        )
    found: list[Seed] = []  # of all cells so far, at last the best of the one under way

    try:
        for pair in sweep.pairs():
            semantic, appearance = pair
            seed, drawn, history = optimize_seed(
                scene,
                sampling,
                settings.reweighted(semantic=semantic, appearance=appearance),
                callbacks=replace(
                    callbacks,
                    progress=lambda progress, pair=pair: callbacks.progress(progress, sweep, pair),
                    unfinished=found.append,
                    so_far=lambda make, new: callbacks.so_far(
                        lambda: _together([*found, make()]), new
                    ),
                ),
            )
            found.append(seed)
            pictures = host_pictures(scene.vae, drawn["samples"]).cpu()
            sweep.cells[pair] = Cell(pictures, _mean_losses(seed, history))
    except BaseException:
        if found:
            callbacks.rescue(lambda: _together(found))
        raise
    sweep.seed = _together(found)
    return sweep


def _together(seeds: Sequence[Seed]) -> Seed:
    """The noise of several seeds in one."""
    return seeds[-1].with_noise(torch.cat([seed.noise for seed in seeds]))


def _mean_losses(seed: Seed, history: SeedHistory) -> tuple[float, float]:
    """Semantic and appearance loss of the pictures that were kept, mean of the seeds."""
    # The row of the history that each seed's best noise comes from.
    places = [
        max(row for row, totals in enumerate(history.total) if totals[i] == total)
        for i, total in enumerate(seed.total)
    ]
    appearance = [history.appearance[row][i] for i, row in enumerate(places)]
    return sum(seed.semantic) / len(seed.semantic), sum(appearance) / len(appearance)
