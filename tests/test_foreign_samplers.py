"""Samplers of other node packs: exact, or without a gradient in words, and never a raw error.

The pack in tests/foreign_pack has one of each kind; `make hosts PACKS=...` tries public ones the
same way.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradients.pack import BROKEN, EXACT, REFUSED, WITHOUT

TESTS = Path(__file__).resolve().parent
VERDICTS = {
    "pack_exact": EXACT,
    "pack_decorated": EXACT,  # by no_grad, which is taken off
    "pack_double": EXACT,
    "pack_no_grad": WITHOUT,
    "pack_inference": WITHOUT,
    "pack_elsewhere": WITHOUT,
    "pack_inplace": WITHOUT,
    "pack_saved": WITHOUT,
    "pack_numpy": WITHOUT,
    "pack_detached": REFUSED,
    "pack_data": REFUSED,
    "pack_slope": REFUSED,
    "pack_broken": BROKEN,
    "pack_without_function": BROKEN,
    "PackObject (node)": EXACT,
    "PackPartial (node)": EXACT,
    "PackOwn (node)": EXACT,
}


def tried(folder: Path, work: Path) -> dict:
    """The report on a pack, as scripts/host_matrix.py gets it."""
    report = work / "report.json"
    done = subprocess.run(
        [sys.executable, str(TESTS / "gradients" / "pack.py"), str(folder), str(report)],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(report.read_text("utf-8"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, dict]:
    found = tried(TESTS / "foreign_pack", tmp_path_factory.mktemp("pack"))
    assert found["why"] == ""
    return {row["name"]: row for row in found["rows"]}


def test_every_sampler_of_a_pack_is_tried(rows):
    """But for nodes that something must be connected to."""
    assert set(rows) == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_sampler_is_exact_or_told_in_words(rows, name):
    row = rows[name]
    assert row["verdict"] == VERDICTS[name], row["said"]
    if row["verdict"] in (REFUSED, WITHOUT):
        assert row["said"].startswith("SeedSelect: ") and f"'{name}'" in row["said"]
        assert row["said"].endswith("random steps, of which the best is kept.")
    if row["verdict"] == BROKEN:
        assert row["said"].startswith(("SeedSelect: ", "sampler: ")) and f"'{name}'" in row["said"]


def test_a_pack_that_cannot_be_imported_says_why(tmp_path):
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("import no_such_package\n")
    found = tried(pack, tmp_path)
    assert found == {"why": "No module named 'no_such_package'", "rows": []}
