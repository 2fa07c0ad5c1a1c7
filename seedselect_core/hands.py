"""The hands' toy model: where it is kept, the latents that it works on, and whether it is there."""

from .pocket import LETTERS, POCKET, Toy

# Eight places a side lose fingers: pocket/hands/README.md.
HANDS = Toy(POCKET / "hands" / "weights", levels=(1, 2, 3))
# What is trained last.
LAST = "unet.safetensors"


def toys() -> dict[str, Toy]:
    """The toy models that are there, by the names of their worlds; the letters' ships always."""
    return {"letters": LETTERS} | ({"hands": HANDS} if (HANDS.weights / LAST).is_file() else {})


def toy_of(model) -> Toy:
    """Which toy model a MODEL of `pocket.is_pocket` is: told by the size of its latents."""
    ratio = model.model.latent_format.spacial_downscale_ratio
    return HANDS if ratio == HANDS.downscale else LETTERS
