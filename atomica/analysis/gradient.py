"""How much the embedding of a complex hangs on each block, for all blocks at once, by gradients.

The path of integrated gradients (Sundararajan, Taly, Yan 2017) leads from what the blocks of a complex bring into the
block level to what they bring where each is masked: to the same complex with a mask atom at the centre of every block.
The change of the embedding by a masked block is, to first order, its step along that path times the derivative; the
square of its length is estimated by a few directions in the space of embeddings, one backward pass each (Hutchinson
1990). The derivative is read at one point near the complex: one block of many is masked, which is near, while the
integral up to the end of the path, where all are, ranks blocks worse.

What it costs is counted in `PASSES`: 2 forward passes through the atom level, the second of a complex of one atom per
block; 1 forward pass through the block level, and 4 backward through the block level. No pass is for single blocks.

Shapes: B blocks, H width of the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import keys
from atomica.analysis.masking import MASK_ATOM, Copies, maskable
from atomica.data.inputs import GraphInputs
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.model.model import Model
from atomica.nn.equivariant import EquivariantEncoder

__all__ = ["PASSES", "Path", "gradient_scores"]


POINT = 0.1
"""Where on the path the derivative is read: 0 the complex, 1 all blocks masked."""
DIRECTIONS = 4
PASSES = {"atom level forward": 2, "block level forward": 1, "block level backward": DIRECTIONS}
"""Passes for each complex, however many blocks it has."""


def gradient_scores(model: Model, record: Record) -> npt.NDArray[np.float64]:
    """An estimate of `masking.cosines` for every block of `masking.maskable`: [M], 1 where nothing hangs on the block.

    record: as the model sees it. Raises DataError for an encoder of another kind than the equivariant one.

    >>> import atomica
    >>> model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=2)).eval()
    >>> record = atomica.open_dataset("demo://pockets")[40].view("segment0")
    >>> bool((gradient_scores(model, record) <= 1).all())
    True
    """
    path = Path.of(model, record)
    point_BH = (path.here + POINT * path.step).requires_grad_()
    with torch.enable_grad():
        embedding = path.embedding(point_BH)
        squares = torch.zeros(len(point_BH), dtype=torch.float64)
        for direction in _directions(len(embedding)).to(embedding):
            (slope_BH,) = torch.autograd.grad(embedding, point_BH, direction, retain_graph=True)
            squares += (slope_BH * path.step).sum(dim=1).double().square().cpu()
    # of the cosine between vectors of length 1, one of which is the other and a small step
    change = 0.5 * squares * len(embedding) / min(DIRECTIONS, len(embedding))
    return np.clip(1.0 - change.numpy()[maskable(record)], -1.0, 1.0)


@dataclass(frozen=True)
class Path:
    """From a complex to the same with all blocks masked. here, step [B, H]: what blocks bring into the block level, and
    what they bring when masked less that."""

    encoder: EquivariantEncoder
    inputs: GraphInputs
    here: Tensor
    step: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, record: Record) -> Path:
        """That of a record as the model sees it. Raises DataError for another kind of encoder."""
        encoder = model.encoder
        if not isinstance(encoder, EquivariantEncoder):
            raise DataError(f"gradients need an equivariant encoder, and this one is {model.config.kind}")
        inputs = model.inputs([record])
        masked = model.inputs(_all_masked(record).graph(model.config.graph_options()))
        here, there = (
            encoder.queries(encoder.atoms(one.atoms, encoder.atom_types(one.atoms.type)), one)
            for one in (inputs, masked)
        )
        return cls(encoder, inputs, here, there - here)

    def embedding(self, brought: Tensor) -> Tensor:
        """The embedding [H] of the complex if its blocks bring this [B, H]."""
        block = self.encoder.blocks(self.inputs.blocks, brought)
        return self.encoder.complexes(block[:0], block, self.inputs).graph[0]


def _directions(width: int) -> Tensor:
    """Orthogonal directions, drawn once for all complexes: [DIRECTIONS, H]."""
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].T[:DIRECTIONS]


def _all_masked(record: Record) -> Copies:
    """The complex with every block masked but the global ones."""
    ends = np.cumsum(record.block_lengths.astype(np.int64))
    starts = ends - record.block_lengths
    centres = np.add.reduceat(record.positions.astype(np.float64), starts) / record.block_lengths[:, None]
    is_global, count = record.block_types == keys.GLOBAL_BLOCK, len(ends)
    return Copies(
        positions=centres.astype(np.float32),
        block_types=np.where(is_global, keys.GLOBAL_BLOCK, keys.MASK_BLOCK),
        atom_types=np.where(is_global, keys.GLOBAL_ATOM, MASK_ATOM),
        block_lengths=np.ones(count, dtype=np.int64),
        segments=record.segment_ids.astype(np.int64),
        lengths=np.array([count]),
        modality=np.array([record.modality]),
        source=np.full(count, -1),
    )
