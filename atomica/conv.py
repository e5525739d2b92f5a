"""The equivariant convolution: a fully connected tensor product of neighbours with harmonics, weighted
per edge by a radial network, averaged over each receiver's edges (Thomas et al. 2018; Geiger & Smidt 2022).

The textbook form makes one weight vector per edge. All of it is linear in the radial network's last layer,
so here the outer products of its hidden features with the coupled neighbour features are summed over a
receiver's edges first, and the large weight matrix is applied once per receiver. Both forms are exact;
`FullyConnected.reference` is the textbook one, kept for tests. In float32 on a CPU the sums and products run in
Rust, tile by tile in cache (`KERNEL`); elsewhere, and as that kernel's slow twin, they are PyTorch's.

Shapes: N nodes, E edges, R receivers of one chunk, d edges of each of them, D feature columns, n radial hidden
features (one more column holds the constant 1 that carries the bias), U coupled channels that enter one output
irrep, k its components, v its channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from atomica import _prep
from atomica.edges import EdgePlan
from atomica.irreps import COMPONENTS, HARMONICS, IrrepSlot, Layout, coupling

__all__ = ["FullyConnected", "kernel_for", "kernel_problem"]

KERNEL = "auto"
"""Which of `keys.KERNELS` does the work. auto: the Rust kernel where it can work (float32 on CPU), else PyTorch. One
for the whole process, set from a run's `device.kernel`."""

_CHUNK_FLOATS = 1 << 21
"""Floats of one chunk's outer products (8 MiB in float32): small enough to stay in cache, large enough to
amortise the calls; measured on two CPU cores."""


@dataclass(frozen=True)
class _Path:
    """One allowed coupling: input slot, index of the harmonic, and where its result lies."""

    source: IrrepSlot
    harmonic: int
    target: IrrepSlot
    first_component: int  # in the coupled components of the source's degree
    first_channel: int  # in the U coupled channels of the target


