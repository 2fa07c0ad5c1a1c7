"""The ladder of docs: each floor of the core uses only what stands below, and stays readable."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REPO

CORE = REPO / "seedselect_core"
# From the top to the ground. What stands on no floor is used by all, or uses all.
FLOORS = ("sets", "search", "chain", "seeds", "likeness", "memory", "host")
GROUND = ("text", "errors", "pictures", "references", "requirements")
ROOF = ("sheets", "pocket", "hands")
# Uses all of them, and is used by none.
TOWER = ("datasets",)
LONGEST_FUNCTION = 60
MOST_ARGUMENTS = 8
CODE = [
    path
    for folder in ("nodes", "seedselect_core", "scripts", "benchmarks", "pocket", "tests")
    for path in sorted((REPO / folder).rglob("*.py"))
]


def imported(path: Path) -> Iterator[str]:
    """Modules of the core that a file of it imports, as "floor.module", and those of nodes/."""
    package = path.relative_to(REPO).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Each level above the first leads one package up.
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] in ("seedselect_core", "nodes"):
                yield name.removeprefix("seedselect_core.")


def height(part: str) -> int:
    """How high something stands: the ground 0, the host 1, ..., the roof, and what is above it."""
    if part in GROUND:
        return 0
    if part in TOWER:
        return len(FLOORS) + 2
    return len(FLOORS) - FLOORS.index(part) if part in FLOORS else len(FLOORS) + 1


def climbing(path: Path) -> list[str]:
    """What a file of the core imports from above its own floor, or from the nodes."""
    own = path.relative_to(CORE).with_suffix("").parts[0]
    found = []
    for name in imported(path):
        part = name.split(".")[0]
        if part == "nodes" or height(part) > height(own):
            found.append(name)
    return found


def test_every_floor_is_there_and_nothing_beside_them():
    there = {path.stem for path in CORE.iterdir() if not path.stem.startswith("_")}
    assert there == {*FLOORS, *GROUND, *ROOF, *TOWER}


@pytest.mark.parametrize(
    "path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE))
)
def test_a_floor_uses_only_what_stands_below(path):
    assert climbing(path) == []


def test_a_floor_that_uses_one_above_is_found(monkeypatch):
    path = CORE / "likeness" / "losses.py"
    source = "from ..search.loop import Search\nfrom ..host import calls\nimport nodes.seeds\n"
    monkeypatch.setattr(Path, "read_text", lambda self, encoding=None: source)
    assert climbing(path) == ["search.loop.Search", "nodes.seeds"]


def test_every_liberty_opens_with_a_table_of_what_it_patches():
    chapters = {path.stem: path for path in (CORE / "host").glob("[a-z]*.py")}
    for name in chapters.keys() - {"devices", "families", "needs"}:
        source = chapters[name].read_text(encoding="utf-8")
        (head, _, _) = ast.get_docstring(ast.parse(source)).partition("Tried on the hosts that ")
        assert "| what is patched | why | what puts it back |" in head, name


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Every function of a file: its name, its lines, and its arguments without self."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = node.args
            names = [a.arg for a in [*given.posonlyargs, *given.args, *given.kwonlyargs]]
            names += [a.arg for a in (given.vararg, given.kwarg) if a]
            count = len([name for name in names if name not in ("self", "cls")])
            yield node.name, node.end_lineno - node.lineno + 1, count


def dictated(path: Path, name: str) -> bool:
    """Whether the host decides on the arguments of a function."""
    return path.parent.name == "nodes" and name == "execute"


def test_no_function_is_long_or_takes_much():
    long = []
    greedy = []
    for path in CODE:
        for name, lines, arguments in functions(path):
            if lines > LONGEST_FUNCTION:
                long.append(f"{path.relative_to(REPO)}: {name} has {lines} lines")
            if arguments > MOST_ARGUMENTS and not dictated(path, name):
                greedy.append(f"{path.relative_to(REPO)}: {name} takes {arguments} arguments")
    assert long == []
    assert greedy == []


def state_of_module(path: Path) -> list[str]:
    """Names that a module changes while the program runs, as far as one can see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names]
    for node in tree.body:
        value = getattr(node, "value", None)
        empty = isinstance(value, ast.List | ast.Dict | ast.Set) and not ast.unparse(value)[1:-1]
        made = isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in (
            *("set", "dict", "list", "defaultdict", "deque", "OrderedDict", "Counter"),
            *("WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "WeakIdKeyDictionary"),
        )
        if isinstance(node, ast.Assign | ast.AnnAssign) and (empty or made):
            found.append(ast.unparse(node))
    return found


def test_no_module_of_the_pack_keeps_state():
    folders = (CORE, REPO / "nodes")
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    assert {str(path): state for path in paths if (state := state_of_module(path))} == {}


def test_state_of_a_module_is_found(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("A = (1,)\nB = {'a': 1}\nC = {}\nD: set[str] = set()\ndef f():\n    global E\n")
    assert state_of_module(path) == ["E", "C = {}", "D: set[str] = set()"]
