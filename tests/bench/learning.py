"""Does the model learn? Single models and ensembles beside baselines, over folds or test rows, with intervals.

Where a task is trained from random weights, too (`NAME_random`), what is left of `NAME` less that is told below.

    python tests/bench/learning.py --data FOLDER --out WORK [--tasks cofactor ions …] [--seeds 5] [--set KEY=VALUE]

FOLDER holds the indexes of TASKS. Everything is built, trained and evaluated by the project's two commands with the
specs in runs/; what is in WORK already is not made again, and a run that was cut short goes on. Baselines, folds,
intervals and verdicts are those of evaluation.json. `--set train.epochs=1` and the like make a trial of it, which is
then no result.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atomica.evaluation.statistics import compare, numbered

RUNS = Path(__file__).resolve().parents[2] / "runs"
FOLDS = ("train.folds=5",)
ONE = ("train.seeds=1",)
"""Of whole RNAs five would take hours."""
DRAWN = ("model.atom_hidden=16", "model.block_hidden=16", "model.edge_size=8", "model.layers=3")
"""An encoder of the size of `base`, drawn anew for each seed: what its weights are worth."""
IONS = 'head.0.classes=["ZN", "MG", "CA", "MN", "FE", "CU", "NA", "K"]'


class Task(NamedTuple):
    """What is asked: the spec, the index below FOLDER (none: the data come with the package), what is changed."""

    title: str
    spec: str
    index: str = ""
    changes: tuple[str, ...] = ()
    unset: str = ""


COFACTOR = ("cofactor.toml", "cofactor/index.csv")
TASKS: Mapping[str, Task] = {
    "demo": Task("nucleic acid or protein, demo://pockets", "ligand.toml"),
    "finetune": Task("nucleic acid or protein, demo://pockets, from base", "finetune.toml"),
    "finetune_random": Task("the same with random weights", "finetune.toml", "", DRAWN, "model.init"),
    "cofactor": Task("8 cofactors, 5 folds", *COFACTOR, FOLDS),
    "cofactor_random": Task("the same with random weights", *COFACTOR, (*FOLDS, *DRAWN), "model.init"),
    "ions": Task("8 ions, 5 folds", *COFACTOR, (*FOLDS, IONS)),
    "ions_random": Task("the same with random weights", *COFACTOR, (*FOLDS, *DRAWN, IONS), "model.init"),
    "fep": Task("pK, protein-ligand", "affinity.toml", "fep/index.csv", ("data.cluster=target",)),
    "skempi": Task(
        "free energy, protein-protein", "ppi_affinity.toml", "skempi/index.csv", ("data.cluster=cluster",)
    ),
    "rna_sites": Task(
        "nucleotides that touch a ligand, 5 folds",
        "residues.toml",
        "rna_sites/index_rna.csv",
        (*FOLDS, *ONE, "data.block_labels={data}/rna_sites/residues.csv"),
    ),
}
"""Whole tables. unset: a key of the spec that is taken out."""
SPLIT = {"rna_sites": ("--by", "column:cluster", "--folds", "5")}
"""Those whose index is split first, and how."""
RANDOM = "_random"


def command(log: Path, *words: str | Path) -> float:
    """Run one of the project's commands, its output in `log`; gives its seconds, stops the study if it fails."""
    text, began = [str(word) for word in words], time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print("$", *text, flush=True)
        done = subprocess.run([sys.executable, "-m", *text], check=False, stdout=file, stderr=file)
    if done.returncode:
        raise SystemExit(f"{' '.join(text)}\nfailed with exit code {done.returncode}; see {log}")
    return time.monotonic() - began


