"""A yes-or-no question about a complex: one logit from its embedding, cross-entropy loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from atomica.errors import DataError
from atomica.heads import register, values_met
from atomica.heads.losses import LossConfig, Weighted, positive_weights, yes_or_no_loss
from atomica.heads.readout import ReadoutConfig, ReadoutHead
from atomica.nn.encoding import EncoderSettings
from atomica.spec import Problems, setting

__all__ = ["BinaryConfig", "BinaryHead", "YesOrNo"]


@dataclass(frozen=True, kw_only=True)
class YesOrNo(LossConfig):
    """Keys of heads that say yes or no."""

    positive: str = setting("1", "label value that counts as yes", shortest=1)
    negative: str = setting("", "label value that counts as no; empty: every other value")

    def __post_init__(self) -> None:
        same = self.positive == self.negative != ""
        Problems.check(
            *self.problems(),
            *self.loss_problems(1),
            (same, "negative", "must differ from positive"),
            config=self,
        )


@dataclass(frozen=True)
class BinaryConfig(YesOrNo, ReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "binary"`. Raises SpecError naming every value out of range."""


@register("binary")
class BinaryHead(ReadoutHead):
    """A network on what `readout` names; loss: binary cross-entropy.

    `forward` gives logits [G]; `predict` the probability of the positive class [G].
    """

    Config: ClassVar[type] = BinaryConfig
    monitor = "auroc"
    monitor_mode = "max"
    plots: ClassVar[tuple[str, ...]] = (
        "roc",
        "precision_recall",
        "calibration",
        "probabilities",
        "confusion",
        "least_probable",
    )

    def __init__(self, config: Any, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder, 1, config.network)
        self.weights = Weighted(config, 1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        total, count = yes_or_no_loss(output, target.to(output.dtype), self.config, self.weights())
        return total / count.clamp(min=1)

    def weigh(self, target: Tensor) -> None:
        self.weights.learn(positive_weights(target[:, None].double()))

    def predict(self, output: Tensor) -> Tensor:
        return torch.sigmoid(output)

    @classmethod
    def encode_labels(cls, config: YesOrNo, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts → targets 0 or 1 [G] and known [G]. Raises DataError if no row is labelled yes or none no.

        >>> config = BinaryConfig(positive="ZN", negative="CA")
        >>> target, known = BinaryHead.encode_labels(config, ["ZN", "MG", None, "CA"])
        >>> target.tolist(), known.tolist()
        ([1, 0, 0, 0], [True, False, False, True])
        """
        yes = torch.tensor([text == config.positive for text in texts], dtype=torch.bool)
        no = torch.tensor(
            [text not in (None, "", config.positive) and config.negative in ("", text) for text in texts],
            dtype=torch.bool,
        )
        if len(texts) and not yes.any() and not no.any():
            raise DataError(
                f"no row is labelled {config.positive!r}"
                + (f" or {config.negative!r}" if config.negative else "")
                + f"; the values are: {values_met(texts)}"
            )
        return yes.long(), yes | no

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            BinaryAccuracy,
            BinaryAUROC,
            BinaryAveragePrecision,
            BinaryF1Score,
            BinaryMatthewsCorrCoef,
        )

        from atomica.heads.metrics import BalancedAccuracy

        return MetricCollection(
            {
                "auroc": BinaryAUROC(),
                "auprc": BinaryAveragePrecision(),
                "accuracy": BinaryAccuracy(),
                "f1": BinaryF1Score(),
                "mcc": BinaryMatthewsCorrCoef(),
                "balanced_accuracy": BalancedAccuracy(2),
            }
        )
