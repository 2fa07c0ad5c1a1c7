"""Draw the hands: all gestures alike, held-out ones, and the long tail. They repeat by their seeds.

npm pack @webxr-input-profiles/assets@1.0.20
python -m pocket.making.hands.draw --package webxr-input-profiles-assets-1.0.20.tgz --work WORK

Writes ``WORK/hand.glb``, and ``WORK/hands_{train,unseen,rare}.npz``: ``pixels`` uint8
[N, 64, 64, 4] as `Renderer.draw` gives them (any ground can be put behind them), and indices
``gesture``, ``side``, ``view`` and ``tone`` [N]. The rare ones are of the poses that the diffusion
model sees, each gesture in proportion to them. ``hands.png`` is a sheet to look at.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...hands.words import (
    GESTURES,
    GROUNDS,
    SIDES,
    SIZE,
    TONES,
    VIEWS,
    poses_seen,
    share_of_pictures,
)
from .renderer import Renderer, on_ground, reduced
from .rig import Rig, unpack_mesh
from .scene import SPLITS, Mesh, Orientation, orientation, pose, posed, shoot

FACTS = ("gesture", "side", "view", "tone")


@dataclass(frozen=True)
class Look:
    """What a picture shows beside its pose, as indices."""

    side: int
    view: int
    tone: int


def random_look(rng: np.random.Generator) -> Look:
    return Look(*(int(rng.integers(len(of))) for of in (SIDES, VIEWS, TONES)))


class Studio:
    """The hand, and what draws it."""

    def __init__(self, mesh: Path):
        self.rig = Rig(mesh)
        self._renderer = Renderer()

    def picture(
        self, gesture: int, number: int, split: str, look: int = 0, size: int = SIZE
    ) -> tuple[np.ndarray, Look]:
        """A picture of a pose, uint8 [size, size, 4], and what it shows.

        Args:
            gesture: index.
            number: which pose of it.
            look: which side, view, skin, light and place: another number, another draw.
        """
        rng = np.random.default_rng([SPLITS.index(split), gesture, number, look])
        shown = random_look(rng)
        return self.shown(gesture, number, split, shown, rng, size), shown

    def shown(
        self,
        gesture: int,
        number: int,
        split: str,
        look: Look,
        rng: np.random.Generator,
        size: int = SIZE,
    ) -> np.ndarray:
        """A picture of a pose with the look that is asked for; place and light from ``rng``."""
        turns, turned = pose(GESTURES[gesture], number, split)
        return self._taken(posed(self.rig, turns), turned, look, rng, size)

    def of_mesh(
        self,
        make: Callable[[Rig, np.random.Generator], Mesh],
        rng: np.random.Generator,
        look: Look | None = None,
    ) -> tuple[np.ndarray, Look]:
        """A picture [64, 64, 4] of what ``make`` models, turned at random; by default any look."""
        mesh = make(self.rig, rng)
        turned = orientation(rng)
        look = look or random_look(rng)
        return self._taken(mesh, turned, look, rng, SIZE), look

    def _taken(
        self, mesh: Mesh, turned: Orientation, look: Look, rng: np.random.Generator, size: int
    ) -> np.ndarray:
        shot = shoot(mesh, turned, SIDES[look.side], VIEWS[look.view], look.tone, rng)
        return reduced(self._renderer.draw(shot), size)


def random_grounds(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Indices [count] of grounds, and each one's own color, sRGB [count, 3]."""
    which = rng.integers(len(GROUNDS), size=count)
    colors = np.array(list(GROUNDS.values()))[which] + rng.normal(0, 0.02, (count, 3))
    return which, colors.clip(0, 1)


def draw(studio: Studio, split: str, wanted: Iterable[tuple[int, int, int]]) -> dict:
    """Pictures of gestures, poses and looks: what a file holds."""
    wanted = list(wanted)
    pixels = np.empty((len(wanted), SIZE, SIZE, 4), np.uint8)
    facts = np.empty((len(wanted), len(FACTS)), np.uint8)
    began = time.time()
    for row, (gesture, number, look) in enumerate(wanted):
        pixels[row], shown = studio.picture(gesture, number, split, look)
        facts[row] = gesture, shown.side, shown.view, shown.tone
        if row % 2000 == 0:
            print(f"{split}: {row} of {len(wanted)}, {time.time() - began:.0f} s", flush=True)
    return {"pixels": pixels, **dict(zip(FACTS, facts.T, strict=True))}


def alike(poses: int) -> Iterator[tuple[int, int, int]]:
    """``poses`` of every gesture, one look each."""
    for number in range(poses):
        for gesture in range(len(GESTURES)):
            yield gesture, number, 0


def rare(pictures: int) -> Iterator[tuple[int, int, int]]:
    """Poses that the diffusion model sees, in as many looks as it takes."""
    rng = np.random.default_rng(11)
    seen = np.array([poses_seen(gesture) for gesture in GESTURES])
    share = [share_of_pictures(gesture) for gesture in GESTURES]
    for look, gesture in enumerate(rng.choice(len(seen), pictures, p=share)):
        yield int(gesture), int(rng.integers(seen[gesture])), look


def sheet(studio: Studio) -> Image.Image:
    """A column a gesture; a row each side, view and skin."""
    rows = []
    rng = np.random.default_rng(0)
    for side in range(len(SIDES)):
        for view in range(len(VIEWS)):
            for tone in range(len(TONES)):
                look = Look(side, view, tone)
                cells = [
                    studio.shown(gesture, len(rows), "unseen", look, rng)
                    for gesture in range(len(GESTURES))
                ]
                _, colors = random_grounds(len(cells), rng)
                rows.append(np.concatenate(list(on_ground(np.stack(cells), colors)), 1))
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--package", type=Path, help="the npm package's file; once")
    parser.add_argument("--poses", type=int, default=1500, help="of each gesture, to train on")
    parser.add_argument("--unseen", type=int, default=100, help="of each gesture, held out")
    parser.add_argument("--rare", type=int, default=30_000, help="pictures of the long tail")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    mesh = args.work / "hand.glb"
    if args.package:
        unpack_mesh(args.package, mesh)
    studio = Studio(mesh)
    sheet(studio).save(args.work / "hands.png")
    np.savez(args.work / "hands_train.npz", **draw(studio, "train", alike(args.poses)))
    np.savez(args.work / "hands_unseen.npz", **draw(studio, "unseen", alike(args.unseen)))
    np.savez(args.work / "hands_rare.npz", **draw(studio, "train", rare(args.rare)))


if __name__ == "__main__":
    main()
