"""What heads read of an encoder, and the networks on it.

The embedding of a complex is a unit row that varies little between complexes, and a deep network on it learns a
constant; so a head may read more (`ReadoutConfig.readout`). What it reads is standardised by what the training rows
have, and goes through a linear path beside the deep one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from atomica.data.inputs import GraphInputs
from atomica.heads import Head, NetworkConfig
from atomica.heads.surroundings import surroundings, width
from atomica.keys import EDGE_TYPES
from atomica.nn.encoding import ACTIVATIONS, DetailedEncoding, EncoderSettings, Encoding
from atomica.nn.representations import POOLS, Representation, block_invariants, pooled
from atomica.spec import setting

__all__ = [
    "FAR",
    "BlockReadoutConfig",
    "ReadoutConfig",
    "ReadoutHead",
    "SiteReadoutConfig",
    "Standardised",
    "chosen",
    "parts_of",
    "read",
]

FAR = 3.0
"""Deviations from the mean beyond which a number says no more."""
CONTACT = 5.0
"""Å between atoms of two partners in contact."""

READOUTS: Mapping[str, str] = {
    "graph": "the complex's embedding alone, as the original",
    "mean_std": "mean and deviation of the embeddings of blocks, and the logarithm of their number",
    "z": "the rotation invariants of blocks, pooled as pool says, and the logarithm of their number",
}
BLOCK_READOUTS: Mapping[str, str] = {
    "block": "the block's embedding alone, as the original",
    "z": "the rotation invariants of the block and its atoms",
}
OVER: Mapping[str, str] = {
    "complex": "all blocks",
    "segment0": "those of the first partner",
    "segment1": "those of the second",
    "contacts": f"those within {CONTACT:g} Å of the other partner",
}


@dataclass(frozen=True, kw_only=True)
class ReadoutConfig(NetworkConfig):
    """Keys of a head on complexes: what it reads, and its networks.

    Raises SpecError naming every value out of range.
    """

    readout: str = setting("z", "what of the encoder the head reads", choices=READOUTS)
    pool: str = setting("mean_std_global", "of the readout z: how blocks are pooled", choices=POOLS)
    counts: bool = setting(
        True,
        "of the readouts mean_std and z: also how many blocks there are of each type, all that a baseline sees",
    )
    over: str = setting("complex", "of the readouts mean_std and z: which blocks", choices=OVER)
    vector_size: int = setting(
        0,
        "length of a vector that the head is given of each complex beside what it reads, see data.vectors; 0: none",
        low=0,
    )

    def problems(self) -> list[tuple[bool, str, str]]:
        graph = self.readout == "graph" and self.over != "complex"
        return [(graph, "over", 'has no effect: the readout "graph" is of the whole complex')]


@dataclass(frozen=True, kw_only=True)
class BlockReadoutConfig(NetworkConfig):
    """Keys of a head on blocks. Raises SpecError naming every value out of range."""

    readout: str = setting("z", "what of the encoder the head reads", choices=BLOCK_READOUTS)


@dataclass(frozen=True, kw_only=True)
class SiteReadoutConfig(BlockReadoutConfig):
    """The same of a head that answers for each block. Raises SpecError naming every value out of range."""

    surroundings: bool = setting(
        True,
        "of the readout z: also the block's type and how much lies within 4 to 30 Å of it, and how that stands to the "
        "complex's other blocks",
    )


class Standardised(nn.Module):
    """Two paths to `out` numbers from what training rows have made mean 0 and deviation 1: a linear and a deep one.

    The deep one is [linear, activation, dropout] × (layers - 1) and a linear layer; with one layer there is none. What
    does not vary in training is left out, and what is further than `FAR` from the mean says no more: nothing was learnt
    there. Inputs of the linear path come in groups as wide as `parts` say, each divided by the root of its width, so
    that thousands of numbers learn no faster than one and few are not lost among them. Both begin with 0, so that the
    deep path adds to what the linear one has found.
    """

    share: Tensor
    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, config: NetworkConfig, parts: Sequence[int], out: int) -> None:
        super().__init__()
        width = sum(parts)
        share = torch.cat([torch.full((part,), max(part, 1) ** -0.5) for part in parts])
        self.register_buffer("share", share, persistent=False)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.linear = nn.Linear(width, out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.deep: nn.Sequential | None = None
        if config.layers > 1:
            stack: list[nn.Module] = []
            for before in [width, *[config.hidden] * (config.layers - 2)]:
                stack += [
                    nn.Linear(before, config.hidden),
                    ACTIVATIONS[config.activation](),
                    nn.Dropout(config.dropout),
                ]
            last = nn.Linear(config.hidden, out)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.deep = nn.Sequential(*stack, last)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = ((x.to(self.mean.dtype) - self.mean) * self.scale).clamp(-FAR, FAR)
            linear = self.linear(x * self.share)
            return linear if self.deep is None else linear + self.deep(x)

    def fit(self, count: Tensor, total: Tensor, squares: Tensor) -> None:
        """Take the statistics: number of rows, float64 sums [W] of them and of their squares."""
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
        varies = deviation > 1e-5 * mean.abs() + 1e-8
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / deviation.where(varies, 1.0), 0.0))
        self.fitted.fill_(True)


def parts_of(config: ReadoutConfig | BlockReadoutConfig, encoder: EncoderSettings) -> tuple[int, ...]:
    """How many numbers of each sort `read` gives of a complex or block: what the encoder says, then what is counted."""
    if config.readout in ("graph", "block"):
        return (encoder.block_hidden,)
    if isinstance(config, BlockReadoutConfig):
        own = sum(Representation("z_block").parts_of(encoder).values())
        return (own, width(encoder.block_types)) if _surrounded(config) else (own,)
    own = sum(Representation("z_graph", config.pool).parts_of(encoder).values())
    own = 2 * encoder.block_hidden if config.readout == "mean_std" else own
    return (own, 1 + config.counts * encoder.block_types)


def _surrounded(config: ReadoutConfig | BlockReadoutConfig) -> bool:
    return isinstance(config, SiteReadoutConfig) and config.surroundings


def read(
    config: ReadoutConfig | BlockReadoutConfig, encoding: Encoding, inputs: GraphInputs, block_types: int
) -> Tensor:
    """What a head's network reads: [G, W] of complexes, or [B, W] of blocks; in float32, as it is standardised."""
    with torch.autocast(inputs.atoms.x.device.type, enabled=False):
        return _read(config, encoding, inputs, block_types)


