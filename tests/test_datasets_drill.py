"""Data sets on Ray, in trouble: workers and driver killed, a write that fails."""

import sys

import pytest

from conftest import REPO

sys.path.append(str(REPO / "benchmarks"))

pytest.importorskip("ray", reason="the extra ray is not installed")
if not sys.platform.startswith("linux"):
    pytest.skip("only Linux limits the files of another process", allow_module_level=True)

import scale


def test_nothing_is_lost_and_nothing_made_twice_whatever_is_killed(tmp_path):
    """`make bench-scale` does the same with 200 units, and 20 workers killed."""
    found = scale.drill(tmp_path, units=24, worker_kills=2, driver_kills=1, seed=2)
    assert found["happened"] == {"worker": 2, "driver": 1, "disk": 1, "ctrl-c": 1}
    assert found["starts"] >= 4
