"""Configurations, labels, losses and metrics of the heads, and the public checks on each of them."""

import dataclasses
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch

import atomica
from atomica import spec
from atomica.data.noise import Perturbation
from atomica.errors import DataError, SpecError
from atomica.heads import BUILT_IN, Head, available, head_class
from atomica.heads.denoise import DenoiseConfig
from atomica.heads.interface import InterfaceConfig, contrastive_loss
from atomica.heads.masked_block import MaskedBlockConfig
from atomica.heads.metrics import BalancedAccuracy, Mean, Perplexity
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.model.model import Model
from atomica.nn import encoders
from atomica.nn.encoding import DetailedEncoding, EmbeddingConfig
from atomica.nn.equivariant import EncoderConfig
from atomica.spec import setting
from atomica.testing import check_model, graph_of, inputs_of, join, random_interface, small_model
from atomica.train.config import TrainConfig
from atomica.train.validation import monitor_of

CASES = {
    "regression": ({}, {"layers": 1}),
    "affinity": (
        {"activation": "gelu"},
        {"layers": 2, "embeddings": EmbeddingConfig(sizes=(3, 5), hidden=6)},
    ),
    "multiclass": ({"classes": ("a", "b", "c")}, {"layers": 1}),
    "masked_block": ({}, {"layers": 1, "embeddings": EmbeddingConfig(sizes=(3,), layers=1)}),
    "interface": ({}, {"layers": 1, "atom_global": True}),
    "denoise": ({"atom": 1.0}, {"layers": 3}),
    "partner": ({}, {"layers": 3, "block_global": False}),
    "contact": ({}, {"layers": 3}),
    "multilabel": ({"classes": ("a", "b", "c"), "loss": "focal"}, {"layers": 3}),
    "residue_binary": ({"layers": 2, "class_weights": "balanced"}, {"layers": 3}),
    "residue_multiclass": ({"classes": ("a", "b"), "readout": "block"}, {"layers": 1}),
    "residue_regression": ({"layers": 1}, {"layers": 3}),
}


@pytest.mark.parametrize("encoder", encoders.BUILT_IN)
@pytest.mark.parametrize("kind", CASES)
def test_heads_pass_the_shared_checks(kind, encoder):
    head, settings = CASES[kind]
    check_model(small_model(kind, head, encoder=encoder, **settings))


def test_every_kind_is_tested_and_found():
    assert {*CASES, "binary"} == set(BUILT_IN)
    assert set(BUILT_IN) <= set(available())
    assert head_class("regression") is RegressionHead


@pytest.mark.parametrize("kind", CASES)
def test_save_and_load(kind, tmp_path):
    head, encoder = CASES[kind]
    model = small_model(kind, head, **encoder)
    model.save(tmp_path)
    again = atomica.load(tmp_path, device="cpu")
    assert again.config == model.config
    assert again.head(kind).config == model.head(kind).config
    inputs = inputs_of(model, random_interface(1))
    one, other = model.predict(inputs)[kind], again.predict(inputs)[kind]
    for left, right in zip(*[[x] if isinstance(x, torch.Tensor) else x for x in (one, other)], strict=True):
        assert left is right is None or torch.equal(left, right)


