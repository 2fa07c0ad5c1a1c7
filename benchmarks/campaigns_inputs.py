"""The campaigns against a live server that give it wrong input: of every node, and whole graphs.

Item n of a campaign is made of the campaign's name and n alone.
"""

import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from campaigns_ledger import Found
from campaigns_live import (
    REPO,
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

from api_workflow import CHOICE, to_api

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
# In the place of a link; the host lets literals through.
SOCKET = (
    *(["nowhere", 0], ["pos", 9], ["pos", -1], 5, -1.5, True, None, "x\x1b\ud800", {}),
    {"__value__": [["a"]]},
)
# For sockets of a type, the hostile values of it, by words in their names; the host refuses a link
# of another type itself.
HOSTILE = {
    "IMAGE": ("image",),
    "LATENT": ("latent",),
    "CONDITIONING": ("condition",),
    "SIGMAS": ("step", "sigma"),
    "SEEDSELECT_SEED": ("nothing", "number", "text", "list", "dict"),
}
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
        "SeedSelectSaveImageWithSeed": (pocket() | sampled_and_saved(), "opt"),
        "SeedSelectPickSeeds": (of_seed("SeedSelectPickSeeds"), "opt"),
        "SeedSelectJoinSeeds": (of_seed("SeedSelectJoinSeeds", other_seed=["seed", 0]), "opt"),
        "SeedSelectResizeSeed": (of_seed("SeedSelectResizeSeed", width=128, height=64), "opt"),
        "SeedSelectSeedVariation": (of_seed("SeedSelectSeedVariation"), "opt"),
        "SeedSelectSeedToNoise": (pocket() | custom, "opt"),
        "SeedSelectSeedCentroid": (of_seed("SeedSelectSeedCentroid"), "opt"),
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
        "SeedSelectHandReferences": (shown | {"opt": ("SeedSelectHandReferences", {})}, "opt"),
        "SeedSelectLoadPocketModel": (shown | {"opt": ("SeedSelectLoadPocketModel", {})}, "opt"),
        "SeedSelectLoadOpenClip": (shown | {"opt": ("SeedSelectLoadOpenClip", {})}, "opt"),
    }


def of_seed(kind: str, **inputs) -> dict:
    """A node that makes a seed of a seed."""
    return {
        "seed": sampled()["seed"],
        "opt": (kind, {"seed": ["seed", 0]} | inputs),
        "end": ("PreviewAny", {"source": ["opt", 0]}),
    }


def sampled_and_saved() -> dict:
    nodes = sampled()
    nodes["sample"] = nodes.pop("opt")
    nodes["decoded"] = ("VAEDecode", {"samples": ["sample", 0], "vae": ["model", 2]})
    inputs = {"images": ["decoded", 0], "seed": ["seed", 0]}
    nodes["opt"] = ("SeedSelectSaveImageWithSeed", inputs)
    nodes["end"] = ("PreviewAny", {"source": ["sample", 0]})
    return nodes


def pools(info: dict) -> dict[tuple[str, str], list]:
    """For every input of every node of this pack the values that are tried."""
    found = {}
    for kind in sorted(key for key in info if key.startswith("SeedSelect")):
        for name, sort, options in _inputs(info[kind]["input"]):
            found[kind, name] = pool(sort, options, info)
        found[kind, "no such input"] = [5, None, ["model", 0]]
    return found


def _inputs(given: dict, prefix: str = "") -> Iterator[tuple]:
    """Full name, type and options of these inputs and of those that choices bring along."""
    for section in ("required", "optional"):
        for name, (sort, *more) in given.get(section, {}).items():
            options = more[0] if more else {}
            yield prefix + name, sort, options
            for option in options["options"] if sort == CHOICE else ():
                yield from _inputs(option["inputs"], f"{prefix}{name}.")


def pool(sort, options: dict, info: dict) -> list:
    """Values at and past the bounds of one input, of its own kind and of others."""
    bounds = [options[key] for key in ("min", "max", "default") if key in options]
    if sort == "INT":
        return [*bounds, *(b + step for b in bounds for step in (-1, 1)), *WHOLE, MISSING]
    if sort == "FLOAT":
        return [*bounds, *(b + step for b in bounds for step in (-0.001, 0.001)), *REAL, MISSING]
    if sort == CHOICE:
        return [*(option["key"] for option in options["options"]), *TEXT, MISSING]
    if isinstance(sort, list) or sort == "COMBO":
        options = sort if isinstance(sort, list) else options["options"]
        return [*options[:4], *options[-4:], *TEXT, MISSING]
    if sort in ("STRING", "COLOR", "BOOLEAN"):
        return [*bounds, *TEXT, MISSING]
    words = HOSTILE.get(sort, ())
    values = info["ChaosValue"]["input"]["required"]["value"][0]
    hostile = [("ChaosValue", v) for v in values if any(word in v for word in words)]
    listed = [("ChaosList", "pictures one by one")] if sort == "IMAGE" else []
    return [*SOCKET, *hostile, *listed, MISSING]


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
            link = {"value": argument} if maker == "ChaosValue" else {"image": ["letters", 0]}
            prompt[f"hostile {number}"] = {"class_type": maker, "inputs": link}
            given[name] = [f"hostile {number}", 0]
        else:
            given[name] = value
    return prompt


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
SHORTENED = {"steps": 2, "iterations": 1, "count": 2, "points": 2}


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
