"""The shape of the project: imports run one way in Python and Rust, one door to DGL, light start, no unpickling."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ROOT

import atomica

PACKAGE = Path(atomica.__file__).parent
CRATE = ROOT / "atomica_prep" / "src"

ROOMS = (
    *("keys", "errors", "files", "environment", "console", "spec"),
    *("data", "graph", "prep", "demo", "evaluation", "nn", "heads", "model", "compat", "testing", "train"),
    *(
        "analysis",
        "report",
        "jobs",
        "sweep",
        "catalogue",
        "publish",
        "doctor",
        "arguments",
        "runner",
        "fitting",
        "atomica",
    ),
)
"""Files and folders at the top of the package, from what all use to the command: a file imports from its own room and
those before it. `graph` is the public door to `data.graph`; `atomica` is `__init__.py`, the door to all."""

FLOORS = ("lib", *re.findall(r"^(?:pub )?mod (\w+);", (CRATE / "lib.rs").read_text(), flags=re.M), "bin")
"""The same of `atomica_prep/src`: the order in which `lib.rs` lists them."""

WITHIN_FUNCTIONS = {
    "runner.py": "a command loads what it needs when it is asked for: --help must not wait for PyTorch",
    "prep/command.py": "as runner.py",
    "data/dataset.py": "Dataset.graphs hands records on to data.graph; reading records must not load DGL",
    "data/noise.py": "Perturbation.to moves tensors; drawing noise must not load PyTorch",
    "heads": "metrics() alone loads torchmetrics, which takes a second; models are used without",
}
"""Files and folders that import from the package within functions, and why. What no longer does is to be deleted."""


class Use(NamedTuple):
    """A file's use of another, both by path from the top of their tree."""

    file: str
    target: str
    line: int
    within: bool = False
    """Inside a function."""


def room(path: str) -> str:
    """The top-level file or folder that a path belongs to.

    >>> room("data/graph.py"), room("keys.py"), room("__init__.py")
    ('data', 'keys', 'atomica')
    """
    first = path.split("/")[0].rpartition(".")[0] if "/" not in path else path.split("/")[0]
    return "atomica" if first == "__init__" else first


def upward(uses: Sequence[Use], order: Sequence[str]) -> list[str]:
    """Imports that run against the order of rooms."""
    place = {name: index for index, name in enumerate(order)}
    return [
        f"{use.file}:{use.line} imports {use.target}, which lies above it"
        for use in uses
        if place[room(use.target)] > place[room(use.file)]
    ]


def circle(uses: Sequence[Use]) -> list[str]:
    """The files of a circle, if there is one."""
    graph: dict[str, set[str]] = {}
    for use in uses:
        graph.setdefault(use.file, set()).add(use.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


# ------------------------------------------------------------------------------------------------------ Python


class Imported(NamedTuple):
    """A name that a file imports."""

    name: str
    line: int
    within: bool
    checking: bool
    """Inside `if TYPE_CHECKING`."""


def imported(path: Path) -> Iterator[Imported]:
    """All that a Python file imports, wherever the statement stands."""

    def walk(node: ast.AST, within: bool, checking: bool) -> Iterator[Imported]:
        for child in ast.iter_child_nodes(node):
            inside = within or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            check = checking or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: relative imports are not read here"
                names = [f"{child.module}.{alias.name}" for alias in child.names]
            else:
                names = [alias.name for alias in child.names] if isinstance(child, ast.Import) else []
            yield from (Imported(name, child.lineno, inside, check) for name in names)
            yield from walk(child, inside, check)

    return walk(ast.parse(path.read_text()), within=False, checking=False)


def python_uses(package: Path) -> list[Use]:
    """Imports between the files of a package."""
    paths = {}
    for path in sorted(package.rglob("*.py")):
        parts = (package.name, *path.relative_to(package).with_suffix("").parts)
        paths[".".join(parts).removesuffix(".__init__")] = path
    found = []
    for module, path in paths.items():
        for name, line, within, _ in imported(path):
            if name.split(".")[0] != package.name or name.startswith(f"{package.name}._prep"):
                continue
            while name not in paths:  # a name within a file
                name = name.rpartition(".")[0]
            if name != module:
                file, target = (p.relative_to(package).as_posix() for p in (path, paths[name]))
                found.append(Use(file, target, line, within))
    return found


def test_every_file_has_a_room():
    tops = {room(path.relative_to(PACKAGE).as_posix()) for path in PACKAGE.rglob("*.py")}
    assert tops == set(ROOMS)


def test_imports_run_in_one_direction():
    found = upward(python_uses(PACKAGE), ROOMS)
    assert not found, "\n".join(found)


def test_there_is_no_circle():
    found = circle(python_uses(PACKAGE))
    assert not found, " → ".join(found)


def test_imports_stand_at_the_top_of_a_file():
    found = {use.file for use in python_uses(PACKAGE) if use.within}
    listed = {
        name: {file for file in found if file == name or file.startswith(f"{name}/")}
        for name in WITHIN_FUNCTIONS
    }
    assert found == set().union(*listed.values())
    assert [name for name, files in listed.items() if not files] == [], "no longer so: delete these lines"


def test_only_graph_imports_dgl():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for name, _, _, checking in imported(path)
        if name.split(".")[0] == "dgl" and not checking
    }
    assert found == {"data/graph.py"}


