"""Labels of blocks and vectors of complexes read from files; blocks left out at random, and what goes with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from atomica.data import graph as graphs
from atomica.data.dataset import open_dataset
from atomica.data.graph import graph_from_arrays
from atomica.data.labels import BlockLabels, BlockTargets, ComplexVectors
from atomica.data.sampling import DataConfig, select_rows
from atomica.errors import DataError
from atomica.heads.residue import ResidueBinaryConfig, ResidueBinaryHead
from atomica.keys import GLOBAL_BLOCK
from atomica.testing import small_model
from atomica.train.loader import Split


@pytest.fixture(scope="module")
def demo():
    return open_dataset("demo://pockets")


def rows_of(dataset, input):
    return select_rows(dataset, "test", DataConfig(train="demo://pockets", input=input), own=False)


def encode(texts):
    return ResidueBinaryHead.encode_labels(ResidueBinaryConfig(), texts)


def test_labels_find_their_residues(demo, tmp_path):
    """Of both partners, by chain, number and insertion code; others have none."""
    record = next(one for one in (demo[row] for row in range(len(demo))) if set(one.segment_ids) == {0, 1})
    blocks = [int(np.flatnonzero(record.segment_ids == s)[2]) for s in (0, 1)]
    lines = [
        f"{record.id},{record.block_chains[b]},{record.block_resnums[b]},{record.block_icodes[b]},1"
        for b in blocks
    ]
    path = tmp_path / "labels.csv"
    lines += [
        f"{record.id},{record.block_chains[blocks[0]]},{record.block_resnums[blocks[0]]},Z,0",
        "other,A,1,,1",
    ]
    path.write_text("id,chain,resnum,icode,label\n" + "\n".join(lines) + "\n")
    labels = BlockLabels(path)
    assert [block for block, text in enumerate(labels.texts(record, "label")) if text] == blocks
    assert labels.unmet(record) == 1
    alone = record.view("segment0")
    assert [block for block, text in enumerate(labels.texts(alone, "label")) if text] == blocks[:1]
    with pytest.raises(DataError, match="has no column 'site'; it has label"):
        labels.texts(record, "site")


def test_targets_of_all_blocks(demo, tmp_path):
    rows = rows_of(demo, "segment0")
    path = tmp_path / "labels.csv"
    lines = ["id,chain,resnum,icode,label"]
    for row in rows.rows.tolist():
        record = demo[row].view("segment0")
        lines += [
            f"{record.id},{chain},{number},{code},{number % 2}"
            for chain, number, code in zip(
                record.block_chains, record.block_resnums.tolist(), record.block_icodes, strict=True
            )
            if number % 3 and chain
        ]
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    found = BlockTargets.read(BlockLabels(path), "label", rows, "segment0", encode)
    assert len(found.values) == found.ends[-1] == rows.blocks.sum()
    values, known = found.answered()
    numbers = [
        int("".join(c for c in name.rsplit(" ", 1)[1] if c.isdigit() or c == "-")) for name in found.names
    ]
    for value, there, number in zip(values.tolist(), known.tolist(), numbers, strict=True):
        assert (value, there) == ((number % 2, True) if number % 3 else (-1, False))
    assert found.of_ordinary(rows.ids) == [name.rsplit(" ", 2)[0] for name in found.names]
    second = found.rows(np.array([1]))
    assert {found.ids[block] for block in second} == {rows.ids[1]}
    bare = BlockTargets.read(None, "label", rows, "segment0", encode)
    assert not bare.answered()[1].any()


# ------------------------------------------------------------------------------------------- blocks left out


def test_blocks_left_out(demo):
    generator = np.random.default_rng(0)
    shares = []
    for row in range(0, len(demo), 8):
        record = demo[row]
        found, kept = record.sampled(0.6, generator)
        ordinary = record.block_types != GLOBAL_BLOCK
        assert kept[~ordinary].all()
        shares += kept[ordinary].tolist()
        assert found.block_types.tolist() == record.block_types[kept].tolist()
        assert list(found.block_resnums) == list(record.block_resnums[kept])
        atoms = np.repeat(kept, record.block_lengths)
        of_global = np.repeat(found.block_types == GLOBAL_BLOCK, found.block_lengths)
        segment = np.repeat(found.segment_ids, found.block_lengths)
        np.testing.assert_array_equal(found.positions[~of_global], record.positions[atoms][~of_global])
        for s in np.unique(segment):
            mean = found.positions[(segment == s) & ~of_global].mean(axis=0)
            np.testing.assert_allclose(found.positions[(segment == s) & of_global], mean[None], atol=1e-4)
        for bond in (found.torsion_fixed, found.torsion_moving, found.torsion_atoms, found.bond_first):
            assert len(bond) == 0 or (bond.min() >= 0 and bond.max() < len(found.positions))
        assert found.torsion_sizes.sum() == len(found.torsion_atoms)
        # Neighbours are those of what is left.
        options = {"k_neighbors": 4, "atom_global": True, "block_global": True}
        one = graphs.batch([found], **options)
        other = graph_from_arrays(
            found.positions,
            found.block_types,
            found.atom_types,
            found.block_lengths,
            found.segment_ids,
            np.array([len(found.block_types)]),
            **options,
        )
        for kind in one.canonical_etypes:
            for left, right in zip(one.edges(etype=kind), other.edges(etype=kind), strict=True):
                assert torch.equal(left, right)
    assert np.mean(shares) == pytest.approx(0.6, abs=0.03)


def test_something_of_each_partner_is_left(demo):
    record = demo[0]
    found, _ = record.sampled(1e-9, np.random.default_rng(1))
    ordinary = found.segment_ids[found.block_types != GLOBAL_BLOCK]
    assert sorted(ordinary.tolist()) == sorted(set(record.segment_ids.tolist()))


def test_labels_and_vectors_follow_the_blocks_that_are_left(demo, tmp_path):
    """The label of each block is its type here, so that it can be told from the graph; also of cropped complexes."""
    rows = rows_of(demo, "complex")
    records = [demo[row] for row in rows.rows.tolist()]
    types = torch.from_numpy(np.concatenate([record.block_types for record in records]).astype(np.float32))
    ends = np.cumsum([len(record.block_types) for record in records])
    labels = BlockTargets(types, ends, [], [], [], np.zeros(0, dtype=bool))
    path = tmp_path / "vectors.safetensors"
    save_file({name: np.full(3, place, np.float32) for place, name in enumerate(rows.ids)}, path)
    model = small_model("residue_regression", {"layers": 1})
    split = Split(
        rows=rows,
        targets={},
        known={},
        input="complex",
        graph_options=model.config.graph_options(),
        batch_blocks=10**6,
        seed=5,
        block_targets={"residue_regression": labels},
        vectors=ComplexVectors(path),
        keep_blocks=0.5,
        keep_whole=0.5,
    )
    draws = np.array([3, 1, 2, 0])
    sizes = {}
    for name, one in {
        "all": replace(split, keep_blocks=1.0),
        "sampled": split,
        "cropped": replace(split, max_blocks=30),
    }.items():
        batch = one.load(draws, model, epoch=2)
        assert torch.equal(batch.targets["residue_regression"], batch.graph.blocks.type.float())
        assert batch.graph.vectors(3)[:, 0].tolist() == [3.0, 1.0, 2.0, 0.0]
        sizes[name] = torch.bincount(batch.graph.graph_of_block).tolist()
        again = one.load(draws, model, epoch=2)
        assert torch.equal(again.graph.blocks.x, batch.graph.blocks.x)
    whole = [a == b for a, b in zip(sizes["all"], sizes["sampled"], strict=True)]
    assert set(whole) == {True, False}, "some complexes are left as they are"
    assert max(sizes["cropped"]) <= 30
    other = split.load(draws, model, epoch=3).graph
    assert torch.bincount(other.graph_of_block).tolist() != sizes["sampled"], "another draw in every epoch"


# ------------------------------------------------------------------------------------------- vectors


def test_vectors_that_do_not_fit(tmp_path):
    path = tmp_path / "vectors.safetensors"
    save_file({"a": np.zeros(2, np.float32), "b": np.array([1.0, np.nan], np.float32)}, path)
    vectors = ComplexVectors(path)
    assert vectors.problem(["a", "b"], 2) == ""
    assert "lacks 1 of 2 complexes, c for one" in vectors.problem(["a", "c"], 2)
    assert "must hold [3] for each complex" in vectors.problem(["a"], 3)
    with pytest.raises(DataError, match="b has a number that is not finite"):
        vectors.rows(["a", "b"])
    (tmp_path / "text").write_text("no")
    with pytest.raises(DataError, match="no safetensors file"):
        ComplexVectors(tmp_path / "text")
