"""The two-level encoder: atoms → blocks → complex (Fang, Zhang, Zhou, Zitnik 2025).

Shapes: A atoms, B blocks, G complexes of a batch, N nodes and E edges of one level, D feature columns,
H hidden size of the level (= number of scalar channels), h attention heads, L blocks of the largest complex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica import keys
from atomica.conv import EdgePlan, FullyConnected, plan_edges
from atomica.errors import SpecError
from atomica.graph import GraphInputs, Level
from atomica.irreps import Layout, layer_slots, spherical_harmonics

__all__ = ["Encoder", "EncoderConfig", "Encoding"]

ATTENTION_HEADS = 4
POOLING_ROUNDS = 4
RADIAL_CUTOFF = 5.0
"""Å; centre of the last Gaussian. Longer edges are kept, their distance features are near 0."""
NORM_EPS = 1e-5
ATOM_TYPES = 121


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of the encoder, the `[model]` section of a run spec.

    Raises SpecError naming every value out of range.

    >>> EncoderConfig(atom_hidden=16, block_hidden=16).graph_options()["k_neighbors"]
    8
    """

    atom_hidden: int = _setting(32, "width of atom features; divisible by 2")
    block_hidden: int = _setting(32, "width of block features; divisible by 4, the number of attention heads")
    edge_size: int = _setting(16, "width of edge features and number of distance Gaussians on 0 to 5 Å")
    layers: int = _setting(3, "equivariant layers at each level")
    dropout: float = _setting(
        0.0, "dropout in edge networks, outputs, attention and pooling, from 0 to below 1"
    )
    k_neighbors: int = _setting(8, "nearest neighbours of a node within its segment, and as many across")
    atom_global: bool = _setting(False, "edges between global and ordinary atoms")
    block_global: bool = _setting(True, "edges between global and ordinary blocks")
    modality_embedding: bool = _setting(False, "tell the model the kind of interface, on the global blocks")
    reference_quirks: bool = _setting(
        False, "reproduce the original's arithmetic exactly: unmasked padding, unknown blocks as global nodes"
    )
    block_types: int = _setting(150, "size of the block vocabulary; read from the data, not from the spec")

    def __post_init__(self) -> None:
        problems = []
        for name in ("atom_hidden", "block_hidden"):
            value = getattr(self, name)
            if value < 4 or value % 4:
                problems.append(f"{name} = {value}: must be a positive multiple of 4")
        for name, least in (("edge_size", 2), ("layers", 1), ("k_neighbors", 1), ("block_types", 150)):
            if getattr(self, name) < least:
                problems.append(f"{name} = {getattr(self, name)}: must be at least {least}")
        if not 0.0 <= self.dropout < 1.0:
            problems.append(f"dropout = {self.dropout}: must be at least 0 and below 1")
        if problems:
            raise SpecError("; ".join(problems))

    def graph_options(self) -> dict[str, Any]:
        """Keyword arguments for `atomica.graph.batch` that build the graphs this encoder expects."""
        return {
            "k_neighbors": self.k_neighbors,
            "atom_global": self.atom_global,
            "block_global": self.block_global,
            "reference_quirks": self.reference_quirks,
        }


class Encoding(NamedTuple):
    """What the encoder gives: atom [A, H_atom], block [B, H_block], graph [G, H_block]; rows of unit length
    for atom, block and graph alike."""

    atom: Tensor
    block: Tensor
    graph: Tensor


