"""How good predictions are: measures, intervals by resampling complexes or whole clusters, comparison with baselines.

Shape letters: N things predicted (complexes, or blocks of theirs), C classes or labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = [
    "MEASURES",
    "Measure",
    "auprc",
    "auroc",
    "bounds",
    "compare",
    "form_of",
    "intervals",
    "is_binary",
    "mcnemar",
    "monotony",
    "numbered",
    "resamplings",
    "undefined",
]


Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


def auroc(labels: Labels, scores: Floats) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half.

    labels [N] 0 or 1, scores [N]. NaN if there is only one class.

    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(ranks[inverse][labels == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auprc(labels: Labels, scores: Floats) -> float:
    """Area under the precision-recall curve, as average precision: mean precision over the recall gained.

    labels [N] 0 or 1, scores [N]. NaN if there is no positive.

    >>> round(auprc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])), 4)
    0.8333
    """
    positives = int(labels.sum())
    if not positives:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision = hits[last_of_tie] / (last_of_tie + 1)
    recall = hits[last_of_tie] / positives
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def balanced_accuracy(labels: Labels, scores: Floats) -> float:
    """Mean recall of the classes that occur in labels [N], where the largest of scores [N, C] is what is said.

    >>> balanced_accuracy(np.array([0, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    0.75
    """
    said, size = scores.argmax(axis=1), scores.shape[1]
    counts = np.bincount(labels, minlength=size)
    hits = np.bincount(labels[said == labels], minlength=size)
    return float(np.mean(hits[counts > 0] / counts[counts > 0])) if len(labels) else float("nan")


def _over_classes(score: Callable[[Labels, Floats], float]) -> Callable[[Labels, Floats], float]:
    """The mean of a score over classes (labels [N]) or labels ([N, C]) that some, but not all things have."""

    def mean(labels: Labels, scores: Floats) -> float:
        own = labels if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])
        there = [c for c in range(scores.shape[1]) if 0 < own[:, c].sum() < len(own)]
        found = [score(own[:, c].astype(np.int64), scores[:, c]) for c in there]
        return float(np.mean(found)) if found else float("nan")

    return mean


def rmse(truth: Floats, said: Floats) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((truth - said) ** 2))) if len(truth) else float("nan")


def pearson(truth: Floats, said: Floats) -> float:
    """Pearson's r; NaN where one side does not vary."""
    if len(truth) < 3 or np.ptp(truth) == 0 or np.ptp(said) < 1e-9:
        return float("nan")
    return float(np.corrcoef(truth, said)[0, 1])


def spearman(truth: Floats, said: Floats) -> float:
    """Spearman's rho: Pearson's r of mean ranks."""
    from scipy.stats import rankdata

    return pearson(rankdata(truth), rankdata(said))


FEW = 10
"""Clusters below which an interval by drawing them says little."""


@dataclass(frozen=True)
class Measure:
    """A number that says how good predictions are. title: in a table; higher: whether more is better."""

    title: str
    function: Callable[[Any, Any], float]
    higher: bool = True


MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "yes-no": {"auroc": Measure("AUROC", auroc), "auprc": Measure("AUPRC", auprc)},
    "classes": {
        "balanced_accuracy": Measure("balanced accuracy", balanced_accuracy),
        "auroc": Measure("AUROC", _over_classes(auroc)),
    },
    "labels": {
        "auroc": Measure("AUROC", _over_classes(auroc)),
        "auprc": Measure("AUPRC", _over_classes(auprc)),
    },
    "numbers": {
        "rmse": Measure("RMSE", rmse, higher=False),
        "pearson": Measure("Pearson's r", pearson),
        "spearman": Measure("Spearman's rho", spearman),
    },
}
"""What model and baselines are compared by, for each form of answers; by the first if nothing else is said."""


def form_of(targets: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> str:
    """The form of answers, a key of `MEASURES`; empty if they are of none.

    "yes-no": targets 0 and 1 [N], a probability for each; "classes": class indices [N], a probability per class
    [N, C]; "labels": 0 and 1 [N, C], a probability for each; "numbers": a number [N] for each.

    >>> form_of(np.array([0, 2]), np.full((2, 3), 1 / 3)), form_of(np.array([0.5, 2.0]), np.zeros(2))
    ('classes', 'numbers')
    """
    whole = np.issubdtype(targets.dtype, np.integer)
    if is_binary(targets, predictions):
        return "yes-no"
    if whole and targets.ndim == 1 and predictions.ndim == 2:
        return "classes"
    if predictions.ndim == 2 and targets.shape == predictions.shape and np.isin(targets, (0, 1)).all():
        return "labels"
    return "numbers" if targets.shape == predictions.shape == (len(targets),) and not whole else ""


def undefined(targets: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> frozenset[str]:
    """Names of metrics that mean nothing for these targets and predictions, whatever number a library gives for them.

    >>> sorted(undefined(np.array([1, 1]), np.array([0.2, 0.9])))
    ['auprc', 'auroc', 'mcc']
    >>> sorted(undefined(np.array([5.0, 5.0]), np.array([4.0, 6.0])))
    ['pearson', 'r2', 'spearman']
    """
    if targets.ndim != 1:
        return frozenset()
    if np.issubdtype(targets.dtype, np.integer):
        classes = set(targets.tolist())
        found = {"auroc", "auprc", "mcc"} if len(classes) < 2 else set()
        return frozenset(found | ({"f1"} if classes <= {0} and predictions.ndim == 1 else set()))
    if len(targets) < 2 or not np.ptp(targets):
        return frozenset({"pearson", "spearman", "r2"})
    flat = predictions.shape == targets.shape and not np.ptp(predictions)
    return frozenset({"pearson", "spearman"} if flat else ())


def is_binary(targets: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> bool:
    """Whether a head answers yes or no: integer targets 0 and 1, one probability per complex."""
    return bool(
        targets.ndim == 1
        and np.issubdtype(targets.dtype, np.integer)
        and np.isin(targets, (0, 1)).all()
        and predictions.shape == targets.shape
        and ((predictions >= 0) & (predictions <= 1)).all()
    )


def monotony(targets: npt.NDArray[Any], predictions: Floats, classes: Sequence[str] = ()) -> str:
    """In words, what is the same for all predictions though the answers differ; empty where nothing is.

    Classes: one is said of all. Numbers and probabilities: they spread less than a hundredth of what the answers do.
    classes: names of the classes.

    >>> monotony(np.array([0, 1, 1]), np.array([0.501, 0.5, 0.5]))
    'about 0.5 for all 3'
    """
    form = form_of(targets, predictions)
    if not form or len(targets) < 2 or (targets == targets[0]).all():
        return ""
    if form == "classes":
        said = np.unique(predictions.argmax(axis=1))
        name = classes[said[0]] if classes else f"class {said[0]}"
        return f"{name} for all {len(targets)}" if len(said) == 1 else ""
    if (predictions.std(axis=0) < 0.01 * targets.std(axis=0)).all():
        return f"about {float(predictions.mean()):.3g} for all {len(targets)}"
    return ""


def mcnemar(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """How probable so uneven a count of things that one alone, or the other alone, has right is if both are equal.

    one, other [N]: what each has right. The exact binomial test of McNemar (1947), two-sided.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6))
    0.03125
    """
    from scipy.stats import binomtest

    alone = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(alone[0], sum(alone)).pvalue) if sum(alone) else 1.0


# -------------------------------------------------------------------------------------------- comparison


def numbered(names: Sequence[str]) -> Indices:
    """Names of groups as numbers, equal for equal names."""
    return np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def resamplings(count: int, *, seed: int, resamples: int, groups: Indices | None = None) -> Iterator[Indices]:
    """Row numbers drawn with replacement, `resamples` times: single rows, or whole groups, as many as there are.

    groups [N]: number of the group of each row.

    >>> [sorted(set(rows.tolist())) for rows in resamplings(3, seed=2, resamples=2, groups=np.array([0, 0, 1]))]
    [[0, 1, 2], [0, 1]]
    """
    generator = np.random.default_rng(seed)
    if groups is None:
        for _ in range(resamples):
            yield generator.integers(0, count, count)
        return
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    for _ in range(resamples):
        yield np.concatenate([members[one] for one in generator.integers(0, len(members), len(members))])


def compare(
    targets: npt.NDArray[Any],
    model: Floats | Sequence[Floats],
    baselines: Mapping[str, Floats | Sequence[Floats]],
    *,
    seed: int,
    resamples: int = 1000,
    groups: Indices | None = None,
    judged: str = "",
) -> dict[str, Any]:
    """The model beside baselines by the measures of their form, with 95% bootstrap intervals, as plain data.

    targets, model and each of the baselines: answers of one form, see `form_of`. Several models, or answers of one
    baseline, are judged by the means of their measures: what one of them is worth. What is drawn is drawn for all, so
    that the interval of the difference between the model and the best baseline is a paired one. The best baseline is
    the best on these rows, by each measure, which is hard on the model. groups [N]: draw whole groups. What is
    undefined is null, and so is an interval if that is so of more than half of the draws. judged: the measure that the
    verdict is about; without one of that name the first.
    """
    everyone = {
        who: [said] if isinstance(said, np.ndarray) else list(said)
        for who, said in {"model": model, **baselines}.items()
    }
    form = form_of(targets, everyone["model"][0])
    measures = MEASURES[form]

    def measured(who: str, name: str, rows: Any = slice(None)) -> float:
        each = [measures[name].function(targets[rows], said[rows]) for said in everyone[who]]
        return float(np.mean(each))

    values = {who: {name: measured(who, name) for name in measures} for who in everyone}
    drawn: dict[tuple[str, str], list[float]] = {(who, name): [] for who in everyone for name in measures}
    decided = any(np.isfinite(value) for value in values["model"].values())
    for rows in resamplings(len(targets), seed=seed, resamples=resamples * decided, groups=groups):
        for who, name in drawn:
            drawn[who, name].append(measured(who, name, rows))
    result: dict[str, Any] = {
        "complexes": len(targets),
        "resamples": resamples * decided,
        "seed": seed,
        "clusters": None if groups is None else len(np.unique(groups)),
    }
    if form == "yes-no":
        result |= {
            "positives": int(targets.sum()),
            "base_rate": float(targets.mean()) if len(targets) else None,
        }
    scores = {
        who: {name: _entry(values[who][name], drawn[who, name]) for name in measures} for who in everyone
    }
    best, difference = {}, {}
    for name, measure in measures.items():
        ranked = [who for who in baselines if np.isfinite(values[who][name])]
        if not ranked or not np.isfinite(values["model"][name]):
            continue
        sign = 1 if measure.higher else -1
        best[name] = other = max(ranked, key=lambda who: sign * values[who][name])
        gaps = np.subtract(drawn["model", name], drawn[other, name]).tolist()
        difference[name] = _entry(values["model"][name] - values[other][name], gaps)
    result |= {"model": scores.pop("model"), "baselines": scores, "best": best, "difference": difference}
    result["conclusions"] = [_conclusion(name, measures[name], result) for name in difference]
    result["judged"] = judged if judged in measures else next(iter(measures))
    result["verdict"] = _verdict(result["judged"], measures, result)
    return result


def _entry(value: float, drawn: list[float]) -> dict[str, float | None]:
    """A value with the middle 95% of what was drawn."""
    finite = [one for one in drawn if np.isfinite(one)]
    known = 2 * len(finite) > len(drawn)
    low, high = np.percentile(finite, [2.5, 97.5]).tolist() if known else (None, None)
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}


def intervals(
    metrics: Any,
    targets: npt.NDArray[Any],
    predictions: npt.NDArray[Any],
    *,
    seed: int,
    resamples: int = 200,
    groups: Indices | None = None,
) -> dict[str, dict[str, float]]:
    """95% bootstrap intervals of a head's metrics: name → "low" and "high".

    metrics: a `torchmetrics.MetricCollection`; targets [N], predictions [N] or [N, C]. Complexes, or the groups [N]
    they belong to, are drawn with replacement; draws of a single class are left out. A metric that is undefined in
    more than half of the draws has no interval.
    """
    found: dict[str, list[float]] = {name: [] for name in metrics}
    classes = np.issubdtype(targets.dtype, np.integer)
    if len(targets) < 2 or (classes and len(np.unique(targets)) < 2):
        return {}
    target, predicted = torch.from_numpy(targets), torch.from_numpy(predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for picked in resamplings(len(targets), seed=seed, resamples=resamples, groups=groups):
            if classes and len(np.unique(targets[picked])) < 2:
                continue
            metrics.reset()
            metrics.update(predicted[picked], target[picked])
            for name, metric in metrics.items():
                found[name].append(float(metric.compute()))
    bounds: dict[str, dict[str, float]] = {}
    for name, values in found.items():
        finite = [value for value in values if np.isfinite(value)]
        if 2 * len(finite) > len(values):
            low, high = np.percentile(finite, [2.5, 97.5])
            bounds[name] = {"low": float(low), "high": float(high)}
    return bounds


def _conclusion(metric: str, measure: Measure, result: Mapping[str, Any]) -> str:
    name = result["best"][metric]
    own, gap = result["model"][metric], result["difference"][metric]
    other = result["baselines"][name][metric]["value"]
    if own["low"] is None or gap["low"] is None:
        return f"{measure.title}: too few complexes for an interval."
    reach = "includes" if own["low"] <= other <= own["high"] else "does not include"
    first = (
        f"{measure.title}: the model's 95% interval [{own['low']:.3f}, {own['high']:.3f}] {reach} the best baseline's "
        f"{other:.3f} ({name})"
    )
    low, high = sorted((gap["low"], gap["high"]) if measure.higher else (-gap["low"], -gap["high"]))
    if low > 0:
        return f"{first}; paired, the model is better by {low:.3f} to {high:.3f}."
    if high < 0:
        return f"{first}; paired, the model is worse by {-high:.3f} to {-low:.3f}."
    return f"{first}; the paired difference includes 0: these data do not show the model to be better."


def _verdict(metric: str, measures: Mapping[str, Measure], result: Mapping[str, Any]) -> str:
    """One line: whether these data show the model to be better than what knows nothing of geometry."""
    gap = result["difference"].get(metric)
    if gap is None:
        return "Nothing can be said: the complexes are all of one class, or the answers all the same."
    measure, name = measures[metric], result["best"][metric]
    of = f" of {name} in {measure.title}"
    if gap["low"] is None:
        return f"These complexes are too few to compare the model with the baseline{of}."
    low, high = sorted((gap["low"], gap["high"]) if measure.higher else (-gap["low"], -gap["high"]))
    clusters = result["clusters"]
    drawn = f"{clusters} clusters" if clusters else f"{result['complexes']} complexes"
    few = clusters is not None and clusters < FEW
    doubt = f"; of {clusters} clusters no interval can be trusted" if few else ""
    if low > 0:
        return f"These data ({drawn}) show the model to be better than every baseline, the best being that{of}{doubt}."
    if high < 0:
        return f"These data ({drawn}) show the model to be worse than the baseline{of}{doubt}."
    return f"These data ({drawn}) do not show the model to be better than the baseline{of}{doubt}."


def bounds(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The model's intervals in a result of `compare`, in the form of `intervals`."""
    return {
        name: {side: one[side] for side in ("low", "high")}
        for name, one in result["model"].items()
        if one["low"] is not None
    }