def _read(
    config: ReadoutConfig | BlockReadoutConfig, encoding: Encoding, inputs: GraphInputs, block_types: int
) -> Tensor:
    if config.readout in ("graph", "block"):
        return encoding.graph if config.readout == "graph" else encoding.block
    if config.readout == "mean_std":
        parts: tuple[Tensor, ...] = (encoding.block,)
    else:
        assert isinstance(encoding, DetailedEncoding), "the model must run the encoder in detail"
        parts = block_invariants(encoding, inputs)
    if isinstance(config, BlockReadoutConfig):
        more = [surroundings(inputs, block_types)] if _surrounded(config) else []
        return torch.cat([*parts, *more], dim=1)
    blocks = chosen(config.over, inputs)
    found = pooled(parts, blocks, inputs, config.pool if config.readout == "z" else "mean_std")
    one = blocks.to(found.dtype)
    count = torch.zeros_like(found[:, 0]).index_add(0, inputs.graph_of_block, one)
    read = [found, count.clamp(min=1).log()[:, None]]
    if config.counts:
        place = inputs.graph_of_block * block_types + inputs.blocks.type
        counts = one.new_zeros(inputs.num_graphs * block_types).index_add(0, place, one)
        read.append(counts.view(inputs.num_graphs, -1))
    return torch.cat(read, dim=1)


def chosen(over: str, inputs: GraphInputs) -> Tensor:
    """The blocks that `over` names, bool [B]; all ordinary ones of a complex that has no contact."""
    ordinary = ~inputs.blocks.is_global
    if over == "complex":
        return ordinary
    if over.startswith("segment"):
        return ordinary & (inputs.segment == int(over[-1]))
    edges, x = inputs.atoms.edges, inputs.atoms.x
    across = edges.kind == EDGE_TYPES.index("inter")
    near = across & ((x[edges.sender] - x[edges.receiver]).norm(dim=1) <= CONTACT)
    contacts = x.new_zeros(len(ordinary)).index_add(0, inputs.block_of_atom[edges.receiver], near.to(x.dtype))
    some = x.new_zeros(inputs.num_graphs).index_add(0, inputs.graph_of_block, contacts)
    return ordinary & ((contacts > 0) | (some == 0)[inputs.graph_of_block])


class ReadoutHead(Head):
    """Base of heads that read what their settings name: `network` [.., W] → [.., out], and `read` gives it its input.

    original: makes the network that the original has on the embeddings.
    """

    def __init__(
        self, config: Any, encoder: EncoderSettings, out: int, original: Callable[[int], nn.Module]
    ) -> None:
        super().__init__(config, encoder)
        plain = config.readout in ("graph", "block")
        parts, more = parts_of(config, encoder), getattr(config, "vector_size", 0)
        self.block_types = encoder.block_types
        self.vector = nn.Linear(more, encoder.block_hidden) if plain and more else None
        more = encoder.block_hidden if self.vector is not None else more
        self.network = original(sum(parts) + more) if plain else Standardised(config, (*parts, more), out)

    @classmethod
    def before(cls, encoder: EncoderSettings) -> Mapping[str, Any]:
        return {"readout": "graph"}

    @classmethod
    def needs_of(cls, config: Any) -> tuple[str, ...]:
        own = {"mean_std": "block", "z": "invariants"}
        return (*(need for need in cls.needs if need != "graph"), own.get(config.readout, config.readout))

    def read(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        """What `network` reads; with the complex's external vector, if there is to be one."""
        found = read(self.config, encoding, inputs, self.block_types)
        if size := getattr(self.config, "vector_size", 0):
            given = inputs.vectors(size).to(found.dtype)
            found = torch.cat([found, given if self.vector is None else self.vector(given)], dim=1)
        return found

    def standardised(self, encoding: Encoding, inputs: GraphInputs) -> Tensor | None:
        if not isinstance(self.network, Standardised):
            return None
        rows = self.read(encoding, inputs)
        return rows[~inputs.blocks.is_global] if self.on_blocks else rows

    def standardise(self, count: Tensor, total: Tensor, squares: Tensor) -> None:
        if isinstance(self.network, Standardised):
            self.network.fit(count, total, squares)

    @property
    def unfitted(self) -> bool:
        return isinstance(self.network, Standardised) and not bool(self.network.fitted)

    @property
    def linear(self) -> nn.Linear | None:
        """The linear path on standardised inputs; None for a head on embeddings as they are."""
        return self.network.linear if isinstance(self.network, Standardised) else None

    def answer(self, rows: Tensor) -> Tensor:
        """Raw output from what `read` gives."""
        return self.network(rows).squeeze(1)

    def forward(self, encoding: Encoding, inputs: GraphInputs) -> Tensor:
        return self.answer(self.read(encoding, inputs))
