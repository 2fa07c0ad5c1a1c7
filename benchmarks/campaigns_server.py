"""The campaigns against a live server: inputs, interruptions, many runs, two users, damaged graphs.

Item n of a campaign is made of the campaign's name and n alone; at what moment a Cancel or a signal
arrives is the machine's.
"""

import contextlib
import functools
import json
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
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
    plain,
    pocket,
    sampled,
    search,
    sweep,
)
from campaigns_seeds import whole_seed

sys.path.append(str(REPO / "scripts"))

from api_workflow import to_api
from comfy_client import ComfyClient


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
        running.start()
        return Found("hung", {"hung"}, f"{item}: the server {ended.was}: {ended.text}")
    faults, words = running.damage()
    said = " ".join(filter(None, [ended.kind, ended.text, words]))
    return Found(ended.was, ended.faults | faults, f"{item}: {said}")


# ---------------------------------------------------------------- inputs of every node

WHOLE = (
    *(0, -1, 1, 2**31, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**300, 1.5, "1", "abc", "", None),
    *(True, float("nan"), float("inf"), [], {}, ["model", 0], {"__value__": [1, 2]}, {"a": 1}),
)
REAL = (
    *(0.0, -0.0, -1e-9, 1e-320, 1e308, -1e308, float("nan"), float("inf"), -float("inf"), "nan"),
    *("-inf", "1e999", "1e5", "abc", "", None, True, [], {}, {"__value__": [1.5]}, 10**300),
)
TEXT = (
    *("", " ", "x" * 300, "x" * 100_000, "\0", "a\0b", "\ud800", "\udce9", "\x1b[2J\x07", "a\nb"),
    *("../x", "../../x", "/etc/passwd", "C:\\x", "\u202egnp", "%year%%date:yyyy%", "%s{0}", "~"),
    *("nan", "1, nan", "inf", ",", "1," * 5000, "1e999", "-1", "0, 0", "9" * 5000, "0.5, half"),
    *("(none)", "..", "a/../../b", "x/" * 2000, "#GGGGGG", "hsl(1e999,0%,0%)", "rgb(1,2)", "#fff"),
    *("[input] ../a.seed.safetensors", "[input] a.seed.safetensors", "[input] \ud800"),
    *(None, 5, 1.5, True, [], {}, {"__value__": ["a"]}, {"__value__": {}}, float("nan")),
)
SOCKET = (None, 5, 0.5, "x", True, {}, {"__value__": []}, ["nowhere", 0], ["pos", 9], ["pos", -1])
LINKS = {"IMAGE": ["letters", 0], "LATENT": ["latent", 0], "CONDITIONING": ["pos", 0]}
MISSING = "(missing)"


def bases() -> dict[str, tuple[dict, str]]:
    """For every node of this pack a graph that it works in, and its place there."""
    seed = sampled()["seed"]
    read = {"seed": seed}
    shown = {"end": ("PreviewAny", {"source": ["opt", 0]})}
    generated = pocket(batch=8) | {"ks": plain()["ks"], "decoded": plain()["decoded"]}
    generated["ks"] = ("KSampler", plain()["ks"][1] | {"latent_image": ["latent", 0]})
    generated["letters"] = ("SeedSelectPocketReferences", {"letter": "S", "count": 4})
    judged = {"generated": ["decoded", 0], "references": ["refs", 0], "clip_vision": ["model", 3]}
    custom = advanced()
    custom |= read | {
        "opt": ("SeedSelectSeedToNoise", {"seed": ["seed", 0]}),
        "custom": (
            "SamplerCustomAdvanced",
            {k: [k, 0] for k in ("guider", "sampler", "sigmas")}
            | {"noise": ["opt", 0], "latent_image": ["latent", 0]},
        ),
        "end": ("PreviewAny", {"source": ["custom", 0]}),
    }
    two = {"seed_a": ["seed", 0], "seed_b": ["seed", 0], "points": 3}
    saved = {"opt": ("SeedSelectSaveSeed", {"seed": ["seed", 0]})}
    letters = {"images": ["letters", 0]}
    return {
        "SeedSelectOptimize": (pocket() | search(), "opt"),
        "SeedSelectOptimizeAdvanced": (pocket() | advanced(), "opt"),
        "SeedSelectDiverseSet": (pocket() | diverse(), "opt"),
        "SeedSelectTradeoffSweep": (pocket() | sweep(), "opt"),
        "SeedSelectInvertImage": (pocket() | invert(), "opt"),
        "SeedSelectSampleFromSeed": (pocket() | sampled(), "opt"),
        "SeedSelectLoadSeed": (read | {"end": ("PreviewAny", {"source": ["seed", 0]})}, "seed"),
        "SeedSelectSaveSeed": (read | saved, "opt"),
        "SeedSelectSeedToNoise": (pocket() | custom, "opt"),
        "SeedSelectSeedCentroid": (
            read | shown | {"opt": ("SeedSelectSeedCentroid", {"seed": ["seed", 0]})},
            "opt",
        ),
        "SeedSelectInterpolateSeeds": (
            read | shown | {"opt": ("SeedSelectInterpolateSeeds", two)},
            "opt",
        ),
        "SeedSelectDiversityReport": (
            generated | {"opt": ("SeedSelectDiversityReport", judged)},
            "opt",
        ),
        "SeedSelectLoadReferenceSet": (
            pocket() | shown | {"opt": ("SeedSelectLoadReferenceSet", letters)},
            "opt",
        ),
        "SeedSelectPocketReferences": (
            shown | {"opt": ("SeedSelectPocketReferences", {})},
            "opt",
        ),
        "SeedSelectLoadPocketModel": (shown | {"opt": ("SeedSelectLoadPocketModel", {})}, "opt"),
        "SeedSelectLoadOpenClip": (shown | {"opt": ("SeedSelectLoadOpenClip", {})}, "opt"),
    }


