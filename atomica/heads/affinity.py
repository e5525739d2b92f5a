"""Binding affinity of a complex as a sum over its blocks; squared-error loss on pK = -log10 of the constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.heads import register
from atomica.heads.readout import BlockReadoutConfig
from atomica.heads.regression import RegressionHead
from atomica.nn.encoding import EncoderSettings, Encoding

__all__ = ["AffinityConfig", "AffinityHead"]


class AffinityConfig(BlockReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "affinity"`. Raises SpecError naming every value out of range."""


@register("affinity")
class AffinityHead(RegressionHead):
    """A network on what `readout` names of each block, summed over the blocks of a complex.

    Global blocks count only where the encoder has edges to them. `predict` gives pK [G]. External
    features of blocks are a setting of the encoder, `EncoderSettings.embeddings`.
    """

    Config = AffinityConfig

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {"readout": "block"}

    def __init__(self, config: AffinityConfig, encoder: EncoderSettings) -> None:
        super().__init__(config, encoder)
        self.with_global_blocks = encoder.block_global

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        share_B = self.network(self.read(encoding, inputs)).squeeze(1)
        if not self.with_global_blocks or self.config.readout == "z":
            share_B = torch.where(inputs.blocks.is_global, 0.0, share_B)
        return share_B.new_zeros(inputs.num_graphs).index_add(0, inputs.graph_of_block, share_B)