@pytest.mark.parametrize(
    ("config", "settings", "parts"),
    [
        (
            RegressionConfig,
            {"hidden": 0, "layers": 0, "activation": "tanh", "dropout": 1.0},
            ("hidden = 0", "layers = 0", 'activation = "tanh"', "dropout = 1.0"),
        ),
        (
            MulticlassConfig,
            {"classes": ("a", "a", ""), "dropout": -0.1},
            ('"a" occurs twice', "empty", "-0.1"),
        ),
        (MulticlassConfig, {"classes": ()}, ("classes = []: must be at least 2 items",)),
        (MaskedBlockConfig, {"dropout": 2.0}, ("dropout = 2.0",)),
        (InterfaceConfig, {"temperature": 0.0}, ("temperature = 0.0",)),
        (DenoiseConfig, {"translation": -1.0, "atom": math.inf}, ("translation = -1.0", "atom = inf")),
        (
            DenoiseConfig,
            {"translation": 0.0, "rotation": 0.0, "torsion": 0.0},
            ("one of translation, rotation, torsion, atom must be more than 0",),
        ),
        (EmbeddingConfig, {"sizes": (1, 2, 3), "layers": 0}, ("sizes = [1, 2, 3]", "layers = 0")),
    ],
)
def test_settings_out_of_range_are_all_named(config, settings, parts):
    with pytest.raises(SpecError) as caught:
        config(**settings)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("table", "key", "message"),
    [
        ('kind = "binary"\npositive = "a; b"\nnegative = "a; b"', "negative", "must differ from positive"),
        (
            'kind = "multiclass"\nclasses = ["", "a: b; c"]',
            "classes",
            "an empty label means that there is none",
        ),
    ],
)
def test_no_label_tears_a_message(tmp_path, table, key, message):
    from atomica.jobs.train.spec import read_spec

    path = tmp_path / "spec.toml"
    path.write_text(f'[run]\nname = "a"\n[data]\ntrain = "d"\n[[head]]\n{table}\n')
    issues = spec.Issues(spec.load(path))
    read_spec(issues.source, issues)
    value = spec.show(issues.source.get(("head", 0, key)))
    assert [(issue.key, issue.message) for issue in issues.found] == [(f"head.0.{key} = {value}", message)]


def test_numbers_as_labels():
    config = RegressionConfig()
    target, known = RegressionHead.encode_labels(config, ["1.5", " -2 ", "inf", "nan", "high", "", None])
    assert target.tolist() == [1.5, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert known.tolist() == [True, True] + [False] * 5
    assert target.dtype == torch.float32
    with pytest.raises(DataError, match=r"labelled with a number; the values are: 'x' \(2\), no label \(1\)"):
        RegressionHead.encode_labels(config, ["x", "x", None])


def test_classes_as_labels():
    config = MulticlassConfig(classes=["HEM", "ATP"])
    assert config.classes == ("HEM", "ATP")
    target, known = MulticlassHead.encode_labels(config, ["ATP", "ZN", None, "HEM"])
    assert (target.tolist(), known.tolist()) == ([1, 0, 0, 0], [True, False, False, True])
    with pytest.raises(DataError, match=r"one of the classes 'HEM', 'ATP'; the values are: 'ZN' \(1\)"):
        MulticlassHead.encode_labels(config, ["ZN"])


@pytest.mark.parametrize("kind", ["masked_block", "denoise", "partner", "contact"])
def test_heads_of_pretraining_take_no_labels(kind):
    cls = head_class(kind)
    with pytest.raises(DataError, match="use it in pretraining"):
        cls.encode_labels(cls.Config(), ["1"])


def update_in_two(metrics, prediction, target):
    half = len(target) // 2
    for rows in (slice(None, half), slice(half, None)):
        metrics.update(prediction[rows], target[rows])
    return {name: float(value) for name, value in metrics.compute().items()}


def test_metrics_of_numbers():
    rng = np.random.default_rng(0)
    y = rng.normal(6.0, 1.5, 50)
    p = y + rng.normal(0.0, 1.0, 50)
    found = update_in_two(
        small_model("regression").head("regression").metrics(), torch.tensor(p), torch.tensor(y)
    )
    assert found == pytest.approx(
        {
            "rmse": sklearn.metrics.root_mean_squared_error(y, p),
            "mae": sklearn.metrics.mean_absolute_error(y, p),
            "pearson": scipy.stats.pearsonr(y, p).statistic,
            "spearman": scipy.stats.spearmanr(y, p).statistic,
            "r2": sklearn.metrics.r2_score(y, p),
        },
        abs=1e-6,
    )
    alone = small_model("affinity").head("affinity").metrics()
    alone.update(torch.tensor([1.0]), torch.tensor([2.0]))
    assert math.isnan(alone.compute()["r2"])


def test_metrics_of_two_classes():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 60)
    p = np.clip(0.25 + 0.3 * y + rng.normal(0.0, 0.25, 60), 0.0, 1.0)
    found = update_in_two(small_model().head("binary").metrics(), torch.tensor(p), torch.tensor(y))
    yes = p >= 0.5
    assert found == pytest.approx(
        {
            "auroc": sklearn.metrics.roc_auc_score(y, p),
            "auprc": sklearn.metrics.average_precision_score(y, p),
            "accuracy": sklearn.metrics.accuracy_score(y, yes),
            "f1": sklearn.metrics.f1_score(y, yes),
            "mcc": sklearn.metrics.matthews_corrcoef(y, yes),
            "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(y, yes),
        },
        abs=1e-6,
    )


