"""The house: each module stands on a floor of docs/design.md, imports go downward only, py-amqp has one edge."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vigiloconn"
#: The only modules that may import py-amqp.
AMQP_EDGE = {f"vigiloconn.bus.{name}" for name in ("connection", "contents", "frames", "pyamqp", "transport")}
#: The other end of the wire.
AMQP_EDGE |= {"vigiloconn.testing.scripted"}
MAX_TOP_MODULES = 20
MAX_FOLDER_SHARE = 0.15


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> set[str]:
    """Return all that `path` imports anywhere: in functions and under `if TYPE_CHECKING` too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
#: A package's own module is empty: to import what is in it is no import of it.
FOLDERS = {name for name, path in MODULES.items() if path.name == "__init__.py" and name != "vigiloconn"}
GRAPH = {
    name: {module for module in _imports(path) if module in MODULES} - {name, *FOLDERS}
    for name, path in MODULES.items() if name not in FOLDERS
}  # fmt: skip


def _rows() -> list[tuple[str, list[str]]]:
    """Return (floor, patterns of modules) from the table of docs/design.md, the top first."""
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    table = text.split("| floor | modules | know |", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(floor, re.findall(r"`([^`]+)`", modules)) for floor, modules, *_ in rows]


def _matches(name: str, pattern: str) -> bool:
    full = "vigiloconn" if pattern == "__init__" else "vigiloconn." + pattern.replace("/", ".")
    return name == full or (full.endswith(".*") and name.rpartition(".")[0] == full[:-2])


ROWS = _rows()


def _floors(name: str) -> list[int]:
    return [at for at, (_, patterns) in enumerate(ROWS) if any(_matches(name, pattern) for pattern in patterns)]


def _circle(start: str) -> list[str]:
    """Return a way from `start` back to itself, [] when there is none."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for target in GRAPH[way[-1]]:
            if target == start:
                return [*way, target]
            if target not in seen:
                seen.add(target)
                ways.append([*way, target])
    return []


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_each_module_stands_on_one_floor_and_imports_nothing_above_it(name: str) -> None:
    floors = _floors(name)
    assert len(floors) == 1, f"{name} stands in {len(floors)} rows of docs/design.md"
    above = {target: ROWS[at][0] for target in GRAPH[name] for at in _floors(target) if at < floors[0]}
    assert above == {}, f"{name} ({ROWS[floors[0]][0]}) imports upward"


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_no_module_imports_itself_by_a_detour(name: str) -> None:
    assert _circle(name) == []


def test_no_folder_imports_itself_by_a_detour() -> None:
    """Folders and single modules of the top as one room each: their imports are no circle either."""
    rooms = {name: ".".join(name.split(".")[:2]) for name in GRAPH}
    # A face is the door of the folder that it names.
    faces = {"vigiloconn.amqp", "vigiloconn.store", "vigiloconn.usage", "vigiloconn.schema", "vigiloconn"}
    graph: dict[str, set[str]] = {room: set() for room in rooms.values()}
    for name, targets in GRAPH.items():
        if name not in faces and name != "vigiloconn.handlers.base":
            graph[rooms[name]] |= {rooms[target] for target in targets} - {rooms[name]}
    while graph:
        ends = [room for room, targets in graph.items() if not targets & graph.keys()]
        assert ends, f"a circle among {sorted(graph)}"
        for room in ends:
            del graph[room]


def test_every_row_of_the_table_names_modules_that_exist() -> None:
    for floor, patterns in ROWS:
        for pattern in patterns:
            assert any(_matches(name, pattern) for name in GRAPH), f"{floor}: {pattern}"


def test_the_house_can_be_taken_in_at_a_glance() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    top = [name for name in GRAPH if name.count(".") <= 1]
    assert len(top) <= MAX_TOP_MODULES
    for folder in FOLDERS:
        share = sum(count for name, count in lines.items() if name.startswith(f"{folder}.")) / sum(lines.values())
        assert share <= MAX_FOLDER_SHARE, folder


def test_py_amqp_is_imported_at_its_edge_only() -> None:
    users = {name for name, path in MODULES.items() if any(m.split(".")[0] == "amqp" for m in _imports(path))}
    assert users == AMQP_EDGE


@pytest.mark.parametrize(("module", "never"), [
    ("vigiloconn.journal.store", {"amqp"}),
    ("vigiloconn.journal.thread", {"amqp"}),
    ("vigiloconn.handlers.backup", {"amqp"}),
    ("vigiloconn.bus.rotation", {"gevent", "amqp"}),
    ("vigiloconn.publishing.ledger", {"gevent", "amqp", "peewee"}),
])  # fmt: skip
def test_what_a_module_has_no_use_for_is_not_loaded_with_it(module: str, never: set[str]) -> None:
    script = f"import sys, {module}\nprint([m for m in {sorted(never)!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_send_is_started_without_gevent_and_the_rest_of_the_runtime() -> None:
    script = (
        "import sys\n"
        "from vigiloconn.__main__ import main\n"
        "try:\n main(['send', '--help'])\nexcept SystemExit:\n pass\n"
        "print([m for m in ('gevent', 'amqp', 'peewee', 'msgspec', 'configparser') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_runtime_is_loaded_after_the_patches() -> None:
    script = (
        "from vigiloconn.__main__ import main\n"
        "try:\n main(['run', 'no-such-connector'])\nexcept SystemExit:\n pass\n"
        "import socket, gevent.socket\nprint(socket.socket is gevent.socket.socket)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True"
