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

import numpy as np
import numpy.typing as npt
import torch

from atomica import keys
from atomica.analysis.masking import MASK_ATOM, Copies, maskable
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.model.model import Model
from atomica.nn.equivariant import EquivariantEncoder

__all__ = ["PASSES", "gradient_scores"]


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
    encoder = model.encoder
    if not isinstance(encoder, EquivariantEncoder):
        raise DataError(
            f"scores by gradient need an equivariant encoder, and this one is {model.config.kind}"
        )
    options = model.config.graph_options()
    inputs = model.inputs([record])
    masked = model.inputs(_all_masked(record).graph(options))
    with torch.no_grad():
        here, there = (
            encoder.queries(encoder.atoms(one.atoms, encoder.atom_types(one.atoms.type)), one)
            for one in (inputs, masked)
        )
    step_BH = there - here
    point_BH = (here + POINT * step_BH).requires_grad_()
    with torch.enable_grad():
        block = encoder.blocks(inputs.blocks, point_BH)
        embedding = encoder.complexes(block[:0], block, inputs).graph[0]
        squares = torch.zeros(len(step_BH), dtype=torch.float64)
        for direction in _directions(len(embedding)).to(embedding):
            (slope_BH,) = torch.autograd.grad(embedding, point_BH, direction, retain_graph=True)
            squares += (slope_BH * step_BH).sum(dim=1).double().square().cpu()
    # of the cosine between vectors of length 1, one of which is the other and a small step
    change = 0.5 * squares * len(embedding) / min(DIRECTIONS, len(embedding))
    return np.clip(1.0 - change.numpy()[maskable(record)], -1.0, 1.0)


def _directions(width: int) -> torch.Tensor:
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
