"""Is the pocket model good where data is plentiful and honestly bad where it is not?

python3 scripts/host.py bench pocket_quality [--seeds 64]

Every letter, plain sampling by the host's KSampler path, both judges; colours of ink and ground.
Writes ``results/pocket_quality.json`` and ``.png`` (eight pictures a letter, commonest first).
"""

import argparse
import json

from pocket_world import (
    FONTS_SEEN,
    RESULTS,
    SAMPLING,
    TAIL_ORDER,
    PocketWorld,
    colors_of,
    colors_right,
)

# isort: split

import comfy.sample
import torch
from torchvision.utils import save_image


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--steps", type=int, default=SAMPLING.steps)
    parser.add_argument("--cfg", type=float, default=SAMPLING.cfg)
    args = parser.parse_args()
    world = PocketWorld()
    rows = []
    pictures = []
    for index, letter in enumerate(TAIL_ORDER):
        right = {name: [] for name in world.judges}
        colors = []
        for variant in range(4):
            count = args.seeds // 4
            empty = torch.zeros(count, 4, 8, 8)
            noise = comfy.sample.prepare_noise(empty, 1000 * index + variant)
            latent = comfy.sample.sample(
                world.model,
                noise,
                args.steps,
                args.cfg,
                SAMPLING.sampler_name,
                SAMPLING.scheduler,
                world.prompt(letter, variant),
                world.negative,
                empty,
                disable_pbar=True,
                seed=1000 * index + variant,
            )
            images = world.vae.decode(latent)
            for name, answers in world.right(images, letter).items():
                right[name] += answers
            colors.append(colors_right(images, *colors_of(letter, variant)))
            pictures.append(images[:2])
        shares = {name: sum(answers) / len(answers) for name, answers in right.items()}
        ink, ground = torch.cat(colors).float().mean(0).tolist()
        rows.append({"letter": letter, "fonts": FONTS_SEEN[letter], **shares})
        rows[-1] |= {"ink": ink, "ground": ground}
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()})
    judges = list(world.judges)
    often = [row for row in rows if row["fonts"] >= 300]
    summary = {
        "frequent (300 fonts and more), worst letter": min(
            min(row[name] for name in judges) for row in often
        ),
        "frequent, mean": sum(row[name] for row in often for name in judges) / 2 / len(often),
        "eight rarest, mean": sum(row[n] for row in rows[-8:] for n in judges) / 16,
        "four rarest, mean": sum(row[n] for row in rows[-4:] for n in judges) / 8,
        "ink right, frequent": sum(row["ink"] for row in often) / len(often),
        "ground right, frequent": sum(row["ground"] for row in often) / len(often),
    }
    print(json.dumps(summary, indent=1))
    RESULTS.mkdir(exist_ok=True)
    result = {"settings": vars(args), "summary": summary, "letters": rows}
    (RESULTS / "pocket_quality.json").write_text(json.dumps(result, indent=1) + "\n")
    grid = torch.cat(pictures).movedim(-1, 1).float().view(26, 8, 3, 64, 64)
    save_image(grid.transpose(0, 1).flatten(0, 1), RESULTS / "pocket_quality.png", nrow=26)


if __name__ == "__main__":
    main()
