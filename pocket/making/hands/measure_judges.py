"""What the judges say of real hands that nobody trained on, and of spoiled ones.

python -m pocket.making.hands.measure_judges limits --work WORK
python -m pocket.making.hands.measure_judges rates --work WORK

WORK holds ``hand.glb``, as `draw.py` puts it there. The first prints the limits of `skeleton`, each
of which 97.5 % of 400 real hands of the training split keep to. The second writes
``pocket/hands/judges.md``.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...hands.judges import Verdict, judge_hands, read_hands
from ...hands.landmarks import LandmarkNetwork, fetch_network
from ...hands.silhouette import skin_masks
from ...hands.skeleton import Misfit, misfit
from ...hands.words import GESTURES, SIDES, VIEWS
from .draw import Look, Studio, random_grounds
from .renderer import on_ground
from .spoiled import SPOILED, warped

PAGE = Path(__file__).parents[2] / "hands" / "judges.md"
QUANTILE = 0.975
SIZES = (64, 96)
WARPS = (9, 16)  # 256ths of a side
SEED = 11


@dataclass(frozen=True)
class Told:
    """A picture, the hand that it was to show, and what the judges say of it."""

    gesture: int
    look: Look
    ground: int
    verdict: Verdict


def on_random_ground(pixels: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
    """An IMAGE [1, H, W, 3] of a hand uint8 [H, W, 4], and which ground is behind it."""
    which, colors = random_grounds(1, rng)
    return torch.from_numpy(on_ground(pixels[None], colors)).float() / 255, int(which[0])


def judged(
    network: LandmarkNetwork, pixels: np.ndarray, gesture: int, look: Look, seed: list[int]
) -> Told:
    """The verdict on a hand [H, W, 4] that was to show a gesture, on a ground drawn by seed."""
    image, ground = on_random_ground(pixels, np.random.default_rng(seed))
    asked = GESTURES[gesture], SIDES[look.side], VIEWS[look.view]
    return Told(gesture, look, ground, judge_hands(network, image, *asked)[0])


def real_hands(studio: Studio, network: LandmarkNetwork, poses: int, size: int) -> list[Told]:
    """``poses`` of every gesture, held out."""
    told = []
    for number in range(poses):
        for gesture in range(len(GESTURES)):
            pixels, look = studio.picture(gesture, number, "unseen", size=size)
            seed = [SEED, gesture, number]
            told.append(judged(network, pixels, gesture, look, seed))
    return told


def spoiled_hands(studio: Studio, network: LandmarkNetwork, count: int) -> dict[str, list[Told]]:
    """``count`` hands of each fault, that were all to show five fingers."""
    five = GESTURES.index("five")
    told = {}

    def judge(name: str, make: Callable, spoil: Callable = lambda pixels, rng: pixels) -> None:
        rows = []
        for number in range(count):
            seed = [SEED, len(told), number]
            pixels, look = studio.of_mesh(make, np.random.default_rng(seed))
            pixels = spoil(pixels, np.random.default_rng(seed))
            rows.append(judged(network, pixels, five, look, seed))
        told[name] = rows

    for name, make in SPOILED.items():
        judge(name, make)
    for strength in WARPS:

        def pull(pixels, rng, strength=strength):
            return warped(pixels, rng, strength)

        judge(f"warped by {strength}/256", SPOILED["real"], pull)
    return told


def find_limits(studio: Studio, network: LandmarkNetwork, poses: int) -> Misfit:
    """What 97.5 % of real hands of the training split keep to."""
    found = []
    for number in range(poses):
        for gesture in range(len(GESTURES)):
            pixels, _ = studio.picture(gesture, number, "train")
            image, _ = on_random_ground(pixels, np.random.default_rng([SEED, gesture, number]))
            (reading,) = read_hands(network, image)
            (mask,) = skin_masks(image)
            found.append(misfit(reading.points.numpy(), reading.extended, mask))
    return Misfit(*np.quantile(np.array(found), QUANTILE, axis=0))


def shares(told: list[Told]) -> str:
    """Of some pictures: right, counted, explained, well-formed, as cells of a table."""
    verdicts = np.array([[*row.verdict, row.verdict.well_formed] for row in told])
    return " | ".join(f"{100 * share:.1f} %" for share in verdicts.mean(0))


HEAD = """\
| {} | (a) right | (b) counted | (c) explained | well-formed |
| --- | --- | --- | --- | --- |
"""


def table(title: str, rows: dict[str, list[Told]]) -> str:
    lines = [f"| {name} | {shares(told)} |\n" for name, told in rows.items()]
    return HEAD.format(title) + "".join(lines)


def page(real: dict[int, list[Told]], spoiled: dict[str, list[Told]]) -> str:
    first = real[SIZES[0]]
    by_size = {f"{size} pixels": told for size, told in real.items()}
    by_gesture = {
        name: [row for row in first if row.gesture == index] for index, name in enumerate(GESTURES)
    }
    by_tone = {
        f"skin {tone + 1} of 6, from the lightest": [r for r in first if r.look.tone == tone]
        for tone in range(6)
    }
    count = len(next(iter(spoiled.values())))
    return (
        "# The judges of hands, on real and on spoiled ones\n\n"
        "Made by `python -m pocket.making.hands.measure_judges rates`. Real is what the renderer\n"
        f"draws of held-out poses, {len(first)} pictures of each size, all gestures alike. What\n"
        "the judges are is told in `judges.py`.\n\n## Real hands\n\n"
        f"{table('pictures', by_size)}\n{table('gesture, 64 pixels', by_gesture)}\n"
        f"{table('skin, 64 pixels', by_tone)}\n## Spoiled hands\n\n"
        f"{count} open hands of each kind, 64 pixels, in held-out poses. Only the first kind\n"
        "should be accepted.\n\n"
        f"{table('fault', spoiled)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=["limits", "rates"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--poses", type=int, default=20, help="of each gesture")
    parser.add_argument("--spoiled", type=int, default=50, help="hands of each fault")
    args = parser.parse_args()
    torch.set_num_threads(1)
    studio = Studio(args.work / "hand.glb")
    network = LandmarkNetwork(fetch_network(args.work))
    if args.stage == "limits":
        print(find_limits(studio, network, args.poses))
        return
    real = {size: real_hands(studio, network, args.poses, size) for size in SIZES}
    for size, told in real.items():
        print(f"{size} pixels: {shares(told)}", flush=True)
    spoiled = spoiled_hands(studio, network, args.spoiled)
    PAGE.write_text(page(real, spoiled))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
