"""The toy models by the names of their worlds; where that of hands is kept, and its latents."""

from .pocket import LETTERS, POCKET, Toy

# Eight places a side lose fingers: pocket/hands/README.md.
HANDS = Toy(POCKET / "hands" / "weights", levels=(1, 2, 3))
TOYS = {"letters": LETTERS, "hands": HANDS}


def toy_of(model) -> Toy:
    """Which toy model a MODEL of `pocket.is_pocket` is: told by the size of its latents."""
    ratio = model.model.latent_format.spacial_downscale_ratio
    return HANDS if ratio == HANDS.downscale else LETTERS
