"""Graphs of complexes for people who know DGL, or PyTorch Geometric: the public names of `data.graph`, `data.inputs`
and `data.pyg`."""

from __future__ import annotations

from atomica.data.graph import batch, dgl, graph_from_arrays, load_graphs, perturbed, save_graphs
from atomica.data.inputs import GraphInputs, inputs
from atomica.data.pyg import from_pyg, to_pyg

__all__ = [
    "GraphInputs",
    "batch",
    "dgl",
    "from_pyg",
    "graph_from_arrays",
    "inputs",
    "load_graphs",
    "perturbed",
    "save_graphs",
    "to_pyg",
]
