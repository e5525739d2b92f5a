"""The shape of the package: imports run in one direction, one door to DGL, light start, README code that runs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import atomica

PACKAGE = Path(atomica.__file__).parent
ROOT = Path(__file__).resolve().parents[2]

ROOMS = [
    ("keys", "errors", "journal", "checksums", "locks"),
    ("fragments", "mining", "pockets", "prep"),
    ("spec",),
    ("shards",),
    ("records",),
    ("sampling",),
    ("convert",),
    ("features",),
    ("noise", "edges", "devices"),
    ("graph",),
    ("demo",),
    ("irreps", "conv", "conv_triton"),
    ("encoder",),
    ("heads",),
    ("model",),
    ("compat", "testing"),
    ("train",),
    ("evaluate",),
    ("runspec",),
    ("report",),
    ("infer",),
    ("assembly",),
    ("overview", "sweep"),
    ("catalogue",),
    ("runner",),
]
"""From the files on disk to the assembled run. A module imports from its own room and those before it."""

TO_THE_RIGHT = {("records", "graph"), ("prep", "convert")}
"""Imports inside functions that reach one room further: `Dataset.graphs` hands on records, a command arguments."""


def rooms():
    return {name: index for index, names in enumerate(ROOMS) for name in names}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imported(path):
    """(our modules that a file imports, other packages it imports); not those for type checkers alone."""
    own, other = set(), set()
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "atomica"
                else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            (own if first == "atomica" else other).add(rest.split(".")[0] if first == "atomica" else first)
    return own - {"", "_prep", "__version__"}, other


def test_every_module_has_a_room():
    assert {room for room, _ in modules()} <= set(rooms())


def test_imports_run_in_one_direction():
    order = rooms()
    for room, path in modules():
        for target in imported(path)[0]:
            allowed = order[target] <= order[room] or (room, target) in TO_THE_RIGHT
            assert allowed, f"{path.relative_to(PACKAGE)} imports atomica.{target}, which lies to its right"


def test_only_graph_imports_dgl():
    found = {room for room, path in modules() if "dgl" in imported(path)[1]}
    assert found == {"graph"}


def test_nothing_can_unpickle():
    """But for the unpickler of plain data that `convert` has, which tests/unit/test_convert.py attacks."""
    for room, path in modules():
        if room == "convert":
            continue
        assert not imported(path)[1] & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, path


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import atomica", ("torch", "dgl", "e3nn", "pyarrow", "numpy")),
        ("import atomica.graph", ("e3nn", "torchmetrics", "sklearn", "rdkit", "biotite")),
        ("import atomica.runner", ("torch", "dgl", "pyarrow")),
    ],
)
def test_imports_stay_light(code, absent, tmp_path):
    check = f"{code}; import sys; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.strip() == "[]", done.stdout


def test_dgl_guard_works_without_graphbolt(tmp_path):
    """DGL loads although its graphbolt library does not fit this PyTorch, and no settings file is written."""
    code = "import atomica.graph as g, sys; print(g.dgl.__version__, 'dgl.graphbolt' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": ""},
        check=True,
    )
    assert done.stdout.split()[1] == "True"
    assert not (tmp_path / ".dgl").exists()


def test_python_code_of_the_readme_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        for said in re.findall(r"print\(.*?\)\s+# (.*)", block):
            assert said in done.stdout
