"""Stage 3: the diffusion model, on the long tail.

python -m pocket.making.train_diffusion latents --work WORK [--world hands] [--threads 1]
python -m pocket.making.train_diffusion unet --work WORK [--world hands] [--minutes 60]

The first command draws pictures in proportion to the number of fonts, or poses, of each concept,
and encodes them once; the second trains the UNet on those latents, conditioned by the
frozen text tower. The empty prompt stands in 10 % of the time, an incomplete one 5 %.

A run that was stopped goes on, to more steps if more are asked for; ``--further`` begins one with
the weights that ship, at half the rate.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torchvision.utils import save_image

from . import host_cpu  # noqa: F401

# isort: split
from seedselect_core import pocket

from .checkpoint import Progress, save_weights
from .initialize import initialize, start_as_identity
from .world import NAMES, World, load_world

BATCH = 64
EMA_DECAY = 0.999
LEARNING_RATE = 1.2e-3
PICTURES = 60_000
PIXELS = 64


@torch.no_grad()
def write_latents(world: World, work: Path) -> None:
    """``latents.pt``: scaled latents float16 [N, C, H, W] and facts [N, A]."""
    source = world.rare(work)
    model = pocket.load_vae(world.toy).first_stage_model
    scale = json.loads((world.toy.weights / "latent.json").read_text())["scale_factor"]
    generator = torch.Generator().manual_seed(11)
    began = time.time()
    chunks = []
    for start in range(0, PICTURES, 100):
        pictures, facts = source.sample(100, generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = model.encode(pictures * 2 - 1)
        chunks.append((latents.float().mul(scale).half(), facts))
        if start % 8000 == 0:
            print(f"{start} pictures {time.time() - began:.0f} s", flush=True)
    latents, facts = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    seen = world.toy.weights / f"{world.seen_as}.json"
    seen.write_text(json.dumps(source.counts) + "\n")
    torch.save({"latents": latents, "facts": facts}, work / "latents.pt")


def prompts(world: World) -> list[str]:
    """Every prompt, each attribute but the concept told or, at last, untold; last of all: none."""
    concepts, *others = world.attributes.values()
    told = itertools.product(concepts, *((*of, "") for of in others))
    return [*map(world.text, told), ""]


@torch.no_grad()
def prompt_contexts(world: World) -> torch.Tensor:
    """Hidden states [N, 16, 128] of all `prompts`."""
    clip = pocket.load_clip(world.toy)
    encoded = [clip.encode_from_tokens(clip.tokenize(text)) for text in prompts(world)]
    return torch.cat(encoded)


def prompt_indices(world: World, facts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Which of `prompts` each picture is trained with [B]: most tell all facts [B, A]."""
    draw = torch.rand(len(facts), generator=generator)
    index = facts[:, 0]
    others = list(world.attributes.values())[1:]
    for column, (of, (low, high)) in enumerate(zip(others, world.untold, strict=True), 1):
        untold = (draw > low) & (draw < high)
        index = index * (len(of) + 1) + facts[:, column].masked_fill(untold, len(of))
    return index.masked_fill(draw < 0.10, -1)


def train(world: World, work: Path, minutes: float, steps: int, further: bool) -> None:
    data = torch.load(work / "latents.pt", weights_only=True)
    contexts = prompt_contexts(world)
    model = pocket.build_unet(toy=world.toy)
    unet = model.diffusion_model
    if further:
        unet.load_state_dict(load_file(world.toy.weights / "unet.safetensors"))
    else:
        initialize(unet)
        start_as_identity(unet)
    unet.requires_grad_(True).train()
    sigmas = model.model_sampling.sigmas
    average = torch.optim.swa_utils.AveragedModel(
        unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    rate = LEARNING_RATE / 2 if further else LEARNING_RATE
    optimizer = torch.optim.AdamW(unet.parameters(), rate, weight_decay=0.01)
    progress = Progress(work / "unet.pt")
    first = progress.resume(unet, average, optimizer)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps, pct_start=0.05, last_epoch=first - 1
    )
    generator = torch.Generator()
    began = time.time()
    running = 0.0
    for step in range(first, steps):
        generator.manual_seed(step)
        pick = torch.randint(len(data["facts"]), (BATCH,), generator=generator)
        context = contexts[prompt_indices(world, data["facts"][pick], generator)]
        clean = data["latents"][pick].float()
        timestep = torch.randint(len(sigmas), (BATCH,), generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        keep = (1 / (1 + sigmas[timestep] ** 2)).view(-1, 1, 1, 1)
        noisy = keep.sqrt() * clean + (1 - keep).sqrt() * noise
        velocity = keep.sqrt() * noise - (1 - keep).sqrt() * clean
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = unet(noisy, timestep.float(), context=context)
        loss = torch.nn.functional.mse_loss(output.float(), velocity)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(unet)
        running = 0.98 * running + 0.02 * loss.item() if step > first else loss.item()
        if step % 100 == 0:
            print(f"step {step} loss {running:.4f} {time.time() - began:.0f} s", flush=True)
        if step % 300 == 299 or step == steps - 1:
            progress.save(step + 1, unet, average, optimizer)
            save_weights(average.module.state_dict(), "unet", world.toy.weights)
        if time.time() - began > minutes * 60:
            print(f"stopped at step {step} after {minutes} minutes; run again to go on")
            return
    picture(world, work)


@torch.no_grad()
def picture(world: World, work: Path) -> None:
    """``unet.png``: every concept once per column, rarest last, sampled by the host."""
    import comfy.sample

    patcher, clip, vae, _ = pocket.load_pocket_model(world.toy)
    side = PIXELS // world.toy.downscale
    columns = []
    negative = [[clip.encode_from_tokens(clip.tokenize("")), {}]]
    for rank in range(len(world.tail)):
        text = world.text(world.example(rank))
        positive = [[clip.encode_from_tokens(clip.tokenize(text)), {}]]
        shape = (8, world.toy.latent_channels, side, side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(rank))
        empty = torch.zeros_like(noise)
        latent = comfy.sample.sample(
            patcher, noise, 10, 7.0, "ddim", "normal", positive, negative, empty, seed=rank
        )
        columns.append(vae.decode(latent).movedim(-1, 1))
    rows = torch.stack(columns, 1).flatten(0, 1)
    save_image(rows, work / "unet.png", nrow=len(world.tail))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["latents", "unet", "picture"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--world", choices=NAMES, default=NAMES[0])
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--further", action="store_true", help="from the weights that ship")
    parser.add_argument("--minutes", type=float, default=180)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    world = load_world(args.world)
    if args.stage == "latents":
        write_latents(world, args.work)
    elif args.stage == "unet":
        train(world, args.work, args.minutes, args.steps, args.further)
    else:
        picture(world, args.work)


if __name__ == "__main__":
    main()
