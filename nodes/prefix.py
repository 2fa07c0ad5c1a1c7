"""The prefix of a file's name: filled in as in Save Image, and a legal name on every system.

The host's page fills in the codes of its own save nodes before it queues a prompt, and only theirs:
``%date:yyyy-MM-dd%``, and ``%KSampler.seed%`` for an input of another node. So that is done here.
The host itself fills in the others, such as ``%year%``.
"""

import datetime
import re

from ..seedselect_core.errors import SeedSelectError

DEFAULT = "SeedSelect"
LONGEST_NAME = 200  # bytes; most file systems take 255, number and ending included
LONGEST_VALUE = 100
_CODE = re.compile("%([^%]+)%")
_DATE = re.compile("yyyy|yy|MM?|dd?|hh?|mm?|ss?")
_ILLEGAL = re.compile(r'[<>:"|?*]')
# Devices of Windows, whatever ending their name has.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def file_prefix(text: str, prompt: dict | None = None) -> str:
    """``text`` with codes filled in from ``prompt`` and the clock, as a path of legal names.

    Raises:
        SeedSelectError: it leads out of the folder, or a name in it is too long.
    """
    filled = _CODE.sub(lambda code: _filled(code, prompt or {}), text)
    parts = filled.replace("\\", "/").split("/")
    if ".." in parts or filled.startswith("/"):
        raise SeedSelectError(
            f"filename_prefix: '{filled}' leads out of ComfyUI's output directory. Give a name, or "
            "folders inside it and a name: seeds/SeedSelect."
        )
    parts = [legal for part in parts if (legal := _legal(part))]
    for part in parts:
        if len(part.encode()) > LONGEST_NAME:
            raise SeedSelectError(
                f"filename_prefix: '{part[:60]}...' is too long for the name of a file. Give at "
                f"most {LONGEST_NAME} letters between two slashes."
            )
    return "/".join(parts) or DEFAULT


def _legal(name: str) -> str:
    plain = "".join(letter if letter.isprintable() else "_" for letter in name)
    plain = _ILLEGAL.sub("_", plain).strip(" .")
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain


def _filled(code: re.Match, prompt: dict) -> str:
    text = code[1]
    if text.startswith("date:"):
        now = datetime.datetime.now()
        return _DATE.sub(lambda part: _of_date(part[0], now), text.removeprefix("date:"))
    node, dot, name = text.partition(".")
    value = _input(prompt, node, name) if dot else None
    return code[0] if value is None else re.sub(r"[/\\]", "_", str(value))[:LONGEST_VALUE]


def _of_date(part: str, now: datetime.datetime) -> str:
    places = {"M": now.month, "d": now.day, "h": now.hour, "m": now.minute, "s": now.second}
    if part[0] == "y":
        return str(now.year)[-len(part) :]
    return str(places[part[0]]).zfill(len(part))


def _input(prompt: dict, node: str, name: str) -> str | int | float | None:
    """An input of the first node of this type or, where none is, of this title."""
    for title in (lambda found: found["class_type"], _title):
        for found in prompt.values():
            value = found["inputs"].get(name) if title(found) == node else None
            if isinstance(value, str | int | float):
                return value
    return None


def _title(node: dict) -> str | None:
    about = node.get("_meta")
    return about.get("title") if isinstance(about, dict) else None
