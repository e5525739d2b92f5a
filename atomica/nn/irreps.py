"""Irreps of O(3) up to degree 2 as the encoder uses them: channel layout, harmonics, coupling tables.

Node features are one matrix [N, D]. Its columns are three runs, one per degree l = 0, 1, 2; run l is a
flattened [2l+1, channels_l] matrix, components outermost, so that coupling with harmonics is a plain
matrix product. Within a run the channels of the parity that appears first in the network come first:
0e before 0o, 1o before 1e, 2e before 2o. Growing the features is then padding at the end of each run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

__all__ = ["COMPONENTS", "HARMONICS", "IrrepSlot", "Layout", "coupling", "layer_slots", "spherical_harmonics"]


COMPONENTS = (1, 3, 5)
"""Number of components of degree 0, 1, 2."""

HARMONICS: tuple[tuple[int, int], ...] = ((0, 1), (1, -1), (2, 1))
"""Degree and parity of the harmonics of an edge, in the order of their columns."""


@dataclass(frozen=True, order=True)
class IrrepSlot:
    """One irrep of a feature: `channels` copies of `degree` and `parity` (+1 even, -1 odd).

    >>> str(IrrepSlot(1, -1, 16))
    '16x1o'
    """

    degree: int
    parity: int
    channels: int

    @property
    def name(self) -> str:
        """Degree and parity, the name of its parameters: 0e, 1o, …"""
        return f"{self.degree}{'e' if self.parity > 0 else 'o'}"

    def __str__(self) -> str:
        return f"{self.channels}x{self.name}"

    @property
    def dim(self) -> int:
        return self.channels * COMPONENTS[self.degree]


def layer_slots(hidden: int, depth: int) -> tuple[IrrepSlot, ...]:
    """The irreps of node features after `depth` layers, in the order in which weights are stored.

    `hidden` scalar channels and `hidden // 2` channels for the other degrees; growth stops at depth 3.

    >>> [str(slot) for slot in layer_slots(8, 1)]
    ['8x0e', '4x1o', '4x2e']
    """
    vectors = hidden // 2
    slots = [IrrepSlot(0, 1, hidden)]
    if depth >= 1:
        slots += [IrrepSlot(1, -1, vectors), IrrepSlot(2, 1, vectors)]
    if depth >= 2:
        slots += [IrrepSlot(1, 1, vectors), IrrepSlot(2, -1, vectors)]
    if depth >= 3:
        slots += [IrrepSlot(0, -1, hidden)]
    return tuple(slots)


@dataclass(frozen=True)
class Layout:
    """Where each irrep of a feature matrix lives.

    `slots` keeps the order in which the network introduces them. The first of two parities of a degree
    is the one introduced first.

    >>> layout = Layout(layer_slots(8, 3))
    >>> layout.dim, layout.channels
    (80, (16, 8, 8))
    """

    slots: tuple[IrrepSlot, ...]

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels per degree, both parities together."""
        per_degree = [sum(s.channels for s in self.slots if s.degree == degree) for degree in range(3)]
        return per_degree[0], per_degree[1], per_degree[2]

    @property
    def dim(self) -> int:
        """Number of columns of the feature matrix."""
        return sum(slot.dim for slot in self.slots)

    @property
    def offsets(self) -> tuple[int, int, int]:
        """First column of each degree's run."""
        c0, c1, _ = self.channels
        return 0, c0, c0 + 3 * c1

    def run(self, x: Tensor, degree: int) -> Tensor:
        """View of one degree l in `x` [N, D] as [N, 2l+1, channels_l]."""
        start, width = self.offsets[degree], COMPONENTS[degree] * self.channels[degree]
        return x[:, start : start + width].unflatten(1, (COMPONENTS[degree], self.channels[degree]))

    def channel_range(self, slot: IrrepSlot) -> tuple[int, int]:
        """First and last (exclusive) channel of `slot` within the run of its degree."""
        start = 0
        for other in self.slots:
            if other.degree == slot.degree:
                if other == slot:
                    return start, start + slot.channels
                start += other.channels
        raise KeyError(str(slot))

    def view(self, x: Tensor, slot: IrrepSlot) -> Tensor:
        """View of `slot` in `x` [N, D] as [N, 2l+1, channels]."""
        first, last = self.channel_range(slot)
        return self.run(x, slot.degree)[:, :, first:last]

    def to_e3nn(self, x: Tensor) -> Tensor:
        """`x` [N, D] in e3nn's column order: slot after slot, channels outermost within each."""
        return torch.cat([self.view(x, slot).transpose(1, 2).flatten(1) for slot in self.slots], dim=1)

    def from_e3nn(self, x: Tensor) -> Tensor:
        """The inverse of `to_e3nn`."""
        parts, start = {}, 0
        for slot in self.slots:
            block = x[:, start : start + slot.dim].unflatten(1, (slot.channels, COMPONENTS[slot.degree]))
            parts[slot] = block.transpose(1, 2)
            start += slot.dim
        runs = []
        for degree in range(3):
            of_degree = [parts[slot] for slot in self.slots if slot.degree == degree]
            if of_degree:
                runs.append(torch.cat(of_degree, dim=2).flatten(1))
        return torch.cat(runs, dim=1)


def spherical_harmonics(vectors: Tensor) -> Tensor:
    """Real spherical harmonics of degree 0, 1, 2 of the direction of `vectors`.

    [E, 3] → [E, 9]; e3nn's axis order, component normalisation. A zero vector has no direction: its
    harmonics of degree 1 and 2 are 0.

    >>> [round(y, 3) for y in spherical_harmonics(torch.tensor([[0.0, 2.0, 0.0]]))[0, :4].tolist()]
    [1.0, 0.0, 1.732, 0.0]
    """
    from e3nn import o3

    return o3.spherical_harmonics([0, 1, 2], vectors, normalize=True, normalization="component")


@cache
def coupling(degree_in: int, degree_sh: int, degree_out: int) -> Tensor:
    """Wigner 3j coefficients of two degrees that give a third, float64; a degree l has 2l+1 components."""
    from e3nn import o3

    return o3.wigner_3j(degree_in, degree_sh, degree_out, dtype=torch.float64)