def test_metrics_of_several_classes_of_which_one_does_not_occur():
    rng = np.random.default_rng(2)
    y = rng.choice([0, 1, 3], 80)
    logits = rng.normal(0.0, 1.0, (80, 4)) + 1.5 * np.eye(4)[y]
    p = torch.tensor(logits).softmax(dim=1)
    model = small_model("multiclass", {"classes": tuple("abcd")})
    found = update_in_two(model.head("multiclass").metrics(), p, torch.tensor(y))
    chosen, p = p.argmax(dim=1).numpy(), p.numpy()
    there = (0, 1, 3)
    assert found == pytest.approx(
        {
            "auroc": np.mean([sklearn.metrics.roc_auc_score(y == c, p[:, c]) for c in there]),
            "auprc": np.mean([sklearn.metrics.average_precision_score(y == c, p[:, c]) for c in there]),
            "accuracy": sklearn.metrics.accuracy_score(y, chosen),
            "f1": sklearn.metrics.f1_score(y, chosen, average="macro"),
            "mcc": sklearn.metrics.matthews_corrcoef(y, chosen),
            "balanced_accuracy": np.mean([(chosen[y == c] == c).mean() for c in there]),
        },
        abs=1e-6,
    )


def test_metrics_of_masked_blocks():
    metric = Perplexity()
    metric.update(torch.full((5, 8), 1 / 8), torch.arange(5))
    assert float(metric.compute()) == pytest.approx(8.0)
    metrics = small_model("masked_block").head("masked_block").metrics()
    metrics.update(torch.eye(146)[:4], torch.tensor([0, 1, 2, 7]))
    assert float(metrics.compute()["accuracy"]) == pytest.approx(0.75)
    mean, balanced = Mean(lambda p, t: (p, t) if t else None), BalancedAccuracy(3)
    for value, count in ((1.0, 1), (4.0, 3), (9.0, 0)):
        mean.update(torch.tensor(value), count)
    assert float(mean.compute()) == pytest.approx(13 / 4)
    balanced.update(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    assert float(balanced.compute()) == pytest.approx(0.75)


def test_monitors_are_among_the_metrics():
    for kind in BUILT_IN:
        head = small_model(kind, CASES.get(kind, ({"hidden": 8}, {}))[0]).head(kind)
        names = [*head.metrics(), "loss"]
        assert head.monitor in names
        assert head.monitor_mode in ("min", "max")


ERRORS = {"loss", "rmse", "mae", "perplexity", "translation", "rotation", "torsion", "atom", "mse"}


def test_every_metric_is_better_on_the_side_that_it_says():
    """Errors where they are small, all others where they are large."""
    for kind in BUILT_IN:
        model = small_model(kind, CASES.get(kind, ({"hidden": 8}, {}))[0])
        for name in model.head(kind).metrics():
            wanted = "min" if name.removesuffix("_base").rpartition("/")[2] in ERRORS else "max"
            assert monitor_of(model, TrainConfig(monitor=name)) == (name, wanted), (kind, name)


def test_contrastive_loss_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    z, c = (torch.nn.functional.normalize(torch.randn(4, 6, generator=generator), dim=1) for _ in range(2))
    total = 0.0
    for left, right in ((z, c), (c, z)):
        for i in range(4):
            across = [math.exp(float(left[i] @ right[j]) / 0.5) for j in range(4)]
            within = [math.exp(float(left[i] @ left[j]) / 0.5) for j in range(4) if j != i]
            total -= math.log(across[i] / (sum(within) + sum(across)))
    assert float(contrastive_loss(z, c, 0.5)) == pytest.approx(total / 8, rel=1e-6)
    assert float(contrastive_loss(z[:1], c[:1], 0.5)) == pytest.approx(0.0, abs=1e-6)


def test_the_goal_of_an_interface_head_is_not_trained():
    model = small_model("interface", layers=1, dropout=0.5).train()
    head = model.head("interface")
    assert not head.complex_encoder.training
    batch = graph_of(model, join([random_interface(1), random_interface(2)]))
    before = model.encode(batch)
    assert len(before.block) == 7 + 7, "the encoder sees segment 0 alone"
    losses = model.loss(batch, {"interface": torch.zeros(2)})
    losses.total.backward()
    assert all(parameter.grad is None for parameter in head.complex_encoder.parameters())
    assert head.complex_network[1].weight.grad is not None
    metrics = head.metrics()
    metrics.update(torch.eye(4).unsqueeze(1).expand(4, 2, 4), torch.zeros(4))
    assert float(metrics.compute()["retrieval"]) == pytest.approx(1.0)
    lone = random_interface(1, (3, 2))
    lone["segment_ids"] = np.ones_like(lone["segment_ids"])
    with pytest.raises(DataError, match="complex 0 of the batch has no segment 0"):
        model.encode(graph_of(model, lone))


def test_heads_that_see_different_things_cannot_be_mixed():
    config = small_model(layers=1).config
    heads = {
        name: head_class(name)(head_class(name).Config(), config) for name in ("regression", "interface")
    }
    with pytest.raises(SpecError, match="regression all, interface segment 0"):
        Model(config, heads)


def test_rows_without_a_label_for_one_head_add_nothing_to_it():
    config = small_model(layers=1).config
    cls = RegressionHead
    model = Model(
        config,
        {name: cls(cls.Config(), config) for name in "ab"},
        kinds={"a": "regression", "b": "regression"},
    )
    model.eval()
    batch = graph_of(model, join([random_interface(seed) for seed in range(3)]))
    outputs = model.outputs(batch)
    targets = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([4.0, math.nan, math.nan])}
    known = {"b": torch.tensor([True, False, False])}
    losses = model.loss(batch, targets, known)
    torch.testing.assert_close(losses.terms["b"], (outputs["b"][0] - 4.0) ** 2)
    torch.testing.assert_close(losses.total, losses.terms["a"] + losses.terms["b"])
    none = model.loss(batch, targets, {"b": torch.zeros(3, dtype=torch.bool)})
    assert set(none.terms) == {"a"}
    torch.testing.assert_close(none.total, losses.terms["a"])


