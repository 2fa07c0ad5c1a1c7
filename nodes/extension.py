"""The nodes of this pack, as the host asks for them."""

import folder_paths
from comfy_api.latest import ComfyExtension, io

from .advanced import SeedSelectOptimizeAdvanced
from .derive import JoinSeeds, PickSeeds, ResizeSeed, SeedVariation
from .display import Searching
from .diverse import DiverseSet
from .encoders import LoadOpenClip
from .explore import InterpolateSeeds, InvertImage, SeedCentroid
from .optimize import SeedSelectOptimize
from .pocket import HandReferences, LoadPocketModel, PocketReferences
from .references import LoadReferenceSet
from .report import DiversityReportNode
from .sample import SampleFromSeed
from .seed_files import FOLDER, seed_folder
from .seed_pictures import SaveImageWithSeed
from .seeds import LoadSeed, SaveSeed, SeedToNoise
from .sweep import TradeoffSweep


class SeedSelectExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        folder_paths.add_model_folder_path(FOLDER, seed_folder())
        # One for the life of the host: what was checked once need not be checked again.
        Searching.settled = set()
        return [
            LoadReferenceSet,
            LoadOpenClip,
            SeedSelectOptimize,
            SeedSelectOptimizeAdvanced,
            SampleFromSeed,
            SaveSeed,
            SaveImageWithSeed,
            LoadSeed,
            SeedToNoise,
            PickSeeds,
            JoinSeeds,
            ResizeSeed,
            SeedVariation,
            InvertImage,
            SeedCentroid,
            InterpolateSeeds,
            DiverseSet,
            TradeoffSweep,
            DiversityReportNode,
            LoadPocketModel,
            PocketReferences,
            HandReferences,
        ]


async def comfy_entrypoint() -> SeedSelectExtension:
    return SeedSelectExtension()
