"""What lies around a block: its type, how crowded it is, and how that stands to the rest of its complex.

Edges lead to nearest neighbours, always as many, so an encoder hardly sees how much there is within 10 or 30 Å; and
what is crowded in a small structure is not in a large one. Shapes: B blocks, A atoms, G complexes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.nn.representations import moments

__all__ = ["surroundings", "width"]

BLOCKS = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0)
"""Å from the centre of a block within which centres of others are counted."""
ATOMS = (4.0, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0, 30.0)
"""Å from the centre of a block within which atoms of others are counted."""
EDGE = 0.5
"""Å to either side of a distance over which a count fades, so that rounding moves none by a whole one."""
ROOM = 1 << 24
"""Distances that are made at once; a ribosome has a thousand times as many."""
SMALLEST = 1e-3
"""Deviations below this are of blocks that are all the same."""


def width(types: int) -> int:
    """Columns of `surroundings`."""
    return types + 2 * (len(BLOCKS) + len(ATOMS))


def surroundings(inputs: GraphInputs, types: int) -> Tensor:
    """Of each block its type, counts around it, and these less the complex's mean over its deviation: [B, W].

    Of global blocks: 0. Coordinates get no gradient from it.
    """
    ordinary = ~inputs.blocks.is_global
    counts = torch.cat(_each(inputs))
    counts = counts * ordinary[:, None]
    mean, deviation = moments(counts, inputs.graph_of_block, inputs.num_graphs, ordinary)
    mean, deviation = mean[inputs.graph_of_block], deviation[inputs.graph_of_block]
    off = torch.where(deviation > SMALLEST, (counts - mean) / deviation.clamp(min=SMALLEST), 0.0)
    kinds = F.one_hot(inputs.blocks.type, types).to(counts.dtype)
    return torch.cat([kinds, counts, off], dim=1) * ordinary[:, None]


def _each(inputs: GraphInputs) -> list[Tensor]:
    """Counts of blocks and atoms around each block, complex by complex."""
    of_block, of_atom = inputs.graph_of_block, inputs.graph_of_atom
    blocks = torch.bincount(of_block, minlength=inputs.num_graphs).tolist()
    atoms = torch.bincount(of_atom, minlength=inputs.num_graphs).tolist()
    centres, x = inputs.blocks.x.detach(), inputs.atoms.x.detach()
    own = torch.arange(len(of_block), device=x.device)
    parts = (value.split(blocks) for value in (centres, own, ~inputs.blocks.is_global))
    others = (value.split(atoms) for value in (x, inputs.block_of_atom, ~inputs.atoms.is_global))
    found = []
    for centre, number, ordinary, place, block, real in zip(*parts, *others, strict=True):
        for few, own_few in zip(
            *(one.split(max(1, ROOM // max(1, len(place)))) for one in (centre, number)), strict=True
        ):
            near = _counts(few, centre, ordinary & (own_few[:, None] != number), BLOCKS)
            atoms_near = _counts(few, place, real & (own_few[:, None] != block), ATOMS)
            found.append(torch.cat([near, atoms_near], dim=1))
    return found


def _counts(centres: Tensor, points: Tensor, counted: Tensor, radii: tuple[float, ...]) -> Tensor:
    """How many counted points [N, P] lie within each radius of each centre: [N, R]."""
    distance = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
    distance = torch.where(counted, distance, torch.inf)
    return torch.stack(
        [((radius + EDGE - distance) / (2 * EDGE)).clamp(0, 1).sum(1) for radius in radii], dim=1
    )
