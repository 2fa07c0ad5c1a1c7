"""Does a small decoder guide a search as well? A TAESD, taught to draw as the pocket VAE.

python3 scripts/host.py bench small_decoder [--letters DBJ] [--seeds 8] [--steps 300]

The small decoder is of the host's own class, random at first, and learns from pictures that the
pocket model draws of all letters. Then rare letters are optimized by the default preset twice: with
the VAE alone, and with the small decoder as ``search_vae``, which the last fifth of the iterations
and the choice of the best do without. Both judges read the results, which the VAE draws either way.
Writes ``results/small_decoder.json``.
"""

import argparse
import json
import string
import time
from dataclasses import replace

from pocket_world import RESULTS, SAMPLING, PocketWorld, letter_references

# isort: split

import comfy.sd
import comfy.taesd.taesd
import torch
import torch.nn.functional as F

from quality import commit_now
from seedselect_core.search.optimize import optimize_seed
from seedselect_core.search.presets import PRESETS
from seedselect_core.search.scene import Scene
from seedselect_core.search.settings import Settings

BATCH = 8
LEARNING_RATE = 1e-3


def drawn(world: PocketWorld, letter: str, count: int, variant: int) -> torch.Tensor:
    """Latents [count, 4, 8, 8] of plain pictures."""
    scene = world.scene(world.prompt(letter, variant), letter_references("D"), count)
    number = 1000 * variant + ord(letter)
    _, latent, _ = optimize_seed(scene, SAMPLING.override(seed=number), Settings(iterations=0))
    return latent["samples"].clone()


def taught(world: PocketWorld, steps: int) -> tuple[comfy.sd.VAE, float]:
    """A TAESD as VAE, and its mean squared error on pictures that it has not seen."""
    with torch.inference_mode():
        latents = [drawn(world, letter, 8, n) for letter in string.ascii_uppercase for n in (0, 1)]
        latents = torch.cat(latents)
        pictures = world.vae.decode(latents).movedim(-1, 1)
    latents, pictures = latents.clone(), pictures.clone()
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(0))
    seen, held_out = order[:-BATCH], order[-BATCH:]
    torch.manual_seed(0)
    small = comfy.taesd.taesd.TAESD()
    for part in small.taesd_decoder.modules():
        if isinstance(part, torch.nn.Conv2d):  # the host leaves them empty
            part.reset_parameters = torch.nn.Conv2d.reset_parameters.__get__(part)
            part.reset_parameters()
    optimizer = torch.optim.Adam(small.taesd_decoder.parameters(), LEARNING_RATE)
    for step in range(steps):
        chosen = seen[torch.randint(len(seen), (BATCH,))]
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        error = F.mse_loss(small.decode(latents[chosen]) / 2 + 0.5, pictures[chosen])
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step}: mean squared error {error.item():.4f}", flush=True)
    with torch.no_grad():
        made = small.decode(latents[held_out]) / 2 + 0.5
        error = F.mse_loss(made.clamp(0, 1), pictures[held_out]).item()
    return comfy.sd.VAE(sd=small.state_dict()), error


@torch.inference_mode()
def found(world: PocketWorld, scene: Scene, letter: str) -> dict[str, float]:
    began = time.perf_counter()
    seed, latent, _ = optimize_seed(scene, SAMPLING.override(seed=ord(letter)), PRESETS["default"])
    took = time.perf_counter() - began
    answers = world.right(world.vae.decode(latent["samples"]), letter).values()
    right = sum(map(sum, answers)) / sum(map(len, answers))
    loss = sum(seed.semantic) / len(seed.semantic)
    return {"right": right, "semantic": loss, "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", default="DBJ")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of teaching")
    args = parser.parse_args()
    world = PocketWorld()
    small, error = taught(world, args.steps)
    print(f"small decoder: mean squared error {error:.4f}")
    rows = {"VAE": [], "small decoder": []}
    for letter in args.letters:
        scene = world.scene(world.prompt(letter), letter_references(letter), args.seeds)
        rows["VAE"].append(found(world, scene, letter))
        guided = replace(scene, search_vae=small)
        rows["small decoder"].append(found(world, guided, letter))
    means = {
        name: {key: round(sum(run[key] for run in runs) / len(runs), 4) for key in runs[0]}
        for name, runs in rows.items()
    }
    for name, row in means.items():
        print(name, row)
    kept = {"commit": commit_now(), "settings": vars(args), "decoder_error": round(error, 5)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "small_decoder.json").write_text(json.dumps(kept | {"rows": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
