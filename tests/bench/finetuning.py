"""What is fine-tuning worth with few labels? Ways to train on cofactors, each with 50, 100 and all rows, beside probes.

    python tests/bench/finetuning.py --data FOLDER --out WORK [--weights base] [--rows 50 100 0] [--seeds 1] [--arms …]

FOLDER has `cofactor/index.csv`. Its test rows are not looked at: each of the other folds is answered in turn by what
learnt from the rest, of which so many rows are drawn, a fifth of them from one fold to choose by (0 rows: all there
are). Every training is `runs/finetune.toml` with what `ARMS` changes in it; what is in WORK already is not made again.
Intervals of 95% draw whole clusters; of several seeds one line tells of one of them, and one of their mean.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import atomica
from atomica import _prep, runner, spec
from atomica.evaluation.statistics import compare, numbered
from atomica.jobs.probe import redrawn

RUNS = Path(__file__).resolve().parents[2] / "runs"
SOLVED: Mapping[str, Any] = {"train.epochs": 0}
APART: Mapping[str, Any] = {"train.refit": False}
"""Validation rows are not learnt from, but choose the epoch."""
ALL: Mapping[str, Any] = {"train.freeze": []}
RANDOM: Mapping[str, Any] = {"model.init": "random"}
ARMS: Mapping[str, Mapping[str, Any]] = {
    "finetune.toml": {},
    "head solved": SOLVED,
    "head solved, valid apart": {**SOLVED, **APART},
    "valid apart": APART,
    "3 epochs": {"train.epochs": 3},
    "head trained on": {"train.freeze": ["encoder"]},
    "all trained": ALL,
    "all trained, one rate": {**ALL, "train.rates.encoder": 1e-3},
    "random": RANDOM,
    "random, head solved": {**RANDOM, **SOLVED},
    "random, all trained, one rate": {**RANDOM, **ALL, "train.rates.encoder": 1e-3},
}
"""Ways to train, by what they change in the spec. Random: weights of the same size, drawn for each seed."""
SAME = ("head solved", "head solved, valid apart")
"""Those that are the same for every seed."""
PROBES = {
    "probe": "prediction",
    "probe of counts": "residue counts",
    "probe of random weights": "random weights",
}
"""Columns of what the job probe answers with the settings of runs/bench/cofactor.toml."""

Floats = npt.NDArray[np.float64]


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """A table as pairs of path and value, `[[head]]` by number."""
    for key, value in table.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(place): one for place, one in enumerate(value)}
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def perform(path: Path, changes: Mapping[str, Any], out: Path) -> dict[str, dict[str, str]]:
    """Run a spec with other settings, None for none, unless it has been: its predictions, by id."""
    if not (out / "predictions.csv").is_file():
        shutil.rmtree(out, ignore_errors=True)  # of a run that was cut short
        settings = dict(flat(spec.tomllib.loads(path.read_text(encoding="utf-8"))))
        settings |= {"device.threads": 1, **changes, "run.out": str(out)}
        stub = out.with_suffix(".toml")
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("[[head]]\n" if "head.0.kind" in settings else "", encoding="utf-8")
        words = [f"{key}={spec.show(value)}" for key, value in settings.items() if value is not None]
        runner.perform(spec.load(stub, words), quiet=True)
        print(out, file=sys.stderr, flush=True)
    with (out / "predictions.csv").open(newline="") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def drawn(rows: list[dict[str, str]], asked: str, count: int, draw: int = 0) -> list[dict[str, str]]:
    """The rows for one fold: `asked` is answered, the next chooses, others are learnt from; one of each class first."""
    folds = sorted({row["fold"] for row in rows})
    choosing = folds[(folds.index(asked) + 1) % len(folds)]
    generator = np.random.default_rng([int(asked), draw])
    left = {"train": count - count // 5, "valid": count // 5}
    found, seen = [dict(row, split="test") for row in rows if row["fold"] == asked], set()
    order = [rows[place] for place in generator.permutation(len(rows)) if rows[place]["fold"] != asked]
    splits = [(row, "valid" if row["fold"] == choosing else "train") for row in order]
    first = [not (key in seen or seen.add(key)) for key in ((one, row["label"]) for row, one in splits)]
    for _, (row, split) in sorted(zip(first, splits, strict=True), key=lambda each: not each[0]):
        if not count or left[split] > 0:
            left[split] -= 1
            found.append(dict(row, split=split))
    return found


def graphs(data: Path, rows: list[dict[str, str]], folder: Path) -> Path:
    """The data set of some rows of the index."""
    if not (folder / "manifest.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        index = folder.with_suffix(".csv")
        with index.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows([row | {"path": str(data / row["path"])} for row in rows])
        _prep.build(_prep.BuildOptions([index], folder, threads=1))
    return folder


def random(weights: str, seed: int, folder: Path) -> str:
    """A folder of the same encoder with weights drawn anew."""
    if not folder.is_dir():
        redrawn(atomica.load(weights), seed).save(folder)
    return str(folder)


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """Of the arguments that studies of few rows share."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--out", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--weights", default="base")
    parser.add_argument("--rows", type=int, nargs="+", default=[50, 100, 0], help="0: all")
    return parser


