"""The embeddings of a complex with each of its blocks masked in turn, computed only as far as they differ.

A masked block has the type MASK and one atom of the mask type at its centroid. Atoms whose neighbourhood of so many
layers does not reach the masked block keep their features, so each level of an equivariant encoder is computed once for
the whole complex, and for every mask again for those alone that it reaches, layer by layer. Other encoders compute
every copy.

Shapes: C copies of a complex, the first of them unmasked; N nodes of the unmasked copy, V of all copies, E edges,
R receivers whose features differ, H hidden size, D feature columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from atomica import keys
from atomica.data import graph
from atomica.data.edges import EdgePlan, plan_edges
from atomica.data.inputs import GraphInputs, Level
from atomica.data.record import Record
from atomica.data.sampling import within_memory
from atomica.model.model import Model
from atomica.nn.encoding import Features
from atomica.nn.equivariant import EquivariantEncoder, LevelEncoder
from atomica.nn.irreps import Layout, spherical_harmonics
from atomica.nn.layers import Edges, Interaction
from atomica.nn.representations import Representation, parts_of_blocks

__all__ = ["WHOLE", "Copies", "cosines", "maskable", "masked_copies"]


MASK_ATOM = 1

Indices = npt.NDArray[np.int64]


def maskable(record: Record) -> Indices:
    """The blocks of a complex that can be masked: all but the global ones."""
    return np.flatnonzero(record.block_types != keys.GLOBAL_BLOCK)


@dataclass(frozen=True)
class Copies:
    """A complex and copies of it, each with one block masked, as the arguments of `graph_from_arrays`.

    source [A]: the atom of the first copy that an atom is, -1 for mask atoms.
    """

    positions: npt.NDArray[np.float32]
    block_types: Indices
    atom_types: Indices
    block_lengths: Indices
    segments: Indices
    lengths: Indices
    modality: Indices
    source: Indices

    def graph(self, options: dict[str, object]) -> object:
        """The copies as one batched DGL graph."""
        return graph.graph_from_arrays(
            self.positions,
            self.block_types,
            self.atom_types,
            self.block_lengths,
            self.segments,
            self.lengths,
            modality=self.modality,
            **options,  # type: ignore[arg-type]
        )


def masked_copies(record: Record, blocks: Indices) -> Copies:
    """The complex as it is, then a copy for each of `blocks`, with that block masked."""
    ends = np.cumsum(record.block_lengths.astype(np.int64))
    atoms = np.arange(int(ends[-1]))
    sources, positions, lengths = [atoms], [record.positions], [record.block_lengths.astype(np.int64)]
    types = np.tile(record.block_types.astype(np.int64), (len(blocks) + 1, 1))
    types[np.arange(1, len(blocks) + 1), blocks] = keys.MASK_BLOCK
    for block in blocks:
        first, last = int(ends[block]) - int(record.block_lengths[block]), int(ends[block])
        centre = record.positions[first:last].mean(axis=0, dtype=np.float64).astype(np.float32)
        sources.append(np.concatenate([atoms[:first], [-1], atoms[last:]]))
        positions.append(np.concatenate([record.positions[:first], centre[None], record.positions[last:]]))
        lengths.append(np.where(np.arange(len(ends)) == block, 1, lengths[0]))
    source = np.concatenate(sources)
    count = len(blocks) + 1
    return Copies(
        positions=np.concatenate(positions),
        block_types=types.reshape(-1),
        atom_types=np.where(source < 0, MASK_ATOM, record.atom_types.astype(np.int64)[source]),
        block_lengths=np.concatenate(lengths),
        segments=np.tile(record.segment_ids.astype(np.int64), count),
        lengths=np.full(count, len(ends)),
        modality=np.full(count, record.modality),
        source=source,
    )


WHOLE = Representation("h_graph")
"""What is compared unless another readout is asked for: the embedding of the complex."""


def cosines(
    model: Model,
    record: Record,
    *,
    batch_blocks: int,
    readout: Representation = WHOLE,
    blocks: Indices | None = None,
) -> npt.NDArray[np.float64]:
    """Cosine between a readout of a complex and that with a block masked, for each of `blocks` (all of `maskable`).

    record: as the model sees it. batch_blocks: blocks of the copies that are computed together, about. Without
    `reference_quirks` the result does not depend on it, to rounding; with them every batch holds the unmasked complex
    as well, so that padding is that of a pair of the complex and its masked copy. readout: one vector per complex.
    """
    blocks = maskable(record) if blocks is None else blocks
    per_batch = max(1, batch_blocks // max(1, len(record.block_types)))
    once = Once()

    def some(own: Indices) -> npt.NDArray[np.float64]:
        return _cosines(model, record, own, readout, once)

    batches = (blocks[first : first + per_batch] for first in range(0, len(blocks), per_batch))
    found = [cosine for batch in batches for _, cosine in within_memory(batch, some)]
    return np.concatenate(found) if found else np.zeros(0)


@torch.no_grad()
def _cosines(
    model: Model, record: Record, blocks: Indices, readout: Representation, once: Once
) -> npt.NDArray[np.float64]:
    copies = masked_copies(record, blocks)
    inputs = model.inputs(copies.graph(model.config.graph_options()))
    if isinstance(model.encoder, EquivariantEncoder):
        source = torch.from_numpy(copies.source).to(inputs.atoms.x.device)
        embedded = embeddings(model.encoder, inputs, source, readout, once)
    else:
        (embedded,) = model.represent(inputs, readout)
    return F.cosine_similarity(embedded[:1].double(), embedded[1:].double()).cpu().numpy()


# ------------------------------------------------------------------------------ what differs, and what does not


@dataclass
class Once:
    """What of the unmasked copy is the same for all batches of copies: its features before every layer and after the
    last, of each level; empty until they are made."""

    atoms: list[Tensor] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Differing:
    """A level of copies. out [V, H]: its output. differs: [V] bool, the nodes that may not be what they are in the
    first copy. features: with the detail, all irreps after the last layer, else the scalars alone."""

    out: Tensor
    differs: Tensor
    features: Features


def embeddings(
    encoder: EquivariantEncoder,
    inputs: GraphInputs,
    source: Tensor,
    readout: Representation = WHOLE,
    once: Once | None = None,
) -> Tensor:
    """A readout [C, …] of copies whose first one has the atoms 0 to N - 1; source [V] as in `Copies`.

    once: of the same complex.
    """
    once, detailed = once or Once(), readout.needs == "invariants"
    level, count = inputs.blocks, len(inputs.segment) // inputs.num_graphs
    atoms = differing(
        encoder.atoms,
        inputs.atoms,
        encoder.atom_types(inputs.atoms.type),
        source,
        once.atoms,
        detailed=detailed,
    )
    number = torch.arange(count, device=source.device).repeat(inputs.num_graphs)
    other = level.type != level.type[number]
    other[inputs.block_of_atom[atoms.differs]] = True
    x = encoder.queries(atoms.out, inputs)
    blocks = differing(
        encoder.blocks, level, x, torch.where(other, -1, number), once.blocks, detailed=detailed
    )
    encoding = encoder.complexes(atoms.out, blocks.out, inputs)
    if not detailed:
        return readout.read(encoding, inputs, encoder)
    return readout.pooled(parts_of_blocks(encoding.block, atoms.features, blocks.features, inputs), inputs)


def differing(
    encoder: LevelEncoder,
    level: Level,
    x: Tensor,
    source: Tensor,
    states: list[Tensor],
    *,
    detailed: bool = False,
) -> Differing:
    """What `encoder(level, x)` gives for copies of which many nodes see what they saw in the first copy.

    x [V, H] the inputs; source [V] the node of the first copy that a node is, and shares its input with, or -1.
    states: what is in `Once` of this level; filled if it is empty.
    """
    nodes, edges = int(source.max()) + 1, level.edges
    if not states:
        states += _first_copy(encoder, level, x[:nodes], nodes, detailed=detailed)
    fresh = _other_edges(level, source, nodes)
    place = torch.where(source < 0, 0, source)  # of each node's features in the table of the layer
    changed, own = torch.nonzero(source < 0)[:, 0], x[source < 0]
    place[changed] = nodes + torch.arange(len(changed), device=place.device)
    layers = list(encoder.layers)
    for index, layer in enumerate(layers):
        assert isinstance(layer, Interaction)
        reached = torch.zeros_like(fresh)
        reached[changed] = True
        fresh = fresh | reached
        fresh[edges.receiver[reached[edges.sender]]] = True
        table = torch.cat([states[index], own])
        where = torch.cat([level.x[:nodes], level.x[changed]])
        receivers = torch.nonzero(fresh)[:, 0]
        last = index == len(layers) - 1 and not detailed
        own = after_layer(encoder, layer, level, table, where, place, receivers, last=last)
        changed = receivers
        place = torch.where(source < 0, 0, source)
        place[changed] = nodes + torch.arange(len(changed), device=place.device)
    layout = layers[-1].outputs
    assert isinstance(layout, Layout)
    table = torch.cat([states[-1], own])
    out = F.normalize(encoder.out(table[:, : layout.channels[0]]), dim=1)[place]
    return Differing(out, fresh, Features(table[place] if detailed else table[:0], layout))


def _first_copy(
    encoder: LevelEncoder, level: Level, x: Tensor, nodes: int, *, detailed: bool
) -> list[Tensor]:
    """The features of the nodes of the first copy before every layer, and after the last."""
    every = level.edges
    among = every.receiver < nodes
    plan = plan_edges(every.sender[among], every.receiver[among], every.kind[among], nodes)
    vectors = (level.x[plan.sender] - level.x[plan.receiver]).double()
    edges = _edges(encoder, plan, vectors, x.dtype)
    states = [x]
    for layer in encoder.layers:
        last = layer is encoder.layers[-1] and not detailed
        states.append(layer(edges, states[-1], scalars_only=last))
    return states


def after_layer(
    encoder: LevelEncoder,
    layer: Interaction,
    level: Level,
    table: Tensor,
    where: Tensor,
    place: Tensor,
    receivers: Tensor,
    *,
    last: bool,
) -> Tensor:
    """Features of `receivers` [R] after a layer; table, where: features and places (Å) before it, found by `place`."""
    rank = torch.full_like(place, -1)
    rank[receivers] = torch.arange(len(receivers), device=place.device)
    every = level.edges
    among = rank[every.receiver] >= 0
    plan = plan_edges(
        place[every.sender[among]],
        rank[every.receiver[among]],
        every.kind[among],
        len(receivers),
        bipartite=True,
    )
    vectors = (where[plan.sender] - level.x[receivers][plan.receiver]).double()
    # blank edges of a bipartite plan have a length and a direction, and a weight of 0
    edges = _edges(encoder, plan, vectors, table.dtype)
    return layer(edges, table, scalars_only=last, receivers=table[place[receivers]])


def _edges(encoder: LevelEncoder, plan: EdgePlan, vectors: Tensor, dtype: torch.dtype) -> Edges:
    """The edges of a plan; vectors [E, 3] from receiver to sender in Å, float64."""
    length = encoder.length(vectors.norm(dim=1))
    return Edges(plan, spherical_harmonics(vectors).to(dtype), length, encoder.kinds.weight)


def _other_edges(level: Level, source: Tensor, nodes: int) -> Tensor:
    """Bool [V]: nodes that receive from other senders, or by other kinds of edges, than in the first copy."""
    edges = level.edges
    code = torch.where(source < 0, nodes, source)[edges.sender] * len(keys.EDGE_TYPES) + edges.kind
    order = torch.argsort(code, stable=True)
    order = order[torch.argsort(edges.receiver[order], stable=True)]
    code = code[order]
    degree = torch.bincount(edges.receiver, minlength=len(source))
    first = torch.cumsum(degree, 0) - degree
    origin = torch.where(source < 0, 0, source)
    other = (source < 0) | (degree != degree[origin])
    receiver = edges.receiver[order]
    compared = ~other[receiver]
    rank = torch.arange(len(code), device=code.device) - first[receiver]
    mine, receiver = code[compared], receiver[compared]
    theirs = code[first[origin[receiver]] + rank[compared]]
    other[receiver[mine != theirs]] = True
    return other
