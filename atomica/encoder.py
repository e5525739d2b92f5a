"""The two-level encoder: atoms → blocks → complex (Fang, Zhang, Zhou, Zitnik 2025).

Shapes: A atoms, B blocks, G complexes of a batch, N nodes and E edges of one level, D feature columns,
H hidden size of the level (= number of scalar channels), h attention heads, L blocks of the largest complex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomica import keys
from atomica.conv import FullyConnected
from atomica.edges import EdgePlan
from atomica.errors import DataError, SpecError
from atomica.graph import GraphInputs, Level
from atomica.irreps import HARMONICS, Layout, layer_slots, spherical_harmonics
from atomica.spec import out_of_range, setting

__all__ = [
    "ACTIVATIONS",
    "Convolution",
    "DetailedEncoding",
    "EdgeConvolution",
    "Edges",
    "EmbeddingConfig",
    "Encoder",
    "EncoderConfig",
    "Encoding",
    "LengthEmbedding",
    "LevelDetail",
    "mlp",
]

ATTENTION_HEADS = 4
POOLING_ROUNDS = 4
RADIAL_CUTOFF = 5.0
"""Å; centre of the last Gaussian. Longer edges are kept, their distance features are near 0."""
NORM_EPS = 1e-5
ATOM_TYPES = 121
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "elu": nn.ELU}


def mlp(sizes: Sequence[int], activation: str, dropout: float) -> nn.Sequential:
    """[activation, dropout, linear] for each step of `sizes`, as the original's prediction networks."""
    parts: list[nn.Module] = []
    for width_in, width_out in zip(sizes[:-1], sizes[1:], strict=True):
        parts += [ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(width_in, width_out)]
    return nn.Sequential(*parts)


