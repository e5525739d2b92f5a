"""The contract between encoders and heads: settings of an encoder, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from atomica.data.edges import EdgePlan
from atomica.nn.irreps import Layout
from atomica.spec import Problems, setting

__all__ = ["ACTIVATIONS", "DetailedEncoding", "EmbeddingConfig", "EncoderConfig", "Encoding", "LevelDetail"]


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
        Problems.check(config=self)

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
