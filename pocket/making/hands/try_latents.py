"""Which latents keep fingers? Small autoencoders, and what the judge reads in what they give back.

python -m pocket.making.hands.try_latents --work WORK [--steps 900] [--only 8x8x8]
python -m pocket.making.hands.try_latents --work WORK --shipped

Each is trained alike; pictures of held-out poses are read before and after. Writes checkpoints and
``latents_<shape>.png`` (originals above, reconstructions below) into WORK. The second command reads
what the autoencoder that ships gives back.
"""

import argparse
import time
from pathlib import Path

import torch
from torchvision.utils import save_image

from .. import host_cpu  # noqa: F401

# isort: split
from seedselect_core.pocket import Toy, load_vae

from ...hands.judges import read_hands
from ...hands.landmarks import LandmarkNetwork, fetch_network
from ...hands.words import GESTURES, GROUNDS, SIDES, VIEWS, extended
from ..checkpoint import Progress
from ..train_autoencoder import reconstructed, train
from .world import Drawn, Hands

SHAPES = {
    "8x8x4": (4, (1, 1, 2, 3)),
    "8x8x8": (8, (1, 1, 2, 3)),
    "16x16x4": (4, (1, 2, 3)),
}


def right(network: LandmarkNetwork, pictures: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """Bool [B, 3]: whether all fingers, the side, and the view are read as they are."""
    rows = []
    for reading, (gesture, side, view, _) in zip(
        read_hands(network, pictures.movedim(1, -1)), facts.tolist(), strict=True
    ):
        fingers = reading.extended == extended(GESTURES[gesture])
        rows.append([fingers, reading.side == SIDES[side], reading.view == VIEWS[view]])
    return torch.tensor(rows)


def told(name: str, answers: torch.Tensor) -> str:
    fingers, side, view = answers.float().mean(0).mul(100).tolist()
    every = answers.all(1).float().mean().item() * 100
    return f"| {name} | {fingers:.1f} | {side:.1f} | {view:.1f} | {every:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--pictures", type=int, default=400)
    parser.add_argument("--only", choices=SHAPES)
    parser.add_argument("--shipped", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = Hands()
    unseen: Drawn = world.alike(args.work, "unseen")
    generator = torch.Generator().manual_seed(9)
    ground = torch.randint(len(GROUNDS), (args.pictures,), generator=generator)
    pictures, facts = unseen.painted(torch.arange(args.pictures), ground, generator)
    network = LandmarkNetwork(fetch_network(args.work))
    print("| latents | fingers | side | view | all |\n| --- | --- | --- | --- | --- |")
    print(told("originals", right(network, pictures, facts)), flush=True)
    shapes = [args.only] if args.only else list(SHAPES)
    for shape in ["shipped"] if args.shipped else shapes:
        if args.shipped:
            model = load_vae(world.toy).first_stage_model
        else:
            began = time.process_time()
            torch.manual_seed(0)
            toy = Toy(args.work, *SHAPES[shape])
            progress = Progress(args.work / f"latents_{shape}.pt")
            model = train(toy, world.alike(args.work, "train"), args.steps, progress)
            print(f"{shape}: {(time.process_time() - began) / 60:.1f} minutes of one core")
        output = reconstructed(model, pictures)
        save_image(
            torch.cat([pictures[:32], output[:32]]), args.work / f"latents_{shape}.png", nrow=16
        )
        print(f"{shape}: L1 {(output - pictures).abs().mean():.4f}")
        print(told(shape, right(network, output, facts)), flush=True)


if __name__ == "__main__":
    main()
