"""Which embeddings are alike: nearest neighbours by cosine, exact or by an index, as undirected edges.

Shape letters: N nodes, H width of an embedding, Q nodes that are asked for, P directed pairs, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from atomica.errors import DataError

__all__ = ["MAX_EDGES", "Edges", "approximate", "exact", "unit_rows"]


Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
Pairs = tuple[Indices, Indices]
"""Directed pairs [P]: the node that was asked for, and one that is like it."""

MAX_EDGES = 20_000_000
"""A network with more edges is a mistake in the settings, and would not fit into the memory of most computers."""

_CELLS = 1 << 24
"""Cosines held at a time: 64 MiB of float32, however many nodes there are."""

_SLACK = 1e-6
"""Rounding of a cosine in float32, so that none is lost before it is computed again in float64."""

_SAMPLE = 500
"""Nodes on which an approximate search is compared with an exact one."""


class Edges(NamedTuple):
    """Undirected edges, sorted: first < second [E], their cosine [E], and the share of the exact edges found.

    recall: 1 for an exact search; for an approximate one measured on a sample of nodes.
    """

    first: Indices
    second: Indices
    cosine: npt.NDArray[np.float64]
    recall: float = 1.0


def unit_rows(embeddings: npt.NDArray[np.floating]) -> Floats:
    """Embeddings [N, H] with rows of length 1. Raises DataError naming rows that have no direction.

    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    values = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(values, axis=1)
    wrong = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(wrong):
        listing = ", ".join(map(str, wrong[:5].tolist())) + (" …" if len(wrong) > 5 else "")
        raise DataError(f"{len(wrong)} embeddings are zero or not finite: rows {listing}")
    return np.ascontiguousarray(values / lengths[:, None], dtype=np.float32)


def exact(unit: Floats, *, neighbors: int, cutoff: float, entity: Indices | None = None) -> Edges:
    """Edges between each node and its most similar ones, from all N² cosines in blocks of constant memory.

    unit [N, H] as `unit_rows` makes it. neighbors: how many of the most similar nodes are kept for each, 0 for all;
    two nodes are joined if either has the other among its own. cutoff: least cosine. entity [N]: nodes of one entity
    are never joined; absent: every node is its own. Raises DataError if there are more than MAX_EDGES edges.

    >>> edges = exact(unit_rows(np.array([[1, 0], [1, 0.1], [0, 1]])), neighbors=1, cutoff=0.0)
    >>> edges.first.tolist(), edges.second.tolist()
    ([0, 1], [1, 2])
    """
    everyone = np.arange(len(unit))
    own = everyone if entity is None else entity
    return _edges(unit, _scan(unit, everyone, neighbors, cutoff, own), neighbors, cutoff)


def approximate(
    unit: Floats,
    *,
    neighbors: int,
    cutoff: float,
    seed: int,
    probes: int = 32,
    entity: Indices | None = None,
) -> Edges:
    """As `exact`, but of each node only the `probes` nearest of 4·√N cells are searched; needs faiss.

    The cells come from k-means with `seed`, so that the same embeddings give the same edges. The recall is measured
    against the exact neighbours of 500 nodes.
    """
    try:
        import faiss
    except ImportError:
        raise DataError(
            "an approximate search needs faiss: pip install 'atomica-dgl[network]', or choose an exact one"
        ) from None
    nodes, width = unit.shape
    cells = max(1, min(nodes, int(4 * nodes**0.5)))
    coarse = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFFlat(coarse, width, cells, faiss.METRIC_INNER_PRODUCT)
    # The warning about few training points is for data that change later; these do not.
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(unit)
    index.add(unit)
    index.nprobe = min(probes, cells)

    everyone = np.arange(nodes)
    own = everyone if entity is None else entity
    # A node finds those of its own entity as well, which are taken out again.
    asked = min(neighbors + int(np.bincount(own).max()), nodes)

    def search(queries: Indices) -> Pairs:
        if not neighbors:
            ends, _, near = index.range_search(unit[queries], cutoff - _SLACK)
            one = np.repeat(queries, (ends[1:] - ends[:-1]).astype(np.int64))
            apart = own[one] != own[near]
            return one[apart], near[apart]
        similar, near = index.search(unit[queries], asked)
        other = (near >= 0) & (own[queries][:, None] != own[near])
        row, column = np.nonzero(other & (similar >= cutoff - _SLACK))
        row, column = _first(row, column, neighbors)
        return queries[row], near[row, column]

    edges = _edges(unit, _in_blocks(search, everyone, 4096), neighbors, cutoff)
    sample = np.sort(np.random.default_rng(seed).permutation(nodes)[:_SAMPLE])
    wanted = _edges(unit, _scan(unit, sample, neighbors, cutoff, own), neighbors, cutoff)
    got = _edges(unit, _in_blocks(search, sample, 4096), neighbors, cutoff)
    common = np.isin(wanted.first * nodes + wanted.second, got.first * nodes + got.second).sum()
    return edges._replace(recall=float(common / max(1, len(wanted.first))))