@dataclass(frozen=True)
class EmbeddingConfig:
    """External features per block, e.g. of a protein language model: the `[model.embeddings]` table.

    Raises SpecError naming every value out of range.
    """

    sizes: tuple[int, ...] = setting(
        (),
        "their length: one for all blocks, or one for each segment; empty: no external features",
        low=1,
        longest=2,
    )
    hidden: int = setting(32, "width of the networks that bring them to the width of blocks", low=1)
    layers: int = setting(3, "linear layers of those networks, and of the ones that mix them in", low=1)
    activation: str = setting("relu", "nonlinearity of those networks", choices=tuple(ACTIVATIONS))
    dropout: float = setting(0.0, "dropout in those networks", low=0, below=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if problems := out_of_range(self):
            raise SpecError("; ".join(problems))

    @property
    def frames(self) -> tuple[str, ...]:
        """The block frames of a graph that hold them."""
        return ("embedding",) if len(self.sizes) == 1 else ("embedding_0", "embedding_1")[: len(self.sizes)]


@dataclass(frozen=True)
class EncoderConfig:
    """Settings of the encoder, the `[model]` section of a run spec.

    Raises SpecError naming every value out of range.

    >>> EncoderConfig(atom_hidden=16, block_hidden=16).graph_options()["k_neighbors"]
    8
    """

    atom_hidden: int = setting(32, "width of atom features", low=4, multiple_of=4)
    block_hidden: int = setting(
        32,
        f"width of block features, shared by {ATTENTION_HEADS} attention heads",
        low=ATTENTION_HEADS,
        multiple_of=ATTENTION_HEADS,
    )
    edge_size: int = setting(16, "width of edge features and number of distance Gaussians on 0 to 5 Å", low=2)
    layers: int = setting(3, "equivariant layers at each level", low=1)
    dropout: float = setting(0.0, "dropout in edge networks, outputs, attention and pooling", low=0, below=1)
    k_neighbors: int = setting(
        8, "nearest neighbours of a node within its segment, and as many across", low=1
    )
    atom_global: bool = setting(False, "edges between global and ordinary atoms")
    block_global: bool = setting(True, "edges between global and ordinary blocks")
    modality_embedding: bool = setting(False, "tell the model the kind of interface, on the global blocks")
    reference_quirks: bool = setting(
        False, "reproduce the original's arithmetic exactly: unmasked padding, unknown blocks as global nodes"
    )
    block_types: int = setting(
        150, "size of the block vocabulary; read from the data, not from the spec", low=150
    )
    embeddings: EmbeddingConfig = EmbeddingConfig()

    def __post_init__(self) -> None:
        if isinstance(self.embeddings, dict):  # as a saved model's description has it
            object.__setattr__(self, "embeddings", EmbeddingConfig(**self.embeddings))
        if problems := out_of_range(self):
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


class LevelDetail(NamedTuple):
    """What one level computed on the way to its output, for heads that go on from there.

    features: [N, D] all irreps after the last layer, in `layout`. plan: the level's edges; y: [E, 9] their
    harmonics and distance: [E] their length in Å (float64), in plan order. kinds: [4, edge_size] the learned
    embedding of edge types.
    """

    features: Tensor
    layout: Layout
    plan: EdgePlan
    y: Tensor
    distance: Tensor
    kinds: Tensor


class DetailedEncoding(Encoding):
    """An encoding that also carries `atoms`, the detail of the atom level; `Encoder.detailed` makes it."""

    atoms: LevelDetail


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
        centred = [slot.channels for slot in layout.slots if (slot.l, slot.parity) == (0, 1)]
        self.bias = nn.Parameter(torch.zeros(centred[0])) if centred else None

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
                    assert self.bias is not None
                    values = values + self.bias
                parts.append(values)
            if parts:
                runs.append(torch.cat(parts, dim=2).flatten(1))
        return torch.cat(runs, dim=1)


class LengthEmbedding(nn.Sequential):
    """Distances [E] in Å → features [E, size]: Gaussians up to `cutoff`, as wide as they are apart, and a network."""

    centers: Tensor

    def __init__(self, size: int, dropout: float, cutoff: float = RADIAL_CUTOFF) -> None:
        super().__init__(nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size))
        self.cutoff = cutoff
        self.register_buffer("centers", torch.linspace(0.0, cutoff, size), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        spacing = self.cutoff / (len(self.centers) - 1)
        gaussians = torch.exp(-0.5 * ((distance[:, None] - self.centers) / spacing).square())
        return super().forward(gaussians.to(self.centers.dtype))


class Convolution(nn.Module):
    """A weighted tensor product of senders with harmonics, averaged over each receiver's edges, and a norm.

    `width`: number of radial features. `forward` takes them, [E, width] in plan order, as senders x [N, D_in]
    and harmonics y; it gives [receivers, D_out], or [receivers, scalars] with `scalars_only`.
    """

    def __init__(
        self,
        inputs: Layout,
        outputs: Layout,
        width: int,
        dropout: float,
        *,
        harmonics: tuple[tuple[int, int], ...] = HARMONICS,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dropout = inputs, outputs, dropout
        self.radial = nn.Linear(width, width)
        self.product = FullyConnected(inputs, outputs, width, harmonics=harmonics)
        self.norm = EquivariantNorm(outputs)

    def forward(self, plan: EdgePlan, x: Tensor, y: Tensor, radial: Tensor) -> Tensor:
        return self.convolve(plan, x, y, self.radial(radial))

    def convolve(
        self, plan: EdgePlan, x: Tensor, y: Tensor, before: Tensor, *, scalars_only: bool = False
    ) -> Tensor:
        """The same from the output of the first radial layer, before its activation."""
        hidden = F.dropout(F.relu(before), self.dropout, self.training)
        return self.norm(self.product(plan, x, y, hidden, scalars_only=scalars_only))


class Edges(NamedTuple):
    """The edges of a level as its convolutions read them.

    plan: their order; y: [E, 9] their harmonics and length: [E, edge_size] their lengths, embedded, in that order;
    kinds: [4, edge_size] the embedding of edge types.
    """

    plan: EdgePlan
    y: Tensor
    length: Tensor
    kinds: Tensor


class EdgeConvolution(Convolution):
    """A convolution over the edges of a level, whose radial features are [length, kind, h_receiver, h_sender]."""

    def __init__(self, inputs: Layout, outputs: Layout, hidden: int, edge_size: int, dropout: float) -> None:
        super().__init__(inputs, outputs, 2 * edge_size + 2 * hidden, dropout)
        self.hidden, self.edge_size = hidden, edge_size

    def update(
        self, edges: Edges, x: Tensor, *, scalars_only: bool = False, receivers: Tensor | None = None
    ) -> Tensor:
        """The convolution of x [N, D_in] over `edges`.

        receivers [R, D_in]: features of the nodes that receive, where the plan is a bipartite one.
        """
        own = x if receivers is None else receivers
        before = self._radial_features(edges, x[:, : self.hidden], own[:, : self.hidden])
        return self.convolve(edges.plan, x, edges.y, before, scalars_only=scalars_only)

    def _radial_features(self, edges: Edges, scalars: Tensor, receivers: Tensor) -> Tensor:
        """The linear map of [length, kind, h_receiver, h_sender], applied per node before it is gathered."""
        plan, size = edges.plan, self.edge_size
        weight = self.radial.weight.t()
        of_length, of_kind, of_receiver, of_sender = weight.split([size, size, self.hidden, self.hidden])
        out = torch.addmm(self.radial.bias, edges.length, of_length)
        out = out + F.embedding(plan.kind, edges.kinds @ of_kind)
        out = out + F.embedding(plan.receiver, receivers @ of_receiver)
        return out + F.embedding(plan.sender, scalars @ of_sender)


class Interaction(EdgeConvolution):
    """One equivariant layer: convolution with the neighbours and padded residual.

    `forward`: features [N, D_in] → [N, D_out], or [N, scalars] with `scalars_only`.
    """

    def __init__(self, hidden: int, edge_size: int, depth: int, dropout: float) -> None:
        inputs, outputs = Layout(layer_slots(hidden, depth)), Layout(layer_slots(hidden, depth + 1))
        super().__init__(inputs, outputs, hidden, edge_size, dropout)

    def forward(  # type: ignore[override]
        self, edges: Edges, x: Tensor, *, scalars_only: bool = False, receivers: Tensor | None = None
    ) -> Tensor:
        """Arguments as in `update`."""
        update = self.update(edges, x, scalars_only=scalars_only, receivers=receivers)
        own = x if receivers is None else receivers
        runs, first = [], 0
        for l in range(1 if scalars_only else 3):  # noqa: E741
            width = self.outputs.channels[l] * (2 * l + 1)
            run = update[:, first : first + width].unflatten(1, (2 * l + 1, -1))
            first += width
            missing = self.outputs.channels[l] - self.inputs.channels[l]
            if self.inputs.channels[l]:
                run = run + F.pad(self.inputs.run(own, l), (0, missing))
            runs.append(run.flatten(1))
        return torch.cat(runs, dim=1)


class LevelEncoder(nn.Module):
    """The equivariant network of one level: `forward` maps [N, H] invariant inputs to [N, H] unit rows."""

    def __init__(self, hidden: int, edge_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.kinds = nn.Embedding(len(keys.EDGE_TYPES), edge_size)
        self.length = LengthEmbedding(edge_size, dropout)
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


class EmbeddingMixer(nn.Module):
    """Bring external block features to the width of blocks and mix them in: [B, H] → [B, H].

    With sizes for each segment there are two pairs of networks; rows keep their order.
    """

    def __init__(self, config: EmbeddingConfig, hidden: int) -> None:
        super().__init__()
        self.frames, self.sizes = config.frames, config.sizes
        between = config.layers - 1
        self.projectors = nn.ModuleList(
            mlp([size, *[config.hidden] * between, hidden], config.activation, config.dropout)
            for size in config.sizes
        )
        self.mixers = nn.ModuleList(
            mlp([*[2 * hidden] * (between + 1), hidden], config.activation, config.dropout)
            for _ in config.sizes
        )

    def forward(self, blocks: Tensor, inputs: GraphInputs) -> Tensor:
        if len(self.frames) == 1:
            return self._mix(0, blocks, self._features(0, inputs))
        mixed = torch.zeros_like(blocks)
        for index in range(2):
            rows = inputs.places.segments[index]
            own = self._mix(index, blocks[rows], self._features(index, inputs)[rows])
            mixed = mixed.index_copy(0, rows, own)
        return mixed

    def _mix(self, index: int, blocks: Tensor, features: Tensor) -> Tensor:
        return self.mixers[index](torch.cat([blocks, self.projectors[index](features)], dim=1))

    def _features(self, index: int, inputs: GraphInputs) -> Tensor:
        name, width = self.frames[index], self.sizes[index]
        features = inputs.embeddings.get(name)
        if features is None or features.shape[1:] != (width,):
            found = "none" if features is None else f"shape {tuple(features.shape)}"
            raise DataError(
                f"the model reads external block features of length {width} from the graph's block frame "
                f"{name!r}, which has {found}"
            )
        return features


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
        places = inputs.places
        table = places.table if self.with_global_blocks else places.ordinary
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
        self.mix_before, self.mix_after = (
            EmbeddingMixer(config.embeddings, config.block_hidden) if config.embeddings.sizes else None
            for _ in range(2)
        )

    def forward(self, inputs: GraphInputs) -> Encoding:
        return self.above(self.atoms(inputs.atoms, self.atom_types(inputs.atoms.type)), inputs)

    def detailed(self, inputs: GraphInputs) -> DetailedEncoding:
        """The same embeddings with the detail of the atom level, which costs more to compute."""
        atom, detail = self.atoms.detailed(inputs.atoms, self.atom_types(inputs.atoms.type))
        encoding = DetailedEncoding(*self.above(atom, inputs))
        encoding.atoms = detail
        return encoding

    def above(self, atom: Tensor, inputs: GraphInputs) -> Encoding:
        """Blocks and complexes from the embeddings of atoms."""
        query = self.block_types(inputs.blocks.type)
        if self.mix_before is not None:
            query = self.mix_before(query, inputs)
        if self.modalities is not None:
            told = inputs.blocks.is_global & (inputs.modality >= 0)
            query = query + self.modalities(inputs.modality.clamp(min=0)) * told[:, None]
        block = self.blocks(inputs.blocks, self.atoms_to_block(query, atom, inputs))
        if self.mix_after is not None:
            block = self.mix_after(block, inputs)
        return Encoding(atom, block, self.pooling(block, inputs))
