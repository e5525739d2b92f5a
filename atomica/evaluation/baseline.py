"""What a model must beat: answers made without its kind of geometry, by means that anyone has at hand.

A head names its kind of baseline (`Head.baseline`), which says what is counted in a complex, or in a block of it; from
the counts of the training rows the methods of `METHODS` answer the test rows. A model that does not beat them has not
been shown to learn anything from structure.

Shape letters: N rows of training and M of test (complexes, or blocks of theirs), F features, C classes or labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica._prep import pairs_within
from atomica.data.record import Record
from atomica.data.sampling import Rows
from atomica.evaluation.statistics import Floats, Indices
from atomica.keys import GLOBAL_ATOM, GLOBAL_BLOCK

__all__ = ["BASELINES", "Baseline", "answer", "composition", "contacts", "fitted", "neighbours"]

Targets = npt.NDArray[Any]

MOST_ROWS = 20_000
"""Training rows that baselines learn from; of more, as many are drawn by lot."""
FOLDS = 5
"""Parts of the training rows, of whole clusters where they are known, that choose strengths and numbers."""
STRENGTHS = (1e-3, 1e-2, 0.1, 1.0, 10.0)
"""C of logistic regressions that are tried."""
RIDGES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""alpha of ridge regressions that are tried."""
NEAREST = (1, 3, 5, 10, 20)
"""Numbers of nearest neighbours that are tried."""
CONTACT = 4.5
"""Å between heavy atoms of the two partners."""
SHELLS = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0)
"""Å between centroids of blocks that are counted as neighbours."""
ELEMENTS = {"C": [6], "N": [7], "O": [8], "S": [16], "halogen": [9, 17, 35, 53], "other": []}
"""Classes of elements that contacts are counted by: atomic numbers."""


# --------------------------------------------------------------------------------------------- what is counted


def composition(record: Record, types: int) -> Floats:
    """Blocks of each of `types` types, global blocks left out, and log (1 + their number): [types + 1]."""
    blocks = record.block_types[record.block_types != GLOBAL_BLOCK]
    return np.append(np.bincount(blocks, minlength=types), np.log1p(len(blocks))).astype(np.float64)


def contacts(record: Record, types: int) -> Floats:
    """Contacts of each pair of element classes across the interface, and heavy atoms of segment 1: [37]."""
    ordinary = record.atom_types != GLOBAL_ATOM
    segment = np.repeat(record.segment_ids, record.block_lengths)[ordinary]
    numbers = record.atom_types[ordinary].astype(np.int64) - 2  # atom types follow the atomic number by 2
    classes = np.full(len(numbers), len(ELEMENTS) - 1)
    for index, members in enumerate(ELEMENTS.values()):
        classes[np.isin(numbers, members)] = index
    one, other = pairs_within(np.ascontiguousarray(record.positions[ordinary]), CONTACT)
    across = segment[one] != segment[other]
    one, other = one[across], other[across]
    one, other = np.where(segment[one] == 0, one, other), np.where(segment[one] == 0, other, one)
    pairs = classes[one] * len(ELEMENTS) + classes[other]
    counts = np.bincount(pairs, minlength=len(ELEMENTS) ** 2)
    return np.append(counts, (segment == 1).sum()).astype(np.float64)


def neighbours(record: Record, types: int) -> Floats:
    """Of each block but global ones, its type and how many others lie within each of `SHELLS`: [B, types + 7]."""
    from scipy.spatial.distance import cdist

    of_atom = np.repeat(np.arange(len(record.block_types)), record.block_lengths)
    sums = np.stack([np.bincount(of_atom, record.positions[:, axis]) for axis in range(3)], axis=1)
    kept = record.block_types != GLOBAL_BLOCK
    centroids = (sums / record.block_lengths[:, None])[kept]
    distance = cdist(centroids, centroids)
    counts = np.stack([(distance < shell).sum(axis=1) - 1 for shell in SHELLS], axis=1)
    return np.concatenate([np.eye(types)[record.block_types[kept]], counts], axis=1)


Count = Callable[[Record, int], Floats]

BASELINES: Mapping[str, Mapping[str, Count]] = {
    "composition": {"counts": composition},
    "contacts": {"counts": composition, "contacts": contacts},
    "neighbours": {"neighbours": neighbours},
    "none": {},
}
"""`Head.baseline` → what is counted, by name. All give a row for a complex, `neighbours` a row for a block."""


def counted(rows: Rows, input: str, count: Count) -> tuple[Floats, Indices]:
    """What `count` gives of each complex as a model with `data.input = input` sees it: [N, F], and rows of each."""
    types = rows.dataset.block_types
    found = [np.atleast_2d(count(rows.dataset[row].view(input), types)) for row in rows.rows.tolist()]
    return np.concatenate(found), np.array([len(one) for one in found])


# -------------------------------------------------------------------------------------------- how it is answered


@dataclass(frozen=True)
class Baseline:
    """Answers of a baseline for the test rows, [M] or [M, C], and how they were made, in words."""

    name: str
    predicted: Floats
    method: str


