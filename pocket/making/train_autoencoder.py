"""Stage 1: the autoencoder, 64 x 64 x 3 to 8 x 8 x 4 (hands: 16 x 16 x 4). All concepts alike.

python -m pocket.making.train_autoencoder --work WORK [--world hands] [--steps 1300] [--threads 1]

L1 and L2 on the picture, and L1 on its horizontal and vertical differences (crisp edges). A little
noise on the latents makes them smooth, a weak pull keeps them near unit scale. Writes
``vae.safetensors`` and ``latent.json`` (scale factor, and the linear map from latent to colour that
the live preview uses).
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torchvision.utils import save_image

from . import host_cpu  # noqa: F401

# isort: split
from seedselect_core.pocket import Toy, build_autoencoder

from .checkpoint import Progress, save_weights
from .initialize import initialize, initialize_autoencoder
from .world import NAMES, Pictures, load_world

BATCH = 16
LATENT_NOISE = 0.1


def losses(model, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Error of pixels (L1 + L2), L1 of their differences, mean square of the latents."""
    pixels = pictures * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latent = model.quant_conv(model.encoder(pixels)).chunk(2, 1)[0]
        output = model.decode(latent + LATENT_NOISE * torch.randn_like(latent)).float()
    difference = output - pixels
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    return (
        difference.abs().mean() + difference.square().mean(),
        edges,
        latent.float().square().mean(),
    )


@torch.no_grad()
def write_latent_facts(model, toy: Toy, source: Pictures) -> None:
    """Scale that gives unit variance, and least squares from latent to mean colour (in -1..1)."""
    generator = torch.Generator().manual_seed(5)
    pictures, _ = source.sample(512, generator)
    latents = torch.cat([model.encode(part * 2 - 1) for part in pictures.split(64)])
    scale = 1 / latents.std().item()
    means = torch.nn.functional.avg_pool2d(pictures * 2 - 1, toy.downscale)
    colors = means.movedim(1, -1).reshape(-1, 3)
    inputs = (latents * scale).movedim(1, -1).reshape(-1, toy.latent_channels)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    solution = torch.linalg.lstsq(inputs, colors).solution
    facts = {
        "scale_factor": round(scale, 5),
        "latent_rgb_factors": [[round(v, 4) for v in row] for row in solution[:-1].tolist()],
        "latent_rgb_bias": [round(v, 4) for v in solution[-1].tolist()],
    }
    (toy.weights / "latent.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(facts, flush=True)


def train(toy: Toy, source: Pictures, steps: int, progress: Progress) -> torch.nn.Module:
    """The autoencoder after ``steps``, going on from where ``progress`` was saved."""
    model = build_autoencoder(toy)
    initialize(model)
    initialize_autoencoder(model)
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, steps, pct_start=0.1)
    first = progress.resume(model, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    for step in range(first, steps):
        generator.manual_seed(step)
        error, edges, square = losses(model, source.sample(BATCH, generator)[0])
        optimizer.zero_grad()
        (error + 0.5 * edges + 1e-3 * square).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            seconds = time.time() - began
            facts = f"error {error:.4f} edges {edges:.4f} square {square:.2f}"
            print(f"step {step} {facts} {seconds:.0f} s", flush=True)
        if step % 100 == 99:
            progress.save(step + 1, model, optimizer, schedule)
    return model.eval()


@torch.no_grad()
def reconstructed(model, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures float [B, 3, H, W] in 0..1 as the autoencoder gives them back."""
    output = torch.cat([model.decode(model.encode(p * 2 - 1)) for p in pictures.split(64)])
    return (output / 2 + 0.5).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--world", choices=NAMES, default=NAMES[0])
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    world = load_world(args.world)
    source = world.alike(args.work, "train")
    model = train(world.toy, source, args.steps, Progress(args.work / "autoencoder.pt"))
    unseen = world.alike(args.work, "unseen")
    pictures, _ = unseen.sample(256, torch.Generator().manual_seed(9))
    output = reconstructed(model, pictures)
    save_image(torch.cat([pictures[:32], output[:32]]), args.work / "autoencoder.png", nrow=16)
    print(f"L1 on what was not seen {(output - pictures).abs().mean():.4f} (of 0..1)")
    save_weights(model.state_dict(), "vae", world.toy.weights)
    write_latent_facts(model, world.toy, source)


if __name__ == "__main__":
    main()
