"""A Stable Diffusion 1.5 of full size runs its workflow on the CPU: how much memory does it take?

python3 scripts/host.py bench full_size [--memory LEVEL] [--steps N] [--folder PATH] [--keep-freed]

Makes a checkpoint and a CLIP ViT-H/14 of the real sizes and file layouts, with random weights (3.4
GB in all), starts ComfyUI on the CPU, runs workflows/seedselect_sd15.json at 256 x 256 with the
preset "quick", and reads the peak of the server's resident memory. Each call of the model is made
again whole, since "automatic" would take what memory there is. All else stays as it is saved;
``--steps`` is for a slow machine, since memory does not depend on them. Random weights draw no
pictures worth looking at, but they take the memory and the time of trained ones. Writes
``results/full_size.json``.
"""

import argparse
import io
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pocket_world import REPO, RESULTS

# isort: split

import comfy.clip_model
import comfy.ops
import comfy.sd1_clip
import numpy as np
import psutil
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from PIL import Image

from memory_models import KL, SD1
from pocket.references import letter_pictures
from seedselect_core.search.presets import PRESETS

sys.path.append(str(REPO / "scripts"))

import host
from api_workflow import changed, find, to_api
from comfy_client import ComfyClient, Event, Result
from quality import commit_now

WORKFLOW = REPO / "workflows" / "seedselect_sd15.json"
SIZE = 256
PRESET = "quick"
MEMORY = "whole calls"
CONCEPT = "concept"  # the folder of references
GOAL = 9.0  # GB of 1e9 bytes
# From so many bytes on an allocation is the system's, and glibc keeps at most as many that were
# freed. Its own limits grow with what is freed, so that gigabytes stay with the process.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
# What the host logs where a file does not fit the model.
MISFITS = (
    "unet missing",
    "unet unexpected",
    "clip missing",
    "Missing VAE keys",
    "missing clip vision",
)

UNET = SD1 | {"num_heads": 8, "context_dim": 768, "use_linear_in_transformer": False}

Layout = dict[str, torch.Size]


def checkpoint_layout() -> Layout:
    """Names and shapes of the tensors in a single-file checkpoint of Stable Diffusion 1.5."""
    operations = comfy.ops.disable_weight_init
    text = json.loads(_beside(comfy.sd1_clip, "sd1_clip_config.json"))
    with torch.device("meta"):
        parts = {
            "model.diffusion_model": UNetModel(**UNET, device="meta", operations=operations),
            "first_stage_model": AutoencoderKL(ddconfig=KL, embed_dim=4),
            "cond_stage_model.transformer": comfy.clip_model.CLIPTextModel(
                text, torch.float16, "meta", operations
            ),
        }
    return {
        f"{prefix}.{name}": tensor.shape
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
        if name != "text_projection.weight"
    }


def image_encoder_layout() -> Layout:
    """Those of CLIP ViT-H/14's image half, in the layout of the transformers library."""
    vision = json.loads(_beside(comfy.clip_model, "clip_vision_config_h.json"))
    module = comfy.clip_model.CLIPVisionModelProjection(
        vision, torch.float16, "meta", comfy.ops.disable_weight_init
    )
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _beside(module, name: str) -> str:
    return Path(module.__file__).with_name(name).read_text(encoding="utf-8")


def write_random(path: Path, layout: Layout, seed: int) -> None:
    """Write a safetensors file of random half-precision weights, tensor by tensor."""
    header = {}
    end = 0
    for name, shape in layout.items():
        start = end
        end += 2 * shape.numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, shape in layout.items():
            weight = random_weight(name, shape, generator)
            file.write(weight.half().numpy().astype("<f2", copy=False).data)
    part.replace(path)


def random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """A weight with which a layer gives about as large numbers as it gets."""
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:  # of a norm
        return torch.ones(shape)
    return torch.randn(shape, generator=generator) / math.sqrt(shape[1:].numel())


def prepare(base: Path, graph: dict) -> None:
    """Put models and references where the workflow's loaders find them; files that exist stay."""
    models = {
        base / "models/checkpoints" / _file(graph, "CheckpointLoaderSimple"): checkpoint_layout,
        base / "models/clip_vision" / _file(graph, "CLIPVisionLoader"): image_encoder_layout,
    }
    for seed, (path, layout) in enumerate(models.items()):
        if not path.exists():
            write_random(path, layout(), seed)
        print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB", flush=True)
    folder = base / "input" / CONCEPT
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(letter_pictures("S", 3)):
        Image.fromarray(picture).save(folder / f"{number}.png")


def _file(graph: dict, loader: str) -> str:
    (node,) = (node for node in graph["nodes"] if node["type"] == loader)
    return node["widgets_values"][0]


