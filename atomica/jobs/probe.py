"""`run.job = "probe"`: what can be read from frozen vectors by a simple model, beside two controls.

A linear probe learns labels from the vectors of the training and validation rows, its strength chosen by
cross-validation over them that keeps clusters whole: validation rows alone are few, and choose by chance. A small
network learns from the training rows, its epoch chosen on the validation rows. Beside it stand, always, the same probe
on counts of block types with log size, and on the vectors of the same encoder with random weights: what a probe reads
from these, nobody needs to have been trained for.

Shape letters: N complexes with a label, F numbers of a vector, C classes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from atomica.console import Journal, Meter
from atomica.errors import AtomicaError, DataError
from atomica.evaluation.baseline import Baseline, composition, counted, fitted
from atomica.evaluation.results import (
    Answers,
    Evaluation,
    assess,
    format_comparison,
    measured,
    singles,
)
from atomica.evaluation.statistics import MEASURES, Measure, compare, mcnemar, numbered
from atomica.files import number_of
from atomica.heads import Head, values_met
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.readout import FAR
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.jobs.embed import encode, piece_size, vectors
from atomica.jobs.inputs import Opened
from atomica.jobs.job import Job, Kind, Result
from atomica.jobs.tables import in_pieces
from atomica.model.model import Model
from atomica.nn.equivariant import EncoderConfig
from atomica.nn.representations import POOLS, Representation
from atomica.report.probe import page
from atomica.spec import Issues, Problems, setting

__all__ = ["KIND", "ProbeConfig"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

VECTORS, COUNTS, RANDOM = "vectors", "residue counts", "random weights"
"""What is probed, and the two controls."""
TABLE = "vectors"
"""The table of what encoders make of the rows, which is gone when the job is done."""


@dataclass(frozen=True)
class ProbeConfig:
    """Section `[probe]`: vectors, labels, and the model that reads one from the other."""

    label: str = setting("label", "label or metadata column of the data that holds the answers")
    answers: str = setting("classes", "what the answers are", choices=("classes", "numbers"))
    classes: tuple[str, ...] = setting(
        (), "label values, one per class; empty: all that training and validation rows have", distinct=True
    )
    vectors: str | None = setting(
        None,
        "Parquet of vectors by id, or folder of a job embed; absent: what model.weights makes of the data",
        path=True,
    )
    column: str = setting("embedding", "column of the vectors in probe.vectors and probe.random")
    representation: str = setting(
        "h_graph",
        "what is read of model.weights: the embedding of complexes, or its rotation invariants",
        choices=("h_graph", "z_graph"),
    )
    pool: str = setting("mean_std_global", "how z_graph pools blocks", choices=POOLS)
    random: str | None = setting(
        None,
        "vectors of the same encoder with random weights; absent: those of model.weights with other weights, drawn for "
        "each seed",
        path=True,
    )
    method: str = setting(
        "linear",
        "what reads the vectors",
        choices={
            "linear": "logistic regression, or ridge regression for numbers",
            "mlp": "a network of scikit-learn with layers of probe.hidden",
        },
    )
    strengths: tuple[float, ...] = setting(
        (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0),
        "C of the linear probe, of which cross-validation over training and validation rows chooses; the larger, the "
        "freer the fit",
        above=0,
        shortest=1,
    )
    hidden: tuple[int, ...] = setting((512, 512, 32), "widths of the network's layers", low=1, shortest=1)
    epochs: int = setting(100, "of the network, at most; the best one on validation rows counts", low=1)
    patience: int = setting(15, "of the network: epochs without a better one after which it ends", low=1)
    seeds: int = setting(
        5,
        "networks, and encoders with random weights, that differ by their seed; the ensemble is told of",
        low=1,
    )
    few: tuple[int, ...] = setting(
        (),
        "numbers of labelled rows for a learning curve: four fifths of so many of the training rows and a fifth of the "
        "validation rows, drawn anew for each of probe.seeds",
        low=10,
        distinct=True,
    )
    cluster: str = setting("", "column that names the cluster of each complex; intervals draw whole clusters")
    folds: str = setting(
        "",
        "column of folds: each is tested once, the next one chooses, and the results are pooled; empty: the splits "
        "train, valid and test",
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (len(self.classes) == 1, "classes", "must be two at least"),
            (
                self.answers == "numbers" and bool(self.classes),
                "classes",
                'has no effect with answers = "numbers"; remove it',
            ),
        )


# -------------------------------------------------------------------------------------------------- inputs


@dataclass(frozen=True)
class Question:
    """What is asked: places of the complexes with a label among the rows [N], answers [N], parts, clusters [N].

    parts: places of train, valid and test among the N, once for each fold.
    """

    head: Head
    places: Indices
    texts: Sequence[str]
    target: npt.NDArray[Any]
    parts: Sequence[tuple[Indices, Indices, Indices]]
    clusters: Sequence[str] | None

    @property
    def form(self) -> str:
        """A key of `MEASURES`."""
        return "classes" if isinstance(self.head, MulticlassHead) else "numbers"

    def fewer(self, rows: int, seed: int) -> Question:
        """The same with so many rows to learn from and to choose by, or all if there are not more; tested rows stay.

        Of each class there is one to learn from, if there is room.
        """
        generator = np.random.default_rng(seed)

        def drawn(places: Indices, count: int) -> Indices:
            order = generator.permutation(places)
            if self.form == "classes":
                first = np.sort(np.unique(self.target[order], return_index=True)[1])
                order = np.concatenate([order[first], np.delete(order, first)])
            return order[:count]

        choosing = max(2, rows // 5)
        parts = [
            (drawn(train, rows - choosing), drawn(valid, choosing), test) for train, valid, test in self.parts
        ]
        return replace(self, parts=parts)

    @property
    def tested(self) -> Indices:
        """The rows of all tests, one after the other."""
        return np.concatenate([test for _, _, test in self.parts])


def question(options: ProbeConfig, data: Opened) -> Question:
    """Labels and parts of the data. Raises DataError if a part is empty, or there is nothing to tell apart."""
    rows = data.rows
    texts = rows.texts(options.label)
    column = rows.texts(options.folds) if options.folds else _splits(data)
    encoder = EncoderConfig(atom_hidden=8, block_hidden=8, layers=1)  # heads want one; it is not used
    head: Head = RegressionHead(RegressionConfig(), encoder)
    if options.answers == "classes":
        seen = {text for text, one in zip(texts, column, strict=True) if text and one and one != "test"}
        classes = options.classes or tuple(sorted(seen))
        if len(classes) < 2:
            whole = (
                "" if any(column) else "; no row is of a split, which atomica-prep split shares rows out to"
            )
            raise DataError(
                f"{rows.dataset.name}: column {options.label!r} has {len(classes)} classes among rows to learn from, "
                f"and two are needed{whole}"
            )
        head = MulticlassHead(MulticlassConfig(classes), encoder)
    target, known = type(head).encode_labels(head.config, texts)
    places = np.flatnonzero(known.numpy().astype(bool) & np.array([bool(one) for one in column]))
    of = np.array([column[place] or "" for place in places], dtype=object)
    if options.folds:
        names = sorted(set(of), key=lambda one: (len(one), one))
        if len(names) < 3:
            raise DataError(
                f"{rows.dataset.name}: column {options.folds!r} names {len(names)} folds; it takes 3"
            )
        cuts = [(name, names[(index + 1) % len(names)]) for index, name in enumerate(names)]
        masks = [((of != test) & (of != valid), of == valid, of == test) for test, valid in cuts]
    else:
        masks = [(of == "train", of == "valid", of == "test")]
    parts = [(np.flatnonzero(one), np.flatnonzero(two), np.flatnonzero(three)) for one, two, three in masks]
    for part in parts:
        for name, found in zip(("train", "valid", "test"), part, strict=True):
            if not len(found):
                met = [text for text, one in zip(texts, column, strict=True) if one == name or options.folds]
                numbers = options.answers == "classes" and all(number_of(text) is not None for text in met)
                raise DataError(
                    f"{rows.dataset.name}: no {name} row has a label of column {options.label!r} that can be used; the "
                    f"values are: {values_met(met) or 'none'}"
                    + ('; of numbers, set probe.answers = "numbers"' if met and numbers else "")
                )
    named = rows.clusters(options.cluster)
    return Question(
        head,
        places,
        [str(texts[place]) for place in places],
        target.numpy()[places],
        parts,
        None if named is None else [named[place] for place in places],
    )


def _splits(data: Opened) -> list[str | None]:
    splits = data.rows.dataset.splits
    return [splits[row] for row in data.rows.rows]


def table_of_vectors(path: str, column: str) -> dict[str, Floats]:
    """Vectors by id. Raises DataError if the file has none."""
    file = Path(path) / "complexes.parquet" if Path(path).is_dir() else Path(path)
    try:
        table = pq.read_table(file, columns=["id", column])
        values = np.array(table.column(column).to_pylist(), dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: no table with columns id and {column!r}: {error}") from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise DataError(
            f"{file}: {column!r} must hold a list of finite numbers in each row, all of one length"
        )
    return dict(zip(table.column("id").to_pylist(), values, strict=True))


def _read(path: str, options: ProbeConfig, ids: Sequence[str]) -> Floats:
    """The vectors [N, F] of some complexes from a file."""
    found = table_of_vectors(path, options.column)
    lacking = [one for one in ids if one not in found]
    if lacking:
        raise DataError(f"{path}: has no vector of {len(lacking)} complexes, {lacking[0]} for one")
    return np.stack([found[one] for one in ids])


def _encoded(
    job: Job, journal: Journal, data: Opened, places: Indices, encoders: Mapping[str, Model]
) -> dict[str, Floats]:
    """What each of some encoders makes of some of the rows: [N, F]. Processes that share the job share this."""
    if not encoders:
        return {}
    chosen = {"complexes": Representation(job.options.representation, job.options.pool)}

    def make(positions: Indices) -> dict[str, pa.Table]:
        found: dict[str, Any] = {}
        for name, encoder in encoders.items():
            each = {one.position: one.complex for one in encode(encoder, data, places[positions], chosen)}
            found[name] = vectors(np.stack([each[place] for place in places[positions].tolist()]))
        meter.add(len(positions))
        return {TABLE: pa.table(found)}

    with Meter(journal, len(places)) as meter:
        size = piece_size(data.rows)
        path = in_pieces(job.folder, (TABLE,), len(places), size, make, meter, job.workers)[TABLE]
    table = pq.read_table(path)
    columns = {name: table.column(name).combine_chunks() for name in encoders}
    return {
        name: one.flatten().to_numpy().reshape(len(places), -1).astype(np.float64)
        for name, one in columns.items()
    }


def redrawn(model: Model, seed: int) -> Model:
    """The same encoder with weights drawn anew, for the same data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Model(model.config)
    made.made_for = model.made_for
    return made.to(next(model.parameters()).device)


