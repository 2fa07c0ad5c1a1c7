"""Convert a saved workflow to the API format that ComfyUI's /prompt takes.

usage: python scripts/api_workflow.py workflows/pocket_demo.json http://127.0.0.1:8188 > api.json

A saved workflow holds what one sees: nodes, links, and the values of the widgets in order, without
their names. The names come from the running server's /object_info. The result is what the web
page's own "Export (API)" writes. Subgraphs are not supported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from comfy_client import ComfyClient

CHOICE = "COMFY_DYNAMICCOMBO_V3"
# A widget that only shows pictures: the page saves nothing for it, and sends that there are none.
COMPARED = "IMAGECOMPARE"
NO_PICTURES = {"__value__": ["", ""]}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", CHOICE)
SEEDS = ("seed", "noise_seed")
MUTED = 2
BYPASSED = 4
NOTES = ("Note", "MarkdownNote")
REROUTE = "Reroute"


def to_api(graph: dict, object_info: dict) -> dict:
    """The API prompt of a saved workflow.

    Args:
        graph: saved by the web page, format 0.4: `nodes`, and `links` as lists of six.
        object_info: what the server's /object_info returns.

    Returns:
        Node id to {"class_type", "inputs", "_meta"}.

    Raises:
        ValueError: the graph holds a subgraph, or a node that the server does not know.
    """
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = {link[0]: link for link in graph["links"]}
    return {
        str(node["id"]): {
            "inputs": _widget_values(node, object_info) | _connections(node, nodes, links),
            "class_type": node["type"],
            "_meta": {"title": node.get("title") or _display_name(node, object_info)},
        }
        for node in graph["nodes"]
        if _is_executed(node)
    }


def complete(info: dict, given: dict) -> dict:
    """The inputs of a node in an API prompt: what is given, and all other widgets at their default.

    Args:
        info: of the node, from the server's /object_info.
        given: values and links by the names of inputs. What a choice brings along goes by its own
            name alone ("iterations"), and names the choice where that is not given.
    """
    values = _complete(info["input"], given)
    known = {name.rpartition(".")[2] for name in values}
    return {name: value for name, value in given.items() if name not in known} | values


def changed(info: dict, inputs: dict, changes: dict) -> dict:
    """Inputs of a node in an API prompt with other values; the names are those of `complete`."""
    flat = {name.rpartition(".")[2]: value for name, value in inputs.items()}
    return complete(info, flat | changes)


def _literal(value):
    """A value as an API prompt holds it, where a list would be a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _complete(inputs: dict, given: dict, prefix: str = "") -> dict:
    values = {}
    for section in ("required", "optional"):
        for name, (kind, *options) in inputs.get(section, {}).items():
            options = options[0] if options else {}
            if kind == CHOICE:
                values |= _completed_choice(prefix + name, options["options"], given)
            elif name in given:
                values[prefix + name] = given[name]
            elif section == "required" and "default" in options:
                values[prefix + name] = _literal(options["default"])
            elif section == "required" and isinstance(kind, list) and kind:
                values[prefix + name] = kind[0]
            elif section == "required" and options.get("options"):
                values[prefix + name] = options["options"][0]
    return values


def _completed_choice(name: str, options: list[dict], given: dict) -> dict:
    asked = [each for each in options if _names(each["inputs"]) & given.keys()]
    key = given.get(name.rpartition(".")[2], [*asked, *options][0]["key"])
    values = {name: key}
    for chosen in options:
        if chosen["key"] == key:
            values |= _complete(chosen["inputs"], given, f"{name}.")
    return values


def _names(inputs: dict) -> set[str]:
    """Of these inputs and of all that choices among them may bring along."""
    found = set()
    for section in ("required", "optional"):
        for name, (kind, *options) in inputs.get(section, {}).items():
            found.add(name)
            for each in options[0]["options"] if kind == CHOICE else ():
                found |= _names(each["inputs"])
    return found


def find(prompt: dict, class_type: str, title: str | None = None) -> str:
    """The id of the only node of a type (and of a title) in an API prompt; ValueError otherwise."""
    found = [
        key
        for key, node in prompt.items()
        if node["class_type"] == class_type and title in (None, node["_meta"]["title"])
    ]
    if len(found) != 1:
        raise ValueError(f"the workflow has {len(found)} nodes {class_type} {title or ''}, not one")
    return found[0]


def _is_executed(node: dict) -> bool:
    return node["type"] not in (*NOTES, REROUTE) and node.get("mode", 0) not in (MUTED, BYPASSED)


def _info(node: dict, object_info: dict) -> dict:
    if node["type"] not in object_info:
        raise ValueError(f"node {node['id']} is a {node['type']}, which the server does not know")
    return object_info[node["type"]]


def _display_name(node: dict, object_info: dict) -> str:
    info = _info(node, object_info)
    return info["display_name"] or info["name"]


def _widget_values(node: dict, object_info: dict) -> dict:
    info = _info(node, object_info)
    return _named(info["input"], iter(node.get("widgets_values") or []))


def _named(inputs: dict, values: Iterator, prefix: str = "") -> dict:
    """The next values by the names of the widgets that these inputs have."""
    named = {}
    for section in ("required", "optional"):
        for name, (kind, *options) in inputs.get(section, {}).items():
            options = options[0] if options else {}
            if kind == COMPARED:
                named[prefix + name] = NO_PICTURES
            if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
                continue
            # A workflow saved before the node got an input lacks its value.
            value = next(values, options.get("default"))
            # Several files that were uploaded; a bare list would be a link.
            named[prefix + name] = _literal(value)
            # The page adds a widget of its own: fixed, increment, decrement or randomize.
            if options.get("control_after_generate", kind == "INT" and name in SEEDS):
                next(values, None)
            if kind == CHOICE:
                chosen = next(each for each in options["options"] if each["key"] == value)
                named |= _named(chosen["inputs"], values, f"{prefix}{name}.")
    return named


def _connections(node: dict, nodes: dict, links: dict) -> dict:
    sources = {
        slot["name"]: _source(slot["link"], nodes, links)
        for slot in node.get("inputs", [])
        if slot.get("link") is not None
    }
    return {name: source for name, source in sources.items() if source is not None}


def _source(link_id: int, nodes: dict, links: dict) -> list | None:
    """[node id, output] behind a link, through reroutes and bypassed nodes; None if muted."""
    _, origin, slot, *_ = links[link_id]
    node = nodes[origin]
    if _is_executed(node):
        return [str(origin), slot]
    if node.get("mode", 0) == MUTED:
        return None
    passed = node["inputs"][0]["link"] if node["type"] == REROUTE else _bypass(node, slot)
    return None if passed is None else _source(passed, nodes, links)


def _bypass(node: dict, slot: int) -> int | None:
    """The link that a bypassed node hands on: of an input of the output's type, if any."""
    kind = node["outputs"][slot]["type"]
    inputs = node["inputs"]
    # The one across the output first, then the others from the top.
    candidates = [*inputs[slot : slot + 1], *inputs]
    return next((i["link"] for i in candidates if i["type"] == kind), None)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    graph = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    prompt = to_api(graph, ComfyClient(arguments[1]).get("object_info"))
    print(json.dumps(prompt, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
