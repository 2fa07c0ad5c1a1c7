"""The graph around a node: kept in what it saves, and what it says of where a seed comes from."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import folder_paths
from comfy.cli_args import args
from comfy_api.latest import io
from comfy_execution.graph_utils import is_link
from server import PromptServer

import nodes

from ..seedselect_core.seeds.origin import Origin
from ..seedselect_core.seeds.schema import LONGEST_NAME, MOST_NAMES
from ..seedselect_core.seeds.seed import Seed
from ..seedselect_core.text import printable

# What these functions read of a node.
HIDDEN = (io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo)
MODEL_FILES = ("ckpt_name", "unet_name")  # inputs of the loaders, the host's and of other packs
PROMPTS = ("positive", "negative", "conditioning")
WEIGHTS = (*folder_paths.supported_pt_extensions, ".gguf")
RECORD = "seedselect_noise"


def metadata(hidden) -> dict[str, str]:
    """Prompt and workflow as the host's own savers keep them; nothing with --disable-metadata."""
    if args.disable_metadata:
        return {}
    graph = {"prompt": hidden.prompt} if hidden.prompt else {}
    # A key that is not printable could not be written.
    graph |= {key: value for key, value in _shared(hidden).items() if key.isprintable()}
    return {key: json.dumps(value) for key, value in graph.items()}


def encoder_for(hidden) -> Callable[[Seed], bytes]:
    """Gives the bytes of a seed's file, with the graph of the node in it."""
    return lambda seed: with_origin(seed, hidden).encoded(metadata(hidden))


def with_origin(seed: Seed, hidden) -> Seed:
    """``seed`` with what the graph tells of where it comes from, if it does not know already.

    That is metadata too: nothing with --disable-metadata.
    """
    if args.disable_metadata or seed.origin.model or seed.origin.prompt:
        return seed
    prompt = hidden.prompt or {}
    # What saves a seed has it from the node that found it.
    found_by = _linked(prompt, [hidden.unique_id], ("seed",)) or [hidden.unique_id]
    return replace(seed, origin=seed.origin.or_else(origin_of(prompt, found_by)))


def record(hidden, seed: Seed) -> None:
    """Tell the nodes that save pictures in this run what they were drawn from, in a few words."""
    told = {
        "noise": hashlib.sha256(seed.noise.numpy().tobytes()).hexdigest(),
        "settings": seed.sampling.describe(),
        "number": seed.sampling.seed,
    }
    shared = _shared(hidden)
    earlier = shared.get(RECORD)
    shared[RECORD] = (earlier if isinstance(earlier, dict) else {}) | {hidden.unique_id: told}


def _shared(hidden) -> dict:
    """What the host hands to all nodes of a run for the files that they save.

    Nothing over the API, unless a client gives it; the host lets that be anything.
    """
    return hidden.extra_pnginfo if isinstance(hidden.extra_pnginfo, dict) else {}


def tell_differences(seed: Seed, hidden, users: list[str]) -> None:
    """Say in the node, and in the log, what ``users`` of ``seed`` do not have as it was found with.

    Args:
        users: ids of the nodes that sample it.
    """
    told = seed.origin.differences(origin_of(hidden.prompt or {}, users))
    if told:
        text = " ".join(["The seed was found with something else:", *told])
        logging.warning("SeedSelect: %s", printable(text))
        PromptServer.instance.send_progress_text(printable(text), hidden.unique_id)


def takers(prompt: dict, node: str) -> list[str]:
    """Nodes that an output of ``node`` goes to."""
    return [
        key
        for key, other in prompt.items()
        if any(is_link(value) and value[0] == node for value in other.get("inputs", {}).values())
    ]


def origin_of(prompt: dict, ends: list[str]) -> Origin:
    """What an API prompt says of the models and texts that its nodes ``ends`` hang on."""
    above = _above(prompt, ends)
    conditions = _above(prompt, _linked(prompt, above, PROMPTS))
    encoders = _above(prompt, _linked(prompt, above, ("clip_vision",)))
    texts = [
        v for node in conditions for k, v in _values(prompt, node) if _is_text(prompt, node, k)
    ]
    models = [v for node in above for k, v in _values(prompt, node) if k in MODEL_FILES]
    loras = [v for node in above for k, v in _weights(prompt, node) if k.startswith("lora")]
    seen = [v for node in encoders for _, v in _weights(prompt, node)]
    return Origin(
        model=_named(", ".join(dict.fromkeys(models))),
        loras=tuple(map(_named, loras[:MOST_NAMES])),
        encoder=_named(seen[0]) if seen else "",
        prompt=hashlib.sha256(json.dumps(texts).encode()).hexdigest() if texts else "",
    )


def _named(file: str) -> str:
    return printable(file.replace("\\", "/"), LONGEST_NAME)


def _above(prompt: dict, ends: list[str]) -> list[str]:
    """``ends`` and all that they hang on, each after what it hangs on."""
    found: list[str] = []
    waiting = [(node, False) for node in reversed(ends)]
    seen = set()
    while waiting:
        node, visited = waiting.pop()
        if visited:
            found.append(node)
        elif node in prompt and node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(other, False) for other in reversed(_linked(prompt, [node]))]
    return found


def _linked(prompt: dict, ends: list[str], names: tuple[str, ...] | None = None) -> list[str]:
    """Nodes that inputs of ``ends`` come from, in the order of the inputs' names."""
    return [
        value[0]
        for node in ends
        for name, value in sorted(prompt.get(node, {}).get("inputs", {}).items())
        if is_link(value) and (names is None or name in names)
    ]


def _values(prompt: dict, node: str) -> Iterator[tuple[str, str]]:
    """Inputs of a node that hold a text, in the order of their names."""
    for name, value in sorted(prompt[node].get("inputs", {}).items()):
        if isinstance(value, str):
            yield name, value


def _weights(prompt: dict, node: str) -> Iterator[tuple[str, str]]:
    """Those that name a file of weights."""
    return (item for item in _values(prompt, node) if item[1].endswith(WEIGHTS))


def _is_text(prompt: dict, node: str, name: str) -> bool:
    """Whether an input takes any text, and not one of a list."""
    try:
        given = nodes.NODE_CLASS_MAPPINGS[prompt[node]["class_type"]].INPUT_TYPES()
        kinds = {**given.get("required", {}), **given.get("optional", {})}
        return kinds[name][0] == "STRING"
    except Exception:  # of a node of another pack
        return False
