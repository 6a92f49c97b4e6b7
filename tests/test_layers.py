"""Holds the floors of the house: who may import whom (docs/architecture.md, "Floors")."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mailserver"

FLOORS = {
    1: {
        "values",
        "words",
        "durable",
        "threads",
        "group_commit",
        "sockets",
        "promise",
        "channel_binding",
        "control_client",
        "shared_counts",
    },
    2: {"wire", "interfaces", "maillog", "config", "connections", "control_streams"},
    3: {"accounts", "policy", "spool", "store", "trace"},
    4: {
        "receive",
        "dispatch",
        "deliver",
        "relay",
        "retrieve",
        "login",
        "certificates",
        "listeners",
        "notifying",
        "polling",
        "supervisor",
        "proxies",
        "own_rules",
        "control",
        "terminals",
    },
    5: {
        "tap",
        "service",
        "house",
        "assembly",
        "admin",
        "processes",
        "worker",
    },
}
ON_FLOOR_5 = {
    ("tap", "service"),
    ("tap", "processes"),
    ("processes", "service"),
    ("processes", "assembly"),
    ("worker", "service"),
    ("service", "house"),
    ("service", "assembly"),
    ("house", "assembly"),
    ("admin", "service"),
    ("admin", "house"),
    ("admin", "assembly"),
    ("admin", "tap"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}

# Twisted lives on the two upper floors and in these; "values" may name idna beside the standard library.
TWISTED_BELOW: dict[str, str | tuple[str, ...]] = {
    "threads": "twisted",
    "maillog": ("twisted.logger", "twisted.python.failure"),
    "interfaces": "twisted.internet.defer",
    "connections": "twisted.internet",
}

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names += [f"mailserver.{a.name}" for a in node.names] if module == "mailserver" else [module]
    return names


def may_import(importer: str, imported: str) -> bool:
    """Downwards, or inside one room; floors 3 and 4 see floor 3 and each other only as interfaces."""
    if importer == imported:
        return True
    above, below = FLOOR_OF[importer], FLOOR_OF[imported]
    if above == 5:
        # Only house.py knows everybody; the commands of admin/ may use it, never the reverse.
        return below < 5 or (importer, imported) in ON_FLOOR_5
    return below <= 2 and below < above


def test_every_room_stands_on_a_floor() -> None:
    assert {room_of(p) for p in MODULES} <= FLOOR_OF.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "mailserver" and rest and not rest.startswith("__"):
            assert may_import(room, rest.split(".")[0]), f"{room} imports {name}"
        elif top == "twisted" and FLOOR_OF[room] < 4:
            assert name.startswith(TWISTED_BELOW.get(room, "\0")), f"{room} imports {name}"


def test_no_circles() -> None:
    graph = {
        ".".join(("mailserver", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): {
            n for n in imports(p) if n.startswith("mailserver.")
        }
        for p in MODULES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path, module))}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_first_line_says_the_duty(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} needs a docstring on its first line"
