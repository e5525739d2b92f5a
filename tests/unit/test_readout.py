"""What heads read: every readout under the public checks, statistics of training rows, models of earlier versions."""

import dataclasses
import itertools

import pytest
import torch

import atomica
from atomica.errors import SpecError
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.heads.readout import OVER, READOUTS, Standardised, chosen
from atomica.heads.surroundings import surroundings
from atomica.model.model import Model
from atomica.nn.encoding import EncoderSettings
from atomica.nn.representations import POOLS, block_invariants
from atomica.testing import check_model, graph_of, inputs_of, join, random_interface, small_model

CHECKED = [
    {"readout": "graph", "layers": 2},
    {"readout": "mean_std", "over": "segment0"},
    *({"pool": pool, "layers": 1} for pool in POOLS),
    {"over": "contacts", "layers": 2},
]


def looks(model, batches):
    """What the model's heads read of some batches, once it is asked for."""
    return lambda names: (model.read(batch, names) for batch in batches)


@pytest.mark.parametrize("settings", CHECKED, ids=str)
def test_readouts_pass_the_shared_checks(settings):
    model = small_model(head={"hidden": 8, **settings}, layers=2)
    with torch.no_grad():
        for name, weight in model.heads.named_parameters():
            if name.endswith("linear.weight"):  # else the linear path would say nothing yet
                weight.normal_()
    check_model(model)


@pytest.mark.parametrize(("readout", "over"), itertools.product(READOUTS, OVER))
def test_all_of_them_give_an_answer(readout, over):
    if readout == "graph" and over != "complex":
        with pytest.raises(SpecError, match='the readout "graph" is of the whole complex'):
            BinaryConfig(readout=readout, over=over)
        return
    model = small_model(head={"readout": readout, "over": over}, layers=1)
    lone = random_interface(3, (4, 0))
    assert torch.isfinite(model.predict(graph_of(model, join([random_interface(1), lone])))["binary"]).all()


def test_blocks_that_touch_the_other_partner():
    inputs = inputs_of(small_model(), join([random_interface(1), random_interface(3, (4, 0))]))
    x, of = inputs.atoms.x, inputs.block_of_atom
    near = torch.cdist(x, x) <= 5.0
    apart = inputs.segment[of][:, None] != inputs.segment[of]
    same = inputs.graph_of_atom[:, None] == inputs.graph_of_atom
    ordinary = ~inputs.atoms.is_global
    touching = (near & apart & same & ordinary[:, None] & ordinary).any(dim=1)
    expected = torch.zeros(len(inputs.segment), dtype=torch.bool)
    expected[of[touching]] = True
    lone = (inputs.graph_of_block == 1) & ~inputs.blocks.is_global
    assert 0 < int(expected.sum()) < int((inputs.graph_of_block == 0).sum())
    assert torch.equal(chosen("contacts", inputs), expected | lone)
    assert int(chosen("segment1", inputs).sum()) == 5


def standardised(model):
    network = model.head("binary").network
    assert isinstance(network, Standardised)
    return network


def test_statistics_are_those_of_all_rows_however_they_are_shared():
    batches = [graph_of(small_model(), random_interface(seed)) for seed in range(6)]
    model, shared = small_model(), small_model()
    assert model.standardise(looks(model, batches), lambda found: [found]) == ["binary"]
    with torch.no_grad():
        rows = torch.cat(
            [model.head("binary").read(model.run(graph)[0], model.inputs(graph)) for graph in batches]
        )
    network = standardised(model)
    varies = rows.std(dim=0, unbiased=False) > 1e-4 * rows.abs().mean(dim=0) + 1e-8
    scaled = ((rows - network.mean) * network.scale)[:, varies]
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(scaled.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        scaled.std(dim=0, unbiased=False), torch.ones(scaled.shape[1]), atol=1e-2, rtol=0
    )

    halves = []
    for half in (batches[::2], batches[1::2]):
        part = small_model()
        part.standardise(looks(part, half), lambda found: halves.append(found) or [found])
    shared.standardise(looks(shared, ()), lambda found: halves)
    torch.testing.assert_close(standardised(shared).mean, network.mean)
    torch.testing.assert_close(standardised(shared).scale, network.scale)
    assert model.standardise(lambda names: pytest.fail("they are there"), lambda found: [found]) == []


def test_what_does_not_vary_is_left_out():
    model = small_model(head={"pool": "mean_std_global", "layers": 1})
    batches = [graph_of(model, random_interface(seed)) for seed in range(3)]
    model.standardise(looks(model, batches), lambda found: [found])
    scale = standardised(model).scale
    assert int((scale == 0).sum()) >= 2 * 56, "the invariants of the global atom"
    assert torch.isfinite(model.predict(batches[0])["binary"]).all()


