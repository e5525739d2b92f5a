"""The convolution's sums and products as Triton kernels, for GPUs.

One program works on a few receivers, and on the edges of each of them some at a time. It sums the outer products of
coupled neighbour features and radial features over these edges, tile by tile in registers, and multiplies each tile
with its piece of the weights at once; sum and product are matrix products, done by tensor cores. The backward pass
makes the tiles again. No number is added to by two programs, so results do not depend on their order. A piece is a run
of at most 16 channels of one path (see `Couplings`).

Not yet run on a GPU: the tests run them in Triton's interpreter (TRITON_INTERPRET=1), and compile them for one and look
at the registers that this takes.

Sizes: R receivers of a program, J edges of each of them, U channels of a piece, M radial features of a tile, V output
channels (padded).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomica.nn.irreps import COMPONENTS

if TYPE_CHECKING:
    from atomica.nn.couplings import Arguments, Couplings, Gradients
    from atomica.nn.irreps import IrrepSlot

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    # functions within kernels take tuples
    raise ImportError(f"Triton is {triton.__version__}")

__all__ = ["backward", "fits", "forward"]


CHANNELS = 16
"""U; a matrix product of Triton's has at least 16 terms (up to 3.6; then 8). These are edges, U·M, U or V, of the
gradients of weights receivers, and of those of features radial ones."""
GATHER = 128
"""Columns that a program of `_gather` sums."""
PARTS = 8
"""Parts of the receivers that sum the weights' gradients on their own: with the pieces and the tiles of radial features
of a layer, some 10 by 17, enough programs for the 132 processors of an H100 many times over."""


class _Shape(NamedTuple):
    """R, J and M of a kernel, its warps of 32 threads, and how many rounds of a loop load their numbers ahead.

    A tile of outer products, R·U·M numbers, is held in registers, and split for the tensor cores. A thread has 255
    registers, a processor of an H100 65,536 and 227 KiB of shared memory; with these shapes, and products in three
    parts (tf32x3), each processor has eight warps at a time, in one program or two, and next to nothing is kept on the
    stack. Loading ahead takes registers for the places: too many of them in that last kernel.
    A test compiles the kernels and holds these limits.
    """

    rows: int
    edges: int
    radial: int
    warps: int
    stages: int


FORWARD, WEIGHTS = _Shape(8, 16, 8, 4, 3), _Shape(16, 16, 16, 8, 2)
RADIAL, FEATURES = _Shape(8, 16, 16, 4, 2), _Shape(4, 16, 16, 8, 1)


# ---------------------------------------------------------------------------------------------- inside a program
#
# What belongs together is handed on as a tuple. given: x, senders, matrices, hidden, and the widths of x, matrices and
# hidden. receivers: the first edge of each, and how many there are. irrep, of the output: its pieces, their number,
# components, scale. piece: as `_piece` gives it. place: width of the output, first column, columns from one component
# to the next, channels. Places of edges and receivers are 64-bit: a million edges times their width do not fit into 32.


@triton.jit
def _receivers(first_edge, rows, R: tl.constexpr, program):
    """[R]: a program's receivers, their first edges, and those after their last; no edges beyond the last receiver."""
    row = program * R + tl.arange(0, R).to(tl.int64)
    start = tl.load(first_edge + row, mask=row < rows, other=0)
    return row, start, tl.load(first_edge + row + 1, mask=row < rows, other=0)


@triton.jit
def _piece(pieces, index):
    """The numbers of one piece, as `_pieces` lists them: column, stride, inner, entry, count, channel."""
    at = pieces + index * 6
    return tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5)


@triton.jit
def _features(given, edge, there, piece, i, U: tl.constexpr):
    """Columns [U] of component `i` of a piece, its features [R, U] of one edge's senders, and which of them exist."""
    x, senders, matrices, hidden, x_width, matrix_width, hidden_width = given
    column, stride, inner, entry, count, channel = piece
    u = tl.arange(0, U)
    sender = tl.load(senders + edge, mask=there, other=0)
    columns = column + i * stride + u
    own = there[:, None] & (u < count)[None, :]
    return columns, tl.load(x + sender[:, None] * x_width + columns[None, :], mask=own, other=0.0), own


