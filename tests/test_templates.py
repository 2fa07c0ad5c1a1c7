"""Every workflow in a real server, on small random files of its model's family.

The files have the host's own layout and the names that the workflow gives them, and its loaders
tell the family by them. Two parts are stood in for, since the host builds them at full size
whatever the file holds: text encoders, by random text of their width, and what an image encoder
says to Redux (tests/text_pack). The image encoder that judges is that of the toy model. Qwen-Image
and Z-Image have one width each in the host: their files have the fewest layers that it takes, in
8 bits. The toy model is the one that ships.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import comfy.supported_models
import numpy as np
import pytest
import torch
from comfy.ldm.flux.redux import ReduxImageEncoder
from safetensors.torch import save_file

import host
from api_workflow import changed, find, to_api
from comfy_client import ComfyClient
from conftest import HOST, REPO
from gradients.families.flux import FLUX, FLUX2
from gradients.families.mmdit import SD3
from gradients.families.unet import SDXL
from gradients.models import random_file, randomize
from gradients.unets import file_of
from host_install import Host

sys.path.append(str(REPO / "benchmarks"))

from memory_models import QWEN as FULL_QWEN
from memory_models import VAES
from memory_models import Z_IMAGE as FULL_Z_IMAGE

# Pytest finds fixtures by name in this module.
from test_server import WORKFLOWS, opened, pictures

SIZE = 64
UNET = "model.diffusion_model."
# Shortened searches, by the type of the node.
SHORT = {
    "SeedSelectOptimize": {"preset": "custom", "iterations": 1, "first_draws": 2},
    "SeedSelectOptimizeAdvanced": {"preset": "custom", "iterations": 1, "first_draws": 2},
    "SeedSelectDiverseSet": {"preset": "quick", "count": 2},
    "SeedSelectTradeoffSweep": {"preset": "quick", "likeness_how_it_looks": "3"},
    "SeedSelectInvertImage": {"refinements": 1},
    "SeedSelectInterpolateSeeds": {"points": 3},
}
BEST_OF_N = "best_of_n_sd15"  # takes no gradient
# Z-Image has 900 million weights at the fewest, 6 GB with all around them: few calls.
FEW = {"preset": "custom", "iterations": 1, "first_draws": 1, "steps": 1}
OWN = {
    BEST_OF_N: {"SeedSelectOptimize": {"first_draws": 4, "quick_drafts": 1}},
    "hand_palms_z_image_turbo": {"SeedSelectOptimize": FEW},
}
# Loaders, and the folders that they read from.
LOADERS = {
    "CheckpointLoaderSimple": "checkpoints",
    "CLIPVisionLoader": "clip_vision",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "StyleModelLoader": "style_models",
}


@dataclass(frozen=True)
class Family:
    """A workflow's family, made small.

    Attributes:
        name: of its class in `comfy.supported_models`.
        sizes: of the model, as the host detects them.
        vae: key of `VAES`.
        width, pooled: channels of the text encoder's output, and of its pooled output.
        dtype: of the model's file.
    """

    name: str
    sizes: dict
    vae: str
    width: int
    pooled: int
    dtype: torch.dtype = torch.float16

    def model(self) -> dict[str, torch.Tensor]:
        if self.vae == "SD":
            return {name: tensor.half() for name, tensor in file_of(self.name, self.sizes).items()}
        return random_file(self.name, self.sizes, self.dtype)

    def autoencoder(self) -> dict[str, torch.Tensor]:
        module = VAES[self.vae][0]()
        randomize(module, 2)
        return {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}


SD15 = Family("SD15", {}, "SD", 768, 768)
XL = Family("SDXL", SDXL, "SD", 2048, 1280)
SD35 = SD3 | {"qk_norm": "rms", "x_block_self_attn_layers": [0, 1]}
FLUX_DEV = Family("Flux", FLUX | {"guidance_embed": True}, "Flux", 4096, 768)
F8 = torch.float8_e4m3fn
QWEN = FULL_QWEN | {"num_layers": 1}
Z_IMAGE = FULL_Z_IMAGE | {"n_layers": 1}
FAMILIES = {
    "best_of_n_sd15": SD15,
    "diverse_set": SD15,
    "hand_palms_sd15": SD15,
    "hand_palms_sdxl": XL,
    "hand_palms_z_image_turbo": Family("ZImage", Z_IMAGE, "Flux", 2560, 8, F8),
    "interpolate_seeds": SD15,
    "joint_redux_flux_dev": FLUX_DEV,
    "rare_concept_sdxl": XL,
    "seedselect_flux2_klein": Family("Flux2", FLUX2 | {"context_in_dim": 7680}, "Flux.2", 7680, 8),
    "seedselect_flux_dev": FLUX_DEV,
    "seedselect_qwen_image": Family("QwenImage", QWEN, "Qwen", 3584, 8, F8),
    "seedselect_sd15": SD15,
    "seedselect_sd35_medium": Family("SD3", SD35, "Flux", 4096, 2048),
    "seedselect_sdxl": XL,
    "tradeoff_sweep": SD15,
}
# Their models ship with the pack.
POCKET = [name for name in WORKFLOWS if name.startswith(("pocket_", "toy_"))]


def files_of(graph: dict) -> dict[str, str]:
    """Of each loader the file that it names."""
    kinds = LOADERS.keys()
    return {n["type"]: n["widgets_values"][0] for n in graph["nodes"] if n["type"] in kinds}


def write(models: Path, name: str, family: Family) -> None:
    """The files of a workflow: a checkpoint, or model and VAE apart; and a style model.

    A checkpoint that is there is another workflow's of the same family.
    """
    files = files_of(opened(name))
    if "StyleModelLoader" in files:
        save(models, "StyleModelLoader", files, redux())
    if (models / "checkpoints" / files.get("CheckpointLoaderSimple", "none")).is_file():
        return
    (prefix,) = getattr(comfy.supported_models, family.name).vae_key_prefix
    parts = {"UNETLoader": (UNET, family.model()), "VAELoader": (prefix, family.autoencoder())}
    if "CheckpointLoaderSimple" in files:
        whole = {
            prefix + key: tensor for prefix, part in parts.values() for key, tensor in part.items()
        }
        parts = {"CheckpointLoaderSimple": ("", whole)}
    for loader, (_, part) in parts.items():
        save(models, loader, files, part)


def save(models: Path, loader: str, files: dict[str, str], weights: dict) -> None:
    path = models / LOADERS[loader] / files[loader]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def redux() -> dict[str, torch.Tensor]:
    module = ReduxImageEncoder(dtype=torch.float16)
    randomize(module, 3)
    return module.state_dict()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(REPO / "tests/text_pack", base / "custom_nodes/text_pack")
    real = Host(HOST, Path(sys.executable), managed=False)
    with host.server(["--cpu"], base_directory=base, host=real) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return ComfyClient(server.url)


def small(name: str, object_info: dict) -> dict:
    """The workflow's API prompt in 64 x 64 pixels and two steps, without the host's encoders."""
    prompt = to_api(opened(name), object_info)
    for node in prompt.values():
        kind, inputs = node["class_type"], node["inputs"]
        changes = (SHORT | OWN.get(name, {})).get(kind, {})
        if "steps" in inputs:
            changes = {"steps": 2} | changes
        if changes:
            node["inputs"] = changed(object_info[kind], inputs, changes)
        for side in {"width", "height"} & inputs.keys():
            node["inputs"][side] = SIZE
        if "batch_size" in inputs:
            inputs["batch_size"] = 1
    return prompt if name in POCKET else stood_in(prompt, FAMILIES[name])


def stood_in(prompt: dict, family: Family) -> dict:
    """An API prompt with the toy model's encoder and pictures, and with random text."""
    prompt["toy"] = {"class_type": "SeedSelectLoadPocketModel", "inputs": {}}
    prompt["letters"] = {
        "class_type": "SeedSelectPocketReferences",
        "inputs": {"letter": "S", "count": 2},
    }
    for node in list(prompt.values()):
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "CLIPTextEncode":
            text = {"text": inputs["text"], "width": family.width, "pooled": family.pooled}
            node |= {"class_type": "RandomText", "inputs": text}
        elif kind == "CLIPVisionEncode":
            node |= {"class_type": "RandomVision", "inputs": {"image": inputs["image"]}}
        elif kind == "SeedSelectLoadReferenceSet":
            inputs["images"] = ["letters", 0]
        elif kind == "SeedSelectInvertImage":
            scale = {"upscale_method": "area", "width": SIZE, "height": SIZE, "crop": "disabled"}
            prompt["scaled"] = {
                "class_type": "ImageScale",
                "inputs": scale | {"image": inputs["image"]},
            }
            inputs["image"] = ["scaled", 0]
        elif "clip_vision" in inputs:
            inputs["clip_vision"] = ["toy", 3]
    encoders = ("CLIPVisionLoader", "CLIPLoader")
    return {key: node for key, node in prompt.items() if node["class_type"] not in encoders}


