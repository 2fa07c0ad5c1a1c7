"""The image encoders: is an embedding the host's own, and the gradient of the picture exact?

The host recognises a file by the numbers of its layers. So it is given a small random model's
weights, and beside them the one weight that it looks for; the config that it then reads is made
smaller in all sizes that nothing depends on.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import comfy.clip_model
import comfy.clip_vision
import comfy.image_encoders.dino3
import comfy.model_management
import torch
from safetensors.torch import save_file

from seedselect_core.likeness.encoders import ClipVisionEncoder, ImageEncoder
from seedselect_core.likeness.open_clip import OpenClipEncoder

from ..double import in_double
from ..measure import Case, Finding, snapshot, unchanged
from ..models import normal, randomize
from .vae_kind import lent, nearby_error, randomize_normed

LAYERS = "vision_model.encoder.layers.{}.layer_norm1.weight"
FOLDER = Path(comfy.clip_vision.__file__).parent
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
PICTURE = (40, 48)  # not the encoder's own size, so that it is resized and cropped


@contextlib.contextmanager
def smaller_towers(sizes: dict) -> Iterator[None]:
    """Let the host's loader make its models of other sizes than its config files say."""
    whole = comfy.clip_vision.ClipVisionModel
    projector = comfy.clip_model.LlavaProjector

    def small(config):
        if not isinstance(config, dict):
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        return whole(config | sizes)

    try:
        comfy.clip_vision.ClipVisionModel = small
        comfy.clip_model.LlavaProjector = lambda width, _, *rest: projector(width, 16, *rest)
        yield
    finally:
        comfy.clip_vision.ClipVisionModel = whole
        comfy.clip_model.LlavaProjector = projector


@contextlib.contextmanager
def unrounded() -> Iterator[None]:
    """Let the host not round pictures to 8 bits, which makes steps of its values."""
    rounded = torch.Tensor.round
    try:
        torch.Tensor.round = lambda tensor: tensor
        yield
    finally:
        torch.Tensor.round = rounded


@dataclass(frozen=True)
class Tower:
    """One kind of CLIP_VISION.

    Attributes:
        name: what users know it by.
        config: the host's file of it, or the dict.
        seen: names of weights by which the host recognises it; none where it does so by sizes.
        sizes: more that is made smaller.
    """

    name: str
    config: str | dict
    seen: tuple[str, ...] = ()
    sizes: tuple[tuple[str, object], ...] = ()
    quick: bool = False

    @torch.inference_mode()
    def read(self) -> comfy.clip_vision.ClipVisionModel:
        """CLIP_VISION by the host's own loader, or of the config alone."""
        config = self.config
        if not isinstance(config, dict):
            config = json.loads((FOLDER / config).read_text(encoding="utf-8"))
        sizes = SMALL | dict(self.sizes)
        if "projection_dim" in config:
            sizes["projection_dim"] = 16
        with smaller_towers(sizes):
            first = comfy.clip_vision.ClipVisionModel(config)
            randomize(first.model, 3)
            if not self.seen:
                return first
            weights = first.get_sd() | {name: torch.ones(1) for name in self.seen}
            read = comfy.clip_vision.load_clipvision_from_sd(weights)
        if read.config != config | sizes:
            raise ValueError(f"The host takes a file of {self.name} for another one.")
        return read

    def examine(self) -> Finding:
        remarks = [f"sizes given, {'kind' if self.seen else 'not'} detected"]
        clip_vision = self.read()
        with torch.inference_mode():
            host, remark = host_embedding(clip_vision, pictures())
        if remark:
            remarks.append(remark)
        return examined(ClipVisionEncoder(clip_vision), host, remarks)

    def case(self) -> Case:
        return Case("encoders", self.name, self.examine, self.quick)


def pictures() -> torch.Tensor:
    """[2, H, W, 3]: dark enough that what a bicubic filter adds stays below 1."""
    return 0.3 + 0.4 * normal(2, *PICTURE, 3, seed=2).sigmoid()


def host_embedding(clip_vision, images: torch.Tensor) -> tuple[torch.Tensor, str]:
    """What the host makes of ``images``, [B, D], and anything to tell of it."""
    try:
        embedding = clip_vision.encode_image(images)["image_embeds"]
        remark = ""
    except AttributeError:
        pixels = comfy.clip_model.clip_preprocess(
            images, clip_vision.image_size, clip_vision.image_mean, clip_vision.image_std
        )
        embedding = clip_vision.model(pixel_values=pixels)[2]
        remark = "the host's 'CLIP Vision Encode' fails with this model; compared with the model"
    if embedding.ndim == 3:
        return embedding.mean(dim=1), "mean of the patches, as the host has no pooling for it"
    return embedding, remark


