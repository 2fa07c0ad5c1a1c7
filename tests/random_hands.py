"""The hands' toy model with random weights, of the right shapes."""

import shutil
from pathlib import Path

import comfy.clip_vision
import torch

from gradients.models import randomize
from pocket.making.checkpoint import save_weights
from pocket.making.train_towers import write_tokenizer
from pocket.making.world import load_world
from seedselect_core import pocket
from seedselect_core.hands import HANDS


@torch.inference_mode()
def write_random_hands(folder: Path) -> pocket.Toy:
    """Write all files of a model that has learned nothing; says where they are."""
    toy = pocket.Toy(folder, HANDS.latent_channels, HANDS.levels)
    world = load_world("hands")
    world.toy = toy
    write_tokenizer(world)
    shutil.copy(pocket.WEIGHTS / "latent.json", folder)
    modules = {
        "vae": pocket.build_autoencoder(toy),
        "text_encoder": pocket.PocketClipModel(dtype=torch.float32, toy=toy).transformer,
        "clip_vision": comfy.clip_vision.ClipVisionModel(str(pocket.VISION_CONFIG)).model,
        "second_vision": comfy.clip_vision.ClipVisionModel(str(pocket.SECOND_VISION_CONFIG)).model,
        "unet": pocket.build_unet(toy=toy).diffusion_model,
    }
    for number, (name, module) in enumerate(modules.items()):
        randomize(module, number)
        save_weights(module.state_dict(), name, folder)
    return toy
