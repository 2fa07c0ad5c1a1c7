"""The socket types of this pack."""

from comfy_api.latest import io

ReferenceSetType = io.Custom("REFERENCE_SET")
SeedType = io.Custom("SEED")
SeedHistoryType = io.Custom("SEED_HISTORY")