def pools(info: dict) -> dict[tuple[str, str], list]:
    """For every input of every node of this pack the values that are tried."""
    found = {}
    for kind in sorted(key for key in info if key.startswith("SeedSelect")):
        given = info[kind]["input"]
        for section in ("required", "optional"):
            for name, (sort, *more) in given.get(section, {}).items():
                found[kind, name] = pool(sort, more[0] if more else {}, info)
        found[kind, "no such input"] = [5, None, ["model", 0]]
    return found


def pool(sort, options: dict, info: dict) -> list:
    """Values at and past the bounds of one input, of its own kind and of others."""
    bounds = [options[key] for key in ("min", "max", "default") if key in options]
    if sort == "INT":
        return [*bounds, *(b + step for b in bounds for step in (-1, 1)), *WHOLE, MISSING]
    if sort == "FLOAT":
        return [*bounds, *(b + step for b in bounds for step in (-0.001, 0.001)), *REAL, MISSING]
    if isinstance(sort, list) or sort == "COMBO":
        options = sort if isinstance(sort, list) else options["options"]
        return [*options[:4], *options[-4:], *TEXT, MISSING]
    if sort in ("STRING", "COLOR", "BOOLEAN"):
        return [*bounds, *TEXT, MISSING]
    values = info["ChaosValue"]["input"]["required"]["value"][0]
    listed = [("ChaosList", name) for name in LINKS if name in sort.split(",")]
    return [*SOCKET, *(("ChaosValue", value) for value in values), *listed, MISSING]


def number_of_inputs(found: dict[tuple[str, str], list]) -> Callable[[int], list]:
    """Item n as changes of one input, (node, input, value): each value once, then pairs of them."""
    order = random.Random("inputs")
    singles = [(kind, name, value) for (kind, name), values in found.items() for value in values]
    order.shuffle(singles)

    def item(n: int) -> list:
        if n < len(singles):
            return [singles[n]]
        rng = random.Random(f"inputs {n}")
        kind = rng.choice(singles)[0]
        return rng.sample([one for one in singles if one[0] == kind], 2)

    return item


def inputs(start: int, stop: int, running: Live | None = None) -> Iterator[Found]:
    """API inputs at and past their bounds, of every node."""
    with live(running) as running:
        item = number_of_inputs(pools(running.info))
        for n in range(start, stop):
            changes = item(n)
            words = "; ".join(f"{k}.{name} = {ascii(value)[:50]}" for k, name, value in changes)
            yield told(running, words, running.run(_changed(running, changes)))


def _changed(running: Live, changes: list) -> dict:
    """A prompt that works, but for some inputs of one node."""
    nodes, key = bases()[changes[0][0]]
    prompt = running.complete(pocket() | nodes)
    given = prompt[key]["inputs"]
    for number, (_, name, value) in enumerate(changes):
        if value == MISSING:
            given.pop(name, None)
        elif isinstance(value, tuple):
            maker, argument = value
            link = {"value": argument} if maker == "ChaosValue" else {"image": LINKS["IMAGE"]}
            prompt[f"hostile {number}"] = {"class_type": maker, "inputs": link}
            given[name] = [f"hostile {number}", 0]
        else:
            given[name] = value
    return prompt


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