def perform(name: str, arguments: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """Build and train what a task asks for, unless that is done: the first head's entry of evaluation.json, seconds."""
    task, work = TASKS[name], arguments.out / name
    changes = [change.format(data=arguments.data) for change in task.changes]
    if task.index:
        shards = arguments.out / "graphs" / task.index.partition("/")[0]
        if not (shards / "manifest.json").is_file():
            index = arguments.data / task.index
            if name in SPLIT:
                index, whole = shards.with_suffix(".csv"), index
                command(
                    shards.with_suffix(".log"), "atomica.prep", "split", whole, *SPLIT[name], "--out", index
                )
            command(shards.with_suffix(".log"), "atomica.prep", "build-graphs", index, "--out", shards)
        changes.append(f"data.train={shards}")
    seconds = 0.0
    if not (work / "evaluation.json").is_file():
        changes = [f"train.seeds={arguments.seeds}", f"run.out={work}", *changes, *arguments.set]
        words = [word for change in changes for word in ("--set", change)]
        words += ["--devices", str(arguments.devices), "--start-or-resume"]
        path = RUNS / task.spec
        if task.unset:
            path = work.with_suffix(".toml")
            path.write_text(
                f"base = {json.dumps(str(RUNS / task.spec))}\nunset = [{json.dumps(task.unset)}]\n"
            )
        seconds = command(work.with_suffix(".log"), "atomica.runner", path, *words)
    heads = json.loads((work / "evaluation.json").read_text())["heads"]
    return next(iter(heads.values())), seconds


def answers(work: Path) -> tuple[list[dict[str, str]], list[npt.NDArray[np.float64]]]:
    """The rows that a run of several trainings was asked, in order of their names, and what each seed says of them."""
    members = json.loads((work / "members.json").read_text())["members"]
    rows: dict[int, list[dict[str, str]]] = {}
    for name, member in members.items():
        with (work / "members" / name / "predictions.csv").open(newline="") as stream:
            rows.setdefault(member["seed"], []).extend(csv.DictReader(stream))
    each = [sorted(found, key=lambda row: row["id"]) for found in rows.values()]
    column = next(name for name in ("probability", "prediction") if name in each[0][0])
    return each[0], [np.array([json.loads(row[column]) for row in found]) for found in each]


def against_random(name: str, arguments: argparse.Namespace, entry: Mapping[str, Any]) -> str:
    """What one model from given weights is worth, less one from random weights, as a line."""
    rows, given = answers(arguments.out / name.removesuffix(RANDOM))
    others, drawn = answers(arguments.out / name)
    assert [row["id"] for row in rows] == [row["id"] for row in others]
    config, labels = entry["config"], [row["label"] for row in rows]
    if "classes" in config:
        target = np.array([config["classes"].index(label) for label in labels])
    else:
        target = np.array([label == config["positive"] for label in labels]).astype(int)
    groups = numbered([row["cluster"] for row in rows]) if "cluster" in rows[0] else None
    found = compare(target, given, {RANDOM: drawn}, seed=0, groups=groups)["difference"]
    told = (
        f"{name} {one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]" for name, one in found.items()
    )
    return f"  one model less one of random weights: {', '.join(told)}"


def table(task: Task, entry: Mapping[str, Any], seconds: float) -> list[str]:
    """What a task has shown, as lines: baselines, one model on average, the ensemble, differences, words."""
    names = list(entry["model"])

    def line(who: str, found: Mapping[str, Mapping[str, float | None]], sign: str = "") -> str:
        cells = []
        for name in names:
            value, low, high = (found.get(name, {}).get(key) for key in ("value", "low", "high"))
            ends = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
            cells.append("–" if value is None else f"{value:{sign}.3f}{ends}")
        return f"  {who:<34}" + "".join(f"{cell:<28}" for cell in cells).rstrip()

    drawn = f"{entry['clusters']} clusters" if entry["clusters"] else "complexes"
    took = f"; {seconds / 60:.0f} minutes" if seconds else ""
    lines = [f"\n{task.title}: {entry['complexes']} tested, intervals over {drawn}{took}"]
    lines.append(f"  {'':<34}" + "".join(f"{name:<28}" for name in names).rstrip())
    lines += [line(who, scores) for who, scores in entry["baselines"].items()]
    single = entry["single_comparison"]
    lines += [
        line("one model, mean over seeds", single["model"]),
        line("  less the best baseline", single["difference"], "+"),
        line(f"ensemble of {len(entry['seeds'])}", entry["model"]),
        line("  less the best baseline", entry["difference"], "+"),
    ]
    spread = ", ".join(
        f"{name} {one['mean']:.3f} ± {one['sd']:.3f}"
        for name, one in entry["single"].items()
        if name in names
    )
    return [*lines, f"  over seeds: {spread}", f"  {entry['verdict']}", f"  one model: {single['verdict']}"]


def main(words: Sequence[str] | None = None) -> None:
    """Build, train, evaluate, print."""
    sys.path.insert(0, str(Path(__file__).parent))
    from figures import machine

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the indexes")
    parser.add_argument("--out", type=Path, required=True, help="folder for graphs and runs")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tables to make")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--devices", type=int, default=1, help="members at a time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change all specs")
    arguments = parser.parse_args(words)
    if arguments.seeds < 2:
        parser.error("--seeds: at least 2")
    for name in arguments.tasks:
        entry, seconds = perform(name, arguments)
        lines = table(TASKS[name], entry, seconds)
        if (
            name.endswith(RANDOM)
            and (arguments.out / name.removesuffix(RANDOM) / "evaluation.json").is_file()
        ):
            lines.append(against_random(name, arguments, entry))
        print("\n".join(lines), flush=True)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
