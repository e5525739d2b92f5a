"""The two-level equivariant encoder: atoms → blocks → complex (Fang, Zhang, Zhou, Zitnik 2025).

Shapes: A atoms, B blocks, G complexes of a batch, N nodes and E edges of one level, D feature columns,
H hidden size of the level (= number of scalar channels), h attention heads, L blocks of the largest complex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica import keys
from atomica.data.inputs import GraphInputs, Level, Table
from atomica.nn import encoders
from atomica.nn.encoding import (
    ATTENTION_HEADS,
    DetailedEncoding,
    EmbeddingConfig,  # noqa: F401  of a signature that is inherited, and read by tools here
    Encoder,
    EncoderSettings,
    Encoding,
    Features,
    LevelDetail,
)
from atomica.nn.irreps import Layout, layer_slots, spherical_harmonics
from atomica.nn.layers import (
    RADIAL_CUTOFF,
    Edges,
    EmbeddingMixer,
    Interaction,
    LengthEmbedding,
    block_queries,
)
from atomica.spec import setting

__all__ = ["EncoderConfig", "EquivariantEncoder"]

POOLING_ROUNDS = 4


@dataclass(frozen=True)
class EncoderConfig(EncoderSettings):
    """Settings of the equivariant encoder. Raises SpecError naming every value out of range.

    >>> EncoderConfig(atom_hidden=16, block_hidden=16).graph_options()["k_neighbors"]
    8
    """

    serves = (*EncoderSettings.serves, "detail", "invariants", "interface")

    reference_quirks: bool = setting(
        False, "reproduce the original's arithmetic exactly: unmasked padding, unknown blocks as global nodes"
    )
    pad_mask: bool = setting(
        False, "of reference_quirks: padding is masked where blocks attend to atoms, and nowhere else"
    )
    block_cutoff: float = setting(
        RADIAL_CUTOFF, "centre of the last distance Gaussian between blocks, in Å", above=0
    )
    block_width: float = setting(0.0, "width of these Gaussians, in Å; 0: as wide as they are apart", low=0)

    @property
    def detail_layout(self) -> Layout:
        """All irreps after the last layer."""
        return Layout(layer_slots(self.atom_hidden, self.layers))

    @property
    def block_layout(self) -> Layout:
        """The same of blocks."""
        return Layout(layer_slots(self.block_hidden, self.layers))


class LevelEncoder(nn.Module):
    """The equivariant network of one level: `forward` maps [N, H] invariant inputs to [N, H] unit rows."""

    def __init__(
        self, hidden: int, edge_size: int, layers: int, dropout: float, grid: tuple[float, float]
    ) -> None:
        super().__init__()
        self.kinds = nn.Embedding(len(keys.EDGE_TYPES), edge_size)
        self.length = LengthEmbedding(edge_size, dropout, *grid)
        self.layers = nn.ModuleList(Interaction(hidden, edge_size, depth, dropout) for depth in range(layers))
        width = hidden if layers < 3 else 2 * hidden
        self.out = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, hidden)
        )

    def forward(self, level: Level, x: Tensor) -> Tensor:
        return self._run(level, x, detailed=False)[0]

    def detailed(self, level: Level, x: Tensor) -> tuple[Tensor, LevelDetail]:
        """The same output, with the features that it was made from."""
        out, detail = self._run(level, x, detailed=True)
        assert detail is not None
        return out, detail

    def _run(self, level: Level, x: Tensor, *, detailed: bool) -> tuple[Tensor, LevelDetail | None]:
        plan = level.edges.plan
        # the geometry is a small part of the work and all errors pass through it: double precision throughout
        vectors = (level.x[plan.sender] - level.x[plan.receiver]).double()
        y = spherical_harmonics(vectors).to(x.dtype)
        distance = vectors.norm(dim=1)
        edges = Edges(plan, y, self.length(distance), self.kinds.weight)
        for layer in self.layers:
            # the output reads scalars alone, so unless details are wanted the last layer computes nothing else
            last = layer is self.layers[-1]
            x = layer(edges, x, scalars_only=last and not detailed)
        layout = self.layers[-1].outputs
        assert isinstance(layout, Layout)
        out = F.normalize(self.out(x[:, : layout.channels[0]]), dim=1)
        return out, LevelDetail(x, layout, plan, y, distance, self.kinds.weight) if detailed else None


class AtomAttention(nn.Module):
    """Each block attends over its own atoms: query [B, H], atoms [A, H_atom] → [B, H]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden = config.block_hidden
        self.quirks, self.with_global_atoms = config.reference_quirks, config.atom_global
        self.pad_mask = config.pad_mask
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(config.atom_hidden, hidden)
        self.value = nn.Linear(config.atom_hidden, hidden)
        self.output = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, query: Tensor, atoms: Tensor, inputs: GraphInputs) -> Tensor:
        block_of_atom = inputs.block_of_atom
        if not self.with_global_atoms:
            ordinary = inputs.atoms.ordinary
            atoms, block_of_atom = atoms.index_select(0, ordinary), block_of_atom[ordinary]
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
            lengths = block_of_atom.new_zeros(blocks).index_add(
                0, block_of_atom, torch.ones_like(block_of_atom)
            )
            pad_count = (lengths.max() - lengths).to(query.dtype)[:, None]
            if self.pad_mask:  # with nothing but padding, that is what is attended to
                pad_count = torch.where(lengths[:, None] == 0, pad_count, 0.0)
            pad_score = (q * self.key.bias.view(shape)).sum(dim=2) * scale
            top = torch.maximum(top, torch.where(pad_count > 0, pad_score.detach(), -math.inf))
        top = torch.where(top.isinf(), 0.0, top)
        weight_Ah = torch.exp(score_Ah - top[block_of_atom])
        # Sums in the precision of what is summed: on a GPU autocast takes exponentials in float32.
        total = weight_Ah.new_zeros(top.shape).index_add(0, block_of_atom, weight_Ah)
        weighted = weight_Ah[:, :, None] * v
        context = weighted.new_zeros(q.shape).index_add(0, block_of_atom, weighted)
        if pad_score is not None and pad_count is not None:
            # where there is no padding the exponent is unbounded and unused
            exponent = torch.where(pad_count > 0, pad_score - top, 0.0)
            pad_weight = pad_count * torch.exp(exponent)
            total = total + pad_weight
            context = context + pad_weight[:, :, None] * self.value.bias.view(shape)
        context = context / torch.where(total > 0, total, 1.0)[:, :, None]
        return self.norm(query + self.output(context.flatten(1)))


