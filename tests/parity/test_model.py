"""Our model against what the original computes: edges, embeddings, losses, gradients."""

import json

import pytest
import torch
from cases import ENCODERS, Fixture

from atomica import compat
from atomica.errors import DataError


@pytest.fixture(scope="module", params=[*ENCODERS, "head_binary"])
def any_fixture(request, models):
    return Fixture(models, request.param)


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request, models):
    return Fixture(models, request.param)


@pytest.fixture(scope="module")
def head(models):
    return Fixture(models, "head_binary")


def test_edges_are_equal_as_sets(encoder):
    graph = encoder.graph(encoder.model())
    compared = 0
    for name, expected in encoder.tensors.items():
        if name.startswith("edges."):
            _, level, kind = name.split(".")
            sender, receiver = graph.edges(etype=(level, kind, level))
            ours = list(zip(receiver.tolist(), sender.tolist(), strict=True))
            assert len(ours) == expected.shape[1], name
            assert set(ours) == set(map(tuple, expected.T.tolist())), name
            compared += 1
    assert compared == len([e for e in graph.canonical_etypes if e[1] != "of"])


def test_embeddings_of_the_batch(encoder):
    model = encoder.model()
    encoding = model.encode(encoder.graph(model))
    for name, value in encoding._asdict().items():
        torch.testing.assert_close(value, encoder.tensors[f"out.{name}"], atol=1e-5, rtol=0)


def test_embeddings_of_each_complex_alone(encoder):
    model = encoder.model()
    for index in range(len(encoder.inputs["lengths"])):
        encoding = model.encode(encoder.graph(model, encoder.single(index)))
        for name, value in encoding._asdict().items():
            expected = encoder.tensors[f"single.{index}.{name}"]
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)


def test_without_quirks_a_batch_equals_its_complexes(encoder):
    """The default arithmetic on the original's inputs: no batch effect is left."""
    import dataclasses

    from atomica.model.model import Model

    weights = encoder.model().state_dict()
    model = Model(dataclasses.replace(encoder.model().config, reference_quirks=False)).eval()
    model.load_state_dict(weights)
    together = model.encode(encoder.graph(model)).graph
    for index in range(len(together)):
        alone = model.encode(encoder.graph(model, encoder.single(index))).graph
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-6, rtol=0)
    assert (together - encoder.tensors["out.graph"]).abs().max() > 1e-3, "the quirks should be visible here"


def test_float64_agrees_with_float32(any_fixture):
    model = any_fixture.model()
    graph = any_fixture.graph(model)
    single = model.encode(graph)
    double = model.double().encode(graph)
    for name, value in single._asdict().items():
        torch.testing.assert_close(value.double(), getattr(double, name), atol=1e-6, rtol=0)


def test_binary_head_output_loss_and_gradients(head):
    model = head.model()
    graph = head.graph(model)
    output = model.outputs(graph)["binary"]
    torch.testing.assert_close(output, head.tensors["out.logits"][:, 0], atol=1e-5, rtol=0)
    losses = model.loss(graph, {"binary": head.tensors["in.label"]})
    torch.testing.assert_close(losses.total, head.tensors["out.loss"], atol=0, rtol=1e-5)
    losses.total.backward()
    ours = compat.to_reference(model, lambda parameter: parameter.grad)
    names = json.loads(head.metadata["grad_names"])
    for name, expected in zip(names, head.tensors["grad_norm"].tolist(), strict=True):
        gradient = ours[name]
        if expected < 0:
            assert gradient is None, name
        else:
            assert gradient is not None, name
            # gradients that are zero but for rounding have no meaningful ratio
            assert gradient.norm().item() == pytest.approx(expected, rel=1e-4, abs=1e-9), name


def test_parameters_round_trip(any_fixture):
    exported = compat.to_reference(any_fixture.model())
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, any_fixture.weights[name], atol=0, rtol=0)
    constants = ("_compiled_main", ".tp.", "edge_embedder.0.offset")
    expected = {name for name in any_fixture.weights if not any(part in name for part in constants)}
    assert set(exported) == expected


def test_import_names_what_does_not_fit(head, tmp_path):
    weights = dict(head.weights)
    del weights["classifier_ffn.2.weight"]
    weights["stray.weight"] = torch.zeros(1)
    weights["atom_block_attn_norm.weight"] = torch.zeros(3)
    with pytest.raises(DataError) as caught:
        compat.from_reference(head.config, weights)
    for part in (
        "classifier_ffn.2.weight is missing",
        "stray.weight has no place",
        "atom_block_attn_norm.weight has shape (3,), expected (8,)",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="model_type 'Other' cannot be imported"):
        compat.from_reference({**head.config, "model_type": "Other"}, head.weights)
    with pytest.raises(DataError, match="settings lack n_layers"):
        compat.from_reference({k: v for k, v in head.config.items() if k != "n_layers"}, head.weights)


def test_files_of_the_original(head, tmp_path):
    (tmp_path / "x_config.json").write_text(json.dumps(head.config))
    torch.save(head.weights, tmp_path / "x.pt")
    model = compat.load_reference(tmp_path / "x_config.json", tmp_path / "x.pt")
    output = model.outputs(head.graph(model))["binary"]
    torch.testing.assert_close(output, head.tensors["out.logits"][:, 0], atol=1e-5, rtol=0)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(DataError, match="pickled whole model holds code and is refused"):
        compat.load_reference(tmp_path / "x_config.json", tmp_path / "whole.pt")
