"""What a model must beat: logistic regression on residue composition."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from atomica.data.sampling import Rows
from atomica.evaluation.statistics import Floats, Labels
from atomica.keys import GLOBAL_BLOCK

__all__ = ["Baseline", "composition", "fit_baseline"]


# ---------------------------------------------------------------------------------------------- baseline


def composition(rows: Rows, input: str) -> Floats:
    """Residue composition [N, T + 1]: fraction of each of T block types, and the number of blocks.

    Counted over the blocks that a model with `data.input = input` sees, global blocks left out.
    """
    types = rows.dataset.block_types
    table = np.zeros((len(rows), types + 1))
    for index, row in enumerate(rows.rows):
        blocks = rows.dataset[row].view(input).block_types
        blocks = blocks[blocks != GLOBAL_BLOCK]
        if len(blocks):
            table[index, :types] = np.bincount(blocks, minlength=types) / len(blocks)
        table[index, types] = len(blocks)
    return table


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline: probabilities for the test rows [N], and the regularisation that was chosen."""

    probabilities: Floats
    strength: float
    chosen_by: str


def fit_baseline(train: Floats, labels: Labels, test: Floats, *, seed: int) -> Baseline:
    """Logistic regression on standardised features, its strength C chosen by cross-validation on `train`.

    train [N, F], labels [N] 0 or 1, test [M, F]. Five stratified folds, the best mean AUROC; C = 1 where a
    class has fewer than five members.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    used = train.std(axis=0) > 0
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    strength, chosen_by = 1.0, "fixed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if np.bincount(labels, minlength=2).min() >= 5:
            grid = {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0, 10.0]}
            folds = StratifiedKFold(5, shuffle=True, random_state=seed)
            search = GridSearchCV(pipeline, grid, scoring="roc_auc", cv=folds)
            search.fit(train[:, used], labels)
            strength, chosen_by = float(search.best_params_["logisticregression__C"]), "cross-validation"
            pipeline = search.best_estimator_
        else:
            pipeline.fit(train[:, used], labels)
    return Baseline(pipeline.predict_proba(test[:, used])[:, 1].astype(np.float64), strength, chosen_by)
