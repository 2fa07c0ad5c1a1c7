"""The nodes in other languages: complete, true to the English texts, and shown by the real page."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

import host
import locales
from comfy_client import ComfyClient
from conftest import HOST
from gestures import PATIENCE
from host_install import Host
from locales import LANGUAGES
from test_browser import browser  # noqa: F401

REMEDY = "Run scripts/locales.py, and see CONTRIBUTING.md for what it lists."
# Words that are the same in some of the languages.
SAME = set(
    "angle architecture cfg clip_vision extras format gradient image images latent patience sigmas "
    "vae".split()
)
# Numbers, codes of file names, paths, and ids of what is an id in every language.
KEPT = re.compile(r"%[\w.:-]+%|\w+/\w+|[A-Za-z]+(?:_\w+)+|\d+(?:\.\d+)?")
QUOTED = re.compile(r"(?<!\w)'([^']+)'(?!\w)")
# Options, which are explained in a sentence that begins with them.
OPTION = re.compile(r"(?:^|\. )([a-z][\w -]*):")
# The host translates the names of its own nodes.
NODES_OF_THE_HOST = {
    "Load Image",
    "Load VAE",
    "Plot Loss Graph",
    "Preview as Text",
    "SamplerCustomAdvanced",
}
# Nodes whose help page is translated too.
PAGES = ["SeedSelectLoadReferenceSet", "SeedSelectOptimize", "SeedSelectSampleFromSeed"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    real = Host(HOST, Path(sys.executable), managed=False)
    base = tmp_path_factory.mktemp("comfyui")
    with host.server(["--cpu"], base_directory=base, host=real) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return ComfyClient(server.url)


@pytest.fixture(scope="module")
def told(client) -> dict[str, dict]:
    """What the nodes say, in English."""
    return locales.english(client.get("object_info"))


def paths(told: dict, parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where each text stands: a node's id, "inputs", an input's id, "tooltip"."""
    for key, value in told.items():
        if isinstance(value, dict):
            yield from paths(value, (*parent, key))
        else:
            yield (*parent, key)


def kept(text: str, catalogue: dict[str, str]) -> set[str]:
    """What must stand in the translation of a text, in the words that the page shows there."""
    found = {*KEPT.findall(text), *QUOTED.findall(text), *OPTION.findall(text)}
    return {catalogue.get(each, each) for each in found - NODES_OF_THE_HOST}


def test_english_is_what_the_nodes_say(told):
    assert locales.read("en") == told, REMEDY


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(told, language):
    assert locales.gaps(told, locales.catalogue(language)) == [], REMEDY


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_gets_every_id_and_the_translations_of_now(told, language):
    given = locales.read(language)
    assert set(paths(given)) == set(paths(told)), REMEDY
    assert given == locales.translated(told, locales.catalogue(language)), REMEDY


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_files_options_and_names_of_nodes_are_intact(language):
    known = locales.catalogue(language)
    lost = {
        text: missing
        for text, translation in known.items()
        if " " in text  # else it is a name, and translated as a whole
        and (missing := {each for each in kept(text, known) if each not in translation})
    }
    assert not lost


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_left_in_english(language):
    known = locales.catalogue(language)
    assert {text for text, translation in known.items() if text == translation} <= SAME


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_letter_is_a_command(language):
    """Neither to a terminal nor to the page, whose translations may link, choose and fill in."""
    for translation in locales.catalogue(language).values():
        assert translation == translation.strip() != ""
        assert not [each for each in translation if unicodedata.category(each)[0] == "C"]
        assert not set(translation) & set("@{}|")


def test_a_new_a_changed_and_a_dropped_text_are_told():
    node = {"Node": {"display_name": "Node", "inputs": {"a": {"tooltip": "Changed."}}}}
    known = {"Node": "节点", "As it was.": "以前"}
    assert locales.gaps(node, known) == ["not translated: Changed.", "no longer used: As it was."]
    left = {"Node": {"display_name": "节点", "inputs": {"a": {}}}}
    assert locales.translated(node, known) == left


def test_the_server_gives_the_page_every_language(client):
    given = client.get("i18n")
    assert set(given) == {"en", *LANGUAGES}
    for language, found in given.items():
        assert found == {"nodeDefs": locales.read(language)}


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_the_page_shows_titles_inputs_and_outputs_in_a_chosen_language(
    client,
    server,
    browser,  # noqa: F811
    language,
):
    client.post("settings", {"Comfy.TutorialCompleted": True, "Comfy.Locale": language})
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server.url)
    page.wait_for_function("window.app?.canvas?.graph?.nodes.length > 0")
    title, *names = page.evaluate(
        """() => {
            const node = LiteGraph.createNode("SeedSelectOptimize");
            const widget = name => node.widgets.find(widget => widget.name == name);
            widget("preset").value = "custom";
            const slot = found => found.label || found.localized_name;
            return [node.title, slot(node.inputs.find(input => input.name == "references")),
                widget("seed").label, widget("preset.first_draws").label, slot(node.outputs[0])];
        }"""
    )
    page.close()
    known = locales.catalogue(language)
    assert title == known["SeedSelect Optimize"]
    words = ("references", "start number", "first_draws", "found noise")
    assert names == [known[word] for word in words]


@pytest.mark.parametrize("language", ["zh", "ja"])
@pytest.mark.parametrize("node", PAGES)
def test_a_translated_help_page_tells_of_what_the_english_one_does(client, node, language):
    """Of the same inputs, by the names that the page shows, of the same files, in as many lines."""
    place = f"extensions/{host.PACK}/docs/{node}"
    ours = client.get_bytes(f"{place}.md").decode()
    page = client.get_bytes(f"{place}/{language}.md").decode()
    known = locales.catalogue(language)
    assert f"({node}.png)" in page
    assert page.splitlines()[0] == f"# {known[ours.splitlines()[0].removeprefix('# ')]}"
    for name in re.findall(r"\*\*(\w+(?: \w+)*)\*\*", ours.replace("**Cancel**", "")):
        assert f"**{known.get(name, name)}**" in page, name
    code = re.compile("`[^`]+`")
    assert set(code.findall(page)) == set(code.findall(ours))
    kinds = [re.findall(r"^(?:#+|\||-|$)", text, re.MULTILINE) for text in (page, ours)]
    assert kinds[0] == kinds[1]
