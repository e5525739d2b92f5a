"""Which block was hidden: the type of each masked block from its embedding; cross-entropy loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from atomica.data.inputs import GraphInputs
from atomica.errors import DataError
from atomica.heads import PretrainingHead, register
from atomica.keys import SPECIAL_BLOCKS
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.spec import Problems, setting

__all__ = ["MaskedBlockConfig", "MaskedBlockHead"]


@dataclass(frozen=True)
class MaskedBlockConfig:
    """Keys of a `[[head]]` table with `kind = "masked_block"`. Raises SpecError naming every value out of range."""

    dropout: float = setting(0.0, "dropout in the prediction network, and behind it", low=0, below=1)

    def __post_init__(self) -> None:
        Problems.check(config=self)


@register("masked_block")
class MaskedBlockHead(PretrainingHead):
    """Three [ReLU, linear, dropout] on the embedding of each masked block, to one logit per type.

    M masked blocks, C = block vocabulary without its special entries. `forward` gives logits [M, C] for the blocks
    that `GraphInputs.masked` marks, in their order; targets [M] are block types less 4. `predict` gives
    probabilities [M, C].
    """

    Config = MaskedBlockConfig
    needs = ("block",)
    targets = "masks"
    learnt_from = "masked blocks"
    monitor = "perplexity"
    monitor_mode = "min"

    def __init__(self, config: MaskedBlockConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        self.classes = encoder.block_types - SPECIAL_BLOCKS
        parts: list[nn.Module] = []
        width = encoder.block_hidden
        for out in (encoder.block_hidden, self.classes, self.classes):
            parts += [nn.ReLU(), nn.Linear(width, out), nn.Dropout(config.dropout)]
            width = out
        self.network = nn.Sequential(*parts)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        return self.network(encoding.block.index_select(0, inputs.places.masked))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if len(output) != len(target):
            raise DataError(f"{len(target)} targets for {len(output)} masked blocks; give one for each")
        # the sum is 0 where nothing is masked, as cross_entropy's own mean is not
        return F.cross_entropy(output, target, reduction="sum") / max(1, len(target))

    def counts(self, target: Any, inputs: GraphInputs) -> dict[str, int]:
        return {"": len(target)}

    def predict(self, output: Tensor) -> Tensor:
        return output.softmax(dim=1)

    @classmethod
    def learns(cls, config: MaskedBlockConfig) -> frozenset[str]:
        return frozenset({"mask"})

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        from atomica.heads.metrics import Perplexity

        return MetricCollection(
            {"accuracy": MulticlassAccuracy(self.classes, average="micro"), "perplexity": Perplexity()},
            compute_groups=False,
        )
