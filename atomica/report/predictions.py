"""Sections of a report about predictions whose answer is known: figures and pictures by the kind of answer.

The kind is read from the numbers: a probability of yes, a probability per class, or a quantity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica.evaluate import is_binary
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number

__all__ = ["Answers", "show"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

LARGEST_MATRIX = 40
"""Classes up to which a confusion matrix is shown."""

MOST_POINTS = 4000
"""Points of a scatter plot; of more, as many are drawn by lot."""

Z = 1.959964
"""Standard normal deviate of a two-sided 95% interval."""


@dataclass(frozen=True)
class Answers:
    """Predictions of one head for complexes whose answer is known.

    ids, texts: of the complexes, and their labels as the data state them. targets [N]: 0 or 1, class indices, or
    numbers. predicted [N] or [N, C]. classes: their names; for yes and no, no first. baseline [N]: probabilities
    of the baseline, if there is one. unit: what the numbers are of, such as the name of the label.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    targets: npt.NDArray[Any]
    predicted: Floats
    classes: Sequence[str]
    unit: str
    baseline: Floats | None = None

    @property
    def kind(self) -> str:
        """ "probability", "classes" or "number"; "other" for what there is no picture of."""
        if self.predicted.ndim == 2 and np.issubdtype(self.targets.dtype, np.integer):
            return "classes"
        if is_binary(self.targets, self.predicted):
            return "probability"
        return "number" if self.predicted.shape == self.targets.shape else "other"


def show(page: Page, answers: Answers, *, file: str) -> None:
    """Pictures, and the complexes with the worst predictions first. file: where all predictions are."""
    if answers.kind == "other" or not len(answers.ids):
        return
    draw = {"probability": _probability, "classes": _classes, "number": _number}[answers.kind]
    columns, worst, caption = draw(page, answers)
    order = np.argsort(-worst, kind="stable")
    head = [
        Column("id", [answers.ids[i] for i in order]),
        Column("label", [answers.texts[i] for i in order]),
    ]
    page.subtitle("The worst predictions first")
    page.table(
        head + [Column(one.name, [one.values[i] for i in order], one.help) for one in columns],
        caption,
        name="predictions.csv",
        whole=file,
    )


# -------------------------------------------------------------------------------------------- yes or no


def _probability(page: Page, answers: Answers) -> tuple[list[Column], Floats, str]:
    yes = answers.classes[1] if len(answers.classes) == 2 else "yes"
    no = answers.classes[0] if len(answers.classes) == 2 else "no"
    labels, predicted = answers.targets.astype(np.int64), answers.predicted
    charts = []
    if 0 < labels.sum() < len(labels):
        charts += [_roc(answers, labels), _precision_recall(answers, labels)]
    charts += [_calibration(predicted, labels, yes), _spread(predicted, labels, yes, no)]
    page.charts(charts)
    chosen = (predicted >= 0.5).astype(np.int64)
    counts = _confusion(labels, chosen, 2)
    page.matrix([no, yes], counts, f"Counts at a threshold of 0.5 on the probability of {yes}")
    truth = np.where(labels == 1, predicted, 1 - predicted)
    columns = [
        Column("probability", predicted.tolist(), f"probability of {yes}"),
        Column("of the label", truth.tolist(), "probability that was given to the true answer"),
    ]
    if answers.baseline is not None:
        columns.append(Column("baseline", answers.baseline.tolist(), f"the baseline's probability of {yes}"))
    return columns, 1 - truth, f"Test complexes; probability is that of {yes}"


