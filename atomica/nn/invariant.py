"""The invariant encoder: attention along the edges of the same graph, in DGL's own message passing.

A fast baseline, and the example for those who know DGL. A node is told how far its neighbours are and by which kind
of edge, never in which direction; so all features are invariant. Four relations, all of them read by one layer,
`Attention`: atoms → atoms, atoms → the block that they are of, blocks → blocks, blocks → the complex that they are in.

Shapes: A atoms, B blocks, G complexes, E edges of a relation from S senders to R receivers, H width, h attention heads
of c = H / h channels each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica import keys
from atomica.data.graph import dgl
from atomica.data.inputs import GraphInputs, Level
from atomica.nn import encoders
from atomica.nn.encoding import DetailedEncoding, Encoder, EncoderSettings, Encoding, Features, LevelDetail
from atomica.nn.irreps import IrrepSlot, Layout, spherical_harmonics
from atomica.nn.layers import EmbeddingMixer, LengthEmbedding, block_queries
from atomica.spec import setting

__all__ = ["InvariantConfig", "InvariantEncoder"]

BLOCK_CUTOFF = 15.0
"""Å; centre of the last distance Gaussian between blocks, which are farther apart than atoms."""


@dataclass(frozen=True)
class InvariantConfig(EncoderSettings):
    """Settings of the invariant encoder. Raises SpecError naming every value out of range."""

    serves = (*EncoderSettings.serves, "detail", "invariants")

    attention_heads: int = setting(
        4, "heads of attention, which share the width of features", choices=(1, 2, 4)
    )

    @property
    def detail_layout(self) -> Layout:
        """The scalars of atoms, and half as many vectors."""
        return Layout((IrrepSlot(0, 1, self.atom_hidden), IrrepSlot(1, -1, self.atom_hidden // 2)))


class DglRelation:
    """Edges from one set of nodes to another as a DGL graph: sender, receiver [E], and the numbers of these nodes."""

    def __init__(self, sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> None:
        edges = {("sender", "to", "receiver"): (sender, receiver)}
        self.graph = dgl.heterograph(edges, {"sender": senders, "receiver": receivers})

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        """Product of each edge's query [R, h, c] and key [S, h, c] → [E, h, 1]."""
        with self.graph.local_scope():
            self.graph.dstdata["query"], self.graph.srcdata["key"] = query, key
            self.graph.apply_edges(dgl.function.v_dot_u("query", "key", "score"))
            return self.graph.edata["score"]

    def softmax(self, score: Tensor) -> Tensor:
        """Scores [E, h, 1] → weights that add up to 1 over the edges of a receiver."""
        return dgl.ops.edge_softmax(self.graph, score)

    def total(self, value: Tensor, weight: Tensor) -> Tensor:
        """Sum over the edges of each receiver of the sender's value [S, …] times the edge's weight [E, …] → [R, …]."""
        with self.graph.local_scope():
            self.graph.srcdata["value"], self.graph.edata["weight"] = value, weight
            self.graph.update_all(
                dgl.function.u_mul_e("value", "weight", "message"), dgl.function.sum("message", "total")
            )
            return self.graph.dstdata["total"]


