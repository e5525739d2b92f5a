"""The equivariant convolution: a fully connected tensor product of neighbours with harmonics, weighted
per edge by a radial network, averaged over each receiver's edges (Thomas et al. 2018; Geiger & Smidt 2022).

The textbook form makes one weight vector per edge. All of it is linear in the radial network's last layer,
so here the outer products of its hidden features with the coupled neighbour features are summed over a
receiver's edges first, and the large weight matrix is applied once per receiver. Both forms are exact;
`FullyConnected.reference` is the textbook one, kept for tests. In float32 on a CPU the sums and products run in
Rust, tile by tile in cache; elsewhere, and as that kernel's slow twin, they are PyTorch's (see `kernels`).

Shapes: N nodes, E edges, R receivers of one chunk, d edges of each of them, D feature columns, n radial hidden
features (one more column holds the constant 1 that carries the bias), U coupled channels that enter one output
irrep, k its components, v its channels.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from atomica.data.edges import EdgePlan
from atomica.nn.couplings import Arguments, Couplings
from atomica.nn.irreps import COMPONENTS, HARMONICS, Layout, coupling
from atomica.nn.kernels import pytorch, registry

__all__ = ["FullyConnected"]


class _Contract(torch.autograd.Function):
    """Sum over edges, then weights, recomputing in backward instead of storing.

    kernel: one of `registry.CHOICES`; precise and the others as in `Arguments` → [M, D_out] for the plan's rows.
    Differentiable to any order: a backward pass that is to be differentiated itself runs through PyTorch's own gradient
    of its kernel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernel: str,
        precise: bool,
        tables: Couplings,
        plan: EdgePlan,
        x: Tensor,
        y: Tensor,
        hidden: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        ctx.tables, ctx.plan, ctx.precise = tables, plan, precise
        ctx.kernel = registry.load(registry.kernel_for(kernel, x))
        ctx.save_for_backward(x, y, hidden, *weights)
        return ctx.kernel.forward(Arguments(tables, plan, x, y, hidden, weights, precise))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,) = grad_outputs
        x, y, hidden, *weights = ctx.saved_tensors
        given = Arguments(ctx.tables, ctx.plan, x, y, hidden, weights, ctx.precise)
        if torch.is_grad_enabled():  # create_graph
            wanted = ctx.needs_input_grad[4:]
            sources = [t for t, want in zip((x, y, hidden, *weights), wanted, strict=True) if want]
            found = iter(torch.autograd.grad(pytorch.forward(given), sources, grad_out, create_graph=True))
            return None, None, None, None, *(next(found) if want else None for want in wanted)
        of_x, of_y, of_hidden, of_weights = ctx.kernel.backward(given, grad_out, ctx.needs_input_grad[5])
        return None, None, None, None, of_x, of_y, of_hidden, *of_weights


class FullyConnected(nn.Module):
    """Tensor product of sender features with edge harmonics, with weights linear in radial features.

    `inputs`, `outputs`: layouts of node features; `radial`: number n of radial hidden features; `harmonics`:
    degree and parity of the edge features that play the harmonics' part.
    Parameters: for each output irrep that can be reached a tensor [U, n+1, v]; the last of the n+1 rows is
    the bias. Initialised like `torch.nn.Linear(n, weights)`.
    kernel: one of `registry.CHOICES`, what does its sums and products.
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
        self.kernel = "auto"
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
    def tables(self) -> Couplings:
        return Couplings(self.inputs, self.outputs, self.harmonics)

    @cached_property
    def _scalar_tables(self) -> Couplings:
        scalars = Layout(tuple(slot for slot in self.outputs.slots if slot.degree == 0))
        return Couplings(self.inputs, scalars, self.harmonics)

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
        precise = not torch.is_autocast_enabled(x.device.type)
        x, y, hidden = (tensor.to(weights[0].dtype) for tensor in (x, y, hidden))
        with torch.autocast(x.device.type, enabled=False):
            rows = _Contract.apply(self.kernel, precise, tables, plan, x, y, hidden, *weights)
        return x.new_zeros(plan.num_nodes, rows.shape[1]).index_copy(0, plan.rows, rows)

    def reference(self, plan: EdgePlan, x: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
        """The same function with one weight matrix per edge, path by path: slow, for tests.

        Arguments and result as in `forward`. Differentiable to any order.
        """
        neighbors = x[plan.sender]
        mean = plan.mean.to(x.dtype)[:, None, None]
        runs: list[list[Tensor]] = [[], [], []]
        for slot in self.outputs.slots:
            per_edge = x.new_zeros(plan.sender.shape[0], COMPONENTS[slot.degree], slot.channels)
            for path in self.tables.paths:
                if path.target != slot:
                    continue
                rows = slice(path.first_channel, path.first_channel + path.source.channels)
                weight = self.weights[slot.name][rows]
                per_edge_weight = torch.einsum("en,unv->euv", hidden, weight[:, :-1]) + weight[:, -1]
                harmonics = y[:, self.tables.columns[path.harmonic]]
                table = coupling(path.source.degree, self.harmonics[path.harmonic][0], slot.degree).to(x)
                coupled = torch.einsum(
                    "eiu,ej,ijk->eku", self.inputs.view(neighbors, path.source), harmonics, table
                )
                per_edge = per_edge + torch.einsum("eku,euv->ekv", coupled, per_edge_weight)
            if slot in self.tables.scale:
                per_edge = per_edge * self.tables.scale[slot]
            total = x.new_zeros(plan.num_nodes, *per_edge.shape[1:])
            runs[slot.degree].append(total.index_add(0, plan.receiver, per_edge * mean))
        return torch.cat([torch.cat(parts, dim=2).flatten(1) for parts in runs if parts], dim=1)
