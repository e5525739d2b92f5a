"""Which products of features and harmonics enter which output, as tables; what a kernel reads and gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atomica import _prep
from atomica.data.edges import EdgePlan
from atomica.nn.irreps import COMPONENTS, HARMONICS, IrrepSlot, Layout, coupling


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