@triton.jit
def _factor(given, edge, there, piece, k, i):
    """[R]: what component `i` of the features counts in component `k` of the coupled ones; and where that lies."""
    x, senders, matrices, hidden, x_width, matrix_width, hidden_width = given
    column, stride, inner, entry, count, channel = piece
    at = edge * matrix_width + entry + k * inner + i
    return tl.load(matrices + at, mask=there, other=0.0), at


@triton.jit
def _coupled(given, edge, there, piece, k, U: tl.constexpr):
    """[R, U]: component `k` of one piece's coupled channels, for one edge of each receiver."""
    total = tl.zeros([edge.shape[0], U], tl.float32)
    for i in range(piece[2]):
        columns, features, own = _features(given, edge, there, piece, i, U)
        factor, at = _factor(given, edge, there, piece, k, i)
        total += factor[:, None] * features
    return total


@triton.jit
def _edges(start, end, slot, R: tl.constexpr, J: tl.constexpr):
    """[R·J]: the edges of each receiver from its `slot`-th on, and which of them exist."""
    edge = start[:, None] + slot + tl.arange(0, J)[None, :]
    return tl.reshape(edge, [R * J]), tl.reshape(edge < end[:, None], [R * J])


@triton.jit
def _radial(given, edge, there, m):
    """Places [N, M] of radial features of N edges, and which of them exist."""
    hidden_width = given[6]
    return edge[:, None] * hidden_width + m[None, :], there[:, None] & (m < hidden_width)[None, :]


