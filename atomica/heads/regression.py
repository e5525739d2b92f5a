"""A number for a complex, such as pKd, from its embedding; squared-error loss."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from atomica.errors import DataError
from atomica.files import number_of
from atomica.heads import register, values_met
from atomica.heads.readout import ReadoutConfig, ReadoutHead
from atomica.nn.encoding import EncoderSettings

__all__ = ["RegressionConfig", "RegressionHead"]


SMALLEST_SPREAD = 1e-6
"""Of labels, relative to their size, below which they count as all the same."""


class RegressionConfig(ReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "regression"`. Raises SpecError naming every value out of range."""


@register("regression")
class RegressionHead(ReadoutHead):
    """A network on what `readout` names; loss: mean squared error.

    `forward` gives [G], in the unit of the labels if nothing was learnt of these, else in standard deviations from
    their mean; `predict` gives [G] in the unit of the labels.
    """

    Config: ClassVar[type] = RegressionConfig
    monitor = "rmse"
    monitor_mode = "min"
    baseline = "contacts"
    label_scale: tuple[float, float] = (0.0, 1.0)
    plots: ClassVar[tuple[str, ...]] = ("scatter", "errors", "largest_errors")

    def __init__(self, config: Any, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder, 1, config.network)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        mean, scale = self.label_scale
        return F.mse_loss(output, (target.to(output.dtype) - mean) / scale)

    def predict(self, output: Tensor) -> Tensor:
        mean, scale = self.label_scale
        return output * scale + mean

    def learn_labels(self, target: Tensor) -> None:
        """Take mean and standard deviation of the labels for 0 and 1; those that are all the same are left alone."""
        values = target.double()
        scale = float(values.std(correction=0)) if len(values) > 1 else 0.0
        if scale > SMALLEST_SPREAD * max(1.0, float(values.abs().max())):
            self.label_scale = (float(values.mean()), scale)

    @classmethod
    def encode_labels(cls, config: Any, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts → float32 targets [G], 0 where unknown, and known [G]. Raises DataError if none is a number.

        >>> target, known = RegressionHead.encode_labels(RegressionConfig(), ["6.5", "n/a", None, "1e-1"])
        >>> [round(value, 3) for value in target.tolist()], known.tolist()
        ([6.5, 0.0, 0.0, 0.1], [True, False, False, True])
        """
        numbers = [number_of(text) for text in texts]
        known = torch.tensor([number is not None for number in numbers], dtype=torch.bool)
        if len(texts) and not known.any():
            raise DataError(f"no row is labelled with a number; the values are: {values_met(texts)}")
        return torch.tensor([number or 0.0 for number in numbers], dtype=torch.float32), known

    def metrics(self) -> Any:
        from torchmetrics import (
            MeanAbsoluteError,
            MeanSquaredError,
            MetricCollection,
            PearsonCorrCoef,
            SpearmanCorrCoef,
        )

        from atomica.heads.metrics import R2

        with warnings.catch_warnings():
            # that rank correlation keeps all predictions is known: a validation set fits in memory
            warnings.filterwarnings("ignore", message=".*will save all targets and predictions.*")
            return MetricCollection(
                {
                    "rmse": MeanSquaredError(squared=False),
                    "mae": MeanAbsoluteError(),
                    "pearson": PearsonCorrCoef(),
                    "spearman": SpearmanCorrCoef(),
                    "r2": R2(),
                }
            )