ENDLESS = {"iterations": 10_000, "target": 0.0}


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
            changes = {"iterations": rng.choice([4, 12, 40]), "candidates": rng.choice([1, 3])}
            changes["views"] = rng.choice([1, 2])
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
    if fresh and ended.was == "accepted":
        found.faults.add("growth")
        found.what += f" it ended well and left {fresh[0].name}"
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
        fresh: the seed files that were not there before.
        grace: seconds that a better seed may have had no time to be written.
    """
    due = [time_of for time_of, _ in ended.told if time_of <= ended.ended - grace]
    if not due:
        return None
    enough = {f"{loss:.4f}" for _, loss in ended.told[max(0, len(due) - 2) :]}
    kept = {path: likeness(path) for path in fresh}
    if any(loss is not None and f"{loss:.4f}" in enough for loss in kept.values()):
        return None
    if any(loss is not None and path.stat().st_mtime >= due[-1] for path, loss in kept.items()):
        return None
    return f"told of {ended.told[len(due) - 1][1]}, kept {[str(v)[:7] for v in kept.values()]}"


def likeness(path: Path) -> float | None:
    """Mean semantic loss of the seeds in a file; None where it is none."""
    try:
        with safe_open(path, framework="np") as file:
            losses = json.loads(file.metadata()["seedselect"])["semantic"]
        return sum(losses) / len(losses)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _not_offered(running: Live, fresh: list[Path]) -> str | None:
    """Says so where Load Seed does not offer what was kept in the output folder."""
    offered = " ".join(running.offered())
    output = running.base / "output"
    kept = [path for path in fresh if path.is_relative_to(output)]
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
        "advanced": (advanced, {"iterations": 2 + user, "views": 1 + user}),
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


# ---------------------------------------------------------------- damaged graphs


def graphs(start: int, stop: int, running: Live | None = None) -> Iterator[Found]:
    """Graphs of the workflows that ship, with nodes and links missing, crossed or made up."""
    with live(running) as running:
        whole = [
            shipped(path, running) for path in sorted((REPO / "workflows").glob("pocket*.json"))
        ]
        for n in range(start, stop):
            rng = random.Random(f"graphs {n}")
            prompt = json.loads(json.dumps(rng.choice(whole)))
            done = [rng.choice(HARM) for _ in range(rng.choice([1, 1, 2, 3]))]
            for harm in done:
                with contextlib.suppress(*SENSELESS):
                    harm(rng, prompt)
            words = " ".join(harm.__name__.strip("_") for harm in done)
            yield told(running, words, running.run(prompt))


# What harm raises where nothing is left that it could be done to.
SENSELESS = (LookupError, TypeError, ValueError, AttributeError, StopIteration)
SHORTENED = {"steps": 2, "iterations": 1, "candidates": 1, "count": 2, "views": 1, "points": 2}


def shipped(path: Path, running: Live) -> dict:
    """The API prompt of a workflow, made short."""
    prompt = to_api(json.loads(path.read_text(encoding="utf-8")), running.info)
    for node in prompt.values():
        given = node["inputs"]
        given |= {name: value for name, value in SHORTENED.items() if name in given}
        if "preset" in given:
            given["preset"] = "quick"
    return prompt


def _node(rng: random.Random, prompt: dict) -> dict:
    return prompt[rng.choice(sorted(prompt))]


def _links(prompt: dict) -> list[tuple[dict, str]]:
    found = [(node["inputs"], name) for node in prompt.values() for name in node["inputs"]]
    return [(given, name) for given, name in found if isinstance(given[name], list)]


def _drop_node(rng, prompt):
    del prompt[rng.choice(sorted(prompt))]


def _drop_input(rng, prompt):
    given = _node(rng, prompt)["inputs"]
    if given:
        del given[rng.choice(sorted(given))]


def _drop_inputs(rng, prompt):
    _node(rng, prompt)["inputs"] = {}


def _no_inputs(rng, prompt):
    del _node(rng, prompt)["inputs"]


def _cross(rng, prompt):
    (one, a), (other, b) = rng.sample(_links(prompt), 2)
    one[a], other[b] = other[b], one[a]


def _another_output(rng, prompt):
    given, name = rng.choice(_links(prompt))
    given[name] = [given[name][0], rng.choice([-1, 1, 2, 3, 99, 2**70, "0", None, 1.5])]


def _another_source(rng, prompt):
    given, name = rng.choice(_links(prompt))
    given[name] = [rng.choice([*prompt, "nobody", "\ud800", 5, None]), 0]


def _wrong_link(rng, prompt):
    given, name = rng.choice(_links(prompt))
    given[name] = rng.choice([[], ["1"], ["1", 0, 0], [["1", 0]], {}, None, "1", 5])


def _cycle(rng, prompt):
    key = rng.choice(sorted(prompt))
    given = prompt[key]["inputs"]
    given[rng.choice(sorted(given))] = [key, 0]


def _another_class(rng, prompt):
    classes = sorted({node["class_type"] for node in prompt.values()})
    _node(rng, prompt)["class_type"] = rng.choice([*classes, "Nothing", "", None, 5, "\ud800"])


def _hostile_value(rng, prompt):
    given = _node(rng, prompt)["inputs"]
    given[rng.choice(sorted(given))] = rng.choice([*TEXT, *WHOLE, *REAL])


def _loop_through_two(rng, prompt):
    given, name = rng.choice(_links(prompt))
    source = prompt[given[name][0]]["inputs"]
    key = next(key for key, node in prompt.items() if node["inputs"] is given)
    source[rng.choice([*sorted(source), "images"])] = [key, 0]


HARM = (
    *(_drop_node, _drop_input, _drop_inputs, _no_inputs, _cross, _cross, _another_output),
    *(_another_source, _wrong_link, _cycle, _another_class, _hostile_value, _loop_through_two),
)
