"""Hostile files in process: how the nodes that read them end, what they show, what they open.

Item n of a campaign is made of the campaign's name and n alone, so that it can be made again.
"""

import contextlib
import importlib
import inspect
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import folder_paths
import server as host_server
import torch

from campaigns_ledger import Found, unsafe
from campaigns_pictures import FOLDERS, PICTURE, hostile_file, hostile_name
from campaigns_seeds import SEED_NAMES, hostile_seed, whole_seed

REPO = Path(__file__).resolve().parent.parent
sys.path.append(str(REPO / "tests" / "chaos"))

from chaos_watch import WATCH, tell_of_rust  # noqa: E402

SECONDS = 20  # in which an item must be done
PACKAGE = "seedselect_campaigns"


class Hung(BaseException):
    """The alarm of an item rang."""


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise `Hung` after so long, where the system has such alarms."""

    def ring(number, frame):
        raise Hung

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Shown(logging.Handler):
    """Stands for the host's server, and collects what nodes send and log."""

    def __init__(self):
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __getattr__(self, name: str) -> Callable:
        """Whatever a node may call of the server."""
        if not name.startswith("send"):
            raise AttributeError(name)
        return lambda *sent, **named: self.texts.extend(str(part) for part in sent)


class Place:
    """Folders for the host that hold nothing else, nodes of this pack, and a watch on both.

    Attributes:
        input: the host's input folder; outside: one that nothing may touch.
    """

    def __init__(self):
        self.root = Path(os.path.realpath(tempfile.mkdtemp(prefix="seedselect-campaign-")))
        self.input = self.root / "input"
        self.outside = self.root / "outside"
        for name in ("input", "output", "temp", "outside"):
            (self.root / name).mkdir()
        self.shown = Shown()
        if PACKAGE not in sys.modules:
            sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
            sys.modules[PACKAGE].__path__ = [str(REPO)]
            tell_of_rust()
            WATCH.install()

    def node(self, module: str, name: str) -> type:
        """A node by module and class, out of the pack as a package, as the host does."""
        return getattr(importlib.import_module(f"{PACKAGE}.nodes.{module}"), name)

    @contextlib.contextmanager
    def taken(self) -> Iterator["Place"]:
        """Be the host's folders and server for a while."""
        names = ("input", "output", "temp")
        before = {name: getattr(folder_paths, f"{name}_directory") for name in names}
        screen = getattr(host_server.PromptServer, "instance", None)
        host_server.PromptServer.instance = self.shown
        log = logging.getLogger()
        handlers, log.handlers = log.handlers, [self.shown]
        WATCH.allow(
            [str(REPO), os.path.dirname(folder_paths.__file__), str(self.input)],
            [str(self.root / "output"), str(self.root / "temp")],
        )
        try:
            for name in names:
                setattr(folder_paths, f"{name}_directory", str(self.root / name))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's own, of damaged files
                yield self
        finally:
            for name, folder in before.items():
                setattr(folder_paths, f"{name}_directory", folder)
            host_server.PromptServer.instance = screen
            log.handlers = handlers
            shutil.rmtree(os.fsencode(self.root), ignore_errors=True)

    def clean(self) -> None:
        for folder in (self.input, self.root / "temp"):
            shutil.rmtree(os.fsencode(folder), ignore_errors=True)
            folder.mkdir(exist_ok=True)

    def judge(self, item: str, work: Callable[[], str | None]) -> Found:
        """How ``work`` ends, which returns what it refuses with, or None; and what it shows."""
        self.shown.texts.clear()
        WATCH.take()
        WATCH.on = True
        try:
            with alarm(SECONDS):
                refusal = work()
            found = Found("accepted" if refusal is None else "refused")
            self.shown.texts.append(refusal or "")
        except Hung:
            found = Found("hung", {"hung"}, item)
        except Exception as error:
            found = Found("refused")
            self.shown.texts.append(str(error))
            if not is_ours(error):
                what = f"{item}: {type(error).__name__}: {error}"
                found = Found("raw", {"raw"}, what)
        finally:
            WATCH.on = False
        for why in filter(None, map(unsafe, self.shown.texts)):
            found = Found("raw", found.faults | {"raw"}, f"{item}: {why}")
        for outside in WATCH.take():
            found.faults.add("outside")
            found.what = f"{item}: {outside}"
        return found


def is_ours(error: BaseException) -> bool:
    """Whether an error is one that a user is meant to read, of whichever copy of the pack."""
    return any(kind.__name__ == "SeedSelectError" for kind in type(error).__mro__)


