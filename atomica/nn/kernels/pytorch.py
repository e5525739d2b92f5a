"""The convolution by PyTorch's products on pieces of the graph; the slow twin of the other kernels.

Shapes as in `convolution`: R receivers of a piece, d edges of each, k components, U coupled channels, n+1 radial
features, v channels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atomica.data.edges import EdgePlan
from atomica.nn.couplings import Arguments, Gradients
from atomica.nn.irreps import COMPONENTS, IrrepSlot

_CHUNK_FLOATS = 1 << 21
"""Floats of one piece's outer products (8 MiB in float32): small enough to stay in cache, large enough to
amortise the calls; measured on two CPU cores."""
_GPU_CHUNK_FLOATS = 1 << 28
"""The same on a GPU, which is kept waiting by many small calls."""


class Piece(NamedTuple):
    """What makes one output irrep of R receivers with `per_row` edges d each.

    coupled: [R·d, k, U]. radial: [R·d, n+1]. weight: [U, n+1, v].
    """

    slot: IrrepSlot
    coupled: Tensor
    radial: Tensor
    per_row: int
    weight: Tensor


class Into(NamedTuple):
    """Where gradients go: `coupled` is filled, `radial` and `weight` are added to; shapes as in `Piece`."""

    coupled: Tensor
    radial: Tensor
    weight: Tensor


class Products:
    """How features are coupled and become outputs, and gradients come back: with sums over a receiver's edges first."""

    def couple(self, given: Arguments, edges: slice) -> tuple[dict[IrrepSlot, Tensor], Any]:
        """The senders' features, coupled with the edges' harmonics: for each output irrep [R·d, k, U].

        And what `couple_backward` need not make again.
        """
        tables, plan, x, y = given[:4]
        kept = tables.matrices(y[edges]), x[plan.sender[edges]]
        return tables.couple(*kept), kept

    def couple_backward(
        self, given: Arguments, edges: slice, kept: Any, grads: dict[IrrepSlot, Tensor], want_y: bool
    ) -> tuple[Tensor, Tensor | None]:
        """From gradients [R·d, k, U], made in `space`, those of the senders' features [R·d, D] and of harmonics."""
        matrices, neighbors = kept
        return given.tables.couple_backward(matrices, neighbors, grads, want_y)

    def space(self, given: Arguments, edges: int) -> dict[IrrepSlot, Tensor]:
        """Room for the coupled features of so many edges, or for their gradients."""
        tables = given.tables
        return {
            slot: given.x.new_empty(edges, COMPONENTS[slot.degree], tables.fan_in[slot])
            for slot in tables.targets
        }

    def floats(self, slot: IrrepSlot, fan_in: int, per_row: int, width: int) -> int:
        """How many floats are made for one receiver of `per_row` edges, with n+1 = `width` and U = `fan_in`."""
        return fan_in * COMPONENTS[slot.degree] * width

    def forward(self, piece: Piece) -> Tensor:
        """The output [R, k, v]."""
        outer = _outer(piece.coupled, piece.radial.unflatten(0, (-1, piece.per_row)), piece.per_row)
        return _apply(outer, piece.weight).unflatten(0, (-1, COMPONENTS[piece.slot.degree]))

    def backward(self, piece: Piece, grad: Tensor, into: Into) -> None:
        """The gradients, from that of the output [R, k, v]."""
        slot, coupled, radial, per_row, weight = piece
        width, split = COMPONENTS[slot.degree], radial.unflatten(0, (-1, per_row))
        grad = grad.flatten(0, 1)
        into.weight.flatten(0, 1).addmm_(_outer(coupled, split, per_row).t(), grad)
        grad_outer = (grad @ weight.flatten(0, 1).t()).view(len(split), width * weight.shape[0], -1)
        flat = coupled.view(len(split), per_row, -1)
        into.radial.unflatten(0, (-1, per_row)).baddbmm_(flat, grad_outer)
        torch.bmm(split, grad_outer.transpose(1, 2), out=into.coupled.view(len(split), per_row, -1))

    def senders(self, plan: EdgePlan, x: Tensor) -> Senders:
        """What sums the gradients of the edges' features by sender."""
        return Senders(plan, x)


class Senders:
    """Sums rows of edges by their sender, as they come."""

    def __init__(self, plan: EdgePlan, x: Tensor) -> None:
        self.plan, self.total = plan, torch.zeros_like(x)

    def add(self, edges: slice, rows: Tensor) -> None:
        """rows: of these edges [·, D]."""
        self.total.index_add_(0, self.plan.sender[edges], rows)

    def sums(self) -> Tensor:
        """[N, D]."""
        return self.total


