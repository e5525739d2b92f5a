"""Where something binds: which blocks touched a partner that was left out, from the one that is alone.

As a head of kind partner, it learns from coordinates alone: blocks that touch are to be told from others nearby, of
which data built with a larger `--cutoff` have more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.data.labels import known_of
from atomica.heads import PretrainingHead, register
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.nn.layers import mlp
from atomica.spec import Problems, setting

__all__ = ["ContactConfig", "ContactHead"]


@dataclass(frozen=True)
class ContactConfig:
    """Keys of a `[[head]]` table with `kind = "contact"`. Raises SpecError naming every value out of range."""

    dropout: float = setting(0.0, "dropout in the prediction network", low=0, below=1)

    def __post_init__(self) -> None:
        Problems.check(config=self)


@register("contact")
class ContactHead(PretrainingHead):
    """A network on the embedding of each block says whether it touched the absent partner: atoms within 4 Å.

    B blocks. `forward` gives logits [B]; target: [B] int64, 1 or 0, -1 where no partner is absent and for global
    blocks, which count nowhere. The loss is the binary cross-entropy, a mean over the others. `predict` gives
    probabilities [B].
    """

    Config = ContactConfig
    needs = ("block",)
    targets = "touching"
    learnt_from = "blocks beside a partner that was left out"

    def __init__(self, config: ContactConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        width = encoder.block_hidden
        self.network = mlp([width, 2 * width, 1], "relu", config.dropout)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        return self.network(encoding.block).squeeze(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        known = known_of(target)
        each = F.binary_cross_entropy_with_logits(
            output, target.clamp(min=0).to(output.dtype), reduction="none"
        )
        # through the output, so that there is a gradient, of 0, where nothing is known
        return (each * known).sum() / known.sum().clamp(min=1)

    def counts(self, target: Any, inputs: GraphInputs) -> dict[str, int]:
        return {"": int(known_of(target).sum())}

    def predict(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    @classmethod
    def learns(cls, config: ContactConfig) -> frozenset[str]:
        return frozenset({"lone"})

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

        # Thresholds make what is kept of so many blocks small, and of one size on every rank.
        options = {"thresholds": 501, "ignore_index": -1}
        return MetricCollection(
            {"auroc": BinaryAUROC(**options), "auprc": BinaryAveragePrecision(**options)},
            compute_groups=False,
        )
