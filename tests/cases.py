"""Inputs that tests share, and the command tests/gpu with them: a layer with its edges, networks of the original.

Without pytest, which a machine with a GPU may lack.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import torch
from safetensors import safe_open

import atomica
from atomica import compat
from atomica.data.edges import plan_edges
from atomica.nn.convolution import FullyConnected
from atomica.nn.irreps import Layout, layer_slots

ENCODERS = ["encoder_global", "encoder_all_global_2layers", "encoder_no_global_3layers"]
HEAD_SETTINGS = {"num_pred_layers": 3, "nonlinearity": "relu", "pred_hidden_size": 24}


class Fixture:
    """One file of the original's numbers."""

    def __init__(self, models, name):
        with safe_open(models / f"{name}.safetensors", "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        self.config = json.loads(self.metadata["config"])
        if name == "head_binary":
            self.config |= {"model_type": "ClassifierModel", **HEAD_SETTINGS}
        self.weights = {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}
        names = ("X", "B", "A", "block_lengths", "segment_ids", "lengths")
        self.inputs = {key: self.tensors[f"in.{key}"] for key in names}

    def model(self):
        return compat.from_reference(self.config, self.weights)

    def graph(self, model, inputs=None):
        return atomica.graph_from_arrays(**(inputs or self.inputs), **model.config.graph_options())

    def single(self, index):
        """The inputs of one complex alone."""
        lengths, sizes = self.inputs["lengths"], self.inputs["block_lengths"]
        first = int(lengths[:index].sum())
        blocks = slice(first, first + int(lengths[index]))
        atoms = slice(int(sizes[: blocks.start].sum()), int(sizes[: blocks.stop].sum()))
        own = {key: self.inputs[key][blocks] for key in ("B", "block_lengths", "segment_ids")}
        own |= {key: self.inputs[key][atoms] for key in ("X", "A")}
        return {**own, "lengths": lengths[index : index + 1]}


def unpacked(folder: Path) -> Path:
    """The original's networks, *.safetensors, in `folder`."""
    for name in ("model.tar.xz", "model_2026.tar.xz"):
        with tarfile.open(Path(__file__).parent / "fixtures" / name) as archive:
            archive.extractall(folder, filter="data")
    return folder


def case(dtype, hidden=8, depth=3, nodes=30, edges=260, radial=12, seed=0):
    """A convolution, the plan of its edges, and features, edges' vectors and radial features drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs = Layout(layer_slots(hidden, depth)), Layout(layer_slots(hidden, depth + 1))
    sender = torch.randint(0, nodes, (edges,), generator=generator)
    receiver = torch.randint(0, nodes // 2, (edges,), generator=generator)  # half the nodes receive nothing
    plan = plan_edges(sender, receiver, torch.zeros_like(sender), nodes)
    torch.manual_seed(seed)
    layer = FullyConnected(inputs, outputs, radial).to(dtype)
    x = torch.randn(nodes, inputs.dim, generator=generator, dtype=dtype).requires_grad_()
    vectors, hidden_features = [
        torch.randn(len(plan.sender), width, generator=generator, dtype=dtype) for width in (3, radial)
    ]
    hidden_features.requires_grad_()
    return layer, plan, x, vectors, hidden_features
