"""Runs the specs of runs/bench, and says which of the figures that they expect hold.

    python tests/bench/specs.py --data FOLDER --out WORK              all of them
    python tests/bench/specs.py demo --out WORK                       the smallest, which needs no data
    python tests/bench/specs.py cofactor --data FOLDER --out WORK --set model.weights=mine
    python tests/bench/specs.py rna_sites --data FOLDER --out WORK --random 2     and on random weights
    python tests/bench/specs.py affinity skempi --data FOLDER --out WORK --folds 5   every row tested once

FOLDER is one of data sets, with `cofactor/index.csv` and so on. A spec says in comments which index its data are built
from, and what it expects: `# expected: PATH = VALUE ± TOLERANCE`, PATH within the first head's entry of
evaluation.json. Tolerances are for other processors and versions, not for chance: the data and seeds are the same. Exit
code 1 if something does not hold.

Probes always stand beside random weights. Specs that train do with --random N: what N encoders of the same size with
random weights reach, and what is left of the given ones less that; intervals of 95% draw whole clusters.

Test rows are few. With --folds N a probe on an index with clusters answers every row, by what learnt from other folds,
and expects nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow import csv

import atomica
from atomica import spec
from atomica.evaluation.results import complex_of
from atomica.evaluation.statistics import auroc, compare, numbered, resamplings
from atomica.jobs.probe import RANDOM, redrawn

ROOT = Path(__file__).parents[2]
SPECS = ROOT / "runs" / "bench"
NAMES = sorted(path.stem for path in SPECS.glob("*.toml"))
EXPECTED = re.compile(r"^# expected: (\S.*) = (-?[\d.]+) ± ([\d.]+)$", flags=re.M)


def expected(name: str) -> Iterator[tuple[str, float, float]]:
    """Path, value and tolerance of what a spec expects."""
    for path, value, tolerance in EXPECTED.findall((SPECS / f"{name}.toml").read_text(encoding="utf-8")):
        yield path, float(value), float(tolerance)


def at(entry: Any, path: str) -> float:
    """The number at a path within an entry, such as arms/vectors/ensemble/rmse."""
    for key in path.split("/"):
        entry = entry[key]
    return float(entry)


def stem(name: str, arguments: argparse.Namespace) -> str:
    """The folder of a spec's graphs and results; another for other settings."""
    changed = "-".join(re.sub(r"[^\w.=]+", "_", one) for one in arguments.set)
    return "-".join(
        [name, *([f"{arguments.folds}-folds"] if arguments.folds else []), *filter(None, [changed])]
    )


def perform(name: str, arguments: argparse.Namespace, out: Path, *more: str) -> dict[str, Any]:
    """Build what a spec is run on, unless that is done, and run it, changed some more: the first head's entry."""
    text = (SPECS / f"{name}.toml").read_text(encoding="utf-8")
    changes = [f"run.out={out}", *arguments.set, *more]
    split = found[1] if (found := re.search(r"^# split: (.+)$", text, flags=re.M)) else ""
    if arguments.folds:
        split = f"--by column:{spec.tomllib.loads(text)['probe']['cluster']} --folds {arguments.folds}"
        changes.append("probe.folds=fold")
    if index := re.search(r"^# index: (\S+)$", text, flags=re.M):
        if arguments.data is None:
            raise SystemExit(f"{name} is run on {index[1]}: name the folder that has it with --data")
        graphs = arguments.out / "graphs" / stem(name, arguments)
        if not (graphs / "manifest.json").is_file():
            rows = arguments.data / index[1]
            if split:
                rows = graphs.with_suffix(".csv")
                rows.parent.mkdir(parents=True, exist_ok=True)
                command(
                    "atomica.prep",
                    "split",
                    str(arguments.data / index[1]),
                    *split.split(),
                    "--out",
                    str(rows),
                )
            command("atomica.prep", "build-graphs", str(rows), "--out", str(graphs))
        changes.append(f"{'data.train' if '[train]' in text else 'data.source'}={graphs}")
        if labels := re.search(r"^# labels: (\S+)$", text, flags=re.M):
            changes.append(f"data.block_labels={arguments.data / labels[1]}")
    words = [word for change in changes for word in ("--set", change)]
    if not (out / "evaluation.json").is_file():
        command("atomica.runner", str(SPECS / f"{name}.toml"), *words, "--start-or-resume")
    heads: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["heads"]
    first: dict[str, Any] = next(iter(heads.values()))
    return first