def _curve_steps(labels: Integers, scores: Floats) -> tuple[Integers, Integers]:
    """Positives and negatives at or above each distinct score, from the highest score down."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return hits[last], last + 1 - hits[last]


def _roc(answers: Answers, labels: Integers) -> Chart:
    chart = Chart(
        "ROC curve",
        "false positive rate",
        "true positive rate",
        "Share of the positives found against the share of negatives taken for positives, for all thresholds.",
        x_range=(0, 1),
        y_range=(0, 1),
    )
    for name, scores in (("this model", answers.predicted), ("baseline", answers.baseline)):
        if scores is not None:
            found, wrong = _curve_steps(labels, scores)
            x = np.append(0.0, wrong / max(int((1 - labels).sum()), 1))
            y = np.append(0.0, found / max(int(labels.sum()), 1))
            chart.line(name, *_thinned(x, y), colour="c0" if scores is answers.predicted else "c1")
    chart.line("guessing", [0, 1], [0, 1], colour="c7", dashed=True)
    return chart


def _precision_recall(answers: Answers, labels: Integers) -> Chart:
    chart = Chart(
        "Precision and recall",
        "recall",
        "precision",
        "Share of right answers among those taken for positive, against the share of positives found.",
        x_range=(0, 1),
        y_range=(0, 1),
    )
    for name, scores in (("this model", answers.predicted), ("baseline", answers.baseline)):
        if scores is not None:
            found, wrong = _curve_steps(labels, scores)
            x, y = found / max(int(labels.sum()), 1), found / (found + wrong)
            chart.line(name, *_thinned(x, y), colour="c0" if scores is answers.predicted else "c1")
    rate = float(labels.mean())
    chart.line("guessing", [0, 1], [rate, rate], colour="c7", dashed=True)
    return chart


def _thinned(x: Floats, y: Floats, most: int = 500) -> tuple[list[float], list[float]]:
    """A curve with at most so many points."""
    if len(x) > most:
        kept = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def wilson(hits: float, count: float) -> tuple[float, float]:
    """95% interval of a share, after Wilson (1927).

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    if count == 0:
        return 0.0, 1.0
    share = hits / count
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count)) / (1 + Z * Z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _calibration(predicted: Floats, hit: Integers, what: str) -> Chart:
    """Reliability in bins of equal counts: about ten per bin at least, ten bins at most."""
    bins = int(np.clip(len(predicted) // 10, 1, 10))
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), bins) if len(part)]
    means = [float(predicted[part].mean()) for part in parts]
    shares = [float(hit[part].mean()) for part in parts]
    intervals = [wilson(float(hit[part].sum()), len(part)) for part in parts]
    error = sum(len(part) * abs(m - s) for part, m, s in zip(parts, means, shares, strict=True)) / len(
        predicted
    )
    brier = float(np.mean((predicted - hit) ** 2))
    chart = Chart(
        "Calibration",
        f"mean predicted probability of {what}",
        "observed share",
        "Observed share against the mean predicted probability, in bins of equal counts, with 95% intervals. "
        "A calibrated model lies on the diagonal.",
        x_range=(0, 1),
        y_range=(0, 1),
        note=f"{len(parts)} bins of equal counts, 95% Wilson intervals. Calibration error {error:.3f}, "
        f"Brier score {brier:.3f}.",
    )
    chart.line("", [0, 1], [0, 1], colour="c7", dashed=True)
    chart.whiskers(means, [low for low, _ in intervals], [high for _, high in intervals], "c0")
    texts = [
        f"predicted {number(m, 3)}, observed {number(s, 3)} [{number(low, 3)}, {number(high, 3)}] of {len(part)}"
        for m, s, (low, high), part in zip(means, shares, intervals, parts, strict=True)
    ]
    chart.points("", means, shares, texts, colour="c0")
    return chart


def _spread(predicted: Floats, labels: Integers, yes: str, no: str) -> Chart:
    chart = Chart(
        "Predicted probabilities",
        f"predicted probability of {yes}",
        "complexes",
        f"Histograms of the predicted probability of {yes}, for the complexes of each class.",
        x_range=(0, 1),
    )
    edges = np.linspace(0, 1, 21)
    for name, which, colour in ((yes, 1, "c0"), (no, 0, "c1")):
        counts, _ = np.histogram(predicted[labels == which], edges)
        chart.bars(name, edges.tolist(), counts.tolist(), colour=colour)
    return chart


# -------------------------------------------------------------------------------------------- classes


def _confusion(labels: Integers, chosen: Integers, classes: int) -> list[list[int]]:
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, chosen), 1)
    return [[int(value) for value in row] for row in counts]


