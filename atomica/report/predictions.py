"""Plots of predictions whose answer is known, and the registry that heads name them from.

A head lists its plots in `Head.plots`; a package that brings a head may bring plots of its own, see `plot`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica.errors import SpecError
from atomica.evaluation.statistics import auprc, auroc, is_binary
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number
from atomica.spec import not_among

__all__ = ["FORMS", "PLOTS", "Answers", "Plot", "metric_rows", "plot", "show", "unknown"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

FORMS = {
    "yes-no": "a probability of yes [N], answers 0 or 1",
    "classes": "a probability per class [N, C], answers are class indices",
    "labels": "a probability of yes to each question [N, C], answers 0 or 1 [N, C]",
    "numbers": "a number [N] for each answer that is a number",
}
"""Forms of answers that a plot may be of."""

LARGEST_MATRIX = 40
"""Classes up to which a confusion matrix is shown."""

MOST_SEQUENCES = 12
"""Complexes whose blocks are drawn along the sequence."""

MOST_POINTS = 4000
"""Points of a scatter plot; of more, as many are drawn by lot."""


@dataclass(frozen=True)
class Answers:
    """Predictions of one head for complexes whose answer is known.

    ids, texts: of the complexes, and their labels as the data state them. targets [N]: 0 or 1, class indices, or
    numbers. predicted [N] or [N, C]. classes: their names; for yes and no, no first. unit: what the numbers are of,
    such as the name of the label. file: where all predictions are. baseline: what the best baseline says, if there is
    one.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    targets: npt.NDArray[Any]
    predicted: Floats
    classes: Sequence[str]
    unit: str
    file: str
    baseline: Floats | None = None

    def fit(self, form: str) -> bool:
        """Whether they are of a form, see `FORMS`."""
        if form == "classes":
            return (
                self.predicted.ndim == 2
                and self.targets.ndim == 1
                and np.issubdtype(self.targets.dtype, np.integer)
            )
        if form == "yes-no":
            return is_binary(self.targets, self.predicted)
        return self.predicted.shape == self.targets.shape and self.predicted.ndim == 1 + (form == "labels")

    @property
    def labels(self) -> Integers:
        """The answers as integers, where they are yes or no, or classes."""
        return self.targets.astype(np.int64)

    @property
    def several(self) -> bool:
        """Whether there is a probability per class, rather than one number."""
        return self.predicted.ndim == 2

    @property
    def names(self) -> list[str]:
        """Names of the classes; of yes-no answers, no first."""
        size = self.predicted.shape[1] if self.several else 2
        other = [str(index) for index in range(size)] if self.several else ["no", "yes"]
        return list(self.classes) if len(self.classes) == size else other

    @property
    def of_label(self) -> Floats:
        """The probability that was given to the true answer."""
        if self.several:
            return self.predicted[np.arange(len(self.labels)), self.labels]
        return np.where(self.labels == 1, self.predicted, 1 - self.predicted)


# ---------------------------------------------------------------------------------------------- registry


Draw = Callable[[Page, Answers], None]


@dataclass(frozen=True)
class Plot:
    """A plot or table that a head may name: what it shows, the forms of answers it is of, what draws it.

    draw(page, answers) writes on the page.
    """

    meaning: str
    forms: tuple[str, ...]
    draw: Draw


PLOTS: dict[str, Plot] = {}
"""Plots by the name that `Head.plots` gives."""


def plot(name: str, meaning: str, *forms: str) -> Callable[[Draw], Draw]:
    """Decorator that makes a function a plot that heads can name.

    forms: of `FORMS`; the function is called for answers that have one of them. Raises SpecError if the name is taken.
    """

    def add(draw: Draw) -> Draw:
        other = PLOTS.get(name)
        if other is not None and other.draw.__module__ != draw.__module__:
            raise SpecError(f"plot {name!r} is taken by {other.draw.__module__}")
        PLOTS[name] = Plot(meaning, forms, draw)
        return draw

    return add


def unknown(names: Iterable[str]) -> list[str]:
    """What is wrong with the plots that a head names.

    >>> unknown(["scatter", "calibrations"])[0].partition("; ")[2]
    'did you mean "calibration"?'
    """
    return [
        f"{name!r} is no plot: it {not_among(name, sorted(PLOTS))}" for name in names if name not in PLOTS
    ]


