"""The convolution by PyTorch's products on pieces of the graph; the slow twin of the other kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from atomica.data.edges import EdgePlan
from atomica.nn.couplings import Arguments, Couplings, Gradients
from atomica.nn.irreps import COMPONENTS

_CHUNK_FLOATS = 1 << 21
"""Floats of one chunk's outer products (8 MiB in float32): small enough to stay in cache, large enough to
amortise the calls; measured on two CPU cores."""


def fits(x: Tensor) -> bool:
    """As `registry.Kernel.fits`: anywhere."""
    return True


def forward(given: Arguments) -> Tensor:
    """As `registry.Kernel.forward`, in PyTorch's differentiable operations, chunk by chunk."""
    tables, plan, x, y, hidden, weights = given
    chunks = []
    for _, edges, per_row in _chunks(plan, tables, hidden.shape[1]):
        coupled = tables.couple(tables.matrices(y[edges]), x[plan.sender[edges]])
        radial = hidden[edges].unflatten(0, (-1, per_row))
        found = {}
        for slot, weight in zip(tables.targets, weights, strict=True):
            result = _apply(_outer(coupled[slot], radial, per_row), weight) * tables.scale[slot]
            found[slot] = result.unflatten(0, (-1, COMPONENTS[slot.degree]))
        runs = []
        for degree, width in enumerate(COMPONENTS):
            parts = [
                found[slot] if slot in found else x.new_zeros(len(radial), width, slot.channels)
                for slot in tables.outputs.slots
                if slot.degree == degree
            ]
            runs += [torch.cat(parts, dim=2).flatten(1)] if parts else []
        chunks.append(torch.cat(runs, dim=1))
    return torch.cat(chunks) if chunks else x.new_zeros(0, tables.outputs.dim)


def backward(given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
    """As `registry.Kernel.backward`."""
    tables, plan, x, y, hidden, weights = given
    grad_x, grad_hidden = torch.zeros_like(x), torch.zeros_like(hidden)
    grad_y = torch.zeros_like(y) if want_y else None
    grad_weights = [torch.zeros_like(weight) for weight in weights]
    for rows, edges, per_row in _chunks(plan, tables, hidden.shape[1]):
        matrices, neighbors = tables.matrices(y[edges]), x[plan.sender[edges]]
        coupled = tables.couple(matrices, neighbors)
        radial = hidden[edges].unflatten(0, (-1, per_row))
        grad_radial = torch.zeros_like(radial)
        grad_coupled = {}
        for slot, weight, grad_weight in zip(tables.targets, weights, grad_weights, strict=True):
            width = COMPONENTS[slot.degree]
            grad_slot = tables.outputs.view(grad_out[rows], slot).flatten(0, 1) * tables.scale[slot]
            outer = _outer(coupled[slot], radial, per_row)
            grad_weight.flatten(0, 1).addmm_(outer.t(), grad_slot)
            grad_outer = (grad_slot @ weight.flatten(0, 1).t()).view(
                radial.shape[0], width * weight.shape[0], -1
            )
            flat = coupled[slot].view(radial.shape[0], per_row, -1)
            grad_radial.baddbmm_(flat, grad_outer)
            grad_flat = torch.bmm(radial, grad_outer.transpose(1, 2))
            grad_coupled[slot] = grad_flat.view(-1, width, weight.shape[0])
        grad_hidden[edges] = grad_radial.flatten(0, 1)
        grad_neighbors, grad_harmonics = tables.couple_backward(
            matrices, neighbors, grad_coupled, grad_y is not None
        )
        grad_x.index_add_(0, plan.sender[edges], grad_neighbors)
        if grad_y is not None and grad_harmonics is not None:
            grad_y[edges] = grad_harmonics
    return grad_x, grad_y, grad_hidden, grad_weights


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


def _chunks(plan: EdgePlan, tables: Couplings, width: int) -> list[tuple[slice, slice, int]]:
    """Slices of rows and of edges, and the edges per row, for pieces of at most about _CHUNK_FLOATS."""
    largest = max(tables.fan_in[slot] * COMPONENTS[slot.degree] for slot in tables.targets)
    step = max(1, _CHUNK_FLOATS // (largest * width))
    chunks, edge = [], 0
    for first, count, per_row in plan.buckets:
        for start in range(first, first + count, step):
            stop = min(start + step, first + count)
            edges = (stop - start) * per_row
            chunks.append((slice(start, stop), slice(edge, edge + edges), per_row))
            edge += edges
    return chunks
