"""Imports point down only, and what only lists, shows or refuses never waits for torch."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from small_runs import ROOT, environment

import anomaly_bench

PACKAGE = Path(anomaly_bench.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# From the top down.  Rooms on one line must not know each other, nor may files beside the rooms that stand on one line.
LEVELS = [
    ["__main__"],
    ["commands"],
    ["api"],
    ["html_report"],
    ["results", "sweeps", "evaluation", "inference"],
    ["runs"],
    ["methods", "datasets"],
    ["nets"],
    ["loading", "config", "metrics"],
    ["checksums"],
    ["contracts", "paths", "files", "console", "former_names"],
    ["records"],
    ["errors"],
    ["__init__"],  # the version; it imports the names of the Python API when they are used
]
WITHOUT_TORCH = [  # rooms, and files of a room
    *("__init__", "__main__", "commands", "html_report", "results", "evaluation", "config", "metrics", "checksums"),
    *(
        "paths",
        "files",
        "console",
        "former_names",
        "records",
        "errors",
        "runs.folder",
        "runs.lock",
        "runs.index",
        "sweeps.launchers",
    ),
]
WITH_TORCH = ["commands.reproduce_points", "commands.reproduce_tables"]  # they plan, and read what was run
HEAVY = {"torch", "torchvision", "pytorch_lightning", "timm", "safetensors.torch"}


def module_name(file: Path) -> str:
    """`runs.heatmaps`; a package's own file is the package, the top one is `__init__`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(file): file for file in FILES}


def room(module: str) -> tuple[int, str]:
    """The level (0 is the top) and the room of a module."""
    return next((i, r) for i, level in enumerate(LEVELS) for r in level if module.split(".")[0] == r)


def statements(tree: ast.AST, at_import: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements; `at_import`: only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        later = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        never = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif not (at_import and (later or never)):
            yield from statements(node, at_import)


@cache
def imports(file: Path, at_import: bool) -> set[str]:
    """Full names of what a file imports; `from a import b` gives `a.b` where that is a module of ours, else `a`."""
    found = set()
    for node in statements(ast.parse(file.read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        here = ["anomaly_bench", *file.relative_to(PACKAGE).parts][: -node.level or None] if node.level else []
        base = ".".join([*here, *([node.module] if node.module else [])])
        for alias in node.names:
            full = f"{base}.{alias.name}"
            found.add(full if full.removeprefix("anomaly_bench.") in MODULES else base)
    return found


@cache
def own_imports(file: Path, at_import: bool) -> set[str]:
    """The modules of the package that a file imports."""
    names = {n for n in imports(file, at_import) if n.split(".")[0] == "anomaly_bench"}
    return {n.removeprefix("anomaly_bench.") if n != "anomaly_bench" else "__init__" for n in names}


def test_all_files_are_seen() -> None:
    assert len(MODULES) == len(FILES) >= 25
    assert len(list(PACKAGE.glob("*/*.py"))) + len(list(PACKAGE.glob("*.py"))) == len(FILES)  # one level of folders


def test_every_module_has_a_room() -> None:
    rooms = {room for level in LEVELS for room in level}
    assert {m.split(".")[0] for m in MODULES} == rooms


def breaks_the_table(module: str, imported: str) -> bool:
    (level, own), (other_level, other) = room(module), room(imported)
    return not (other_level > level or other == own)


def test_imports_point_down() -> None:
    wrong = []
    for module, file in MODULES.items():
        imported = own_imports(file, at_import=module == "__init__")
        assert imported <= set(MODULES)
        wrong += [f"{module} > {other}" for other in sorted(imported) if breaks_the_table(module, other)]
    assert wrong == []


def test_the_table_forbids_and_allows() -> None:
    up = "methods.x datasets.y, datasets.x methods.y, metrics.x nets.y, loading.x nets.y, runs.x results.y"
    for pair in f"{up}, runs.x commands, results.x sweeps.y, config.x loading.y, files paths, __init__ errors".split(
        ", "
    ):
        assert breaks_the_table(*pair.split()), pair
    down = "commands.x runs.y, runs.x runs.y, methods.x nets.y, datasets.x contracts, evaluation.x methods.y"
    for pair in f"{down}, metrics.x metrics.y, commands.x __init__".split(", "):
        assert not breaks_the_table(*pair.split()), pair


def test_no_room_for_odds_and_ends() -> None:
    assert {p.stem for p in PACKAGE.rglob("*")} & {"utils", "util", "helpers", "helper", "common", "misc"} == set()


def test_files_are_short_enough_to_read() -> None:
    lines = {file.relative_to(PACKAGE).as_posix(): len(file.read_text("utf-8").splitlines()) for file in FILES}
    allowed = {name: 350 if name.startswith("methods/") else 250 for name in lines}
    assert {name: n for name, n in lines.items() if n > allowed[name]} == {}


def reached(module: str) -> dict[str, str]:
    """All modules that importing this one imports, each with the chain that leads there."""
    chains = {module: module}
    todo = [module]
    for name in todo:  # grows while it is read
        parents = {".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)}
        for other in own_imports(MODULES[name], at_import=True) | parents | {"__init__"}:
            if other not in chains:
                chains[other] = f"{chains[name]} > {other}"
                todo.append(other)
    return chains


def test_no_torch_at_module_level() -> None:
    without = [
        m for m in MODULES if any(f"{m}.".startswith(f"{name}.") for name in WITHOUT_TORCH) and m not in WITH_TORCH
    ]
    assert len(without) > 50
    heavy = {
        f"{chain}: {name}"
        for module in without
        for other, chain in reached(module).items()
        for name in imports(MODULES[other], at_import=True)
        if name in HEAVY or name.split(".")[0] in HEAVY
    }
    assert heavy == set()


def test_torch_would_be_found() -> None:
    assert "torch" in imports(MODULES["contracts"], at_import=True)
    assert "contracts" in reached("runs.runner")


LIGHT = [("--help", 0), ("--version", 0)]  # first, as what is imported stays
WITHOUT = [
    *(("list methods", 0), ("list datasets", 0), ("list runs nowhere", 2), ("show method=rd", 0), ("data list", 0)),
    *(("data cache", 0), ("data cache clear teachers", 0), ("data prepare demo", 0)),
    *(("--complete train method=rd meth", 0), ("--complete eval --ma", 0)),
    *(("trian", 2), ("list metods", 2), ("show method=rdd", 2), ("show method=rd method.epoch=3", 2)),
    *(("train method=rd dataset=demo/brick seed=x", 2), ("train method=rd dataset=demo/brick hardware.precision=x", 2)),
    *(("report nowhere", 2), ("reproduce nowhere", 2), ("eval --maps nowhere --masks nowhere", 2)),
]
SCRIPT = """
import json, sys
from bad_inputs.judge import command
for words, code, never in json.loads(sys.argv[1]):
    assert command(words.split()) == code, words
    assert not set(never) & set(sys.modules), words
print("anomaly_bench.commands.main" in sys.modules)
"""


def test_no_torch_for_what_only_lists_shows_or_refuses() -> None:
    """In one process, and the help needs even less."""
    light = [*HEAVY, "numpy", "hydra", "omegaconf", "pydantic", "PIL", "rich"]
    cases = [*((*case, light) for case in LIGHT), *((*case, [*HEAVY]) for case in WITHOUT)]
    command = [sys.executable, "-c", SCRIPT, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT / "tests", env=environment())
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.splitlines()[-1] == "True"
