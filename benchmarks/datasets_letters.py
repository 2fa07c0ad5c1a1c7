"""A data set of the eight rarest letters, made on Ray, and a classifier trained from its shards.

python3 scripts/host.py bench datasets_letters [--pictures N] [--workers N] [--folder FOLDER]

References, search and classifier are those of the arm "seedselect" of docs/results.md with four
real pictures; there the sets are in memory, here they are read from the written shards of
webdataset. Stopped, the same command goes on. Writes ``results/datasets_letters.json``.
"""

import argparse
import json
import os
import subprocess
import sys
from itertools import permutations
from pathlib import Path

from pocket_world import COLORS, REPO, RESULTS

# isort: split

import torch
import yaml
from torchvision.utils import save_image

from claims import classification
from claims.classification import RARE, real_images
from quality import commit_now

REFERENCES = 4
DRAW = 0


def spec_of(folder: Path, pictures: int) -> dict:
    """The spec, and its references beside it."""
    pairs = list(permutations(COLORS, 2))
    for letter in RARE:
        own = folder / "references" / letter
        own.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(real_images(letter, REFERENCES, DRAW)):
            save_image(image.movedim(-1, 0), own / f"{number}.png")
    return {
        "output": str(folder / "made"),
        "seed": 1,
        "model": {"toy": True},
        "sampling": {"steps": 10},
        "search": {"preset": "default"},
        "prompts": [f"a {ink} letter {{class}} on {ground}" for ink, ground in pairs],
        "classes": [
            {"name": letter, "pictures": pictures, "references": f"references/{letter}"}
            for letter in RARE
        ],
    }


def pictures_in(folder: Path) -> dict[str, torch.Tensor]:
    """Pictures of each letter, uint8 [n, 64, 64, 3], as webdataset reads them from the shards."""
    import webdataset

    shards = sorted(map(str, (folder / "webdataset").glob("*.tar")))
    labels = json.loads((folder / "webdataset" / "classes.json").read_text())
    found: dict[str, list[torch.Tensor]] = {label: [] for label in labels}
    rows = webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    for image, label in rows:
        found[labels[label]].append(torch.from_numpy(image.copy()))
    return {label: torch.stack(images) for label, images in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=RESULTS / "units" / "datasets_letters")
    args = parser.parse_args()
    folder = args.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    spec = folder / "letters.yaml"
    spec.write_text(yaml.safe_dump(spec_of(folder, args.pictures)))
    command = [sys.executable, "-m", "seedselect_core.datasets", "dataset", str(spec)]
    command += ["--ray", "--workers", str(args.workers)] if args.workers else []
    subprocess.run(command, cwd=REPO, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    made = pictures_in(folder / "made")
    found = {arm: _accuracy(arm, made) for arm in ("balanced", "seedselect")}
    report = json.loads((folder / "made" / "report.json").read_text())
    lines = (folder / "made" / "log.jsonl").read_text().splitlines()
    log = [row for row in map(json.loads, lines) if row["event"] == "made"]
    result = {
        "commit": commit_now(),
        "pictures": {letter: len(made[letter]) for letter in RARE},
        "real pictures of each": REFERENCES,
        "accuracy": found,
        "sets in memory": _in_memory(),
        "units": len(log),
        "worker_seconds": round(sum(row["seconds"] for row in log)),
        "classes": report["classes"],
    }
    print(json.dumps(result, indent=1))
    (RESULTS / "datasets_letters.json").write_text(json.dumps(result, indent=1) + "\n")


def _in_memory() -> dict:
    """What docs/results.md says of the rare letters, learned from sets made in memory: a mean."""
    found = json.loads((RESULTS / "quality" / "classification.json").read_text())["summary"]
    return found["table"][f"{REFERENCES} real images"]["arms"]["seedselect"]["rare"]


def _accuracy(arm: str, made: dict[str, torch.Tensor]) -> dict[str, float]:
    generated = {} if arm == "balanced" else {arm: [made[letter] for letter in RARE]}
    answer = classification.run(arm, REFERENCES, DRAW, reals=DRAW, **generated)
    return {key: round(answer[key], 4) for key in ("rare", "frequent", "overall")}


if __name__ == "__main__":
    main()
