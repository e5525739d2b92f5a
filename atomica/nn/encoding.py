"""The contract between encoders and heads: the settings of an encoder, what it can serve, and what it gives.

Heads know encoders by this file alone. Shapes: A atoms, B blocks, G complexes of a batch, N nodes and E edges of one
level.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from atomica.data.edges import EdgePlan
from atomica.data.inputs import GraphInputs
from atomica.nn.irreps import Layout
from atomica.spec import Problems, setting

__all__ = [
    "ACTIVATIONS",
    "DetailedEncoding",
    "EmbeddingConfig",
    "Encoder",
    "EncoderSettings",
    "Encoding",
    "Features",
    "LevelDetail",
]


ATTENTION_HEADS = 4
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "elu": nn.ELU}


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
        Problems.check(config=self)

    @property
    def frames(self) -> tuple[str, ...]:
        """The block frames of a graph that hold them."""
        return ("embedding",) if len(self.sizes) == 1 else ("embedding_0", "embedding_1")[: len(self.sizes)]


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of an encoder, the `[model]` section of a run spec: those that every kind of encoder has.

    Heads and jobs read them. The settings of one kind are a frozen dataclass that derives from this one.
    kind, encoder: its registered name and class, set by `encoders.register`.
    serves: what heads may ask of it: "atom", "block", "graph"; "detail" if it has `detailed`, "invariants" if that
    gives the features of blocks as well, "interface" if it has `pool`.
    sizes: the settings that decide the shapes of its weights.
    Raises SpecError naming every value out of range.
    """

    kind: ClassVar[str]
    encoder: ClassVar[type[Encoder]]
    serves: ClassVar[tuple[str, ...]] = ("atom", "block", "graph")
    sizes: ClassVar[tuple[str, ...]] = ("atom_hidden", "block_hidden", "edge_size", "layers", "block_types")

    atom_hidden: int = setting(32, "width of atom features", low=4, multiple_of=4)
    block_hidden: int = setting(
        32,
        f"width of block features, shared by {ATTENTION_HEADS} attention heads",
        low=ATTENTION_HEADS,
        multiple_of=ATTENTION_HEADS,
    )
    edge_size: int = setting(16, "width of edge features and number of distance Gaussians on 0 to 5 Å", low=2)
    layers: int = setting(3, "layers of message passing at each level", low=1)
    dropout: float = setting(0.0, "dropout in edge networks, outputs, attention and pooling", low=0, below=1)
    k_neighbors: int = setting(
        8, "nearest neighbours of a node within its segment, and as many across", low=1
    )
    atom_global: bool = setting(False, "edges between global and ordinary atoms")
    block_global: bool = setting(True, "edges between global and ordinary blocks")
    modality_embedding: bool = setting(False, "tell the model the kind of interface, on the global blocks")
    block_types: int = setting(
        150, "size of the block vocabulary; read from the data, not from the spec", low=150
    )
    embeddings: EmbeddingConfig = EmbeddingConfig()

    def __post_init__(self) -> None:
        if isinstance(self.embeddings, dict):  # as a saved model's description has it
            object.__setattr__(self, "embeddings", EmbeddingConfig(**self.embeddings))
        Problems.check(config=self)

    @property
    def reference_quirks(self) -> bool:
        """Whether its outputs depend on what else is in the batch, as the original's do."""
        return False

    @property
    def detail_layout(self) -> Layout:
        """The irreps of `LevelDetail.features`, with `atom_hidden` even scalars first, if it serves "detail"."""
        raise NotImplementedError

    @property
    def block_layout(self) -> Layout:
        """The irreps of `DetailedEncoding.blocks`, if it serves "invariants"."""
        raise NotImplementedError

    def graph_options(self) -> dict[str, Any]:
        """Keyword arguments for `atomica.graph.batch` that build the graphs this encoder expects."""
        return {
            "k_neighbors": self.k_neighbors,
            "atom_global": self.atom_global,
            "block_global": self.block_global,
            "reference_quirks": self.reference_quirks,
        }

    def build(self) -> Encoder:
        """A fresh encoder with these settings."""
        return self.encoder(self)

    def description(self) -> dict[str, Any]:
        """Kind and settings as plain data; `encoders.settings_from` reads them."""
        return {"kind": self.kind, **asdict(self)}


class Encoding(NamedTuple):
    """What the encoder gives: atom [A, H_atom], block [B, H_block], graph [G, H_block]; rows of unit length
    for atom, block and graph alike."""

    atom: Tensor
    block: Tensor
    graph: Tensor


class Features(NamedTuple):
    """What a level's output is made from: values [N, D], irreps in the columns that `layout` says."""

    values: Tensor
    layout: Layout


class LevelDetail(NamedTuple):
    """What one level computed on the way to its output, for heads that go on from there.

    features: [N, D] all irreps after the last layer, in `layout`, the settings' `detail_layout`. plan: the level's
    edges; y: [E, 9] their harmonics and distance: [E] their length in Å (float64), in plan order. kinds:
    [4, edge_size] the learned embedding of edge types.
    """

    features: Tensor
    layout: Layout
    plan: EdgePlan
    y: Tensor
    distance: Tensor
    kinds: Tensor


class DetailedEncoding(Encoding):
    """An encoding that also carries `atoms`, the detail of the atom level, and if asked for the features of `blocks`;
    `Encoder.detailed` makes it."""

    atoms: LevelDetail
    blocks: Features | None

    @classmethod
    def of(cls, encoding: Encoding, atoms: LevelDetail, blocks: Features | None = None) -> DetailedEncoding:
        """The same embeddings with the detail."""
        found = cls(*encoding)
        found.atoms, found.blocks = atoms, blocks
        return found

    def _replace(self, **changes: Tensor) -> DetailedEncoding:
        return DetailedEncoding.of(Encoding(*self)._replace(**changes), self.atoms, self.blocks)


class Encoder(nn.Module):
    """Base class of all encoders: a batch of graphs → embeddings of atoms, blocks and complexes.

    Outputs may depend on a complex alone, and not on its place, orientation, order of atoms or batch;
    `atomica.testing.check_model` checks that. Config: the dataclass of its settings.
    """

    Config: ClassVar[type[EncoderSettings]]

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, inputs: GraphInputs) -> Encoding:
        """The embeddings; see `Encoding`."""
        raise NotImplementedError

    def detailed(self, inputs: GraphInputs, *, blocks: bool = False) -> DetailedEncoding:
        """The same with the detail of the atom level, which costs more; for encoders that serve "detail".

        blocks: the features of blocks, too; for encoders that serve "invariants".
        """
        raise NotImplementedError

    def pool(self, block: Tensor, inputs: GraphInputs, chosen: Tensor) -> Tensor:
        """What `Encoding.graph` would be of the blocks `chosen` [B] alone; for encoders that serve "interface".

        block [B, H]: the embeddings of all blocks, after messages between all of them → [G, H].
        """
        raise NotImplementedError
