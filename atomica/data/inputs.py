"""The tensors that a model reads of a batched graph, on the model's device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atomica import keys
from atomica.data.edges import EdgeList
from atomica.data.noise import Perturbation
from atomica.data.transfer import moved
from atomica.errors import DataError
from atomica.keys import ATOM, BLOCK, EDGE_TYPES, OF

if TYPE_CHECKING:
    import dgl

__all__ = ["GraphInputs", "Level", "Places", "Table", "inputs"]

EMBEDDINGS = ("embedding", "embedding_0", "embedding_1", "vector")


@dataclass(frozen=True)
class Level:
    """One level of a batch as the encoder reads it: positions [N, 3] Å, types [N], and edges of all kinds.

    ordinary: [n] int64, the nodes that are not global.
    """

    x: Tensor
    type: Tensor
    is_global: Tensor
    ordinary: Tensor
    edges: EdgeList


@dataclass(frozen=True)
class Table:
    """A place for each of some blocks in a table [G, L] that has a row for each complex, filled up at its end.

    blocks, row, column: [n] int64; present: [G, L] bool, the places that are taken.
    """

    blocks: Tensor
    row: Tensor
    column: Tensor
    present: Tensor


@dataclass(frozen=True)
class Places:
    """Which blocks are what, as indices: their number depends on the data, and a GPU would have to be asked for it.

    masked: [M] int64, those that `GraphInputs.masked` marks; segments: those of segment 0 and of segment 1; table: of
    all blocks; ordinary: the table of those that are not global.
    """

    masked: Tensor
    segments: tuple[Tensor, Tensor]
    table: Table
    ordinary: Table


@dataclass(frozen=True)
class Alone:
    """One segment of each complex of a batch: its atoms and blocks as indices, and the inputs that they make."""

    atoms: Tensor
    blocks: Tensor
    inputs: GraphInputs


@dataclass(frozen=True)
class GraphInputs:
    """The tensors a model takes from a batched graph, on the model's device.

    atoms, blocks: the two levels. block_of_atom [A]; graph_of_block [B] (ascending); segment, modality [B];
    num_graphs: complexes in the batch. masked [B] bool: blocks whose type is to be predicted; places: the same and
    more as indices. embeddings: the external features [B, E] that the graph has, by frame name. perturbation: noise
    put on the coordinates. alone: segments that a model reads alone, see `only`. made: how the graph was made, the
    different rows of its frame `block.made`.
    """

    atoms: Level
    blocks: Level
    block_of_atom: Tensor
    graph_of_block: Tensor
    segment: Tensor
    modality: Tensor
    num_graphs: int
    masked: Tensor
    places: Places
    embeddings: Mapping[str, Tensor] = field(default_factory=dict)
    perturbation: Perturbation | None = None
    alone: Mapping[int, Alone] = field(default_factory=dict)
    made: tuple[tuple[int, ...], ...] = ()

    @property
    def graph_of_atom(self) -> Tensor:
        return self.graph_of_block[self.block_of_atom]

    def planned(self) -> GraphInputs:
        """The same, after the order of edges has been made, which else is made when it is first asked for."""
        for level in (self.atoms, self.blocks):
            _ = level.edges.plan
        for part in self.alone.values():
            part.inputs.planned()
        return self

    def to(self, device: torch.device | str) -> GraphInputs:
        """The same on another device, without waiting for it; all that depends on the data is made before."""
        target = torch.device(device)
        return self if self.segment.device == target else moved(self.planned(), target)

    def table(self, chosen: Tensor) -> Table:
        """The table of some blocks: [B] bool."""
        return _table(_indices(chosen), self.graph_of_block, self.num_graphs)

    def vectors(self, size: int) -> Tensor:
        """The external vector of each complex, [G, size]. Raises DataError if there are none, or others."""
        found = self.embeddings.get("vector")
        if found is None or found.shape[1:] != (size,):
            met = "none" if found is None else f"shape {tuple(found.shape)}"
            raise DataError(
                f"a head reads a vector of length {size} for each complex from the graph's block frame 'vector', which "
                f"has {met}"
            )
        first = self.places.table
        rows = first.blocks.new_zeros(self.num_graphs).scatter_reduce(
            0, first.row, first.blocks, "amin", include_self=False
        )
        return found.index_select(0, rows)

    def masking(self, masked: Tensor) -> GraphInputs:
        """The same with other blocks masked: [B] bool."""
        return replace(self, masked=masked, places=replace(self.places, masked=_indices(masked)), alone={})

    def with_alone(self, segment: int) -> GraphInputs:
        """The same, with what `only` needs for a segment. Raises DataError if a complex has no such segment."""
        return replace(self, alone={**self.alone, segment: self._alone(segment)})

    def only(self, segment: int) -> GraphInputs:
        """One segment of each complex as if it were alone, without a perturbation.

        Nearest neighbours within a segment do not depend on the other one, so its own edges are all there.
        Raises DataError if a complex has no such segment.
        """
        found = self.alone.get(segment) or self._alone(segment)
        atoms, blocks = found.atoms, found.blocks
        return replace(
            found.inputs,
            atoms=replace(found.inputs.atoms, x=self.atoms.x[atoms], type=self.atoms.type[atoms]),
            blocks=replace(found.inputs.blocks, x=self.blocks.x[blocks], type=self.blocks.type[blocks]),
            modality=self.modality[blocks],
            masked=self.masked[blocks],
            embeddings={name: value[blocks] for name, value in self.embeddings.items()},
        )

    def _alone(self, segment: int) -> Alone:
        kept = self.segment == segment
        graph_of_block = self.graph_of_block[kept]
        counts = torch.bincount(graph_of_block, minlength=self.num_graphs)
        if bool((counts == 0).any()):
            raise DataError(f"complex {int(counts.argmin())} of the batch has no segment {segment}")
        kept_atoms = kept[self.block_of_atom]
        if bool(kept.all()):
            return Alone(_indices(kept_atoms), _indices(kept), replace(self, perturbation=None))
        inputs = _assemble(
            atoms=_level_of(self.atoms, kept_atoms),
            blocks=_level_of(self.blocks, kept),
            block_of_atom=(torch.cumsum(kept, 0) - 1)[self.block_of_atom[kept_atoms]],
            graph_of_block=graph_of_block,
            segment=self.segment[kept],
            modality=self.modality[kept],
            num_graphs=self.num_graphs,
            masked=self.masked[kept],
        )
        return Alone(_indices(kept_atoms), _indices(kept), inputs)


def _indices(chosen: Tensor) -> Tensor:
    """Bool [N] → the indices where it is true."""
    return torch.nonzero(chosen)[:, 0]


def _level(x: Tensor, type: Tensor, is_global: Tensor, edges: EdgeList) -> Level:
    return Level(x, type, is_global, _indices(~is_global), edges)


def _level_of(level: Level, kept: Tensor) -> Level:
    """The nodes for which `kept` [N] is true, and the edges among them."""
    index, edges = torch.cumsum(kept, 0) - 1, level.edges
    among = kept[edges.sender] & kept[edges.receiver]
    own = EdgeList(
        index[edges.sender[among]], index[edges.receiver[among]], edges.kind[among], int(kept.sum())
    )
    return _level(level.x[kept], level.type[kept], level.is_global[kept], own)


def _table(blocks: Tensor, graph_of_block: Tensor, num_graphs: int) -> Table:
    """The table of some blocks [n] of a batch."""
    row = graph_of_block[blocks]
    counts = torch.bincount(row, minlength=num_graphs)
    column = torch.arange(len(row), device=row.device) - (torch.cumsum(counts, 0) - counts)[row]
    present = torch.arange(int(counts.max()), device=row.device)[None] < counts[:, None]
    return Table(blocks, row, column, present)


def _assemble(
    *, blocks: Level, graph_of_block: Tensor, segment: Tensor, masked: Tensor, num_graphs: int, **others: Any
) -> GraphInputs:
    """Inputs with all that can be told from them; arguments as the fields of `GraphInputs`."""
    everything = torch.arange(len(segment), device=segment.device)
    return GraphInputs(
        blocks=blocks,
        graph_of_block=graph_of_block,
        segment=segment,
        masked=masked,
        num_graphs=num_graphs,
        places=Places(
            masked=_indices(masked),
            segments=(_indices(segment == 0), _indices(segment == 1)),
            table=_table(everything, graph_of_block, num_graphs),
            ordinary=_table(blocks.ordinary, graph_of_block, num_graphs),
        ),
        **others,
    )


_FIELDS = {field.name: field for field in (*keys.GRAPH_FIELDS, *keys.OPTIONAL_GRAPH_FIELDS)}
_DTYPES = {
    "int64": (torch.int64,),
    "bool": (torch.bool, torch.uint8),
    "float32": (torch.float32, torch.float64),
}
"""Types of numbers that a frame may have; DGL's files keep true and false as uint8."""