def call(node: type, **inputs) -> tuple[str | None, tuple]:
    """A node as the host calls it: asked about its inputs, for its fingerprint, and run.

    Returns:
        Why it refuses its inputs, or None; and what it gives.
    """
    if node.INPUT_IS_LIST:
        # Of a choice, a dict of what it brings along, each value comes in a list.
        inputs = {k: v if isinstance(v, dict) else [v] for k, v in inputs.items()}
    asked = inspect.signature(node.validate_inputs).parameters
    answer = node.validate_inputs(**{name: inputs[name] for name in asked})
    if answer is not True:
        return str(answer), ()
    node.fingerprint_inputs(**inputs)
    clone = node.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
    with torch.inference_mode():
        return None, clone.execute(**inputs).args


# ---------------------------------------------------------------- the campaigns


def references(start: int, stop: int) -> Iterator[Found]:
    """Folders of hostile pictures with hostile names, and hostile names of folders."""
    with Place().taken() as place:
        node = place.node("references", "LoadReferenceSet")
        for n in range(start, stop):
            place.clean()
            yield _reference(place, node, random.Random(f"references {n}"))


def _reference(place: Place, node: type, rng: random.Random) -> Found:
    (place.outside / "secret.png").write_bytes(PICTURE)
    folder, item = "pictures", "a folder"
    inside = place.input / folder
    inside.mkdir()
    for _ in range(rng.choice([1, 1, 2, 3])):
        content, made = hostile_file(rng)
        name, called = hostile_name(rng, made)
        item = f"{made}, {called}"
        _write(os.fsencode(inside), name, content)
    if rng.random() < 0.3:
        (inside / "readable.png").write_bytes(PICTURE)
    if rng.random() < 0.1:
        item += ", beside links that lead out"
        with contextlib.suppress(OSError):
            os.symlink(place.outside / "secret.png", inside / "link.png")
            os.symlink(place.outside, inside / "folder.png")
    if rng.random() < 0.2:
        item, folder = rng.choice(FOLDERS)(place)
    chosen = ""
    if rng.random() < 0.2:  # the same files one by one, as if they were uploaded
        item += ", chosen"
        names = sorted(os.listdir(bytes(inside)))
        chosen = [f"{folder}/{os.fsdecode(name)}" for name in names]
        folder = "(none)"
    inputs = {"pictures": chosen, "folder": folder, "crop": rng.choice(["top", "pad", "stretch"])}
    inputs |= {"background": rng.choice(["#FFFFFF", "#000", "white"]), "limit": 3}
    order = {"order": [rng.choice(["name", "newest", "random"])], "choice": [rng.randrange(2**64)]}
    inputs["order"] = order

    def work() -> str | None:
        refusal, given = call(node, **inputs)
        if refusal is None:
            seen = given[1]
            assert torch.isfinite(seen).all() and seen.min() >= 0 and seen.max() <= 1, "no pixels"
        return refusal

    return place.judge(item, work)


def _write(folder: bytes, name: bytes, content: bytes) -> None:
    """A file of that name, or of a plain one where the system does not allow it."""
    for one in (name, b"plain.png"):
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(folder, one), "wb") as file:
                file.write(content)
            return


def seeds(start: int, stop: int) -> Iterator[Found]:
    """Hostile seed files, and hostile names of seed files."""
    with Place().taken() as place:
        node = place.node("seeds", "LoadSeed")
        for n in range(start, stop):
            place.clean()
            yield _seed(place, node, random.Random(f"seeds {n}"))


def _seed(place: Place, node: type, rng: random.Random) -> Found:
    (place.outside / "secret.seed.safetensors").write_bytes(whole_seed())
    content, item = hostile_seed(rng)
    (place.input / "a.seed.safetensors").write_bytes(content)
    chosen = "[input] a.seed.safetensors"
    if rng.random() < 0.1:
        with contextlib.suppress(OSError):
            os.symlink(
                place.outside / "secret.seed.safetensors", place.input / "link.seed.safetensors"
            )
        item, chosen = rng.choice(SEED_NAMES)(place)

    def work() -> str | None:
        refusal, given = call(node, seed_file=chosen)
        if refusal is None:
            (seed,) = given
            place.shown.texts.append(seed.sampling.describe())
            place.shown.texts.append(seed.latent_format)
            assert torch.isfinite(seed.noise).all(), "noise that is no number"
            seed.save(place.root / "output" / "again.seed.safetensors")
        return refusal

    return place.judge(item, work)
