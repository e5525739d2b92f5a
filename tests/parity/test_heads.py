"""Every head against what the original computes: outputs, losses, gradients, and the names of its parameters."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

import atomica
from atomica import compat
from atomica.data.noise import Perturbation
from atomica.errors import DataError
from atomica.heads import denoise
from atomica.nn.encoding import EmbeddingConfig

# what the metadata of head_* fixtures leave to the README: model type and settings of the head
NETWORK = {"nonlinearity": "relu"}
AFFINITY = {"num_affinity_pred_layers": 3, "affinity_pred_hidden_size": 24, **NETWORK}
PROJECTOR = {"num_projector_layers": 3, "projector_hidden_size": 16}
SETTINGS = {
    "head_binary": {
        "model_type": "ClassifierModel", "num_pred_layers": 3, "pred_hidden_size": 24, **NETWORK
    },
    "head_multiclass": {"model_type": "MultiClassClassifierModel", "num_classes": 7},
    "head_regression": {"model_type": "RegressionPredictor"},
    "head_affinity": {"model_type": "AffinityPredictor", **AFFINITY},
    "head_affinity_block_embedding": {
        "model_type": "AffinityPredictor", **AFFINITY, **PROJECTOR, "block_embedding_size": 12
    },
    "head_masked": {"model_type": "MaskedNodeModel", "num_masked_block_classes": 436},
    "head_interface": {"model_type": "ProteinInterfaceModel"},
    "pretrain_gaussian": {},
    "pretrain_torsion_masking": {},
}  # fmt: skip
PREDICTIONS = {
    "head_binary": ("out.logits", lambda model, out: out["binary"][:, None]),
    "head_multiclass": ("out.prob", lambda model, out: model.heads["multiclass"].predict(out["multiclass"])),
    "head_regression": ("out.pred", lambda model, out: out["regression"]),
    "head_affinity": ("out.pred", lambda model, out: out["affinity"]),
    "head_affinity_block_embedding": ("out.pred", lambda model, out: out["affinity"]),
    "head_masked": ("out.logits", lambda model, out: out["masked_block"]),
}
TERMS = {"translation": "translation", "rotation": "rotation", "torsion": "tor", "atom": "atom"}
CENTER_NOISE = {("pretrain_gaussian", "translation"), ("pretrain_gaussian", "rotation")}
"""Where the original's harmonics at the centre of a segment are rounding noise, and the bar is 1e-3."""


class Fixture:
    """One file of the original's numbers, its model, and a batch with targets."""

    def __init__(self, models, name):
        self.name = name
        with safe_open(models / f"{name}.safetensors", "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        config = {**json.loads(self.metadata["config"]), **SETTINGS[name]}
        if name == "head_interface":
            own = {key: value for key, value in config.items() if key != "model_type"}
            config = {
                "model_type": config["model_type"],
                "prot_model": {**own, "model_type": "PredictionModel"},
            }
        self.config = config
        self.weights = {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}

    def model(self):
        return compat.from_reference(self.config, self.weights)

    def graph(self, model, prefix="in."):
        names = ("X", "B", "A", "block_lengths", "segment_ids", "lengths")
        arrays = {key: self.tensors[prefix + key] for key in names}
        graph = atomica.graph_from_arrays(**arrays, **model.config.graph_options())
        for theirs, ours in (("masked_blocks", "masked"), ("block_embeddings", "embedding")):
            if f"in.{theirs}" in self.tensors:
                graph.nodes["block"].data[ours] = self.tensors[f"in.{theirs}"]
        return graph

    def perturbation(self):
        given = {
            "segment": "noisy_segment", "translation_score": "tr_score", "translation_eps": "tr_eps",
            "rotation_score": "rot_score", "torsion_bonds": "tor_edges", "torsion_score": "tor_score",
            "atom_score": "atom_score", "atom_eps": "atom_eps",
        }  # fmt: skip
        return Perturbation(**{ours: self.tensors.get(f"in.{theirs}") for ours, theirs in given.items()})

    def targets(self, model):
        labels = self.tensors.get("in.label")
        known = {"denoise": self.perturbation} | {"masked_block": lambda: self.tensors["in.masked_labels"]}
        return {name: known[name]() if name in known else labels for name in model.heads} | (
            {"interface": torch.zeros(3)} if "interface" in model.heads else {}
        )


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, models):
    return Fixture(models, request.param)


@pytest.fixture(scope="module", params=["pretrain_gaussian", "pretrain_torsion_masking"])
def pretraining(request, models):
    return Fixture(models, request.param)


@pytest.mark.parametrize("name", PREDICTIONS)  # the other fixtures hold losses and embeddings only
def test_outputs(name, models):
    case = Fixture(models, name)
    model = case.model()
    key, read = PREDICTIONS[name]
    ours = read(model, model.outputs(case.graph(model)))
    torch.testing.assert_close(ours, case.tensors[key], atol=1e-5, rtol=0)


def test_losses_and_gradients(case):
    model = case.model()
    noisy = case.name == "pretrain_gaussian"
    compare_loss_and_gradients(case, model, loss=1e-3 if noisy else 1e-5, gradients=2e-2 if noisy else 1e-4)


