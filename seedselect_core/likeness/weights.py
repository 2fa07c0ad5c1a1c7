"""How much each loss counts."""

from dataclasses import dataclass

from ..errors import Rule, require_rules


@dataclass(frozen=True)
class LossWeights:
    """L = w_s * semantic + w_a * appearance + w_n * norm prior (SeedSelect, arXiv 2304.14530).

    Attributes:
        semantic, appearance, norm: weights of the three losses, 0 or more.
        contrast: of the contrast loss, where there is a concept to push away from.
        steps: weights of the semantic loss on the last denoising steps, the final image last; their
            sum is 1.
    """

    semantic: float = 10.0
    appearance: float = 0.0
    norm: float = 0.05
    contrast: float = 5.0
    steps: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        weights = (self.semantic, self.appearance, self.norm, self.contrast)
        summed = abs(sum(self.steps) - 1) < 1e-3 and min(self.steps) >= 0
        require_rules(
            Rule("loss weights", min(weights) >= 0, "0 or more", weights),
            Rule(
                "loss weights",
                self.semantic + self.appearance > 0,
                "such that semantic or appearance counts",
                weights,
            ),
            Rule(
                "step_weights",
                # A chain shorter than the weights is left with the last of them.
                summed and self.steps[-1] > 0,
                "numbers of 0 or more that sum to 1, the last greater than 0",
                self.steps,
            ),
        )

    def of_last(self, steps: int) -> list[float]:
        """Weights of the last ``steps`` predictions, at most as many as there are; they sum to 1.

        A chain shorter than the weights keeps those of its own last steps.
        """
        last = self.steps[-steps:]
        return [weight / sum(last) for weight in last]
