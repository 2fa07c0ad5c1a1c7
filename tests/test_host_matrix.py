"""scripts/host_matrix.py: what a row says of a host, and what the page says of the rows."""

import subprocess

import pytest

import host
import host_matrix
from host_install import HostError
from seedselect_core import requirements

PROVEN = {
    "comfyui": "0.30.0",
    "pack": "b321302",
    "torch": "2.11.0",
    "nodes": 16,
    "demo": {"right_before": 0.25, "right_after": 1.0},
    "tests": {"passed": 150, "failed": 0, "skipped": 2},
    "why": "",
    "verdict": "proven",
}
PACK = {
    "pack": "Samplers",
    "commit": "0123abc",
    "ours": "b321302",
    "comfyui": "0.30.0",
    "why": "",
    "samplers": {"a": "exact", "b": "refused", "c": "exact", "d": "broken"},
}
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_unroll" name="test_a"/>
<testcase classname="tests.test_unroll" name="test_b[1]">
<failure message="E: no&#10;more">trace</failure></testcase>
<testcase classname="" name="tests.test_encoders"><error message="collection failure"/></testcase>
<testcase classname="tests.test_unroll" name="test_c"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>"""


def row(**changes) -> dict:
    changed = PROVEN | changes
    return changed | {"verdict": host_matrix.verdict(changed)}


# ---------------------------------------------------------------- a row


def test_proven_is_all_that_was_tried():
    assert row()["verdict"] == "proven"
    for tests in (None, {"passed": 9, "failed": 1, "skipped": 0}):
        assert row(tests=tests)["verdict"] == "works"
    assert row(tests={"passed": 0, "failed": 0, "skipped": 9})["verdict"] == "works"


def test_refused_is_the_sentence_of_the_pack_and_nothing_else():
    old = {"comfyui": "0.3.64", "demo": None, "tests": None, "nodes": 0}
    assert row(**old, why=requirements.refusal("0.3.64"))["verdict"] == "refused"
    assert row(**old, why="import failed: no module")["verdict"] == "fails"
    assert row(demo=None, why="demo: TypeError")["verdict"] == "fails"


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("[INFO] {refusal}", "{refusal}"),
        (
            "\x1b[33mCannot import /x/custom_nodes/{pack} module for custom nodes: no comfy.x",
            "import failed: no comfy.x",
        ),
        (
            "{refusal}\nCannot import /x/custom_nodes/{pack} module for custom nodes: no comfy.x",
            "import failed: no comfy.x",
        ),
        ("Cannot import /x/other module for custom nodes: x", "does not say why"),
    ],
)
def test_why_nodes_are_missing_is_read_in_the_log(log, why):
    names = {"refusal": requirements.refusal("0.1.0"), "pack": host.PACK}
    assert host_matrix.missing(log.format(**names), "0.1.0").endswith(why.format(**names))


def test_results_of_the_tests_are_counted():
    found = host_matrix.counted(REPORT)
    assert found["tests"] == {"passed": 1, "failed": 2, "skipped": 1}
    assert found["why"] == "test_b[1] (and 1 more): E: no"


def test_all_nodes_of_the_pack_are_expected():
    expected = host_matrix.expected_nodes()
    assert expected == {page.stem for page in (host.REPO / "web" / "docs").glob("*.md")}


def test_the_chosen_tests_exist():
    assert not [name for name in host_matrix.TESTS if not (host.REPO / "tests" / name).is_file()]


def test_a_checkout_tells_its_version(tmp_path):
    with pytest.raises(HostError, match="does not tell its version"):
        host_matrix.comfyui_version(tmp_path)
    (tmp_path / "comfyui_version.py").write_text('# made\n__version__ = "0.31.0"\n')
    assert host_matrix.comfyui_version(tmp_path) == "0.31.0"


def test_the_last_line_that_says_something_is_told():
    assert host_matrix.one_line("a\n\x1b[31mb\x1b[0m\n\n") == "b"
    assert host_matrix.one_line("") == "no output"
    assert len(host_matrix.one_line("x" * 999)) == 200


# ---------------------------------------------------------------- the table and its page


def test_rows_of_other_versions_stay():
    old = [row(comfyui="0.9.0"), row(comfyui="0.30.0", pack="old")]
    rows = host_matrix.merged(old, [row(comfyui="0.30.0", pack="new"), row(comfyui="0.100.0")])
    assert [(r["comfyui"], r["pack"]) for r in rows] == [
        ("0.100.0", "b321302"),
        ("0.30.0", "new"),
        ("0.9.0", "b321302"),
    ]


def test_the_page_has_a_line_for_every_row():
    rows = [row(), row(comfyui="0.3.64", demo=None, tests=None, nodes=0, why="a | b")]
    first, second = host_matrix.page(rows).splitlines()[-2:]
    assert first == "| 0.30.0 | proven | 16 | 25%, 100% | 150, 0, 2 |  | b321302 | 2.11.0 |"
    assert second == "| 0.3.64 | fails | 0 | - | - | a \\| b | b321302 | 2.11.0 |"


def test_what_was_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(host_matrix, "TABLE", tmp_path / "hosts.json")
    monkeypatch.setattr(host_matrix, "PAGE", tmp_path / "hosts.md")
    assert host_matrix.read_rows() == []
    host_matrix.write([row()], [])
    assert host_matrix.read_rows() == [row()] and host_matrix.read_rows("packs") == []
    assert (tmp_path / "hosts.md").read_text("utf-8") == host_matrix.page([row()])
    host_matrix.write(host_matrix.read_rows(), [PACK])
    assert host_matrix.read_rows() == [row()] and host_matrix.read_rows("packs") == [PACK]
    assert (tmp_path / "hosts.md").read_text("utf-8") == host_matrix.page([row()], [PACK])


def test_the_page_in_the_repository_is_made_of_its_table():
    made = host_matrix.page(host_matrix.read_rows(), host_matrix.read_rows("packs"))
    assert host_matrix.PAGE.read_text("utf-8") == made


@pytest.mark.parametrize("folders", [[], ["nowhere"]])
def test_a_folder_that_is_no_host_is_named(folders):
    with pytest.raises(HostError, match=folders[0] if folders else "Which ComfyUI"):
        host_matrix.main(folders)


# ---------------------------------------------------------------- packs


def test_a_pack_has_a_line_that_counts_its_samplers():
    broken = PACK | {"pack": "Bare", "samplers": {}, "why": "No module named 'x' | y"}
    rows = host_matrix.merged_packs([PACK | {"ours": "old"}, broken], PACK)
    bare, samplers = host_matrix.page([], rows).splitlines()[-2:]
    none = " | ".join(["0"] * 7)
    assert bare == f"| Bare | 0123abc | 0.30.0 | {none} | No module named 'x' \\| y | b321302 |"
    assert samplers == "| Samplers | 0123abc | 0.30.0 | 4 | 2 | 1 | 0 | 0 | 1 | 0 |  | b321302 |"


def test_a_folder_that_is_no_pack_is_named(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").touch()
    with pytest.raises(HostError, match="no node pack"):
        host_matrix.main(["--pack", str(tmp_path), str(tmp_path)])
    with pytest.raises(HostError, match="Which ComfyUI"):
        host_matrix.main(["--pack", str(tmp_path)])


def test_a_pack_s_commit_is_that_of_a_checkout_of_its_own(tmp_path):
    assert host_matrix.commit_of(tmp_path) == "-"
    assert host_matrix.commit_of(host.REPO / "tests") == "-"  # inside another
    git = ("git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x")
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert len(host_matrix.commit_of(tmp_path)) >= 7