_SUMMED = Products()


def fits(x: Tensor) -> bool:
    """As `registry.Kernel.fits`: anywhere."""
    return True


def forward(given: Arguments, products: Products = _SUMMED) -> Tensor:
    """As `registry.Kernel.forward`, piece by piece; in PyTorch's differentiable operations, with its own products."""
    tables, _, x, _, hidden, weights, _ = given
    chunks = []
    for rows, edges, per_row in _chunks(given, products):
        coupled, _ = products.couple(given, edges)
        found = {
            slot: products.forward(Piece(slot, coupled[slot], hidden[edges], per_row, weight))
            * tables.scale[slot]
            for slot, weight in zip(tables.targets, weights, strict=True)
        }
        runs = []
        for degree, width in enumerate(COMPONENTS):
            parts = [
                found[slot] if slot in found else x.new_zeros(rows.stop - rows.start, width, slot.channels)
                for slot in tables.outputs.slots
                if slot.degree == degree
            ]
            runs += [torch.cat(parts, dim=2).flatten(1)] if parts else []
        chunks.append(torch.cat(runs, dim=1))
    return torch.cat(chunks) if chunks else x.new_zeros(0, tables.outputs.dim)


def backward(given: Arguments, grad_out: Tensor, want_y: bool, products: Products = _SUMMED) -> Gradients:
    """As `registry.Kernel.backward`."""
    tables, plan, x, y, hidden, weights, _ = given
    senders, grad_hidden = products.senders(plan, x), torch.zeros_like(hidden)
    grad_y = torch.zeros_like(y) if want_y else None
    grad_weights = [torch.zeros_like(weight) for weight in weights]
    for rows, edges, per_row in _chunks(given, products):
        coupled, kept = products.couple(given, edges)
        grad_coupled = products.space(given, edges.stop - edges.start)
        for slot, weight, grad_weight in zip(tables.targets, weights, grad_weights, strict=True):
            grad = tables.outputs.view(grad_out[rows], slot) * tables.scale[slot]
            products.backward(
                Piece(slot, coupled[slot], hidden[edges], per_row, weight),
                grad,
                Into(grad_coupled[slot], grad_hidden[edges], grad_weight),
            )
        grad_neighbors, grad_harmonics = products.couple_backward(given, edges, kept, grad_coupled, want_y)
        senders.add(edges, grad_neighbors)
        if grad_y is not None and grad_harmonics is not None:
            grad_y[edges] = grad_harmonics
    return senders.sums(), grad_y, grad_hidden, grad_weights


def _outer(coupled: Tensor, radial: Tensor, per_row: int) -> Tensor:
    """Sum over a receiver's edges of coupled ⊗ radial: [R·d, k, U], [R, d, n+1] → [R·k, U·(n+1)]."""
    receivers, _, width = radial.shape
    components, channels = coupled.shape[1:]
    flat = coupled.view(receivers, per_row, components * channels)
    return torch.bmm(flat.transpose(1, 2), radial).view(receivers * components, channels * width)


def _apply(outer: Tensor, weight: Tensor) -> Tensor:
    """outer [R·k, U·(n+1)] times weight [U, n+1, v], as sums over a few coupled channels that are added up.

    Faster than one long product for so few output channels, and more accurate: rounding errors of float32
    grow with the length of a sum.
    """
    piece = math.gcd(weight.shape[0], 8)
    pieces = weight.shape[0] // piece
    split = outer.unflatten(1, (pieces, piece * weight.shape[1])).transpose(0, 1)
    return torch.bmm(split, weight.view(pieces, -1, weight.shape[2])).sum(dim=0)


def _chunks(given: Arguments, products: Products) -> list[tuple[slice, slice, int]]:
    """Slices of rows and of edges, and the edges per row, for pieces of at most about so many floats."""
    tables, width = given.tables, given.hidden.shape[1]
    most = _GPU_CHUNK_FLOATS if given.x.is_cuda else _CHUNK_FLOATS
    chunks, edge = [], 0
    for first, count, per_row in given.plan.buckets:
        floats = (products.floats(slot, tables.fan_in[slot], per_row, width) for slot in tables.targets)
        step = max(1, most // max(floats))
        for start in range(first, first + count, step):
            stop = min(start + step, first + count)
            edges = (stop - start) * per_row
            chunks.append((slice(start, stop), slice(edge, edge + edges), per_row))
            edge += edges
    return chunks
