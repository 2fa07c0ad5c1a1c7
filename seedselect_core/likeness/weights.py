"""How much each loss counts."""

from dataclasses import dataclass

from ..errors import Rule, is_number, require_rules


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
    norm: float = 0.8
    contrast: float = 5.0
    steps: tuple[float, ...] = (1.0,)

    def __post_init__(self):
        weights = {
            f"{name}_weight": getattr(self, name)
            for name in ("semantic", "appearance", "norm", "contrast")
        }
        steps = bool(self.steps) and all(is_number(step) and step >= 0 for step in self.steps)
        require_rules(
            *(
                Rule(name, is_number(value) and value >= 0, "a number of 0 or more", value)
                for name, value in weights.items()
            )
        )
        require_rules(
            Rule(
                "semantic_weight, appearance_weight",
                self.semantic + self.appearance > 0,
                "such that one of them counts",
                (self.semantic, self.appearance),
            ),
            Rule(
                "step_weights",
                # A chain shorter than the weights is left with the last of them.
                steps and abs(sum(self.steps) - 1) < 1e-3 and self.steps[-1] > 0,
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
