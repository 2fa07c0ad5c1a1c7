"""The campaigns against a live server that disturb it: interruptions, many runs, two users.

Item n of a campaign is made of the campaign's name and n alone; at what moment a Cancel or a signal
arrives is the machine's.
"""

import contextlib
import functools
import json
import random
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from campaigns_ledger import SECONDS_TO_WRITE, Found, growth
from campaigns_live import (
    REPO,
    Ended,
    Live,
    advanced,
    diverse,
    invert,
    live,
    plain,
    pocket,
    sampled,
    search,
    sweep,
    told,
)

sys.path.append(str(REPO / "scripts"))

from comfy_client import ComfyClient

# ---------------------------------------------------------------- interruptions

# How often of a hundred.
KINDS = {
    "cancel": 28,
    "error": 10,
    "oom": 14,
    "cpu oom": 8,
    "memory": 6,
    "nan": 16,
    "full disk and cancel": 5,
    "full disk and error": 5,
    "full disk": 2,
    "SIGTERM": 3,
    "SIGKILL": 3,
}
INTERRUPTED = {
    "opt": (search, 6),
    "advanced": (advanced, 3),
    "set": (diverse, 2),
    "sweep": (sweep, 1),
    "invert": (invert, 1),
    "sample": (sampled, 1),
}
KEEPERS = ("opt", "advanced")  # whose best seed so far must not be lost


ENDLESS = {"iterations": 10_000}


@dataclass
class Interruption:
    """What is to happen, to which node: one item."""

    node: str
    kind: str
    part: str
    call: int
    lasting: bool
    moment: float
    changes: dict = field(default_factory=dict)

    @classmethod
    def number(cls, n: int) -> "Interruption":
        rng = random.Random(f"interruptions {n}")
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        weights = [weight for _, weight in INTERRUPTED.values()]
        node = rng.choices(list(INTERRUPTED), weights)[0]
        part = rng.choice(["model", "model", "vae", "encoder"])
        call = int(10 ** rng.uniform(0, 4 if part == "model" else 3))
        changes = {}
        if node in KEEPERS:
            changes = {"iterations": rng.choice([4, 12, 40]), "first_draws": rng.choice([1, 3])}
            changes["compare_shifted_copies"] = rng.choice([1, 2])
            if kind.startswith("SIG"):
                changes |= ENDLESS
        moment = rng.uniform(*((1, 12) if kind.startswith("SIG") else (0, 2.5)))
        return cls(node, kind, part, call, rng.random() < 0.3, moment, changes)

    def words(self) -> str:
        return f"{self.kind} in {self.node}, {self.part} call {self.call} lasting {self.lasting}"

    def prompt(self, running: Live) -> dict:
        fault = {"part": self.part, "call": self.call, "lasting": self.lasting}
        fault["kind"] = {"full disk and error": "error"}.get(self.kind, self.kind)
        if fault["kind"] not in ("error", "oom", "cpu oom", "memory", "nan"):
            fault["kind"] = ""
        fault["full"] = self.kind.startswith("full disk")
        parts = {"model": ["model", 0], "vae": ["model", 2], "clip_vision": ["model", 3]}
        armed = {"arm": ("ChaosArm", parts | {"fault": json.dumps(fault)})}
        make = INTERRUPTED[self.node][0]
        return running.complete(pocket() | armed | make("arm", **self.changes))


def interruptions(start: int, stop: int, running: Live | None = None) -> Iterator[Found]:
    """Cancel, errors, no memory, no numbers, no disk, signals; then the plain prompt."""
    with live(running) as running:
        for n in range(start, stop):
            yield interrupted(running, Interruption.number(n))


def interrupted(running: Live, what: Interruption) -> Found:
    """Interrupt one prompt, and see what that left behind."""
    before = set(running.seed_files())
    killed = what.kind.startswith("SIG")
    stop = functools.partial(_stop, running, what.kind)
    timer = threading.Timer(what.moment, stop)
    if killed or "cancel" in what.kind:
        timer.start()
    ended = running.run(what.prompt(running), going=20)
    timer.cancel()
    if timer.is_alive():
        timer.join()
    if killed and running.server.process.poll() is None:
        stop()  # the run was over before
    if killed:
        # Not the host's fault that it died, and the next one must find what it left.
        if ended.was in ("died", "hung"):
            ended.was = "killed"
        running.server.process.wait(timeout=30)
        running.start()
    elif _as_told(what, ended):
        ended.was = "told"
    found = told(running, what.words(), ended)
    fresh = [path for path in running.seed_files() if path not in before]
    if what.node in KEEPERS and ended.was != "accepted":
        grace = SECONDS_TO_WRITE if killed else 0
        why = lost(ended, fresh, grace) or _not_offered(running, fresh)
        if why:
            found.faults.add("lost")
            found.what += f" LOST: {why}"
    unfinished = [path for path in fresh if path.name.startswith("unfinished")]
    if unfinished and ended.was == "accepted":
        found.faults.add("growth")
        found.what += f" it ended well and left {unfinished[0].name}"
    for path in fresh:
        path.unlink(missing_ok=True)
    return found


def _stop(running: Live, kind: str) -> None:
    if kind.startswith("SIG"):
        number = getattr(signal, kind, signal.SIGTERM)
        with contextlib.suppress(ProcessLookupError):
            running.server.process.send_signal(number)
    else:
        running.cancel()


def _as_told(what: Interruption, ended: Ended) -> bool:
    """Whether the error is the very one that a layer raised, and not another that hides it."""
    return what.kind.endswith("error") and "chaos: a layer failed" in ended.text


