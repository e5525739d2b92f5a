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
from atomica.nn.encoding import (
    DetailedEncoding,
    EmbeddingConfig,  # noqa: F401  as in nn/equivariant.py
    Encoder,
    EncoderSettings,
    Encoding,
    Features,
    LevelDetail,
)
from atomica.nn.irreps import IrrepSlot, Layout, spherical_harmonics
from atomica.nn.layers import RADIAL_CUTOFF, EmbeddingMixer, LengthEmbedding, block_queries
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

    @property
    def block_layout(self) -> Layout:
        """The scalars of blocks."""
        return Layout((IrrepSlot(0, 1, self.block_hidden),))


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
        # autocast takes exponentials in float32 on a GPU, whatever the scores are
        return weight / weight.new_zeros(shape).index_add(0, self.receiver, weight)[self.receiver]

    def total(self, value: Tensor, weight: Tensor) -> Tensor:
        messages = value[self.sender] * weight
        return messages.new_zeros(self.receivers, *messages.shape[1:]).index_add(0, self.receiver, messages)


Relation = DglRelation | IndexRelation


def relation(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> Relation:
    """Edges from the nodes `sender` to the nodes `receiver`, both [E] int64, of as many as there are of either."""
    kind = DglRelation if sender.device.type == "cpu" else IndexRelation
    return kind(sender, receiver, senders, receivers)


class Attention(nn.Module):
    """One round of messages: receivers take up what their senders tell them, by attention.

    `forward`: receivers x [R, H], senders [S, sent], features of edges [E, edge_size], if they have any → [R, H].
    """

    def __init__(self, config: InvariantConfig, sent: int, hidden: int, edge_size: int = 0) -> None:
        super().__init__()
        self.split = (config.attention_heads, hidden // config.attention_heads)
        self.query, self.value = nn.Linear(hidden, hidden), nn.Linear(sent, hidden)
        self.key = nn.Linear(sent, hidden, bias=False)  # a bias would drop out of the softmax
        self.nearness = nn.Linear(edge_size, config.attention_heads) if edge_size else None
        self.output = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(config.dropout))
        self.network = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.norm_message, self.norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)

    def forward(self, edges: Relation, x: Tensor, senders: Tensor, features: Tensor | None = None) -> Tensor:
        # all in the precision of x, also where autocast gives bfloat16, which DGL does not know
        query = self.query(x).unflatten(1, self.split).to(x.dtype)
        key, value = (one(senders).unflatten(1, self.split).to(x.dtype) for one in (self.key, self.value))
        score = edges.score(query, key) * self.split[1] ** -0.5
        if self.nearness is not None:
            score = score + self.nearness(features)[:, :, None].to(x.dtype)
        message = edges.total(value, edges.softmax(score))
        x = self.norm_message(x + self.output(message.flatten(1)))
        return self.norm(x + self.network(x))


class LevelEncoder(nn.Module):
    """Rounds of messages among the nodes of a level."""

    def __init__(self, config: InvariantConfig, hidden: int, cutoff: float) -> None:
        super().__init__()
        self.kinds = nn.Embedding(len(keys.EDGE_TYPES), config.edge_size)
        self.length = LengthEmbedding(config.edge_size, config.dropout, cutoff)
        rounds = (Attention(config, hidden, hidden, config.edge_size) for _ in range(config.layers))
        self.layers = nn.ModuleList(rounds)

    def forward(self, level: Level, x: Tensor) -> tuple[Tensor, Relation, Tensor]:
        """Nodes [N, H] → the same after all rounds; the edges among them, and features [E, edge_size] of these."""
        found = level.edges
        edges = relation(found.sender, found.receiver, len(x), len(x))
        # the difference of two places in double precision, so that it does not matter where the complex lies
        distance = (level.x[found.sender].double() - level.x[found.receiver]).norm(dim=1)
        features = F.relu(self.length(distance.to(x.dtype)) + self.kinds(found.kind))
        for layer in self.layers:
            x = layer(edges, x, x, features)
        return x, edges, features


