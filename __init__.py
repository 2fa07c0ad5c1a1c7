"""ComfyUI-SeedSelect: finds the noise from which a diffusion model draws a concept right."""

from comfy_api.latest import ComfyExtension, io

from .nodes.advanced import SeedSelectOptimizeAdvanced
from .nodes.display import Searching
from .nodes.diverse import DiverseSet
from .nodes.encoders import LoadOpenClip
from .nodes.explore import InterpolateSeeds, InvertImage, SeedCentroid
from .nodes.optimize import SeedSelectOptimize
from .nodes.pocket import LoadPocketModel, PocketReferences
from .nodes.references import LoadReferenceSet
from .nodes.report import DiversityReportNode
from .nodes.sample import SampleFromSeed
from .nodes.seeds import LoadSeed, SaveSeed, SeedToNoise
from .nodes.sweep import TradeoffSweep

WEB_DIRECTORY = "./web"


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
