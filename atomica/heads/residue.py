"""A label for each block: residues, nucleotides, fragments; yes or no, a class, or a number.

The same networks, losses and metrics as of complexes, on what is read of each block. Outputs have a row for each block
of the batch, targets too: `data.block_labels` says where labels come from. Global blocks, and blocks without a label,
count nowhere. Shapes: B blocks, L of them with a label, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.data.labels import known_of
from atomica.errors import DataError
from atomica.heads import Head, register
from atomica.heads.binary import BinaryHead, YesOrNo
from atomica.heads.multiclass import MulticlassHead, OneOfSeveral
from atomica.heads.readout import SiteReadoutConfig
from atomica.heads.regression import RegressionHead
from atomica.nn.encoding import EncoderSettings

__all__ = [
    "BlockHead",
    "ResidueBinaryConfig",
    "ResidueBinaryHead",
    "ResidueMulticlassConfig",
    "ResidueMulticlassHead",
    "ResidueRegressionConfig",
    "ResidueRegressionHead",
]


class BlockHead(Head):
    """What heads on blocks share; the class beside it is of the same question about complexes."""

    targets = "block_labels"
    baseline = "neighbours"

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {"surroundings": False}

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        if len(output) != len(target):
            raise DataError(f"{len(target)} labels for {len(output)} blocks; give one for each")
        known = known_of(target)
        if not bool(known.any()):
            return output.sum() * 0.0
        return super().loss(output[known], target[known])

    def measured(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        known = known_of(target)
        return prediction[known], target[known]

    def counts(self, target: Any, inputs: GraphInputs) -> dict[str, Any]:
        return {"": self.amount(target[known_of(target)])}

    def select(self, output: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        raise DataError("labels are of blocks; leave out blocks instead of complexes")


@dataclass(frozen=True)
class ResidueBinaryConfig(YesOrNo, SiteReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "residue_binary"`. Raises SpecError naming every value out of range."""


@dataclass(frozen=True)
class ResidueMulticlassConfig(OneOfSeveral, SiteReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "residue_multiclass"`. Raises SpecError as the others."""


@dataclass(frozen=True)
class ResidueRegressionConfig(SiteReadoutConfig):
    """Keys of a `[[head]]` table with `kind = "residue_regression"`. Raises SpecError as the others."""


@register("residue_binary")
class ResidueBinaryHead(BlockHead, BinaryHead):
    """Yes or no for each block; loss: binary cross-entropy over the blocks that have a label."""

    Config = ResidueBinaryConfig
    monitor = "auprc"
    plots = (*BinaryHead.plots, "sequence")


@register("residue_multiclass")
class ResidueMulticlassHead(BlockHead, MulticlassHead):
    """One of several classes for each block; loss: cross-entropy over the blocks that have a label."""

    Config = ResidueMulticlassConfig
    plots = (*MulticlassHead.plots, "sequence")


@register("residue_regression")
class ResidueRegressionHead(BlockHead, RegressionHead):
    """A number for each block; loss: mean squared error over the blocks that have a label."""

    Config = ResidueRegressionConfig
    plots = (*RegressionHead.plots, "sequence")