@encoders.register("invariant")
class InvariantEncoder(Encoder):
    """Attention by types, distances and kinds of edges, in DGL's message passing: a fast baseline."""

    Config = InvariantConfig

    def __init__(self, config: InvariantConfig) -> None:
        super().__init__(config)
        atom, block = config.atom_hidden, config.block_hidden
        self.atom_types = nn.Embedding(keys.ATOM_TYPES, atom)
        self.block_types = nn.Embedding(config.block_types, block)
        self.modalities = nn.Embedding(len(keys.MODALITIES), block) if config.modality_embedding else None
        self.mix_before, self.mix_after = (
            EmbeddingMixer(config.embeddings, block) if config.embeddings.sizes else None for _ in range(2)
        )
        self.atoms = LevelEncoder(config, atom, RADIAL_CUTOFF)
        self.atoms_to_block = Attention(config, atom, block)
        self.blocks = LevelEncoder(config, block, BLOCK_CUTOFF)
        self.complex = nn.Parameter(torch.randn(block))  # what every complex starts as
        self.blocks_to_complex = Attention(config, block, block)
        self.out_atom, self.out_block, self.out_graph = (
            nn.Linear(width, width) for width in (atom, block, block)
        )
        self.sent, self.gate = nn.Linear(atom, atom // 2), nn.Linear(config.edge_size, atom // 2)

    def forward(self, inputs: GraphInputs) -> Encoding:
        return self._above(self.atoms(inputs.atoms, self.atom_types(inputs.atoms.type))[0], inputs)[0]

    def _above(self, atom: Tensor, inputs: GraphInputs) -> tuple[Encoding, Tensor]:
        """Blocks and complexes from atoms, and the features of blocks.

        Global nodes tell something only where they are told something.
        """
        atoms, blocks, config = inputs.atoms, inputs.blocks, self.config
        sender = atoms.ordinary if not config.atom_global else torch.arange(len(atom), device=atom.device)
        of = relation(sender, inputs.block_of_atom[sender], len(atom), len(blocks.type))
        block = self.atoms_to_block(
            of, block_queries(inputs, self.block_types, self.mix_before, self.modalities), atom
        )
        block = self.blocks(blocks, block)[0]
        if self.mix_after is not None:
            block = self.mix_after(block, inputs)
        sender = blocks.ordinary if not config.block_global else torch.arange(len(block), device=atom.device)
        within = relation(sender, inputs.graph_of_block[sender], len(block), inputs.num_graphs)
        graph = self.blocks_to_complex(within, self.complex.expand(inputs.num_graphs, -1), block)
        outputs = (self.out_atom(atom), self.out_block(block), self.out_graph(graph))
        return Encoding(*(F.normalize(output, dim=1) for output in outputs)), block

    def detailed(self, inputs: GraphInputs, *, blocks: bool = False) -> DetailedEncoding:
        """Adds vectors to atoms: sums of the directions of edges times invariant numbers, which turn as the complex.

        Blocks have scalars alone.
        """
        level, ends = inputs.atoms, inputs.atoms.x.double()
        atom, edges, features = self.atoms(level, self.atom_types(level.type))

        def harmonics(sender: Tensor, receiver: Tensor) -> tuple[Tensor, Tensor]:
            vectors = ends[sender] - ends[receiver]
            return spherical_harmonics(vectors).to(atom.dtype), vectors.norm(dim=1)

        direction = harmonics(level.edges.sender, level.edges.receiver)[0][:, 1:4]
        weight = direction[:, :, None] * self.gate(features).to(atom.dtype)[:, None, :]
        vectors = edges.total(self.sent(atom).to(atom.dtype)[:, None, :], weight)
        plan = level.edges.plan
        y, distance = harmonics(plan.sender, plan.receiver)
        found = torch.cat([atom, vectors.flatten(1)], dim=1)
        detail = LevelDetail(found, self.config.detail_layout, plan, y, distance, self.atoms.kinds.weight)
        encoding, above = self._above(atom, inputs)
        return DetailedEncoding.of(
            encoding, detail, Features(above, self.config.block_layout) if blocks else None
        )