def test_nothing_can_unpickle():
    """But for the unpickler of plain data that `convert` has, which tests/unit/test_convert.py attacks."""
    unpicklers = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in PACKAGE.rglob("*.py"):
        text, names = path.read_text(), {name.split(".")[0] for name, *_ in imported(path)}
        if path != PACKAGE / "prep" / "unpickle.py":
            assert not names & unpicklers, path
        assert "allow_pickle" not in text, path
        for call in re.findall(r"torch\.load\((.*?)\)\n", text, flags=re.S):
            assert "weights_only=True" in call, path


# -------------------------------------------------------------------------------------------------------- Rust


NO_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | \bb?r(\#*)".*?"\1 | "(?:\\.|[^"\\])*" | b?'(?:\\.[^']*|[^'\\])'""",
    flags=re.S | re.X,
)
"""Comments and literals, in which a path means nothing."""


def code_of(text: str) -> tuple[str, set[str]]:
    """Rust code without comments, literals and what is compiled for tests alone; the modules of files that are.

    >>> code_of('use a::b; // c::d\\n#[cfg(test)]\\nmod tests { fn f() { "}" } }\\n#[cfg(test)]\\nmod made;')
    ('use a::b; \\n\\n\\n\\n', {'made'})
    """
    text = NO_CODE.sub(lambda found: "\n" * found[0].count("\n"), text)
    tests = set()
    while (start := text.find("#[cfg(test)]")) >= 0:
        end = re.compile("[;{]").search(text, start).end()
        if text[end - 1] == "{":
            depth = 1
            while depth:
                depth += {"{": 1, "}": -1}.get(text[end], 0)
                end += 1
        elif module := re.search(r"\bmod (\w+);$", text[start:end]):
            tests.add(module[1])
        text = text[:start] + "\n" * text[start:end].count("\n") + text[end:]
    return text, tests


def paths_of(tree: str) -> list[str]:
    """The paths of a `use`, its braces multiplied out.

    >>> paths_of("crate::{a::{self, B}, c as d}")
    ['crate::a::self', 'crate::a::B', 'crate::c']
    """
    tree = "".join(re.sub(r"\s+as\s+\w+", "", tree).split())
    head, brace, rest = tree.partition("{")
    if not brace:
        return [tree]
    parts, depth = [""], 0
    for letter in rest[:-1]:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [head + path for part in parts if part for path in paths_of(part)]


