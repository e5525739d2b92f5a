"""What does pretraining bring? Held-out terms, and affinities with and without it, beside baselines.

    python tests/bench/pretraining.py --data FOLDER --out WORK [--seeds 3] [--epochs 4 5 3] [--complexes 500 200 600]

FOLDER holds the indexes fep/, bm5/ and entries/. Everything is built, trained and evaluated by the project's two
commands with the specs in runs/, two runs at a time; what is in WORK already is not made again, and a run that was
cut short goes on. Settings of the affinity runs are chosen from CANDIDATES by the validation rows, for the runs from
scratch and for those from pretrained weights alike; the test rows decide nothing. Baselines for affinities: ridge
regression on counts of contacts by element and ligand heavy atoms, and the mean of the training rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import atomica
from atomica import spec
from atomica.data import graph, noise
from atomica.data.dataset import Dataset
from atomica.data.record import Record
from atomica.evaluation.baseline import contacts
from atomica.keys import SPECIAL_BLOCKS

Floats = npt.NDArray[np.float64]

RUNS = Path(__file__).resolve().parents[2] / "runs"
RESAMPLES = 2000
CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "regular": (
        "model.dropout=0.3",
        "head.0.dropout=0.3",
        "train.weight_decay=0.1",
        "train.learning_rate=1e-3",
    ),
}
"""Settings of affinity runs: those of runs/affinity.toml, and more against learning by heart."""
AT_ONCE = threading.Semaphore(2)
"""Runs at a time."""


def command(log: Path, *words: str | Path) -> None:
    """Run one of the project's commands, its output in `log`; stops the study if it fails."""
    text = [str(word) for word in words]
    log.parent.mkdir(parents=True, exist_ok=True)
    with AT_ONCE, log.open("a") as file:
        print("$", *text, flush=True)
        done = subprocess.run([sys.executable, "-m", *text], check=False, stdout=file, stderr=file)
    if done.returncode:
        raise SystemExit(f"{' '.join(text)}\nfailed with exit code {done.returncode}; see {log}")


def build(index: Path, out: Path) -> Path:
    """The shards of an index, built if they are not there."""
    if not (out / "manifest.json").is_file():
        command(out.with_suffix(".log"), "atomica.prep", "build-graphs", index, "--out", out)
    return out


# ------------------------------------------------------------------------------------------------ baselines


def ridge(train: Floats, answers: Floats, groups: Sequence[str], test: Floats) -> Floats:
    """Predictions of a ridge regression, its strength chosen by cross-validation over whole targets."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    grid = {"ridge__alpha": np.logspace(-1, 5, 13)}
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        grid,
        scoring="neg_root_mean_squared_error",
        cv=GroupKFold(5),
    )
    search.fit(train, answers, groups=groups)
    print(
        f"ridge strength {search.best_params_['ridge__alpha']:.3g}, chosen by cross-validation over targets"
    )
    return np.asarray(search.predict(test), dtype=np.float64)


# -------------------------------------------------------------------------------------------------- metrics


def correlations(
    measure: Callable[[Floats, Floats], float],
) -> tuple[Callable[[Floats, Floats, Floats], float], Callable[[Floats, Floats, Floats], float]]:
    """A correlation over all rows, and its mean within targets, weighted by their rows."""

    def overall(truth: Floats, guess: Floats, target: Floats) -> float:
        return measure(truth, guess)

    def within(truth: Floats, guess: Floats, target: Floats) -> float:
        values, weights = [], []
        for name in np.unique(target):
            rows = target == name
            value = measure(truth[rows], guess[rows])
            if np.isfinite(value):
                values.append(value)
                weights.append(rows.sum())
        return float(np.average(values, weights=weights)) if values else float("nan")

    return overall, within


def pearson(truth: Floats, guess: Floats) -> float:
    """Pearson's r; NaN where one side does not vary."""
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(guess) < 1e-9:
        return float("nan")
    return float(np.corrcoef(truth, guess)[0, 1])


def spearman(truth: Floats, guess: Floats) -> float:
    """Spearman's rho: Pearson's r of mean ranks."""
    from scipy.stats import rankdata

    return pearson(rankdata(truth), rankdata(guess))


def rmse(truth: Floats, guess: Floats, target: Floats) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((truth - guess) ** 2)))