def show(page: Page, answers: Answers, plots: Sequence[str]) -> None:
    """Draw what a head names as its plots.

    A plot that is not of the form of the answers is replaced by a note that says so.
    """
    if not len(answers.ids):
        return
    for message in unknown(plots):
        page.text(message, "warn")
    for name in (name for name in plots if name in PLOTS):
        found = PLOTS[name]
        if any(answers.fit(form) for form in found.forms):
            found.draw(page, answers)
        else:
            wanted = " or ".join(FORMS[form] for form in found.forms)
            page.text(
                f"No plot {name!r}: it shows {wanted}, and these predictions are something else.", "warn"
            )


# -------------------------------------------------------------------------------------------- yes or no


@plot("roc", "true against false positive rate for all thresholds", "yes-no")
def _roc(page: Page, answers: Answers) -> None:
    from sklearn.metrics import roc_curve

    chart = Chart(
        "ROC curve",
        "false positive rate",
        "true positive rate",
        "Share of the positives found against the share of negatives taken for positives, for all thresholds.",
        x_range=(0, 1),
        y_range=(0, 1),
    )

    def curve(labels: Integers, scores: Floats) -> tuple[Floats, Floats]:
        wrong, found, _ = roc_curve(labels, scores, drop_intermediate=False)
        return wrong, found

    _curves(page, answers, chart, curve, (0.0, 1.0))


@plot("precision_recall", "precision against recall for all thresholds", "yes-no")
def _precision_recall(page: Page, answers: Answers) -> None:
    from sklearn.metrics import precision_recall_curve

    chart = Chart(
        "Precision and recall",
        "recall",
        "precision",
        "Share of right answers among those taken for positive, against the share of positives found.",
        x_range=(0, 1),
        y_range=(0, 1),
    )

    def curve(labels: Integers, scores: Floats) -> tuple[Floats, Floats]:
        precision, recall, _ = precision_recall_curve(labels, scores)
        return recall[-2::-1], precision[
            -2::-1
        ]  # without the point that no threshold gives, from few found to all

    rate = float(answers.labels.mean())
    _curves(page, answers, chart, curve, (rate, rate))


def _curves(
    page: Page,
    answers: Answers,
    chart: Chart,
    curve: Callable[[Integers, Floats], tuple[Floats, Floats]],
    guessing: tuple[float, float],
) -> None:
    """The curves of the model, of the baseline and of guessing; none without positives or without negatives."""
    if len(np.unique(answers.labels)) < 2:
        return
    chart.line("this model", *_thinned(*curve(answers.labels, answers.predicted)), colour="c0")
    if answers.baseline is not None:
        chart.line("best baseline", *_thinned(*curve(answers.labels, answers.baseline)), colour="c1")
    chart.line("guessing", [0, 1], guessing, colour="c7", dashed=True)
    page.charts([chart])


def _thinned(x: Floats, y: Floats, most: int = 500) -> tuple[list[float], list[float]]:
    """A curve with at most so many points."""
    if len(x) > most:
        kept = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
        x, y = x[kept], y[kept]
    return x.tolist(), y.tolist()


