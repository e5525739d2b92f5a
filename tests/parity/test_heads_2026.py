"""Heads, losses and settings that the original has had since 2026: outputs, losses, gradients, and what is refused."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

import atomica
from atomica import compat
from atomica.errors import DataError


def read(models, name):
    with safe_open(models / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return file.metadata(), tensors


def graph_of(model, tensors):
    names = ("X", "B", "A", "block_lengths", "segment_ids", "lengths")
    graph = atomica.graph_from_arrays(
        **{key: tensors[f"in.{key}"] for key in names}, **model.config.graph_options()
    )
    if "in.pocket_embeddings" in tensors:
        each = tensors["in.lengths"]
        graph.nodes["block"].data["vector"] = tensors["in.pocket_embeddings"].repeat_interleave(each, dim=0)
    if "in.masked_blocks" in tensors:
        graph.nodes["block"].data["masked"] = tensors["in.masked_blocks"]
    return graph


class Case:
    """One file of the original's numbers and its model."""

    def __init__(self, models, name, **settings):
        self.metadata, self.tensors = read(models, name)
        self.config = {**json.loads(self.metadata["config"]), **settings}
        self.weights = {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}
        self.model = compat.from_reference(self.config, self.weights)
        (self.name,) = self.model.heads
        self.head = self.model.head(self.name)

    def compare(self, target, loss="out.loss", gradients="grad_norm"):
        """Loss and gradients of the model, as they are, with what is stored under these names."""
        self.model.zero_grad()
        losses = self.model.loss(graph_of(self.model, self.tensors), {self.name: target})
        torch.testing.assert_close(losses.total, self.tensors[loss], atol=0, rtol=1e-5)
        losses.total.backward()
        ours = compat.to_reference(self.model, lambda parameter: parameter.grad)
        names = json.loads(self.metadata["grad_names"])
        assert set(names) == set(ours)
        for name, expected in zip(names, self.tensors[gradients].tolist(), strict=True):
            if expected < 0:
                assert ours[name] is None, name
            else:
                assert ours[name].norm().item() == pytest.approx(expected, rel=1e-4, abs=1e-8), name

    def predicted(self):
        return self.model.predict(graph_of(self.model, self.tensors))[self.name]


def test_a_yes_or_no_for_each_block(models):
    case = Case(models, "head_residue")
    ordinary = case.tensors["in.B"] != 3
    torch.testing.assert_close(case.predicted()[ordinary], case.tensors["out.pred"], atol=1e-5, rtol=0)
    target = torch.full(ordinary.shape, -1)
    target[ordinary] = case.tensors["in.label"].long()
    case.compare(target)


def test_an_external_vector_of_each_complex(models):
    case = Case(models, "head_multiclass_pocket")
    torch.testing.assert_close(case.predicted(), case.tensors["out.prob"], atol=1e-5, rtol=0)
    case.compare(case.tensors["in.label"])
    del case.tensors["in.pocket_embeddings"]
    with pytest.raises(DataError, match="a vector of length 12 for each complex .*, which has none"):
        case.predicted()


LOSSES = {
    "bce": {},
    "focal": {"loss_type": "focal"},
    "focal_gamma_half": {"loss_type": "focal", "focal_gamma": 0.5},
    "focal_scalar_alpha": {"loss_type": "focal", "focal_alpha": [0.25]},
    "focal_alpha": {"loss_type": "focal", "focal_alpha": "in.focal_alpha"},
    "weighted": {"weights": "in.class_weights"},
    "focal_weighted": {"loss_type": "focal", "focal_alpha": "in.class_weights"},
}


@pytest.mark.parametrize("variant", LOSSES)
def test_questions_and_their_losses(models, variant):
    _, tensors = read(models, "head_multilabel")
    settings = {
        key: tensors[value].tolist() if str(value).startswith("in.") else value
        for key, value in LOSSES[variant].items()
    }
    weights = settings.pop("weights", None)
    case = Case(models, "head_multilabel", **settings)
    if weights is not None:  # the original's trainer hands them over beside the settings
        config = dataclasses.replace(case.head.config, class_weights=tuple(weights))
        case.model.heads[case.name] = type(case.head)(config, case.model.config)
        case.model.heads[case.name].network.load_state_dict(case.head.network.state_dict())
    torch.testing.assert_close(case.predicted(), case.tensors["out.prob"], atol=1e-5, rtol=0)
    case.compare(case.tensors["in.label"], f"out.{variant}.loss", f"{variant}.grad_norm")


