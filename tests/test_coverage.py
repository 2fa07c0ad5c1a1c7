"""The table of what is exact: complete, made of measurements, and still true of this code."""

import json

import pytest

from conftest import REPO
from gradients.measure import LIMIT, Finding
from gradients.page import page
from gradients.run import absent, all_cases

TABLE = json.loads((REPO / "docs/coverage.json").read_text(encoding="utf-8"))
ROWS = {(row["section"], row["name"]): row for row in TABLE["rows"]}
CASES = all_cases()
QUICK = [key for key, case in CASES.items() if case.quick]


@pytest.mark.parametrize("key", QUICK, ids=": ".join)
def test_the_table_claims_what_a_run_shows(key):
    now = CASES[key].examine()
    claimed = ROWS[key]
    print(now)
    assert now.verdict == claimed["verdict"] != "wrong"
    assert now.refusal == claimed["refusal"]


def test_every_sampler_scheduler_and_family_of_the_host_has_a_row():
    assert absent(TABLE["rows"]) == []
    missing = absent([row for row in TABLE["rows"] if row["name"] != "heun"])
    assert missing == ["samplers: heun"]


def test_every_row_is_a_case_and_every_case_has_a_row():
    assert set(ROWS) == set(CASES)


def test_every_row_is_exact_or_refused_with_a_reason():
    for row in TABLE["rows"]:
        assert row["verdict"] in ("exact", "refused", "not run"), row
        if row["verdict"] == "exact":
            assert row["forward"] and row["weights_kept"] and row["gradient_error"] <= LIMIT
        if row["verdict"] == "refused":
            assert ": " in row["refusal"] and row["refusal"].endswith(".")


def test_no_sampler_and_no_image_family_is_left_unmeasured():
    for row in TABLE["rows"]:
        if row["section"] in ("samplers", "schedulers", "families"):
            assert row["verdict"] != "not run", row


def test_the_page_is_made_of_the_table():
    assert (REPO / "docs/coverage.md").read_text(encoding="utf-8") == page(TABLE)


def test_continuous_integration_runs_a_part_of_every_section():
    assert {section for section, _ in QUICK} >= {section for section, _ in CASES} - {"memory"}


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (Finding(True, 1e-9, True), "exact"),
        (Finding(True, 2 * LIMIT, True), "wrong"),
        (Finding(True, float("nan"), True), "wrong"),
        (Finding(False, 1e-9, True), "wrong"),
        (Finding(True, 1e-9, False), "wrong"),
        (Finding(refusal="model: no."), "refused"),
    ],
)
def test_verdicts(finding, verdict):
    assert finding.verdict == verdict
