"""Whether a group of nodes is more connected than chance: permutation tests on an undirected network.

Shape letters: N nodes, M members of a group, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from atomica.errors import DataError

__all__ = ["NULLS", "Connectedness", "adjacency", "components", "connectedness", "strata"]


Indices = npt.NDArray[np.int64]

NULLS = ("degree", "uniform")

_CELLS = 1 << 23
"""Nodes or edges times draws that are looked at together: some 100 MiB."""

_STRATUM = 20
"""Least number of nodes that take each other's place when degrees are kept."""


class Connectedness(NamedTuple):
    """How connected a group is, beside random groups of the same size.

    edges: edges between members; largest: members in the largest component of the network that the members alone make.
    `…_expected`: means over the random groups. `…_p`: (1 + random groups at least as connected) / (1 + draws).
    """

    members: int
    edges: int
    edges_expected: float
    edges_p: float
    largest: int
    largest_expected: float
    largest_p: float


def adjacency(nodes: int, first: Indices, second: Indices) -> Any:
    """The symmetric adjacency matrix [N, N], sparse (SciPy's CSR), of edges that are listed once."""
    from scipy.sparse import csr_array

    ends = (np.concatenate([first, second]), np.concatenate([second, first]))
    return csr_array((np.ones(2 * len(first), dtype=np.int8), ends), shape=(nodes, nodes))


def components(matrix: Any) -> Indices:
    """Number of each node's connected component [N]: 0 is the largest; of equal ones that with the first node.

    >>> components(adjacency(5, np.array([1, 3]), np.array([2, 4]))).tolist()
    [2, 0, 0, 1, 1]
    """
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(matrix, directed=False)
    sizes = np.bincount(label, minlength=count)
    _, seen = np.unique(label, return_index=True)
    order = np.lexsort((seen, -sizes))
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    return rank[label]


def strata(degrees: Indices, null: str) -> Indices:
    """Stratum [N] of each node, within which members may be exchanged.

    degree: nodes of similar degree; those of one degree are always together, and a stratum has at least 20 nodes
    (all of them, where there are fewer). uniform: one stratum for all.

    >>> strata(np.array([1] * 30 + [2] * 10 + [3] * 15), "degree")[[0, 30, 40]].tolist()
    [0, 1, 1]
    """
    if null == "uniform":
        return np.zeros(len(degrees), dtype=np.int64)
    values, counts = np.unique(degrees, return_counts=True)
    number = np.zeros(len(values), dtype=np.int64)
    current, filled = 0, 0
    left = int(counts.sum())
    for index, count in enumerate(counts.tolist()):
        # What is left must be enough for a stratum of its own.
        if filled >= _STRATUM and left >= _STRATUM:
            current, filled = current + 1, 0
        number[index] = current
        filled += count
        left -= count
    return number[np.searchsorted(values, degrees)]


def connectedness(
    matrix: Any, members: Indices, stratum: Indices, *, draws: int, seed: int | Sequence[int]
) -> Connectedness:
    """Test a group of nodes, `members` [M], against `draws` random groups with as many nodes of each stratum.

    stratum [N] as `strata` gives it. The smallest p that can result is 1 / (1 + draws). Raises DataError for a group
    with fewer than two members, which cannot be connected.
    """
    from scipy.sparse import triu

    chosen = np.unique(members)
    if len(chosen) < 2:
        raise DataError("a group needs at least two members in the network")
    first, second = (ends.astype(np.int64) for ends in triu(matrix, k=1).nonzero())
    own = np.zeros((1, matrix.shape[0]), dtype=bool)
    own[0, chosen] = True
    observed = edges_and_largest(own, first, second)[0]
    generator = np.random.default_rng(seed)
    rows = max(1, _CELLS // max(own.size, len(first)))
    random = np.concatenate(
        [
            edges_and_largest(_draw(own[0], stratum, min(rows, draws - start), generator), first, second)
            for start in range(0, draws, rows)
        ]
    )
    reached = (random >= observed).sum(axis=0)
    (edges_p, largest_p), (edges_mean, largest_mean) = (1 + reached) / (1 + draws), random.mean(axis=0)
    return Connectedness(
        members=len(chosen),
        edges=int(observed[0]),
        edges_expected=float(edges_mean),
        edges_p=float(edges_p),
        largest=int(observed[1]),
        largest_expected=float(largest_mean),
        largest_p=float(largest_p),
    )


def _draw(
    own: npt.NDArray[np.bool_], stratum: Indices, draws: int, generator: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Random groups [D, N] with as many nodes of each stratum as the group `own` [N] has."""
    drawn = np.zeros((draws, len(own)), dtype=bool)
    for number in np.unique(stratum[own]):
        pool = np.flatnonzero(stratum == number)
        count = int(own[pool].sum())
        order = np.argpartition(generator.random((draws, len(pool))), count - 1, axis=1)
        np.put_along_axis(drawn, pool[order[:, :count]], True, axis=1)
    return drawn


def edges_and_largest(groups: npt.NDArray[np.bool_], first: Indices, second: Indices) -> Indices:
    """Edges within each group, and the size of the largest component of its members alone, [D, 2]."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    draws, members = len(groups), int(groups[0].sum())
    group, edge = np.nonzero(groups[:, first] & groups[:, second])
    # The groups side by side as one graph, in which each has `members` nodes.
    place = np.cumsum(groups, axis=1, dtype=np.int64) - 1 + members * np.arange(draws)[:, None]
    ends = (place[group, first[edge]], place[group, second[edge]])
    graph = csr_array((np.ones(len(edge), dtype=np.int8), ends), shape=(draws * members, draws * members))
    sizes = np.bincount(label := connected_components(graph, directed=False)[1])
    largest = sizes[label].reshape(draws, members).max(axis=1)
    return np.stack([np.bincount(group, minlength=draws), largest], axis=1)