def _frame(graph: dgl.DGLGraph, name: str) -> Tensor:
    """A frame of a graph, such as `block.type`, as `keys` declares it. Raises DataError naming it."""
    declared, (level, frame) = _FIELDS[name], name.split(".")
    if level not in graph.ntypes or frame not in graph.nodes[level].data:
        raise DataError(
            f"frame {name}: the graph has none; it must hold {declared.shape} {declared.dtype}, "
            f"{declared.meaning}. Make graphs with atomica, as by data.graphs(rows)"
        )
    found = graph.nodes[level].data[frame]
    width = declared.shape.split(",")[1:]
    fits = found.ndim == 1 + len(width) and (
        not width or not width[0].isdigit() or found.shape[1] == int(width[0])
    )
    if found.dtype not in _DTYPES[declared.dtype] or not fits:
        kind = str(found.dtype).removeprefix("torch.")
        raise DataError(
            f"frame {name}: holds {kind} {list(found.shape)}, and must hold {declared.dtype} [{declared.shape}]"
        )
    if found.dtype == torch.uint8:
        if bool((found > 1).any()):
            raise DataError(f"frame {name}: holds {int(found.max())}, and must be true or false (1 or 0)")
        return found.bool()
    if found.is_floating_point() and not bool(torch.isfinite(found).all()):
        row = int(torch.nonzero(~torch.isfinite(found).all(dim=1))[0, 0])
        raise DataError(f"frame {name}: row {row} is not finite")
    return found