def wilson(hits: int, count: int) -> tuple[float, float]:
    """95% interval of a share, after Wilson (1927).

    >>> [round(bound, 3) for bound in wilson(8, 10)]
    [0.49, 0.943]
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)


@plot(
    "calibration",
    "observed share against predicted probability, in bins of equal counts",
    "yes-no",
    "classes",
)
def _calibration(page: Page, answers: Answers) -> None:
    """About ten per bin at least, ten bins at most. Of several classes it is the probability of the one chosen."""
    if answers.several:
        predicted, what = answers.predicted.max(axis=1), "the chosen class"
        hit = (answers.predicted.argmax(axis=1) == answers.labels).astype(np.int64)
    else:
        predicted, hit, what = answers.predicted, answers.labels, answers.names[1]
    count = int(np.clip(len(predicted) // 10, 1, 10))
    bins = np.array_split(np.argsort(predicted, kind="stable"), count)
    means = [float(predicted[one].mean()) for one in bins]
    shares = [float(hit[one].mean()) for one in bins]
    intervals = [wilson(int(hit[one].sum()), len(one)) for one in bins]
    gaps = (len(one) * abs(m - s) for one, m, s in zip(bins, means, shares, strict=True))
    error = sum(gaps) / len(predicted)
    brier = float(np.mean((predicted - hit) ** 2))
    chart = Chart(
        "Calibration",
        f"mean predicted probability of {what}",
        "observed share",
        "Observed share against the mean predicted probability, in bins of equal counts, with 95% intervals. "
        "A calibrated model lies on the diagonal.",
        x_range=(0, 1),
        y_range=(0, 1),
        note=f"{len(bins)} bins of equal counts, 95% Wilson intervals. Calibration error {error:.3f}, "
        f"Brier score {brier:.3f}.",
    )
    chart.line("", [0, 1], [0, 1], colour="c7", dashed=True)
    chart.whiskers(means, [low for low, _ in intervals], [high for _, high in intervals], "c0")
    texts = [
        f"predicted {number(m, 3)}, observed {number(s, 3)} [{number(low, 3)}, {number(high, 3)}] of {len(one)}"
        for m, s, (low, high), one in zip(means, shares, intervals, bins, strict=True)
    ]
    chart.points("", means, shares, texts, colour="c0")
    page.charts([chart])


@plot("probabilities", "histogram of the predicted probability for either class", "yes-no")
def _probabilities(page: Page, answers: Answers) -> None:
    no, yes = answers.names
    chart = Chart(
        "Predicted probabilities",
        f"predicted probability of {yes}",
        "complexes",
        f"Histograms of the predicted probability of {yes}, for the complexes of each class.",
        x_range=(0, 1),
    )
    edges = np.linspace(0, 1, 21)
    for name, which, colour in ((yes, 1, "c0"), (no, 0, "c1")):
        counts, _ = np.histogram(answers.predicted[answers.labels == which], edges)
        chart.bars(name, edges.tolist(), counts.tolist(), colour=colour)
    page.charts([chart])


# -------------------------------------------------------------------------------------------- classes


def _counts(answers: Answers) -> tuple[Integers, Integers]:
    """Complexes by true and chosen class [C, C], and the class chosen for each."""
    chosen = (
        answers.predicted.argmax(axis=1) if answers.several else (answers.predicted >= 0.5).astype(np.int64)
    )
    counts = np.zeros((len(answers.names), len(answers.names)), dtype=np.int64)
    np.add.at(counts, (answers.labels, chosen), 1)
    return counts, chosen


@plot("confusion", "counts by true and predicted class", "yes-no", "classes")
def _confusion(page: Page, answers: Answers) -> None:
    caption = "Complexes by true and predicted class"
    if not answers.several:
        caption += f", at a threshold of 0.5 on the probability of {answers.names[1]}"
    if len(answers.names) <= LARGEST_MATRIX:
        page.matrix(answers.names, _counts(answers)[0].tolist(), caption)
    else:
        page.text(f"{len(answers.names)} classes are too many for a matrix of {LARGEST_MATRIX}.", "note")


@plot("by_class", "recall with its interval and precision of each class", "classes")
def _by_class(page: Page, answers: Answers) -> None:
    counts, rows = _counts(answers)[0], []
    for index, name in enumerate(answers.names):
        hits, true, said = counts[index, index], counts[index].sum(), counts[:, index].sum()
        recall, precision = (float(hits / n) if n else math.nan for n in (true, said))
        low, high = wilson(int(hits), int(true)) if true else (math.nan, math.nan)
        interval = f"{recall:.3f} [{low:.3f}, {high:.3f}]" if true else "–"
        rows.append([name, str(true), str(said), interval, f"{precision:.3f}" if said else "–"])
    page.small_table(
        ["class", "complexes", "predicted", "recall [95% interval]", "precision"], rows, "By class"
    )


@plot("by_question", "how often each is a yes, areas under its curves, recall and precision at 0.5", "labels")
def _by_question(page: Page, answers: Answers) -> None:
    rows = []
    for index, name in enumerate(answers.names):
        labels, scores = answers.labels[:, index], answers.predicted[:, index]
        said, hits = scores >= 0.5, int(labels[scores >= 0.5].sum())
        true = int(labels.sum())
        recall, precision = (hits / n if n else math.nan for n in (true, int(said.sum())))
        shown = [auroc(labels, scores), auprc(labels, scores), recall, precision]
        rows.append(
            [name, str(true), str(int(said.sum())), *("–" if math.isnan(x) else f"{x:.3f}" for x in shown)]
        )
    columns = ["question", "yes", "predicted", "AUROC", "AUPRC", "recall at 0.5", "precision at 0.5"]
    page.small_table(columns, rows, f"Each question alone, for {len(answers.ids)} complexes")


@plot(
    "least_probable",
    "table of complexes, those first whose true answer got least probability",
    "yes-no",
    "classes",
)
def _least_probable(page: Page, answers: Answers) -> None:
    if answers.several:
        chosen = _counts(answers)[1]
        columns = [
            Column("predicted", [answers.names[i] for i in chosen]),
            Column(
                "its probability",
                answers.predicted.max(axis=1).tolist(),
                "probability of the predicted class",
            ),
        ]
        caption = "Complexes with the class that was predicted"
    else:
        yes = answers.names[1]
        columns = [Column("probability", answers.predicted.tolist(), f"probability of {yes}")]
        caption = f"Complexes; probability is that of {yes}"
    columns.append(
        Column("of the label", answers.of_label.tolist(), "probability that was given to the true answer")
    )
    if answers.baseline is not None and not answers.several:
        columns.append(Column("baseline", answers.baseline.tolist(), "the best baseline's probability"))
    _worst(page, answers, columns, 1 - answers.of_label, caption)


def _worst(page: Page, answers: Answers, columns: Sequence[Column], worst: Floats, caption: str) -> None:
    """A table of all complexes, those with the largest `worst` first."""
    order = np.argsort(-worst, kind="stable")
    first = [Column("id", answers.ids), Column("label", answers.texts)]
    page.subtitle("The worst predictions first")
    page.table(
        [Column(one.name, [one.values[i] for i in order], one.help) for one in [*first, *columns]],
        caption,
        name="predictions.csv",
        whole=answers.file,
    )


# -------------------------------------------------------------------------------------------- blocks


@plot(
    "sequence",
    "what is said of each block, along the sequence, with the answers",
    "yes-no",
    "classes",
    "numbers",
)
def _sequence(page: Page, answers: Answers) -> None:
    """Of the first complexes; ids are complex, chain and residue."""
    of = [name.rsplit(" ", 2) for name in answers.ids]
    complexes = list(dict.fromkeys(complex for complex, _, _ in of))
    page.subtitle("Along the sequence")
    if len(complexes) > MOST_SEQUENCES:
        page.text(
            f"The first {MOST_SEQUENCES} of {len(complexes)} complexes; {answers.file} has all, and the structures of "
            "the job evaluate show them as B-factors.",
            "note",
        )
    yes_no = not answers.several and answers.fit("yes-no")
    for complex in complexes[:MOST_SEQUENCES]:
        mine = [index for index, one in enumerate(of) if one[0] == complex]
        said = answers.of_label if answers.several else answers.predicted
        title = f"probability of {answers.names[1]}" if yes_no else answers.unit
        chart = Chart(
            complex,
            "block with a label, in the order of the chains",
            "probability of the true class" if answers.several else title,
            f"What is said of each block of {complex}, beside its label.",
            width=1000,
            height=220,
        )
        groups: dict[str, list[int]] = {}
        for place, index in enumerate(mine):
            text = answers.texts[index] if yes_no or answers.several else f"chain {of[index][1]}"
            groups.setdefault(f"labelled {text}" if yes_no or answers.several else text, []).append(place)
        for rank, (name, places) in enumerate(sorted(groups.items())):
            texts = [
                f"{of[mine[p]][1]}:{of[mine[p]][2]}, {answers.texts[mine[p]]}\n{number(float(said[mine[p]]))}"
                for p in places
            ]
            values = [float(said[mine[p]]) for p in places]
            chart.columns(name, places, values, texts, colour=f"c{rank % 7}")
        if not yes_no and not answers.several:
            chart.line(
                "label", list(range(len(mine))), [float(answers.targets[i]) for i in mine], colour="c7"
            )
        page.wide(chart)


# -------------------------------------------------------------------------------------------- numbers


@plot("scatter", "predicted against measured values", "numbers")
def _scatter(page: Page, answers: Answers) -> None:
    labels, predicted = answers.targets.astype(np.float64), answers.predicted
    errors = predicted - labels
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
    page.charts([chart])


@plot("errors", "histogram of predicted less measured values", "numbers")
def _errors(page: Page, answers: Answers) -> None:
    errors = answers.predicted - answers.targets
    counts, edges = np.histogram(errors, bins=int(np.clip(np.sqrt(len(errors)), 5, 30)))
    mean, spread = float(errors.mean()), float(errors.std())
    chart = Chart(
        "Errors",
        f"predicted less measured {answers.unit}",
        "complexes",
        "Histogram of the errors.",
        note=f"Mean {number(mean, 3)}, standard deviation {number(spread, 3)}.",
    )
    chart.bars("", edges.tolist(), counts.tolist(), colour="c0")
    page.charts([chart])


@plot("largest_errors", "table of complexes, those predicted worst first", "numbers")
def _largest_errors(page: Page, answers: Answers) -> None:
    errors = answers.predicted - answers.targets
    columns = [
        Column("prediction", answers.predicted.tolist()),
        Column("error", errors.tolist(), "prediction less label"),
        Column("size of error", np.abs(errors).tolist()),
    ]
    _worst(page, answers, columns, np.abs(errors), f"Complexes with predicted {answers.unit}")


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