class _Couplings:
    """Index tables of one convolution: which products of features and harmonics enter which output."""

    def __init__(
        self, inputs: Layout, outputs: Layout, harmonics: tuple[tuple[int, int], ...] = HARMONICS
    ) -> None:
        self.inputs, self.outputs, self.harmonics = inputs, outputs, harmonics
        widths = [COMPONENTS[l_sh] for l_sh, _ in harmonics]
        ends = list(accumulate(widths))
        self.columns = tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))
        self.width = ends[-1]
        triples: list[list[tuple[int, int]]] = [[], [], []]  # per input degree: (harmonic, l_out)
        for l_in in range(3):
            for index, (l_sh, _) in enumerate(harmonics):
                for l_out in range(abs(l_in - l_sh), min(l_in + l_sh, 2) + 1):
                    if any(self._allowed(source, index, target) and source.l == l_in and target.l == l_out
                           for source in inputs.slots for target in outputs.slots):  # fmt: skip
                        triples[l_in].append((index, l_out))
        self.components = tuple(sum(COMPONENTS[l_out] for _, l_out in pairs) for pairs in triples)
        fan_in = dict.fromkeys(outputs.slots, 0)
        paths: list[_Path] = []
        for source in inputs.slots:
            for index in range(len(harmonics)):
                for target in outputs.slots:
                    if self._allowed(source, index, target):
                        first = 0
                        for pair in triples[source.l]:
                            if pair == (index, target.l):
                                break
                            first += COMPONENTS[pair[1]]
                        paths.append(_Path(source, index, target, first, fan_in[target]))
                        fan_in[target] += source.channels
        self.paths = tuple(paths)
        self.targets = tuple(slot for slot in outputs.slots if fan_in[slot])
        self.fan_in = fan_in
        # "element" path normalisation with "component" irrep normalisation: one factor per output irrep.
        self.scale = {slot: math.sqrt(COMPONENTS[slot.l] / fan_in[slot]) for slot in self.targets}
        self._triples = triples
        self._tables: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        self._kernels: dict[int, _prep.Convolution] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their own tables and kernels."""
        return {**self.__dict__, "_tables": {}, "_kernels": {}}

    def _allowed(self, source: IrrepSlot, harmonic: int, target: IrrepSlot) -> bool:
        l_sh, parity = self.harmonics[harmonic]
        return abs(source.l - l_sh) <= target.l <= source.l + l_sh and source.parity * parity == target.parity

    def tables(self, like: Tensor) -> list[Tensor]:
        """Per input degree l: [harmonics, components_l · (2l+1)], harmonics to coupling matrices."""
        key = (like.dtype, like.device)
        if key not in self._tables:
            built = []
            for l_in, pairs in enumerate(self._triples):
                table = torch.zeros(self.width, self.components[l_in], COMPONENTS[l_in], dtype=torch.float64)
                first = 0
                for index, l_out in pairs:
                    block = coupling(l_in, self.harmonics[index][0], l_out).permute(1, 2, 0)
                    table[self.columns[index], first : first + COMPONENTS[l_out]] = block
                    first += COMPONENTS[l_out]
                built.append(table.flatten(1).to(like))
            self._tables[key] = built
        return self._tables[key]

    def kernel(self, hidden: int) -> _prep.Convolution:
        """The same tables for the Rust kernel, with `hidden` columns of radial features."""
        if hidden not in self._kernels:
            triples = dict.fromkeys((path.source.l, path.harmonic, path.target.l) for path in self.paths)
            places = {triple: index for index, triple in enumerate(triples)}
            couplings = []
            for l_in, harmonic, l_out in triples:
                table = coupling(l_in, self.harmonics[harmonic][0], l_out)
                start = self.columns[harmonic].start
                terms = [(i, start + j, k, float(table[i, j, k])) for i, j, k in table.nonzero().tolist()]
                couplings.append(((COMPONENTS[l_in], COMPONENTS[l_out]), terms))
            targets = []
            for slot in self.targets:
                paths = [
                    (
                        places[path.source.l, path.harmonic, slot.l],
                        self.inputs.offsets[path.source.l] + self.inputs.channel_range(path.source)[0],
                        self.inputs.channels[path.source.l],
                        path.source.channels,
                        path.first_channel,
                    )
                    for path in self.paths
                    if path.target == slot
                ]
                column = self.outputs.offsets[slot.l] + self.outputs.channel_range(slot)[0]
                stride, scale = self.outputs.channels[slot.l], self.scale[slot]
                sizes = (COMPONENTS[slot.l], self.fan_in[slot], slot.channels, column, stride)
                # couplings shared by paths of both parities lie together, so that each is made once
                targets.append((*sizes, scale, sorted(paths)))
            sizes_ = (self.inputs.dim, self.outputs.dim, self.width, hidden)
            self._kernels[hidden] = _prep.Convolution(sizes_, couplings, targets)
        return self._kernels[hidden]

    def matrices(self, y: Tensor) -> list[Tensor | None]:
        """Harmonics [E, 9] → per input degree the matrices [E, components_l, 2l+1] that couple it."""
        return [
            (y @ table).unflatten(1, (self.components[l], COMPONENTS[l])) if self.components[l] else None
            for l, table in enumerate(self.tables(y))  # noqa: E741
        ]

    def couple(self, matrices: list[Tensor | None], neighbors: Tensor) -> dict[IrrepSlot, Tensor]:
        """Neighbour features [E, D] → for each output irrep its coupled channels [E, k, U]."""
        products = [
            None if matrix is None else torch.bmm(matrix, self.inputs.run(neighbors, l))
            for l, matrix in enumerate(matrices)  # noqa: E741
        ]
        pieces: dict[IrrepSlot, list[Tensor]] = {slot: [] for slot in self.targets}
        for path in self.paths:
            pieces[path.target].append(self._piece(products, path))
        return {slot: torch.cat(parts, dim=2) for slot, parts in pieces.items()}

    def _piece(self, products: Sequence[Tensor | None], path: _Path) -> Tensor:
        product = products[path.source.l]
        assert product is not None
        first, last = self.inputs.channel_range(path.source)
        components = slice(path.first_component, path.first_component + COMPONENTS[path.target.l])
        return product[:, components, first:last]

    def couple_backward(
        self,
        matrices: list[Tensor | None],
        neighbors: Tensor,
        grads: dict[IrrepSlot, Tensor],
        want_harmonics: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients [E, k, U] of the coupled channels → gradients of the features [E, D] and harmonics [E, 9]."""
        edges = neighbors.shape[0]
        # zeros, because a coupled component that one parity needs may be unused for the other
        products = [
            None if matrix is None else neighbors.new_zeros(edges, matrix.shape[1], self.inputs.channels[l])
            for l, matrix in enumerate(matrices)  # noqa: E741
        ]
        for path in self.paths:
            last = path.first_channel + path.source.channels
            self._piece(products, path).copy_(grads[path.target][:, :, path.first_channel : last])
        grad_neighbors = torch.zeros_like(neighbors)
        grad_y = neighbors.new_zeros(edges, self.width) if want_harmonics else None
        for l, (matrix, product) in enumerate(zip(matrices, products, strict=True)):  # noqa: E741
            if matrix is None or product is None:
                continue
            self.inputs.run(grad_neighbors, l).copy_(torch.bmm(matrix.transpose(1, 2), product))
            if grad_y is not None:
                grad_matrix = torch.bmm(product, self.inputs.run(neighbors, l).transpose(1, 2))
                grad_y += grad_matrix.flatten(1) @ self.tables(neighbors)[l].t()
        return grad_neighbors, grad_y


