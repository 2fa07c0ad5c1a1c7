"""The socket types of this pack."""

from typing import Any

from comfy_api.latest import io

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.seed import Seed

ReferenceSetType = io.Custom("REFERENCE_SET")
SeedType = io.Custom("SEED")
SeedHistoryType = io.Custom("SEED_HISTORY")


def require_seed(name: str, connected: Any) -> None:
    """Raise `SeedSelectError` where the input ``name`` holds no seed of this pack.

    The host lets any SEED be linked, and other packs have one that is a number in a dict.
    """
    if not isinstance(connected, Seed):
        raise SeedSelectError(
            f"{name}: what is connected is another node pack's SEED, which holds no noise "
            f"({type(connected).__name__}). Connect the seed of 'SeedSelect Optimize', of 'Load "
            "Seed' or of another node of SeedSelect."
        )
