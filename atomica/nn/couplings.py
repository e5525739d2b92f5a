"""Which products of features and harmonics enter which output, as tables; what a kernel reads and gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from atomica.data.edges import EdgePlan
from atomica.nn.irreps import COMPONENTS, HARMONICS, IrrepSlot, Layout, coupling


@dataclass(frozen=True)
class Path:
    """One allowed coupling: input slot, index of the harmonic, and where its result lies."""

    source: IrrepSlot
    harmonic: int
    target: IrrepSlot
    first_component: int  # in the coupled components of the source's degree
    first_channel: int  # in the U coupled channels of the target


class Couplings:
    """Index tables of one convolution: which products of features and harmonics enter which output."""

    def __init__(
        self, inputs: Layout, outputs: Layout, harmonics: tuple[tuple[int, int], ...] = HARMONICS
    ) -> None:
        self.inputs, self.outputs, self.harmonics = inputs, outputs, harmonics
        widths = [COMPONENTS[degree_sh] for degree_sh, _ in harmonics]
        ends = list(accumulate(widths))
        self.columns = tuple(slice(end - width, end) for end, width in zip(ends, widths, strict=True))
        self.width = ends[-1]
        allowed = {
            (source.degree, index, target.degree)
            for source in inputs.slots
            for index in range(len(harmonics))
            for target in outputs.slots
            if self._allowed(source, index, target)
        }
        # per input degree: (harmonic, output degree), in the order of their components
        triples: list[list[tuple[int, int]]] = [[], [], []]
        for degree_in, index, degree_out in sorted(allowed):
            triples[degree_in].append((index, degree_out))
        self.components = tuple(sum(COMPONENTS[degree_out] for _, degree_out in pairs) for pairs in triples)
        fan_in = dict.fromkeys(outputs.slots, 0)
        paths: list[Path] = []
        for source in inputs.slots:
            for index in range(len(harmonics)):
                for target in outputs.slots:
                    if self._allowed(source, index, target):
                        first = 0
                        for pair in triples[source.degree]:
                            if pair == (index, target.degree):
                                break
                            first += COMPONENTS[pair[1]]
                        paths.append(Path(source, index, target, first, fan_in[target]))
                        fan_in[target] += source.channels
        self.paths = tuple(paths)
        self.targets = tuple(slot for slot in outputs.slots if fan_in[slot])
        self.fan_in = fan_in
        # "element" path normalisation with "component" irrep normalisation: one factor per output irrep.
        self.scale = {slot: math.sqrt(COMPONENTS[slot.degree] / fan_in[slot]) for slot in self.targets}
        self._triples = triples
        self._tables: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies make their own tables."""
        return {**self.__dict__, "_tables": {}}

    def _allowed(self, source: IrrepSlot, harmonic: int, target: IrrepSlot) -> bool:
        degree_sh, parity = self.harmonics[harmonic]
        return (
            abs(source.degree - degree_sh) <= target.degree <= source.degree + degree_sh
            and source.parity * parity == target.parity
        )

    def tables(self, like: Tensor) -> list[Tensor]:
        """Per input degree l: [harmonics, components_l · (2l+1)], harmonics to coupling matrices."""
        key = (like.dtype, like.device)
        if key not in self._tables:
            built = []
            for degree_in, pairs in enumerate(self._triples):
                table = torch.zeros(
                    self.width, self.components[degree_in], COMPONENTS[degree_in], dtype=torch.float64
                )
                first = 0
                for index, degree_out in pairs:
                    block = coupling(degree_in, self.harmonics[index][0], degree_out).permute(1, 2, 0)
                    table[self.columns[index], first : first + COMPONENTS[degree_out]] = block
                    first += COMPONENTS[degree_out]
                built.append(table.flatten(1).to(like))
            self._tables[key] = built
        return self._tables[key]

    def matrices(self, y: Tensor) -> list[Tensor | None]:
        """Harmonics [E, 9] → per input degree the matrices [E, components_l, 2l+1] that couple it."""
        return [
            (y @ table).unflatten(1, (self.components[degree], COMPONENTS[degree]))
            if self.components[degree]
            else None
            for degree, table in enumerate(self.tables(y))
        ]

    def couple(self, matrices: list[Tensor | None], neighbors: Tensor) -> dict[IrrepSlot, Tensor]:
        """Neighbour features [E, D] → for each output irrep its coupled channels [E, k, U]."""
        products = [
            None if matrix is None else torch.bmm(matrix, self.inputs.run(neighbors, degree))
            for degree, matrix in enumerate(matrices)
        ]
        pieces: dict[IrrepSlot, list[Tensor]] = {slot: [] for slot in self.targets}
        for path in self.paths:
            pieces[path.target].append(self._piece(products, path))
        return {slot: torch.cat(parts, dim=2) for slot, parts in pieces.items()}

    def _piece(self, products: Sequence[Tensor | None], path: Path) -> Tensor:
        product = products[path.source.degree]
        assert product is not None
        first, last = self.inputs.channel_range(path.source)
        components = slice(path.first_component, path.first_component + COMPONENTS[path.target.degree])
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
            None
            if matrix is None
            else neighbors.new_zeros(edges, matrix.shape[1], self.inputs.channels[degree])
            for degree, matrix in enumerate(matrices)
        ]
        for path in self.paths:
            last = path.first_channel + path.source.channels
            self._piece(products, path).copy_(grads[path.target][:, :, path.first_channel : last])
        grad_neighbors = torch.zeros_like(neighbors)
        grad_y = neighbors.new_zeros(edges, self.width) if want_harmonics else None
        for degree, (matrix, product) in enumerate(zip(matrices, products, strict=True)):
            if matrix is None or product is None:
                continue
            self.inputs.run(grad_neighbors, degree).copy_(torch.bmm(matrix.transpose(1, 2), product))
            if grad_y is not None:
                grad_matrix = torch.bmm(product, self.inputs.run(neighbors, degree).transpose(1, 2))
                grad_y += grad_matrix.flatten(1) @ self.tables(neighbors)[degree].t()
        return grad_neighbors, grad_y


class Arguments(NamedTuple):
    """What a kernel reads: M receivers in the order of `plan.rows`, E edges in plan order, N senders.

    x: [N, D] features of senders. y: [E, harmonics] harmonics of edges. hidden: [E, n+1] radial features, already
    divided by the receiver's number of edges; the last column carries the bias. weights: [U, n+1, v] for each of
    `tables.targets`. precise: as float32 is, whatever the kernel; else tf32 will do, as where autocast gives bfloat16.
    """

    tables: Couplings
    plan: EdgePlan
    x: Tensor
    y: Tensor
    hidden: Tensor
    weights: Sequence[Tensor]
    precise: bool = True


Gradients = tuple[Tensor, Tensor | None, Tensor, Sequence[Tensor]]
"""Of x, y (if wanted), hidden and weights."""