def test_losses_and_gradients_with_the_rounding_noise_of_the_original(models, monkeypatch):
    """The one thing that keeps `pretrain_gaussian` apart is the direction of atoms at a centre, in float32."""

    def from_center(x, sender, receiver, count, plan):
        total = x.new_zeros(len(count), 3).index_add(0, receiver, x[sender])
        return (x[plan.sender] - (total / count[:, None])[plan.receiver]).double()

    monkeypatch.setattr(denoise, "_from_center", from_center)
    case = Fixture(models, "pretrain_gaussian")
    compare_loss_and_gradients(case, case.model(), loss=1e-5, gradients=1e-4)


def compare_loss_and_gradients(case, model, *, loss, gradients):
    losses = model.loss(case.graph(model), case.targets(model))
    torch.testing.assert_close(losses.total, case.tensors["out.loss"], atol=0, rtol=loss)
    losses.total.backward()
    ours = compat.to_reference(model, lambda parameter: parameter.grad)
    names = json.loads(case.metadata["grad_names"])
    assert set(names) == set(ours)
    for name, expected in zip(names, case.tensors["grad_norm"].tolist(), strict=True):
        gradient = ours[name]
        if expected < 0:
            assert gradient is None, name
        else:
            assert gradient is not None, name
            # gradients that are zero but for rounding have no meaningful ratio
            assert gradient.norm().item() == pytest.approx(expected, rel=gradients, abs=1e-8), name


def test_terms_of_pretraining(pretraining):
    model = pretraining.model()
    terms = model.loss(pretraining.graph(model), pretraining.targets(model)).terms
    compared = 0
    for ours, theirs in TERMS.items():
        if f"denoise/{ours}" not in terms:
            assert pretraining.tensors[f"out.{theirs}_loss"] == 0.0
            continue
        expected = pretraining.tensors[f"out.{theirs}_loss"]
        bar = 1e-3 if (pretraining.name, ours) in CENTER_NOISE else 1e-5
        torch.testing.assert_close(terms[f"denoise/{ours}"], expected, atol=0, rtol=bar)
        base = terms[f"denoise/{ours}_base"]
        if ours == "atom":
            # ours is what predicting zero would score: a sum over three coordinates, as the loss is
            base = base / 3
        elif ours == "torsion":
            # likewise a mean over complexes of their means, where the original has the mean over all bonds
            target = pretraining.perturbation()
            of = model.inputs(pretraining.graph(model)).graph_of_atom[target.torsion_bonds[0]]
            squares = target.torsion_score.square()
            means = torch.stack([squares[of == index].mean() for index in of.unique()])
            torch.testing.assert_close(base, means.mean(), atol=0, rtol=1e-5)
            base = squares.mean()
        expected = pretraining.tensors[f"out.{theirs}_base"]
        torch.testing.assert_close(base, expected, atol=0, rtol=1e-5)
        compared += 1
    assert compared == 3
    if "masked_block" in model.heads:
        torch.testing.assert_close(
            terms["masked_block"], pretraining.tensors["out.masked_loss"], atol=0, rtol=1e-5
        )


def test_edges_and_embeddings_of_pretraining(pretraining):
    model = pretraining.model()
    graph = pretraining.graph(model)
    for name, expected in pretraining.tensors.items():
        if name.startswith("edges."):
            _, level, kind = name.split(".")
            sender, receiver = graph.edges(etype=(level, kind, level))
            ours = set(zip(receiver.tolist(), sender.tolist(), strict=True))
            assert ours == set(map(tuple, expected.T.tolist())), name
            assert len(sender) == expected.shape[1], name
    for name, value in model.encode(graph)._asdict().items():
        torch.testing.assert_close(value, pretraining.tensors[f"out.{name}"], atol=1e-5, rtol=0)


def test_float64_agrees_with_float32(case):
    model = case.model()
    graph, targets = case.graph(model), case.targets(model)
    single, double = [numbers(model.to(dtype), graph, targets) for dtype in (torch.float32, torch.float64)]
    assert set(single) == set(double)
    for name, value in single.items():
        torch.testing.assert_close(value.double(), double[name].double(), atol=1e-6, rtol=1e-6, msg=name)


def numbers(model, graph, targets):
    """All outputs and losses as one mapping of tensors."""
    inputs = model.inputs(graph)
    for name, head in model.heads.items():
        inputs = head.attach(inputs, targets[name])
    found = {}
    with torch.no_grad():
        outputs = model.outputs(inputs)
        for name, output in outputs.items():
            named = {"": output} if isinstance(output, torch.Tensor) else output._asdict()
            found |= {f"{name}.{part}": value for part, value in named.items() if value is not None}
        losses = model.loss_of(outputs, targets)
        return {**found, **losses.terms, "total": losses.total}


def test_parameters_round_trip(case):
    exported = compat.to_reference(case.model())
    for name, tensor in exported.items():
        torch.testing.assert_close(tensor, case.weights[name], atol=0, rtol=0)
    constants = ("_compiled_main", ".tp.", "edge_embedder.0.offset", "final_tp_tor")
    expected = {name for name in case.weights if not any(part in name for part in constants)}
    assert set(exported) == expected