def answer(
    kind: str,
    form: str,
    train: Sequence[Rows],
    targets: Targets,
    test: Rows,
    *,
    input: str,
    classes: int = 2,
    learnt: npt.NDArray[np.bool_] | None = None,
    groups: Indices | None = None,
    seed: int = 0,
) -> list[Baseline]:
    """All baselines of a kind: answers for `test` from those of `train`, one part after the other.

    kind: of `BASELINES`; form, targets [N] or [N, C]: see `statistics.form_of`. input: what the model sees of each
    complex; with one partner alone there are no contacts. classes: how many there are, of answers that are classes.
    learnt [N]: where targets are known. groups: cluster of each training complex, which choices keep whole.
    """
    features = {}
    for name, count in BASELINES[kind].items():
        if name != "contacts" or input == "complex":
            parts = [counted(rows, input, count) for rows in train]
            own, each = (np.concatenate(found) for found in zip(*parts, strict=True))
            features[name] = own, counted(test, input, count)[0]
    if not features:
        return []
    groups = None if groups is None else np.repeat(groups, each)
    size = len(next(iter(features.values()))[1])
    used = np.arange(len(targets)) if learnt is None else np.flatnonzero(learnt)
    if len(used) > MOST_ROWS:
        used = np.sort(np.random.default_rng(seed).choice(used, MOST_ROWS, replace=False))
    known = targets[used]
    groups = None if groups is None else groups[used]
    found = [_trivial(form, known, classes, size)]
    for name, (own, asked) in features.items():
        varied = own[used].std(axis=0) > 0
        x, y = own[used][:, varied], asked[:, varied]
        for title, model, grid in _methods(form, nearest=name == "counts"):
            predicted, chosen = fitted(model, grid, form, classes, x, known, y, groups, seed)
            found.append(Baseline(f"{title} {name}", predicted, chosen))
    return found


def _trivial(form: str, targets: Targets, classes: int, size: int) -> Baseline:
    """The same for all: the mean, or how frequent each class is."""
    if form == "numbers":
        return Baseline("mean", np.full(size, float(targets.mean())), "mean of the training rows")
    share = (
        np.bincount(targets, minlength=classes) / len(targets) if form == "classes" else targets.mean(axis=0)
    )
    predicted = np.broadcast_to(share, (size, *np.shape(share))).astype(np.float64)
    return Baseline("majority", predicted, "how frequent each class is among the training rows")


def _methods(form: str, *, nearest: bool) -> list[tuple[str, Any, dict[str, Sequence[float]]]]:
    """Name, estimator and what is tried, of each way to answer."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    numbers = form == "numbers"
    # Measures of several classes count every class the same.
    weight = "balanced" if form == "classes" else None
    linear = Ridge() if numbers else LogisticRegression(max_iter=2000, tol=1e-3, class_weight=weight)
    strengths: dict[str, Sequence[float]] = (
        {"ridge__alpha": RIDGES} if numbers else {"logisticregression__C": STRENGTHS}
    )
    found = [("regression on", make_pipeline(StandardScaler(), linear), strengths)]
    if nearest:
        near = (KNeighborsRegressor if numbers else KNeighborsClassifier)(metric="cosine", weights="distance")
        found.append(("nearest by", near, {"n_neighbors": NEAREST}))
    return found


def fitted(
    model: Any,
    grid: Mapping[str, Sequence[float]],
    form: str,
    classes: int,
    x: Floats,
    targets: Targets,
    asked: Floats,
    groups: Indices | None,
    seed: int,
) -> tuple[Floats, str]:
    """What an estimator answers for `asked` [M, F], its setting chosen by cross-validation, and how it was chosen.

    grid: one setting and what is tried of it; x [N, F]: what is learnt from, of `targets`; groups [N]: what parts keep
    whole. Otherwise as for `answer`.
    """
    from sklearn.base import clone

    if form == "labels":
        each = [fitted(model, grid, "yes-no", 2, x, own, asked, groups, seed) for own in targets.T]
        return np.stack([predicted for predicted, _ in each], axis=1), each[0][1]
    if not x.shape[1] or (form != "numbers" and len(np.unique(targets)) < 2):
        return _trivial(form, targets, classes, len(asked)).predicted, "nothing to learn from"

    def said(value: float, learnt: Indices, asked: Floats) -> Floats:
        """Numbers [K], or a probability per class [K, C]; of classes that `learnt` lacks 0."""
        most = min(value, len(learnt)) if key == "n_neighbors" else value
        one = clone(model).set_params(**{key: most}).fit(x[learnt], targets[learnt])
        if form == "numbers":
            return np.asarray(one.predict(asked), dtype=np.float64)
        spread = np.zeros((len(asked), classes))
        spread[:, one.classes_] = one.predict_proba(asked)
        return spread

    ((key, values),) = grid.items()
    truth = targets if form == "numbers" else np.eye(classes)[targets]
    folds = _folds(form, x, targets, groups, seed)
    errors = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for value in values if folds else ():
            found = np.zeros(truth.shape)
            for learnt, left in folds:
                found[left] = said(value, learnt, x[left])
            errors.append(float(((found - truth) ** 2).mean()))
        value = values[int(np.argmin(errors))] if folds else 1
        predicted = said(value, np.arange(len(x)), asked)
    name, over = key.rpartition("__")[2], "rows" if groups is None else "clusters"
    how = f"by cross-validation over {over}" if folds else "as there are too few training rows to choose"
    return predicted[:, 1] if form == "yes-no" else predicted, f"{name} = {value:g}, {how}"


def _folds(
    form: str, x: Floats, targets: Targets, groups: Indices | None, seed: int
) -> list[tuple[Indices, Indices]]:
    """Rows to learn from and rows to ask, for each part; none where the rows are too few, or one part has one class."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if (len(targets) if groups is None else len(np.unique(groups))) < FOLDS:
        return []
    if form == "numbers":
        kind = KFold(FOLDS, shuffle=True, random_state=seed) if groups is None else GroupKFold(FOLDS)
    else:
        stratified = StratifiedKFold if groups is None else StratifiedGroupKFold
        kind = stratified(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer members than there are parts
        try:
            parts = list(kind.split(x, targets, groups))
        except ValueError:  # no class has as many
            return []
    alone = form != "numbers" and any(len(np.unique(targets[learnt])) < 2 for learnt, _ in parts)
    return [] if alone else parts
