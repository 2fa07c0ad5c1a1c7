"""Stage 1: the autoencoder, 64 x 64 x 3 to 8 x 8 x 4. All letters of all training fonts alike.

python -m pocket.making.train_autoencoder --work WORK [--steps 1300] [--threads 1]

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
from seedselect_core.pocket import build_autoencoder

from ..drawing import RGB, color_pairs, jitter, paint
from .checkpoint import WEIGHTS, Progress, save_weights
from .glyphs import Glyphs
from .initialize import initialize, initialize_autoencoder

BATCH = 16
LATENT_NOISE = 0.1


def random_pictures(glyphs: Glyphs, count: int, generator: torch.Generator) -> torch.Tensor:
    font = torch.randint(len(glyphs), (count,), generator=generator)
    letter = torch.randint(26, (count,), generator=generator)
    ink, ground = color_pairs(count, generator)
    return paint(jitter(glyphs.masks[font, letter], generator), RGB[ink], RGB[ground])


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
def write_latent_facts(model, glyphs: Glyphs) -> None:
    """Scale that gives unit variance, and least squares from latent to mean colour (in -1..1)."""
    generator = torch.Generator().manual_seed(5)
    pictures = random_pictures(glyphs, 512, generator)
    latents = torch.cat([model.encode(part * 2 - 1) for part in pictures.split(64)])
    scale = 1 / latents.std().item()
    colors = torch.nn.functional.avg_pool2d(pictures * 2 - 1, 8).movedim(1, -1).reshape(-1, 3)
    inputs = (latents * scale).movedim(1, -1).reshape(-1, 4)
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
    solution = torch.linalg.lstsq(inputs, colors).solution
    facts = {
        "scale_factor": round(scale, 5),
        "latent_rgb_factors": [[round(v, 4) for v in row] for row in solution[:4].tolist()],
        "latent_rgb_bias": [round(v, 4) for v in solution[4].tolist()],
    }
    (WEIGHTS / "latent.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(facts, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    glyphs = Glyphs(args.work, "train")
    model = build_autoencoder()
    initialize(model)
    initialize_autoencoder(model)
    model.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1.5e-3, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, args.steps, pct_start=0.1)
    progress = Progress(args.work / "autoencoder.pt")
    first = progress.resume(model, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    for step in range(first, args.steps):
        generator.manual_seed(step)
        error, edges, square = losses(model, random_pictures(glyphs, BATCH, generator))
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
    model.eval()
    with torch.no_grad():
        pictures = random_pictures(Glyphs(args.work, "unseen"), 256, generator.manual_seed(9))
        output = torch.cat([model.decode(model.encode(p * 2 - 1)) for p in pictures.split(64)])
        output = (output / 2 + 0.5).clamp(0, 1)
    save_image(torch.cat([pictures[:32], output[:32]]), args.work / "autoencoder.png", nrow=16)
    print(f"L1 on unseen fonts {(output - pictures).abs().mean():.4f} (of 0..1)")
    save_weights(model.state_dict(), "vae")
    write_latent_facts(model, glyphs)


if __name__ == "__main__":
    main()
