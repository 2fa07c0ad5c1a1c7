"""What the Comfy registry, and whoever works on this repository, reads beside the code."""

import re

import pytest
import yaml
from PIL import Image

import archive
import host
from conftest import REPO

# The only ones the registry knows; with another one it drops all of its kind.
ACCELERATORS = {
    "GPU :: NVIDIA CUDA",
    "GPU :: AMD ROCm",
    "GPU :: Intel Arc",
    "NPU :: Huawei Ascend",
    "GPU :: Apple Metal",
}
SYSTEMS = ("OS Independent", "Microsoft", "POSIX", "MacOS")
GITHUB = REPO / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


@pytest.fixture(scope="module")
def told() -> dict:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))


def test_the_name_is_one_that_can_stay(told):
    name = told["project"]["name"]
    assert name == archive.FOLDER
    assert re.fullmatch(r"[a-z]+([-_.]?[a-z0-9]+)*", name) and len(name) < 100
    assert "comfy" not in name


def test_versions_have_three_numbers(told):
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["project"]["version"])
    assert re.fullmatch(r">=\d+\.\d+\.\d+", told["tool"]["comfy"]["requires-comfyui"])


def test_classifiers_are_known(told):
    for classifier in told["project"]["classifiers"]:
        kind, _, value = classifier.partition(" :: ")
        if kind == "Environment":
            assert value in ACCELERATORS
        else:
            assert kind == "Operating System" and value.startswith(SYSTEMS)


def test_the_pictures_are_there_in_the_shapes_asked_for(told):
    home = told["project"]["urls"]["Repository"]
    raw = home.replace("//github.com/", "//raw.githubusercontent.com/") + "/main/"
    sizes = {}
    for key in ("Icon", "Banner"):
        address = told["tool"]["comfy"][key]
        assert address.startswith(raw)
        path = REPO / address.removeprefix(raw)
        assert path.stat().st_size < 300_000
        with Image.open(path) as image:
            assert image.format == "PNG"
            sizes[key] = image.size
    width, height = sizes["Icon"]
    assert width == height <= 400
    width, height = sizes["Banner"]
    assert 9 * width == 21 * height


def test_every_address_of_this_repository_is_the_same(told, tracked):
    own = told["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    name = own.split("/")[1]
    found = set()
    for path in tracked:
        if path.endswith((".md", ".toml", ".yml", ".py", ".json")):
            text = (REPO / path).read_text("utf-8")
            found |= set(re.findall(rf"github(?:usercontent)?\.com/([\w.-]+/{name})\b", text))
    assert found == {own}


def test_the_changelog_tells_of_this_version(told):
    changes = (REPO / "CHANGELOG.md").read_text("utf-8")
    assert f"## [{told['project']['version']}] - " in changes


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_read_only_pins_what_it_uses_and_calls_the_one_script(path):
    text = path.read_text("utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    for used in re.findall(r"uses: (\S+)", text):
        assert used.startswith("./") or re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", used), used
    assert set(re.findall(r"scripts/host\.py (\w+)", text)) <= host.VERBS.keys()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_for_what_is_needed(path):
    form = yaml.safe_load(path.read_text("utf-8"))
    assert form["name"] and form["description"]
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in asked]
    assert len(set(names)) == len(names)
    assert all(field["attributes"]["label"] for field in asked)
    if path.stem != "idea":
        required = {f["id"] for f in asked if f.get("validations", {}).get("required")}
        assert {"comfyui", "log", "workflow"} <= required
