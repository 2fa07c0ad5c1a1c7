"""Stage 3: the diffusion model, on the long tail.

python -m pocket.making.train_diffusion latents --work WORK [--threads 1]
python -m pocket.making.train_diffusion unet --work WORK [--minutes 60]

The first command draws pictures in proportion to the number of fonts each letter is seen in and
encodes them once; the second trains the UNet on those latents, conditioned by the frozen text
tower. The empty prompt stands in 10 % of the time, an incomplete one 5 %.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torchvision.utils import save_image

from . import host_cpu  # noqa: F401

# isort: split
from seedselect_core import pocket

from ..drawing import COLORS, LETTERS, RGB, color_pairs, fonts_seen, jitter, paint
from .checkpoint import WEIGHTS, Progress, save_weights
from .glyphs import Glyphs
from .initialize import initialize, start_as_identity

BATCH = 64
EMA_DECAY = 0.999
PICTURES = 60_000


@torch.no_grad()
def write_latents(work: Path) -> None:
    """``latents.pt``: scaled latents float16 [N, 4, 8, 8] and letter, ink, ground [N]."""
    glyphs = Glyphs(work, "train")
    model = pocket.load_vae().first_stage_model
    scale = json.loads((WEIGHTS / "latent.json").read_text())["scale_factor"]
    seen = torch.tensor([min(fonts_seen(letter), len(glyphs)) for letter in LETTERS])
    # Which fonts a rare letter is seen in differs from letter to letter.
    order = torch.stack(
        [torch.randperm(len(glyphs), generator=torch.Generator().manual_seed(i)) for i in range(26)]
    )
    generator = torch.Generator().manual_seed(11)
    began = time.time()
    chunks = []
    for start in range(0, PICTURES, 100):
        letter = torch.multinomial(seen.float(), 100, replacement=True, generator=generator)
        rank = (torch.rand(100, generator=generator) * seen[letter]).long()
        masks = glyphs.masks[order[letter, rank], letter]
        ink, ground = color_pairs(100, generator)
        pictures = paint(jitter(masks, generator), RGB[ink], RGB[ground])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = model.encode(pictures * 2 - 1)
        chunks.append((latents.float().mul(scale).half(), letter, ink, ground))
        if start % 8000 == 0:
            print(f"{start} pictures {time.time() - began:.0f} s", flush=True)
    latents, letter, ink, ground = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    counts = dict(zip(LETTERS, seen.tolist(), strict=True))
    (WEIGHTS / "fonts_seen.json").write_text(json.dumps(counts) + "\n")
    torch.save(
        {"latents": latents, "letter": letter, "ink": ink, "ground": ground}, work / "latents.pt"
    )


@torch.no_grad()
def prompt_contexts() -> torch.Tensor:
    """Hidden states of every caption [26 * 11 * 11 + 1, 16, 128]; colour 10: untold; last: none."""
    clip = pocket.load_clip()

    def encode(text):
        return clip.encode_from_tokens(clip.tokenize(text))

    shape = (len(LETTERS) * 121 + 1, pocket.PROMPT_TOKENS, pocket.TEXT_WIDTH)
    contexts = torch.zeros(shape)
    for k, letter in enumerate(LETTERS):
        for i, ink in enumerate([*COLORS, ""]):
            for g, ground in enumerate([*COLORS, ""]):
                if ink != ground or not ink:
                    text = f"a {ink} letter {letter}" + (f" on {ground}" if ground else "")
                    contexts[k * 121 + i * 11 + g] = encode(text)
    contexts[-1] = encode("")
    return contexts


def caption_indices(letter, ink, ground, generator) -> torch.Tensor:
    draw = torch.rand(len(letter), generator=generator)
    ink = torch.where((draw > 0.10) & (draw < 0.13), torch.full_like(ink, 10), ink)
    ground = torch.where((draw > 0.115) & (draw < 0.15), torch.full_like(ground, 10), ground)
    return torch.where(draw < 0.10, torch.full_like(letter, -1), letter * 121 + ink * 11 + ground)


def train(work: Path, minutes: float, steps: int) -> None:
    data = torch.load(work / "latents.pt", weights_only=True)
    contexts = prompt_contexts()
    model = pocket.build_unet()
    unet = model.diffusion_model
    initialize(unet)
    start_as_identity(unet)
    unet.requires_grad_(True).train()
    sigmas = model.model_sampling.sigmas
    average = torch.optim.swa_utils.AveragedModel(
        unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY)
    )
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.2e-3, steps, pct_start=0.05)
    progress = Progress(work / "unet.pt")
    first = progress.resume(unet, average, optimizer, schedule)
    generator = torch.Generator()
    began = time.time()
    running = 0.0
    for step in range(first, steps):
        generator.manual_seed(step)
        pick = torch.randint(len(data["letter"]), (BATCH,), generator=generator)
        letter, ink, ground = (data[key][pick] for key in ("letter", "ink", "ground"))
        context = contexts[caption_indices(letter, ink, ground, generator)]
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
            progress.save(step + 1, unet, average, optimizer, schedule)
            save_weights(average.module.state_dict(), "unet")
        if time.time() - began > minutes * 60:
            print(f"stopped at step {step} after {minutes} minutes; run again to go on")
            return
    picture(work)


@torch.no_grad()
def picture(work: Path) -> None:
    """``unet.png``: every letter once per column, rarest last, sampled by the host."""
    import comfy.sample

    from .drawing import TAIL_ORDER, prompt

    patcher, clip, vae, _ = pocket.load_pocket_model()
    rows = []
    negative = [[clip.encode_from_tokens(clip.tokenize("")), {}]]
    for index, letter in enumerate(TAIL_ORDER):
        text = prompt(letter, COLORS[index % 10], COLORS[(index + 3) % 10])
        positive = [[clip.encode_from_tokens(clip.tokenize(text)), {}]]
        noise = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(index))
        empty = torch.zeros_like(noise)
        latent = comfy.sample.sample(
            patcher, noise, 10, 7.0, "ddim", "normal", positive, negative, empty, seed=index
        )
        rows.append(vae.decode(latent).movedim(-1, 1))
    save_image(torch.stack(rows, 1).flatten(0, 1), work / "unet.png", nrow=26)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["latents", "unet", "picture"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--minutes", type=float, default=180)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.stage == "latents":
        write_latents(args.work)
    elif args.stage == "unet":
        train(args.work, args.minutes, args.steps)
    else:
        picture(args.work)


if __name__ == "__main__":
    main()
