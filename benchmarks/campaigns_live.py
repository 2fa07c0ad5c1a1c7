"""A live server with this pack and the one that breaks things (tests/chaos), for the campaigns."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from campaigns_ledger import Found, unsafe
from campaigns_seeds import whole_seed

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO / "scripts"))

import host  # noqa: E402
from api_workflow import complete  # noqa: E402
from comfy_client import ComfyClient, Event, PromptRejected  # noqa: E402
from host_install import Host  # noqa: E402

SAMPLING = {"steps": 2, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal"}
GOING = 4  # seconds after which a prompt is cancelled, unless told otherwise
PATIENCE = 60  # seconds in which it must end then, and any other prompt
OURS = ("seedselect_core", host.PACK, str(REPO / "nodes"))
# What the nodes tell while they search.
TOLD = re.compile(r"iteration \d+.*: likeness (-?\d+|nan) %")


@dataclass
class Ended:
    """How a prompt ended.

    Attributes:
        was: "accepted", "refused", "stopped", "raw", "foreign" (an error of the host's own), "hung"
            or "died" (the server did).
        text: what the user is told.
        kind: class of an error.
        outputs: node id to what it shows.
        told: (seconds since the epoch, likeness in percent) of every better seed that was told of.
        began: nodes that were begun, in order.
        ended: when, in seconds since the epoch.
    """

    was: str
    text: str = ""
    kind: str = ""
    outputs: dict = field(default_factory=dict)
    told: list[tuple[float, str]] = field(default_factory=list)
    began: list[str] = field(default_factory=list)
    ended: float = 0.0

    @property
    def faults(self) -> set[str]:
        return {self.was} & {"hung", "raw"}


class Live:
    """A server that is started again when it must be, and the plain prompt that it must draw.

    Attributes:
        server, client: of the process that runs now.
        info: its /object_info.
        before: what the first plain prompt left behind; see `ChaosWitness`.
    """

    def __init__(self, base: Path):
        self.base = base
        shutil.copytree(
            REPO / "tests" / "chaos",
            base / "custom_nodes" / "chaos",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self.before: dict | None = None
        self._process = contextlib.ExitStack()

    def __enter__(self) -> "Live":
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self._process.close()

    def start(self) -> None:
        """Start the server, or start it again, and have it draw the plain picture."""
        self._process.close()
        python = Host(Path(os.environ["COMFYUI_DIR"]), Path(sys.executable), managed=False)
        # The classic cache never drops what a prompt has in common with the one before it.
        arguments = ["--cpu", "--cache-classic", "--deterministic"]
        self.server = self._process.enter_context(
            host.server(arguments, base_directory=self.base, host=python)
        )
        self.client = ComfyClient(self.server.url)
        self.info = self.client.get("object_info")
        seen = self.look()  # the watch on files begins with it
        if not seen:
            raise RuntimeError("the plain prompt does not end in a fresh server")
        self.before = self.before or seen
        self.temp = seen["temp folder"]

    def complete(self, nodes: dict[str, tuple[str, dict]]) -> dict:
        """An API prompt of node types and inputs; widgets that are not named at their default."""
        return {
            key: {"class_type": kind, "inputs": complete(self.info[kind], inputs)}
            for key, (kind, inputs) in nodes.items()
        }

    def run(
        self,
        prompt: dict,
        client: ComfyClient | None = None,
        during: Callable[[Event], None] | None = None,
        going: float = GOING,
    ) -> Ended:
        """Queue a prompt and follow it to its end; cancel it where it goes on for ``going`` s."""
        ended = Ended("hung")
        client = client or self.client

        def heard(event: Event) -> None:
            if event.kind == "executing":
                ended.began.append(event.node)
            if event.kind == "text" and (found := TOLD.search(event.text)):
                ended.told.append((time.time(), found[1]))
            if during:
                during(event)

        cancel = threading.Timer(going, self.cancel)
        cancel.daemon = True
        cancel.start()
        try:
            result = client.run(prompt, heard, timeout=going + PATIENCE)
        except PromptRejected as error:
            self._rejected(ended, error)
        except urllib.error.HTTPError as error:
            ended.was, ended.text = "foreign", f"HTTP {error.code}"
        except (TimeoutError, asyncio.TimeoutError):
            ended.text = "no end"
        except (OSError, aiohttp.ClientError, http.client.HTTPException) as error:
            ended.was, ended.text = "died", str(error)
        else:
            ended.outputs = result.outputs
            self._judge(ended, result.status, result.error)
        finally:
            ended.ended = time.time()
            cancel.cancel()
        if why := unsafe(ended.text):
            ended.was, ended.text = "raw", f"{why}: {ended.text}"
        return ended

    def _judge(self, ended: Ended, status: str, error: dict) -> None:
        ended.was = {"success": "accepted", "interrupted": "stopped"}.get(status, "refused")
        if status == "error":
            ended.text = error["exception_message"]
            ended.kind = error["exception_type"]
            if not ended.kind.endswith("SeedSelectError"):
                ended.was = "raw" if is_ours(error["node_type"], error["traceback"]) else "foreign"

    def _rejected(self, ended: Ended, error: PromptRejected) -> None:
        """Refused by the host before the run; raw where our own code raised."""
        ended.was, ended.text = "refused", str(error.error.get("message"))
        for found in (error.node_errors or {}).values():
            for one in found["errors"]:
                # The host repeats the value that was given; what is ours are the words around it.
                if one["type"] == "custom_validation_failed":
                    ended.text = one["details"]
                trace = (one.get("extra_info") or {}).get("traceback", [])
                if "".join(trace) and is_ours("", trace):
                    ended.was, ended.kind = "raw", one["extra_info"]["exception_type"]
                    ended.text = one["details"]

    def worker_ended_by_host(self) -> bool:
        """Whether the host's worker thread has ended by an error of the host alone."""
        log = self.server.log_path.read_text(encoding="utf-8", errors="replace")
        _, died, trace = log.rpartition("(prompt_worker):")
        return bool(died) and not is_ours("", [trace])

    def cancel(self) -> None:
        with contextlib.suppress(OSError):
            self.client.interrupt()

    def look(self) -> dict:
        """Draw the plain picture and tell what the witness sees; {} where that does not end."""
        ended = self.run(self.complete(plain()), going=PATIENCE)
        if ended.was != "accepted":
            return {}
        return json.loads(ended.outputs["witness"]["text"][0])

    def damage(self) -> tuple[set[str], str]:
        """What is not as it was before: keys of `GOALS`, and words; after a hang, begins anew."""
        seen = self.look()
        if not seen:
            self.start()
            return {"hung"}, "the plain prompt after it does not end"
        faults = {key for key in ("weights", "picture") if seen[key] != self.before[key]}
        words = ""
        if seen["outside"]:
            faults.add("outside")
            words = "; ".join(seen["outside"][:3])
        return faults, words

    def seed_files(self) -> Iterator[Path]:
        """Where a seed of an interrupted run may be: the only place that knows about it."""
        for folder in (self.base, Path(self.temp)):
            yield from folder.rglob("*.seed.safetensors")

    def offered(self) -> list[str]:
        """Seed files that Load Seed offers."""
        required = self.client.get("object_info/SeedSelectLoadSeed")["SeedSelectLoadSeed"]["input"]
        kind, *more = required["required"]["seed_file"]
        return kind if isinstance(kind, list) else more[0]["options"]


def is_ours(node_type: str, trace: list[str]) -> bool:
    """Whether an error is one of this pack: of its nodes, or raised through its code.

    What the host finds out before it runs a node has no traceback: cycles.
    """
    ours = node_type.startswith("SeedSelect") or any(mark in "".join(trace) for mark in OURS)
    return bool(trace) and ours


@contextlib.contextmanager
def live(running: Live | None = None) -> Iterator[Live]:
    """The server that runs, or one of its own, with what the prompts load."""
    if running is not None:
        yield running
        return
    with tempfile.TemporaryDirectory(prefix="seedselect-campaign-") as folder:
        base = Path(folder).resolve()
        for name in ("input", "models/clip_vision"):
            (base / name).mkdir(parents=True)
        (base / "input" / "a.seed.safetensors").write_bytes(whole_seed())
        encoder = (REPO / "pocket/weights/clip_vision.safetensors").read_bytes()
        (base / "models/clip_vision/pocket.safetensors").write_bytes(encoder)
        with Live(base) as running:
            yield running


def told(running: Live, item: str, ended: Ended) -> Found:
    """An item that has ended, and what it left behind."""
    if ended.was in ("hung", "died"):
        foreign = running.worker_ended_by_host()
        running.start()
        if foreign:
            return Found("foreign")
        return Found("hung", {"hung"}, f"{item}: the server {ended.was}: {ended.text}")
    faults, words = running.damage()
    said = " ".join(filter(None, [ended.kind, ended.text, words]))
    return Found(ended.was, ended.faults | faults, f"{item}: {said}")


# ---------------------------------------------------------------- prompts


def pocket(prompt: str = "a red letter S on yellow", batch: int = 1) -> dict:
    """The nodes that every prompt on the pocket model needs."""
    return {
        "model": ("SeedSelectLoadPocketModel", {}),
        "pos": ("CLIPTextEncode", {"clip": ["model", 1], "text": prompt}),
        "neg": ("CLIPTextEncode", {"clip": ["model", 1], "text": ""}),
        "latent": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": batch}),
        "letters": ("SeedSelectPocketReferences", {"letter": "S", "count": 2}),
        "refs": ("SeedSelectLoadReferenceSet", {"images": ["letters", 0]}),
    }


def plain(**changes) -> dict:
    """A KSampler without anything of this pack but the model, and the witness."""
    graph = {"model": ["model", 0], "positive": ["pos", 0], "negative": ["neg", 0]}
    parts = {"model": ["model", 0], "clip": ["model", 1], "vae": ["model", 2]}
    nodes = pocket()
    for name in ("letters", "refs"):
        del nodes[name]
    return nodes | {
        "fresh": ("ChaosFresh", {"value": ["latent", 0]}),
        "ks": ("KSampler", graph | {"latent_image": ["fresh", 0], "seed": 5} | SAMPLING | changes),
        "decoded": ("VAEDecode", {"samples": ["ks", 0], "vae": ["model", 2]}),
        "witness": (
            "ChaosWitness",
            {"image": ["decoded", 0], "clip_vision": ["model", 3]} | parts,
        ),
    }


def connections(through: str = "model") -> dict:
    """Inputs of a node that searches; ``through`` an armed node, or straight from the model."""
    vae, vision = (["arm", 1], ["arm", 2]) if through == "arm" else (["model", 2], ["model", 3])
    graph = {"model": [through, 0], "positive": ["pos", 0], "negative": ["neg", 0], "vae": vae}
    return graph | {"clip_vision": vision, "references": ["refs", 0], "latent": ["latent", 0]}


# Every choice brings along what it can, so that all inputs are there to be tried.
SHORT = {"preset": "custom", "first_draws": 1, "iterations": 1, "compare_shifted_copies": 1}
SHORT |= {"gradient": "last steps", "memory": "automatic"}


def search(through: str = "model", **changes) -> dict:
    inputs = connections(through) | SAMPLING | SHORT | {"seed": 5} | changes
    return {"opt": ("SeedSelectOptimize", inputs), "end": ("PreviewAny", {"source": ["opt", 0]})}


def advanced(through: str = "model", **changes) -> dict:
    parts = {"model": [through, 0], "positive": ["pos", 0], "negative": ["neg", 0], "cfg": 3.0}
    sigmas = {"model": [through, 0], "scheduler": "normal", "steps": 2}
    graph = {key: value for key, value in connections(through).items() if key not in parts}
    graph |= {name: [name, 0] for name in ("noise", "guider", "sampler", "sigmas")}
    return {
        "noise": ("RandomNoise", {"noise_seed": 5}),
        "guider": ("CFGGuider", parts),
        "sampler": ("KSamplerSelect", {"sampler_name": "ddim"}),
        "sigmas": ("BasicScheduler", sigmas),
        "opt": ("SeedSelectOptimizeAdvanced", graph | SHORT | changes),
        "end": ("PreviewAny", {"source": ["opt", 0]}),
    }


def diverse(through: str = "model", **changes) -> dict:
    inputs = connections(through) | SAMPLING | {"seed": 5, "preset": "quick", "count": 2}
    inputs |= {"iterations": 1, "min_distance": 0.0} | changes
    return {"opt": ("SeedSelectDiverseSet", inputs), "end": ("PreviewAny", {"source": ["opt", 0]})}


def sweep(through: str = "model", **changes) -> dict:
    inputs = connections(through) | SAMPLING | {"seed": 5, "preset": "quick"}
    inputs |= {"likeness_what_it_is": "10", "likeness_how_it_looks": "0"} | changes
    return {
        "opt": ("SeedSelectTradeoffSweep", inputs),
        "end": ("PreviewAny", {"source": ["opt", 2]}),
    }


def invert(through: str = "model", **changes) -> dict:
    graph = {key: value for key, value in connections(through).items() if key in INVERTED}
    inputs = graph | {"image": ["letters", 0], "steps": 2, "refinements": 2} | changes
    return {
        "opt": ("SeedSelectInvertImage", inputs),
        "end": ("PreviewAny", {"source": ["opt", 2]}),
    }


INVERTED = ("model", "positive", "negative", "vae")


def sampled(through: str = "model", **changes) -> dict:
    graph = {name: connections(through)[name] for name in INVERTED[:3]}
    return {
        "seed": ("SeedSelectLoadSeed", {"seed_file": "[input] a.seed.safetensors"}),
        "opt": ("SeedSelectSampleFromSeed", graph | {"seed": ["seed", 0]} | changes),
        "end": ("PreviewAny", {"source": ["opt", 0]}),
    }
