"""Convolutions on GPUs: products edge by edge in Triton kernels where those are less work, else PyTorch's sums.

What an edge gives to component k and channel v of its receiver is Σ_u C[k, u] Σ_m H[m] W[u, m, v], with coupled
features C and radial ones H. A program makes the inner sum, a matrix product done by tensor cores, for some edges and
some coupled channels at a time, and uses it up at once: nothing with an entry for each edge and weight is ever stored.
The backward pass makes it again. No number is added to by two programs, so results do not depend on their order.

For outputs of degree 0 (k = 1), and for receivers of many edges, the sum over edges first is less work (`pytorch`).

In float32 proper each product is three of the tensor cores', of what their 11 bits hold of each number and of what is
left of it (Ootomo & Yokota 2022); where tf32 or bfloat16 is allowed, one.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import triton
import triton.language as tl
from torch import Tensor

from atomica.data.edges import EdgePlan
from atomica.nn.couplings import Arguments, Couplings, Gradients
from atomica.nn.irreps import COMPONENTS, IrrepSlot
from atomica.nn.kernels import pytorch

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    # functions within kernels take tuples
    raise ImportError(f"Triton is {triton.__version__}")

__all__ = ["backward", "fits", "forward"]


GATHER = 128
"""Columns that a program of `_gather` sums."""
CHANNELS, COUPLE = 16, 64
"""Channels of a piece of features, and edges of a program that couples them."""
MEASURED = (9, 0)
"""Compute capability of the GPUs (H100, H200) that `auto` uses these kernels on: no other has run them."""
MOST_RADIAL = 128
"""Radial features n that a program holds at most."""
MOST_EDGES = 48
"""Edges per receiver beyond which the sums over them come first."""
PARTS = 32
"""Parts of the edges that sum the weights' gradients on their own; with some 5 to 28 programs for each enough to keep
the 132 processors of an H100 busy."""
LEAST_CHANNELS, MOST_CHANNELS = 8, 32
"""Output channels below which they do, since a product of tensor cores has sixteen columns; and beyond which they do,
since a program holds a number for each of them, edge and component."""


class _Shape(NamedTuple):
    """A kernel's edges of a program, columns of a product (coupled channels times output ones), warps, stages."""

    edges: int
    columns: int
    warps: int
    stages: int


FORWARD, COUPLED = _Shape(128, 64, 8, 2), _Shape(128, 64, 8, 1)
HIDDEN, WEIGHTS = _Shape(64, 32, 4, 3), _Shape(32, 64, 4, 2)
"""What was fastest on an H100 (`python -m tests.gpu --parts tune`), of whose shared memory they take up to 224 KiB."""
SMALL = _Shape(64, 32, 4, 2)
"""For processors with less, of at least 96 KiB; not tuned."""


# ---------------------------------------------------------------------------------------------- inside a program
#
# E edges of a program, C columns (a coupled channel and an output channel), V output channels, M radial features: all
# padded. sizes: edges, coupled channels U, radial features n, output channels v. Places are 64-bit: a million edges
# times their width do not fit into 32.


@triton.jit
def _rounded(x):
    """The nearest number of tf32, which has 11 bits: what tensor cores read of it, without their cutting it off."""
    return ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def _times(one, other, total, STRICT: tl.constexpr):
    """total + one · other."""
    first, second = _rounded(one), _rounded(other)
    if STRICT:
        # on their own first: tensor cores cut off what they add up, which over a long sum is more than float32 loses
        part = tl.dot(_rounded(one - first), second, input_precision="tf32")
        part = tl.dot(first, _rounded(other - second), part, input_precision="tf32")
        total += tl.dot(first, second, part, input_precision="tf32")
    else:
        total = tl.dot(first, second, total, input_precision="tf32")
    return total


@triton.jit
def _edges(sizes, program, E: tl.constexpr):
    """[E]: a program's edges, and which of them exist."""
    edge = program * E + tl.arange(0, E).to(tl.int64)
    return edge, edge < sizes[0]