METRICS: Mapping[str, Callable[[Floats, Floats, Floats], float]] = {
    "RMSE": rmse,
    **dict(zip(("Pearson", "Pearson within target"), correlations(pearson), strict=True)),
    **dict(zip(("Spearman", "Spearman within target"), correlations(spearman), strict=True)),
}


def resample(groups: npt.NDArray[np.str_], seed: int = 0) -> npt.NDArray[np.int64]:
    """Row numbers [RESAMPLES, N] drawn with replacement within each group."""
    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    return np.stack(
        [np.concatenate([generator.choice(rows, len(rows)) for rows in members]) for _ in range(RESAMPLES)]
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """2.5% and 97.5% quantiles of what is finite."""
    finite = np.asarray(values)[np.isfinite(values)]
    return (
        (float(np.percentile(finite, 2.5)), float(np.percentile(finite, 97.5)))
        if len(finite)
        else (np.nan,) * 2
    )


# -------------------------------------------------------------------------------------------------- pretraining

SETS = ("fep", "bm5", "entries_ligand", "entries_nucleic")
DRAWS = 2
"""Noise draws of each held-out complex."""


class Score(NamedTuple):
    """What the model scores on one draw of one complex, what the trivial answer does, its weight and its source."""

    model: float
    trivial: float
    weight: int
    source: str


@dataclass(frozen=True)
class HeldOut:
    """The pretrained model with what its run says of noise and crops, and the training rows' frequent blocks."""

    model: atomica.Model
    config: noise.NoiseConfig
    max_blocks: int
    sets: tuple[Dataset, ...]
    counts: npt.NDArray[np.int64]
    """How often each block is in the training rows of each set and partner [S, 2, T], as masked blocks are labelled."""

    @classmethod
    def of(cls, folder: Path, shards: Sequence[Path]) -> HeldOut:
        """What the pretraining run in `folder` left."""
        settings = spec.load(folder / "spec.toml").tree
        sets = tuple(atomica.open_dataset(path) for path in shards)
        return cls(
            atomica.load(folder / "checkpoints" / "best", device="cpu"),
            noise.NoiseConfig(**settings["noise"]),
            settings["data"]["max_item_blocks"],
            sets,
            np.stack([block_counts(data) for data in sets]),
        )

    def scores(self, part: str) -> dict[str, list[Score]]:
        """Every term of the rows of `part`: those that were denoised, and masked blocks by count of right ones."""
        found: dict[str, list[Score]] = {}
        for number, data in enumerate(self.sets):
            rows = np.flatnonzero(np.array(data.splits) == part)
            for draw in range(DRAWS):
                for row, seed in zip(rows, noise.seeds(number + 1, draw, rows), strict=True):
                    for term, score in self.terms(data[row], seed, self.counts[number]):
                        found.setdefault(term, []).append(score)
        return found

    def terms(self, record: Record, seed: Any, counts: npt.NDArray[np.int64]) -> Iterator[tuple[str, Score]]:
        """The terms of one draw of noise for one complex."""
        import torch

        model, options = self.model, self.model.config.graph_options()
        batch, made = graph.perturbed([record], self.config, [seed], max_blocks=self.max_blocks, **options)
        targets: dict[str, Any] = {"masked_block": made.mask_labels}
        if made.perturbation is not None:
            targets["denoise"] = made.perturbation
        with torch.no_grad():
            outputs = model.outputs(model.attach(batch, targets))
        source = record.metadata.get("target") or record.source_path
        if "denoise" in outputs:
            denoise: Any = model.head("denoise")
            for name, term in denoise.terms(outputs["denoise"], made.perturbation).items():
                if term.complexes:
                    yield name, Score(float(term.value), float(term.base), 1, source)
        labels = made.mask_labels.numpy()
        right = outputs["masked_block"].argmax(dim=1).numpy() == labels
        most = {
            "masked blocks": np.full(2, self.counts.sum(axis=(0, 1)).argmax()),
            "… by partner": counts.argmax(axis=1),
        }
        for name, frequent in most.items():
            trivial = frequent[made.segments[made.masked]] == labels
            yield name, Score(right.mean(), trivial.mean(), len(labels), source)


def block_counts(data: Dataset) -> npt.NDArray[np.int64]:
    """How often each ordinary block is in the training rows, in each partner [2, T]."""
    counts = np.zeros((2, data.block_types), dtype=np.int64)
    for row in np.flatnonzero(np.array(data.splits) == "train"):
        record = data[row]
        np.add.at(counts, (record.segment_ids, record.block_types), 1)
    return counts[:, SPECIAL_BLOCKS:]


def report_held_out(title: str, found: Mapping[str, Sequence[Score]]) -> None:
    """One line per term: model, trivial answer, and their difference with an interval over sources.

    The trivial answer is "not moved", and for masked blocks (share named right) the most frequent block of all
    training rows, or of those of the same data set and partner.

    Sources (the targets of fep, else structure files) are drawn whole: complexes of one protein are no independent
    witnesses.
    """
    print(f"\n{title:<24}{'draws':>6}{'sources':>9}{'model':>9}{'trivial':>9}   difference [95% interval]")
    for term, scores in found.items():
        names, source = np.unique([score.source for score in scores], return_inverse=True)
        values = np.array([(score.model, score.trivial, 1) for score in scores])
        values *= np.array([score.weight for score in scores])[:, None]
        sums = np.stack([np.bincount(source, column) for column in values.T], axis=1)
        model, trivial = sums[:, :2].sum(axis=0) / sums[:, 2].sum()
        drawn = np.random.default_rng(0).integers(len(names), size=(RESAMPLES, len(names)))
        picked = sums[drawn].sum(axis=1)
        low, high = interval(((picked[:, 0] - picked[:, 1]) / picked[:, 2]).tolist())
        print(
            f"{term:<24}{len(scores):>6}{len(names):>9}{model:>9.3f}{trivial:>9.3f}"
            f"   {model - trivial:+.3f} [{low:+.3f}, {high:+.3f}]"
        )


# --------------------------------------------------------------------------------------------------- affinities


def report_affinities(data: Dataset, runs: Mapping[str, Sequence[Path]]) -> None:
    """Metrics of baselines and of the runs' test predictions: of each seed, their means, and the means' difference.

    Intervals are 95% bootstrap intervals over complexes, drawn within each target; they say nothing about other
    targets.
    """
    answers, targets, splits = data.column("pk"), data.column("target"), data.splits
    known = [row for row, text in enumerate(answers) if text]
    rows = {part: [row for row in known if splits[row] == part] for part in ("train", "test")}
    truth = {part: np.array([float(answers[row] or 0) for row in chosen]) for part, chosen in rows.items()}
    features = {
        part: np.stack([contacts(data[row], data.block_types) for row in chosen])
        for part, chosen in rows.items()
    }
    groups = {part: np.array([targets[row] or "" for row in chosen]) for part, chosen in rows.items()}
    ids = [data.ids[row] for row in rows["test"]]
    # The first row is the test set itself.
    drawn = np.concatenate([np.arange(len(ids))[None], resample(groups["test"])])

    def measured(guess: Floats) -> Floats:
        """Every metric [M, 1 + R] on all rows, then on each sample."""
        return np.array(
            [
                [metric(truth["test"][d], guess[d], groups["test"][d]) for d in drawn]
                for metric in METRICS.values()
            ]
        )

    fitted = ridge(features["train"], truth["train"], groups["train"].tolist(), features["test"])
    table = {
        "training mean": measured(np.full(len(ids), truth["train"].mean())),
        "ridge on contact counts": measured(fitted),
    }
    means = {}
    for name, folders in runs.items():
        each = [measured(predictions(folder, ids)) for folder in folders]
        table |= {f"{name}, seed {seed}": values for seed, values in enumerate(each)}
        table[f"{name}, mean over seeds"] = means[name] = np.mean(each, axis=0)
    table["pretrained less scratch"] = means["pretrained"] - means["scratch"]
    table["scratch less ridge"] = means["scratch"] - table["ridge on contact counts"]
    print(f"\n{len(ids)} test complexes of {len(set(groups['test']))} targets, none of them trained on; pK")
    print(f"{'':<28}" + "".join(f"{name:>24}" for name in METRICS))
    for name, values in table.items():
        cells = []
        for value, *samples in values.tolist():
            low, high = interval(samples)
            cells.append(f"{value:.2f} [{low:.2f}, {high:.2f}]")
        print(f"{name:<28}" + "".join(f"{cell:>24}" for cell in cells))


def predictions(folder: Path, ids: Sequence[str]) -> Floats:
    """A run's predictions for the test complexes `ids`, in that order."""
    with (folder / "predictions.csv").open(newline="") as file:
        found = {row["id"]: row["prediction"] for row in csv.DictReader(file)}
    return np.array([float(found[name]) for name in ids])


def train(name: str, out: Path, *settings: str) -> Path:
    """A run of one of the specs in runs/, unless its evaluation is there; goes on with what was cut short."""
    if not (out / "evaluation.json").is_file():
        words = [word for setting in (f"run.out={out}", *settings) for word in ("--set", setting)]
        if (out / "checkpoints" / "last").exists():
            words.append("--resume")
        command(out.with_suffix(".log"), "atomica.runner", RUNS / name, *words)
    return out


def valid_rmse(run: Path) -> float:
    """The validation RMSE of a run's best epoch."""
    return float(json.loads((run / "evaluation.json").read_text())["checkpoint"]["valid"])


def arm(name: str, out: Path, seeds: int, *settings: str) -> list[Path]:
    """Affinity runs of one kind, one per seed, with the candidate settings that were best in validation."""

    def run(candidate: str, seed: int) -> Path:
        folder = out / f"{name}-{candidate}-{seed}"
        return train("affinity.toml", folder, *settings, *CANDIDATES[candidate], f"run.seed={seed}")

    with ThreadPoolExecutor() as pool:
        first = dict(zip(CANDIDATES, pool.map(lambda key: valid_rmse(run(key, 0)), CANDIDATES), strict=True))
        best = min(first, key=lambda key: first[key])
        listing = ", ".join(f"{key} {value:.3f}" for key, value in first.items())
        print(f"{name}: validation RMSE of seed 0: {listing}; taken: {best}", flush=True)
        return list(pool.map(lambda seed: run(best, seed), range(seeds)))


def main() -> None:
    """Build, train, evaluate, print."""
    sys.path.insert(0, str(Path(__file__).parent))
    from figures import machine

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with fep/, bm5/ and entries/")
    parser.add_argument("--out", type=Path, required=True, help="folder for graphs and runs")
    parser.add_argument("--seeds", type=int, default=3, help="affinity runs of each kind")
    parser.add_argument(
        "--epochs", type=int, nargs=3, default=(4, 5, 3), help="of pretraining, affinities, masking"
    )
    parser.add_argument(
        "--complexes",
        type=int,
        nargs=2,
        default=(500, 200),
        help="per epoch, of pretraining and of affinities",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    arguments = parser.parse_args()
    out: Path = arguments.out
    indexes = ("fep/index", "bm5/index", "entries/index_ligand", "entries/index_nucleic")
    shards = [
        build(arguments.data / f"{index}.csv", out / "graphs" / name)
        for index, name in zip(indexes, SETS, strict=True)
    ]
    threads = f"device.threads={arguments.threads}"
    affinity = (
        f"data.train={shards[0]}",
        f"data.epoch_complexes={arguments.complexes[1]}",
        f"train.epochs={arguments.epochs[1]}",
        threads,
    )
    unlabelled = (f"data.train={json.dumps([str(path) for path in shards])}", threads)
    with ThreadPoolExecutor() as pool:
        pretraining = pool.submit(
            train,
            "pretrain.toml",
            out / "pretrain",
            *unlabelled,
            "data.sampler=uniform",
            f"data.epoch_complexes={arguments.complexes[0]}",
            f"train.epochs={arguments.epochs[0]}",
        )
        scratch = pool.submit(arm, "scratch", out, arguments.seeds, *affinity)
        start = f"model.init={pretraining.result()}/checkpoints/best"
        tuned = pool.submit(arm, "pretrained", out, arguments.seeds, *affinity, start)
        masking = pool.submit(
            train,
            "masking.toml",
            out / "masking",
            *unlabelled,
            start,
            f"data.epoch_complexes={arguments.complexes[2]}",
            f"train.epochs={arguments.epochs[2]}",
        )
        for title, run in (("pretraining", pretraining), ("masking after it", masking)):
            held_out = HeldOut.of(run.result(), shards)
            for part in ("valid", "test"):
                report_held_out(f"{title}, {part}", held_out.scores(part))
        runs = {"scratch": scratch.result(), "pretrained": tuned.result()}
    report_affinities(atomica.open_dataset(shards[0]), runs)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
