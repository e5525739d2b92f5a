"""Vectors of atoms, blocks and complexes by name: what embeddings (h) and rotation invariants (z) are made of.

An embedding is what an encoder's output network makes of a node's scalars. Invariants are these scalars as they are,
and the products of all pairs of channels of one degree and parity, summed over their components: they keep what
vectors and tensors say of directions and that no output network reads.

| name | of | what |
| --- | --- | --- |
| `h_atom`, `h_block`, `h_graph` | atom, block, complex | the embeddings of `Encoding` |
| `h_interface` | one partner | what `h_graph` would be of the partner's blocks alone, after messages between all |
| `z_atom` | atom | its invariants |
| `z_block` | block | `h_block`, products of its channels, mean and deviation of `z_atom` over its atoms |
| `z_graph`, `z_interface` | complex, one partner | `z_block`, pooled over blocks |

Shapes: A atoms, B blocks, G complexes, D features of an atom's invariants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from atomica.data.inputs import GraphInputs
from atomica.errors import SpecError
from atomica.nn.encoding import DetailedEncoding, Encoder, EncoderSettings, Encoding, Features
from atomica.nn.irreps import Layout
from atomica.spec import not_among

__all__ = [
    "NAMES",
    "POOLS",
    "Representation",
    "block_invariants",
    "invariants",
    "moments",
    "parts_of_blocks",
    "pooled",
    "products",
]

_LEVELS = ("atom", "block", "graph", "interface")
NAMES = tuple(f"{kind}_{level}" for kind in "hz" for level in _LEVELS)
"""The representations there are."""

POOLS: Mapping[str, str] = {
    "mean_std_global": "mean and deviation over ordinary blocks, then the first global block; for heads and probes",
    "mean_component_normalized": "mean over ordinary blocks, its three parts scaled to length 1; for cosines",
    "mean_std": "mean and deviation over ordinary blocks",
    "mean": "mean over ordinary blocks",
}
"""How blocks become a complex, and what each way is for."""

_PARTS = ("h", "products", "atoms_mean", "atoms_deviation")
_SMALLEST = 1e-12


@dataclass(frozen=True)
class Representation:
    """A representation: its name, how blocks are pooled (of z_graph, z_interface), and which partner (of *_interface).

    Raises SpecError for a name, pool or partner that there is not.

    >>> Representation("z_graph", "mean_std").level
    'graph'
    """

    name: str
    pool: str = "mean_std_global"
    segment: int = 0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("representation", self.name, NAMES),
            ("pool", self.pool, tuple(POOLS)),
            ("segment", self.segment, (0, 1)),
        ):
            if value not in known:
                raise SpecError(f"{what} = {value!r}: {not_among(value, known)}")

    @property
    def level(self) -> str:
        """What it is of: atom, block, graph or interface."""
        return self.name.partition("_")[2]

    @property
    def pools(self) -> bool:
        """Whether it depends on `pool`."""
        return self.name in ("z_graph", "z_interface")

    @property
    def needs(self) -> str:
        """What the encoder must serve, see `EncoderSettings.serves`."""
        return "invariants" if self.name.startswith("z") else self.level

    def __str__(self) -> str:
        """The name with all that it depends on, as files record it: z_interface.0.mean_std_global."""
        segment = f".{self.segment}" if self.level == "interface" else ""
        return f"{self.name}{segment}{f'.{self.pool}' if self.pools else ''}"

    def unserved(self, config: EncoderSettings) -> str:
        """Why an encoder cannot give it, for a person; empty if it can."""
        if self.needs in config.serves:
            return ""
        return f"{self.name} needs {self.needs}, and the {config.kind} encoder gives {', '.join(config.serves)} alone"

    def read(self, encoding: Encoding, inputs: GraphInputs, encoder: Encoder) -> Tensor:
        """The vectors from what the encoder gave; of z: a `DetailedEncoding` with the features of blocks."""
        if self.name == "h_interface":
            return encoder.pool(encoding.block, inputs, inputs.segment == self.segment)
        if self.needs != "invariants":
            return getattr(encoding, self.level)
        assert isinstance(encoding, DetailedEncoding), "the encoder must be run in detail"
        if self.name == "z_atom":
            return invariants(encoding.atoms.features, encoding.atoms.layout)
        blocks = block_invariants(encoding, inputs)
        if self.level == "block":
            return torch.cat(blocks, dim=1)
        return self.pooled(blocks, inputs)

    def pooled(self, blocks: tuple[Tensor, ...], inputs: GraphInputs) -> Tensor:
        """z_graph or z_interface from what `block_invariants` gives."""
        chosen = ~inputs.blocks.is_global
        if self.level == "interface":
            chosen = chosen & (inputs.segment == self.segment)
        return pooled(blocks, chosen, inputs, self.pool)

    def parts_of(self, config: EncoderSettings) -> dict[str, int]:
        """What its columns are, in order: name of each part and how many columns it has."""
        if self.name.startswith("h"):
            return {"h": config.atom_hidden if self.level == "atom" else config.block_hidden}
        of_atom, of_block = config.detail_layout, config.block_layout
        scalars, wide = of_atom.channels[0], products_width(of_atom)
        if self.level == "atom":
            return {"scalars": scalars, "products": wide}
        widths = (config.block_hidden, products_width(of_block), scalars + wide, scalars + wide)
        blocks = dict(zip(_PARTS, widths, strict=True))
        if not self.pools:
            return blocks
        pools = {"mean_std_global": ("mean", "deviation", "global"), "mean_std": ("mean", "deviation")}
        return {
            f"{pool}.{name}": width
            for pool in pools.get(self.pool, ("mean",))
            for name, width in blocks.items()
        }


def _pairs(channels: int, device: torch.device) -> Tensor:
    """The pairs i ≤ j of channels, row by row, as columns of the flattened square."""
    first, second = torch.triu_indices(channels, channels, device=device)
    return first * channels + second


def products_width(layout: Layout) -> int:
    """Columns of `products`."""
    return sum(slot.channels * (slot.channels + 1) // 2 for slot in layout.slots if slot.degree)


def products(values: Tensor, layout: Layout) -> Tensor:
    """Products of pairs of channels, summed over components: [N, D] → [N, W], of each irrep of degree 1 and 2 in turn.

    >>> from atomica.nn.irreps import IrrepSlot
    >>> vectors = Layout((IrrepSlot(1, -1, 2),))
    >>> products(torch.tensor([[1.0, 0.0, 0.0, 2.0, 2.0, 0.0]]), vectors).tolist()  # x, y, z of two channels
    [[5.0, 0.0, 4.0]]
    """
    found = [values[:, :0]]
    for slot in layout.slots:
        if slot.degree:
            channels = layout.view(values, slot)  # [N, 2l+1, channels]
            square = (channels.transpose(1, 2) @ channels).flatten(1)
            found.append(square.index_select(1, _pairs(slot.channels, square.device)))
    return torch.cat(found, dim=1)


def invariants(values: Tensor, layout: Layout) -> Tensor:
    """What of features [N, D] does not turn with the complex: scalars, then `products`."""
    return torch.cat([values[:, : layout.channels[0]], products(values, layout)], dim=1)


def moments(values: Tensor, of: Tensor, count: int, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and population deviation [count, W] of the rows [N, W] of each thing; `of` [N] says of which a row is.

    counted: which rows count, bool [N]; None: all. 0 where there are none. The deviation's gradient is 0 where it is 0.
    """
    # Rows are weighed, not selected: how many are chosen is not known before a GPU has come to it.
    one = values.new_ones(len(values), 1) if counted is None else counted.to(values.dtype)[:, None]
    rows = values.new_zeros(count, 1).index_add(0, of, one).clamp(min=1)
    mean = values.new_zeros(count, values.shape[1]).index_add(0, of, values * one) / rows
    off = (values - mean.index_select(0, of)).square() * one
    variance = values.new_zeros(mean.shape).index_add(0, of, off) / rows
    some = variance > 0
    return mean, torch.where(some, variance.where(some, 1.0).sqrt(), 0.0)


