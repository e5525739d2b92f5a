"""The specs in runs/: each starts as it stands. The tables of their README. A head of another package."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import PREP

import atomica
from atomica import spec
from atomica.model.named import is_name
from atomica.prep.command import main as prepare
from atomica.runner import main

ROOT = Path(__file__).parents[2]
SPECS = [path for path in sorted((ROOT / "runs").glob("*.toml")) if "job" not in spec.load(path).tree["run"]]
"""Those that train; jobs after training are tried where they are tested."""
PLUGIN = Path(__file__).parent / "plugin_example"

OUTSIDE = {
    "affinity": ("fep/index.csv", lambda row: row["pk"]),
    "ppi_affinity": ("bm5/index.csv", lambda row: row["label"]),
    "cofactor": ("cofactor/index.csv", lambda row: row["label"] in ("ADP", "HEM")),
    "multiclass": ("entries/index_ligand.csv", lambda row: row["lig_code"] in ("CL", "ZN")),
    "multilabel": ("cofactor/index.csv", lambda row: row["neighbours"] in ("ALF MG", "AF3 MG", "BEF")),
    "residues": ("rna_sites/index_rna.csv", lambda row: int(row["n_nucleotides"]) < 60),
}
SPLIT = {"residues": "graphs/rna.csv"}
"""Those whose index is split first, and where to."""
"""Spec on data from outside the package: its index, and which rows to build for a test."""
PER_SPLIT = 4


@pytest.fixture(scope="module")
def shards(shared, tmp_path_factory):
    """Builds a few rows of each split of an index of the reference data; returns the folder of shards."""

    def build(name, *words):
        file, chosen = OUTSIDE[name]
        source = shared / "data" / file
        folder = tmp_path_factory.mktemp(name)
        counts: dict[str, int] = {}
        with source.open(newline="") as stream, (folder / "index.csv").open("w", newline="") as out:
            reader = csv.DictReader(stream)
            writer = csv.DictWriter(out, reader.fieldnames)
            writer.writeheader()
            for row in reader:
                kind = row["split"] + (row["lig_code"] if name in ("multiclass", "cofactor") else "")
                kind = row["cluster"] if name in SPLIT else kind
                if not chosen(row) or counts.get(kind, 0) == PER_SPLIT:
                    continue
                counts[kind] = counts.get(kind, 0) + 1
                for column in ("path", "ligand_path"):
                    if row.get(column):
                        row[column] = str(source.parent / row[column])
                writer.writerow(row)
        index = str(folder / "index.csv")
        if name in SPLIT:
            split = ["split", index, "--by", "column:cluster", "--folds", "5", "--out", index, "--overwrite"]
            assert prepare(split) == 0
        arguments = ["build-graphs", index, "--out", str(folder / "shards"), *words]
        assert prepare(arguments) in (0, 3)
        return folder / "shards"

    return build


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_starts(path, request, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = spec.load(path).tree
    changes = []
    if path.stem in OUTSIDE:
        changes.append(f"data.train={request.getfixturevalue('shards')(path.stem)}")
    if "block_labels" in tree["data"]:
        labels = request.getfixturevalue("shared") / tree["data"]["block_labels"].removeprefix("../shared/")
        changes.append(f"data.block_labels={labels}")
    if not is_name(tree["model"].get("init", "base")):
        sizes = dict.fromkeys(("atom_hidden", "block_hidden"), 16) | {"edge_size": 8, "layers": 2}
        atomica.Model(atomica.EncoderConfig(**sizes)).save(tmp_path / "pretrained")
        changes.append("model.init=pretrained")
    code = main([str(path), "--dry-run", *(word for change in changes for word in ("--set", change))])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    for part in ("train", "valid", "test"):
        assert re.search(rf"^{part} +\d+ complexes", captured.out, flags=re.MULTILINE), captured.out
    assert "without anything to perturb" not in captured.out
    assert [entry.name for entry in tmp_path.iterdir()] in ([], ["pretrained"])


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_says_how_it_is_run(path):
    text = path.read_text()
    assert f"\n#     atomica-run runs/{path.name}" in text
    tree = spec.load(path).tree
    assert tree["run"]["name"] == path.stem
    data = tree["data"]["train"]
    if path.stem in OUTSIDE:
        file, _ = OUTSIDE[path.stem]
        index = SPLIT.get(path.stem, f"../shared/data/{file}")
        if path.stem in SPLIT:
            assert f"\n#     atomica-prep split ../shared/data/{file} --by column:cluster --folds 5" in text
        assert f"\n#     atomica-prep build-graphs {index} --out {data}\n" in text
    else:
        assert data in ("demo://pockets", ["demo://pockets"])
    assert f"[`{path.name}`]({path.name})" in (ROOT / "runs" / "README.md").read_text()


@pytest.mark.parametrize("fragments", ["none", "ccd_300"])
def test_finetuning_takes_data_of_ones_own_with_and_without_fragments(fragments, shards, tmp_path, capsys):
    """As the comment in finetune.toml says; the vocabulary is that of the data, unless the spec asks for another."""
    data = shards("cofactor", "--fragments", fragments)
    text = (ROOT / "runs" / "finetune.toml").read_text()
    assert "--fragments ccd_300" in text
    values = [f"run.out={tmp_path}/out", f"data.train={data}", "head.0.positive=ADP", "head.0.negative=HEM"]
    words = [str(ROOT / "runs" / "finetune.toml"), "--dry-run"]
    words += [word for value in values for word in ("--set", value)]
    assert main(words) == 0, capsys.readouterr().err
    other = "none" if fragments != "none" else "ccd_300"
    assert main([*words, "--set", f"data.fragments={other}"]) == 2
    assert f"built with fragment vocabulary '{fragments}', but" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ tables of the README


@pytest.fixture
def options(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from runs import options

    return options


def test_the_tables_are_up_to_date(options):
    text = options.README.read_text()
    assert options.updated(text) == text, "run python -m runs.options"
    assert options.updated(text.replace("| `run.seed`", "| `run.sead`")) == text
    assert options.main(["--check"]) == 0


def test_options_of_the_original_name_what_there_is(options):
    known = {row.key for row in options.every_setting()}
    flags = subprocess.run(
        [sys.executable, "-c", "from atomica import _prep; _prep.run(['build-graphs', '--help'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for row in options.mapping():
        assert row["ours"] or row["note"], row
        for key in options.keys_of(row["ours"]):
            assert key in known, row
        command = re.fullmatch(r"atomica-prep build-graphs (--[\w-]+)", row["ours"])
        assert command is None or command[1] in flags, row


def test_scripts_of_the_original_are_gone_only_where_their_work_is_done_elsewhere(options):
    named = {row["script"] for row in options.mapping() if row["ours"]}
    gone = {row["script"] for row in options.mapping()} - named
    assert gone == {"data/get_torsion_mask.py", "data/process_csd.py"}
    ours = {(row["script"], row["option"]): row["ours"] for row in options.mapping()}
    assert ours["train.py", "--use_raytune"] == "sweep.engine"
    assert ours["data/process_PeSTo_results.py", "--b_factor_cutoff"] == "data.pockets_above"


def test_every_option_of_the_original_has_its_line(options):
    with (PREP / "original_options.csv").open(newline="") as stream:
        wanted = [(row["script"], row["name"]) for row in csv.DictReader(stream)]
    assert sorted((row["script"], row["option"]) for row in options.mapping()) == sorted(wanted)


# --------------------------------------------------------------------------------------------- a head from outside


def test_a_head_of_another_package(tiny_set, tmp_path):
    """Installed by pip, found by its entry point, named by `kind`, trained and evaluated."""
    source = shutil.copytree(PLUGIN, tmp_path / "source")
    target = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
    ]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    code = (target / "atomica_ranking" / "__init__.py").read_text()
    head = code[code.index("@register") :]
    assert len([line for line in head.splitlines() if line.strip()]) <= 30
    changes = {
        "run.out": tmp_path / "out",
        "data.train": tiny_set,
        "head.0.label": "label_size",
        "train.epochs": 2,
        "model.layers": 1,
        "device.threads": 1,
        "log.tensorboard": "false",
    }
    command = [sys.executable, "-m", "atomica.runner", str(source / "ranking.toml")]
    command += [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    paths = os.pathsep.join([str(ROOT), str(target)])
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False
    )
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert -1 <= report["heads"]["ranking"]["metrics"]["spearman"] <= 1
    assert (tmp_path / "out" / "predictions.csv").read_text().startswith("id,label,prediction,")
    # The report has the plot that it names, and that it brings.
    page = (tmp_path / "out" / "report.html").read_text()
    assert "place by score" in page
    assert "Errors" not in page
    # Its settings are checked like those of any head.
    wrong = subprocess.run(
        [*command, "--set", "head.0.margins=1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )
    assert wrong.returncode == 2
    assert "did you mean head.0.margin?" in wrong.stderr


BENCH = sorted((ROOT / "runs" / "bench").glob("*.toml"))


@pytest.mark.parametrize("path", BENCH, ids=lambda path: path.stem)
def test_a_benchmark_spec_is_whole_and_says_what_it_expects(path):
    read = spec.load(path)
    assert "base" in (read.tree["model"].get("weights"), read.tree["model"].get("init"))
    assert re.search(r"^# expected: \S.* = -?[\d.]+ ± [\d.]+$", path.read_text(encoding="utf-8"), flags=re.M)


def test_the_smallest_benchmark_holds_and_another_model_does_not(tmp_path):
    """The weights that come with the package say what they said; random ones of the same size do not."""
    script = [sys.executable, str(ROOT / "tests" / "bench" / "specs.py"), "demo", "--set", "probe.few=[]"]
    script += ["--set", "probe.seeds=1"]
    done = subprocess.run(
        [*script, "--out", str(tmp_path / "own")], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "holds" in done.stdout
    torch.manual_seed(0)
    model = atomica.Model(atomica.load("base").config)
    model.save(tmp_path / "random")
    done = subprocess.run(
        [*script, "--out", str(tmp_path / "other"), "--set", f"model.weights={tmp_path / 'random'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "DIFFERS" in done.stdout
