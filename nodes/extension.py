"""The nodes of this pack, as the host asks for them."""

from comfy_api.latest import ComfyExtension, io

from .advanced import SeedSelectOptimizeAdvanced
from .display import Searching
from .diverse import DiverseSet
from .encoders import LoadOpenClip
from .explore import InterpolateSeeds, InvertImage, SeedCentroid
from .optimize import SeedSelectOptimize
from .pocket import LoadPocketModel, PocketReferences
from .references import LoadReferenceSet
from .report import DiversityReportNode
from .sample import SampleFromSeed
from .seeds import LoadSeed, SaveSeed, SeedToNoise
from .sweep import TradeoffSweep


class SeedSelectExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # One for the life of the host: what was checked once need not be checked again.
        Searching.settled = set()
        return [
            LoadReferenceSet,
            LoadOpenClip,
            SeedSelectOptimize,
            SeedSelectOptimizeAdvanced,
            SampleFromSeed,
            SaveSeed,
            LoadSeed,
            SeedToNoise,
            InvertImage,
            SeedCentroid,
            InterpolateSeeds,
            DiverseSet,
            TradeoffSweep,
            DiversityReportNode,
            LoadPocketModel,
            PocketReferences,
        ]


async def comfy_entrypoint() -> SeedSelectExtension:
    return SeedSelectExtension()
