"""Resumable training and the float16 files that ship."""

import os
from pathlib import Path

import torch
from safetensors.torch import save_file

WEIGHTS = Path(__file__).parents[1] / "weights"


class Progress:
    """The state of a training run, in one file that is replaced whole."""

    def __init__(self, path: Path):
        self.path = path

    def resume(self, *stateful) -> int:
        """Restore every part and return the step to go on from (0 where nothing was saved)."""
        if not self.path.exists():
            return 0
        saved = torch.load(self.path, weights_only=True)
        for part, state in zip(stateful, saved["states"], strict=True):
            part.load_state_dict(state)
        print(f"going on from step {saved['step']}", flush=True)
        return saved["step"]

    def save(self, step: int, *stateful) -> None:
        half_written = self.path.with_suffix(".part")
        torch.save({"step": step, "states": [part.state_dict() for part in stateful]}, half_written)
        os.replace(half_written, self.path)


def save_weights(state: dict[str, torch.Tensor], name: str, folder: Path = WEIGHTS) -> Path:
    """Write ``<folder>/<name>.safetensors`` in float16 (integers as they are)."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.safetensors"
    half = {
        key: (value.half() if value.is_floating_point() else value).detach().contiguous().clone()
        for key, value in state.items()
    }
    save_file(half, path)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)
    return path
