"""Convert a saved workflow to the API format that ComfyUI's /prompt takes.

usage: python scripts/api_workflow.py workflows/pocket_demo.json http://127.0.0.1:8188 > api.json

A saved workflow holds what one sees: nodes, links, and the values of the widgets in order, without
their names. The names come from the running server's /object_info. The result is what the web
page's own "Export (API)" writes. Subgraphs are not supported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comfy_client import ComfyClient

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR")
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
    values = iter(node.get("widgets_values") or [])
    named = {}
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *options = info["input"][section][name]
            options = options[0] if options else {}
            if not (isinstance(kind, list) or kind in WIDGETS) or options.get("forceInput"):
                continue
            # A workflow saved before the node got an input lacks its value.
            named[name] = next(values, options.get("default"))
            # The page adds a widget of its own: fixed, increment, decrement or randomize.
            if options.get("control_after_generate", kind == "INT" and name in SEEDS):
                next(values, None)
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