def _graph_of_block(graph: dgl.DGLGraph, block_of_atom: Tensor) -> Tensor:
    """The complex of each block [B], counted from 0, by the frame `block.place`.

    It is in every file and survives what DGL does to graphs, unlike the sizes of a batch. Raises DataError where
    nodes are missing, or not in their places.
    """
    place = _frame(graph, "block.place")
    whole, of_block, of_complex = torch.arange(len(place), device=place.device), place[:, 2], place[:, 1]
    number = torch.cumsum(place[:, 0] == 0, 0) - 1
    if not len(place) or int(number[0]) < 0:
        raise DataError("frame block.place: the first block of a complex is missing; make the graph anew")
    first = torch.nonzero(place[:, 0] == 0)[:, 0]
    wrong = (place[:, 0] != whole - first[number]) | (of_complex != torch.bincount(number)[number])
    if bool(wrong.any()):
        at = int(number[wrong][0])
        raise DataError(
            f"frame block.place: complex {at} of the batch had {int(of_complex[wrong][0])} blocks when the graph "
            f"was made, and has {int(torch.bincount(number)[at])}, or others; make it anew instead of taking blocks out"
        )
    atoms = torch.bincount(block_of_atom, minlength=len(place))
    if bool((atoms != of_block).any()):
        at = int(torch.nonzero(atoms != of_block)[0, 0])
        raise DataError(
            f"frame block.place: block {at} had {int(of_block[at])} atoms when the graph was made, and has "
            f"{int(atoms[at])}; make it anew instead of taking atoms out"
        )
    return number


def inputs(
    graph: dgl.DGLGraph, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> GraphInputs:
    """Copy what a model needs from `graph` to `device`; coordinates become `dtype`.

    Raises DataError naming a frame that is missing, of another type or shape than `keys.GRAPH_FIELDS` says, or from
    which nodes were taken out.
    """
    for level in (ATOM, BLOCK):
        if level not in graph.ntypes:
            raise DataError(
                f"the graph has no nodes of the type {level!r}; its types are {', '.join(graph.ntypes)}"
            )
    levels = {}
    for level in (ATOM, BLOCK):
        senders, receivers, kinds = [], [], []
        for index, kind in enumerate(EDGE_TYPES):
            relation = (level, kind, level)
            if relation in graph.canonical_etypes:
                sender, receiver = graph.edges(etype=relation)
                senders.append(sender.long())
                receivers.append(receiver.long())
                kinds.append(torch.full_like(senders[-1], index))
        if not senders:
            raise DataError(f"the graph has no edges between nodes of the type {level!r}")
        edges = EdgeList(torch.cat(senders), torch.cat(receivers), torch.cat(kinds), graph.num_nodes(level))
        x, type_, is_global = (_frame(graph, f"{level}.{name}") for name in ("x", "type", "is_global"))
        levels[level] = _level(x.to(dtype), type_, is_global, edges)
    if (ATOM, OF, BLOCK) not in graph.canonical_etypes:
        raise DataError(f"the graph has no edges {OF!r} from atoms to their blocks")
    of_atom, block_of_atom = (end.long() for end in graph.edges(etype=(ATOM, OF, BLOCK)))
    frame = graph.nodes[BLOCK].data
    graph_of_block = _graph_of_block(graph, block_of_atom)
    if not torch.equal(of_atom, torch.arange(graph.num_nodes(ATOM), device=of_atom.device)):
        raise DataError(f"the edges {OF!r} must lead from every atom to its block, in the order of atoms")
    made = _frame(graph, "block.made")
    rows = made[:1] if bool((made == made[:1]).all()) else torch.unique(made, dim=0)
    found = _assemble(
        atoms=levels[ATOM],
        blocks=levels[BLOCK],
        block_of_atom=block_of_atom,
        graph_of_block=graph_of_block,
        segment=_frame(graph, "block.segment"),
        modality=_frame(graph, "block.modality"),
        num_graphs=int(graph_of_block[-1]) + 1,
        masked=_frame(graph, "block.masked") if "masked" in frame else levels[BLOCK].type == keys.MASK_BLOCK,
        embeddings={name: _frame(graph, f"{BLOCK}.{name}").to(dtype) for name in EMBEDDINGS if name in frame},
        made=tuple(map(tuple, rows.tolist())),
    )
    return found.to(device)