@triton.jit
def _line(lines, index):
    """The numbers of one piece, as `_Tables` lists them."""
    at = lines + index * 9
    column, stride, inner, entry = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    count, channel, components = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
    return column, stride, inner, entry, count, channel, components, tl.load(at + 7), tl.load(at + 8)


@triton.jit
def _radial(hidden, sizes, edge, there, M: tl.constexpr):
    """Radial features [E, M], and the last, which carries the bias, [E]."""
    n, m = sizes[2], tl.arange(0, M)
    at = edge[:, None] * (n + 1) + m[None, :]
    features = tl.load(hidden + at, mask=there[:, None] & (m < n)[None, :], other=0.0)
    return features, tl.load(hidden + edge * (n + 1) + n, mask=there, other=0.0)


@triton.jit
def _columns(sizes, first, C: tl.constexpr, V: tl.constexpr):
    """[C]: coupled channel and output channel of each column from coupled channel `first` on, and which exist."""
    column = tl.arange(0, C)
    u, v = first + column // V, column % V
    return u, v, (u < sizes[1]) & (v < sizes[3])


@triton.jit
def _weights(weight, sizes, first, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr):
    """Weights [M, C], and those of the bias [C]."""
    u, v, own = _columns(sizes, first, C, V)
    n, channels, m = sizes[2], sizes[3], tl.arange(0, M)
    at = (u[None, :] * (n + 1) + m[:, None]) * channels + v[None, :]
    tile = tl.load(weight + at, mask=own[None, :] & (m < n)[:, None], other=0.0)
    return tile, tl.load(weight + (u * (n + 1) + n) * channels + v, mask=own, other=0.0)


@triton.jit
def _coupled(coupled, sizes, edge, there, first, k, K: tl.constexpr, UB: tl.constexpr):
    """Component k of UB coupled channels [E, UB]."""
    u = first + tl.arange(0, UB)
    at = (edge * K + k)[:, None] * sizes[1] + u[None, :]
    own = there[:, None] & (u < sizes[1])[None, :]
    return tl.load(coupled + at, mask=own, other=0.0)


