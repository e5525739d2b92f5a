"""The README files: their Python runs, their commands run or are understood, their links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, slow

import atomica
from atomica import runner, spec
from atomica.arguments import parser
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.prep import command as prep

PICTURES = sorted((ROOT / "runs" / "pictures").glob("*.png"))
NOTEBOOKS = sorted((ROOT / "runs" / "notebooks").glob("*.ipynb"))

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "atomica/**/*.md", "atomica_prep/*.md", "runs/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)


def blocks(page: str, *languages: str) -> list[str]:
    """The code blocks of a page in one of some languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.M | re.S)
    return [block for language, block in found if language in languages]


def commands(page: str) -> list[list[str]]:
    """The words of every atomica-prep and atomica-run in the shell blocks of a page."""
    lines = "".join(blocks(page, "bash", "")).replace("\\\n", " ").splitlines()
    parts = (shlex.split(part, comments=True) for line in lines for part in line.split("&&"))
    return [words for words in parts if words and words[0] in ("atomica-prep", "atomica-run")]


PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_runs_and_prints_what_it_says(page, block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"^print\(.*\)\s+# (.*)", block, flags=re.M)


@pytest.fixture
def place(tmp_path, tiny_set, monkeypatch):
    """A folder with what the commands name: the specs, an index of structures, molecules, trained models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    structures = tmp_path / "structures"
    structures.mkdir()
    for file in tiny_set.parent.glob("c*.pdb"):
        (structures / file.name).symlink_to(file)
    index = (tiny_set.parent / "index.csv").read_text().replace(",yes,", ",strong,").replace(",no,", ",weak,")
    (tmp_path / "index.csv").write_text(re.sub(r",(c\d+\.pdb),", r",structures/\1,", index))
    (tmp_path / "molecules.smi").write_text("CCO\nc1ccccc1O\nCC(=O)NC\nCCN\nc1ccccc1C(=O)O\n")
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1)
    own = BinaryConfig(positive="strong", negative="weak", hidden=4)
    model = atomica.Model(config, {"binary": BinaryHead(own, config)}, kinds={"binary": "binary"})
    for name in ("mine", "ligand"):
        model.save(tmp_path / "outputs" / name / "checkpoints" / "best")
    return tmp_path


@pytest.mark.parametrize("page", ["README.md", "atomica_prep/README.md"])
def test_commands_run(page, place, capfd):
    """In their order; of trainings the dry run."""
    found = commands(page)
    assert len(found) >= 9
    for program, *words in found:
        if program == "atomica-prep":
            code = prep.main(words)
        else:
            source = spec.load(Path(words[0]))
            if "job" not in source.tree["run"] and "--dry-run" not in words:
                words.append("--dry-run")
            code = runner.main(words)
        assert code == 0, (words, capfd.readouterr().err)


COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[" ".join(words) for _, words in COMMANDS])
def test_commands_are_understood(page, words, monkeypatch):
    """Words are those of the command; a spec that is named is there, and settings that are changed exist."""
    monkeypatch.syspath_prepend(str(ROOT))
    from runs.options import every_setting

    program, *rest = words
    rest = rest[: rest.index(">")] if ">" in rest else rest
    if program == "atomica-prep":
        command = [*rest[: 2 if rest[0] == "fragments" else 1], "--help"]
        said = subprocess.run(
            [sys.executable, "-m", "atomica.prep", *command], capture_output=True, text=True, check=True
        )
        for word in rest:
            assert not word.startswith("--") or re.search(rf"{word}\b", said.stdout), word
        return
    arguments = parser().parse_args(rest)
    if arguments.spec is not None and arguments.spec.startswith("runs/"):
        spec.load(ROOT / arguments.spec, arguments.overrides)
    keys = {re.sub(r"\.\d+\.", ".N.", word.partition("=")[0]) for word in arguments.overrides}
    assert keys <= {setting.key for setting in every_setting()}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for script in re.findall(r"tests/\w+/\w+\.py", text):
        assert (ROOT / script).exists(), script
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (ROOT / page).parent / file if file else ROOT / page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)", there.read_text(), flags=re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, (
                target
            )


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_pictures_are_small_and_shown():
    assert len(PICTURES) == 4
    for path in PICTURES:
        assert path.stat().st_size < 200_000
        assert f"(pictures/{path.name})" in (ROOT / "runs" / "README.md").read_text()


@slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, monkeypatch):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.syspath_prepend(str(ROOT))
    from runs.notebooks.__main__ import executed

    book = executed(path)
    shown = [cell for cell in book.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_what_they_show(path):
    """Every cell was run, none failed, in the order of the cells; nothing of the machine is in the file."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert "error" not in [one["output_type"] for cell in cells for one in cell["outputs"]]
    assert "/tmp/" not in path.read_text()
    assert path.stat().st_size < 100_000