class AttentionPooling(nn.Module):
    """Self-attention over the blocks of each complex, then their sum: [B, H] → [G, H] unit rows.

    table: which blocks; by default all, without the global ones where those have no edges.
    """

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

    def forward(self, blocks: Tensor, inputs: GraphInputs, table: Table | None = None) -> Tensor:
        places = inputs.places
        table = table or (places.table if self.with_global_blocks else places.ordinary)
        present, longest = table.present, table.present.shape[1]
        x_GLH = blocks.new_zeros(inputs.num_graphs, longest, blocks.shape[1])
        x_GLH = x_GLH.index_put((table.row, table.column), blocks.index_select(0, table.blocks))
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


@encoders.register("equivariant")
class EquivariantEncoder(Encoder):
    """Tensor products of features with the directions of edges, as in the original; released weights are of this kind.

    Atom types and coordinates → embeddings of atoms, blocks and complexes; see `Encoding`.
    """

    Config = EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        self.atom_types = nn.Embedding(keys.ATOM_TYPES, config.atom_hidden)
        self.block_types = nn.Embedding(config.block_types, config.block_hidden)
        self.modalities = (
            nn.Embedding(len(keys.MODALITIES), config.block_hidden) if config.modality_embedding else None
        )
        common = (config.edge_size, config.layers, config.dropout)
        self.atoms = LevelEncoder(config.atom_hidden, *common, (RADIAL_CUTOFF, 0.0))
        self.atoms_to_block = AtomAttention(config)
        self.blocks = LevelEncoder(config.block_hidden, *common, (config.block_cutoff, config.block_width))
        self.pooling = AttentionPooling(config)
        self.mix_before, self.mix_after = (
            EmbeddingMixer(config.embeddings, config.block_hidden) if config.embeddings.sizes else None
            for _ in range(2)
        )

    def forward(self, inputs: GraphInputs) -> Encoding:
        return self.above(self.atoms(inputs.atoms, self.atom_types(inputs.atoms.type)), inputs)

    def detailed(self, inputs: GraphInputs, *, blocks: bool = False) -> DetailedEncoding:
        atom, detail = self.atoms.detailed(inputs.atoms, self.atom_types(inputs.atoms.type))
        if not blocks:
            return DetailedEncoding.of(self.above(atom, inputs), detail)
        block, above = self.blocks.detailed(inputs.blocks, self.queries(atom, inputs))
        return DetailedEncoding.of(
            self.complexes(atom, block, inputs), detail, Features(above.features, above.layout)
        )

    def above(self, atom: Tensor, inputs: GraphInputs) -> Encoding:
        """Blocks and complexes from the embeddings of atoms."""
        return self.complexes(atom, self.blocks(inputs.blocks, self.queries(atom, inputs)), inputs)

    def pool(self, block: Tensor, inputs: GraphInputs, chosen: Tensor) -> Tensor:
        return self.pooling(block, inputs, inputs.table(chosen))

    def queries(self, atom: Tensor, inputs: GraphInputs) -> Tensor:
        """What the block level starts from, from the embeddings of atoms: [B, H]."""
        query = block_queries(inputs, self.block_types, self.mix_before, self.modalities)
        return self.atoms_to_block(query, atom, inputs)

    def complexes(self, atom: Tensor, block: Tensor, inputs: GraphInputs) -> Encoding:
        """Complexes from the embeddings of atoms and blocks."""
        if self.mix_after is not None:
            block = self.mix_after(block, inputs)
        return Encoding(atom, block, self.pooling(block, inputs))
