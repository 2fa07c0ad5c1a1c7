"""Foreign text is safe to show and to log, and none leaves the pack in another way."""

import ast
import io
import sys
import traceback

import pytest

from conftest import REPO
from seedselect_core.errors import NoGradient, Rule, SeedSelectError, require_rules
from seedselect_core.text import LONGEST, printable, printable_lines, quoted

HOSTILE = {
    "half of a surrogate pair": "\ud800",
    "a name in Latin-1": b"caf\xe9.png".decode("utf-8", "surrogateescape"),
    "colors and a title for the terminal": "\x1b[31mred\x1b[0m\x1b]0;owned\x07\x9b2J",
    "a line of its own": "x.png\n[ERROR] the disk is full\r\x85\u2028\u2029",
    "other line ends": "\v\f\x1c\x1d\x1e",
    "writing that turns around": "gpj.\u202egnp\u2066\u200f\u061c",
    "nothing to see": "\0\x7f\u200b\ufeff\xad",
    "private and unassigned characters": "\ue000\u0378\U0010ffff",
    "a megabyte": "x" * 2**20,
    "a megabyte of escapes": "\x1b" * 2**20,
}


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("\x1b[31m")


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_shown_is_printable_short_and_on_one_line(case):
    shown = printable(HOSTILE[case])
    assert shown.isprintable() and shown.encode() and 0 < len(shown) <= LONGEST
    assert printable(shown) == shown
    assert len(printable(HOSTILE[case], 60)) <= 60
    for error in (SeedSelectError, NoGradient):
        assert str(error(HOSTILE[case])) == shown
    with pytest.raises(SeedSelectError) as told:
        require_rules(Rule("cfg", False, "a number", HOSTILE[case]))
    assert str(told.value).isprintable() and len(str(told.value)) < 100


def test_what_people_write_stays_as_it_is():
    for text in ("Größe 3 €.png", "日本語.png", "עברית", "👩🏽.png", "C:\\Users\\x", "e\u0301"):
        assert printable(text) == text
    assert printable("Screenshot 1.02.03\u202fPM\u3000.png") == "Screenshot 1.02.03 PM .png"


def test_escapes_are_those_of_python():
    assert printable("a\x1b\n\ud800\u202e\U000e0001") == r"a\x1b\n\ud800\u202e\U000e0001"


def test_both_ends_of_a_long_text_are_shown():
    shown = printable(f"folder: '{'x' * 10**6}' is wrong. Choose another one.")
    assert shown.startswith("folder: 'xxx") and shown.endswith("Choose another one.")


def test_lines_of_our_own_stay_lines():
    assert printable_lines("2 references\na\x1b.png") == "2 references\na\\x1b.png"


def test_an_error_that_cannot_be_shown_is_named():
    assert printable(Mute()) == "Mute that cannot be shown: RuntimeError"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_text_is_more_than_the_log_can_hold(monkeypatch, encoding):
    log = io.TextIOWrapper(io.BytesIO(), encoding)  # strict, as the host's is
    monkeypatch.setattr(sys, "stderr", log)
    for text in ("日本é", *HOSTILE.values()):
        log.write(str(SeedSelectError(text)))


def raised(how) -> str:
    """What the host logs of an error of ours: its traceback, with those that led to it."""
    try:
        how()
    except SeedSelectError:
        return traceback.format_exc()


def in_handling():
    try:
        raise RuntimeError("\ud800\x1b[31m")
    except RuntimeError:
        raise SeedSelectError("folder: no.")  # noqa: B904


def with_a_cause():
    try:
        raise RuntimeError("\ud800\x1b[31m")
    except RuntimeError as error:
        raise SeedSelectError("folder: no.") from quoted(error)


def test_the_errors_that_led_to_ours_are_as_safe_in_the_log():
    assert "RuntimeError" not in raised(in_handling)
    text = raised(with_a_cause)
    assert r"RuntimeError: \ud800\x1b[31m" in text and "in with_a_cause" in text
    assert text.encode() and "\x1b" not in text


def pack() -> dict[str, ast.Module]:
    paths = [p for folder in ("nodes", "seedselect_core") for p in (REPO / folder).rglob("*.py")]
    return {str(p.relative_to(REPO)): ast.parse(p.read_text(encoding="utf-8")) for p in paths}


def called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def is_safe(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) or called(argument).startswith("printable")


def unsafe_ways_out(tree: ast.Module) -> list[str]:
    """Calls that log or show a text that may be foreign, and causes that the host would log."""
    found = []
    for node in ast.walk(tree):
        name = called(node).split(".")[-1]
        arguments = node.args if called(node).startswith("logging.") else []
        if name in ("send_progress_text", "PreviewText"):
            arguments = node.args[:1]
        cause = node.cause if isinstance(node, ast.Raise) else None
        plain = cause is None or isinstance(cause, ast.Constant) or called(cause) == "quoted"
        if not (plain and all(map(is_safe, arguments))):
            found.append(ast.unparse(node))
    return found


def test_no_text_leaves_the_pack_but_by_the_function_that_makes_it_safe():
    texts = {path: unsafe_ways_out(tree) for path, tree in pack().items()}
    assert {path: found for path, found in texts.items() if found} == {}


def test_a_text_that_leaves_in_another_way_is_found():
    lines = ["logging.warning('%s', name)", "raise A('b') from error", "ui.PreviewText(f'{name}')"]
    assert sorted(unsafe_ways_out(ast.parse("\n".join(lines)))) == lines
    assert unsafe_ways_out(ast.parse("logging.info('%s', printable(name))")) == []
