"""One of several classes for a complex, from its embedding; cross-entropy loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from atomica.errors import DataError
from atomica.heads import NetworkConfig, register, values_met
from atomica.heads.losses import LossConfig, Weighted, class_weights, classes_loss
from atomica.heads.readout import ReadoutConfig, ReadoutHead
from atomica.nn.encoding import EncoderSettings
from atomica.nn.layers import mlp
from atomica.spec import Problems, setting

__all__ = ["ClassesHead", "MulticlassConfig", "MulticlassHead", "OneOfSeveral"]


@dataclass(frozen=True)
class OneOfSeveral(LossConfig):
    """Keys of heads that say which class.

    The classes are listed rather than taken from the data: their number and order are part of the weights, and
    train, valid and test parts need not hold all of them.
    """

    classes: tuple[str, ...] = setting(
        doc="label values, one per class; rows with other labels are left out", shortest=2, distinct=True
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        empty = "an empty label means that there is none"
        Problems.check(
            *self.problems(),
            *self.loss_problems(len(self.classes)),
            ("" in self.classes, "classes", empty),
            config=self,
        )


@dataclass(frozen=True)
class MulticlassConfig(OneOfSeveral, ReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "multiclass"`. Raises SpecError naming every value out of range."""


def tapering(config: NetworkConfig, width: int, out: int) -> nn.Sequential:
    """[activation, dropout, linear] × layers, the last but one half as wide: [G, width] → [G, out]."""
    between = [*[config.hidden] * (config.layers - 2), config.hidden // 2][: config.layers - 1]
    return mlp([width, *between, out], config.activation, config.dropout)


class ClassesHead(ReadoutHead):
    """What heads with a number for each of several classes share: the network, and weights of classes in the loss."""

    def __init__(self, config: Any, encoder: EncoderSettings) -> None:
        classes = len(config.classes)
        super().__init__(config, encoder, classes, lambda width: tapering(config, width, classes))
        self.weights = Weighted(config, classes)

    def answer(self, rows: Tensor) -> Tensor:
        return self.network(rows)


@register("multiclass")
class MulticlassHead(ClassesHead):
    """A network on what `readout` names, on the embedding alone with its last but one layer half as wide.

    `forward` gives logits [G, C]; `predict` the probability of each class [G, C].
    """

    Config: ClassVar[type] = MulticlassConfig
    monitor = "auroc"
    monitor_mode = "max"
    plots: ClassVar[tuple[str, ...]] = ("confusion", "by_class", "calibration", "least_probable")

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {"readout": "graph", "hidden": encoder.block_hidden, "layers": 4}

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        total, count = classes_loss(output, target, self.config, self.weights())
        return total / count.clamp(min=1e-12)

    def weigh(self, target: Tensor) -> None:
        self.weights.learn(class_weights(target, len(self.config.classes)))

    def amount(self, target: Tensor) -> float:
        weights = self.weights()
        focal = self.config.loss == "focal"
        return len(target) if focal or weights is None else float(weights.cpu()[target.cpu()].sum())

    def predict(self, output: Tensor) -> Tensor:
        return output.softmax(dim=1)

    @classmethod
    def encode_labels(cls, config: OneOfSeveral, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts → class indices [G], 0 where unknown, and known [G]. Raises DataError if no class is met.

        >>> target, known = MulticlassHead.encode_labels(MulticlassConfig(("HEM", "SF4")), ["SF4", "ATP", "HEM"])
        >>> target.tolist(), known.tolist()
        ([1, 0, 0], [True, False, True])
        """
        index = {name: position for position, name in enumerate(config.classes)}
        found = [index.get(text) if text else None for text in texts]
        known = torch.tensor([position is not None for position in found], dtype=torch.bool)
        if len(texts) and not known.any():
            named = ", ".join(map(repr, config.classes))
            raise DataError(
                f"no row is labelled with one of the classes {named}; the values are: {values_met(texts)}"
            )
        return torch.tensor([position or 0 for position in found], dtype=torch.long), known

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassF1Score,
            MulticlassMatthewsCorrCoef,
        )

        from atomica.heads.metrics import BalancedAccuracy, OneVersusRest, auprc, auroc

        classes = len(self.config.classes)
        return MetricCollection(
            {
                "auroc": OneVersusRest(auroc),
                "auprc": OneVersusRest(auprc),
                "accuracy": MulticlassAccuracy(classes, average="micro"),
                "f1": MulticlassF1Score(classes, average="macro"),
                "mcc": MulticlassMatthewsCorrCoef(classes),
                "balanced_accuracy": BalancedAccuracy(classes),
            },
            compute_groups=False,
        )