@triton.jit
def _outer(
    given, edge, inside, coupled, m,
    R: tl.constexpr, J: tl.constexpr, U: tl.constexpr, M: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[R, U·M]: outer products of coupled [R·J, U] and radial features, summed over the J edges of each receiver."""
    at, own = _radial(given, edge, inside, m)
    radial = tl.reshape(tl.load(given[3] + at, mask=own, other=0.0), [R, J, M])
    channels = tl.permute(tl.reshape(coupled, [R, J, U]), (0, 2, 1))
    return tl.reshape(tl.dot(channels, radial, input_precision=PRECISION), [R, U * M])


@triton.jit
def _tile(piece, first, hidden_width, channels, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr):
    """Places [U·M, V] of one tile in a weight [U, n+1, v], and which of them exist."""
    column, stride, inner, entry, count, channel = piece
    index = tl.arange(0, U * M)
    u, m, v = index // M, first + index % M, tl.arange(0, V)
    places = ((channel + u) * hidden_width + m)[:, None] * channels + v[None, :]
    there = ((u < count) & (m < hidden_width))[:, None] & (v < channels)[None, :]
    return places, there


@triton.jit
def _out(row, rows, k, place, V: tl.constexpr):
    """Places [R, V] of component `k` of an irrep in the output, and which of them exist."""
    width, column, stride, channels = place
    v = tl.arange(0, V)
    return (
        row[:, None] * width + column + k * stride + v[None, :],
        (row < rows)[:, None] & (v < channels)[None, :],
    )


# -------------------------------------------------------------------------------------------------- the kernels


@triton.jit
def _forward(
    given, receivers, irrep, place, weight, out,
    R: tl.constexpr, J: tl.constexpr, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One component of one output irrep for R receivers. Grid: receivers / R, components."""
    first_edge, rows = receivers
    pieces, piece_count, components, scale = irrep
    hidden_width, channels = given[6], place[3]
    row, start, end = _receivers(first_edge, rows, R, tl.program_id(0))
    k = tl.program_id(1)
    total = tl.zeros([R, V], tl.float32)
    for slot in range(0, tl.max(end - start), J):
        edge, inside = _edges(start, end, slot, R, J)
        for index in range(piece_count):
            piece = _piece(pieces, index)
            coupled = _coupled(given, edge, inside, piece, k, U)
            for first in range(0, hidden_width, M):
                outer = _outer(given, edge, inside, coupled, first + tl.arange(0, M), R, J, U, M, PRECISION)
                places, there = _tile(piece, first, hidden_width, channels, U, M, V)
                tile = tl.load(weight + places, mask=there, other=0.0)
                total = tl.dot(outer, tile, total, input_precision=PRECISION)
    at, own = _out(row, rows, k, place, V)
    tl.store(out + at, total * scale, mask=own)


@triton.jit
def _weight_gradient(
    given, receivers, irrep, place, out_grad, into, part_programs, part_size,
    R: tl.constexpr, J: tl.constexpr, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the gradient of one irrep's weights, from one part of the receivers. Grid: pieces, tiles, parts."""
    first_edge, rows = receivers
    pieces, piece_count, components, scale = irrep
    hidden_width, channels = given[6], place[3]
    piece = _piece(pieces, tl.program_id(0))
    first, part = tl.program_id(1) * M, tl.program_id(2)
    total = tl.zeros([U * M, V], tl.float32)
    for program in range(part * part_programs, tl.minimum((part + 1) * part_programs, tl.cdiv(rows, R))):
        row, start, end = _receivers(first_edge, rows, R, program)
        for slot in range(0, tl.max(end - start), J):
            edge, inside = _edges(start, end, slot, R, J)
            for k in range(components):
                coupled = _coupled(given, edge, inside, piece, k, U)
                outer = _outer(given, edge, inside, coupled, first + tl.arange(0, M), R, J, U, M, PRECISION)
                at, own = _out(row, rows, k, place, V)
                grad = tl.load(out_grad + at, mask=own, other=0.0)
                total = tl.dot(tl.trans(outer), grad, total, input_precision=PRECISION)
    places, there = _tile(piece, first, hidden_width, channels, U, M, V)
    tl.store(into + part.to(tl.int64) * part_size + places, total * scale, mask=there)


@triton.jit
def _outer_gradient(
    grad, piece, first, hidden_width, channels, weight,
    U: tl.constexpr, M: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[R, U, M]: the gradient of what `_outer` gives, but for the scale, from that of the output [R, V]."""
    places, there = _tile(piece, first, hidden_width, channels, U, M, V)
    tile = tl.load(weight + places, mask=there, other=0.0)
    return tl.reshape(tl.dot(grad, tl.trans(tile), input_precision=PRECISION), [grad.shape[0], U, M])


@triton.jit
def _radial_gradient(
    given, receivers, irrep, place, weight, out_grad, hidden_grad,
    R: tl.constexpr, J: tl.constexpr, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds one irrep's part of the gradients of radial features. Grid: receivers / R, tiles."""
    first_edge, rows = receivers
    pieces, piece_count, components, scale = irrep
    hidden_width, channels = given[6], place[3]
    row, start, end = _receivers(first_edge, rows, R, tl.program_id(0))
    first = tl.program_id(1) * M
    for slot in range(0, tl.max(end - start), J):
        edge, inside = _edges(start, end, slot, R, J)
        total = tl.zeros([R, J, M], tl.float32)
        for index in range(piece_count):
            piece = _piece(pieces, index)
            for k in range(components):
                at, own = _out(row, rows, k, place, V)
                grad = tl.load(out_grad + at, mask=own, other=0.0)
                outer_grad = _outer_gradient(
                    grad, piece, first, hidden_width, channels, weight, U, M, V, PRECISION
                )
                coupled = tl.reshape(_coupled(given, edge, inside, piece, k, U), [R, J, U])
                total = tl.dot(coupled, outer_grad, total, input_precision=PRECISION)
        at, own = _radial(given, edge, inside, first + tl.arange(0, M))
        before = tl.load(hidden_grad + at, mask=own, other=0.0)
        tl.store(hidden_grad + at, before + tl.reshape(total, [R * J, M]) * scale, mask=own)


@triton.jit
def _feature_gradient(
    given, receivers, irrep, place, weight, out_grad, x_grad, matrix_grad,
    R: tl.constexpr, J: tl.constexpr, U: tl.constexpr, M: tl.constexpr, V: tl.constexpr, WANT_Y: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds one irrep's part of the gradients of features and matrices, all per edge. Grid: receivers / R.

    A program owns its receivers' edges, and irreps come one after the other.
    """
    first_edge, rows = receivers
    pieces, piece_count, components, scale = irrep
    x_width, hidden_width, channels = given[4], given[6], place[3]
    row, start, end = _receivers(first_edge, rows, R, tl.program_id(0))
    for slot in range(0, tl.max(end - start), J):
        edge, inside = _edges(start, end, slot, R, J)
        for index in range(piece_count):
            piece = _piece(pieces, index)
            for k in range(components):
                at_out, own_out = _out(row, rows, k, place, V)
                grad = tl.load(out_grad + at_out, mask=own_out, other=0.0)
                total = tl.zeros([R, J, U], tl.float32)
                for first in range(0, hidden_width, M):
                    outer_grad = _outer_gradient(
                        grad, piece, first, hidden_width, channels, weight, U, M, V, PRECISION
                    )
                    at, own = _radial(given, edge, inside, first + tl.arange(0, M))
                    radial = tl.reshape(tl.load(given[3] + at, mask=own, other=0.0), [R, J, M])
                    total = tl.dot(
                        radial, tl.permute(outer_grad, (0, 2, 1)), total, input_precision=PRECISION
                    )
                coupled_grad = tl.reshape(total, [R * J, U]) * scale
                for i in range(piece[2]):
                    columns, features, own_x = _features(given, edge, inside, piece, i, U)
                    factor, at_factor = _factor(given, edge, inside, piece, k, i)
                    into_x = x_grad + edge[:, None] * x_width + columns[None, :]
                    before = tl.load(into_x, mask=own_x, other=0.0)
                    tl.store(into_x, before + factor[:, None] * coupled_grad, mask=own_x)
                    if WANT_Y:
                        of_factor = tl.load(matrix_grad + at_factor, mask=inside, other=0.0)
                        of_factor += tl.sum(coupled_grad * features, axis=1)
                        tl.store(matrix_grad + at_factor, of_factor, mask=inside)
                # what other threads have stored is read in the next round
                tl.debug_barrier()


@triton.jit
def _gather(values, order, first, out, width, COLUMNS: tl.constexpr):
    """out[n] = Σ values[order[j]] for j from first[n] to first[n + 1]. Grid: rows of `out`, columns / COLUMNS."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for j in range(tl.load(first + row), tl.load(first + row + 1)):
        total += tl.load(values + tl.load(order + j) * width + column, mask=column < width, other=0.0)
    tl.store(out + row * width + column, total, mask=column < width)


# -------------------------------------------------------------------------------------------------- the launches


@dataclass(frozen=True)
class _Given:
    """Arguments as the kernels read them; matrices [E, P]: what couples features, of all input degrees in a row."""

    tables: Couplings
    x: Tensor
    senders: Tensor
    first_edge: Tensor
    matrices: Tensor
    hidden: Tensor
    weights: tuple[Tensor, ...]
    rows: int

    @cached_property
    def widths(self) -> tuple[int, int, int]:
        """Columns of x, matrices and hidden."""
        return self.x.shape[1], self.matrices.shape[1], self.hidden.shape[1]

    def arguments(self, index: int, shape: _Shape) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What all kernels get for output irrep `index`: their first arguments, and the sizes they are compiled for."""
        tables, slot = self.tables, self.tables.targets[index]
        pieces, columns = _pieces(tables, self.x.device)[index], tables.outputs
        first = columns.offsets[slot.degree] + columns.channel_range(slot)[0]
        given = (self.x, self.senders, self.matrices, self.hidden, *self.widths)
        irrep = (pieces, len(pieces), COMPONENTS[slot.degree], tables.scale[slot])
        place = (columns.dim, first, columns.channels[slot.degree], slot.channels)
        strict = torch.get_float32_matmul_precision() == "highest"
        fixed = {
            "R": shape.rows,
            "J": shape.edges,
            "U": CHANNELS,
            "M": shape.radial,
            "V": max(16, triton.next_power_of_2(slot.channels)),
            # three products of tensor cores make one that is as good as one of float32
            "PRECISION": "tf32x3" if strict else "tf32",
            "num_warps": shape.warps,
            "num_stages": shape.stages,
        }
        return (given, (self.first_edge, self.rows), irrep, place), fixed


_PIECES: WeakKeyDictionary[Couplings, dict[torch.device, tuple[Tensor, ...]]] = WeakKeyDictionary()


def _pieces(tables: Couplings, device: torch.device) -> tuple[Tensor, ...]:
    """For each output irrep a table [pieces, 6], int32; made once for a convolution and a device.

    First column of the features, columns from one component to the next, components, first entry of the matrices,
    channels, first coupled channel.
    """
    made = _PIECES.setdefault(tables, {})
    if device not in made:
        made[device] = tuple(
            torch.tensor(_lines(tables, target), dtype=torch.int32).to(device) for target in tables.targets
        )
    return made[device]


def _lines(tables: Couplings, target: IrrepSlot) -> list[tuple[int, ...]]:
    """The pieces of one output irrep."""
    sizes = [count * width for count, width in zip(tables.components, COMPONENTS, strict=True)]
    lines: list[tuple[int, ...]] = []
    for path in tables.paths:
        if path.target != target:
            continue
        degree, inputs = path.source.degree, tables.inputs
        column = inputs.offsets[degree] + inputs.channel_range(path.source)[0]
        entry = sum(sizes[:degree]) + path.first_component * COMPONENTS[degree]
        for start in range(0, path.source.channels, CHANNELS):
            count = min(CHANNELS, path.source.channels - start)
            sizes_ = (inputs.channels[degree], COMPONENTS[degree], entry, count)
            lines.append((column + start, *sizes_, path.first_channel + start))
    return lines


def _prepare(given: Arguments) -> _Given:
    tables, plan, x, y, hidden, weights = given
    matrices = [matrix.flatten(1) for matrix in tables.matrices(y) if matrix is not None]
    return _Given(
        tables=tables,
        x=x.detach().contiguous(),
        senders=plan.sender,
        first_edge=plan.first_edge,
        matrices=torch.cat(matrices, dim=1),
        hidden=hidden.detach().contiguous(),
        weights=tuple(weight.detach().contiguous() for weight in weights),
        rows=len(plan.rows),
    )


def fits(x: Tensor) -> bool:
    """As `registry.Kernel.fits`: float32 on a GPU, or in Triton's interpreter."""
    return x.dtype == torch.float32 and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


def forward(given: Arguments) -> Tensor:
    """As `registry.Kernel.forward`."""
    tables, own = given.tables, _prepare(given)
    out = own.x.new_zeros(own.rows, tables.outputs.dim)
    for index, slot in enumerate(tables.targets):
        first, fixed = own.arguments(index, FORWARD)
        grid = (triton.cdiv(own.rows, FORWARD.rows), COMPONENTS[slot.degree])
        _forward[grid](*first, own.weights[index], out, **fixed)
    return out


def backward(given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
    """As `registry.Kernel.backward`."""
    tables, own, grad_out = given.tables, _prepare(given), grad_out.contiguous()
    edge_x, edge_hidden = own.x.new_zeros(len(own.senders), own.x.shape[1]), torch.zeros_like(own.hidden)
    edge_matrices = torch.zeros_like(own.matrices) if want_y else own.matrices
    of_weights = []
    part_programs = triton.cdiv(triton.cdiv(own.rows, WEIGHTS.rows), PARTS)
    for index, weight in enumerate(own.weights):
        first, fixed = own.arguments(index, WEIGHTS)
        parts = weight.new_zeros(PARTS, *weight.shape)
        pieces, tiles = len(_pieces(tables, own.x.device)[index]), triton.cdiv(own.widths[2], WEIGHTS.radial)
        _weight_gradient[pieces, tiles, PARTS](
            *first, grad_out, parts, part_programs, weight.numel(), **fixed
        )
        of_weights.append(parts.sum(dim=0))
        first, fixed = own.arguments(index, RADIAL)
        _radial_gradient[triton.cdiv(own.rows, RADIAL.rows), triton.cdiv(own.widths[2], RADIAL.radial)](
            *first, weight, grad_out, edge_hidden, **fixed
        )
        first, fixed = own.arguments(index, FEATURES)
        _feature_gradient[(triton.cdiv(own.rows, FEATURES.rows),)](
            *first, weight, grad_out, edge_x, edge_matrices, WANT_Y=want_y, **fixed
        )
    of_x = torch.zeros_like(own.x)
    order = torch.argsort(own.senders, stable=True)
    start = torch.searchsorted(own.senders[order], torch.arange(len(own.x) + 1, device=own.x.device))
    _gather[len(own.x), triton.cdiv(own.x.shape[1], GATHER)](
        edge_x, order, start, of_x, own.x.shape[1], COLUMNS=GATHER
    )
    return of_x, _harmonics(tables, edge_matrices) if want_y else None, edge_hidden, of_weights


def _harmonics(tables: Couplings, matrices: Tensor) -> Tensor:
    """Gradients of the matrices [E, P] → of the harmonics [E, 9]."""
    used = [table for table, count in zip(tables.tables(matrices), tables.components, strict=True) if count]
    return matrices @ torch.cat(used, dim=1).t()