def masked(models, variant, weights=()):
    """The masked-block model with one of the new options, its logits and what they must be."""
    metadata, numbers = read(models, "head_masked_options")
    _, base = read(models, "head_masked")
    state = {key[2:]: value for key, value in base.items() if key.startswith("w.")} | dict(weights)
    added = {
        key.removeprefix(f"w.{variant}."): value for key, value in numbers.items() if f"w.{variant}." in key
    }
    config = json.loads(metadata["configs"])[variant]
    model = compat.from_reference(config, state | added)
    with torch.no_grad():
        return model, model.outputs(graph_of(model, base))["masked_block"], numbers[f"out.{variant}.logits"]


GRID = {"top_encoder.encoder.edge_embedder.0.offset": torch.linspace(0, 12, 8)}


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        ("plain", {}),
        ("attn_pad_mask", {}),
        ("top_max_edge_length", GRID),
        ("top_max_edge_length_pretrained", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_of_masked_blocks_that_are_read(models, variant, weights, tmp_path):
    model, logits, expected = masked(models, variant, weights)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    model.save(tmp_path)  # the distance Gaussians are no weights
    again = atomica.load(tmp_path, "cpu")
    _, base = read(models, "head_masked")
    with torch.no_grad():
        assert torch.equal(again.outputs(graph_of(again, base))["masked_block"], logits)


@pytest.mark.parametrize(
    ("variant", "setting"),
    [
        ("na_loss_weight", "na_loss_weight = 20"),
        ("long_range", "top_long_range_edge_length = 24"),
        ("masked_affine", "masked_affine = True"),
        ("bottom_repr_scale", "bottom_repr_scale = True"),
        ("top_pair_geom", "top_pair_geom = True"),
        ("all", "masked_affine = True"),
    ],
)
def test_options_that_are_on_and_not_known_are_refused(models, variant, setting):
    with pytest.raises(DataError, match=f"settings .*{setting}.* cannot be imported"):
        masked(models, variant)


def test_settings_that_are_off_are_no_matter(models):
    metadata, base = read(models, "head_residue")
    config, weights = (
        json.loads(metadata["config"]),
        {k[2:]: v for k, v in base.items() if k.startswith("w.")},
    )
    compat.from_reference({**config, "future": False, "other": None, "third": 0}, weights)
    with pytest.raises(
        DataError, match="settings future = 'on' change what a ResidueClassifierModel computes"
    ):
        compat.from_reference({**config, "future": "on"}, weights)
    with pytest.raises(
        DataError, match="attn_pad_mask = True"
    ):  # the original heeds it of masked blocks alone
        compat.from_reference({**config, "attn_pad_mask": True}, weights)
    # Today's files name the options of masked blocks in settings of others, too; all are off.
    off = {
        "attn_pad_mask": False,
        "na_loss_weight": 1.0,
        "top_long_range_edge_length": None,
        "top_pair_geom": False,
    }
    compat.from_reference({**config, **off, "top_max_edge_length": 5}, weights)
    uneven = {"top_encoder.encoder.edge_embedder.0.offset": torch.linspace(0, 5, 8).square()}
    with pytest.raises(DataError, match="not evenly spaced"):
        compat.from_reference(config, weights | uneven)


@pytest.mark.parametrize("kind", ["MultiClassClassifierModel", "MultiLabelClassifierModel"])
def test_a_loss_that_there_is_not(models, kind):
    metadata, base = read(models, "head_multilabel")
    config = {**json.loads(metadata["config"]), "model_type": kind, "loss_type": "hinge"}
    with pytest.raises(DataError, match="loss_type = 'hinge' cannot be imported"):
        compat.from_reference(config, {k[2:]: v for k, v in base.items() if k.startswith("w.")})


@pytest.mark.parametrize("stem", ["model", "weights"])
def test_plain_names_of_files(models, stem, tmp_path):
    case = Case(models, "head_residue")
    (tmp_path / "config.json").write_text(json.dumps(case.config))
    torch.save(case.weights, tmp_path / f"{stem}.pt")
    for path in (tmp_path, tmp_path / f"{stem}.pt"):
        found = atomica.load(path, "cpu").predict(graph_of(case.model, case.tensors))[case.name]
        assert torch.equal(found, case.predicted())
