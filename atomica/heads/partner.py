"""What binds here: the types of the blocks of a partner that was left out, from the one that is alone.

It is learnt from coordinates alone, and what is asked of a pocket later is much the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.heads import PretrainingHead, register
from atomica.keys import SPECIAL_BLOCKS
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.nn.layers import mlp
from atomica.spec import Problems, setting

__all__ = ["PartnerConfig", "PartnerHead"]


@dataclass(frozen=True)
class PartnerConfig:
    """Keys of a `[[head]]` table with `kind = "partner"`. Raises SpecError naming every value out of range."""

    dropout: float = setting(0.0, "dropout in the prediction network", low=0, below=1)

    def __post_init__(self) -> None:
        Problems.check(config=self)


@register("partner")
class PartnerHead(PretrainingHead):
    """Every block votes, by a network on its embedding, on what the absent partner is made of; the mean of votes tells.

    G complexes, C = block vocabulary without its special entries. `forward` gives logits [G, C]; target: [2, N] int64,
    of each absent block the complex and its type less 4. The loss is the cross-entropy, a mean over the blocks of each
    partner and then over the complexes whose partner is absent. `predict` gives probabilities [G, C].
    """

    Config = PartnerConfig
    needs = ("block",)
    targets = "absent"
    learnt_from = "partner that was left out"

    def __init__(self, config: PartnerConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        self.classes = encoder.block_types - SPECIAL_BLOCKS
        width = encoder.block_hidden
        self.network = mlp([width, 2 * width, self.classes], "relu", config.dropout)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        blocks = inputs.blocks.ordinary
        votes, of = self.network(encoding.block.index_select(0, blocks)), inputs.graph_of_block[blocks]
        total = votes.new_zeros(inputs.num_graphs, self.classes).index_add(0, of, votes)
        count = votes.new_zeros(inputs.num_graphs).index_add(0, of, torch.ones_like(votes[:, 0]))
        return total / count.clamp(min=1)[:, None]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        of, types = target
        # through the output, so that there is a gradient, of 0, where no partner is absent
        each = F.cross_entropy(output[of], types, reduction="none")
        return (self._shares(of, output) * each).sum()

    def _shares(self, of: Tensor, output: Tensor) -> Tensor:
        """The share of each absent block [N], of the complexes `of`, in a mean: they add up to 1 if there are any."""
        sizes = output.new_zeros(len(output)).index_add(0, of, torch.ones_like(of, dtype=output.dtype))
        return 1 / sizes[of] / (sizes > 0).sum().clamp(min=1)

    def counts(self, target: Any, inputs: GraphInputs) -> dict[str, int]:
        return {"": len(target[0].unique())}

    def predict(self, output: Tensor) -> Tensor:
        return output.softmax(dim=1)

    @classmethod
    def learns(cls, config: PartnerConfig) -> frozenset[str]:
        return frozenset({"lone"})

    def metrics(self) -> Any:
        from torchmetrics import MetricCollection

        from atomica.heads.metrics import Share

        def named(output: Tensor, target: Tensor) -> tuple[Tensor, int] | None:
            of, types = target
            right = output.argmax(dim=1)[of] == types
            count = len(of.unique())
            return ((self._shares(of, output) * right).sum(), count) if count else None

        return MetricCollection({"accuracy": Share(named)}, compute_groups=False)
