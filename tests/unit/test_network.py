"""Networks of embeddings: neighbours against brute force, components, and a permutation test that keeps its level."""

import numpy as np
import pytest

from atomica.analysis import groups
from atomica.analysis import similar as neighbors
from atomica.errors import DataError


def slow_edges(values, k, cutoff, entity=None):
    """All pairs of which one has the other among its k most alike, by sorting every row."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    cosine = unit @ unit.T
    entity = np.arange(len(values)) if entity is None else entity
    cosine[entity[:, None] == entity] = -np.inf
    found = set()
    for node, row in enumerate(cosine):
        near = np.argsort(-row, kind="stable")[: k or None]
        found |= {(min(node, other), max(node, other)) for other in near.tolist() if row[other] >= cutoff}
    return found


def as_set(edges):
    return set(zip(edges.first.tolist(), edges.second.tolist(), strict=True))


def blobs(generator, clusters, each, width=16, spread=0.3):
    centers = generator.normal(size=(clusters, width))
    return (centers[:, None] + spread * generator.normal(size=(clusters, each, width))).reshape(-1, width)


@pytest.mark.parametrize(("k", "cutoff"), [(1, -1.0), (5, -1.0), (5, 0.5), (0, 0.6), (500, -1.0)])
def test_exact_neighbours_are_those_of_brute_force(k, cutoff, monkeypatch):
    monkeypatch.setattr(neighbors, "_CELLS", 1000)  # several blocks
    values = np.random.default_rng(1).normal(size=(151, 8))
    edges = neighbors.exact(neighbors.unit_rows(values), neighbors=k, cutoff=cutoff)
    assert as_set(edges) == slow_edges(values, k, cutoff)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(edges.cosine, (unit[edges.first] * unit[edges.second]).sum(axis=1), atol=1e-6)
    assert edges.recall == 1.0


def test_nodes_of_one_entity_are_not_joined():
    pytest.importorskip("faiss")
    values = np.random.default_rng(7).normal(size=(90, 4))
    entity = np.repeat(np.arange(30), 3)
    unit = neighbors.unit_rows(values)
    for k, cutoff in ((4, -1.0), (4, 0.9), (0, 0.8)):
        wanted = slow_edges(values, k, cutoff, entity)
        assert as_set(neighbors.exact(unit, neighbors=k, cutoff=cutoff, entity=entity)) == wanted
        options = {"neighbors": k, "cutoff": cutoff, "seed": 0, "probes": 1000}
        assert as_set(neighbors.approximate(unit, entity=entity, **options)) == wanted


def test_the_cutoff_is_inclusive_and_equal_embeddings_are_joined():
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    edges = neighbors.exact(neighbors.unit_rows(values), neighbors=0, cutoff=1.0)
    assert as_set(edges) == {(0, 1)}
    assert neighbors.exact(neighbors.unit_rows(values[:1]), neighbors=3, cutoff=-1.0).first.size == 0


def test_embeddings_without_direction_are_named():
    with pytest.raises(DataError, match="2 embeddings are zero or not finite: rows 1, 2"):
        neighbors.unit_rows(np.array([[1.0, 0], [0, 0], [np.nan, 1]]))


def test_too_many_edges_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(neighbors, "MAX_EDGES", 100)
    unit = neighbors.unit_rows(np.random.default_rng(0).normal(size=(300, 4)))
    with pytest.raises(
        DataError, match="more than 100 edges .* higher network.cutoff, or set network.neighbors"
    ):
        neighbors.exact(unit, neighbors=0, cutoff=-1.0)


def test_approximate_neighbours_have_the_recall_they_state():
    pytest.importorskip("faiss")
    values = blobs(np.random.default_rng(2), 30, 40)
    unit = neighbors.unit_rows(values)
    for k, cutoff in ((8, -1.0), (0, 0.9)):
        wanted = as_set(neighbors.exact(unit, neighbors=k, cutoff=cutoff))
        found = neighbors.approximate(unit, neighbors=k, cutoff=cutoff, seed=0)
        again = neighbors.approximate(unit, neighbors=k, cutoff=cutoff, seed=0)
        assert as_set(found) == as_set(again)
        recall = len(as_set(found) & wanted) / len(wanted)
        assert recall > 0.95
        assert abs(recall - found.recall) < 0.02
    poor = neighbors.approximate(unit, neighbors=8, cutoff=-1.0, seed=0, probes=1)
    assert poor.recall < found.recall


def ring(nodes):
    """Every node with the two beside it."""
    first = np.arange(nodes)
    return first, (first + 1) % nodes


def test_components_are_numbered_by_size():
    matrix = groups.adjacency(7, np.array([0, 2, 3]), np.array([1, 3, 4]))
    assert groups.components(matrix).tolist() == [1, 1, 0, 0, 0, 2, 3]


def test_a_planted_group_is_found_and_a_scattered_one_is_not():
    generator = np.random.default_rng(3)
    unit = neighbors.unit_rows(blobs(generator, 12, 25))
    edges = neighbors.exact(unit, neighbors=5, cutoff=-1.0)
    matrix = groups.adjacency(300, edges.first, edges.second)
    for null in groups.NULLS:
        stratum = groups.strata(np.asarray(matrix.sum(axis=1)), null)
        planted = groups.connectedness(matrix, np.arange(25, 40), stratum, draws=199, seed=0)
        assert planted.edges_p == planted.largest_p == 1 / 200
        assert planted.members == 15
        assert planted.edges > 3 * planted.edges_expected
        scattered = groups.connectedness(matrix, np.arange(0, 300, 25), stratum, draws=199, seed=0)
        assert scattered.edges_p > 0.05
    with pytest.raises(DataError, match="at least two members"):
        groups.connectedness(matrix, np.array([4, 4]), stratum, draws=9, seed=0)


def test_hubs_are_connected_by_chance_where_degrees_are_kept():
    """In a network that degrees alone explain, a group of hubs is no more connected than other hubs are."""
    generator = np.random.default_rng(4)
    weights = np.concatenate([np.full(60, 8.0), np.full(540, 1.0)])
    chance = np.minimum(1, np.outer(weights, weights) * 0.006)
    first, second = np.nonzero(np.triu(generator.random(chance.shape) < chance, 1))
    matrix = groups.adjacency(600, first, second)
    degrees = np.asarray(matrix.sum(axis=1))
    hubs = generator.permutation(60)[:20]
    results = {
        null: groups.connectedness(matrix, hubs, groups.strata(degrees, null), draws=199, seed=0)
        for null in groups.NULLS
    }
    assert results["uniform"].edges_p == 1 / 200
    assert results["degree"].edges_p > 0.05


@pytest.mark.parametrize("null", groups.NULLS)
def test_p_values_of_random_groups_are_uniform(null):
    from scipy.stats import kstest

    generator = np.random.default_rng(5)
    first, second = np.nonzero(np.triu(generator.random((400, 400)) < 0.1, 1))
    matrix = groups.adjacency(400, first, second)
    stratum = groups.strata(np.asarray(matrix.sum(axis=1)), null)
    p = []
    for trial in range(80):
        members = generator.permutation(400)[:60]
        p.append(groups.connectedness(matrix, members, stratum, draws=99, seed=trial).edges_p)
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_a_group_never_beats_itself():
    """Every draw of a group that fills its stratum is the group: nothing is unusual about it."""
    matrix = groups.adjacency(30, *ring(30))
    stratum = groups.strata(np.asarray(matrix.sum(axis=1)), "degree")
    result = groups.connectedness(matrix, np.arange(30), stratum, draws=9, seed=0)
    assert (result.edges_p, result.largest_p) == (1.0, 1.0)
    assert (result.edges, result.largest) == (30, 30)


def test_statistics_of_many_groups_are_those_of_networkx():
    import networkx

    generator = np.random.default_rng(6)
    first, second = np.nonzero(np.triu(generator.random((50, 50)) < 0.04, 1))
    drawn = np.zeros((20, 50), dtype=bool)
    for row in drawn:
        row[generator.permutation(50)[:17]] = True
    graph = networkx.Graph(zip(first.tolist(), second.tolist(), strict=True))
    graph.add_nodes_from(range(50))
    wanted = [
        (len(part.edges), max(map(len, networkx.connected_components(part))))
        for part in (graph.subgraph(np.flatnonzero(row).tolist()) for row in drawn)
    ]
    assert [tuple(row) for row in groups.edges_and_largest(drawn, first, second).tolist()] == wanted
