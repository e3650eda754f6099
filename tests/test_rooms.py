"""The rooms of the house: one-way imports, and each room's sentence."""

import ast
import importlib
from pathlib import Path

import pytest

import samlib

HOUSE = Path(samlib.__file__).parent
FLOORS = (
    *("errors", "environment", "files", "extras", "provenance"),
    *("sam", "models", "data", "trainer", "records", "measures", "study"),
    *("campaign", "bench", "report", "chapters", "publish", "cli", "__main__", "__init__"),
)
ROOMS = sorted(path.parent.name for path in HOUSE.glob("*/__init__.py"))


def room(parts):
    return parts[0].removesuffix(".py") if parts else "__init__"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for package, *inside in (module.split(".") for module in modules):
            if package == "samlib" and inside:
                yield node.lineno, inside


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda p: p.stem)
def test_every_room_knows_only_those_below_it(path):
    here = FLOORS.index(room(path.relative_to(HOUSE).parts))
    for line, parts in imports(path):
        assert FLOORS.index(room(parts)) <= here, f"{path}:{line} imports from above"


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_says_what_it_is_for_and_what_others_may_use(name):
    here = importlib.import_module(f"samlib.{name}")
    assert here.__doc__.strip().split("\n")[0].endswith(".")
    assert here.__all__
    for path in HOUSE.rglob("*.py"):
        if path.relative_to(HOUSE).parts[0] != name:
            for line, parts in imports(path):
                if parts[0] == name and len(parts) > 1:
                    assert parts[1] in here.__all__, f"{path}:{line}: {parts[1]} is not for others"