def block_invariants(encoding: DetailedEncoding, inputs: GraphInputs) -> tuple[Tensor, Tensor, Tensor]:
    """`z_block` in its three parts, see `parts_of_blocks`."""
    assert encoding.blocks is not None, "the encoder must be run in detail of blocks"
    atoms = Features(encoding.atoms.features, encoding.atoms.layout)
    return parts_of_blocks(encoding.block, atoms, encoding.blocks, inputs)


def parts_of_blocks(
    block: Tensor, atoms: Features, blocks: Features, inputs: GraphInputs
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of blocks, products of their features, mean and deviation of the invariants of their atoms."""
    of_atoms = torch.cat(moments(invariants(*atoms), inputs.block_of_atom, len(inputs.segment)), dim=1)
    return block, products(*blocks), of_atoms


def pooled(parts: tuple[Tensor, ...], chosen: Tensor, inputs: GraphInputs, pool: str) -> Tensor:
    """Blocks → complexes. parts: columns [B, …] of the blocks; chosen [B]: which count; pool: of `POOLS`."""
    of, count = inputs.graph_of_block, inputs.num_graphs
    if pool == "mean_component_normalized":
        means = [moments(part, of, count, chosen)[0] for part in parts]
        return torch.cat([F.normalize(mean, dim=1, eps=_SMALLEST) for mean in means], dim=1)
    mean, deviation = moments(torch.cat(parts, dim=1), of, count, chosen)
    if pool == "mean":
        return mean
    if pool == "mean_std":
        return torch.cat([mean, deviation], dim=1)
    blocks = len(inputs.segment)
    number = torch.where(inputs.blocks.is_global, torch.arange(blocks, device=of.device), blocks)
    first = of.new_full((count,), blocks).scatter_reduce(0, inputs.graph_of_block, number, "amin")
    there = first < blocks
    first = first.clamp(max=blocks - 1)
    of_global = torch.cat([part.index_select(0, first) for part in parts], dim=1)
    return torch.cat([mean, deviation, torch.where(there[:, None], of_global, mean)], dim=1)