class EquivariantNorm(nn.Module):
    """Layer norm of each irrep over its channels: scale by the root mean square, learned weight per channel.

    Even scalars are centred and shifted as well. `forward`: [N, D] → [N, D] in the layout given; if only the
    degree-0 run is passed, it normalises that alone.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.weights = nn.ParameterDict(
            {slot.name: nn.Parameter(torch.ones(slot.channels)) for slot in layout.slots}
        )
        self.bias = nn.Parameter(torch.zeros(layout.slots[0].channels))

    def forward(self, x: Tensor) -> Tensor:
        degrees = range(3) if x.shape[1] == self.layout.dim else range(1)
        runs = []
        for l in degrees:  # noqa: E741
            parts = []
            for slot in self.layout.slots:
                if slot.l != l:
                    continue
                values = self.layout.view(x, slot)
                if (slot.l, slot.parity) == (0, 1):
                    values = values - values.mean(dim=2, keepdim=True)
                power = values.square().mean(dim=(1, 2), keepdim=True)
                values = values * (power + NORM_EPS).rsqrt() * self.weights[slot.name]
                if (slot.l, slot.parity) == (0, 1):
                    values = values + self.bias
                parts.append(values)
            if parts:
                runs.append(torch.cat(parts, dim=2).flatten(1))
        return torch.cat(runs, dim=1)


class Interaction(nn.Module):
    """One equivariant layer: weighted tensor product with the neighbours, norm, padded residual.

    `forward`: features [N, D_in] → [N, D_out], or [N, scalars] with `scalars_only`.
    """

    def __init__(self, hidden: int, edge_size: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.hidden, self.edge_size, self.dropout = hidden, edge_size, dropout
        self.inputs, self.outputs = Layout(layer_slots(hidden, depth)), Layout(layer_slots(hidden, depth + 1))
        width = 2 * edge_size + 2 * hidden
        self.radial = nn.Linear(width, width)
        self.product = FullyConnected(self.inputs, self.outputs, width)
        self.norm = EquivariantNorm(self.outputs)

    def forward(
        self,
        plan: EdgePlan,
        x: Tensor,
        y: Tensor,
        length: Tensor,
        kinds: Tensor,
        *,
        scalars_only: bool = False,
    ) -> Tensor:
        """x [N, D_in]; y [E, 9]; length [E, edge_size]; kinds [4, edge_size], one row per edge type."""
        hidden = F.dropout(F.relu(self._radial_features(plan, x, length, kinds)), self.dropout, self.training)
        update = self.norm(self.product(plan, x, y, hidden, scalars_only=scalars_only))
        runs, first = [], 0
        for l in range(1 if scalars_only else 3):  # noqa: E741
            width = self.outputs.channels[l] * (2 * l + 1)
            run = update[:, first : first + width].unflatten(1, (2 * l + 1, -1))
            first += width
            missing = self.outputs.channels[l] - self.inputs.channels[l]
            if self.inputs.channels[l]:
                run = run + F.pad(self.inputs.run(x, l), (0, missing))
            runs.append(run.flatten(1))
        return torch.cat(runs, dim=1)

    def _radial_features(self, plan: EdgePlan, x: Tensor, length: Tensor, kinds: Tensor) -> Tensor:
        """The linear map of [length, kind, h_receiver, h_sender], applied per node before it is gathered."""
        size, scalars = self.edge_size, x[:, : self.hidden]
        weight = self.radial.weight.t()
        of_length, of_kind, of_receiver, of_sender = weight.split([size, size, self.hidden, self.hidden])
        out = torch.addmm(self.radial.bias, length, of_length)
        out = out + F.embedding(plan.kind, kinds @ of_kind)
        out = out + F.embedding(plan.receiver, scalars @ of_receiver)
        return out + F.embedding(plan.sender, scalars @ of_sender)


class LevelEncoder(nn.Module):
    """The equivariant network of one level: `forward` maps [N, H] invariant inputs to [N, H] unit rows."""

    def __init__(self, hidden: int, edge_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.kinds = nn.Embedding(len(keys.EDGE_TYPES), edge_size)
        self.length = nn.Sequential(
            nn.Linear(edge_size, edge_size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(edge_size, edge_size)
        )
        self.layers = nn.ModuleList(Interaction(hidden, edge_size, depth, dropout) for depth in range(layers))
        width = hidden if layers < 3 else 2 * hidden
        self.out = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, hidden)
        )
        self.centers: Tensor
        self.register_buffer("centers", torch.linspace(0.0, RADIAL_CUTOFF, edge_size), persistent=False)

    def forward(self, level: Level, x: Tensor) -> Tensor:
        plan = plan_edges(level.sender, level.receiver, level.kind, level.x.shape[0])
        # the geometry is a small part of the work and all errors pass through it: double precision throughout
        vectors = (level.x[plan.sender] - level.x[plan.receiver]).double()
        y = spherical_harmonics(vectors).to(x.dtype)
        length = self.length(self._gaussians(vectors.norm(dim=1)).to(x.dtype))
        for layer in self.layers:
            # the output reads scalars alone, so the last layer computes nothing else
            last = layer is self.layers[-1]
            x = layer(plan, x, y, length, self.kinds.weight, scalars_only=last)
        return F.normalize(self.out(x), dim=1)

    def _gaussians(self, distance: Tensor) -> Tensor:
        """[E] Å → [E, edge_size]: Gaussians whose width is the spacing of their centres."""
        spacing = RADIAL_CUTOFF / (len(self.centers) - 1)
        return torch.exp(-0.5 * ((distance[:, None] - self.centers) / spacing).square())


class AtomAttention(nn.Module):
    """Each block attends over its own atoms: query [B, H], atoms [A, H_atom] → [B, H]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.block_hidden
        self.quirks, self.with_global_atoms = config.reference_quirks, config.atom_global
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(config.atom_hidden, hidden)
        self.value = nn.Linear(config.atom_hidden, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, query: Tensor, atoms: Tensor, inputs: GraphInputs) -> Tensor:
        block_of_atom = inputs.block_of_atom
        if not self.with_global_atoms:
            ordinary = ~inputs.atoms.is_global
            atoms, block_of_atom = atoms[ordinary], block_of_atom[ordinary]
        blocks, hidden = query.shape
        shape = (-1, ATTENTION_HEADS, hidden // ATTENTION_HEADS)
        q, k, v = self.query(query).view(shape), self.key(atoms).view(shape), self.value(atoms).view(shape)
        scale = (hidden / ATTENTION_HEADS) ** -0.5
        score_Ah = (q[block_of_atom] * k).sum(dim=2) * scale
        index_Ah = block_of_atom[:, None].expand_as(score_Ah)
        top = score_Ah.new_full((blocks, ATTENTION_HEADS), -math.inf)
        top = top.scatter_reduce(0, index_Ah, score_Ah.detach(), "amax")
        pad_score, pad_count = None, None
        if self.quirks:
            # zero rows up to the longest block of the batch: their key and value are the biases
            lengths = torch.bincount(block_of_atom, minlength=blocks)
            pad_count = (lengths.max() - lengths).to(query.dtype)[:, None]
            pad_score = (q * self.key.bias.view(shape)).sum(dim=2) * scale
            top = torch.maximum(top, torch.where(pad_count > 0, pad_score.detach(), -math.inf))
        top = torch.where(top.isinf(), 0.0, top)
        weight_Ah = torch.exp(score_Ah - top[block_of_atom])
        total = torch.zeros_like(top).index_add(0, block_of_atom, weight_Ah)
        context = torch.zeros_like(q).index_add(0, block_of_atom, weight_Ah[:, :, None] * v)
        if pad_score is not None and pad_count is not None:
            # where there is no padding the exponent is unbounded and unused
            exponent = torch.where(pad_count > 0, pad_score - top, 0.0)
            pad_weight = pad_count * torch.exp(exponent)
            total = total + pad_weight
            context = context + pad_weight[:, :, None] * self.value.bias.view(shape)
        context = context / torch.where(total > 0, total, 1.0)[:, :, None]
        return self.norm(query + self.output(context.flatten(1)))


class AttentionPooling(nn.Module):
    """Self-attention over the blocks of each complex, then their sum: [B, H] → [G, H] unit rows."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.block_hidden
        self.quirks, self.with_global_blocks = config.reference_quirks, config.block_global
        self.dropout = config.dropout
        self.rounds = nn.ModuleList(
            nn.MultiheadAttention(hidden, ATTENTION_HEADS, batch_first=True) for _ in range(POOLING_ROUNDS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(POOLING_ROUNDS))
        self.output = nn.Linear(hidden, hidden)

    def forward(self, blocks: Tensor, inputs: GraphInputs) -> Tensor:
        graph_of_block = inputs.graph_of_block
        if not self.with_global_blocks:
            ordinary = ~inputs.blocks.is_global
            blocks, graph_of_block = blocks[ordinary], graph_of_block[ordinary]
        counts = torch.bincount(graph_of_block, minlength=inputs.num_graphs)
        first = torch.cumsum(counts, 0) - counts
        column = torch.arange(len(graph_of_block), device=blocks.device) - first[graph_of_block]
        longest = int(counts.max())
        x_GLH = blocks.new_zeros(inputs.num_graphs, longest, blocks.shape[1])
        x_GLH = x_GLH.index_put((graph_of_block, column), blocks)
        present = torch.arange(longest, device=blocks.device)[None] < counts[:, None]
        mask = None if self.quirks else present[:, None, None, :]
        for attention, norm in zip(self.rounds, self.norms, strict=True):
            shape = (inputs.num_graphs, longest, 3, ATTENTION_HEADS, -1)
            assert isinstance(attention, nn.MultiheadAttention)
            qkv = F.linear(x_GLH, attention.in_proj_weight, attention.in_proj_bias).view(shape)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            mixed = attention.out_proj(mixed.transpose(1, 2).flatten(2))
            x_GLH = norm(x_GLH + F.dropout(mixed, self.dropout, self.training))
        x_GLH = x_GLH * present[:, :, None]
        return F.normalize(self.output(x_GLH.sum(dim=1)), dim=1)


class Encoder(nn.Module):
    """Atom types and coordinates → embeddings of atoms, blocks and complexes; see `Encoding`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.atom_types = nn.Embedding(ATOM_TYPES, config.atom_hidden)
        self.block_types = nn.Embedding(config.block_types, config.block_hidden)
        self.modalities = (
            nn.Embedding(len(keys.MODALITIES), config.block_hidden) if config.modality_embedding else None
        )
        self.atoms = LevelEncoder(config.atom_hidden, config.edge_size, config.layers, config.dropout)
        self.atoms_to_block = AtomAttention(config)
        self.blocks = LevelEncoder(config.block_hidden, config.edge_size, config.layers, config.dropout)
        self.pooling = AttentionPooling(config)

    def forward(self, inputs: GraphInputs) -> Encoding:
        atom = self.atoms(inputs.atoms, self.atom_types(inputs.atoms.type))
        query = self.block_types(inputs.blocks.type)
        if self.modalities is not None:
            told = inputs.blocks.is_global & (inputs.modality >= 0)
            query = query + self.modalities(inputs.modality.clamp(min=0)) * told[:, None]
        block = self.blocks(inputs.blocks, self.atoms_to_block(query, atom, inputs))
        return Encoding(atom, block, self.pooling(block, inputs))
