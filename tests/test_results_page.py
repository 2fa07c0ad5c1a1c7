"""docs/results.md is written from the figures, and from nothing else."""

import json
import re
import sys
from pathlib import Path

import pytest

import tiny  # noqa: F401  the host's settings

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import results_page

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


def test_explanations_go_with_their_figures(write):
    said = "a letter is easy to learn"
    assert said in write(["classification"]) and said not in write(["transfer"])


def test_other_code_makes_a_section_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(results_page, "FIGURES", tmp_path)
    assert not results_page.current("frequency")
    code = results_page.code_of(results_page.SECTIONS["frequency"])
    for written, current in ((code, True), ("0" * 16, False)):
        (tmp_path / "frequency.json").write_text(json.dumps({"code": written}))
        assert results_page.current("frequency") == current


def test_a_goal_is_met_by_its_figure_alone(write, tmp_path, monkeypatch):
    figures = json.loads((results_page.FIGURES / "rivals.json").read_text())
    monkeypatch.setattr(results_page, "FIGURES", tmp_path)
    for gap, met in ((0.0, "| yes |"), (-0.01, "| **no** |")):
        for found in figures["summary"]["ahead"].values():
            found["gap"]["mean"] = gap
        (tmp_path / "rivals.json").write_text(json.dumps(figures))
        goals = write(["rivals"]).split("## The goals")[1].split("## With")[0]
        assert goals.count(met) == len(figures["summary"]["ahead"])
