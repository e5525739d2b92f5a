"""Fixtures for all tests."""

from __future__ import annotations

import os

if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Workers share the cores: more threads than there are wait for one another. NumPy and PyTorch read it once.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(count))))

import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers import changed

collect_ignore = ["bench", "e2e/plugin_example"]
"""Scripts that import packages the tests do not need, and a plug-in, whose head would be one of ours once imported."""
if not os.environ.get("TRITON_INTERPRET"):
    collect_ignore.append("unit/triton_cases.py")  # run by test_kernels.py, in a process of its own


NO_DATA = "no reference data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of structures too large for this tree: beside the project, or where ATOMICA_SHARED says."""
    stated = os.environ.get("ATOMICA_SHARED")
    folder = Path(stated) if stated else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        if stated:
            raise pytest.UsageError(f"ATOMICA_SHARED = {stated}: no folder data/ there")
        pytest.skip(NO_DATA)
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line says what was not tested for want of data, and how to have it; .ci/run looks for it."""
    reports = terminalreporter.stats.get("skipped", [])
    missed = sum(isinstance(r.longrepr, tuple) and NO_DATA in r.longrepr[2] for r in reports)
    if missed:
        terminalreporter.write_line(
            f"{NO_DATA}: {missed} tests skipped; set ATOMICA_SHARED to the folder that holds data/ "
            "(tests/fixtures/README.md)"
        )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the original's networks, *.safetensors, unpacked."""
    from cases import unpacked  # needs PyTorch, which not all tests do

    return unpacked(tmp_path_factory.mktemp("models"))


def seed(name: str) -> None:
    """Start everything that tests draw from at a number made of a name."""
    import torch

    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """A test draws the same weights and numbers whichever tests ran before it."""
    seed(request.node.name)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef) -> None:
    """The same of what several tests share, whichever of them is first to ask for it."""
    if fixturedef.scope != "function":
        seed(fixturedef.argname)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """A spec may set the number of threads; put it back."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


TINY_ATOMS = {"N": (-1.2, 0.6), "CA": (0.0, 0.0), "C": (1.2, 0.6), "O": (1.3, 1.8), "CB": (0.1, -1.5)}
"""Atom name → place along and away from the chain, Å: a caricature of a residue."""


def tiny_chain(chain: str, residues: list[str], height: float, jitter: np.random.Generator) -> list[str]:
    """PDB lines of a straight chain; Cα atoms are 3.8 Å apart."""
    lines = []
    for number, residue in enumerate(residues, start=1):
        for name, (along, away) in TINY_ATOMS.items():
            if residue == "GLY" and name == "CB":
                continue
            x, y, z = np.array([3.8 * number + along, height + away, 0.0]) + jitter.normal(0, 0.2, 3)
            lines.append(
                f"ATOM  {len(lines) + 1:5d}  {name:<3} {residue} {chain}{number:4d}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {name[0]}"
            )
    return [*lines, "TER"]


@pytest.fixture(scope="session")
def write_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Writes a spec such as `helpers.TINY`, changed, to a folder of its own; returns its path and the run's folder."""

    def write(text: str, changes: Mapping[str, str] | None = None) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("run")
        text = text.format(out=folder / "out", data=tiny_set)
        (folder / "spec.toml").write_text(changed(text, changes))
        return folder / "spec.toml", folder / "out"

    return write


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 small made-up complexes, built by atomica-prep, with labels yes/no and a split.

    Patches (segment 0) labelled yes are rich in charged residues, so that there is something to learn. Two of
    three have another label, label_size, the length of the patch.
    """
    from atomica import _prep

    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(20)
    charged, greasy = ["LYS", "ARG", "GLU", "ASP", "SER"], ["LEU", "VAL", "ILE", "PHE", "SER"]
    rows = ["id,path,chain1,chain2,label,split,batch_of,label_size"]
    for index in range(60):
        yes = index % 2 == 0
        patch = generator.choice(charged if yes else greasy, generator.integers(6, 12)).tolist()
        partner = generator.choice([*charged, *greasy, "GLY"], generator.integers(4, 9)).tolist()
        lines = [
            *tiny_chain("A", patch, 0.0, generator),
            *tiny_chain("B", partner, 6.0, generator),
            "END",
            "",
        ]
        (folder / f"c{index:02}.pdb").write_text("\n".join(lines))
        split = ("train", "train", "train", "valid", "test")[index // 2 % 5]
        size = len(patch) if index % 3 else ""
        rows.append(f"c{index:02},c{index:02}.pdb,A,B,{'yes' if yes else 'no'},{split},{index // 10},{size}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    shards = folder / "shards"
    arguments = ["build-graphs", str(folder / "index.csv"), "--out", str(shards), "--shard-rows", "25"]
    assert _prep.run(arguments) == 0
    return shards
