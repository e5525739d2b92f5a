"""Binding affinity of a complex from a sum over its blocks; squared-error loss on pK = -log10 of the constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.heads import register
from atomica.heads.readout import BlockReadoutConfig
from atomica.heads.regression import RegressionHead
from atomica.nn.encoding import EncoderSettings, Encoding
from atomica.spec import setting

__all__ = ["AffinityConfig", "AffinityHead"]

READOUTS: Mapping[str, str] = {
    "block": "the embedding of each block, as the original: what the network makes of them is summed",
    "z": "the rotation invariants of the blocks, summed: the network sees the complex",
}


@dataclass(frozen=True, kw_only=True)
class AffinityConfig(BlockReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "affinity"`. Raises SpecError naming every value out of range."""

    readout: str = setting("z", "what of the encoder the head reads", choices=READOUTS)


@register("affinity")
class AffinityHead(RegressionHead):
    """A sum over the blocks of a complex, of their invariants or of what a network makes of their embeddings.

    With `readout = "z"` the linear path is a sum over blocks and a constant, and can be solved; a network on each
    block has no constant once labels are standardised, and its answers grow with the number of blocks. Global blocks
    count only there, and only where the encoder has edges to them. `predict` gives pK [G]. External features of blocks
    are a setting of the encoder, `EncoderSettings.embeddings`.
    """

    Config = AffinityConfig

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {"readout": "block"}

    def __init__(self, config: AffinityConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        self.with_global_blocks = encoder.block_global

    def read(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        """The invariants of ordinary blocks, summed [G, W]; else the embedding of each block [B, W]."""
        rows = super().read(encoding, inputs)
        if self.config.readout == "block":
            return rows
        return _summed(torch.where(inputs.blocks.is_global[:, None], 0.0, rows), inputs)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        answer = self.answer(self.read(encoding, inputs))
        if self.config.readout == "z":
            return answer
        if not self.with_global_blocks:
            answer = torch.where(inputs.blocks.is_global, 0.0, answer)
        return _summed(answer, inputs)


def _summed(rows: Tensor, inputs: GraphInputs) -> Tensor:
    """Rows of blocks [B, …], summed over each complex [G, …]."""
    return rows.new_zeros(inputs.num_graphs, *rows.shape[1:]).index_add(0, inputs.graph_of_block, rows)
