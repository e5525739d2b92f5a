"""Graphs as PyTorch Geometric's HeteroData, and back."""

from __future__ import annotations

import sys

import pytest
import torch

import atomica
from atomica.graph import dgl, from_pyg, to_pyg

pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch
from torch_geometric.nn import HeteroConv, SAGEConv, global_mean_pool


@pytest.fixture(scope="module")
def data():
    return atomica.open_dataset("demo://pockets")


def same(one, other):
    """Two graphs are the same: nodes, edges in their order, frames and their types, which complex each is of."""
    assert one.ntypes == other.ntypes
    assert one.canonical_etypes == other.canonical_etypes
    for level in one.ntypes:
        assert one.batch_num_nodes(level).tolist() == other.batch_num_nodes(level).tolist()
        frames, others = one.nodes[level].data, other.nodes[level].data
        assert frames.keys() == others.keys()
        for name, value in frames.items():
            assert value.dtype == others[name].dtype
            assert torch.equal(value, others[name]), name
    for relation in one.canonical_etypes:
        assert one.batch_num_edges(relation).tolist() == other.batch_num_edges(relation).tolist()
        for ends, others in zip(one.edges(etype=relation), other.edges(etype=relation), strict=True):
            assert torch.equal(ends, others)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2]])
@pytest.mark.parametrize("options", [{}, {"atom_global": True}, {"block_global": False, "k_neighbors": 3}])
def test_there_and_back(data, rows, options):
    graph = data.graphs(rows, **options)
    graph.nodes["block"].data["embedding"] = torch.randn(graph.num_nodes("block"), 5)
    graph.edges[("block", "inter", "block")].data["w"] = torch.randn(
        graph.num_edges(("block", "inter", "block"))
    )
    found = to_pyg(graph)
    found.validate()
    back = from_pyg(found)
    same(graph, back)
    assert torch.equal(
        back.edges[("block", "inter", "block")].data["w"], graph.edges[("block", "inter", "block")].data["w"]
    )


def test_a_batch_of_theirs_is_a_batch_of_ours(data):
    """A model says the same of it, and DGL takes it apart again."""
    joined = from_pyg(Batch.from_data_list([to_pyg(data.graphs([row])) for row in range(3)]))
    same(joined, data.graphs(range(3)))
    assert [one.num_nodes("atom") for one in dgl.unbatch(joined)] == joined.batch_num_nodes("atom").tolist()
    model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=1)).eval()
    with torch.no_grad():
        assert torch.equal(model.encode(joined).graph, model.encode(data.graphs(range(3))).graph)


def test_a_convolution_of_theirs_learns_from_it(data):
    found = to_pyg(data.graphs(range(4)))
    weights = torch.nn.ModuleDict({level: torch.nn.Embedding(600, 6) for level in ("atom", "block")})
    layer = HeteroConv({relation: SAGEConv((6, 6), 6) for relation in found.edge_types}, aggr="sum")
    hidden = {level: weights[level](found[level].type) for level in found.node_types}
    out = global_mean_pool(layer(hidden, found.edge_index_dict)["block"], found["block"].batch)
    assert out.shape == (4, 6)
    out.square().sum().backward()
    assert all(bool(one.weight.grad.abs().sum() > 0) for one in weights.values())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda found: found["block"].pop("made"), "lacks block.made; give it what to_pyg made"),
        (lambda found: found["atom"].update({"type": found["atom"].type[1:]}), "atom.type has"),
        (lambda found: found["atom", "of", "block"].edge_index.add_(10**6), "names nodes 1000000 to"),
        (lambda found: found["atom", "of", "block"].pop("edge_index"), "has no edge_index of shape"),
        (
            lambda found: found["block"].update({"batch": found["block"].batch.flip(0)}),
            "block.batch must name",
        ),
    ],
)
def test_what_is_no_such_graph_is_refused(data, spoil, said):
    found = to_pyg(data.graphs([0, 1])).clone()
    spoil(found)
    with pytest.raises(atomica.AtomicaError, match=said):
        from_pyg(found)


def test_it_says_what_is_not_there(data, monkeypatch):
    with pytest.raises(atomica.AtomicaError, match="expected a DGL graph, got list"):
        to_pyg([])
    with pytest.raises(atomica.AtomicaError, match="expected a HeteroData, got DGL"):
        from_pyg(data.graphs([0]))
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(atomica.AtomicaError, match=r"pip install 'atomica-dgl\[pyg\]'"):
        to_pyg(data.graphs([0]))