def _classes(page: Page, answers: Answers) -> tuple[list[Column], Floats, str]:
    labels, predicted = answers.targets.astype(np.int64), answers.predicted
    size = predicted.shape[1]
    names = list(answers.classes) if len(answers.classes) == size else [str(i) for i in range(size)]
    chosen = predicted.argmax(axis=1)
    sure = predicted.max(axis=1)
    counts = np.array(_confusion(labels, chosen, size))
    if size <= LARGEST_MATRIX:
        page.matrix(names, counts.tolist(), "Complexes by true and predicted class")
    rows = []
    for index, name in enumerate(names):
        hits, true, said = counts[index, index], counts[index].sum(), counts[:, index].sum()
        recall, precision = (float(hits / n) if n else math.nan for n in (true, said))
        low, high = wilson(float(hits), float(true))
        interval = f"{recall:.3f} [{low:.3f}, {high:.3f}]" if true else "–"
        rows.append([name, str(true), str(said), interval, f"{precision:.3f}" if said else "–"])
    page.small_table(
        ["class", "complexes", "predicted", "recall [95% interval]", "precision"], rows, "By class"
    )
    page.charts([_calibration(sure, (chosen == labels).astype(np.int64), "the chosen class")])
    truth = predicted[np.arange(len(labels)), labels]
    columns = [
        Column("predicted", [names[i] for i in chosen]),
        Column("its probability", sure.tolist(), "probability of the predicted class"),
        Column("of the label", truth.tolist(), "probability that was given to the true class"),
    ]
    return columns, 1 - truth, "Test complexes with the class that was predicted"


# -------------------------------------------------------------------------------------------- numbers


def _number(page: Page, answers: Answers) -> tuple[list[Column], Floats, str]:
    labels, predicted = answers.targets.astype(np.float64), answers.predicted
    errors = predicted - labels
    page.charts([_scatter(answers, labels, predicted, errors), _errors(errors, answers.unit)])
    columns = [
        Column("prediction", predicted.tolist()),
        Column("error", errors.tolist(), "prediction less label"),
        Column("size of error", np.abs(errors).tolist()),
    ]
    return columns, np.abs(errors), f"Test complexes with predicted {answers.unit}"


def _scatter(answers: Answers, labels: Floats, predicted: Floats, errors: Floats) -> Chart:
    low, high = (
        float(edge) for edge in (min(labels.min(), predicted.min()), max(labels.max(), predicted.max()))
    )
    pad = 0.04 * (high - low) or 0.5
    low, high = low - pad, high + pad
    chart = Chart(
        "Predicted against measured",
        f"{answers.unit}, measured",
        f"{answers.unit}, predicted",
        f"One point per complex, {len(labels)} in all. The dashed line is where prediction and label agree.",
        x_range=(low, high),
        y_range=(low, high),
    )
    if len(labels) >= 20:
        below, above = (float(bound) for bound in np.percentile(errors, [2.5, 97.5]))
        chart.band(
            "middle 95% of errors",
            [low, high],
            [low + below, high + below],
            [low + above, high + above],
            "c0",
        )
    chart.line("agreement", [low, high], [low, high], colour="c7", dashed=True)
    kept: Any = np.arange(len(labels))
    if len(kept) > MOST_POINTS:
        kept = np.sort(np.random.default_rng(0).choice(len(kept), MOST_POINTS, replace=False))
        chart.note = f"{MOST_POINTS:,} of {len(labels):,} complexes, drawn by lot."
    texts = [
        f"{answers.ids[i]}\nmeasured {number(labels[i])}, predicted {number(predicted[i])}" for i in kept
    ]
    chart.points("complexes", labels[kept].tolist(), predicted[kept].tolist(), texts, colour="c0")
    return chart


def _errors(errors: Floats, unit: str) -> Chart:
    counts, edges = np.histogram(errors, bins=int(np.clip(np.sqrt(len(errors)), 5, 30)))
    mean, spread = float(errors.mean()), float(errors.std())
    chart = Chart(
        "Errors",
        f"predicted less measured {unit}",
        "complexes",
        "Histogram of the errors.",
        note=f"Mean {number(mean, 3)}, standard deviation {number(spread, 3)}.",
    )
    chart.bars("", edges.tolist(), counts.tolist(), colour="c0")
    return chart


def metric_rows(
    metrics: Mapping[str, float | None], intervals: Mapping[str, Mapping[str, float]]
) -> list[list[str]]:
    """Rows of a table of metrics: name, value, 95% interval."""
    rows = []
    for name, value in metrics.items():
        interval = intervals.get(name)
        bounds = f"{number(interval['low'])} to {number(interval['high'])}" if interval else "–"
        rows.append([name, number(value), bounds])
    return rows