def rust_uses(source: Path) -> list[Use]:
    """Paths from file to file of a crate, `use` or not; those of tests left out."""
    files, codes, only_tests = {}, {}, set()
    for path in sorted(source.rglob("*.rs")):
        module = path.relative_to(source).with_suffix("").parts
        module = module[:-1] if module[-1] in ("mod", "lib") else module
        files[module] = path
        codes[module], tests = code_of(path.read_text())
        only_tests |= {(*module, name) for name in tests}
    found = []
    for module in files.keys() - only_tests:
        code = codes[module]
        assert not re.search(r"\bmod \w+\s*{", code), (
            f"{files[module]}: a module within a file is not read here"
        )
        own = {other[-1]: other for other in files if other and other[:-1] == module}
        heads = {"crate": (), source.parent.name: (), "self": module, **own}
        first = "|".join((*heads, "super"))
        said = [(use.start(), p) for use in re.finditer(r"\buse\s+([^;]+);", code) for p in paths_of(use[1])]
        inline = re.sub(r"\buse\s+[^;]+;", lambda use: re.sub(r"\S", " ", use[0]), code)
        said += [(p.start(), p[0]) for p in re.finditer(rf"(?<![\w:])(?:{first})(?:::\w+)+", inline)]
        for start, text in said:
            parts = text.split("::")
            up = next((i for i, part in enumerate(parts) if part != "super"), len(parts))
            if not up and parts[0] not in heads:
                continue  # another crate
            target = (*module[: len(module) - up], *parts[up:]) if up else (*heads[parts[0]], *parts[1:])
            while target not in files:
                target = target[:-1]
            if target != module:
                file, other = (files[m].relative_to(source).as_posix() for m in (module, target))
                found.append(Use(file, other, code.count("\n", 0, start) + 1))
    return sorted(set(found))


def test_every_file_of_the_crate_has_a_floor():
    assert {room(path.relative_to(CRATE).as_posix()) for path in CRATE.rglob("*.rs")} == set(FLOORS)


def test_the_crate_is_built_in_one_direction():
    found = upward(rust_uses(CRATE), FLOORS)
    assert not found, "\n".join(found)


def test_there_is_no_circle_in_the_crate():
    found = circle(rust_uses(CRATE))
    assert not found, " → ".join(found)


# ------------------------------------------------------------------------------------- these tests can fail


@pytest.mark.parametrize(
    "low",
    [
        "from pack.high import f",
        "import pack.high",
        "from pack import high",
        "if TYPE_CHECKING:\n    from pack.high import f",
        "def g():\n    from pack.high import f",
    ],
)
def test_a_circle_in_python_is_seen(low, tmp_path):
    package = tmp_path / "pack"
    package.mkdir()
    (package / "high.py").write_text("from pack.low import g\n")
    (package / "low.py").write_text("from pack import _prep\n")
    assert upward(python_uses(package), ("low", "high")) == circle(python_uses(package)) == []
    (package / "low.py").write_text(f"{low}\n")
    assert set(circle(python_uses(package))) == {"high.py", "low.py"}
    (said,) = upward(python_uses(package), ("low", "high"))
    assert re.match(r"low.py:\d imports high.py", said)


@pytest.mark.parametrize(
    "low",
    [
        "use crate::high::parts::f;",
        "use crate::{other::g, high::{parts::{self, f as h}}};",
        "use super::high::parts;",
        "fn g() { crate::high::parts::f() }",
        "fn g() { use super::high::parts; }",
    ],
)
def test_a_circle_in_rust_is_seen(low, tmp_path):
    source = tmp_path / "krate" / "src"
    (source / "high").mkdir(parents=True)
    (source / "lib.rs").write_text("mod high;\nmod low;\n")
    (source / "high" / "mod.rs").write_text("mod parts;\npub use parts::f;\n")
    (source / "high" / "parts.rs").write_text(
        "use crate::low::g;\n#[cfg(test)]\nmod tests { use super::super::f; }\n"
    )
    (source / "low.rs").write_text('// crate::high::parts::f\nfn g() { "crate::high::parts"; }\n')
    assert upward(rust_uses(source), ("lib", "low", "high")) == circle(rust_uses(source)) == []
    (source / "low.rs").write_text(f"{low}\n")
    assert set(circle(rust_uses(source))) == {"high/parts.rs", "low.rs"}
    assert upward(rust_uses(source), ("lib", "low", "high")) == [
        "low.rs:1 imports high/parts.rs, which lies above it"
    ]
    (source / "low.rs").write_text("")
    (source / "high" / "parts.rs").write_text("use super::f;\n")
    assert set(circle(rust_uses(source))) == {"high/mod.rs", "high/parts.rs"}


# ------------------------------------------------------------------------------------------------ light start
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
