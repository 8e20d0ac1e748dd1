"""The house: imports go downward only, py-amqp stays behind its edge, `send` needs no gevent."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vigiloconn"
#: The only modules that may import py-amqp.
AMQP_EDGE = {"vigiloconn.amqp", "vigiloconn.contents", "vigiloconn.frames", "vigiloconn.pyamqp"}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> set[str]:
    """Return the modules that `path` imports when it is loaded: not those under `if TYPE_CHECKING`."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
                visit(node.body + node.orelse)
            elif isinstance(node, ast.Try):
                visit(node.body + node.orelse + node.finalbody)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
GRAPH = {name: {module for module in _imports(path) if module in MODULES} - {name} for name, path in MODULES.items()}


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


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_imports_itself_by_a_detour(name: str) -> None:
    assert _circle(name) == []


def test_py_amqp_is_imported_at_its_edge_only() -> None:
    users = {name for name, path in MODULES.items() if any(m.split(".")[0] == "amqp" for m in _imports(path))}
    assert users == AMQP_EDGE


def test_leaves_know_no_bus_and_no_handlers() -> None:
    leaves = ("store", "serialize", "lines", "ipv6", "ratelog", "errors", "interfaces", "pipe", "commands")
    for leaf in leaves:
        known = GRAPH.get(f"vigiloconn.{leaf}", set())
        assert {module for module in known if ".handlers" in module or "client" in module} == set(), leaf


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