class Arguments(NamedTuple):
    """What a kernel reads; shapes as in `_Contract`."""

    tables: _Couplings
    plan: EdgePlan
    x: Tensor
    y: Tensor
    hidden: Tensor
    weights: Sequence[Tensor]


Gradients = tuple[Tensor, Tensor | None, Tensor, Sequence[Tensor]]
"""Of x, y (if wanted), hidden and weights."""


class _Contract(torch.autograd.Function):
    """Sum over edges, then weights, recomputing in backward instead of storing.

    x [N, D], y [E, 9], hidden [E, n+1] (already divided by the receiver's degree), weights: one [U, n+1, v]
    per output irrep → [M, D_out] for the plan's rows. Differentiable to any order: a backward pass that is to be
    differentiated itself runs through PyTorch's own gradient of `_summed`.
    """

    @staticmethod
    def forward(
        ctx: Any, tables: _Couplings, plan: EdgePlan, x: Tensor, y: Tensor, hidden: Tensor, *weights: Tensor
    ) -> Tensor:
        ctx.tables, ctx.plan, ctx.kernel = tables, plan, kernel_for(x)
        ctx.save_for_backward(x, y, hidden, *weights)
        return _KERNELS[ctx.kernel].forward(Arguments(tables, plan, x, y, hidden, weights))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,) = grad_outputs
        x, y, hidden, *weights = ctx.saved_tensors
        given = Arguments(ctx.tables, ctx.plan, x, y, hidden, weights)
        if torch.is_grad_enabled():  # create_graph
            wanted = ctx.needs_input_grad[2:]
            sources = [t for t, want in zip((x, y, hidden, *weights), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(_summed(given), sources, grad_out, create_graph=True))
            return None, None, *(next(found) if want else None for want in wanted)
        of_x, of_y, of_hidden, of_weights = _KERNELS[ctx.kernel].backward(
            given, grad_out, ctx.needs_input_grad[3]
        )
        return None, None, of_x, of_y, of_hidden, *of_weights


class Kernel(Protocol):
    """One way to do the sums and products of a convolution; `needs`: what it works on, for a person."""

    needs: str

    def fits(self, x: Tensor) -> bool:
        """Whether it works in the precision and on the device of `x`."""

    def forward(self, given: Arguments) -> Tensor:
        """[M, D_out]."""

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        """The gradients for `grad_out` [M, D_out]; of y only if `want_y`."""


class _Rust:
    """Tile by tile in cache, on the CPU."""

    needs = "a CPU"

    def fits(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.device.type == "cpu"

    def forward(self, given: Arguments) -> Tensor:
        kernel = given.tables.kernel(given.hidden.shape[1])
        return torch.from_numpy(kernel.forward(_arrays(given), torch.get_num_threads()))

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        kernel = given.tables.kernel(given.hidden.shape[1])
        of_x, of_y, of_hidden, of_weights = kernel.backward(
            _arrays(given), grad_out.contiguous().numpy(), want_y, torch.get_num_threads()
        )
        return (
            torch.from_numpy(of_x),
            None if of_y is None else torch.from_numpy(of_y),
            torch.from_numpy(of_hidden),
            [torch.from_numpy(g).view_as(w) for g, w in zip(of_weights, given.weights, strict=True)],
        )


class _Torch:
    """PyTorch's products on pieces of the graph, on any device and in any precision; the others' slow twin."""

    needs = "anything"

    def fits(self, x: Tensor) -> bool:
        return True

    def forward(self, given: Arguments) -> Tensor:
        return _summed(given)

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
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
                width = COMPONENTS[slot.l]
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


class _Triton:
    """Tile by tile in a GPU's registers. Imported when it is used, since PyTorch without CUDA has no Triton."""

    needs = "a GPU with Triton 3.3 or newer"

    def fits(self, x: Tensor) -> bool:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return x.dtype == torch.float32 and (x.is_cuda or interpreted) and _triton_takes_tuples()

    def forward(self, given: Arguments) -> Tensor:
        from atomica import conv_triton

        return conv_triton.forward(given)

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        from atomica import conv_triton

        return conv_triton.backward(given, grad_out, want_y)


@cache
def _triton_takes_tuples() -> bool:
    """Whether there is a Triton, new enough that functions within kernels take tuples."""
    if find_spec("triton") is None:
        return False
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (3, 3)


_KERNELS: dict[str, Kernel] = {"rust": _Rust(), "torch": _Torch(), "triton": _Triton()}


def kernel_for(x: Tensor) -> str:
    """The name of the kernel that a convolution of features `x` uses: what `KERNEL` says, where that works.

    >>> kernel_for(torch.zeros(1)), kernel_for(torch.zeros(1, dtype=torch.float64))
    ('rust', 'torch')
    """
    wanted = "rust" if KERNEL == "auto" else KERNEL
    return wanted if _KERNELS[wanted].fits(x) else "torch"


def kernel_problem(name: str, device: str) -> str | None:
    """Why kernel `name` cannot work on a device ("cpu", "cuda"), for a person; None if it can."""
    if name == "auto" or _KERNELS[name].fits(torch.empty(0, device=device)):
        return None
    return f"{name} works on {_KERNELS[name].needs} alone, and this run is on {device}; use auto or torch"


def _summed(given: Arguments) -> Tensor:
    """The sum over edges, then the weights, chunk by chunk, in PyTorch's differentiable operations."""
    tables, plan, x, y, hidden, weights = given
    chunks = []
    for _, edges, per_row in _chunks(plan, tables, hidden.shape[1]):
        coupled = tables.couple(tables.matrices(y[edges]), x[plan.sender[edges]])
        radial = hidden[edges].unflatten(0, (-1, per_row))
        found = {}
        for slot, weight in zip(tables.targets, weights, strict=True):
            result = _apply(_outer(coupled[slot], radial, per_row), weight) * tables.scale[slot]
            found[slot] = result.unflatten(0, (-1, COMPONENTS[slot.l]))
        runs = []
        for l, width in enumerate(COMPONENTS):  # noqa: E741
            parts = [
                found[slot] if slot in found else x.new_zeros(len(radial), width, slot.channels)
                for slot in tables.outputs.slots
                if slot.l == l
            ]
            runs += [torch.cat(parts, dim=2).flatten(1)] if parts else []
        chunks.append(torch.cat(runs, dim=1))
    return torch.cat(chunks) if chunks else x.new_zeros(0, tables.outputs.dim)


def _arrays(given: Arguments) -> dict[str, Any]:
    """The arguments of the Rust kernel: NumPy arrays of the tensors' own memory."""
    _, plan, x, y, hidden, weights = given
    return {
        "x": x.detach().contiguous().numpy(),
        "y": y.detach().contiguous().numpy(),
        "hidden": hidden.detach().contiguous().numpy(),
        "sender": plan.sender.numpy(),
        "first_edge": plan.first_edge.tolist(),
        "weights": [weight.detach().contiguous().numpy() for weight in weights],
    }


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


def _chunks(plan: EdgePlan, tables: _Couplings, width: int) -> list[tuple[slice, slice, int]]:
    """Slices of rows and of edges, and the edges per row, for pieces of at most about _CHUNK_FLOATS."""
    largest = max(tables.fan_in[slot] * COMPONENTS[slot.l] for slot in tables.targets)
    step = max(1, _CHUNK_FLOATS // (largest * width))
    chunks, edge = [], 0
    for first, count, per_row in plan.buckets:
        for start in range(first, first + count, step):
            stop = min(start + step, first + count)
            edges = (stop - start) * per_row
            chunks.append((slice(start, stop), slice(edge, edge + edges), per_row))
            edge += edges
    return chunks


class FullyConnected(nn.Module):
    """Tensor product of sender features with edge harmonics, with weights linear in radial features.

    `inputs`, `outputs`: layouts of node features; `radial`: number n of radial hidden features; `harmonics`:
    degree and parity of the edge features that play the harmonics' part.
    Parameters: for each output irrep that can be reached a tensor [U, n+1, v]; the last of the n+1 rows is
    the bias. Initialised like `torch.nn.Linear(n, weights)`.
    """

    def __init__(
        self,
        inputs: Layout,
        outputs: Layout,
        radial: int,
        *,
        harmonics: tuple[tuple[int, int], ...] = HARMONICS,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.radial, self.harmonics = inputs, outputs, radial, harmonics
        bound = 1.0 / math.sqrt(radial)
        self.weights = nn.ParameterDict(
            {
                slot.name: nn.Parameter(
                    torch.empty(self.tables.fan_in[slot], radial + 1, slot.channels).uniform_(-bound, bound)
                )
                for slot in self.tables.targets
            }
        )

    @cached_property
    def tables(self) -> _Couplings:
        return _Couplings(self.inputs, self.outputs, self.harmonics)

    @cached_property
    def _scalar_tables(self) -> _Couplings:
        scalars = Layout(tuple(slot for slot in self.outputs.slots if slot.l == 0))
        return _Couplings(self.inputs, scalars, self.harmonics)

    def forward(
        self, plan: EdgePlan, x: Tensor, y: Tensor, hidden: Tensor, *, scalars_only: bool = False
    ) -> Tensor:
        """Mean over each receiver's edges of the weighted tensor product.

        x [N, D] senders' features, y [E, 9] harmonics and hidden [E, n] radial features in plan order →
        [receivers, D_out]; receivers without edges get 0. With `scalars_only` the output holds the degree-0 run alone.
        """
        tables = self._scalar_tables if scalars_only else self.tables
        mean = plan.mean.to(hidden.dtype)[:, None]
        hidden = torch.cat([hidden * mean, mean], dim=1)
        weights = [self.weights[slot.name] for slot in tables.targets]
        # In the precision of the weights, also where autocast gives bfloat16: the kernels know no other.
        x, y, hidden = (tensor.to(weights[0].dtype) for tensor in (x, y, hidden))
        with torch.autocast(x.device.type, enabled=False):
            rows = _Contract.apply(tables, plan, x, y, hidden, *weights)
        return x.new_zeros(plan.num_nodes, rows.shape[1]).index_copy(0, plan.rows, rows)

    def reference(self, plan: EdgePlan, x: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
        """The same function with one weight matrix per edge, path by path: slow, for tests.

        Arguments and result as in `forward`. Differentiable to any order.
        """
        neighbors = x[plan.sender]
        mean = plan.mean.to(x.dtype)[:, None, None]
        runs: list[list[Tensor]] = [[], [], []]
        for slot in self.outputs.slots:
            per_edge = x.new_zeros(plan.sender.shape[0], COMPONENTS[slot.l], slot.channels)
            for path in self.tables.paths:
                if path.target != slot:
                    continue
                rows = slice(path.first_channel, path.first_channel + path.source.channels)
                weight = self.weights[slot.name][rows]
                per_edge_weight = torch.einsum("en,unv->euv", hidden, weight[:, :-1]) + weight[:, -1]
                harmonics = y[:, self.tables.columns[path.harmonic]]
                table = coupling(path.source.l, self.harmonics[path.harmonic][0], slot.l).to(x)
                coupled = torch.einsum(
                    "eiu,ej,ijk->eku", self.inputs.view(neighbors, path.source), harmonics, table
                )
                per_edge = per_edge + torch.einsum("eku,euv->ekv", coupled, per_edge_weight)
            if slot in self.tables.scale:
                per_edge = per_edge * self.tables.scale[slot]
            total = x.new_zeros(plan.num_nodes, *per_edge.shape[1:])
            runs[slot.l].append(total.index_add(0, plan.receiver, per_edge * mean))
        return torch.cat([torch.cat(parts, dim=2).flatten(1) for parts in runs if parts], dim=1)
