"""Metrics that torchmetrics lacks, or computes otherwise where a class does not occur among the targets.

Imported by heads when their `metrics` are asked for, since torchmetrics takes long to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, R2Score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities import dim_zero_cat

__all__ = ["R2", "BalancedAccuracy", "Mean", "OneVersusRest", "Perplexity", "Retrieval", "auprc", "auroc"]


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve of scores [N] for labels [N] 0 or 1."""
    return binary_auroc(scores, labels)


def auprc(scores: Tensor, labels: Tensor) -> Tensor:
    """Average precision of scores [N] for labels [N] 0 or 1."""
    return binary_average_precision(scores, labels)


class BalancedAccuracy(Metric):
    """Mean recall of the classes that occur among the targets; probabilities [N] or [N, C], targets [N]."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("hits", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        chosen = (prediction >= 0.5).long() if prediction.ndim == 1 else prediction.argmax(dim=1)
        self.hits += torch.bincount(target[chosen == target], minlength=self.classes)
        self.counts += torch.bincount(target, minlength=self.classes)

    def compute(self) -> Tensor:
        there = self.counts > 0
        return (self.hits[there] / self.counts[there]).mean()


class OneVersusRest(Metric):
    """Mean of a binary score over the classes that some, but not all, targets belong to.

    Probabilities [N, C] and targets [N], or [N, C] where each class is a yes or no of its own. NaN if there is no such
    class.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.predictions.append(prediction)
        self.targets.append(target)

    def compute(self) -> Tensor:
        predictions, targets = dim_zero_cat(self.predictions), dim_zero_cat(self.targets)
        scores = []
        for index in range(predictions.shape[1]):
            own = targets == index if targets.ndim == 1 else targets[:, index] == 1
            if own.any() and not own.all():
                scores.append(self.score(predictions[:, index], own.long()))
        return torch.stack(scores).mean() if scores else predictions.new_tensor(torch.nan)


class R2(R2Score):
    """Coefficient of determination; NaN rather than an error for fewer than two values."""

    def compute(self) -> Tensor:
        if int(self.total) < 2:
            return torch.tensor(torch.nan)
        return super().compute()


class Mean(Metric):
    """Weighted mean of numbers that a function takes from each (prediction, target).

    `read` gives a number and the count of things that it is the mean of, or None. Of errors, so that less is better.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, read: Callable[[Any, Any], tuple[Tensor, int] | None]) -> None:
        super().__init__()
        self.read = read
        self.add_state("sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Any, target: Any) -> None:
        found = self.read(prediction, target)
        if found is not None:
            value, count = found
            self.sum += value.double().to(self.sum.device) * count
            self.count += count

    def compute(self) -> Tensor:
        return self.sum / self.count


class Share(Mean):
    """The same of what is right, so that more is better."""

    higher_is_better = True


class Perplexity(Metric):
    """exp of the mean cross-entropy of probabilities [N, C] for targets [N]: 1 is certain and right, C a guess."""

    higher_is_better = False
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        own = prediction.gather(1, target[:, None])
        smallest = torch.finfo(own.dtype).tiny
        self.sum -= own.clamp(min=smallest).double().log().sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        return torch.exp(self.sum / self.count)


class Retrieval(Metric):
    """How often the nearest of a batch's complexes is the pocket's own; embedding pairs [G, 2, H] of a batch."""

    higher_is_better = True
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Any) -> None:
        nearest = (prediction[:, 0] @ prediction[:, 1].t()).argmax(dim=1)
        self.hits += (nearest == torch.arange(len(nearest), device=nearest.device)).sum()
        self.count += len(nearest)

    def compute(self) -> Tensor:
        return self.hits / self.count