def lost(ended: Ended, fresh: list[Path], grace: float) -> str | None:
    """Why the best seed that was told of is lost, beyond one iteration; None where it is there.

    Args:
        fresh: the seed files that were not there before. None is due where the node after the
            search had begun: its seed is in the host's hands.
        grace: seconds that a better seed may have had no time to be written.
    """
    due = [time_of for time_of, _ in ended.told if time_of <= ended.ended - grace]
    if not due or "end" in ended.began:
        return None
    enough = {percent for _, percent in ended.told[max(0, len(due) - 2) :]}
    kept = {path: likeness(path) for path in fresh}
    if any(percent in enough for percent in kept.values()):
        return None
    if any(kept[path] is not None and path.stat().st_mtime >= due[-1] for path in kept):
        return None
    return f"told of {ended.told[len(due) - 1][1]} %, kept {[*kept.values()]}"


def likeness(path: Path) -> str | None:
    """Mean likeness of the seeds in a file in percent, as it is told; None where it is none."""
    try:
        with safe_open(path, framework="np") as file:
            losses = json.loads(file.metadata()["seedselect"])["semantic"]
        return f"{100 * (1 - sum(losses) / len(losses)):.0f}"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _not_offered(running: Live, fresh: list[Path]) -> str | None:
    """Says so where Load Seed does not offer what was kept in its folders."""
    offered = " ".join(running.offered())
    folders = [running.base / name for name in ("output", "input")]
    kept = [path for path in fresh if any(map(path.is_relative_to, folders))]
    if kept and not any(path.name in offered for path in kept):
        return "Load Seed does not offer it"
    return None


# ---------------------------------------------------------------- many runs


def runs(start: int, stop: int, running: Live | None = None) -> Iterator[Found]:
    """Runs in one server; that memory, descriptors and files are flat is told with the last."""
    with live(running) as running:
        nodes = pocket() | search()
        # Pictures that the host takes for new, so that every node runs each time.
        nodes["again"] = ("ChaosFresh", {"value": ["letters", 0]})
        nodes["refs"] = ("SeedSelectLoadReferenceSet", {"images": ["again", 0]})
        seen = []
        for n in range(start, stop):
            ended = running.run(running.complete(nodes))
            found = told(running, f"run {n + 1}", ended)
            seen.append(running.look())
            if n + 1 == stop and (grown := growth(seen)):
                found.faults.add("growth")
                found.what = grown
            yield found


# ---------------------------------------------------------------- two users

VARIANTS = ("search", "advanced", "set", "plain", "sampled")


def _users_prompt(running: Live, variant: str, user: int) -> dict:
    """A prompt of one of two users, whose settings differ in everything that may be mixed up."""
    if variant == "plain":
        nodes = plain(seed=7 + user, steps=2 + user)
        return running.complete(nodes)
    changes = {"seed": 7 + user, "steps": 2 + user, "cfg": 3.0 + user}
    make, given = {
        "search": (search, changes | {"iterations": 2 + user}),
        "advanced": (advanced, {"iterations": 2 + user, "compare_shifted_copies": 1 + user}),
        "set": (diverse, changes),
        "sampled": (sampled, {"steps": 2 + user}),
    }[variant]
    nodes = pocket(f"a {('red', 'blue')[user]} letter S on yellow") | make(**given)
    # Both users' searches run anew each time.
    nodes["latent"] = ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1})
    nodes["fresh"] = ("ChaosFresh", {"value": ["latent", 0]})
    kind, inputs = nodes["opt"]
    if "latent" in inputs:
        nodes["opt"] = (kind, inputs | {"latent": ["fresh", 0]})
    image = ["opt", 1]
    if variant == "sampled":
        nodes["seed again"] = ("ChaosFresh", {"value": ["seed", 0]})
        nodes["opt"] = (kind, inputs | {"seed": ["seed again", 0]})
        nodes["decoded"] = ("VAEDecode", {"samples": ["opt", 0], "vae": ["model", 2]})
        image = ["decoded", 0]
    nodes["witness"] = ("ChaosWitness", {"image": image})
    return running.complete(nodes)


def _picture(ended: Ended) -> str:
    seen = ended.outputs.get("witness", {}).get("text", ["{}"])
    return json.loads(seen[0]).get("picture", "")


def users(start: int, stop: int, running: Live | None = None) -> Iterator[Found]:
    """Pairs of prompts that two users queue at a time; each must get what it gets when alone."""
    with live(running) as running:
        clients = [ComfyClient(running.server.url) for _ in range(2)]
        alone = {}
        for n in range(start, stop):
            rng = random.Random(f"users {n}")
            variants = [rng.choice(VARIANTS) for _ in range(2)]
            prompts = [_users_prompt(running, v, u) for u, v in enumerate(variants)]
            for user, variant in enumerate(variants):
                if (user, variant) not in alone:
                    alone[user, variant] = _picture(running.run(prompts[user], going=60))
            ends = _together(running, clients, prompts)
            words = f"{variants[0]} beside {variants[1]}"
            worst = next((end for end in ends if end.was != "accepted"), ends[0])
            found = told(running, words, worst)
            found.made = 2
            for user, variant in enumerate(variants):
                if _picture(ends[user]) != alone[user, variant]:
                    found.faults.add("picture")
                    found.what += f" user {user + 1} got another picture than alone"
            if running.client.url != clients[0].url:
                clients = [ComfyClient(running.server.url) for _ in range(2)]
            yield found


def _together(running: Live, clients: list[ComfyClient], prompts: list[dict]) -> list[Ended]:
    ends: list[Ended | None] = [None, None]

    def follow(user: int) -> None:
        ends[user] = running.run(prompts[user], clients[user], going=60)

    threads = [threading.Thread(target=follow, args=(user,)) for user in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends
