"""Graphs of complexes for people who know DGL: the public names of `atomica.data.graph` and `atomica.data.inputs`."""

from __future__ import annotations

from atomica.data.graph import batch, dgl, graph_from_arrays, load_graphs, perturbed, save_graphs
from atomica.data.inputs import GraphInputs, inputs

__all__ = [
    "GraphInputs",
    "batch",
    "dgl",
    "graph_from_arrays",
    "inputs",
    "load_graphs",
    "perturbed",
    "save_graphs",
]