def adapted(graph: dict, object_info: dict, memory: str, steps: int | None = None) -> dict:
    """The workflow's API prompt with what is changed for this run, and its losses shown.

    Args:
        memory: the level at which gradients are taken, an option of the node.
        steps: of sampling; None for the workflow's own.
    """
    prompt = to_api(graph, object_info)
    optimize = find(prompt, "SeedSelectOptimize")
    if steps is not None:
        prompt[optimize]["inputs"]["steps"] = steps
    prompt[find(prompt, "EmptyLatentImage")]["inputs"] |= {"width": SIZE, "height": SIZE}
    prompt[find(prompt, "SeedSelectLoadReferenceSet")]["inputs"]["folder"] = CONCEPT
    node = prompt[optimize]
    changes = {"preset": PRESET, "extras": "on", "memory": memory}
    node["inputs"] = changed(object_info[node["class_type"]], node["inputs"], changes)
    shown = {"inputs": {"source": [optimize, 4]}, "class_type": "PreviewAny"}
    return prompt | {"loss": shown | {"_meta": {"title": "Loss"}}}


class Watch:
    """Follows a run: the peak of the server's memory before the first gradient, and in all.

    Attributes:
        before, peak: bytes.
    """

    def __init__(self, process: psutil.Process, prompt: dict):
        self.before = 0
        self.peak = 0
        self._process = process
        self._optimize = find(prompt, "SeedSelectOptimize")
        preset = PRESETS[PRESET]
        self._drawn = preset.candidates * preset.draft_steps
        self._searching = False

    def __call__(self, event: Event) -> None:
        self.look()
        if event.node != self._optimize:
            return
        if event.kind == "text":
            print(f"{self.peak / 1e9:5.1f} GB  {event.text}", flush=True)
        self._searching |= event.kind == "progress" and event.value > self._drawn
        if not self._searching:
            self.before = self.peak

    def look(self) -> None:
        self.peak = max(self.peak, peak_memory(self._process))


def peak_memory(process: psutil.Process) -> int:
    """Largest resident memory of a process so far, in bytes; that of now where nobody counts it."""
    status = Path(f"/proc/{process.pid}/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    memory = process.memory_info()
    return getattr(memory, "peak_wset", memory.rss)


def losses_of(result: Result) -> list[float]:
    """The losses that the workflow shows, draw by draw."""
    (text,) = result.outputs["loss"]["text"]
    return json.loads(text)["loss"]


def faults(client: ComfyClient, prompt: dict, result: Result, log: str) -> Iterator[str]:
    """What is wrong with a run, if anything."""
    yield from (line for line in log.splitlines() if any(misfit in line for misfit in MISFITS))
    if result.status != "success":
        yield result.error.get("exception_message", result.status)
        return
    for title in ("Before", "After"):
        (entry,) = result.images(find(prompt, "SaveImage", title))
        with Image.open(io.BytesIO(client.fetch(entry))) as image:
            if image.size != (SIZE, SIZE) or np.ptp(np.asarray(image)) == 0:
                yield f"{title}: a picture of {image.size} that shows nothing or has another size"
    losses = losses_of(result)
    if not all(map(math.isfinite, losses)) or len(set(losses)) < 2:
        yield f"the losses are constant or no numbers: {losses}"


def measure(base: Path, memory: str, steps: int | None) -> tuple[dict, list[str]]:
    """Run the workflow from the base directory; what was measured, and what is wrong with it."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    prepare(base, graph)
    with host.server(["--cpu"], base_directory=base) as server:
        client = ComfyClient(server.url)
        prompt = adapted(graph, client.get("object_info"), memory, steps)
        watch = Watch(psutil.Process(server.process.pid), prompt)
        began = time.monotonic()
        result = client.run(prompt, watch)
        seconds = time.monotonic() - began
        watch.look()
        log = server.log_path.read_text(encoding="utf-8", errors="replace")
        wrong = list(faults(client, prompt, result, log))
    measured = {
        "memory": memory,
        "steps": prompt[find(prompt, "SeedSelectOptimize")]["inputs"]["steps"],
        "seconds": round(seconds),
        "peak_gb": round(watch.peak / 1e9, 2),
        "peak_before_first_gradient_gb": round(watch.before / 1e9, 2),
    }
    return measured, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--memory", default=MEMORY, metavar="LEVEL", help="as SeedSelect Optimize has"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="denoising steps, by default the workflow's"
    )
    parser.add_argument("--folder", type=Path, help="keep the files here, and use them again")
    parser.add_argument(
        "--keep-freed", action="store_true", help="leave glibc's allocator at its own limits"
    )
    args = parser.parse_args()
    if not args.keep_freed:
        os.environ.update(MALLOC)
    with tempfile.TemporaryDirectory(prefix="seedselect-full-") as temporary:
        base = (args.folder or Path(temporary)).absolute()
        measured, wrong = measure(base, args.memory, args.steps)
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    report(measured | {"keep_freed": args.keep_freed})
    return 0


def report(row: dict) -> None:
    """Write what was measured beside the goal, and print it."""
    goal = {"goal": f"peak under {GOAL:g} GB", "met": row["peak_gb"] < GOAL}
    kept = {"commit": commit_now(), "torch": torch.__version__, "rows": [row], "goals": [goal]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "full_size.json").write_text(json.dumps(kept, indent=1) + "\n")
    print(
        f"{row['memory']}: {row['seconds']} s, peak {row['peak_gb']} GB (before the first gradient "
        f"{row['peak_before_first_gradient_gb']} GB); "
        f"goal: {goal['goal']}, {'met' if goal['met'] else 'MISSED'}"
    )


if __name__ == "__main__":
    sys.exit(main())