def test_masked_blocks():
    model = small_model("masked_block", layers=1)
    arrays = random_interface(1)
    rows = np.flatnonzero(arrays["B"] >= 4)[:2]
    labels = torch.from_numpy(arrays["B"][rows] - 4)
    arrays["B"][rows] = 1  # the type MASK
    batch = graph_of(model, arrays)
    output = model.outputs(batch)["masked_block"]
    assert output.shape == (2, 146)
    loss = model.loss(batch, {"masked_block": labels}).total
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(output, labels))
    with pytest.raises(DataError, match="1 targets for 2 masked blocks"):
        model.loss(batch, {"masked_block": labels[:1]})
    nothing = model.loss(graph_of(model, random_interface(1)), {"masked_block": labels[:0]})
    assert nothing.total.item() == 0.0


def test_absent_partners():
    """By hand: a mean over the blocks of each partner, then over those that are absent."""
    model = small_model("partner", layers=1)
    batch = graph_of(model, join([random_interface(seed) for seed in range(3)]))
    output = model.outputs(batch)["partner"]
    assert output.shape == (3, 146)
    absent = torch.tensor([[0, 0, 0, 2], [5, 5, 7, 11]])
    loss = model.loss(batch, {"partner": absent}).total
    logs = output.log_softmax(dim=1)
    torch.testing.assert_close(loss, -((2 * logs[0, 5] + logs[0, 7]) / 3 + logs[2, 11]) / 2)
    metrics = model.head("partner").metrics()
    said = torch.nn.functional.one_hot(torch.tensor([5, 0, 0]), 146).float()
    metrics.update(said, absent)
    assert float(metrics.compute()["accuracy"]) == pytest.approx((2 / 3 + 0) / 2)
    nothing = model.loss(batch, {"partner": absent[:, :0]}).total
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_blocks_that_touched_what_is_absent():
    """By hand: a mean over the blocks that are known; the others count nowhere."""
    model = small_model("contact", layers=1)
    batch = graph_of(model, join([random_interface(seed) for seed in range(3)]))
    output = model.outputs(batch)["contact"]
    touching = torch.arange(len(output)) % 3 - 1
    loss = model.loss(batch, {"contact": touching}).total
    known, p = touching >= 0, output.sigmoid()
    right = torch.where(touching == 1, p, 1 - p)[known]
    torch.testing.assert_close(loss, -right.log().mean())
    metrics = model.head("contact").metrics()
    metrics.update(p, touching)
    assert float(metrics.compute()["auroc"]) == pytest.approx(
        sklearn.metrics.roc_auc_score(touching[known], p[known].detach()), abs=0.01
    )
    nothing = model.loss(batch, {"contact": torch.full_like(touching, -1)}).total
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def noise(model, arrays, **given):
    inputs = inputs_of(model, arrays)
    bonds = inputs.perturbation.torsion_bonds
    generator = torch.Generator().manual_seed(0)
    graphs, atoms = inputs.num_graphs, len(inputs.atoms.type)
    full = {
        "segment": inputs.perturbation.segment,
        "translation_score": torch.randn(graphs, 3, generator=generator),
        "translation_eps": torch.rand(graphs, generator=generator),
        "rotation_score": torch.randn(graphs, 3, generator=generator),
        "torsion_bonds": bonds,
        "torsion_score": torch.randn(bonds.shape[1], generator=generator),
        "atom_score": torch.randn(atoms, 3, generator=generator),
        "atom_eps": torch.rand(graphs, generator=generator),
    }
    return Perturbation(**{name: value for name, value in {**full, **given}.items() if value is not None})