# ------------------------------------------------------------------------------------------------- the probes


def probe(options: ProbeConfig, asked: Question, x: Floats, seed: int) -> Floats:
    """What a probe on vectors x [N, F] says of the tested rows, fold by fold."""
    fit = _linear if options.method == "linear" else _network
    found = []
    for train, valid, test in asked.parts:
        known = np.sort(np.concatenate([train, valid]))
        mean, deviation = x[known].mean(axis=0), x[known].std(axis=0)
        varied = (
            deviation > 1e-6
        )  # constant numbers say nothing, and a test row off by rounding would stand out
        scaled = np.clip(((x - mean) / (deviation + 1e-6))[:, varied], -FAR, FAR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(fit(options, asked, scaled, train, valid, test, seed))
    return np.concatenate(found)


Says = Callable[[Floats], Floats]


def _better(asked: Question, says: Says, x: Floats, valid: Indices) -> float:
    """How good something is on validation rows, the more the better."""
    measure: Measure = next(iter(MEASURES[asked.form].values()))
    value = measure.function(asked.target[valid], says(x[valid]))
    return value if measure.higher else -value


def _says(asked: Question, model: Any) -> Says:
    """An estimator's answers, with a probability for every class, those too that it did not learn."""
    if asked.form == "numbers":
        return lambda x: np.asarray(model.predict(x), dtype=np.float64)
    classes = len(asked.head.config.classes)

    def says(x: Floats) -> Floats:
        spread = np.zeros((len(x), classes))
        spread[:, model.classes_] = model.predict_proba(x)
        return spread

    return says


def _linear(
    options: ProbeConfig, asked: Question, x: Floats, train: Indices, valid: Indices, test: Indices, seed: int
) -> Floats:
    """What the linear model says whose strength is best in cross-validation over training and validation rows."""
    from sklearn.linear_model import LogisticRegression, Ridge

    known = np.sort(np.concatenate([train, valid]))
    # Turned, so that there are no more columns than rows: the solutions lie in the span of these, and stay as they are.
    x = x @ np.linalg.svd(x[known], full_matrices=False)[2].T
    groups = None if asked.clusters is None else numbered([asked.clusters[place] for place in known])
    model: Any = Ridge()
    grid, classes = {"alpha": [1 / one for one in sorted(options.strengths)]}, 0
    if asked.form == "classes":
        # Measures of several classes count every class the same.
        model = LogisticRegression(tol=1e-3, max_iter=2000, class_weight="balanced")
        grid, classes = {"C": sorted(options.strengths)}, len(asked.head.config.classes)
    target = asked.target[known]
    return fitted(model, grid, asked.form, classes, x[known], target, x[test], groups, seed)[0]


def _network(
    options: ProbeConfig, asked: Question, x: Floats, train: Indices, valid: Indices, test: Indices, seed: int
) -> Floats:
    """What a network says as it was after the epoch that is best on validation rows."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    numbers = asked.form == "numbers"
    model = (MLPRegressor if numbers else MLPClassifier)(
        options.hidden, batch_size=min(64, len(train)), random_state=seed
    )
    more = {} if numbers else {"classes": np.unique(asked.target[train])}
    best, since, kept = -np.inf, 0, model
    for _ in range(options.epochs):
        model.partial_fit(x[train], asked.target[train], **more)
        value = _better(asked, _says(asked, model), x, valid)
        if value > best:
            best, since, kept = value, 0, copy.deepcopy(model)
        elif (since := since + 1) >= options.patience:
            break
    return _says(asked, kept)(x[test])


# -------------------------------------------------------------------------------------------------- the job


def check(job: Job, issues: Issues) -> None:
    """Vectors from somewhere, for the control too; labels, folds and clusters in data that are open."""
    options: ProbeConfig = job.options
    for key in ("vectors", "random"):
        path = getattr(options, key)
        if path is not None:
            try:
                table_of_vectors(path, options.column)
            except AtomicaError as error:
                issues.add(("probe", key), str(error))
        elif job.weights is None:
            what = (
                "vectors"
                if key == "vectors"
                else "those of the same encoder with random weights, the control"
            )
            issues.add(
                ("probe", key),
                f"nothing says where {what} come from: name a file, or model.weights",
                value=False,
            )
    if job.weights is not None and options.vectors is not None and options.random is not None:
        issues.add(("model", "weights"), "has no effect: probe.vectors and probe.random bring all vectors")
    if job.opened is not None:
        try:
            question(options, job.opened)
        except DataError as error:
            issues.add(("probe", "label"), str(error), value=("probe", "label") in issues.source)


def run(job: Job, journal: Journal, data: Opened, model: Model | None = None) -> Result:
    """Write `evaluation.json` and `predictions.csv`."""
    options, seed = job.options, job.run.seed
    asked = question(options, data)
    ids = [data.rows.ids[place] for place in asked.places]
    numbers = list(range(seed, seed + options.seeds))
    several = options.method == "mlp"

    encoders = {} if options.vectors is not None or model is None else {VECTORS: model}
    if options.random is None and model is not None:
        encoders |= {f"{RANDOM} {one}": redrawn(model, one) for one in numbers}
    files = {name: path for name, path in ((VECTORS, options.vectors), (RANDOM, options.random)) if path}
    read = {name: _read(path, options, ids) for name, path in files.items()}
    read |= _encoded(job, journal, data, asked.places, encoders)
    read[COUNTS] = counted(data.rows, data.input, composition)[0][asked.places]
    arms: dict[str, list[Floats]] = {}
    for name in (VECTORS, COUNTS, RANDOM):
        seeds = numbers if several else numbers[:1]
        if name in read:
            x = read[name]
            arms[name] = [probe(options, asked, x, one) for one in seeds]
            journal.say(f"probed  {name}: {x.shape[1]} numbers of {len(x)} complexes")
        else:
            arms[name] = [probe(options, asked, read[f"{name} {one}"], one) for one in numbers]
            journal.say(f"probed  {name}: {len(numbers)} times")
    curve: dict[int, dict[str, list[Floats]]] = {}
    for rows in options.few:
        curve[rows] = {name: [] for name in arms}
        for one in numbers:
            fewer = asked.fewer(rows, one)
            for name, each in curve[rows].items():
                each.append(probe(options, fewer, read[name if name in read else f"{name} {one}"], one))
        journal.say(f"probed  with {rows} rows: {len(numbers)} draws")
    return _result(job, data, asked, arms, curve, journal)


def _result(
    job: Job,
    data: Opened,
    asked: Question,
    arms: dict[str, list[Floats]],
    curve: dict[int, dict[str, list[Floats]]],
    journal: Journal,
) -> Result:
    """Metrics of all arms, the comparison of the vectors with the controls, and files."""
    options, tested, head = job.options, asked.tested, asked.head
    kind = "multiclass" if asked.form == "classes" else "regression"
    target = asked.target[tested]
    means = {name: np.mean(each, axis=0) for name, each in arms.items()}
    answers = Answers(
        [data.rows.ids[place] for place in asked.places[tested]],
        [asked.texts[place] for place in tested],
        target,
        np.ones(len(tested), dtype=bool),
        means[VECTORS],
        [
            Baseline(COUNTS, means[COUNTS], "the same probe on counts of block types with log size"),
            Baseline(RANDOM, means[RANDOM], "the same probe on the same encoder with random weights"),
        ],
        None if asked.clusters is None else [asked.clusters[place] for place in tested],
    )
    groups = None if answers.clusters is None else numbered(answers.clusters)
    metrics = head.metrics()
    found: dict[str, Any] = {}
    for name, each in arms.items():
        values = [measured(metrics, _with(answers, said)) for said in each]
        found[name] = {
            "models": len(each),
            "single": singles(values),
            "ensemble": measured(metrics, _with(answers, means[name])),
        }
    tests = {}
    for name in (COUNTS, RANDOM):
        # what one of several is worth: an ensemble of encoders is no control of one
        both = compare(target, arms[VECTORS], {name: arms[name]}, seed=job.run.seed, groups=groups)
        tests[name] = {"difference": both["difference"], "verdict": both["verdict"]}
        if asked.form == "classes":
            right = [means[one].argmax(axis=1) == target for one in (VECTORS, name)]
            tests[name]["mcnemar"] = mcnemar(*right)
    values = found[VECTORS]["ensemble"]
    evaluation = Evaluation(
        split="all folds" if options.folds else "test",
        data=data.rows.dataset.name,
        input=data.input,
        loss=float("nan"),
        metrics=values,
        heads=["probe"],
        labelled=1,
    )
    del evaluation.content["loss"]
    entry = assess(answers, metrics, judged="", seed=job.run.seed)
    evaluation.add(
        "probe",
        kind,
        label=options.label,
        config=asdict(head.config),
        complexes=len(target),
        arms=found,
        tests=tests,
        curve={
            str(rows): {
                **{
                    name: singles([measured(metrics, _with(answers, said)) for said in each])
                    for name, each in found_by.items()
                },
                "difference": {
                    name: compare(
                        target, found_by[VECTORS], {name: found_by[name]}, seed=job.run.seed, groups=groups
                    )["difference"]
                    for name in (COUNTS, RANDOM)
                },
            }
            for rows, found_by in curve.items()
        },
        **{name: value for name, value in entry.items() if name != "complexes"},
    )
    evaluation.predict("probe", answers.columns())
    journal.say(format_comparison(entry))
    judged = entry["judged"]
    figures: dict[str, Any] = {"complexes": len(target)}
    figures |= {name: f"{judged} {one['ensemble'][judged]:.3f}" for name, one in found.items()}
    written = evaluation.write(job.folder)
    (job.folder / f"{TABLE}.parquet").unlink(missing_ok=True)  # there is none where files bring all vectors
    return Result(written, figures)


def _with(answers: Answers, predicted: Floats) -> Answers:
    return Answers(answers.ids, answers.texts, answers.target, answers.known, predicted)


KIND = Kind(ProbeConfig, run, page, optional=("model",), seeded=True, check=check)
