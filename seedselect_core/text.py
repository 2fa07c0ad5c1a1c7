"""Foreign text, made safe to show and to log: what a file, a folder, another pack or a caller says.

Such text may hold whatever its maker likes, and the host prints it as it comes: into a terminal,
which obeys control characters, and into a log that is read line by line. What a log cannot encode
is worse. The error about it prints the text once more, outside of any handler, and ends the host's
worker thread: every later prompt waits for ever.
"""

import sys
import unicodedata

LONGEST = 2000
CUT = " ... "


def printable(text: object, longest: int = LONGEST) -> str:
    """``text`` on one line, of printable characters only, with its middle cut out where it is long.

    What is not printable (control characters, marks that turn the writing direction, halves of a
    surrogate pair, line ends) stands there as Python writes it in a string: "\\x1b", "\\ud800".
    """
    try:
        text = str(text)
    except Exception as error:  # an error of foreign code may not even tell what it is
        text = f"{type(text).__name__} that cannot be shown: {type(error).__name__}"
    shown = "".join(map(_shown, _cut(text, longest)))
    return _cut(_encodable(shown), longest)


def printable_lines(text: str) -> str:
    """Lines of our own, for a node to show, with what is foreign in them made `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def first_sentence(text: object, longest: int = 200) -> str:
    """The first sentence of foreign words, `printable` and with a full stop."""
    sentence = " ".join(str(text).split()).split(". ")[0]
    return printable(sentence.rstrip("."), longest) + "."


def quoted(error: BaseException) -> RuntimeError:
    """A foreign error as the cause of one of ours: the host logs the text of both."""
    text = printable(f"{type(error).__name__}: {printable(error)}")
    return RuntimeError(text).with_traceback(error.__traceback__)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    part = (longest - len(CUT)) // 2
    return text[:part] + CUT + text[-part:]


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":  # as in the names of a Mac's screenshots
        return " "
    return character.encode("unicode_escape").decode("ascii")


def _encodable(text: str) -> str:
    """``text`` with escapes for what the host's log cannot hold, on Windows often all but Latin."""
    for stream in (sys.stdout, sys.stderr):
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    return text