def examined(encoder: ImageEncoder, host: torch.Tensor, remarks: list[str]) -> Finding:
    """Measure an encoder of float32 whose embedding of `pictures` should be ``host``."""
    module = encoder.patcher.model
    holder = SimpleNamespace(model_patcher=encoder.patcher)
    with torch.inference_mode():
        before = snapshot(holder)
        comfy.model_management.load_models_gpu([encoder.patcher])
        with lent(module):
            x = pictures().requires_grad_()
            embedding = encoder(x)
            torch.autograd.grad(embedding.sum(), x)
        kept = unchanged(holder, before)
        with in_double(), unrounded():
            module.double()
            with lent(module):
                images = pictures()[:1].double()

                def value(z: torch.Tensor) -> torch.Tensor:
                    found = encoder(z)
                    return (normal(*found.shape, seed=8).double() * found.tanh()).sum()

                error = nearby_error(value, images)
    remark = "; ".join([*remarks, "gradient without the rounding to 8 bits"])
    return Finding(torch.equal(embedding, host), error, kept, remark=remark)


def open_clip_case(name: str, vision: dict, quick: bool = False) -> Case:
    return Case("encoders", name, lambda: examine_open_clip(vision), quick)


def examine_open_clip(vision: dict) -> Finding:
    """An image tower of open_clip, named to it, and read from a file."""
    import open_clip

    name = "seedselect-small"
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32} | vision,
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        try:
            open_clip.add_model_config(path)
            model = open_clip.create_model(name).eval()
            with torch.no_grad():
                randomize_normed(model, 3)
            weights = Path(folder, "weights.safetensors")
            save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
            encoder = OpenClipEncoder(name, weights)
        finally:
            open_clip.factory._MODEL_CONFIGS.pop(name, None)
            path.unlink()
    with torch.enable_grad():
        # With a gradient its attention takes another kernel than without.
        host = model.encode_image(encoder.preprocess(pictures()).requires_grad_()).detach()
    return examined(encoder, host, ["compared with open_clip's own embedding of the same pixels"])


L = (LAYERS.format(22),)
TOWERS = [
    Tower("CLIP ViT-L", "clip_vision_config_vitl.json", L, (("image_size", 28),), quick=True),
    Tower("CLIP ViT-L 336", "clip_vision_config_vitl_336.json", L),
    Tower(
        "LLaVA's CLIP ViT-L 336",
        "clip_vision_config_vitl_336_llava.json",
        L,
    ),
    Tower("CLIP ViT-H", "clip_vision_config_h.json", (LAYERS.format(30),), (("image_size", 28),)),
    Tower(
        "CLIP ViT-bigG", "clip_vision_config_g.json", (LAYERS.format(47),), (("image_size", 28),)
    ),
    Tower("SigLIP 384", "clip_vision_siglip_384.json", sizes=(("image_size", 28),)),
    Tower("SigLIP 2, fixed size", "clip_vision_siglip_512.json", sizes=(("image_size", 32),)),
    Tower(
        "SigLIP 2, any size",
        "clip_vision_siglip2_base_naflex.json",
        sizes=(("num_patches", 16),),
        quick=True,
    ),
    Tower(
        "DINOv2 large",
        "image_encoders/dino2_large.json",
        ("encoder.layer.23.layer_scale2.lambda1",),
        (("image_size", 28),),
    ),
    Tower(
        "DINOv2 giant",
        "image_encoders/dino2_giant.json",
        ("encoder.layer.39.layer_scale2.lambda1",),
        (("image_size", 28),),
    ),
    Tower(
        "DINOv3 ViT-H+",
        comfy.image_encoders.dino3.DINOV3_VITH_CONFIG,
        ("layer.31.norm1.weight",),
        (("image_size", 32),),
        quick=True,
    ),
]
VIT = {"layers": 2, "width": 32, "patch_size": 8, "head_width": 16}


def cases() -> list[Case]:
    return [tower.case() for tower in TOWERS] + [
        open_clip_case("open_clip, ViT", VIT, quick=True),
        open_clip_case("open_clip, ViT with attention pooling", VIT | {"attentional_pool": True}),
        open_clip_case("open_clip, ResNet", {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16}),
    ]
