"""Write what the nodes say in other languages: locales/<language>/nodeDefs.json.

usage: PYTHON scripts/locales.py      (PYTHON: the host's; see host.py)

The host serves these files to its page. English is what the nodes say themselves. The translations
of each other language lie in locales/<language>.json, from the English text to the translated one,
so that a text is translated once wherever it stands, and again when it changes. What has no
translation yet, and translations of texts that are gone, are listed; the first stay English on the
page.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import host
from comfy_client import ComfyClient

FOLDER = Path(__file__).resolve().parent.parent / "locales"
# The page has no German yet.
LANGUAGES = ("zh", "ja", "ko", "fr", "de", "es", "ru")
FILE = "nodeDefs.json"
CHOICE = "COMFY_DYNAMICCOMBO_V3"
# What the page makes a widget of; every other input is a socket.
WIDGETS = {CHOICE, "BOOLEAN", "COLOR", "COMBO", "FLOAT", "INT", "STRING"}


def english(object_info: dict[str, dict]) -> dict[str, dict]:
    """What our nodes say, as the page looks it up.

    Args:
        object_info: the host's answer of that name, or a part of it.

    Returns:
        by a node's id its display_name and description, its inputs by their ids, its outputs by
        their numbers; of each the name and the tooltip, where it has them.
    """
    return {
        key: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": dict(_inputs(info["input"])),
            "outputs": dict(_outputs(info)),
        }
        for key, info in object_info.items()
        if info["category"].split("/")[0] == "SeedSelect"
    }


def _inputs(inputs: dict, parent: str = "") -> Iterator[tuple[str, dict[str, str]]]:
    """Each input, and those that a choice brings along: ``preset_iterations``."""
    for section in ("required", "optional"):
        for name, (kind, told) in inputs.get(section, {}).items():
            texts = {"name": told.get("display_name", name), "tooltip": told["tooltip"]}
            if parent and kind not in WIDGETS:
                del texts["name"]  # of such a socket the page shows the id
            yield f"{parent}{name}", texts
            for option in told["options"] if kind == CHOICE else ():
                yield from _inputs(option["inputs"], f"{parent}{name}_")


def _outputs(info: dict) -> Iterator[tuple[str, dict[str, str]]]:
    told = zip(info["output_name"], info["output"], info["output_tooltips"] or (), strict=True)
    for number, (name, kind, tooltip) in enumerate(told):
        # One that is named like its type has the host's own translation of that.
        yield str(number), ({} if name == kind else {"name": name}) | {"tooltip": tooltip}


def texts(told: dict) -> Iterator[str]:
    """The texts among what nodes say, in their order, each as often as it stands there."""
    for value in told.values():
        if isinstance(value, dict):
            yield from texts(value)
        else:
            yield value


def translated(told: dict, catalogue: dict[str, str]) -> dict:
    """The same in another language; what has no translation is left out."""
    found = {}
    for key, value in told.items():
        if isinstance(value, dict):
            found[key] = translated(value, catalogue)
        elif value in catalogue:
            found[key] = catalogue[value]
    return found


def catalogue(language: str) -> dict[str, str]:
    """The translations into a language, by their English texts."""
    return json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))


def read(language: str) -> dict[str, dict]:
    """What the host is given of a language."""
    return json.loads((FOLDER / language / FILE).read_text(encoding="utf-8"))


def write(language: str, told: dict[str, dict]) -> None:
    """Give the host this for a language."""
    path = FOLDER / language / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def gaps(told: dict, known: dict[str, str]) -> list[str]:
    """What is to be done about the translations of a language, a line for each text.

    A text that has changed stands there twice, since its translation is that of the old one.
    """
    wanted = dict.fromkeys(texts(told))
    return [f"not translated: {text}" for text in wanted if text not in known] + [
        f"no longer used: {text}" for text in known if text not in wanted
    ]


def main() -> int:
    """Write every language; 1 if there is something to be done about the translations."""
    with host.server(["--cpu"]) as server:
        told = english(ComfyClient(server.url).get("object_info"))
    write("en", told)
    found = []
    for language in LANGUAGES:
        known = catalogue(language)
        write(language, translated(told, known))
        found += [f"{language}: {gap}" for gap in gaps(told, known)]
    print("\n".join(found) or "Every text is translated.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
