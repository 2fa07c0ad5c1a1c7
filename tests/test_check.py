"""scripts/check.py: what it makes of others' reports, and what it makes ready for them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import check


def guard(**rows) -> dict:
    """A report of comfy-import-guard of one pack."""
    kinds = ("breaking", "soft", "unresolvable", "signature_drift", "unparseable")
    return {"packs": [{kind: [] for kind in kinds} | rows]}


def missing(name: str) -> dict:
    return {"file": "nodes/a.py", "line": 3, "dotted": name, "detail": ""}


def faults(findings) -> list[str]:
    return [found.text for found in findings if not found.harmless]


def test_a_name_that_the_host_lacks_is_a_fault_unless_it_is_known_to_be_newer():
    (known, *_) = check.NEWER
    report = guard(breaking=[missing(known), missing("comfy.gone")])
    assert faults(check.of_import_guard(report)) == ["nodes/a.py:3: comfy.gone: breaking"]
    drift = guard(signature_drift=[missing("comfy.moved")])
    assert faults(check.of_import_guard(drift)) == ["nodes/a.py:3: comfy.moved: signature_drift"]


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (
            "'a' expects CLIP_VISION,IMAGE_ENCODER but node 2 output #0 (B) produces CLIP_VISION",
            False,
        ),
        ("'a' expects CLIP_VISION,IMAGE_ENCODER but node 2 output #0 (B) produces VISION", True),
        ("'a' expects MODEL but node 2 output #0 (B) produces CLIP", True),
        ("missing required input 'a' (expects MODEL,CLIP)", True),
        ("{'__value__': []} is not a valid value for 'a'; allowed: b", False),
        ("{'__value__': ['c']} is not a valid value for 'a'; allowed: b", True),
    ],
)
def test_an_input_may_take_several_types_or_values(message, fault):
    row = {"class_type": "Node", "field": "a", "message": message}
    report = {"files": [{"path": "x/graph.json", "diagnostics": [row]}], "unreadable": []}
    expected = [f"graph.json, Node.a: {message}"] if fault else []
    assert faults(check.of_lint(report)) == expected


def test_an_input_may_be_brought_along_by_a_choice():
    inner = {"key": "b", "inputs": {"required": {"deep": ["INT", {}]}}}
    choice = ["COMFY_DYNAMICCOMBO_V3", {"options": [inner]}]
    outer = {"key": "a", "inputs": {"required": {"size": ["INT", {}], "more": choice}}}
    inputs = {"required": {"mode": ["COMFY_DYNAMICCOMBO_V3", {"options": [outer]}]}}
    brought = check.brought_along({"Node": {"input": inputs}})
    assert brought == {"Node.mode.size", "Node.mode.more", "Node.mode.more.deep"}
    rows = [
        {"class_type": "Node", "field": field, "message": f"unknown input '{field}'"}
        for field in ("mode.size", "mode.more.deep", "mode.gone")
    ]
    report = {"files": [{"path": "graph.json", "diagnostics": rows}], "unreadable": []}
    assert faults(check.of_lint(report, brought)) == [
        "graph.json, Node.mode.gone: unknown input 'mode.gone'"
    ]


@pytest.mark.parametrize(
    ("title", "line", "fault"),
    [
        ("code_execution: pattern `compile(` matched", "A = re.compile('a')", False),
        ("code_execution: pattern `compile(` matched", "exec(compile(text, 'a', 'exec'))", True),
        ("code_execution: pattern `eval(` matched", "model.eval()", False),
        ("code_execution: pattern `eval(` matched", "eval(text)", True),
        ("obfuscation_chains: pattern `ord(` matched", "graph.record(hidden, seed)", False),
        ("obfuscation_chains: pattern `ord(` matched", "chr(ord(a) + 1)", True),
        ("exfiltration: pattern `discord.com/api` matched", "send('discord.com/api')", True),
    ],
)
def test_what_only_looks_dangerous_is_told_apart(title, line, fault):
    report = {"findings": [{"title": title, "snippet": line, "file": "a.py", "line": 1}]}
    assert bool(faults(check.of_nodesafe(report))) == fault


def program(folder: Path, code: str) -> check.Check:
    """A check whose tool is a short script."""
    path = folder / "tool.py"
    path.write_text(code)
    return check.Check("a tool", [[Path(sys.executable).name, str(path)]], check.of_nodesafe)


def test_a_tool_that_gives_no_report_has_not_passed(tmp_path, capsys):
    programs = Path(sys.executable.removesuffix(".exe")).parent
    silent = program(tmp_path, "import sys; print('crash'); sys.exit(3)")
    assert not check.run(silent, programs, tmp_path)
    assert "exit code 3" in capsys.readouterr().out
    clean = program(tmp_path, "print('{\"findings\": []}')")
    assert check.run(clean, programs, tmp_path)


def test_the_host_is_committed_as_it_is(tmp_path):
    comfyui = tmp_path / "host"
    for name in ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "models"):
        (comfyui / name).mkdir(parents=True)
        (comfyui / name / "a.py").write_text("x = 1")
    (comfyui / "nodes.py").write_text("y = 1")
    target = tmp_path / "ComfyUI"
    check.commit_source(comfyui, target)
    listed = ["git", "-C", str(target), "ls-tree", "-r", "--name-only", "HEAD"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert "nodes.py" in files and "comfy/a.py" in files and "models/a.py" not in files


def test_every_model_that_a_workflow_names_is_there(tmp_path):
    graph = json.loads((check.archive.REPO / "workflows/seedselect_sd15.json").read_text("utf-8"))
    check.name_models(graph, tmp_path)
    folders = {path.parent.name for path in tmp_path.rglob("*.safetensors")}
    assert folders == {"checkpoints", "clip_vision"}
