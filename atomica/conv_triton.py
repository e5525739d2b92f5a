"""The convolution's sums and products as Triton kernels, for GPUs.

One program works on a few receivers. It sums the outer products of coupled neighbour features and radial features
over their edges, tile by tile in registers, and multiplies each tile with its piece of the weights at once; the
backward pass makes the tiles again. No number is added to by two programs, so results do not depend on their order.
A piece is a run of at most 16 channels of one path (see `_Couplings`).

Not yet run on a GPU: the tests run them in Triton's interpreter (TRITON_INTERPRET=1) and compile them for one.

Sizes: R receivers of a program, U channels of a piece, M radial features of a tile, V output channels (padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomica.irreps import COMPONENTS

if TYPE_CHECKING:
    from atomica.conv import Arguments, Gradients, _Couplings

__all__ = ["backward", "forward"]

ROWS, CHANNELS, RADIAL = 16, 16, 16
"""R, U and M; a matrix product of Triton's has at least 16 rows, columns and terms."""
PARTS = 8
"""Parts of the receivers that sum the weights' gradients on their own, to occupy the device."""
GATHER = 128
"""Columns that a program of `_gather` sums."""


# ---------------------------------------------------------------------------------------------- inside a program


@triton.jit
def _edges(first_edge, row, rows):
    """First edge of each receiver and the one after its last; none beyond the last receiver."""
    start = tl.load(first_edge + row, mask=row < rows, other=0)
    return start, tl.load(first_edge + row + 1, mask=row < rows, other=0)


@triton.jit
def _piece(pieces, index):
    """The numbers of one piece, as `_pieces` lists them."""
    at = pieces + index * 6
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)


@triton.jit
def _coupled(
    x,
    senders,
    matrices,
    edge,
    there,
    column,
    stride,
    inner,
    entry,
    count,
    x_width,
    matrix_width,
    U: tl.constexpr,
):
    """[R, U]: component `entry` // inner of one piece's coupled channels, for one edge of each receiver."""
    u = tl.arange(0, U)
    sender = tl.load(senders + edge, mask=there, other=0)
    total = tl.zeros([edge.shape[0], U], tl.float32)
    for i in range(inner):
        factor = tl.load(matrices + edge * matrix_width + entry + i, mask=there, other=0.0)
        features = tl.load(
            x + sender[:, None] * x_width + column + i * stride + u[None, :],
            mask=there[:, None] & (u < count)[None, :],
            other=0.0,
        )
        total += factor[:, None] * features
    return total


@triton.jit
def _radial(hidden, edge, there, m, hidden_width):
    """[R, M]: radial features of one edge of each receiver."""
    return tl.load(
        hidden + edge[:, None] * hidden_width + m[None, :],
        mask=there[:, None] & (m < hidden_width)[None, :],
        other=0.0,
    )


@triton.jit
def _outer(
    x,
    senders,
    matrices,
    hidden,
    start,
    end,
    m,
    column,
    stride,
    inner,
    entry,
    count,
    x_width,
    matrix_width,
    hidden_width,
    U: tl.constexpr,
    M: tl.constexpr,
):
    """[R, U·M]: outer products of one piece and some radial features, summed over each receiver's edges."""
    total = tl.zeros([start.shape[0], U, M], tl.float32)
    for j in range(tl.max(end - start)):
        edge = start + j
        there = edge < end
        coupled = _coupled(
            x, senders, matrices, edge, there, column, stride, inner, entry, count, x_width, matrix_width, U
        )
        total += coupled[:, :, None] * _radial(hidden, edge, there, m, hidden_width)[:, None, :]
    return tl.reshape(total, [start.shape[0], U * M])


@triton.jit
def _places(
    first_channel, count, m_first, hidden_width, channels, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr
):
    """Places [U·M, V] of one tile in a weight [U, n+1, v], and which of them exist."""
    index = tl.arange(0, U * M)
    u, m, v = index // M, m_first + index % M, tl.arange(0, V)
    places = ((first_channel + u) * hidden_width + m)[:, None] * channels + v[None, :]
    there = ((u < count) & (m < hidden_width))[:, None] & (v < channels)[None, :]
    return places, there


# -------------------------------------------------------------------------------------------------- the kernels


