"""How good a trained model is on held-out complexes, with intervals and beside a simple baseline.

The baseline is a logistic regression on residue composition: the fraction of each block type in what the
model sees, and the number of blocks. It knows nothing of geometry, so a model that does not beat it has not
been shown to learn anything from structure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["auprc", "auroc", "bounds", "compare", "intervals", "is_binary"]


Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
METRICS = ("auroc", "auprc")


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


_METRIC: Mapping[str, Callable[[Labels, Floats], float]] = {"auroc": auroc, "auprc": auprc}


def is_binary(targets: npt.NDArray[Any], predictions: npt.NDArray[Any]) -> bool:
    """Whether a head answers yes or no: integer targets 0 and 1, one probability per complex."""
    return bool(
        targets.ndim == 1
        and np.issubdtype(targets.dtype, np.integer)
        and np.isin(targets, (0, 1)).all()
        and predictions.shape == targets.shape
        and ((predictions >= 0) & (predictions <= 1)).all()
    )


# -------------------------------------------------------------------------------------------- comparison


def compare(
    labels: Labels, model: Floats, baseline: Floats, *, seed: int, resamples: int = 1000
) -> dict[str, Any]:
    """AUROC and AUPRC of model and baseline, their difference, and 95% bootstrap intervals, as plain data.

    labels [N] 0 or 1; model, baseline [N] scores. Complexes are drawn with replacement, the same for both,
    so the interval of the difference is a paired one; draws of a single class are drawn again. Intervals are
    null if there is only one class.
    """
    both = 0 < labels.sum() < len(labels)
    names = ("model", "baseline", "difference")
    draws: dict[tuple[str, str], list[float]] = {(who, metric): [] for who in names for metric in METRICS}
    generator = np.random.default_rng(seed)
    done = 0
    while both and done < resamples:
        picked = generator.integers(0, len(labels), len(labels))
        drawn = labels[picked]
        if not 0 < drawn.sum() < len(drawn):
            continue
        done += 1
        for metric in METRICS:
            one = _METRIC[metric](drawn, model[picked])
            other = _METRIC[metric](drawn, baseline[picked])
            for who, value in zip(names, (one, other, one - other), strict=True):
                draws[who, metric].append(value)

    def entry(who: str, metric: str, value: float) -> dict[str, float | None]:
        if not both:
            return {"value": None, "low": None, "high": None}
        low, high = np.percentile(draws[who, metric], [2.5, 97.5])
        return {"value": value, "low": float(low), "high": float(high)}

    result: dict[str, Any] = {
        "complexes": len(labels),
        "positives": int(labels.sum()),
        "base_rate": float(labels.mean()) if len(labels) else None,
        "resamples": done,
        "seed": seed,
    }
    for who in names:
        result[who] = {}
        for metric in METRICS:
            one, other = _METRIC[metric](labels, model), _METRIC[metric](labels, baseline)
            value = {"model": one, "baseline": other, "difference": one - other}[who]
            result[who][metric] = entry(who, metric, value)
    result["conclusions"] = [_conclusion(metric, result) for metric in METRICS] if both else []
    return result


def intervals(
    metrics: Any, targets: npt.NDArray[Any], predictions: npt.NDArray[Any], *, seed: int, resamples: int = 200
) -> dict[str, dict[str, float]]:
    """95% bootstrap intervals of a head's metrics: name → "low" and "high".

    metrics: a `torchmetrics.MetricCollection`; targets [N], predictions [N] or [N, C]. Complexes are drawn with
    replacement; of classes at least two must be among them. A metric that is undefined in more than half of the
    draws has no interval.
    """
    found: dict[str, list[float]] = {name: [] for name in metrics}
    classes = np.issubdtype(targets.dtype, np.integer)
    if len(targets) < 2 or (classes and len(np.unique(targets)) < 2):
        return {}
    generator = np.random.default_rng(seed)
    target, predicted = torch.from_numpy(targets), torch.from_numpy(predictions)
    done = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while done < resamples:
            picked = generator.integers(0, len(targets), len(targets))
            if classes and len(np.unique(targets[picked])) < 2:
                continue
            done += 1
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


def _conclusion(metric: str, result: Mapping[str, Any]) -> str:
    own, other, gap = (result[who][metric] for who in ("model", "baseline", "difference"))
    name = metric.upper()
    reach = "includes" if own["low"] <= other["value"] <= own["high"] else "does not include"
    first = (
        f"{name}: the model's 95% interval [{own['low']:.3f}, {own['high']:.3f}] {reach} "
        f"the baseline's {other['value']:.3f}"
    )
    if gap["low"] > 0:
        return f"{first}; paired, the model is better by {gap['low']:.3f} to {gap['high']:.3f}."
    if gap["high"] < 0:
        return f"{first}; paired, the model is worse by {-gap['high']:.3f} to {-gap['low']:.3f}."
    return f"{first}; the paired difference includes 0: these data do not show the model to be better."


def bounds(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The model's intervals in a result of `compare`, in the form of `intervals`."""
    if not result["conclusions"]:
        return {}
    return {name: {side: result["model"][name][side] for side in ("low", "high")} for name in METRICS}
