"""What becomes of the samplers that a node pack adds: each in a search with a small model.

python3 tests/gradients/pack.py FOLDER REPORT

Started by scripts/host_matrix.py, under ComfyUI's own Python. The pack is loaded by the host, from
a copy in a custom_nodes folder of its own. Every name that it adds to the host's list is tried, and
every SAMPLER of its nodes that needs nothing else to be connected. REPORT is JSON: a row a sampler.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STEPS = 4
PREDICTS = 30  # times as much as the small model of the tests

EXACT = "exact"
REFUSED = "refused"
WITHOUT = "without gradient"
TOLD = "told"
BROKEN = "broken"
RAW = "raw"


def prepare(base: Path) -> None:
    """The host on the CPU, with folders of its own in ``base``."""
    sys.path[:0] = [os.environ["COMFYUI_DIR"]]
    sys.path += [str(REPO), str(REPO / "tests")]
    from comfy.cli_args import args

    for name in ("custom_nodes", "input", "models", "output", "temp", "user"):
        (base / name).mkdir()
    args.base_directory = str(base)
    args.cpu = True
    args.disable_api_nodes = True


def load(folder: Path) -> str:
    """Let the host load a pack; why it could not."""
    import server

    import nodes

    with contextlib.suppress(Exception):  # packs that add pages to it look for one
        server.PromptServer(asyncio.new_event_loop())
    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())
    logging.getLogger().addHandler(listener)
    try:
        if asyncio.run(nodes.load_custom_node(str(folder))):
            return ""
    finally:
        logging.getLogger().removeHandler(listener)
    failed = [text.split(": ", 1)[-1] for text in said if "Cannot import" in text]
    return failed[0].strip() if failed else "it could not be imported"


def samplers_of(loaded: Callable[[], None]) -> Iterator[tuple[str, Callable]]:
    """Name and maker of every SAMPLER that ``loaded`` adds to the host."""
    import comfy.samplers

    import nodes
    from seedselect_core.host.samplers import sampler_of

    names = set(comfy.samplers.SAMPLER_NAMES)
    known = set(nodes.NODE_CLASS_MAPPINGS)
    loaded()
    for name in comfy.samplers.SAMPLER_NAMES:
        if name not in names:
            yield name, lambda name=name: sampler_of(name)
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        if name not in known and tuple(getattr(node, "RETURN_TYPES", ()))[:1] == ("SAMPLER",):
            values = defaults(node)
            if values is not None:
                yield f"{name} (node)", lambda node=node, values=values: made(node, values)


def defaults(node) -> dict | None:
    """Values of a node's inputs by its own defaults; None where something must be connected."""
    values = {}
    for name, (kind, *more) in node.INPUT_TYPES().get("required", {}).items():
        options = more[0] if more else {}
        if "default" in options:
            values[name] = options["default"]
        elif isinstance(kind, list | tuple) and kind:
            values[name] = kind[0]
        else:
            return None
    return values


def made(node, values: dict):
    """A node's first output."""
    outputs = getattr(node(), node.FUNCTION)(**values)
    return getattr(outputs, "result", outputs)[0]


def tried(make: Callable) -> dict:
    """What a search with the sampler comes to."""
    from seedselect_core.errors import SeedSelectError

    notes: list[str] = []
    try:
        searched(make(), notes)
    except SeedSelectError as error:
        return {"verdict": TOLD if samples(make) else BROKEN, "said": str(error)}
    except Exception as error:
        return {"verdict": RAW, "said": f"{type(error).__name__}: {error}"}
    without = [note for note in notes if "without a gradient" in note]
    if not without:
        return {"verdict": EXACT, "said": ""}
    return {"verdict": REFUSED if " is wrong (" in without[-1] else WITHOUT, "said": without[-1]}


def denoising(sampler):
    import comfy.samplers
    import torch

    import tiny
    from seedselect_core.chain.unroll import Denoising

    model = tiny.model()
    with torch.inference_mode():  # what it predicts must count beside the noise that it is given
        model.model.diffusion_model.out[-1].weight.mul_(PREDICTS)
    graph = tiny.Graph(model=model)
    guider = comfy.samplers.CFGGuider(graph.model)
    guider.set_conds(graph.positive, graph.negative)
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(
        graph.model.get_model_object("model_sampling"), "normal", STEPS
    )
    return graph, Denoising(guider, sampler, sigmas)


def searched(sampler, notes: list[str]) -> None:
    import torch

    import tiny
    from seedselect_core.search.optimize import optimize_noise

    graph, how = denoising(sampler)
    with torch.inference_mode():
        optimize_noise(
            graph.custom(how),
            replace(tiny.SAMPLING, steps=STEPS),
            tiny.settings(iterations=2),
            check_gradient=True,
            **tiny.with_callbacks({"on_note": notes.append}),
        )


def samples(make: Callable) -> bool:
    """Whether the host itself can sample with it."""
    import torch

    import tiny

    try:
        graph, how = denoising(make())
        with torch.inference_mode():
            how.guider.sample(
                tiny.normal(1, 4, 8, 8), graph.latent["samples"], how.sampler, how.sigmas, seed=0
            )
    except Exception:
        return False
    return True


def main(folder: str, report: str) -> int:
    with tempfile.TemporaryDirectory(prefix="seedselect-", ignore_cleanup_errors=True) as work:
        prepare(Path(work))
        pack = Path(work, "custom_nodes", Path(folder).name)
        shutil.copytree(folder, pack, ignore=shutil.ignore_patterns(".git"))
        why: list[str] = []
        rows = []
        for name, make in samplers_of(lambda: why.append(load(pack))):
            row = {"name": name} | tried(make)
            rows.append(row)
            print(f"{name}: {row['verdict']}. {row['said']}", flush=True)
    Path(report).write_text(json.dumps({"why": why[0], "rows": rows}, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
