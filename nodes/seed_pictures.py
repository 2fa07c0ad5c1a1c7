"""The node that saves pictures with the noise that they were drawn from."""

from collections.abc import Callable, Iterator
from io import BytesIO

import folder_paths
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..seedselect_core.errors import SeedSelectError
from ..seedselect_core.seeds.carrier import with_seed
from ..seedselect_core.seeds.seed import Seed
from . import graph
from .seed_files import save_numbered
from .seeds import Saving, prefix_input
from .sockets import SeedType, inputs_checked

_MODEL = 0x0110  # the tag of EXIF that the host begins at, downwards


def png(picture: Image.Image, texts: dict[str, str]) -> bytes:
    """A PNG with ``texts`` as the host's Save Image has them."""
    info = PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return _encoded(picture, "PNG", pnginfo=info, compress_level=4)


def webp(picture: Image.Image, texts: dict[str, str]) -> bytes:
    """A WebP without loss, with ``texts`` as the host's Save Animated WEBP has them."""
    exif = picture.getexif()
    for place, (key, text) in enumerate(texts.items()):
        exif[_MODEL - place] = f"{key}:{text}"
    return _encoded(picture, "WEBP", lossless=True, exif=exif)


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


FORMATS: dict[str, Callable[[Image.Image, dict[str, str]], bytes]] = {"png": png, "webp": webp}


def seeds_of(seed: Seed, count: int) -> list[Seed]:
    """The seed of each of ``count`` pictures.

    Raises:
        SeedSelectError: the seed is of another number of pictures.
    """
    if len(seed.noise) != count:
        raise SeedSelectError(
            f"images: there are {count}, but the seed is of {len(seed.noise)}. Connect what was "
            "drawn from this very seed; 'Pick Seeds' takes some of a batch."
        )
    return [seed.take([number]) for number in range(count)]


class SaveImageWithSeed(Saving, io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SeedSelectSaveImageWithSeed",
            display_name="Save Image With Seed",
            category="SeedSelect",
            description=(
                "Save Image, with the found noise inside each picture: 'Load Seed' takes it out "
                "again, and dropping the picture on the page opens the graph."
            ),
            search_aliases=["save image", "save noise", "png with seed", "share", "seedselect"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to save."),
                SeedType.Input("seed", tooltip="What they were drawn from, one noise for each."),
                prefix_input(),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="png",
                    tooltip="webp is smaller; neither loses anything.",
                ),
            ],
            outputs=[],
            is_output_node=True,
            hidden=[*graph.HIDDEN],
        )

    @classmethod
    @inputs_checked
    def execute(cls, images, seed, filename_prefix, format) -> io.NodeOutput:
        pictures = _pictures(images)
        files = _files(pictures, seeds_of(seed, len(pictures)), FORMATS[format], cls.hidden)
        saved = save_numbered(
            files, f".{format}", filename_prefix, cls.hidden.prompt, pictures[0].size
        )
        root = folder_paths.get_output_directory()
        shown = [
            ui.SavedResult(
                path.name, path.parent.relative_to(root).as_posix(), io.FolderType.output
            )
            for path in saved
        ]
        return io.NodeOutput(ui=ui.SavedImages(shown))


def _pictures(images: torch.Tensor) -> list[Image.Image]:
    """IMAGE [B, H, W, 3] as the host's own savers turn it into 8 bits."""
    values = np.clip(255.0 * images.cpu().numpy(), 0, 255).astype(np.uint8)
    return [Image.fromarray(each) for each in values]


def _files(pictures: list[Image.Image], seeds: list[Seed], encode, hidden) -> Iterator[bytes]:
    texts = graph.metadata(hidden)
    for picture, seed in zip(pictures, seeds, strict=True):
        # The picture has the graph itself.
        yield with_seed(encode(picture, texts), graph.with_origin(seed, hidden).encoded())
