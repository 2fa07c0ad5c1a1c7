"""The errors that a user of the nodes is meant to read."""


class SeedSelectError(ValueError):
    """Something the user can put right: the message names the wrong input and the remedy."""
