"""What saved graphs depend on: each node's id, its inputs in their order, and its outputs.

A graph holds the values of widgets by their position, and links by the number of an output. Both
are kept in data/schemas.json, so that nobody changes them without meaning to.
"""

import asyncio
import json

import comfy.samplers
import folder_paths
import pytest

from conftest import REPO
from seedselect_core.chain.inversion import INVERTIBLE
from seedselect_core.host.samplers import BATCH_INDEPENDENT, REFUSED
from test_server import OURS

KEPT = REPO / "tests" / "data" / "schemas.json"
REMEDY = (
    "What saved graphs depend on has changed (see the top of this file). If it is meant, write it "
    "anew: python3 scripts/host.py test tests/test_schemas.py --write-schemas"
)
# Of an input's description, what decides on the value of a widget or on its place.
TOLD = ("default", "min", "max", "step", "multiline", "control_after_generate", "socketless")
SAMPLERS = set(comfy.samplers.SAMPLER_NAMES)
SCHEDULERS = set(comfy.samplers.SCHEDULER_NAMES)
# The first that an input's options hold in full is named in their place.
LISTS_OF_THE_HOST = {
    "<samplers of the host>": SAMPLERS - set(REFUSED),
    "<samplers of the host that draw each picture alone>": SAMPLERS & set(BATCH_INDEPENDENT),
    "<schedulers of the host>": SCHEDULERS,
}


# Words that an artist may search for, and what is to be found.
WORDS = {
    "unsampler": "SeedSelectInvertImage",
    "seed travel": "SeedSelectInterpolateSeeds",
    "variation seed": "SeedSelectSeedVariation",
    "save noise": "SeedSelectSaveSeed",
    "best of n": "SeedSelectOptimize",
}


@pytest.fixture
def infos(nodes, tmp_path, monkeypatch) -> list[dict]:
    """What a host whose folders are empty tells its page of the nodes."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", ([], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    extension = asyncio.run(nodes("extension").comfy_entrypoint())
    return [node.GET_NODE_INFO_V1() for node in asyncio.run(extension.get_node_list())]


@pytest.fixture
def found(infos) -> dict[str, dict]:
    return {info["name"]: schema(info) for info in infos}


def schema(info: dict) -> dict:
    """Of what the host tells its page of a node, what graphs depend on."""
    outputs = zip(info["output_name"], info["output"], info["output_is_list"], strict=True)
    return {
        "inputs": described(info["input"]),
        "outputs": [
            {"name": name, "type": kind} | ({"list": True} if many else {})
            for name, kind, many in outputs
        ],
    }


def described(inputs: dict) -> list[dict]:
    """Inputs in the order in which the page shows them, with those that a choice brings along."""
    rows = []
    for section in ("required", "optional"):
        for name, (kind, *more) in inputs.get(section, {}).items():
            told = more[0] if more else {}
            row = {"name": name, "type": kind} | ({"optional": True} if section[0] == "o" else {})
            row |= {key: told[key] for key in TOLD if key in told}
            if "options" in told:
                row["options"] = choices(told["options"])
            rows.append(row)
    return rows


def choices(options: list) -> list:
    """Those of our own; a list of the host's is named instead."""
    if options and isinstance(options[0], dict):
        return [{"key": each["key"], "inputs": described(each["inputs"])} for each in options]
    for name, names in LISTS_OF_THE_HOST.items():
        if names <= set(options):
            return [*(option for option in options if option not in SAMPLERS | SCHEDULERS), name]
    return options


def written(schemas: dict[str, dict]) -> str:
    """As JSON with an input or output on each line."""
    blocks = []
    for name, parts in schemas.items():
        lists = []
        for part, rows in parts.items():
            lines = ",\n".join(f"      {json.dumps(row)}" for row in rows)
            lists.append(f'    "{part}": [\n{lines}\n    ]' if rows else f'    "{part}": []')
        blocks.append(f'  "{name}": {{\n' + ",\n".join(lists) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def test_saved_graphs_mean_what_they_meant(found, request):
    if request.config.getoption("--write-schemas"):
        KEPT.write_text(written(found), encoding="utf-8")
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    assert set(found) == OURS
    assert set(found) == set(kept), REMEDY
    for name, parts in kept.items():
        for part, rows in parts.items():
            assert found[name][part] == rows, f"{name}, {part}: {REMEDY}"


def test_what_is_written_is_what_is_read(found):
    assert json.loads(written(found)) == found


def test_no_list_of_the_host_is_kept():
    text = KEPT.read_text(encoding="utf-8")
    kept = {name for name in SAMPLERS | SCHEDULERS if f'"{name}"' in text}
    assert kept == {*INVERTIBLE, "normal"}  # a list of our own, and the default of schedulers


def test_nodes_are_found_by_the_words_of_artists(infos):
    aliases = {info["name"]: info["search_aliases"] for info in infos}
    assert [word for word, name in WORDS.items() if word not in aliases[name]] == []
    assert all("seedselect" in words for words in aliases.values())