def untested(data: Path, classes: Sequence[str]) -> list[dict[str, str]]:
    """The rows of the index of cofactors that have some label, and are no test rows."""
    with (data / "cofactor" / "index.csv").open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["label"] in classes and row["split"] != "test"]


def main() -> None:
    """Entry point."""
    parser = parser_of(__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=4, help="how many of the folds are asked")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all trainings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    probe = RUNS / "bench" / "cofactor.toml"
    classes = spec.tomllib.loads(probe.read_text(encoding="utf-8"))["probe"]["classes"]
    rows = untested(arguments.data, classes)
    folds = sorted({row["fold"] for row in rows})[: arguments.folds]
    asked = [row for row in rows if row["fold"] in folds]
    target = np.array([classes.index(row["label"]) for row in asked])
    groups = numbered([row["cluster"] for row in asked])
    head = {
        "head.0.kind": "multiclass",
        "head.0.classes": classes,
        "head.0.positive": None,
        "head.0.negative": None,
    }
    own = {key: json.loads(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    for count in arguments.rows:
        answers: dict[str, list[dict[str, str]]] = {
            arm: [{} for _ in range(1 if arm in SAME else arguments.seeds)] for arm in arguments.arms
        }
        answers = {name: [{}] for name in PROBES} | answers
        for fold in folds:
            place = arguments.out / f"{count or 'all'}-{fold}"
            built = str(graphs(arguments.data / "cofactor", drawn(rows, fold, count), place / "graphs"))
            changes = {
                "data.source": built,
                "model.weights": arguments.weights,
                "probe.folds": "",
                "probe.few": [],
            }
            said = perform(probe, changes | {"probe.seeds": 1}, place / "probe")
            for name, column in PROBES.items():
                answers[name][0] |= {one: row[column] for one, row in said.items()}
            for arm in arguments.arms:
                for seed in range(1 if arm in SAME else arguments.seeds):
                    changes = {
                        "data.train": built,
                        "model.init": arguments.weights,
                        **head,
                        **own,
                        **ARMS[arm],
                    }
                    if changes["model.init"] == "random":
                        changes["model.init"] = random(
                            arguments.weights, seed, arguments.out / f"random{seed}"
                        )
                    out = place / f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"
                    said = perform(RUNS / "finetune.toml", changes | {"run.seed": seed}, out)
                    answers[arm][seed] |= {one: row["prediction"] for one, row in said.items()}
        print(f"\n{count or 'all'} rows; {len(asked)} pockets asked, {groups.max() + 1} clusters", flush=True)
        tell(
            target,
            groups,
            {
                arm: [np.array([json.loads(one[row["id"]]) for row in asked]) for one in each]
                for arm, each in answers.items()
            },
        )


def tell(
    target: npt.NDArray[Any], groups: npt.NDArray[np.int64], answers: Mapping[str, list[Floats]]
) -> None:
    """A line for each arm: its scores, and what is left of them less those of the first arms."""
    answers = dict(answers)
    for arm, each in list(answers.items()):
        if len(each) > 1:
            answers[f"{arm}, {len(each)} together"] = [np.mean(each, axis=0)]
    for arm, each in answers.items():
        line = f"{arm:32}"
        for measure, title in (("balanced_accuracy", "BA"), ("auroc", "AUROC")):
            for other in (
                "",
                *(one for one in ("probe", "probe of counts", "finetune.toml") if one in answers),
            ):
                found = compare(target, each, {other: answers[other or arm]}, seed=0, groups=groups)
                one = found["difference" if other else "model"][measure]
                form = "+.3f" if other else ".3f"
                title = f"less {other}" if other else title
                if other != arm:
                    line += f"  {title} {one['value']:{form}} [{one['low']:{form}}, {one['high']:{form}}]"
        print(line, flush=True)


if __name__ == "__main__":
    main()
