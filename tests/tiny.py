"""Small random models of the host's real classes, made in inference mode as the host's nodes do."""

import copy
import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from gradients.models import normal, randomize
from gradients.unet import TinyLatent, tiny_unet
from seedselect_core.chain.unroll import Denoising
from seedselect_core.likeness.encoders import ClipVisionEncoder
from seedselect_core.likeness.weights import LossWeights
from seedselect_core.references import ReferenceSet, reference_set_from_batch
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.scene import Callbacks, CustomScene, Scene
from seedselect_core.search.settings import Settings
from seedselect_core.seeds.seed import SamplingSettings

# A second thread only costs time at these sizes.
torch.set_num_threads(1)

VAE = {
    "embed_dim": 4,
    "ddconfig": {
        "double_z": True,
        "z_channels": 4,
        "resolution": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "dropout": 0.0,
    },
}
VISION = {
    "model_type": "clip_vision_model",
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "quick_gelu",
    "projection_dim": 16,
}


def model(prediction: str = "EPS", dtype: torch.dtype = torch.float32, latent_format=TinyLatent):
    """MODEL: a UNet of Stable Diffusion's kind for latents of 4 channels."""
    return tiny_unet(prediction, dtype, latent_format)


@torch.inference_mode()
def vae(seed: int = 2) -> comfy.sd.VAE:
    """VAE for pictures of twice the latent's size."""
    autoencoder = AutoencoderKL(**copy.deepcopy(VAE))
    randomize(autoencoder, seed)
    host = comfy.sd.VAE(autoencoder.state_dict(), config={"params": copy.deepcopy(VAE)})
    host.downscale_ratio = host.upscale_ratio = 2
    return host


def clip_vision_of(config: dict) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION without weights, of a file: hosts before 0.23 take no dict."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config))
        return comfy.clip_vision.ClipVisionModel(str(path))


@torch.inference_mode()
def clip_vision(seed: int = 3, **changes) -> comfy.clip_vision.ClipVisionModel:
    host = clip_vision_of(VISION | changes)
    randomize(host.model, seed)
    return host


def other_encoder() -> ClipVisionEncoder:
    """Of another size, whose embeddings are of another length."""
    return ClipVisionEncoder(clip_vision(seed=13, hidden_size=16, projection_dim=24))


@torch.inference_mode()
def conditioning(seed: int, **extra) -> list:
    """CONDITIONING of five tokens."""
    return [[normal(1, 5, 16, seed=seed), {"pooled_output": None, **extra}]]


@torch.inference_mode()
def latent(batch: int = 1, size: int = 8, channels: int = 4) -> dict:
    """LATENT as "Empty Latent Image" gives it."""
    return {"samples": torch.zeros(batch, channels, size, size)}


def references() -> ReferenceSet:
    return reference_set_from_batch(
        torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(9))
    )


SAMPLING = SamplingSettings(steps=3, cfg=3.0, sampler_name="euler", scheduler="normal", seed=5)


# Loss weights by the names under which the node has them.
WEIGHTS = ("semantic_weight", "appearance_weight", "norm_weight", "contrast_weight", "step_weights")


def loss_weights(values: dict) -> LossWeights:
    """Those of ``values`` that are loss weights."""
    given = {name.split("_")[0]: values[name] for name in WEIGHTS if name in values}
    steps = {"steps": given.pop("step")} if "step" in given else {}
    return LossWeights(**given, **steps)


def settings(**changes) -> Settings:
    """Plain ones, whatever the defaults are."""
    values = {
        "iterations": 2,
        "learning_rate": 0.05,
        "optimizer": "adamw",
        "schedule": "constant",
        "clip_norm": 0.0,
        "semantic_weight": 10.0,
        "appearance_weight": 0.0,
        "norm_weight": 0.01,
        "step_weights": (1.0,),
        "views": 1,
        "candidates": 1,
        "target": 0.0,
        "patience": 0,
    } | changes
    others = {name: value for name, value in values.items() if name not in WEIGHTS}
    return Settings(**others, weights=loss_weights(values))


SETTINGS = settings()


class Broken(Exception):
    """Raised by a test itself, to leave a context by an error."""


class Graph:
    """What is connected to "SeedSelect Optimize": everything but the settings."""

    def __init__(self, **changes):
        self.inputs = {
            "model": model(),
            "positive": conditioning(1),
            "negative": conditioning(2),
            "vae": vae(),
            "encoder": ClipVisionEncoder(clip_vision()),
            "references": references(),
            "latent": latent(),
        } | changes

    def scene(self, **changes) -> Scene:
        return Scene(**self.inputs | changes)

    def custom(self, denoising: Denoising) -> CustomScene:
        """The same with a guider, sampler and sigmas of its own."""
        names = ("vae", "encoder", "references", "latent")
        return CustomScene(denoising, *(self.inputs[name] for name in names))

    def __getattr__(self, name: str):
        try:
            return self.inputs[name]
        except KeyError:
            raise AttributeError(name) from None


def optimize(graph: Graph, sampling=SAMPLING, settings=SETTINGS, **more):
    """`optimize_seed`, as a node calls it."""
    with torch.inference_mode():
        return optimize_seed(graph.scene(), sampling, settings, **with_callbacks(more))


def with_callbacks(options: dict) -> dict:
    """``options`` with what begins with "on_" as `Callbacks`."""
    listeners = {name[3:]: options.pop(name) for name in list(options) if name.startswith("on_")}
    return options | ({"callbacks": Callbacks(**listeners)} if listeners else {})


def run_node(node, hidden: dict | None = None, /, **inputs):
    """One run of a node in the host's own way, which knows of ``hidden``; its NodeOutput.

    A node that takes lists gets each value in one, where it is none yet.
    """
    if node.INPUT_IS_LIST:
        inputs = {name: _listed(name, value) for name, value in inputs.items()}
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": hidden or {}})
    with torch.inference_mode():
        return clone.execute(**inputs)


def _listed(name: str, value):
    """As the host hands ``value`` to a node that takes lists; of a choice, each of its values."""
    if isinstance(value, dict) and name in value:
        return {inner: v if isinstance(v, list) else [v] for inner, v in value.items()}
    return value if isinstance(value, list) else [value]