def test_denoising_terms_weights_and_metrics():
    weights = {"translation": 2.0, "rotation": 0.5, "torsion": 3.0, "atom": 0.25}
    model = small_model("denoise", weights, layers=2)
    arrays = join([random_interface(1), random_interface(2, (3, 0)), random_interface(3)])
    target = noise(model, arrays)
    losses = model.loss(graph_of(model, arrays), {"denoise": target})
    total = sum(weight * losses.terms[f"denoise/{name}"] for name, weight in weights.items())
    torch.testing.assert_close(losses.total, total)
    metrics = model.head("denoise").metrics()
    for start in (0, 1, 2):  # one complex after the other, against all at once
        part = [random_interface(1), random_interface(2, (3, 0)), random_interface(3)][start]
        inputs = model.inputs(graph_of(model, arrays))
        rows = inputs.graph_of_atom == start
        first = int(torch.nonzero(rows)[0])
        own = rows[target.torsion_bonds[0]]
        alone = Perturbation(
            segment=target.segment[start : start + 1],
            translation_score=target.translation_score[start : start + 1],
            translation_eps=target.translation_eps[start : start + 1],
            rotation_score=target.rotation_score[start : start + 1],
            torsion_bonds=target.torsion_bonds[:, own] - first,
            torsion_score=target.torsion_score[own],
            atom_score=target.atom_score[rows],
            atom_eps=target.atom_eps[start : start + 1],
        )
        head = model.head("denoise")
        output = model.predict(head.attach(model.inputs(graph_of(model, part)), alone))["denoise"]
        metrics.update(output, alone)
    for name, value in metrics.compute().items():
        assert float(value) == pytest.approx(float(losses.terms[f"denoise/{name}"]), rel=1e-5), name


def test_bases_are_what_predicting_zero_scores():
    model = small_model("denoise", {"atom": 1.0}, layers=1)
    arrays = join([random_interface(1), random_interface(2, (9, 1))])
    target = noise(model, arrays)
    head = model.head("denoise")
    output = model.outputs(head.attach(model.inputs(graph_of(model, arrays)), target))["denoise"]
    named = {name: getattr(output, name) for name in ("translation", "rotation", "torsion", "atom")}
    zeros = output._replace(**{name: torch.zeros_like(value) for name, value in named.items()})
    for name, term in head.terms(zeros, target).items():
        torch.testing.assert_close(term.value, term.base, msg=name)


