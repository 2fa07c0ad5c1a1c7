"""The host, made ready outside of its own server: its folder, its device, its lists of models."""

import importlib
import os
import sys
from pathlib import Path

from ..errors import SeedSelectError

PACK = Path(__file__).resolve().parents[2]


def comfyui_folder() -> Path:
    """COMFYUI_DIR, or the ComfyUI in whose custom_nodes this pack lies.

    Raises:
        SeedSelectError: it is neither given nor around.
    """
    given = os.environ.get("COMFYUI_DIR")
    folder = Path(given).expanduser().absolute() if given else PACK.parent.parent
    if not (folder / "comfy" / "options.py").is_file():
        raise SeedSelectError(
            "COMFYUI_DIR: set it to the folder with ComfyUI's main.py. This pack does not lie in "
            "the custom_nodes of one."
        )
    return folder


def prepare_host(cpu: bool = False) -> None:
    """Make the host importable; to be called before anything imports it."""
    folder = comfyui_folder()
    os.environ["COMFYUI_DIR"] = str(folder)
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    # First: the host's nodes.py and utils must win over folders of those names here or around.
    sys.path.insert(0, str(folder))
    if str(PACK) not in sys.path:
        sys.path.append(str(PACK))
    try:
        import torch
        from comfy.cli_args import args
    except ImportError as error:
        raise SeedSelectError(
            f"{sys.executable} lacks what ComfyUI needs ({error}). Use the Python of {folder}."
        ) from None

    # The host decides on its device when it is imported.
    backends = (torch.cuda, torch.backends.mps, torch.xpu)
    args.cpu = cpu or not any(backend.is_available() for backend in backends)
    args.deterministic = True
    extra = folder / "extra_model_paths.yaml"
    if extra.is_file():
        importlib.import_module("utils.extra_config").load_extra_path_config(str(extra))
