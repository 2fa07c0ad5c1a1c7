"""Pictures that a node shows, as files of the host's temporary folder.

The host's own way makes new files with every run. Here they are named for what they hold, so that
the same pictures make no new ones, and the oldest give way to others.
"""

import contextlib
import hashlib
import io
import os
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image

from ..seedselect_core.seeds.rescue import keep_newest, write_whole

FOLDER = "seedselect"
MOST = 256


def previewed(pictures: torch.Tensor) -> dict:
    """What the host's page is told of pictures [B, H, W, 3] in 0..1."""
    folder = Path(folder_paths.get_temp_directory()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    names = [_kept(folder, picture) for picture in pictures]
    _remove_oldest(folder, {*names})
    shown = [{"filename": name, "subfolder": FOLDER, "type": "temp"} for name in names]
    return {"images": shown, "animated": (False,)}


def _kept(folder: Path, picture: torch.Tensor) -> str:
    """Name of the file of ``picture``, which is made if there is none."""
    values = (picture.cpu().clamp(0, 1) * 255).to(torch.uint8).numpy()
    shape = repr(values.shape).encode()
    name = hashlib.sha256(shape + np.ascontiguousarray(values).tobytes()).hexdigest()[:32] + ".png"
    path = folder / name
    try:
        os.utime(path)  # it was shown last now
    except FileNotFoundError:
        file = io.BytesIO()
        Image.fromarray(values).save(file, format="PNG", compress_level=1)
        write_whole(path, file.getvalue())
    return name


def _remove_oldest(folder: Path, shown: set[str]) -> None:
    with contextlib.suppress(OSError):
        others = [path for path in folder.iterdir() if path.name not in shown]
        keep_newest(others, max(0, MOST - len(shown)))
