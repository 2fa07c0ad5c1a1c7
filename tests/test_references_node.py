"""The node "Load Reference Set", in the host's own classes."""

import asyncio
import os
import tempfile
import types
from pathlib import Path

import folder_paths
import pytest
import torch
from PIL import Image

import tiny


def save(path: Path) -> None:
    Image.new("RGB", (6, 3), (255, 0, 0)).save(path)


@pytest.fixture
def load_node(nodes, tmp_path, monkeypatch):
    """The node on an input folder of ours."""
    import server

    module = nodes("references")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    texts = []
    screen = types.SimpleNamespace(send_progress_text=lambda text, node: texts.append(text))
    monkeypatch.setattr(server.PromptServer, "instance", screen, raising=False)
    (tmp_path / "input" / "letters" / "rare").mkdir(parents=True)
    save(tmp_path / "input" / "letters" / "rare" / "a.png")
    return module.LoadReferenceSet, tmp_path / "input", texts


def run_node(node, folder: str, **inputs):
    """One run, with defaults for whatever is not given."""
    defaults = {"pictures": "", "crop": "center", "background": "#FFFFFF", "limit": 5}
    defaults |= {"order": {"order": "name"}}
    return tiny.run_node(node, folder=folder, **(defaults | inputs))


def test_node_lists_folders_and_explains_every_input(load_node):
    node = load_node[0]
    schema = node.GET_SCHEMA()
    options = {i.id: i for i in schema.inputs}
    assert options["folder"].options == ["(none)", "(input)", "letters", "letters/rare"]
    assert all(i.tooltip for i in [*schema.inputs, *schema.outputs])


def test_node_loads_shows_and_warns(load_node, caplog):
    node, folder, texts = load_node
    (folder / "letters" / "rare" / "b.png").write_bytes(b"broken")
    more = torch.full((1, 8, 8, 3), 0.5)
    output = run_node(node, "letters/rare", images=more, crop="pad", background="#0000FF")
    references, preview = output.args
    assert references.names == ("a.png", "image 1")
    assert references.background == (0.0, 0.0, 1.0) and references.crop == "pad"
    assert preview.shape == (2, 512, 512, 3)
    assert len(output.ui["images"]) == 2
    assert output.ui["text"] == texts and "b.png" in texts[0] and "b.png" in caplog.text
    assert len(run_node(node, "(none)", images=more).args[0]) == 1
    with pytest.raises(ValueError, match="no references"):
        run_node(node, "(none)")


def test_node_runs_again_when_a_file_changes(load_node):
    node, folder, _ = load_node
    place = folder / "letters" / "rare"
    prints = [node.fingerprint_inputs(folder=["letters/rare"], seed=[0])]
    assert node.fingerprint_inputs(folder=["letters/rare"], seed=[0]) == prints[0]
    os.utime(place / "a.png", ns=(1, 1))
    prints.append(node.fingerprint_inputs(folder=["letters/rare"]))
    save(place / "b.png")
    prints.append(node.fingerprint_inputs(folder=["letters/rare"]))
    (place / "b.png").rename(place / "c.png")
    prints.append(node.fingerprint_inputs(folder=["letters/rare"]))
    (place / "c.png").unlink()
    prints.append(node.fingerprint_inputs(folder=["letters/rare"]))
    assert len(set(prints[:4])) == 4 and prints[4] == prints[1]
    assert node.fingerprint_inputs(folder=["(none)"]) == node.fingerprint_inputs(folder=["(none)"])


def test_node_runs_every_time_when_the_folder_comes_by_a_link(load_node, monkeypatch):
    """The host's own answer, which it compares with the one of the run before."""
    import execution
    from comfy_execution.graph import DynamicPrompt

    import nodes as host_nodes

    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "LoadRefs", load_node[0])

    def fingerprint(folder):
        prompt = {"1": {"class_type": "LoadRefs", "inputs": {"folder": folder, "seed": 0}}}
        return asyncio.run(execution.IsChangedCache("id", DynamicPrompt(prompt), None).get("1"))

    assert fingerprint(["0", 0]) != fingerprint(["0", 0])
    assert fingerprint("(none)") == fingerprint("(none)")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("letters/rare", None),
        ("(none)", None),
        ("made later", None),  # after the list of options was read
        ("missing", "no folder"),
        ("../outside", "not inside"),
        ("/", "not inside"),
        ("a\0b", "no name of a folder"),
        ("long" * 100, "no name of a folder"),
        (5, "expected the name of a folder, got int"),
        (True, "expected the name of a folder, got bool"),
        ({"a": 1}, "expected the name of a folder, got dict"),
    ],
)
def test_the_host_validates_the_folder(load_node, monkeypatch, folder, message):
    import execution

    import nodes as host_nodes

    node, root, _ = load_node
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "LoadRefs", node)
    schema = node.define_schema()
    monkeypatch.setattr(node, "define_schema", classmethod(lambda _: schema))  # the list as it was
    (root / "made later").mkdir()
    inputs = {"pictures": "", "crop": "center", "background": "#FFFFFF", "limit": 5}
    inputs |= {"order": "name"}
    prompt = {"1": {"class_type": "LoadRefs", "inputs": inputs | {"folder": folder}}}
    valid, errors, _ = asyncio.run(execution.validate_inputs("id", prompt, "1", {}))[:3]
    assert valid == (message is None)
    if message:
        assert message in errors[0]["details"]