def over_folds(name: str, entry: dict[str, Any]) -> str:
    """What a probe reaches that answered every row, and what is left of that less each of the controls, as a line."""
    told = [f"{entry['complexes']} complexes of {entry['clusters']} clusters"]
    for measure, whole in entry["model"].items():
        told.append(f"{measure} {whole['value']:.3f}")
        for other, test in entry["tests"].items():
            gap, own = test["difference"][measure], entry["arms"][other]["single"][measure]["mean"]
            told.append(
                f"{other} {own:.3f}, less it {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
            )
    return f"{'':8} {name}: " + "; ".join(told)


def against_random(name: str, arguments: argparse.Namespace) -> str:
    """What a training on random weights reaches, and what is left of that on the given ones, as a line."""
    whole = stem(name, arguments)
    tables = [arguments.out / whole / "predictions.csv"]
    for seed in range(arguments.random):
        weights, out = arguments.out / f"{whole}-weights{seed}", arguments.out / f"{whole}-random{seed}"
        if not weights.is_dir():
            settings = spec.load(SPECS / f"{name}.toml", arguments.set).tree["model"]
            redrawn(atomica.load(settings["init"]), seed).save(weights)
        perform(name, arguments, out, f"model.init={weights}")
        tables.append(out / "predictions.csv")
    read = [csv.read_csv(table) for table in tables]
    target, groups = read[0]["label"].to_numpy(), numbered(read[0]["cluster"].to_pylist())
    own, *others = (table["probability"].to_numpy() for table in read)
    found = compare(target, own, {RANDOM: others}, seed=0, groups=groups)
    random = found["baselines"][RANDOM]
    told = [
        f"{RANDOM} {measure} {random[measure]['value']:.3f}, "
        f"less it {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        for measure, gap in found["difference"].items()
    ]
    complexes = [complex_of(name) for name in read[0]["id"].to_pylist()]
    told.append(within(target, [own, *others], numbered(complexes), groups))
    return f"{'':8} {name}: " + "; ".join(told)


def within(
    target: npt.NDArray[Any],
    said: Sequence[npt.NDArray[np.float64]],
    complexes: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
) -> str:
    """The mean AUROC among the blocks of one complex, of the first and of the others, and the difference, as words."""
    parts = [np.flatnonzero(complexes == one) for one in range(complexes.max() + 1)]
    parts = [rows for rows in parts if 0 < target[rows].sum() < len(rows)]
    each = np.array([[auroc(target[rows], one[rows]) for one in said] for rows in parts])
    gaps = each[:, 0] - each[:, 1:].mean(axis=1)
    clusters = numbered([str(groups[rows[0]]) for rows in parts])
    drawn = [gaps[rows].mean() for rows in resamplings(len(parts), seed=0, resamples=1000, groups=clusters)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return (
        f"within one complex auroc {each[:, 0].mean():.3f}, {RANDOM} {each[:, 1:].mean():.3f}, "
        f"less it {gaps.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
    )


def command(*words: str) -> None:
    """Run one of the project's commands, or end with it."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}")


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(NAMES)}; all by default")
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), help="folder of data sets")
    parser.add_argument(
        "--out", type=lambda text: Path(text).resolve(), required=True, help="folder of results"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="for all of the specs"
    )
    parser.add_argument(
        "--random", type=int, default=0, metavar="N", help="trainings on random weights, for those that train"
    )
    parser.add_argument(
        "--folds", type=int, default=0, metavar="N", help="for probes on an index with clusters"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(NAMES)}")
    texts = {name: (SPECS / f"{name}.toml").read_text(encoding="utf-8") for name in arguments.names or NAMES}
    if arguments.folds and (
        others := [name for name, text in texts.items() if "# index:" not in text or "[probe]" not in text]
    ):
        parser.error(f"--folds: {', '.join(others)} has no index, or is no probe")
    lines, fine = [], True
    for name, text in texts.items():
        entry = perform(name, arguments, arguments.out / stem(name, arguments))
        if arguments.folds:
            lines.append(over_folds(name, entry))
            continue
        for path, value, tolerance in expected(name):
            found = at(entry, path)
            holds = abs(found - value) <= tolerance
            fine = fine and holds
            lines.append(
                f"{'holds' if holds else 'DIFFERS':8} {name}: {path} {found:.3f}, "
                f"expected {value:.3f} ± {tolerance:.3f}"
            )
        if arguments.random and "[train]" in text:
            lines.append(against_random(name, arguments))
    print("\n".join(lines))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