def test_every_workflow_is_run():
    assert sorted([*FAMILIES, *POCKET]) == WORKFLOWS


@pytest.mark.parametrize("name", [*FAMILIES, *POCKET])
def test_a_workflow_runs_on_a_small_file_of_its_family(client, server, name):
    if name in FAMILIES:
        write(server.base_directory / "models", name, FAMILIES[name])
    prompt = small(name, client.get("object_info"))
    result = client.run(prompt)
    assert result.status == "success", result.error["exception_message"]
    drawn = {
        node["_meta"]["title"]: pictures(client, result, key)
        for key, node in prompt.items()
        if node["class_type"] in ("SaveImage", "PreviewImage")
    }
    assert drawn and all(np.ptp(each) for each in drawn.values())
    if "After" in drawn:
        assert drawn["Before"].shape == drawn["After"].shape == (1, SIZE, SIZE, 3)
        assert name == BEST_OF_N or (drawn["Before"] != drawn["After"]).any()
        compared = result.outputs[find(prompt, "ImageCompare")]
        assert len(compared["a_images"]) == len(compared["b_images"]) == 1
    log = server.log_path.read_text(encoding="utf-8", errors="replace")
    assert "unet missing" not in log and "unet unexpected" not in log
    assert "Missing VAE keys" not in log


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_file_that_a_workflow_needs_is_linked_under_its_own_name(name):
    graph = opened(name)
    notes = "".join(n["widgets_values"][0] for n in graph["nodes"] if n["type"] == "MarkdownNote")
    for node in graph["nodes"]:
        if node["type"] not in LOADERS:
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0] and model["name"] in notes
        assert model["directory"] == LOADERS[node["type"]]
        url = model["url"].removesuffix("?download=true")
        assert url.startswith("https://huggingface.co/") and url.endswith("/" + model["name"])
