"""The heterograph: edges against a brute-force search, batching against DGL's own, frames, files, refusals."""

import numpy as np
import pytest
import torch

import atomica
from atomica import keys
from atomica.data import graph, inputs
from atomica.errors import DataError
from atomica.testing import join, random_interface

dgl = graph.dgl


def brute_force(arrays, level, k):
    """Intra and inter edges (receiver, sender) by sorting all pairs, as the definition says."""
    atom_block = np.repeat(np.arange(len(arrays["B"])), arrays["block_lengths"])
    complex_of = np.repeat(np.arange(len(arrays["lengths"])), arrays["lengths"])
    where = arrays["X"].astype(np.float64)
    segment, special = arrays["segment_ids"], arrays["B"] == keys.GLOBAL_BLOCK
    if level == "atom":
        segment, special, complex_of = segment[atom_block], special[atom_block], complex_of[atom_block]
    else:
        centers = [where[atom_block == b].mean(axis=0) for b in range(len(arrays["B"]))]
        where = np.array(centers).astype(np.float32).astype(np.float64)
    found = {"intra": set(), "inter": set()}
    for receiver in np.flatnonzero(~special):
        for kind in found:
            same = segment == segment[receiver]
            allowed = (same if kind == "intra" else ~same) & ~special & (complex_of == complex_of[receiver])
            allowed[receiver] = False
            candidates = np.flatnonzero(allowed)
            distance = ((where[candidates] - where[receiver]) ** 2).sum(axis=1)
            for sender in candidates[np.argsort(distance, kind="stable")][:k]:
                found[kind].add((int(receiver), int(sender)))
    return found


def edge_set(g, level, kind):
    sender, receiver = g.edges(etype=(level, kind, level))
    pairs = set(zip(receiver.tolist(), sender.tolist(), strict=True))
    assert len(pairs) == len(sender), "an edge is there twice"
    return pairs


@pytest.mark.parametrize("k", [1, 4, 50])
def test_edges_are_the_nearest(k):
    arrays = join([random_interface(1), random_interface(2, (7, 0)), random_interface(3, (3, 12))])
    g = atomica.graph_from_arrays(**arrays, k_neighbors=k)
    for level in ("atom", "block"):
        expected = brute_force(arrays, level, k)
        for kind in ("intra", "inter"):
            assert edge_set(g, level, kind) == expected[kind], (level, kind)


def test_equal_distances_go_to_the_lower_index():
    x = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]]
    g = atomica.graph_from_arrays(x, [3, 4], [2, 8, 8, 8, 8], [1, 4], [0, 0], [2], k_neighbors=2)
    assert (1, 2) in edge_set(g, "atom", "intra")
    assert (1, 3) in edge_set(g, "atom", "intra")
    assert (1, 4) not in edge_set(g, "atom", "intra")


def test_global_edges():
    arrays = join([random_interface(1, (3, 2)), random_interface(2, (2, 0))])
    g = atomica.graph_from_arrays(**arrays, atom_global=True)
    special = np.flatnonzero(arrays["B"] == keys.GLOBAL_BLOCK).tolist()
    assert special == [0, 4, 7]
    normal = {(0, b) for b in (1, 2, 3)} | {(4, b) for b in (5, 6)} | {(7, b) for b in (8, 9)}
    assert edge_set(g, "block", "global_normal") == normal | {(b, a) for a, b in normal}
    assert edge_set(g, "block", "global_global") == {(0, 4), (4, 0)}
    assert len(edge_set(g, "atom", "global_normal")) == 2 * int((arrays["A"] != keys.GLOBAL_ATOM).sum())


