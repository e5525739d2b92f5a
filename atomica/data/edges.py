"""Edges of a level, and the order in which convolutions work through them: made once per graph, for all layers.

It depends on the edges alone, so it is made where the batch is, on the CPU; a GPU that had to make it would have to
be waited for, since the sizes of its parts depend on the data.

Shapes: N nodes, E edges, M nodes that receive anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["EdgeList", "EdgePlan", "plan_edges"]


_PADDING = 512
"""Blank edges that some calls less are worth; receivers of nearly equal degree are then treated as equal. They are a
hundredth of the edges of 2,000 blocks, and save half of the calls, for which a GPU waits."""


@dataclass(frozen=True)
class EdgePlan:
    """Edges of one level, ordered so that receivers with equally many edges lie together.

    sender, receiver, kind: [E] int64 node indices and edge-type index, in plan order. Receivers of nearly equal
    degree are padded to one degree with blank edges from a node to itself.
    mean: [E] float64, one over the receiver's number of edges, 0 for blank edges.
    rows: [M] int64, the nodes that receive anything, in plan order.
    first_edge: [M+1] int64, the first edge of each of `rows`, and the number of edges.
    buckets: (first row, number of rows, edges per row) for each run of equal degree.
    num_nodes: number of nodes that can receive.
    """

    sender: Tensor
    receiver: Tensor
    kind: Tensor
    mean: Tensor
    rows: Tensor
    first_edge: Tensor
    buckets: tuple[tuple[int, int, int], ...]
    num_nodes: int

    def by_sender(self, senders: int) -> tuple[Tensor, Tensor]:
        """Edges sorted by their sender [E], and the first of each of `senders` nodes among them [senders+1].

        Made where the plan is, once for all layers that want it.
        """
        if senders not in self._sorted:
            order = torch.argsort(self.sender, stable=True)
            nodes = torch.arange(senders + 1, device=order.device)
            self._sorted[senders] = order, torch.searchsorted(self.sender[order], nodes)
        return self._sorted[senders]

    @cached_property
    def _sorted(self) -> dict[int, tuple[Tensor, Tensor]]:
        return {}


@dataclass(frozen=True)
class EdgeList:
    """Edges of one level in any order: sender, receiver, kind [E] int64; num_nodes: N."""

    sender: Tensor
    receiver: Tensor
    kind: Tensor
    num_nodes: int

    @cached_property
    def plan(self) -> EdgePlan:
        """Made when it is first asked for."""
        return plan_edges(self.sender, self.receiver, self.kind, self.num_nodes)


def plan_edges(
    sender: Tensor, receiver: Tensor, kind: Tensor, num_nodes: int, *, bipartite: bool = False
) -> EdgePlan:
    """Sort edges by their receiver's degree, then by receiver, keeping the order within a receiver.

    sender, receiver, kind: [E] int64. With `bipartite` senders and receivers are different sets, `num_nodes` counts
    receivers, and blank edges come from sender 0.

    >>> plan = plan_edges(torch.tensor([1, 2, 0]), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=int), 3)
    >>> plan.buckets, plan.rows.tolist(), plan.first_edge.tolist(), plan.mean.tolist()
    (((0, 2, 2),), [1, 0], [0, 2, 4], [1.0, 0.0, 0.5, 0.5])
    """
    degree = torch.bincount(receiver, minlength=num_nodes)
    rows = torch.argsort(degree, stable=True)[int((degree == 0).sum()) :]
    found, counts = torch.unique_consecutive(degree[rows], return_counts=True)
    buckets: list[tuple[int, int, int]] = []
    for per_row, count in zip(found.tolist(), counts.tolist(), strict=True):
        if buckets:
            first, rows_before, narrower = buckets[-1]
            if rows_before * (per_row - narrower) <= _PADDING:
                buckets[-1] = (first, rows_before + count, per_row)
                continue
        buckets.append((buckets[-1][0] + buckets[-1][1] if buckets else 0, count, per_row))
    wide = torch.zeros_like(degree)
    for first, count, per_row in buckets:
        wide[rows[first : first + count]] = per_row
    blank = torch.repeat_interleave(torch.arange(num_nodes, device=degree.device), wide - degree)
    real = torch.ones(len(sender), dtype=torch.bool, device=degree.device)
    real = torch.cat([real, torch.zeros_like(blank, dtype=torch.bool)])
    sender = torch.cat([sender, torch.zeros_like(blank) if bipartite else blank])
    receiver = torch.cat([receiver, blank])
    kind = torch.cat([kind, torch.zeros_like(blank)])
    rank = torch.empty_like(degree)
    rank[rows] = torch.arange(len(rows), device=degree.device)
    order = torch.argsort(rank[receiver], stable=True)
    mean = torch.where(real, 1.0 / degree[receiver].double(), 0.0)
    first_edge = torch.nn.functional.pad(torch.cumsum(wide[rows], 0), (1, 0))
    return EdgePlan(
        sender=sender[order],
        receiver=receiver[order],
        kind=kind[order],
        mean=mean[order],
        rows=rows,
        first_edge=first_edge,
        buckets=tuple(buckets),
        num_nodes=num_nodes,
    )
