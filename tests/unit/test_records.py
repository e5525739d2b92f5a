"""Data sets: opening, refusing, zero copies, one partner alone, several sets as one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from atomica.data import shards
from atomica.data.dataset import Mixture, open_dataset
from atomica.errors import DataError, ShardError
from atomica.keys import GLOBAL_BLOCK, RECORD_FIELDS, SCHEMA_VERSION


@pytest.fixture
def copy(tiny_set, tmp_path):
    """A copy of the tiny data set that may be damaged."""
    return shutil.copytree(tiny_set, tmp_path / "copy")


def edit(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def shard(folder):
    return folder / json.loads((folder / "manifest.json").read_text())["shards"][0]["file"]


# ------------------------------------------------------------------------------------------------ opening


def test_reads_what_the_shards_hold(tiny_set):
    dataset = open_dataset(tiny_set)
    assert len(dataset) == dataset.manifest["counts"]["complexes"] == len(dataset.ids) == len(dataset.splits)
    assert len(dataset.manifest["shards"]) > 1
    rows = []
    for entry in dataset.manifest["shards"]:
        with pa.memory_map(str(tiny_set / entry["file"])) as mapped:
            rows += pa.ipc.open_file(mapped).read_all().to_pylist()
    k = dataset.neighbors
    for index, row in enumerate(rows):
        record = dataset[index]
        for field in RECORD_FIELDS:
            value, wanted = getattr(record, field.name), row[field.name]
            if field.dtype.startswith("map"):
                assert value == dict(wanted)
            elif field.name in ("atom_intra", "atom_inter", "block_intra", "block_inter"):
                assert value.shape == (len(wanted) // k, k)
                assert value.ravel().tolist() == wanted
            elif field.shape and field.dtype != "utf8":
                assert value.dtype == field.dtype
                assert value.tolist() == wanted
            else:
                assert value == wanted
    assert [row["id"] for row in rows] == dataset.ids
    assert dataset[-1].id == dataset.ids[-1]
    assert [record.id for record in dataset[1:3]] == dataset.ids[1:3]
    assert dataset.column("label") == [dict(row["labels"]).get("label") for row in rows]
    assert dataset.block_counts().tolist() == [len(row["block_types"]) for row in rows]
    with pytest.raises(IndexError, match="row 1000000 of a data set of"):
        dataset[1_000_000]
    dataset.verify()


def test_numbers_are_views_of_the_mapped_file(tiny_set):
    before = pa.total_allocated_bytes()
    dataset = open_dataset(tiny_set)
    record = dataset[3]
    arrays = [getattr(record, field.name) for field in RECORD_FIELDS if field.shape and field.dtype != "utf8"]
    assert not any(array.flags.owndata or array.flags.writeable for array in arrays)
    assert pa.total_allocated_bytes() - before < 20_000  # ids only


def test_all_columns_there_are_named(tiny_set):
    with pytest.raises(DataError, match=r"has no column 'lable'; it has .*label"):
        open_dataset(tiny_set).column("lable")


def test_segment_counts(tiny_set):
    dataset = open_dataset(tiny_set)
    for s in (0, 1):
        counts = dataset.block_counts(f"segment{s}")
        assert counts.tolist() == [int((record.segment_ids == s).sum()) for record in dataset]


def test_compressed_shards_read_the_same(copy, monkeypatch):
    """Those used last are kept unpacked, as far as there is room."""
    plain = open_dataset(copy)
    expected = [record.positions.copy() for record in plain]
    ids = plain.ids

    def recompress(manifest):
        for entry in manifest["shards"]:
            path = copy / entry["file"]
            table = pa.ipc.open_file(path.read_bytes()).read_all()
            with pa.ipc.new_file(
                path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
            ) as out:
                out.write_table(table, max_chunksize=7)
            entry["bytes"] = path.stat().st_size

    def packed(manifest):
        manifest["options"]["compression"] = "zstd"

    edit(copy, recompress)
    edit(copy, packed)
    whole = open_dataset(copy)
    list(whole)
    kept = whole._shards[0].unpacked
    everything = kept.bytes
    monkeypatch.setattr(shards, "UNPACKED", everything // 3)
    dataset = open_dataset(copy)
    assert dataset.ids == ids
    for index in np.random.default_rng(0).permutation(len(dataset)):
        assert np.array_equal(dataset[index].positions, expected[index])
    assert 0 < dataset._shards[0].unpacked.bytes <= max(everything // 3, everything // 2)
    monkeypatch.setattr(shards, "UNPACKED", 0)  # the batch that is read is kept all the same
    for index in range(len(dataset)):
        assert np.array_equal(dataset[index].positions, expected[index])
    assert 0 < dataset._shards[0].unpacked.bytes < everything
    assert open_dataset("demo://pockets")._shards[0].unpacked is not None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda m: m.update(schema_version=7, atomica_prep_version="9.9"),
            DataError,
            f"schema version 7 .*9.9.*reads {SCHEMA_VERSION}",
        ),
        (
            lambda m: m["vocabulary"].update(blocks=151),
            DataError,
            "vocabulary of 151 block and 121 atom types",
        ),
        (lambda m: m["vocabulary"].update(atoms=99), DataError, "vocabulary of 150 block and 99 atom types"),
        (lambda m: m.pop("shards"), DataError, "lacks or garbles 'shards'"),
        (lambda m: m["shards"][0].update(rows=1), ShardError, "rows, the manifest says 1"),
        (lambda m: m["shards"][0].update(bytes=1), ShardError, "bytes, the manifest says 1"),
        (lambda m: m["shards"][0].update(file="gone.arrow"), ShardError, "there is no such file"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(copy, change, error, message):
    edit(copy, change)
    with pytest.raises(error, match=message):
        open_dataset(copy)


def test_shards_that_do_not_fit_are_refused(copy):
    path = shard(copy)
    table = pa.ipc.open_file(path.read_bytes()).read_all()

    def rewrite(changed):
        with pa.ipc.new_file(path, changed.schema) as out:
            out.write_table(changed)
        edit(copy, lambda m: m["shards"][0].update(bytes=path.stat().st_size))

    rewrite(table.drop_columns(["atom_types"]))
    with pytest.raises(
        ShardError, match=f"columns are not those of schema {SCHEMA_VERSION}: missing atom_types"
    ):
        open_dataset(copy)
    rewrite(table.set_column(1, "modality", table.column("modality").cast(pa.int64())))
    with pytest.raises(ShardError, match="column modality has type int64, expected int8"):
        open_dataset(copy)
    for name, text in (
        ("torsion_atoms", "torsion_sizes: adds up to"),
        ("bond_first", "bond_second: has shape"),
    ):
        at = table.column_names.index(name)
        one = pa.array([[0]] * len(table), table.schema.field(name).type)
        rewrite(table.set_column(at, table.schema.field(name), one))
        with pytest.raises(ShardError, match=text):
            open_dataset(copy)[0]
    path.write_bytes(b"no arrow file at all")
    edit(copy, lambda m: m["shards"][0].update(bytes=path.stat().st_size))
    with pytest.raises(ShardError, match="not an Arrow IPC file"):
        open_dataset(copy)


def test_a_changed_byte_is_found_by_verify(copy):
    path = shard(copy)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ShardError, match="SHA-256 differs"):
        open_dataset(copy).verify()


def test_damaged_shards_never_end_the_process(copy):
    """Bits, lengths and pieces lost anywhere in a file: an error of ours, or a record that is in itself whole."""
    path = shard(copy)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for trial in range(300):
        content = bytearray(whole)
        at = int(generator.integers(len(whole) - 4))
        if trial % 3 == 0:
            content[at] ^= 1 << int(generator.integers(8))
        elif trial % 3 == 1:
            content[at : at + 4] = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")[trial // 3 % 3]
        else:
            del content[at : at + int(generator.integers(1, 64))]
        # Another file, because the one before may still be mapped.
        name = f"damaged-{trial}.arrow"
        (copy / name).write_bytes(content)
        size = len(content)
        edit(copy, lambda m, name=name, size=size: m["shards"][0].update(file=name, bytes=size))
        try:
            dataset = open_dataset(copy)
            for record in dataset:
                record.segment(0)
                assert [len(list(record.atom_names)), len(record.positions)] == [len(record.atom_types)] * 2
            assert len(dataset.ids) == len(dataset.splits) == len(dataset.block_counts("segment0"))
        except (DataError, ShardError):
            refused += 1
        (copy / name).unlink()
    assert 30 < refused < 300


def test_what_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        open_dataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        open_dataset(tmp_path / "manifest.json")
    with pytest.raises(DataError, match="no such demo data set; there is"):
        open_dataset("demo://none")


# ------------------------------------------------------------------------------------------- one partner


@pytest.mark.parametrize("s", [0, 1])
def test_segment_is_the_partner_alone(tiny_set, s):
    record = open_dataset(tiny_set)[5]
    alone = record.segment(s)
    blocks = np.flatnonzero(record.segment_ids == s)
    lengths = record.block_lengths.astype(np.int64)
    first = np.cumsum(lengths) - lengths
    atoms = np.concatenate([np.arange(first[b], first[b] + lengths[b]) for b in blocks])
    assert alone.block_types.tolist() == record.block_types[blocks].tolist()
    assert alone.block_types[0] == GLOBAL_BLOCK
    assert alone.positions.tolist() == record.positions[atoms].tolist()
    assert list(alone.atom_names) == [list(record.atom_names)[a] for a in atoms]
    assert alone.block_resnums.tolist() == record.block_resnums[blocks].tolist()
    assert (alone.id, alone.labels, alone.modality) == (record.id, record.labels, -1)
    assert not alone.segment_ids.any()
    assert (alone.atom_inter == -1).all()
    assert (alone.block_inter == -1).all()
    for name, kept in (("atom_intra", atoms), ("block_intra", blocks)):
        original = getattr(record, name)[kept]
        back = np.append(kept, -1)[getattr(alone, name)]
        assert back.tolist() == original.tolist()


def test_the_graph_of_a_segment_is_that_of_its_arrays(tiny_set):
    import torch

    from atomica.data.graph import batch, graph_from_arrays

    alone = open_dataset(tiny_set)[5].segment(1)
    stored = batch([alone], k_neighbors=4)
    computed = graph_from_arrays(
        alone.positions,
        alone.block_types.astype(int),
        alone.atom_types.astype(int),
        alone.block_lengths.astype(int),
        alone.segment_ids.astype(int),
        [len(alone.block_types)],
        k_neighbors=4,
    )
    for relation in stored.canonical_etypes:
        one, other = (
            set(zip(*(ends.tolist() for ends in graph.edges(etype=relation)), strict=True))
            for graph in (stored, computed)
        )
        assert one == other, relation
    assert torch.equal(stored.nodes["atom"].data["x"], computed.nodes["atom"].data["x"])


def test_a_segment_that_is_not_there(tiny_set):
    alone = open_dataset(tiny_set)[0].segment(0)
    with pytest.raises(DataError, match="has no segment 1"):
        alone.segment(1)


def test_a_mixture_answers_like_one_data_set(tiny_set):
    one = open_dataset(tiny_set)
    both = Mixture([one, one])
    assert len(both) == 2 * len(one)
    assert both.ids == one.ids * 2
    assert both.splits == one.splits * 2
    assert both.column("label") == one.column("label") * 2
    assert both.block_counts("segment0").tolist() == one.block_counts("segment0").tolist() * 2
    assert both.modalities.tolist() == one.modalities.tolist() * 2
    assert both.sources.tolist() == [0] * len(one) + [1] * len(one)
    assert both[-1].id == both[len(both) - 1].id == one.ids[-1]
    assert [record.id for record in both[59:61]] == [one.ids[59], one.ids[0]]
    assert both.fingerprint not in (one.fingerprint, Mixture([one, one, one]).fingerprint)
    rows = both.rows_of("valid", own=False)
    assert rows.tolist() == [r for r, split in enumerate(one.splits * 2) if split == "valid"]
    assert both.graphs([0, 61]).batch_size == 2
    with pytest.raises(IndexError):
        both[len(both)]
    with pytest.raises(DataError, match="has no column 'lable'"):
        both.column("lable")