@pytest.mark.parametrize(
    "folder", ["\0", "x" * 300, "x" * 2**20, "\ud800", "\x1b[2J\n", 5, 0.5, True, ["a"], {"a": 1}]
)
def test_a_value_that_is_no_name_is_refused_in_words(load_node, folder):
    node, _, _ = load_node
    told = node.validate_inputs(folder=[folder])
    assert told.startswith("folder: ") and told.isprintable() and len(told) <= 2000
    for call in (node.fingerprint_inputs, lambda folder: run_node(node, folder)):
        with pytest.raises(ValueError, match=r"^folder: "):
            call(folder=[folder])


@pytest.mark.skipif(os.name == "nt", reason="folders have no such permissions there")
@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444])
def test_a_folder_that_may_not_be_read_is_told_of(load_node, monkeypatch, mode):
    with tempfile.TemporaryDirectory() as root:  # which all may enter, unlike pytest's own
        monkeypatch.setattr(folder_paths, "input_directory", root)
        os.chmod(root, 0o755)
        closed = Path(root, "closed")
        closed.mkdir()
        save(closed / "a.png")
        closed.chmod(mode)
        user = os.geteuid()
        if user == 0:  # who may read all
            os.seteuid(65534)
        try:
            with pytest.raises(
                ValueError, match=r"^folder: '.*' cannot be read \(Permission denied"
            ):
                run_node(load_node[0], "closed")
        finally:
            os.seteuid(user)
            closed.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="names are not bytes there")
def test_names_that_cannot_be_shown_are_shown_in_another_form(load_node):
    node, folder, texts = load_node
    for name in (b"caf\xe9.png", b"\x1b[2J.png", b"a\n[ERROR] b.png"):
        (folder / "letters" / os.fsdecode(name)).write_bytes(b"no picture")
    save(folder / "letters" / os.fsdecode(b"z\xe9.png"))
    references, _ = run_node(node, "letters").args
    assert references.names == (r"z\udce9.png",)
    lines = texts[-1].split("\n")
    assert len(lines) == 2 and all(line.isprintable() for line in lines)
    prints = [node.fingerprint_inputs(folder=["letters"]) for _ in range(2)]
    assert prints[0] == prints[1]


def test_node_tells_what_it_left_out_and_where_more_is_said(load_node, caplog):
    node, folder, texts = load_node
    place = folder / "letters" / "rare"
    (place / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for number in range(12):
        (place / f"scan{number}.png").write_bytes(b"%d" % number * (number + 1))
    run_node(node, "letters/rare", limit=1)
    assert texts[-1].splitlines() == [
        "1 of 14 pictures used",
        "photo.heic was left out: HEIC, which cannot be read here. Save as PNG or JPEG.",
    ]
    (place / "a.png").unlink()
    save(place / "z.png")
    run_node(node, "letters/rare")
    lines = texts[-1].splitlines()
    assert lines[0] == "1 of 14 pictures used" and "photo.heic was left out: HEIC" in lines[1]
    assert lines[2].startswith("scan0.png, scan1.png, scan2.png and 9 more were left out: damaged")
    assert "scan2.png" in caplog.text


def test_the_host_still_checks_the_other_lists(load_node, monkeypatch):
    import execution

    import nodes as host_nodes

    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "LoadRefs", load_node[0])
    inputs = {"pictures": "", "crop": "round", "background": "#FFFFFF", "limit": 0}
    inputs |= {"order": "name"}
    prompt = {"1": {"class_type": "LoadRefs", "inputs": inputs | {"folder": "(none)"}}}
    errors = asyncio.run(execution.validate_inputs("id", prompt, "1", {}))[1]
    assert {e["type"] for e in errors} == {"value_not_in_list", "value_smaller_than_min"}


def test_the_input_directory_itself_is_a_folder(load_node):
    node, folder, texts = load_node
    save(folder / "b.png")
    save(folder / "c.png")
    references, _ = run_node(node, "(input)", limit=1).args
    assert references.names == ("b.png",) and texts[-1] == "1 of 2 pictures used"
    assert node.validate_inputs(folder=["(input)"]) is True
    before = node.fingerprint_inputs(folder=["(input)"])
    (folder / "c.png").unlink()
    assert node.fingerprint_inputs(folder=["(input)"]) != before


def test_a_random_order_has_a_number(load_node):
    node, folder, _ = load_node
    for name in "bcdefgh":
        save(folder / f"{name}.png")

    def drawn(number):
        order = {"order": ["random"], "choice": [number]}
        return run_node(node, "(input)", limit=3, order=order).args[0].names

    assert drawn(1) == drawn(1)
    assert len({drawn(number) for number in range(5)}) > 1


def test_pictures_chosen_in_the_node_come_before_the_others(load_node):
    node, folder, texts = load_node
    save(folder / "b.png")
    chosen = [["b.png", "letters/rare/a.png"]]
    more = torch.full((1, 8, 8, 3), 0.5)
    output = run_node(node, "letters/rare", pictures=chosen, images=more)
    assert output.args[0].names == ("b.png", "a.png", "a.png", "image 1")
    assert texts[-1] == "4 of 4 pictures used"
    before = node.fingerprint_inputs(pictures=chosen, folder=["(none)"])
    os.utime(folder / "b.png", ns=(1, 1))
    assert node.fingerprint_inputs(pictures=chosen, folder=["(none)"]) != before