@triton.jit
def _gradient(grad, sizes, edge, there, per_row, k, K: tl.constexpr, V: tl.constexpr):
    """Gradient [E, V] of component k of the edges' receivers."""
    v = tl.arange(0, V)
    at = ((edge // per_row) * K + k)[:, None] * sizes[3] + v[None, :]
    return tl.load(grad + at, mask=there[:, None] & (v < sizes[3])[None, :], other=0.0)


@triton.jit
def _share(coupled, sizes, edge, there, first, k, product, K: tl.constexpr, UB: tl.constexpr):
    """[E, V]: what coupled channels, component k, make of the product [E, UB, V]."""
    factor = _coupled(coupled, sizes, edge, there, first, k, K, UB)
    return tl.sum(factor[:, :, None] * product, axis=1)


@triton.jit
def _store_share(out, sizes, edge, there, k, share, K: tl.constexpr, V: tl.constexpr):
    v = tl.arange(0, V)
    at = (edge * K + k)[:, None] * sizes[3] + v[None, :]
    tl.store(out + at, share, mask=there[:, None] & (v < sizes[3])[None, :])


@triton.jit
def _product_gradient(
    coupled, grad, sizes, edge, there, per_row, first,
    K: tl.constexpr, C: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """[E, C]: the gradient of the product. Its numbers are loaded anew each time: kept, they would fill registers."""
    E: tl.constexpr = edge.shape[0]
    UB: tl.constexpr = C // V
    total = tl.zeros([E, UB, V], tl.float32)
    for k in tl.static_range(K):
        of_share = _gradient(grad, sizes, edge, there, per_row, k, K, V)
        total += _coupled(coupled, sizes, edge, there, first, k, K, UB)[:, :, None] * of_share[:, None, :]
    return tl.reshape(total, [E, C])


# -------------------------------------------------------------------------------------------------- the kernels


@triton.jit
def _forward(
    coupled, hidden, weight, out, sizes,
    K: tl.constexpr, E: tl.constexpr, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, STRICT: tl.constexpr,
):  # fmt: skip
    """What E edges give to their receivers: out [edges, k, v]. Grid: edges / E."""
    UB: tl.constexpr = C // V
    edge, there = _edges(sizes, tl.program_id(0), E)
    radial, last = _radial(hidden, sizes, edge, there, M)
    s0 = tl.zeros([E, V], tl.float32)
    s1, s2, s3, s4 = s0, s0, s0, s0
    for first in range(0, sizes[1], UB):
        tile, bias = _weights(weight, sizes, first, C, M, V)
        product = _times(radial, tile, last[:, None] * bias[None, :], STRICT)
        product = tl.reshape(product, [E, UB, V])
        s0 += _share(coupled, sizes, edge, there, first, 0, product, K, UB)
        s1 += _share(coupled, sizes, edge, there, first, 1, product, K, UB)
        s2 += _share(coupled, sizes, edge, there, first, 2, product, K, UB)
        if K == 5:
            s3 += _share(coupled, sizes, edge, there, first, 3, product, K, UB)
            s4 += _share(coupled, sizes, edge, there, first, 4, product, K, UB)
    _store_share(out, sizes, edge, there, 0, s0, K, V)
    _store_share(out, sizes, edge, there, 1, s1, K, V)
    _store_share(out, sizes, edge, there, 2, s2, K, V)
    if K == 5:
        _store_share(out, sizes, edge, there, 3, s3, K, V)
        _store_share(out, sizes, edge, there, 4, s4, K, V)


@triton.jit
def _coupled_gradient(
    coupled_grad, hidden, weight, grad, sizes, per_row,
    K: tl.constexpr, E: tl.constexpr, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, STRICT: tl.constexpr,
):  # fmt: skip
    """The gradient of coupled features [edges, k, U]. Grid: edges / E."""
    UB: tl.constexpr = C // V
    edge, there = _edges(sizes, tl.program_id(0), E)
    radial, last = _radial(hidden, sizes, edge, there, M)
    for first in range(0, sizes[1], UB):
        tile, bias = _weights(weight, sizes, first, C, M, V)
        product = _times(radial, tile, last[:, None] * bias[None, :], STRICT)
        product = tl.reshape(product, [E, UB, V])
        u = first + tl.arange(0, UB)
        for k in tl.static_range(K):
            of_share = _gradient(grad, sizes, edge, there, per_row, k, K, V)
            at = (edge * K + k)[:, None] * sizes[1] + u[None, :]
            of_coupled = tl.sum(product * of_share[:, None, :], axis=2)
            tl.store(coupled_grad + at, of_coupled, mask=there[:, None] & (u < sizes[1])[None, :])


@triton.jit
def _hidden_gradient(
    coupled, weight, grad, hidden_grad, sizes, per_row,
    K: tl.constexpr, E: tl.constexpr, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, STRICT: tl.constexpr,
):  # fmt: skip
    """Adds one irrep's part to the gradient of radial features [edges, n+1]. Grid: edges / E."""
    UB: tl.constexpr = C // V
    edge, there = _edges(sizes, tl.program_id(0), E)
    total = tl.zeros([E, M], tl.float32)
    last = tl.zeros([E], tl.float32)
    for first in range(0, sizes[1], UB):
        tile, bias = _weights(weight, sizes, first, C, M, V)
        of_product = _product_gradient(coupled, grad, sizes, edge, there, per_row, first, K, C, V)
        total = _times(of_product, tl.trans(tile), total, STRICT)
        last += tl.sum(of_product * bias[None, :], axis=1)
    n, m = sizes[2], tl.arange(0, M)
    at, own = hidden_grad + edge[:, None] * (n + 1) + m[None, :], there[:, None] & (m < n)[None, :]
    tl.store(at, tl.load(at, mask=own, other=0.0) + total, mask=own)
    at_last = hidden_grad + edge * (n + 1) + n
    tl.store(at_last, tl.load(at_last, mask=there, other=0.0) + last, mask=there)


@triton.jit
def _weight_gradient(
    coupled, hidden, grad, into, sizes, per_row, part_tiles,
    K: tl.constexpr, E: tl.constexpr, C: tl.constexpr, M: tl.constexpr, V: tl.constexpr, STRICT: tl.constexpr,
):  # fmt: skip
    """The gradient of the weights of some coupled channels, from a part of the edges. Grid: U / UB, parts."""
    UB: tl.constexpr = C // V
    first, part = tl.program_id(0) * UB, tl.program_id(1)
    total = tl.zeros([M, C], tl.float32)
    of_bias = tl.zeros([C], tl.float32)
    for program in range(part * part_tiles, tl.minimum((part + 1) * part_tiles, tl.cdiv(sizes[0], E))):
        edge, there = _edges(sizes, program, E)
        of_product = _product_gradient(coupled, grad, sizes, edge, there, per_row, first, K, C, V)
        radial, last = _radial(hidden, sizes, edge, there, M)
        total = _times(tl.trans(radial), of_product, total, STRICT)
        of_bias += tl.sum(of_product * last[:, None], axis=0)
    u, v, own = _columns(sizes, first, C, V)
    n, channels, m = sizes[2], sizes[3], tl.arange(0, M)
    into += part.to(tl.int64) * (sizes[1] * (n + 1) * channels)
    at = (u[None, :] * (n + 1) + m[:, None]) * channels + v[None, :]
    tl.store(into + at, total, mask=own[None, :] & (m < n)[:, None])
    tl.store(into + (u * (n + 1) + n) * channels + v, of_bias, mask=own)


@triton.jit
def _couple(
    x, sender, matrices, lines, out, sizes,
    E: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """One piece of the coupled features, from x [senders, D] and matrices [edges, P]. Grid: edges / E, pieces."""
    edges, x_width, matrix_width = sizes
    edge, there = _edges(sizes, tl.program_id(0), E)
    column, stride, inner, entry, count, channel, components, fan_in, base = _line(lines, tl.program_id(1))
    u = tl.arange(0, U)
    own = there[:, None] & (u < count)[None, :]
    from_x = x + (tl.load(sender + edge, mask=there, other=0) * x_width)[:, None] + (column + u)[None, :]
    into = out + base.to(tl.int64) * edges + (edge * components * fan_in)[:, None] + (channel + u)[None, :]
    for k in range(components):
        total = tl.zeros([E, U], tl.float32)
        for i in range(inner):
            factor = tl.load(matrices + edge * matrix_width + entry + k * inner + i, mask=there, other=0.0)
            total += factor[:, None] * tl.load(from_x + i * stride, mask=own, other=0.0)
        tl.store(into + k * fan_in, total, mask=own)


@triton.jit
def _couple_gradient(
    x_grad, matrices, starts, lines, grad, sizes,
    E: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """The gradient of some channels of the edges' features: x_grad [edges, D]. Grid: edges / E, pieces of features."""
    edges, x_width, matrix_width = sizes
    edge, there = _edges(sizes, tl.program_id(0), E)
    at = starts + tl.program_id(1) * 6
    own_column, own_stride, own_inner, own_count = (
        tl.load(at),
        tl.load(at + 1),
        tl.load(at + 2),
        tl.load(at + 3),
    )
    first, last = tl.load(at + 4), tl.load(at + 5)
    u = tl.arange(0, U)
    own = there[:, None] & (u < own_count)[None, :]
    into = x_grad + (edge * x_width)[:, None] + (own_column + u)[None, :]
    for i in range(own_inner):
        total = tl.zeros([E, U], tl.float32)
        for index in range(first, last):
            column, stride, inner, entry, count, channel, components, fan_in, base = _line(lines, index)
            of = (
                grad
                + base.to(tl.int64) * edges
                + (edge * components * fan_in)[:, None]
                + (channel + u)[None, :]
            )
            for k in range(components):
                place = matrices + edge * matrix_width + entry + k * inner + i
                factor = tl.load(place, mask=there, other=0.0)
                total += factor[:, None] * tl.load(of + k * fan_in, mask=own, other=0.0)
        tl.store(into + i * own_stride, total, mask=own)


@triton.jit
def _gather(values, order, first, out, width, COLUMNS: tl.constexpr):
    """out[n] = Σ values[order[j]] for j from first[n] to first[n + 1]. Grid: rows of `out`, columns / COLUMNS."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for j in range(tl.load(first + row), tl.load(first + row + 1)):
        total += tl.load(values + tl.load(order + j) * width + column, mask=column < width, other=0.0)
    tl.store(out + row * width + column, total, mask=column < width)


# -------------------------------------------------------------------------------------------------- the launches


class _Tables:
    """What is coupled with what, for the kernels; made once for a convolution and a device.

    lines [pieces, 9]: of each piece (at most `CHANNELS` channels of one path) the first column of the features, columns
    from one component to the next, components, first entry of the matrices, channels, first coupled channel, components
    and coupled channels of the output irrep, and the floats for an edge that lie before it. starts [pieces of features,
    6]: first column, step, components, channels, first and last line; lines are in that order. matrices [harmonics, P]:
    from harmonics to what couples features, of all degrees in a row.
    """

    def __init__(self, tables: Couplings, like: Tensor) -> None:
        sizes = [count * width for count, width in zip(tables.components, COMPONENTS, strict=True)]
        self.bases, before = {}, 0
        for slot in tables.targets:
            self.bases[slot] = before
            before += COMPONENTS[slot.degree] * tables.fan_in[slot]
        self.floats = before
        lines: list[tuple[int, ...]] = []
        starts: list[tuple[int, ...]] = []
        inputs = tables.inputs
        for source in inputs.slots:
            degree, (begin, end) = source.degree, inputs.channel_range(source)
            of_source = (inputs.channels[degree], COMPONENTS[degree])
            for start in range(0, end - begin, CHANNELS):
                column, count, first = (
                    inputs.offsets[degree] + begin + start,
                    min(CHANNELS, end - begin - start),
                    len(lines),
                )
                for path in tables.paths:
                    if path.source == source and path.target in self.bases:
                        target = path.target
                        entry = sum(sizes[:degree]) + path.first_component * COMPONENTS[degree]
                        of_target = (COMPONENTS[target.degree], tables.fan_in[target], self.bases[target])
                        lines.append(
                            (column, *of_source, entry, count, path.first_channel + start, *of_target)
                        )
                starts.append((column, *of_source, count, first, len(lines)))
        self.lines, self.starts = (
            torch.tensor(one, dtype=torch.int32).to(like.device) for one in (lines, starts)
        )
        used = [table for table, count in zip(tables.tables(like), tables.components, strict=True) if count]
        self.matrices = torch.cat(used, dim=1)


_MADE: WeakKeyDictionary[Couplings, dict[torch.device, _Tables]] = WeakKeyDictionary()


def _tables(tables: Couplings, like: Tensor) -> _Tables:
    made = _MADE.setdefault(tables, {})
    if like.device not in made:
        made[like.device] = _Tables(tables, like)
    return made[like.device]


class _Products(pytorch.Products):
    """Edge by edge where that is less work. precise: in float32 proper."""

    def __init__(self, precise: bool) -> None:
        self.precise = precise

    def couple(self, given: Arguments, edges: slice) -> tuple[dict[IrrepSlot, Tensor], Any]:
        """As `pytorch.Products.couple`."""
        own, count, sender = (
            _tables(given.tables, given.x),
            edges.stop - edges.start,
            given.plan.sender[edges],
        )
        coupled, matrices = self.space(given, count), given.y[edges] @ own.matrices
        sizes, grid = (
            (count, given.x.shape[1], matrices.shape[1]),
            (triton.cdiv(count, COUPLE), len(own.lines)),
        )
        if coupled:
            whole = next(iter(coupled.values()))
            _couple[grid](given.x, sender, matrices, own.lines, whole, sizes, E=COUPLE, U=CHANNELS)
        return coupled, matrices

    def couple_backward(
        self, given: Arguments, edges: slice, kept: Any, grads: dict[IrrepSlot, Tensor], want_y: bool
    ) -> tuple[Tensor, Tensor | None]:
        """As `pytorch.Products.couple_backward`, which does it where the harmonics' gradient is wanted."""
        if want_y or not grads:
            tables, plan, x, y = given[:4]
            kept = tables.matrices(y[edges]), x[plan.sender[edges]]
            return super().couple_backward(given, edges, kept, grads, want_y)
        own, count, x = _tables(given.tables, given.x), edges.stop - edges.start, given.x
        matrices, of_x = kept, x.new_empty(count, x.shape[1])
        sizes, grid = (count, x.shape[1], matrices.shape[1]), (triton.cdiv(count, COUPLE), len(own.starts))
        whole = next(iter(grads.values()))
        _couple_gradient[grid](of_x, matrices, own.starts, own.lines, whole, sizes, E=COUPLE, U=CHANNELS)
        return of_x, None

    def space(self, given: Arguments, edges: int) -> dict[IrrepSlot, Tensor]:
        """As `pytorch.Products.space`, one after the other."""
        own, tables = _tables(given.tables, given.x), given.tables
        whole = given.x.new_empty(own.floats * edges)
        return {
            slot: whole[base * edges :][: size * edges].view(
                edges, COMPONENTS[slot.degree], tables.fan_in[slot]
            )
            for slot, base in own.bases.items()
            for size in [COMPONENTS[slot.degree] * tables.fan_in[slot]]
        }

    def _by_edges(self, slot: IrrepSlot, per_row: int, radial: int) -> bool:
        few = per_row <= MOST_EDGES and radial <= MOST_RADIAL
        return slot.degree > 0 and LEAST_CHANNELS <= slot.channels <= MOST_CHANNELS and few

    def floats(self, slot: IrrepSlot, fan_in: int, per_row: int, width: int) -> int:
        """As of the sums; where there are none, features and gradients that are coupled, of several irreps."""
        if self._by_edges(slot, per_row, width - 1):
            return 4 * per_row * fan_in * COMPONENTS[slot.degree]
        return super().floats(slot, fan_in, per_row, width)

    def _launch(
        self, shape: _Shape, coupled: Tensor, weight: Tensor
    ) -> tuple[tuple[int, int, int, int], dict[str, Any], int]:
        """Sizes, what a kernel is compiled for, and coupled channels of a program."""
        (edges, components, fan_in), (_, width, channels) = coupled.shape, weight.shape
        shape = _fitting(shape, coupled.device)
        padded = max(16, triton.next_power_of_2(channels))
        columns = max(shape.columns, padded)
        fixed = {
            "K": components,
            "E": shape.edges,
            "C": columns,
            "M": max(16, triton.next_power_of_2(width - 1)),
            "V": padded,
            "STRICT": self.precise,
            "num_warps": shape.warps,
            "num_stages": shape.stages,
        }
        return (edges, fan_in, width - 1, channels), fixed, columns // padded

    def forward(self, piece: pytorch.Piece) -> Tensor:
        """As `pytorch.Products.forward`."""
        slot, coupled, radial, per_row, weight = piece
        if not self._by_edges(slot, per_row, radial.shape[1] - 1):
            return super().forward(piece)
        sizes, fixed, _ = self._launch(FORWARD, coupled, weight)
        out = coupled.new_empty(*coupled.shape[:2], weight.shape[2])
        _forward[(triton.cdiv(len(coupled), fixed["E"]),)](coupled, radial, weight, out, sizes, **fixed)
        return out.unflatten(0, (-1, per_row)).sum(dim=1)

    def backward(self, piece: pytorch.Piece, grad: Tensor, into: pytorch.Into) -> None:
        """As `pytorch.Products.backward`."""
        slot, coupled, radial, per_row, weight = piece
        if not self._by_edges(slot, per_row, radial.shape[1] - 1):
            super().backward(piece, grad, into)
            return
        edges, grad = len(coupled), grad.contiguous()
        sizes, fixed, _ = self._launch(COUPLED, coupled, weight)
        _coupled_gradient[(triton.cdiv(edges, fixed["E"]),)](
            into.coupled, radial, weight, grad, sizes, per_row, **fixed
        )
        sizes, fixed, _ = self._launch(HIDDEN, coupled, weight)
        _hidden_gradient[(triton.cdiv(edges, fixed["E"]),)](
            coupled, weight, grad, into.radial, sizes, per_row, **fixed
        )
        sizes, fixed, channels = self._launch(WEIGHTS, coupled, weight)
        tiles = triton.cdiv(edges, fixed["E"])
        part_tiles = max(8, triton.cdiv(tiles, PARTS))
        parts = triton.cdiv(tiles, part_tiles)
        of_parts = weight.new_empty(parts, *weight.shape)
        _weight_gradient[triton.cdiv(coupled.shape[2], channels), parts](
            coupled, radial, grad, of_parts, sizes, per_row, part_tiles, **fixed
        )
        into.weight.add_(of_parts.sum(dim=0))

    def senders(self, plan: EdgePlan, x: Tensor) -> pytorch.Senders:
        """As `pytorch.Products.senders`, in the same order each time."""
        return _Senders(plan, x)


def _fitting(shape: _Shape, device: torch.device) -> _Shape:
    """The shape, or a smaller one if the device's processors may have less shared memory than an H100's."""
    return SMALL if device.type == "cuda" and torch.cuda.is_available() and not _measured(device) else shape


class _Senders(pytorch.Senders):
    """Sums rows of edges by their sender, in the order of the edges."""

    def __init__(self, plan: EdgePlan, x: Tensor) -> None:
        self.plan, self.rows, self.total = (
            plan,
            x.new_empty(len(plan.sender), x.shape[1]),
            torch.empty_like(x),
        )

    def add(self, edges: slice, rows: Tensor) -> None:
        """As `pytorch.Senders.add`."""
        self.rows[edges] = rows

    def sums(self) -> Tensor:
        """As `pytorch.Senders.sums`."""
        nodes, width = self.total.shape
        order, first = self.plan.by_sender(nodes)
        grid = (nodes, triton.cdiv(width, GATHER))
        _gather[grid](self.rows, order, first, self.total, width, COLUMNS=GATHER)
        return self.total


def fits(x: Tensor) -> bool:
    """As `registry.Kernel.fits`: float32 on a GPU, or in Triton's interpreter."""
    return x.dtype == torch.float32 and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


def preferred(x: Tensor) -> bool:
    """Whether `auto` should use it: on GPUs that have been seen to be faster with it."""
    return fits(x) and x.is_cuda and _measured(x.device)


@lru_cache
def _measured(device: torch.device) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) == MEASURED


def _prepared(given: Arguments) -> tuple[Arguments, _Products]:
    tables, plan, x, y, hidden, weights, precise = given
    x, y, hidden = (tensor.detach().contiguous() for tensor in (x, y, hidden))
    weights = [weight.detach().contiguous() for weight in weights]
    precise = precise and torch.get_float32_matmul_precision() == "highest"
    return Arguments(tables, plan, x, y, hidden, weights, precise), _Products(precise)


def forward(given: Arguments) -> Tensor:
    """As `registry.Kernel.forward`."""
    return pytorch.forward(*_prepared(given))


def backward(given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
    """As `registry.Kernel.backward`."""
    given, products = _prepared(given)
    return pytorch.backward(given, grad_out.contiguous(), want_y, products)