class IndexRelation:
    """The same in PyTorch's indexing, for devices that DGL was not built for: most releases know the CPU alone."""

    def __init__(self, sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> None:
        self.sender, self.receiver, self.receivers = sender, receiver, receivers

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        return (query[self.receiver] * key[self.sender]).sum(dim=-1, keepdim=True)

    def softmax(self, score: Tensor) -> Tensor:
        shape, index = (self.receivers, *score.shape[1:]), self.receiver[:, None, None].expand_as(score)
        top = score.new_full(shape, -torch.inf).scatter_reduce(0, index, score.detach(), "amax")
        weight = torch.exp(score - top[self.receiver])
        return weight / score.new_zeros(shape).index_add(0, self.receiver, weight)[self.receiver]

    def total(self, value: Tensor, weight: Tensor) -> Tensor:
        messages = value[self.sender] * weight
        return messages.new_zeros(self.receivers, *messages.shape[1:]).index_add(0, self.receiver, messages)


Relation = DglRelation | IndexRelation


def relation(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> Relation:
    """Edges for `Attention`: a DGL graph, where DGL can hold one."""
    kind = DglRelation if sender.device.type == "cpu" else IndexRelation
    return kind(sender, receiver, senders, receivers)


class Attention(nn.Module):
    """One round of messages: receivers [R, H] take up what their senders [S, sent] tell, by attention → [R, H].

    edge_size: width of the edges' features, which add to scores and filter messages; 0: there are none.
    """

    def __init__(self, config: InvariantConfig, sent: int, hidden: int, edge_size: int = 0) -> None:
        super().__init__()
        self.split = (config.attention_heads, hidden // config.attention_heads)
        self.query, self.key, self.value = (nn.Linear(n, hidden) for n in (hidden, sent, sent))
        self.nearness = nn.Linear(edge_size, config.attention_heads) if edge_size else None
        self.filter = nn.Linear(edge_size, hidden) if edge_size else None
        self.output = nn.Linear(hidden, hidden)
        self.network = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, edges: Relation, x: Tensor, senders: Tensor, features: Tensor | None = None) -> Tensor:
        # in the precision of x, also where autocast gives bfloat16, which DGL does not know everywhere
        query = self.query(x).unflatten(1, self.split).to(x.dtype)
        key, value = (one(senders).unflatten(1, self.split).to(x.dtype) for one in (self.key, self.value))
        score = edges.score(query, key) * self.split[1] ** -0.5
        if self.nearness is not None:
            score = score + self.nearness(features)[:, :, None].to(x.dtype)
        weight = edges.softmax(score)
        if self.filter is not None:
            weight = weight * self.filter(features).unflatten(1, self.split).to(x.dtype)
        message = self.output(edges.total(value, weight).flatten(1))
        x = self.norms[0](x + self.dropout(message))
        return self.norms[1](x + self.dropout(self.network(x)))


class LevelEncoder(nn.Module):
    """Several rounds among the nodes of a level: [N, H] → [N, H]."""

    def __init__(self, config: InvariantConfig, hidden: int, length: LengthEmbedding) -> None:
        super().__init__()
        self.kinds = nn.Embedding(len(keys.EDGE_TYPES), config.edge_size)
        self.length = length
        self.layers = nn.ModuleList(
            Attention(config, hidden, hidden, config.edge_size) for _ in range(config.layers)
        )

    def forward(self, level: Level, x: Tensor) -> tuple[Tensor, Relation, Tensor]:
        """The features of nodes, and the edges with theirs [E, edge_size]."""
        found = level.edges
        edges = relation(found.sender, found.receiver, found.num_nodes, found.num_nodes)
        # places far from the origin are close together: their differences in double precision
        distance = (level.x[found.sender].double() - level.x[found.receiver].double()).norm(dim=1)
        features = F.relu(self.length(distance) + self.kinds(found.kind))
        for layer in self.layers:
            x = layer(edges, x, x, features)
        return x, edges, features


@encoders.register("invariant")
class InvariantEncoder(Encoder):
    """Attention along edges by distance and kind of edge, in DGL's message passing: a baseline, many times faster."""

    Config = InvariantConfig

    def __init__(self, config: InvariantConfig) -> None:
        super().__init__(config)
        atom, block, size = config.atom_hidden, config.block_hidden, config.edge_size
        self.atom_types = nn.Embedding(keys.ATOM_TYPES, atom)
        self.block_types = nn.Embedding(config.block_types, block)
        self.modalities = nn.Embedding(len(keys.MODALITIES), block) if config.modality_embedding else None
        self.mix_before, self.mix_after = (
            EmbeddingMixer(config.embeddings, block) if config.embeddings.sizes else None for _ in range(2)
        )
        self.atoms = LevelEncoder(config, atom, LengthEmbedding(size, config.dropout))
        self.atoms_to_block = Attention(config, atom, block)
        self.blocks = LevelEncoder(config, block, LengthEmbedding(size, config.dropout, BLOCK_CUTOFF))
        self.complex = nn.Parameter(torch.randn(block))  # what is asked of the blocks of every complex
        self.blocks_to_complex = Attention(config, block, block)
        self.outputs = nn.ModuleDict(
            {
                "atom": nn.Linear(atom, atom),
                "block": nn.Linear(block, block),
                "graph": nn.Linear(block, block),
            }
        )
        # what a detailed encoding has besides: each edge carries some of its sender's features along its direction
        self.sent, self.gate = nn.Linear(atom, atom // 2), nn.Linear(size, atom // 2)

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        return self.config.detail_layout, Layout((IrrepSlot(0, 1, self.config.block_hidden),))

    def forward(self, inputs: GraphInputs) -> Encoding:
        return self._above(self.atoms(inputs.atoms, self.atom_types(inputs.atoms.type))[0], inputs)[0]

    def _above(self, atom: Tensor, inputs: GraphInputs) -> tuple[Encoding, Tensor]:
        """Blocks and complexes from the features of atoms, and the features of blocks."""
        config, count = self.config, len(inputs.segment)
        sender = torch.arange(len(atom), device=atom.device) if config.atom_global else inputs.atoms.ordinary
        of = relation(sender, inputs.block_of_atom[sender], len(atom), count)
        query = block_queries(inputs, self.block_types, self.mix_before, self.modalities)
        block = self.blocks(inputs.blocks, self.atoms_to_block(of, query, atom))[0]
        if self.mix_after is not None:
            block = self.mix_after(block, inputs)
        sender = torch.arange(count, device=atom.device) if config.block_global else inputs.blocks.ordinary
        within = relation(sender, inputs.graph_of_block[sender], count, inputs.num_graphs)
        graph = self.blocks_to_complex(within, self.complex.expand(inputs.num_graphs, -1), block)
        encoding = Encoding(
            *(
                F.normalize(self.outputs[name](x), dim=1)
                for name, x in (("atom", atom), ("block", block), ("graph", graph))
            )
        )
        return encoding, block

    def detailed(self, inputs: GraphInputs, *, blocks: bool = False) -> DetailedEncoding:
        """Adds vectors: sums of directions of edges, times invariant numbers, so that they turn with the complex.

        Blocks have scalars alone.
        """
        level = inputs.atoms
        x, edges, features = self.atoms(level, self.atom_types(level.type))
        ends = level.x.double()
        direction = spherical_harmonics(ends[level.edges.sender] - ends[level.edges.receiver])[:, 1:4].to(
            x.dtype
        )
        weight = direction[:, :, None] * self.gate(features).to(x.dtype)[:, None, :]
        vectors = edges.total(self.sent(x).to(x.dtype)[:, None, :], weight)
        plan = level.edges.plan
        along = ends[plan.sender] - ends[plan.receiver]
        detail = LevelDetail(
            features=torch.cat([x, vectors.flatten(1)], dim=1),
            layout=self.config.detail_layout,
            plan=plan,
            y=spherical_harmonics(along).to(x.dtype),
            distance=along.norm(dim=1),
            kinds=self.atoms.kinds.weight,
        )
        encoding, above = self._above(x, inputs)
        return DetailedEncoding.of(encoding, detail, Features(above, self.layouts[1]) if blocks else None)