def test_a_model_saved_before_there_were_readouts(tmp_path):
    """Its model.json says nothing of them, and its weights are those of a network on the complex's embedding."""
    for kind, head in (
        ("binary", {}),
        ("regression", {}),
        ("multiclass", {"classes": ("a", "b"), "layers": 4, "hidden": 8}),
    ):
        model = small_model(kind, {"readout": "graph", "hidden": 8, **head}, layers=1)
        description = model.description()
        for key in ("readout", "pool", "over", *(("layers", "hidden") if kind == "multiclass" else ())):
            del description["heads"][0]["config"][key]
        again = Model.from_description(description)
        again.load_state_dict(model.state_dict())
        assert again.head(kind).config == model.head(kind).config
    affinity = small_model("affinity", {"readout": "block"}, layers=1)
    description = affinity.description()
    del description["heads"][0]["config"]["readout"]
    Model.from_description(description).load_state_dict(affinity.state_dict())


def test_statistics_are_kept_with_the_weights(tmp_path):
    model = small_model()
    batch = graph_of(model, random_interface(1))
    model.standardise(looks(model, [batch, graph_of(model, random_interface(2))]), lambda found: [found])
    model.save(tmp_path)
    again = atomica.load(tmp_path, device="cpu")
    assert torch.equal(standardised(again).scale, standardised(model).scale)
    assert not again.head("binary").unfitted


def test_an_affinity_is_a_sum_over_blocks_and_a_constant():
    model = small_model("affinity", {"layers": 1}, layers=1)
    batch = graph_of(model, join([random_interface(1), random_interface(3, (4, 0))]))
    model.standardise(looks(model, [batch]), lambda found: [found])
    head, inputs = model.head("affinity"), model.inputs(batch)
    linear, network = head.linear, head.network
    with torch.no_grad():
        linear.weight.normal_()
        encoding, found = model.run(batch)
        of_blocks = torch.cat(block_invariants(encoding, inputs), dim=1)
        weight = (network.scale * linear.weight[0] / len(network.scale) ** 0.5).double()
        share = (of_blocks.double() @ weight)[~inputs.blocks.is_global]
        constant = linear.bias - network.mean.double() @ weight
    for graph, said in enumerate(found["affinity"]):
        of_graph = (inputs.graph_of_block == graph)[~inputs.blocks.is_global]
        torch.testing.assert_close(said.double(), share[of_graph].sum() + constant[0], atol=1e-4, rtol=1e-3)
    assert abs(found["affinity"][0] - found["affinity"][1]) > 0.1


def test_what_lies_around_a_block(monkeypatch):
    """Counts as a brute force finds them, the same alone and in a batch; less those of the complex's other blocks."""
    model = small_model()
    pair = [random_interface(1), random_interface(3, (4, 0))]
    inputs = inputs_of(model, join(pair))
    types = model.config.block_types
    found = surroundings(inputs, types)
    torch.testing.assert_close(
        found, torch.cat([surroundings(inputs_of(model, join([one])), types) for one in pair])
    )
    monkeypatch.setattr("atomica.heads.surroundings.ROOM", 100)  # a few blocks at a time
    torch.testing.assert_close(found, surroundings(inputs, types))
    ordinary, x, centre = ~inputs.blocks.is_global, inputs.atoms.x, inputs.blocks.x
    counts, off = found[:, types:].chunk(2, dim=1)
    assert torch.equal(found[ordinary, :types].argmax(dim=1), inputs.blocks.type[ordinary])
    assert not found[~ordinary].any()
    for block in torch.nonzero(ordinary)[:, 0].tolist():
        others = (inputs.graph_of_atom == inputs.graph_of_block[block]) & (inputs.block_of_atom != block)
        distance = (x[others & ~inputs.atoms.is_global] - centre[block]).norm(dim=1)
        near, away = ((distance < 10 + way).sum() for way in (-0.5, 0.5))
        assert near - 1e-3 <= counts[block, 7 + 3] <= away + 1e-3
    of = inputs.graph_of_block == 0
    torch.testing.assert_close(off[of & ordinary].mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    assert off[of & ordinary].std(dim=0, unbiased=False)[7] == pytest.approx(1, abs=1e-3)


def test_an_encoder_without_invariants_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Plain(EncoderSettings):
        kind = "plain"

    with pytest.raises(
        SpecError, match="BinaryHead needs invariants, and the plain encoder gives atom, block, graph"
    ):
        BinaryHead(BinaryConfig(), Plain())
    assert not BinaryHead.unserved(Plain(), BinaryConfig(readout="mean_std"))
