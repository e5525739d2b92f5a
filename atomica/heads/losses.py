"""Losses of classes and of yes-or-no answers, with weights of classes and focus on what is hard.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica.heads import NetworkConfig
from atomica.spec import setting

__all__ = ["LossConfig", "Weighted", "class_weights", "classes_loss", "positive_weights", "yes_or_no_loss"]

WEIGHTING = {
    "none": "all alike",
    "balanced": "rare classes count more, as often as they are rarer in training",
}


@dataclass(frozen=True, kw_only=True)
class LossConfig(NetworkConfig):
    """Keys of heads on classes: how the loss weighs them."""

    loss: str = setting(
        "cross_entropy",
        "what is minimised",
        choices={
            "cross_entropy": "the logarithm of the probability of what is right",
            "focal": "the same, less of what is right already: times (1 - probability) to the power of focal_gamma",
        },
    )
    focal_gamma: float = setting(2.0, "of the focal loss: how much less", low=0)
    class_weights: str | tuple[float, ...] = setting(
        "none",
        "weight of each class, or of a yes to each question, in the loss: numbers in the order of the classes, or "
        + "; ".join(f'"{name}": {meaning}' for name, meaning in WEIGHTING.items()),
    )

    def loss_problems(self, count: int) -> list[tuple[bool, str, str]]:
        """What is wrong with them for so many classes: whether it is, the key, what to say."""
        given = self.class_weights
        return [
            (
                isinstance(given, str) and given not in WEIGHTING,
                "class_weights",
                f"must be numbers, or one of {', '.join(map(repr, WEIGHTING))}",
            ),
            (
                not isinstance(given, str) and len(given) != count,
                "class_weights",
                f"must be {count} numbers, one for each",
            ),
            (
                not isinstance(given, str) and (any(one < 0 for one in given) or not any(given)),
                "class_weights",
                "must be 0 or more, and some of them more",
            ),
        ]


class Weighted(nn.Module):
    """The weights of `count` classes or questions: given, learnt from training labels, or none."""

    values: Tensor

    def __init__(self, config: LossConfig, count: int) -> None:
        super().__init__()
        given = config.class_weights
        self.learns = given == "balanced"
        self.some = given != "none"
        if self.some:
            numbers = (
                torch.ones(count) if isinstance(given, str) else torch.tensor(given, dtype=torch.float32)
            )
            self.register_buffer("values", numbers)

    def learn(self, weights: Tensor) -> None:
        """Take weights that training labels ask for, if the settings leave them to these."""
        if self.learns:
            self.values.copy_(weights)

    def forward(self) -> Tensor | None:
        """The weights, if there are any."""
        return self.values if self.some else None


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """(1/n_c) / Σ(1/n) · C of labels [N] int64; 0 for a class that does not occur.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), 3).tolist()
    [0.75, 2.25, 0.0]
    """
    counts = torch.bincount(labels, minlength=classes).double()
    inverse = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)
    return inverse / inverse.sum().clamp(min=1e-300) * classes


def positive_weights(labels: Tensor) -> Tensor:
    """Noes per yes of labels [N, C] 0 or 1, NaN where unknown; 1 where no yes is known.

    >>> positive_weights(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, torch.nan]])).tolist()
    [2.0, 1.0]
    """
    yes, no = (labels == 1).sum(0).double(), (labels == 0).sum(0).double()
    return torch.where(yes > 0, no / yes.clamp(min=1), 1.0)


def classes_loss(
    logits: Tensor, target: Tensor, config: LossConfig, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum over rows of the loss of logits [N, C] for classes [N], and what it is to be divided by.

    Cross-entropy: Σ w·ce and Σ w. Focal: Σ w (1 - p)^γ ce and N.
    """
    ce = F.cross_entropy(logits, target, reduction="none")
    of = torch.ones_like(ce) if weights is None else weights.to(ce)[target]
    if config.loss == "focal":
        # p < 1 in the power, whose gradient is infinite at 0 for exponents below 1
        missing = (-torch.expm1(-ce)).clamp(min=1e-12)
        return (of * missing**config.focal_gamma * ce).sum(), ce.new_tensor(float(len(ce)))
    return (of * ce).sum(), of.sum()


def yes_or_no_loss(
    logits: Tensor, target: Tensor, config: LossConfig, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same of yes-or-no answers: logits and targets 0 or 1 of one shape [N] or [N, C], NaN where unknown.

    Cross-entropy: Σ (w y + 1 - y) bce over all that are known, and their number; focal: times (1 - p)^γ, p the
    probability of what is right.
    """
    known = ~target.isnan()
    target = target.where(known, 0.0).to(logits.dtype)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    of = torch.ones_like(bce) if weights is None else weights.to(bce) * target + 1 - target
    if config.loss == "focal":
        of = of * (-torch.expm1(-bce)).clamp(min=1e-12) ** config.focal_gamma
    return (of * bce * known).sum(), known.sum().to(bce.dtype)