def _in_blocks(search: Callable[[Indices], Pairs], queries: Indices, rows: int) -> Iterator[Pairs]:
    for start in range(0, len(queries), rows):
        yield search(queries[start : start + rows])


def _first(row: Indices, column: Indices, count: int) -> tuple[Indices, Indices]:
    """The first `count` entries of every row, of entries sorted by row."""
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return row[rank < count], column[rank < count]


def _scan(unit: Floats, queries: Indices, neighbors: int, cutoff: float, entity: Indices) -> Iterator[Pairs]:
    """The pairs of some nodes [Q] from all cosines of these nodes."""
    nodes = len(unit)
    alone = len(np.unique(entity)) == nodes

    def search(block: Indices) -> Pairs:
        similar = unit[block] @ unit.T
        if alone:
            similar[np.arange(len(block)), block] = -np.inf
        else:
            similar[entity[block][:, None] == entity] = -np.inf
        if not neighbors or neighbors >= nodes:
            row, column = np.nonzero(similar >= cutoff - _SLACK)
            return block[row], column
        least = np.partition(similar, nodes - neighbors, axis=1)[:, nodes - neighbors]
        row, column = np.nonzero(similar >= np.maximum(least, cutoff - _SLACK)[:, None])
        # Equal cosines at the end of the list: the lower index first.
        order = np.lexsort((column, -similar[row, column], row))
        row, column = _first(row[order], column[order], neighbors)
        return block[row], column

    return _in_blocks(search, queries, max(1, _CELLS // max(1, nodes)))


def _edges(unit: Floats, pairs: Iterator[Pairs], neighbors: int, cutoff: float) -> Edges:
    """Each pair once, with its cosine in float64; those below the cutoff are dropped."""
    nodes = len(unit)
    keys: list[Indices] = []
    total = 0
    for one, other in pairs:
        key = np.unique(np.minimum(one, other) * nodes + np.maximum(one, other))
        keys.append(key)
        total += len(key)
        # Pairs come from both ends, at most twice.
        if total > 2 * MAX_EDGES:
            fewer = f", or network.neighbors below {neighbors}" if neighbors else ", or set network.neighbors"
            raise DataError(
                f"more than {MAX_EDGES:,} edges with a cosine of at least {cutoff:g}: choose a higher network.cutoff"
                + fewer
            )
    joined = np.unique(np.concatenate(keys)) if keys else np.zeros(0, dtype=np.int64)
    first, second = np.divmod(joined, max(1, nodes))
    cosine = np.empty(len(joined))
    for start in range(0, len(joined), 1 << 16):
        here = slice(start, start + (1 << 16))
        one, other = unit[first[here]].astype(np.float64), unit[second[here]].astype(np.float64)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosine[here] = np.einsum("eh,eh->e", one, other) / lengths
    keep = cosine >= cutoff
    return Edges(first[keep], second[keep], np.minimum(cosine[keep], 1.0))
