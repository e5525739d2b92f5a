"""What a model makes of the graphs and records it is given: files of DGL, other options, other data, damaged frames."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import atomica
from atomica.data import graph, inputs
from atomica.data.origin import Origin
from atomica.errors import DataError
from atomica.model.contract import Contract
from atomica.testing import join, random_interface, small_model

dgl = graph.dgl


@pytest.fixture(scope="module")
def data():
    return atomica.open_dataset("demo://pockets")


def model_for(view=None, **settings):
    model = small_model(**settings)
    model.made_for = Contract(view=view)
    return model


def same(model, one, other):
    with torch.no_grad():
        for left, right in zip(model.encode(one), model.encode(other), strict=True):
            assert torch.equal(left, right)


# ------------------------------------------------------------------------------------------------ files and pickles


@pytest.mark.parametrize("quirks", [False, True])
def test_files_of_dgl_give_the_same_embeddings(data, tmp_path, quirks):
    """Its own functions forget which nodes belong to which complex, and write true and false as numbers."""
    model = small_model(reference_quirks=quirks)
    given = data.graphs(range(5))
    dgl.save_graphs(str(tmp_path / "theirs.bin"), [given])
    atomica.save_graphs(tmp_path / "ours.bin", given)
    same(model, given, dgl.load_graphs(str(tmp_path / "theirs.bin"))[0][0])
    same(model, given, atomica.load_graphs(tmp_path / "theirs.bin")[0])
    same(model, given, atomica.load_graphs(tmp_path / "ours.bin")[0])
    same(model, given, dgl.load_graphs(str(tmp_path / "ours.bin"))[0][0])
    assert atomica.load_graphs(tmp_path / "theirs.bin")[0].nodes["atom"].data["is_global"].dtype == torch.bool


def test_what_dgl_makes_of_a_graph_gives_the_same_embeddings(data):
    model, given = small_model(), data.graphs(range(3))
    same(model, given, dgl.batch(dgl.unbatch(given)))
    same(model, given, given.int())
    same(model, given, copy.deepcopy(given))
    same(model, given, pickle.loads(pickle.dumps(given)))  # noqa: S301


def test_a_pickled_graph_opens_where_only_the_package_was_imported(data, tmp_path):
    torch.save(data.graphs([0]), tmp_path / "graph.pt")
    code = f"import atomica, torch; g = torch.load({str(tmp_path / 'graph.pt')!r}, weights_only=False); "
    code += "print(g.num_nodes('block'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == (str(len(data[0].block_types)), 0), done.stderr


# ----------------------------------------------------------------------------------------------------- damaged graphs


@pytest.mark.parametrize("name", [field.name for field in atomica.keys.GRAPH_FIELDS])
def test_a_missing_frame_is_named(data, name):
    given, (level, frame) = data.graphs([0]), name.split(".")
    del given.nodes[level].data[frame]
    with pytest.raises(DataError, match=f"frame {name}: the graph has none"):
        small_model().encode(given)


@pytest.mark.parametrize("name", [field.name for field in atomica.keys.GRAPH_FIELDS])
def test_a_frame_of_another_type_is_named(data, name):
    given, (level, frame) = data.graphs([0]), name.split(".")
    found = given.nodes[level].data[frame]
    for wrong in (found.to(torch.int32), found.to(torch.float16), found[:, None]):
        given.nodes[level].data[frame] = wrong
        with pytest.raises(DataError, match=f"frame {name}: holds"):
            small_model().encode(given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: dgl.remove_nodes(g, torch.tensor([3]), ntype="atom"),
            "frame block.place: block 1 had \\d+ atoms",
        ),
        (
            lambda g: dgl.remove_nodes(g, torch.tensor([0]), ntype="block"),
            "first block of a complex is missing",
        ),
        (lambda g: dgl.remove_nodes(g, torch.tensor([7]), ntype="block"), "frame block.place: complex 0"),
        (
            lambda g: dgl.node_subgraph(g, {"atom": torch.arange(50), "block": torch.arange(6)}),
            "frame block.place",
        ),
        (lambda g: dgl.add_nodes(g, 1, ntype="atom"), "must lead from every atom"),
        (lambda g: dgl.to_homogeneous(g), "no nodes of the type 'atom'"),
    ],
)
def test_nodes_that_were_taken_out_are_told(data, change, message):
    with pytest.raises(DataError, match=message):
        small_model().encode(change(data.graphs(range(2))))


def test_numbers_that_are_none_are_told(data):
    for name, value, message in (
        ("x", np.nan, "frame atom.x: row 4 is not finite"),
        ("type", 400, "frame atom.type: holds 400, and the model knows 0 to 120"),
    ):
        given = data.graphs([0])
        given.nodes["atom"].data[name][4] = value
        with pytest.raises(DataError, match=message):
            small_model().encode(given)
    given = data.graphs([0])
    given.nodes["block"].data["is_global"] = torch.full((given.num_nodes("block"),), 2, dtype=torch.uint8)
    with pytest.raises(DataError, match="must be true or false"):
        small_model().encode(given)
    with pytest.raises(DataError, match="expected a graph, or records"):
        small_model().encode([1, 2])


# -------------------------------------------------------------------------------------------- what a model was made for


@pytest.mark.parametrize("settings", [{"k_neighbors": 3}, {"block_global": False}, {"atom_global": True}])
def test_a_model_makes_the_edges_that_nobody_asked_for(data, settings):
    model = small_model(**settings)
    right = data.graphs(range(4), **model.config.graph_options())
    same(model, right, data.graphs(range(4)))
    same(model, right, data[:4])


@pytest.mark.parametrize("view", ["segment0", "segment1"])
def test_a_model_takes_the_partner_it_was_trained_on(view):
    complexes = [random_interface(1), random_interface(2, (9, 3))]
    model = model_for(view, modality_embedding=True)
    both = atomica.graph_from_arrays(**join(complexes), modality=[0, 1], **model.config.graph_options())
    both.nodes["block"].data["made"][:, graph.VIEW] = 0
    kept = [_segment(one, int(view[-1])) for one in complexes]
    same(model, atomica.graph_from_arrays(**join(kept), **model.config.graph_options()), both)


def _segment(arrays, segment):
    blocks = arrays["segment_ids"] == segment
    atoms = np.repeat(blocks, arrays["block_lengths"])
    return {
        "X": arrays["X"][atoms],
        "A": arrays["A"][atoms],
        "B": arrays["B"][blocks],
        "block_lengths": arrays["block_lengths"][blocks],
        "segment_ids": np.zeros(blocks.sum(), dtype=int),
        "lengths": np.array([blocks.sum()]),
    }


def test_views_of_records_are_those_of_the_model(data):
    model = model_for("segment0")
    right = data.graphs(range(3), input="segment0", **model.config.graph_options())
    same(model, right, data.graphs(range(3)))
    same(model, right, data[:3])
    same(model, right, [record.view("segment0") for record in data[:3]])
    with pytest.raises(DataError, match=r"segment0 in the graph, complex in the model"):
        model_for("complex").encode([record.view("segment0") for record in data[:3]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k_neighbors": 8}, "k_neighbors: 8 in the graph, 4 in the model"),
        ({"block_global": False}, "block_global: False in the graph, True in the model"),
        ({"input": "complex"}, "complex in the graph, segment0 in the model"),
    ],
)
def test_what_was_asked_for_otherwise_is_refused_with_both_values(data, options, message):
    model = model_for("segment0")
    with pytest.raises(DataError, match=message):
        model.encode(data.graphs([0], **options))


def test_data_of_another_making_are_refused_with_both_values(data):
    model = small_model()
    for own, message in (
        ({"cutoff": 6.0}, "cutoff of the interface: 8 Å in the graph, 6 Å in the model"),
        ({"rule": "reference"}, "all-pairs in the graph, reference in the model"),
    ):
        model.made_for = Contract(origin=Origin(**own))
        for given in (data.graphs([0]), data[:1], dgl.unbatch(data.graphs([0, 1]))[0]):
            with pytest.raises(DataError, match=message):
                model.encode(given)
    model.made_for = Contract(origin=data.origin)
    model.encode(data.graphs([0]))


def test_tensors_that_were_read_for_another_model_are_refused(data):
    with pytest.raises(DataError, match="other edges than the model wants"):
        small_model().encode(inputs.inputs(data.graphs([0])))


def test_predictions_of_records_are_those_of_their_graph(data):
    model = small_model()
    whole = model.predict(data.graphs(range(30)))["binary"]
    torch.testing.assert_close(model.predict(data[:30])["binary"], whole)
    assert model.predict(data[3])["binary"].shape == (1,)
    with pytest.raises(DataError, match="no complexes to predict"):
        model.predict([])


def test_the_original_sees_records_one_by_one(data):
    model = small_model(reference_quirks=True)
    single = torch.cat([model.predict(data.graphs([row]))["binary"] for row in range(3)])
    assert torch.equal(model.predict(data[:3])["binary"], single)


# ------------------------------------------------------------------------------------------------------ rows and ids


def test_rows_are_chosen_by_number_id_or_mask(data):
    mask = np.array([split == "test" for split in data.splits])
    rows, ids = np.flatnonzero(mask), [data.ids[row] for row in np.flatnonzero(mask)]
    for chosen in (mask, mask.tolist(), torch.from_numpy(mask), rows, rows.tolist(), ids):
        assert [record.id for record in data[chosen]] == ids
        assert data.graphs(chosen).batch_size == len(ids)
    assert [data[one].id for one in (ids[1], -1, np.int64(2))] == [ids[1], data.ids[-1], data.ids[2]]
    assert [name in data for name in (ids[0], "nobody")] == [True, False]


@pytest.mark.parametrize("wrong", [1.7, True, np.True_, np.float32(1), None])
def test_what_is_no_row_is_refused(data, wrong):
    with pytest.raises(TypeError, match="whole number"):
        data[wrong]
    with pytest.raises(TypeError, match="whole number"):
        data.graphs([0, wrong])


def test_rows_that_are_not_there_are_named(data):
    with pytest.raises(IndexError, match="row 163 of a data set of 163"):
        data.graphs([0, 163])
    with pytest.raises(IndexError, match="a mask of 2 values for a data set of 163"):
        data.graphs([True, False])
    near = data.ids[0][:-1]
    with pytest.raises(DataError, match=f"no complex has the id '{near}'; did you mean"):
        data[near]
    with pytest.raises(TypeError, match="one id, and a list"):
        data.graphs(data.ids[0])
