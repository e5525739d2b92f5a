"""Predictions of several models, read from their files and put together: over folds one after the other, over seeds as
a mean with its spread.

Shape letters: N things predicted, C classes or labels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from atomica.errors import DataError
from atomica.evaluation.baseline import Baseline
from atomica.evaluation.results import PREDICTED, Answers
from atomica.evaluation.statistics import MEASURES, Floats, form_of

__all__ = ["WEIGHTS", "Predictions", "blend_weight", "ensemble", "joined", "read_predictions", "spread"]

VALUES = ("probability", "prediction")
"""Columns that may hold what a model says."""
OTHERS = ("id", "label", "cluster", "spread", PREDICTED)
"""Columns that are not what a baseline says."""
WEIGHTS = tuple(index / 20 for index in range(21))
"""Weights of a blend that are tried."""


@dataclass(frozen=True)
class Predictions:
    """What a file says: ids and label texts [N], what a model says and what others say, [N] or [N, C]; clusters [N]."""

    ids: Sequence[str]
    texts: Sequence[str | None]
    predicted: Floats
    others: Mapping[str, Floats]
    clusters: Sequence[str] | None

    def answers(self, target: Any, known: Any, methods: Mapping[str, str]) -> Answers:
        """With what is known of them. methods: how each of the others was made."""
        baselines = [
            Baseline(name, said, methods[name]) for name, said in self.others.items() if name in methods
        ]
        return Answers(self.ids, self.texts, target, known, self.predicted, baselines, self.clusters)


def read_predictions(path: Path) -> Predictions:
    """Read a `predictions.csv`. Raises DataError, with the line, if it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            names, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    value = next((name for name in VALUES if name in names), None)
    if "id" not in names or value is None:
        raise DataError(
            f"{path}: needs a column id and a column {' or '.join(VALUES)}; it has {', '.join(names)}"
        )

    def numbers(name: str) -> Floats:
        found = []
        for line, row in enumerate(rows, 2):
            try:
                found.append(json.loads(row[name]))
            except (ValueError, TypeError):
                raise DataError(
                    f"{path}:{line}: {name}: {row[name]!r} is no number, or list of them"
                ) from None
        try:
            return np.array(found, dtype=np.float64)
        except ValueError:
            raise DataError(f"{path}: {name}: the lists are of different lengths") from None

    return Predictions(
        [row["id"] for row in rows],
        [row.get("label") or None for row in rows],
        numbers(value),
        {name: numbers(name) for name in names if name not in (*VALUES, *OTHERS)},
        [row["cluster"] for row in rows] if "cluster" in names else None,
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several test sets, one after the other; of the others those that all parts have."""
    shared = [name for name in parts[0].others if all(name in part.others for part in parts)]
    named = [part.clusters for part in parts]
    return Predictions(
        [one for part in parts for one in part.ids],
        [one for part in parts for one in part.texts],
        np.concatenate([part.predicted for part in parts]),
        {name: np.concatenate([part.others[name] for part in parts]) for name in shared},
        None if None in named else [one for part in parts for one in part.clusters or ()],
    )


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of what several models say of the same. Raises DataError if it is not the same."""
    for one in members[1:]:
        if list(one.ids) != list(members[0].ids) or one.predicted.shape != members[0].predicted.shape:
            raise DataError("members of an ensemble were tested on different rows")
    return replace(members[0], predicted=np.mean([one.predicted for one in members], axis=0))


def spread(predicted: Sequence[Floats]) -> Floats:
    """Standard deviation over models [N]; of several numbers for each, that of the one which is largest on average.

    >>> spread([np.array([1.0, 2.0]), np.array([3.0, 2.0])]).round(3).tolist()
    [1.414, 0.0]
    """
    stack = np.stack(predicted)
    found = stack.std(axis=0, ddof=1) if len(stack) > 1 else np.zeros(stack.shape[1:])
    if found.ndim == 1:
        return np.asarray(found)
    return np.asarray(found[np.arange(len(found)), stack.mean(axis=0).argmax(axis=1)])


def blend_weight(target: Any, one: Floats, other: Floats, judged: str = "") -> float:
    """The weight of `one` beside `other`, of `WEIGHTS`, that is best on rows set aside for the choice.

    Best by the measure `judged`, else the first of their form; of equally good ones the nearest to a half.

    >>> blend_weight(np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.2, 0.8]), np.array([0.9, 0.1, 0.8, 0.2]))
    0.55
    """
    measures = MEASURES[form_of(target, one)]
    measure = measures.get(judged) or next(iter(measures.values()))
    sign = 1 if measure.higher else -1
    values = {w: sign * measure.function(target, w * one + (1 - w) * other) for w in WEIGHTS}
    if not any(np.isfinite(value) for value in values.values()):
        return 0.5
    best = max(value for value in values.values() if np.isfinite(value))
    return min((w for w, value in values.items() if value >= best - 1e-12), key=lambda w: abs(w - 0.5))