def test_batch_is_dgl_batch_of_the_single_graphs():
    complexes = [random_interface(1), random_interface(2, (9, 1)), random_interface(3, (4, 0))]
    together = atomica.graph_from_arrays(**join(complexes))
    expected = dgl.batch([atomica.graph_from_arrays(**arrays) for arrays in complexes])
    assert together.ntypes == expected.ntypes
    assert together.canonical_etypes == expected.canonical_etypes
    for ntype in together.ntypes:
        assert torch.equal(together.batch_num_nodes(ntype), expected.batch_num_nodes(ntype))
        for name, value in expected.nodes[ntype].data.items():
            assert torch.equal(together.nodes[ntype].data[name], value), (ntype, name)
    for etype in together.canonical_etypes:
        assert torch.equal(together.batch_num_edges(etype), expected.batch_num_edges(etype))
        ours, theirs = together.edges(etype=etype), expected.edges(etype=etype)
        assert set(zip(*map(torch.Tensor.tolist, ours), strict=True)) == set(
            zip(*map(torch.Tensor.tolist, theirs), strict=True)
        )
    parts = dgl.unbatch(together)
    assert [part.num_nodes("atom") for part in parts] == [len(arrays["A"]) for arrays in complexes]


def test_frames_are_the_declared_ones():
    g = atomica.graph_from_arrays(**random_interface(1))
    declared = {field.name: field for field in keys.GRAPH_FIELDS}
    present = {f"{ntype}.{name}" for ntype in g.ntypes for name in g.nodes[ntype].data}
    assert present == set(declared)
    for name, field in declared.items():
        ntype, _, frame = name.partition(".")
        assert str(g.nodes[ntype].data[frame].dtype) == f"torch.{field.dtype}", name


def test_dgl_message_passing_works_on_our_graphs():
    g = atomica.graph_from_arrays(**random_interface(1))
    g.nodes["atom"].data["one"] = torch.ones(g.num_nodes("atom"), 1)
    g.update_all(
        dgl.function.copy_u("one", "m"), dgl.function.sum("m", "count"), etype=("atom", "of", "block")
    )
    assert g.nodes["block"].data["count"].flatten().int().tolist() == list(
        random_interface(1)["block_lengths"]
    )


def test_files_keep_everything(tmp_path):
    batch = atomica.graph_from_arrays(**join([random_interface(1), random_interface(2)]))
    single = atomica.graph_from_arrays(**random_interface(3))
    graph.save_graphs(tmp_path / "two.bin", [batch, single])
    read = graph.load_graphs(tmp_path / "two.bin")
    for before, after in zip([batch, single], read, strict=True):
        ours, theirs = inputs.inputs(before), inputs.inputs(after)
        assert theirs.num_graphs == ours.num_graphs
        assert torch.equal(theirs.graph_of_block, ours.graph_of_block)
        assert torch.equal(theirs.atoms.edges.sender, ours.atoms.edges.sender)
        assert torch.equal(theirs.atoms.x, ours.atoms.x)
    with pytest.raises(DataError, match="no such file"):
        graph.load_graphs(tmp_path / "absent.bin")
    (tmp_path / "junk.bin").write_text("junk")
    with pytest.raises(DataError, match="not a file written by save_graphs"):
        graph.load_graphs(tmp_path / "junk.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((3, 3))}, "X: expected shape"),
        ({"X": np.full((41, 3), np.nan)}, "X: "),
        ({"B": np.array([0.5])}, "B: expected one dimension of integers"),
        ({"segment_ids": np.array([0])}, "segment_ids: expected"),
        ({"block_lengths": np.ones(13, dtype=int)}, "block_lengths: must"),
        ({"lengths": np.array([1])}, "lengths: must"),
        ({"segment_ids": np.full(13, 2)}, "segment_ids: only 0 and 1"),
        ({"modality": np.zeros(3, dtype=int)}, "modality: expected"),
    ],
)
def test_bad_arrays_are_refused_by_name(change, message):
    arrays = random_interface(1)
    assert len(arrays["B"]) == 13
    with pytest.raises(DataError, match=message):
        atomica.graph_from_arrays(**{**arrays, **change})


def test_empty_batch_is_refused():
    with pytest.raises(DataError, match="zero complexes"):
        graph.batch([])
