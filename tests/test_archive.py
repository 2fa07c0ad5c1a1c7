"""What the registry's archive holds is what runs: tried in a real server, installed from a copy."""

import ast
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

import archive
import host
from api_workflow import changed, find, to_api
from archive import FOLDER
from comfy_client import ComfyClient
from conftest import HOST, REPO
from host_install import Host
from seedselect_core.hands import TOYS
from test_server import OURS, WORKFLOWS

LARGEST = 20_000_000  # bytes of the archive, for each toy model in it
TOP = {"LICENSE", "README.md", "__init__.py", "pyproject.toml"}
TOP |= {"docs", "locales", "nodes", "pocket", "seedselect_core", "subgraphs", "web", "workflows"}


@pytest.fixture(scope="module")
def shipped(tracked) -> list[str]:
    return archive.shipped()


@pytest.fixture(scope="module")
def server(shipped, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    pack = archive.unpack(base / "custom_nodes" / FOLDER)
    real = Host(HOST, Path(sys.executable), managed=False)
    with host.server(["--cpu"], base_directory=base, host=real, pack=pack) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return ComfyClient(server.url)


def imports(path: str) -> Iterator[str]:
    """Files of the pack that a file of it imports; every import within it is relative."""
    place = PurePosixPath(path)
    for node in ast.walk(ast.parse((REPO / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = place.parents[node.level - 1]
            module = base.joinpath(*(node.module or "").split("."))
            for name in (module, *(module / alias.name for alias in node.names)):
                yield f"{name}.py"
                yield str(name / "__init__.py")
                yield from (str(parent / "__init__.py") for parent in name.parents)


def used(start: str, among: set[str]) -> set[str]:
    """The files that are imported when ``start`` is, itself included."""
    found = set()
    waiting = {start}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= (set(imports(path)) & among) - found
    return found


def test_it_is_small(shipped):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in shipped:
            file.write(REPO / path, path)
    assert len(packed.getvalue()) <= LARGEST * len(TOYS)


def test_nothing_lies_beside_what_runs(shipped):
    assert {PurePosixPath(path).parts[0] for path in shipped} == TOP
    assert {path for path in shipped if path.startswith("docs/")} == {
        "docs/coverage.json",
        "docs/hosts.json",
    }


def test_it_holds_the_code_that_is_imported_and_no_other(shipped, tracked):
    code = {path for path in shipped if path.endswith(".py")}
    assert used("__init__.py", tracked) == code


def test_every_node_and_its_page_are_there(client):
    nodes = client.get("object_info")
    ours = {key for key, info in nodes.items() if info["python_module"] == f"custom_nodes.{FOLDER}"}
    assert ours == OURS
    for key in ours:
        page = client.get_bytes(f"extensions/{FOLDER}/docs/{key}.md").decode()
        assert page.startswith(f"# {nodes[key]['display_name']}\n")
    assert sorted(client.get("workflow_templates")[FOLDER]) == WORKFLOWS
    blueprints = client.get("global_subgraphs").values()
    assert {b["name"] for b in blueprints if FOLDER in b["info"]["node_pack"]} == {"Find a seed"}


def test_the_toy_model_draws_and_nothing_of_it_is_doubted(client, server):
    graph = json.loads((REPO / "workflows/pocket_demo.json").read_text(encoding="utf-8"))
    prompt = to_api(graph, client.get("object_info"))
    node = find(prompt, "SeedSelectOptimize")
    info = client.get("object_info/SeedSelectOptimize")["SeedSelectOptimize"]
    changes = {"preset": "custom", "iterations": 1, "first_draws": 1}
    prompt[node]["inputs"] = changed(info, prompt[node]["inputs"], changes)
    prompt[find(prompt, "EmptyLatentImage")]["inputs"]["batch_size"] = 1
    result = client.run(prompt)
    assert result.status == "success", result.error
    for title in ("Before", "After"):
        assert len(result.images(find(prompt, "SaveImage", title))) == 1
    # An older or newer host may be doubted, but neither its sampler nor our model.
    log = server.log_path.read_text(encoding="utf-8", errors="replace")
    assert "sampler 'ddim'" not in log and "model family" not in log
