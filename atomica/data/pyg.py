"""Graphs for PyTorch Geometric, and back: the same nodes, relations and frames as a `HeteroData`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from atomica.data.graph import dgl
from atomica.errors import DataError
from atomica.keys import ATOM, BLOCK, GRAPH_FIELDS

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

__all__ = ["from_pyg", "to_pyg"]


def to_pyg(graph: dgl.DGLGraph) -> HeteroData:
    """A batched heterograph as PyTorch Geometric's `HeteroData`, which shares its tensors.

    Node types, relations and frames have the names they have here (`keys.GRAPH_FIELDS`; positions are `x`, in Å).
    `edge_index` [2, E] has senders first, receivers second. Of several complexes, each node type has `batch` [N], the
    complex of each node, and `ptr` [G + 1], as `torch_geometric.data.Batch` has. Raises DataError for what is no
    DGL graph, and if torch-geometric is not installed.

    >>> from atomica.testing import graph_of, random_interface, small_model
    >>> data = to_pyg(graph_of(small_model(), random_interface(0)))
    >>> data["atom"].x.shape, data["atom", "of", "block"].edge_index.shape
    (torch.Size([43, 3]), torch.Size([2, 43]))
    """
    if not isinstance(graph, dgl.DGLGraph):
        raise DataError(f"to_pyg: expected a DGL graph, got {type(graph).__name__}")
    data = _hetero_data()()
    for level in graph.ntypes:
        store = data[level]
        store.num_nodes = graph.num_nodes(level)
        for name, value in graph.nodes[level].data.items():
            store[name] = value
        if (counts := graph.batch_num_nodes(level)).numel() > 1:
            store.batch = torch.repeat_interleave(counts)
            store.ptr = torch.cat([counts.new_zeros(1), torch.cumsum(counts, 0)])
    for relation in graph.canonical_etypes:
        store = data[relation]
        store.edge_index = torch.stack(graph.edges(etype=relation, order="eid"))
        for name, value in graph.edges[relation].data.items():
            store[name] = value
    return data


def from_pyg(data: HeteroData) -> dgl.DGLGraph:
    """The heterograph of what `to_pyg` gave, or of a PyTorch Geometric `Batch` of several such; shares its tensors.

    Tensors go to the CPU, where a CPU build of DGL can hold them. Raises DataError naming what is missing, or does not
    fit the number of nodes.

    >>> from atomica.testing import graph_of, random_interface, small_model
    >>> graph = graph_of(small_model(), random_interface(0))
    >>> from_pyg(to_pyg(graph)).canonical_etypes == graph.canonical_etypes
    True
    """
    if not isinstance(data, _hetero_data()):
        raise DataError(f"from_pyg: expected a HeteroData, got {type(data).__name__}")
    frames = {level: _frames(data, level) for level in data.node_types}
    missing = [
        field.name
        for field in GRAPH_FIELDS
        if field.name.split(".")[1] not in frames.get(field.name.split(".")[0], ())
    ]
    if missing:
        raise DataError(f"from_pyg: lacks {', '.join(missing)}; give it what to_pyg made")
    nodes = {level: len(frames[level]["x"]) for level in (ATOM, BLOCK)}
    nodes |= {level: int(data[level].num_nodes) for level in frames if level not in nodes}
    for level, own in frames.items():
        for name, value in own.items():
            if len(value) != nodes[level]:
                raise DataError(f"from_pyg: {level}.{name} has {len(value)} rows for {nodes[level]} nodes")
    batches = {level: _batch(data, level, count) for level, count in nodes.items()}
    complexes = max((int(batch.max()) + 1 for batch in batches.values() if len(batch)), default=1)
    relations, edge_frames, edge_counts = {}, {}, {}
    for relation in data.edge_types:
        sender, _, receiver = relation
        own = _frames(data, relation)
        index = own.pop("edge_index", None)
        if index is None or index.ndim != 2 or len(index) != 2:
            raise DataError(f"from_pyg: relation {relation} has no edge_index of shape [2, E]")
        for ends, level in zip(index, (sender, receiver), strict=True):
            if len(ends) and not 0 <= int(ends.min()) <= int(ends.max()) < nodes.get(level, 0):
                raise DataError(
                    f"from_pyg: relation {relation} names nodes {int(ends.min())} to {int(ends.max())} of "
                    f"{nodes.get(level, 0)} of type {level}"
                )
        of = batches[receiver][index[1]]
        if bool((of.diff() < 0).any()):
            raise DataError(
                f"from_pyg: the edges of relation {relation} are not in the order of the complexes"
            )
        relations[relation], edge_frames[relation] = (index[0], index[1]), own
        edge_counts[relation] = torch.bincount(of, minlength=complexes)
    graph = dgl.heterograph(relations, num_nodes_dict=nodes)
    graph.set_batch_num_nodes(
        {level: torch.bincount(batch, minlength=complexes) for level, batch in batches.items()}
    )
    graph.set_batch_num_edges(edge_counts)
    for level, own in frames.items():
        graph.nodes[level].data.update(own)
    for relation, own in edge_frames.items():
        graph.edges[relation].data.update(own)
    return graph


def _hetero_data() -> Any:
    try:
        from torch_geometric.data import HeteroData
    except ImportError as error:
        raise DataError(
            f"graphs for PyTorch Geometric need it installed: pip install 'atomica-dgl[pyg]' ({error})"
        ) from None
    return HeteroData


def _frames(data: HeteroData, key: Any) -> dict[str, Tensor]:
    """The tensors of a node type or relation, but those that say which complex a node is of."""
    return {
        name: value.cpu()
        for name, value in data[key].items()
        if isinstance(value, Tensor) and name not in ("batch", "ptr")
    }


def _batch(data: HeteroData, level: str, count: int) -> Tensor:
    """The complex of each node, in order. Raises DataError if they are not."""
    batch = data[level].get("batch")
    if batch is None:
        return torch.zeros(count, dtype=torch.long)
    batch = batch.cpu()
    if len(batch) != count or bool((batch.diff() < 0).any()):
        raise DataError(f"from_pyg: {level}.batch must name the complex of each of {count} nodes, in order")
    return batch
