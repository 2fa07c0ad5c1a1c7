"""docs/results.md is written from the figures, and from nothing else."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tiny  # noqa: F401  the host's settings

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import results_page
from seedselect_core.search.presets import PRESETS

MEASURED = [name for name in results_page.PARTS if (results_page.FIGURES / f"{name}.json").exists()]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """The page, where the sections named count as current."""

    def page(current) -> str:
        monkeypatch.setattr(results_page, "current", lambda name: name in current)
        results_page.main()
        return results_page.PAGE.read_text()

    monkeypatch.setattr(results_page, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(results_page, "PLOTS", tmp_path / "results")
    return page


def test_every_section_that_was_measured_is_on_the_page(write):
    page = write(MEASURED)
    assert "<!--" not in page
    for name in MEASURED:
        assert results_page.describe_run(results_page.section(name)) in page
    for picture in re.findall(r"!\[\w+\]\((.*?)\)", page):
        assert (results_page.PAGE.parent / picture).is_file()


def test_nothing_is_said_of_figures_that_are_not_current(write):
    page = write([])
    assert "<!--" not in page and "![" not in page and "%" not in page.split("## The goals")[1]
    assert page.count("Not measured with the code as it is now") == len(results_page.PARTS)


def test_other_code_makes_a_section_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "FIGURES", tmp_path)
    assert not results_page.current("frequency")
    code = results_page.state_of(results_page.SECTIONS["frequency"])
    for written, current in ((code, True), ("0" * 16, False)):
        (tmp_path / "frequency.json").write_text(json.dumps({"code": written}))
        assert results_page.current("frequency") == current


def test_a_goal_is_met_by_its_figure_alone(write, tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "FIGURES", tmp_path)
    table = [
        {"method": method, "budget": budget, "right": {"mean": 0.5}}
        for method in ("best of N", "ours")
        for budget in (25, 1600)
    ]
    monkeypatch.setitem(results_page.PARTS, "rivals", lambda: "")
    for gap, met in ((0.01, "| yes |"), (-0.01, "| **no** |")):
        found = {"best rival": "best of N", "gap": {"mean": gap, "low": gap, "high": 1, "count": 8}}
        needed = {"ours": 400 if gap > 0 else 401, "best of N": 800}
        ahead = {"25": found, "1600": found}
        summary = {"table": table, "ahead": ahead, "needed": needed}
        (tmp_path / "rivals.json").write_text(json.dumps({"summary": summary}))
        goals = write(["rivals"]).split("## The goals")[1].split("## With")[0]
        assert goals.count(met) == 3


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("default", {"frequency", "rivals", "modes", "sets", "classification"}),
        ("thorough", {"rivals", "modes"}),
    ],
)
def test_another_preset_makes_the_sections_stale_that_use_it(changed, stale, monkeypatch):
    sections = {"frequency", "rivals", "modes", "sets", "classification"}

    def states() -> dict[str, str]:
        return {name: results_page.state_of(results_page.SECTIONS[name]) for name in sections}

    before = states()
    other = replace(PRESETS[changed], iterations=99)
    monkeypatch.setitem(PRESETS, changed, other)
    rivals = results_page.SECTIONS["rivals"]
    budget = {"default": 400, "thorough": 1600}[changed]
    monkeypatch.setitem(rivals.OURS, budget, other)
    after = states()
    assert {name for name in sections if before[name] != after[name]} == stale