def test_denoising_without_bonds_or_with_gaps_in_the_target():
    model = small_model("denoise", layers=1)
    arrays = random_interface(1)
    batch = graph_of(model, arrays)
    bare = noise(model, arrays, torsion_bonds=None, torsion_score=None)
    losses = model.loss(batch, {"denoise": bare})
    assert float(losses.terms["denoise/torsion"]) == 0.0
    losses.total.backward()
    with pytest.raises(DataError, match="has no rotation_score, which the denoise head learns"):
        model.loss(batch, {"denoise": noise(model, arrays, rotation_score=None)})
    with pytest.raises(DataError, match="comes without a perturbation"):
        model.predict(batch)
    with pytest.raises(DataError, match="a perturbation of 2 complexes for 1"):
        model.loss(batch, {"denoise": Perturbation(torch.tensor([0, 0]))})
    with pytest.raises(DataError, match="target is a Perturbation, not Tensor"):
        model.loss(batch, {"denoise": torch.zeros(1)})
    lone = random_interface(1, (4, 0))
    batch, absent = graph_of(model, lone), noise(model, lone, segment=torch.tensor([1]))
    with pytest.raises(DataError, match="complex 0 of the batch has no atom in its perturbed segment"):
        model.loss(batch, {"denoise": absent})


def test_perturbations_are_checked():
    with pytest.raises(DataError) as caught:
        Perturbation(
            torch.zeros(2, dtype=torch.long),
            translation_score=torch.zeros(2, 2),
            torsion_bonds=torch.zeros(2, 5, dtype=torch.long),
            torsion_score=torch.zeros(4),
            atom_eps=torch.zeros(2),
        )
    for part in (
        "translation_score has shape (2, 2), expected (2, 3)",
        "translation_score is given without translation_eps",
        "torsion_score has shape (4,), expected (5,)",
        "atom_eps is given without atom_score",
    ):
        assert part in str(caught.value)


def test_details_are_computed_on_request_only(monkeypatch):
    plain, rich = small_model(head={"readout": "graph"}, layers=2), small_model("denoise", layers=2)
    inputs = inputs_of(rich, random_interface(1))
    encoding = rich.encoder.detailed(inputs)
    assert isinstance(encoding, DetailedEncoding)
    assert encoding.atoms.features.shape[1] == encoding.atoms.layout.dim
    for one, other in zip(encoding, rich.encoder(inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    monkeypatch.setattr(type(plain.encoder), "detailed", None)
    plain.outputs(inputs)


def test_a_head_refuses_settings_that_do_not_check_themselves():
    """As those of other packages may: a spec's are checked by its reader, those made in Python by the head."""

    @dataclasses.dataclass(frozen=True)
    class Plain:
        width: int = setting(2, "width of nothing", low=1)

    with pytest.raises(SpecError, match="width = 0: must be at least 1"):
        Head(Plain(0), EncoderConfig())


def test_external_features_must_be_there():
    model = small_model("affinity", embeddings=EmbeddingConfig(sizes=(4,)), layers=1)
    graph = graph_of(model, random_interface(1))
    with pytest.raises(DataError, match="block frame 'embedding', which has none"):
        model.encode(graph)
    graph.nodes["block"].data["embedding"] = torch.zeros(graph.num_nodes("block"), 5)
    with pytest.raises(DataError, match=r"of length 4 .* which has shape \(13, 5\)"):
        model.encode(graph)


def test_a_head_of_another_package_is_found(tmp_path):
    """A distribution beside ours, with an entry point that names a module to import."""
    (tmp_path / "other_heads.py").write_text(
        "from atomica.heads import register\n"
        "from atomica.heads.regression import RegressionHead\n"
        '@register("other")\n'
        "class Other(RegressionHead):\n"
        '    """The same under another name."""\n'
    )
    metadata = tmp_path / "other_heads-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-heads\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[atomica.heads]\nother = other_heads\n")
    code = "import atomica.heads as h; print(h.head_class('other').__name__, 'other' in h.available())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.stdout.split() == ["Other", "True"], done.stderr
