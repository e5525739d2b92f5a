"""The encoder and heads under the public checks, and the folder a model is kept in."""

import json

import pytest
import torch

import atomica
from atomica.errors import DataError, SpecError
from atomica.heads import available, head_class
from atomica.heads.binary import BinaryConfig, BinaryHead
from atomica.model.model import Model
from atomica.nn.equivariant import EncoderConfig
from atomica.testing import check_model, graph_of, join, random_interface, small_model


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 4},
        {"layers": 2, "atom_global": True, "block_global": False},
        {"layers": 1, "reference_quirks": True, "block_hidden": 12, "modality_embedding": True},
    ],
    ids=str,
)
def test_encoder_passes_the_shared_checks(settings):
    check_model(small_model(**settings))


def test_quirks_make_a_complex_depend_on_its_batch():
    """The original's fault, reproduced on request only: this is what the default mends."""
    model = small_model(reference_quirks=True)
    small, large = random_interface(1, (4, 2)), random_interface(2, (20, 9))
    alone = model.encode(graph_of(model, small)).graph
    together = model.encode(graph_of(model, join([small, large]))).graph[:1]
    assert (alone - together).abs().max() > 1e-4


def test_checks_catch_a_model_that_is_not_invariant():
    class Leaky(BinaryHead):
        def forward(self, encoding, inputs):
            first = torch.zeros(inputs.num_graphs).index_add(
                0, inputs.graph_of_atom, inputs.atoms.x[:, 0].float()
            )
            return super().forward(encoding, inputs) + first

    config = small_model().config
    model = Model(config, {"leaky": Leaky(BinaryConfig(), config)}, kinds={"leaky": "binary"}).eval()
    with pytest.raises(AssertionError, match=r"head\.leaky differs"):
        check_model(model)


def test_checks_catch_wrong_gradients():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    class Head(BinaryHead):
        def forward(self, encoding, inputs):
            return super().forward(encoding._replace(graph=Wrong.apply(encoding.graph)), inputs)

    config = small_model().config
    model = Model(
        config, {"wrong": Head(BinaryConfig(readout="graph"), config)}, kinds={"wrong": "binary"}
    ).eval()
    with pytest.raises(AssertionError, match="gradient of"):
        check_model(model)


def test_save_and_load(tmp_path):
    model = small_model(layers=2)
    model.save(tmp_path / "kept")
    again = atomica.load(tmp_path / "kept", device="cpu")
    batch = graph_of(model, random_interface(1))
    assert torch.equal(model.predict(batch)["binary"], again.predict(batch)["binary"])
    assert again.config == model.config
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["model.json", "model.safetensors"]


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"no model\.json there"):
        atomica.load(tmp_path)
    model = small_model(layers=1)
    model.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "format": 99}))
    with pytest.raises(DataError, match="model format 99 is none of"):
        atomica.load(tmp_path)
    description["encoder"]["layers"] = 2
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="weights do not fit"):
        atomica.load(tmp_path)


def test_losses_are_weighted_and_need_targets():
    config = small_model(layers=1).config
    heads = {name: BinaryHead(BinaryConfig(), config) for name in ("a", "b")}
    model = Model(config, heads, kinds=dict.fromkeys(heads, "binary"), weights={"b": 3.0})
    batch = graph_of(model, random_interface(1))
    losses = model.loss(batch, {"a": torch.tensor([1]), "b": torch.tensor([0])})
    torch.testing.assert_close(losses.total, losses.terms["a"] + 3 * losses.terms["b"])
    with pytest.raises(DataError, match="no targets for head b"):
        model.loss(batch, {"a": torch.tensor([1])})


def test_settings_out_of_range_are_all_named():
    with pytest.raises(SpecError) as caught:
        EncoderConfig(atom_hidden=6, layers=0, dropout=1.0)
    for part in ("atom_hidden = 6", "layers = 0", "dropout = 1.0"):
        assert part in str(caught.value)
    with pytest.raises(SpecError) as caught:
        BinaryConfig(positive="", layers=0, activation="tanh")
    for part in ('positive = "": must be not empty', "layers = 0", 'activation = "tanh"'):
        assert part in str(caught.value)


def test_heads_are_found_by_kind():
    assert "binary" in available()
    assert head_class("binary") is BinaryHead
    with pytest.raises(SpecError, match="unknown head kind 'binry'; known: affinity, binary"):
        head_class("binry")


def test_labels_of_the_binary_head():
    config = BinaryConfig(positive="ZN")
    target, known = BinaryHead.encode_labels(config, ["ZN", "CA", "", None])
    assert (target.tolist(), known.tolist()) == ([1, 0, 0, 0], [True, True, False, False])
    with pytest.raises(
        DataError, match=r"no row is labelled 'ZN' or 'CA'; the values are: 'MG' \(2\), no label"
    ):
        BinaryHead.encode_labels(BinaryConfig(positive="ZN", negative="CA"), ["MG", "MG", None])


def test_means_of_weights():
    """By shares; a head that one lacks is that of the other; sizes and shares that do not fit are told of."""
    small, both = small_model("masked_block", layers=1), small_model("masked_block", layers=1)
    other = small_model("contact", layers=1)
    wanted = (
        2 * small.encoder.state_dict()["atom_types.weight"] + other.encoder.state_dict()["atom_types.weight"]
    ) / 3
    mean = atomica.average([small, other], [2, 1])
    torch.testing.assert_close(mean.encoder.state_dict()["atom_types.weight"], wanted)
    assert mean is other
    assert mean.heads.keys() == {"contact"}
    for shares in ([1], [1, -1], [0, 0]):
        with pytest.raises(SpecError, match="give each a number"):
            atomica.average([small, both], shares)
    with pytest.raises(SpecError, match="average like sizes"):
        atomica.average([small_model("masked_block", layers=1, block_hidden=16), both])
