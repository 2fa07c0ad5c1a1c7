"""The image towers of open_clip, by architecture and file."""

import contextlib
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch
from safetensors import SafetensorError, safe_open

from ..errors import SeedSelectError
from ..host.devices import where_complete
from ..text import printable, quoted
from .clamping import clamp_inward
from .encoders import normalize, resize_and_crop

# How weights are named in Hugging Face's layout, which the host reads and open_clip does not.
HOST_LAYOUT = "vision_model."


class OpenClipEncoder:
    """The image tower of an open_clip model, from a file on this machine.

    Args:
        architecture: a name out of `open_clip.list_models()`, such as "ViT-H-14".
        checkpoint_file: weights of that architecture, .safetensors or a PyTorch file (read
            without running code from it). Nothing is ever downloaded.

    Images are resized by PyTorch's antialiased filter and not by Pillow's, which rounds to 8 bits
    in between; the pixels differ by less than a hundredth from open_clip's own.

    Raises:
        SeedSelectError: open_clip is missing, the architecture unknown, or the file not there,
            not weights, or of another architecture.
    """

    def __init__(self, architecture: str, checkpoint_file: str | Path):
        open_clip = _open_clip()
        path = _require_files(open_clip, architecture, checkpoint_file)
        _require_layout(path)
        try:
            model = open_clip.create_model(
                architecture,
                # An absolute path cannot be taken for the name of weights to download.
                pretrained=str(path.resolve()),
                pretrained_text=False,
                force_preprocess_cfg=_preprocessing(open_clip, architecture),
                weights_only=True,
            )
        except Exception as error:  # open_clip lets through whatever its many readers raise
            if HOST_LAYOUT in str(error):
                raise _for_the_host(path) from None
            raise SeedSelectError(
                f"open_clip checkpoint: '{path.name}' cannot be read as weights of {architecture}. "
                f"Check that file and architecture belong together ({printable(error, 200)})."
            ) from None  # it may list every weight of the model

        self.model = model.visual.eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.model,
            load_device=comfy.model_management.text_encoder_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        cfg = self.model.preprocess_cfg
        size = cfg["size"]
        self.size = size if isinstance(size, int) else size[0]
        self.mean = list(cfg["mean"])
        self.std = list(cfg["std"])
        self.mode = cfg.get("interpolation", "bicubic")
        if cfg["resize_mode"] not in ("shortest", "squash") or self.mode == "random":
            raise SeedSelectError(
                f"open_clip architecture: '{architecture}' prepares its images in a way that is "
                f"not supported yet ({cfg['resize_mode']}, {self.mode})."
            )
        self.crop = cfg["resize_mode"] == "shortest"

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """[B, H, W, 3] in 0..1 to the model's normalised pixels [B, 3, size, size]."""
        return where_complete(self._preprocess, images)

    def _preprocess(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images[..., :3].movedim(-1, 1)
        pixels = clamp_inward(resize_and_crop(pixels, self.size, self.crop, self.mode))
        return normalize(pixels, self.mean, self.std)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        embeddings = self.model(self.preprocess(images.to(self.patcher.load_device)))
        # CoCa and towers that also give their tokens return the embedding first.
        return embeddings[0] if isinstance(embeddings, tuple) else embeddings


def _open_clip():
    """The Python package, which only this encoder needs."""
    try:
        import open_clip
    except ImportError as error:
        raise SeedSelectError(
            "open_clip: the Python package is not installed. Install it into ComfyUI's Python "
            "with 'pip install open_clip_torch', or connect a CLIP_VISION instead."
        ) from quoted(error)
    return open_clip


def _require_files(open_clip, architecture: str, checkpoint_file: str | Path) -> Path:
    """The file of weights. Raises `SeedSelectError` where it or the architecture is not there."""
    config = open_clip.get_model_config(architecture) if ":" not in architecture else None
    if config is None:
        raise SeedSelectError(
            f"open_clip architecture: '{architecture}' is not known to the open_clip that is "
            "installed. Give a plain name such as ViT-B-32 or ViT-H-14."
        )
    if "hf_model_name" in config["text_cfg"]:
        raise SeedSelectError(
            f"open_clip architecture: the text tower of '{architecture}' would have to be "
            "downloaded. Choose an architecture without one, such as ViT-B-32 or ViT-H-14."
        )
    path = Path(checkpoint_file) if checkpoint_file else None
    if path is None or not path.is_file():
        raise SeedSelectError(
            f"open_clip checkpoint: there is no file '{checkpoint_file}'. Give the full path "
            f"of the weights of {architecture}; they are never downloaded for you."
        )
    return path


def _require_layout(path: Path) -> None:
    """Raise `SeedSelectError` for a file that 'Load CLIP Vision' reads, before gigabytes of it."""
    with contextlib.suppress(SafetensorError, OSError):  # a file of PyTorch, or a damaged one
        with safe_open(path, framework="pt") as file:
            if any(key.startswith(HOST_LAYOUT) for key in file.keys()):
                raise _for_the_host(path)


def _for_the_host(path: Path) -> SeedSelectError:
    return SeedSelectError(
        f"open_clip checkpoint: '{path.name}' is laid out for 'Load CLIP Vision'. Load it with "
        "that node, and connect its CLIP_VISION to clip_vision."
    )


def _preprocessing(open_clip, architecture: str) -> dict:
    """Settings that a file of weights does not carry.

    Where all published weights of this architecture agree on theirs (SigLIP: mean 0.5, squashed),
    those are meant.
    """
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    known = [open_clip.get_pretrained_cfg(architecture, tag) for tag in tags]
    keys = ("mean", "std", "interpolation", "resize_mode")
    known = [{k: v for k, v in cfg.items() if k in keys} for cfg in known]
    return known[0] if known and all(cfg == known[0] for cfg in known) else {}
