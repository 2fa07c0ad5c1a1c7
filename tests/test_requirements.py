"""A host that is too old is told so in one sentence, before anything of it is imported."""

import ast
import importlib.util
import logging
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from seedselect_core import requirements

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "found", [requirements.COMFYUI, "0.100.0", "1.0", "v0.99.0-rc1", "nightly"]
)
def test_newer_ones_and_forks_pass(found):
    assert requirements.refusal(found) is None


@pytest.mark.parametrize("found", ["0.3.64", "0.9.2", "0", None])
def test_an_older_one_is_told_both_versions(found):
    sentence = requirements.refusal(found)
    assert requirements.COMFYUI in sentence and (found or "does not tell") in sentence
    assert "\n" not in sentence


def test_the_registry_is_told_the_same_version():
    project = (REPO / "pyproject.toml").read_text("utf-8")
    (told,) = re.findall(r'^requires-comfyui = ">=(.+)"$', project, re.MULTILINE)
    assert told == requirements.COMFYUI


def test_only_the_standard_library_is_imported_before_the_answer():
    tree = ast.parse(Path(requirements.__file__).read_text("utf-8"))
    modules = {name.name for node in ast.walk(tree) for name in getattr(node, "names", [])}
    assert modules <= sys.stdlib_module_names


def load_pack(monkeypatch, version: str) -> types.ModuleType:
    """The pack as the host loads it, in a host of another version."""
    monkeypatch.setitem(sys.modules, "comfyui_version", types.SimpleNamespace(__version__=version))
    name = "seedselect_pack_as_loaded"
    spec = importlib.util.spec_from_file_location(name, REPO / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, pack)
    spec.loader.exec_module(pack)
    for loaded in [key for key in sys.modules if key.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    return pack


def test_a_host_that_is_too_old_gets_a_line_and_no_node(monkeypatch, caplog):
    with caplog.at_level(logging.WARNING):
        pack = load_pack(monkeypatch, "0.3.64")
    assert pack.NODE_CLASS_MAPPINGS == {}
    assert not hasattr(pack, "comfy_entrypoint") and not hasattr(pack, "WEB_DIRECTORY")
    assert [record.getMessage() for record in caplog.records] == [requirements.refusal("0.3.64")]


def test_any_other_gets_the_nodes(monkeypatch):
    pack = load_pack(monkeypatch, requirements.COMFYUI)
    assert callable(pack.comfy_entrypoint) and (REPO / pack.WEB_DIRECTORY / "docs").is_dir()
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")


def test_nothing_of_the_host_is_imported_where_it_is_too_old(tmp_path):
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.1.0"')
    code = (
        "import importlib.util as u, sys; sys.path.insert(0, sys.argv[2])\n"
        "spec = u.spec_from_file_location('pack', sys.argv[1])\n"
        "pack = sys.modules['pack'] = u.module_from_spec(spec); spec.loader.exec_module(pack)\n"
        "print(sorted({'torch', 'comfy', 'nodes', 'comfy_api'} & {*sys.modules}))"
    )
    command = [sys.executable, "-c", code, str(REPO / "__init__.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]"
    assert done.stderr.strip() == "WARNING:root:" + requirements.refusal("0.1.0")