@triton.jit
def _forward(
    x,
    senders,
    first_edge,
    matrices,
    hidden,
    weight,
    pieces,
    out,
    rows,
    piece_count,
    x_width,
    matrix_width,
    hidden_width,
    out_width,
    out_column,
    out_stride,
    channels,
    scale,
    R: tl.constexpr,
    U: tl.constexpr,
    M: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One component of one output irrep for R receivers. Grid: receivers / R, components."""
    row, k = tl.program_id(0) * R + tl.arange(0, R), tl.program_id(1)
    start, end = _edges(first_edge, row, rows)
    total = tl.zeros([R, V], tl.float32)
    for index in range(piece_count):
        column, stride, inner, entry, count, channel = _piece(pieces, index)
        for first in range(0, hidden_width, M):
            m = first + tl.arange(0, M)
            outer = _outer(
                x,
                senders,
                matrices,
                hidden,
                start,
                end,
                m,
                column,
                stride,
                inner,
                entry + k * inner,
                count,
                x_width,
                matrix_width,
                hidden_width,
                U,
                M,
            )
            places, there = _places(channel, count, first, hidden_width, channels, U, M, V)
            tile = tl.load(weight + places, mask=there, other=0.0)
            total += tl.dot(outer, tile, input_precision=PRECISION)
    v = tl.arange(0, V)
    tl.store(
        out + row[:, None] * out_width + out_column + k * out_stride + v[None, :],
        total * scale,
        mask=(row < rows)[:, None] & (v < channels)[None, :],
    )


@triton.jit
def _weight_gradient(
    x,
    senders,
    first_edge,
    matrices,
    hidden,
    out_grad,
    pieces,
    into,
    rows,
    components,
    x_width,
    matrix_width,
    hidden_width,
    out_width,
    out_column,
    out_stride,
    channels,
    scale,
    part_rows,
    part_size,
    R: tl.constexpr,
    U: tl.constexpr,
    M: tl.constexpr,
    V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One tile of the gradient of one irrep's weights, from one part of the receivers. Grid: pieces, tiles, parts."""
    column, stride, inner, entry, count, channel = _piece(pieces, tl.program_id(0))
    first, part = tl.program_id(1) * M, tl.program_id(2)
    m, v = first + tl.arange(0, M), tl.arange(0, V)
    total = tl.zeros([U * M, V], tl.float32)
    for row_first in range(part * part_rows, tl.minimum((part + 1) * part_rows, rows), R):
        row = row_first + tl.arange(0, R)
        start, end = _edges(first_edge, row, rows)
        for k in range(components):
            outer = _outer(
                x,
                senders,
                matrices,
                hidden,
                start,
                end,
                m,
                column,
                stride,
                inner,
                entry + k * inner,
                count,
                x_width,
                matrix_width,
                hidden_width,
                U,
                M,
            )
            grad = tl.load(
                out_grad + row[:, None] * out_width + out_column + k * out_stride + v[None, :],
                mask=(row < rows)[:, None] & (v < channels)[None, :],
                other=0.0,
            )
            total += tl.dot(tl.trans(outer), grad, input_precision=PRECISION)
    places, there = _places(channel, count, first, hidden_width, channels, U, M, V)
    tl.store(into + part * part_size + places, total * scale, mask=there)


@triton.jit
def _edge_gradient(
    x,
    senders,
    first_edge,
    matrices,
    hidden,
    weight,
    out_grad,
    pieces,
    x_grad,
    matrix_grad,
    hidden_grad,
    rows,
    piece_count,
    components,
    x_width,
    matrix_width,
    hidden_width,
    out_width,
    out_column,
    out_stride,
    channels,
    scale,
    R: tl.constexpr,
    U: tl.constexpr,
    M: tl.constexpr,
    V: tl.constexpr,
    WANT_Y: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adds one irrep's part of the gradients of features, matrices and radial features, all per edge.

    Grid: receivers / R. A program owns its receivers' edges, and irreps come one after the other.
    """
    row = tl.program_id(0) * R + tl.arange(0, R)
    start, end = _edges(first_edge, row, rows)
    u, v = tl.arange(0, U), tl.arange(0, V)
    for index in range(piece_count):
        column, stride, inner, first_entry, count, channel = _piece(pieces, index)
        for k in range(components):
            entry = first_entry + k * inner
            grad = tl.load(
                out_grad + row[:, None] * out_width + out_column + k * out_stride + v[None, :],
                mask=(row < rows)[:, None] & (v < channels)[None, :],
                other=0.0,
            )
            for first in range(0, hidden_width, M):
                m = first + tl.arange(0, M)
                places, there = _places(channel, count, first, hidden_width, channels, U, M, V)
                tile = tl.load(weight + places, mask=there, other=0.0)
                outer_grad = tl.dot(grad, tl.trans(tile), input_precision=PRECISION) * scale
                outer_grad = tl.reshape(outer_grad, [R, U, M])
                for j in range(tl.max(end - start)):
                    edge = start + j
                    inside = edge < end
                    coupled = _coupled(
                        x,
                        senders,
                        matrices,
                        edge,
                        inside,
                        column,
                        stride,
                        inner,
                        entry,
                        count,
                        x_width,
                        matrix_width,
                        U,
                    )
                    at = hidden_grad + edge[:, None] * hidden_width + m[None, :]
                    own = inside[:, None] & (m < hidden_width)[None, :]
                    more = tl.sum(coupled[:, :, None] * outer_grad, axis=1)
                    tl.store(at, tl.load(at, mask=own, other=0.0) + more, mask=own)
                    radial = _radial(hidden, edge, inside, m, hidden_width)
                    coupled_grad = tl.sum(outer_grad * radial[:, None, :], axis=2)
                    sender = tl.load(senders + edge, mask=inside, other=0)
                    own = inside[:, None] & (u < count)[None, :]
                    for i in range(inner):
                        factor = tl.load(matrices + edge * matrix_width + entry + i, mask=inside, other=0.0)
                        line = column + i * stride + u[None, :]
                        into_x = x_grad + edge[:, None] * x_width + line
                        before = tl.load(into_x, mask=own, other=0.0)
                        tl.store(into_x, before + factor[:, None] * coupled_grad, mask=own)
                        if WANT_Y:
                            features = tl.load(x + sender[:, None] * x_width + line, mask=own, other=0.0)
                            into_matrix = matrix_grad + edge * matrix_width + entry + i
                            sofar = tl.load(into_matrix, mask=inside, other=0.0)
                            tl.store(
                                into_matrix, sofar + tl.sum(coupled_grad * features, axis=1), mask=inside
                            )
                    # what other threads have stored is read in the next round
                    tl.debug_barrier()


@triton.jit
def _gather(values, order, first, out, width, COLUMNS: tl.constexpr):
    """out[n] = Σ values[order[j]] for j from first[n] to first[n + 1]. Grid: rows of `out`, columns / COLUMNS."""
    row, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for j in range(tl.load(first + row), tl.load(first + row + 1)):
        total += tl.load(values + tl.load(order + j) * width + column, mask=column < width, other=0.0)
    tl.store(out + row * width + column, total, mask=column < width)


# -------------------------------------------------------------------------------------------------- the launches


@dataclass(frozen=True)
class _Given:
    """Arguments as the kernels read them; matrices [E, P]: what couples features, of all input degrees in a row."""

    x: Tensor
    senders: Tensor
    first_edge: Tensor
    matrices: Tensor
    hidden: Tensor
    weights: tuple[Tensor, ...]
    pieces: tuple[Tensor, ...]
    rows: int


def _pieces(tables: _Couplings, device: torch.device) -> tuple[Tensor, ...]:
    """For each output irrep a table [pieces, 6], int32.

    First column of the features, columns from one component to the next, components, first entry of the matrices,
    channels, first coupled channel.
    """
    sizes = [count * width for count, width in zip(tables.components, COMPONENTS, strict=True)]
    first = [sum(sizes[:degree]) for degree in range(3)]
    found = []
    for target in tables.targets:
        lines = []
        for path in tables.paths:
            if path.target != target:
                continue
            degree, inputs = path.source.l, tables.inputs
            column = inputs.offsets[degree] + inputs.channel_range(path.source)[0]
            entry = first[degree] + path.first_component * COMPONENTS[degree]
            for start in range(0, path.source.channels, CHANNELS):
                count = min(CHANNELS, path.source.channels - start)
                sizes_ = (inputs.channels[degree], COMPONENTS[degree], entry, count)
                lines.append((column + start, *sizes_, path.first_channel + start))
        found.append(torch.tensor(lines, dtype=torch.int32).to(device))
    return tuple(found)


def _prepare(given: Arguments) -> _Given:
    tables, plan, x, y, hidden, weights = given
    matrices = [matrix.flatten(1) for matrix in tables.matrices(y) if matrix is not None]
    return _Given(
        x=x.detach().contiguous(),
        senders=plan.sender,
        first_edge=plan.first_edge,
        matrices=torch.cat(matrices, dim=1),
        hidden=hidden.detach().contiguous(),
        weights=tuple(weight.detach().contiguous() for weight in weights),
        pieces=_pieces(tables, x.device),
        rows=len(plan.rows),
    )


def _sizes(tables: _Couplings, index: int) -> tuple[tuple[int, int, int, float], dict[str, Any]]:
    """Column, stride, channels and scale of an output irrep, and the sizes that kernels are compiled for."""
    slot = tables.targets[index]
    column = tables.outputs.offsets[slot.l] + tables.outputs.channel_range(slot)[0]
    strict = torch.get_float32_matmul_precision() == "highest"
    fixed = {
        "R": ROWS,
        "U": CHANNELS,
        "M": RADIAL,
        "V": max(16, triton.next_power_of_2(slot.channels)),
        # three products of tensor cores make one that is as good as one of float32
        "PRECISION": "tf32x3" if strict else "tf32",
        "num_warps": 8,
    }
    return (column, tables.outputs.channels[slot.l], slot.channels, tables.scale[slot]), fixed


def forward(given: Arguments) -> Tensor:
    """As `conv.Kernel.forward`, float32 on a GPU."""
    tables, own = given.tables, _prepare(given)
    out = own.x.new_zeros(own.rows, tables.outputs.dim)
    for index, slot in enumerate(tables.targets):
        place, fixed = _sizes(tables, index)
        _forward[triton.cdiv(own.rows, ROWS), COMPONENTS[slot.l]](
            own.x,
            own.senders,
            own.first_edge,
            own.matrices,
            own.hidden,
            own.weights[index],
            own.pieces[index],
            out,
            own.rows,
            len(own.pieces[index]),
            own.x.shape[1],
            own.matrices.shape[1],
            own.hidden.shape[1],
            out.shape[1],
            *place,
            **fixed,
        )
    return out


def backward(given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
    """As `conv.Kernel.backward`, float32 on a GPU."""
    tables, own, grad_out = given.tables, _prepare(given), grad_out.contiguous()
    edges = len(own.senders)
    edge_x, edge_hidden = own.x.new_zeros(edges, own.x.shape[1]), torch.zeros_like(own.hidden)
    edge_matrices = torch.zeros_like(own.matrices) if want_y else own.matrices
    of_weights = []
    part_rows = triton.cdiv(triton.cdiv(own.rows, PARTS), ROWS) * ROWS
    for index, slot in enumerate(tables.targets):
        place, fixed = _sizes(tables, index)
        weight, pieces, components = own.weights[index], own.pieces[index], COMPONENTS[slot.l]
        widths = (own.x.shape[1], own.matrices.shape[1], own.hidden.shape[1], grad_out.shape[1])
        parts = weight.new_zeros(PARTS, *weight.shape)
        _weight_gradient[len(pieces), triton.cdiv(own.hidden.shape[1], RADIAL), PARTS](
            own.x,
            own.senders,
            own.first_edge,
            own.matrices,
            own.hidden,
            grad_out,
            pieces,
            parts,
            own.rows,
            components,
            *widths,
            *place,
            part_rows,
            weight.numel(),
            **fixed,
        )
        of_weights.append(parts.sum(dim=0))
        _edge_gradient[(triton.cdiv(own.rows, ROWS),)](
            own.x,
            own.senders,
            own.first_edge,
            own.matrices,
            own.hidden,
            weight,
            grad_out,
            pieces,
            edge_x,
            edge_matrices,
            edge_hidden,
            own.rows,
            len(pieces),
            components,
            *widths,
            *place,
            WANT_Y=want_y,
            **fixed,
        )
    of_x = torch.zeros_like(own.x)
    order = torch.argsort(own.senders, stable=True)
    first = torch.searchsorted(own.senders[order], torch.arange(len(own.x) + 1, device=own.x.device))
    _gather[len(own.x), triton.cdiv(own.x.shape[1], GATHER)](
        edge_x, order, first, of_x, own.x.shape[1], COLUMNS=GATHER
    )
    return of_x, _harmonics(tables, edge_matrices) if want_y else None, edge_hidden, of_weights


def _harmonics(tables: _Couplings, matrices: Tensor) -> Tensor:
    """Gradients of the matrices [E, P] → of the harmonics [E, 9]."""
    used = [table for table, count in zip(tables.tables(matrices), tables.components, strict=True) if count]
    return matrices @ torch.cat(used, dim=1).t()