def test_a_pocket_alone_is_what_the_original_cuts_out(models):
    """The encoder's view of segment 0 equals the pocket that the original reads as its own graph."""
    case = Fixture(models, "head_interface")
    model = case.model()
    from_complex = model.encode(case.graph(model))
    alone = model.encode(case.graph(model, "in.pocket."))
    for one, other in zip(from_complex, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_external_features_stay_with_their_complex(models):
    """In the original two lists of features get out of order in a batch; complexes must not differ from alone."""
    case = Fixture(models, "head_affinity")
    config = {**case.config, **PROJECTOR, "block_embedding0_size": 5, "block_embedding1_size": 3}
    weights = dict(case.weights)
    encoder = dataclasses.replace(
        case.model().config, embeddings=EmbeddingConfig(sizes=(5, 3), hidden=16, layers=3)
    )
    torch.manual_seed(0)
    head = compat.MODEL_TYPES["AffinityPredictor"].heads(config, encoder)
    fresh = compat.to_reference(atomica.Model(encoder, head))
    model = compat.from_reference(config, fresh | weights)
    assert "post_mixing_ffn1.8.weight" in compat.to_reference(model)
    model = quirkless(model)
    graph = case.graph(model)
    features = [torch.randn(graph.num_nodes("block"), size) for size in (5, 3)]
    for segment, values in enumerate(features):
        graph.nodes["block"].data[f"embedding_{segment}"] = values
    together = model.predict(graph)["affinity"]
    inputs = model.inputs(graph)
    for index in range(3):
        rows = inputs.graph_of_block == index
        atoms = rows[inputs.block_of_atom]
        t = case.tensors
        single = atomica.graph_from_arrays(
            t["in.X"][atoms], t["in.B"][rows], t["in.A"][atoms], t["in.block_lengths"][rows],
            t["in.segment_ids"][rows], t["in.lengths"][index : index + 1], **model.config.graph_options(),
        )  # fmt: skip
        for segment, values in enumerate(features):
            single.nodes["block"].data[f"embedding_{segment}"] = values[rows]
        alone = model.predict(single)["affinity"]
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="block frame 'embedding_0', which has none"):
        model.predict(case.graph(model))


def quirkless(model):
    """The same model with the default arithmetic, in which batch mates do not matter."""
    config = dataclasses.replace(model.config, reference_quirks=False)
    heads = {name: type(head)(head.config, config) for name, head in model.heads.items()}
    ours = atomica.Model(config, heads).eval()
    ours.load_state_dict(model.state_dict())
    return ours


def test_settings_that_do_not_fit(models):
    case = Fixture(models, "pretrain_torsion_masking")
    with pytest.raises(DataError, match="num_masked_block_classes = 7 does not fit"):
        compat.from_reference({**case.config, "num_masked_block_classes": 7}, case.weights)
    with pytest.raises(DataError, match="torsion_weight = 0: set the noise to false"):
        compat.from_reference({**case.config, "torsion_weight": 0}, case.weights)
    with pytest.raises(DataError, match=r"tor_bond_conv\.fc\.0\.weight has no place"):
        compat.from_reference({**case.config, "torsion_noise": False}, case.weights)
    with pytest.raises(DataError, match="settings lack prot_model"):
        compat.from_reference({"model_type": "ProteinInterfaceModel"}, {})


@pytest.mark.parametrize("name", [*SETTINGS, "encoder_global", "encoder_all_global_2layers"])
def test_released_files_pass_through_load(name, models, tmp_path):
    """Settings and weights of every model type as files, by their folder and by name."""
    if name in SETTINGS:
        case = Fixture(models, name)
        config, weights = case.config, case.weights
    else:
        with safe_open(models / f"{name}.safetensors", "pt") as file:
            config = json.loads(file.metadata()["config"])
            weights = {key[2:]: file.get_tensor(key) for key in file.keys() if key.startswith("w.")}  # noqa: SIM118
    (tmp_path / "released_config.json").write_text(json.dumps(config))
    torch.save(weights, tmp_path / "released_weights.pt")
    model = atomica.load(tmp_path, "cpu")
    assert model.config.reference_quirks
    for found in (
        atomica.load(tmp_path / "released_weights.pt", "cpu"),
        compat.from_reference(config, weights),
    ):
        for key, value in found.state_dict().items():
            assert torch.equal(value, model.state_dict()[key]), key


def test_pickled_models_are_refused(tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return open, (str(marker), "w")

    for name, said in (("model.ckpt", "pickled whole model"), ("model.pt", "plain state dictionary")):
        torch.save(Evil(), tmp_path / name)
        (tmp_path / "model_config.json").write_text("{}")
        with pytest.raises(DataError, match=said):
            atomica.load(tmp_path / name)
    assert not marker.exists()
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="holds several weights"):
        atomica.load(tmp_path)
    with pytest.raises(DataError, match="other_config.json"):
        atomica.load(tmp_path / "other.pt")
