"""The contract between encoders and heads, the registry of encoders, and the invariant encoder."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import atomica
from atomica import heads, spec
from atomica.analysis.masking import cosines, maskable, masked_copies
from atomica.data.graph import perturbed
from atomica.data.noise import NoiseConfig, seeds
from atomica.errors import DataError, SpecError
from atomica.heads.affinity import AffinityConfig, AffinityHead
from atomica.heads.denoise import DenoiseConfig, DenoiseHead
from atomica.jobs.train.spec import read_spec
from atomica.model.format import saved_encoder
from atomica.model.start import inherit, initialise
from atomica.nn import encoders
from atomica.nn.encoding import DetailedEncoding, Encoder, EncoderSettings, Encoding
from atomica.nn.invariant import DglRelation, IndexRelation, InvariantConfig
from atomica.testing import check_model, graph_of, inputs_of, join, random_interface, small_model

SETTINGS = {
    **{kind: {"classes": ("a", "b")} for kind in ("multiclass", "multilabel", "residue_multiclass")},
    "denoise": {"atom": 1.0, "torsion": 0.0},
}


def test_heads_know_encoders_by_the_contract_alone():
    allowed = {f"atomica.nn.{name}" for name in ("encoding", "layers", "irreps", "representations")}
    for path in Path(heads.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found = {name for name in names if name and name.startswith("atomica.nn")}
            assert found <= allowed, f"{path.name} imports {found - allowed}"


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": 1, "attention_heads": 1, "modality_embedding": True},
        {"layers": 3, "atom_global": True, "block_global": False, "block_hidden": 12},
    ],
    ids=str,
)
def test_the_invariant_encoder_passes_the_shared_checks(settings):
    check_model(small_model(encoder="invariant", **settings))


@pytest.mark.parametrize("edges", [0, 1, 40])
def test_relations_by_dgl_and_by_indexing_agree(edges):
    """Values, and gradients of all that they are computed from; some receivers have no edge."""
    generator = torch.Generator().manual_seed(0)
    sender = torch.randint(0, 7, (edges,), generator=generator)
    receiver = torch.randint(0, 4, (edges,), generator=generator)
    given = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
             for shape in ((5, 2, 3), (7, 2, 3), (7, 2, 3))]  # fmt: skip
    weights = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    found = []
    for kind in (DglRelation, IndexRelation):
        relation, (query, key, value) = kind(sender, receiver, 7, 5), given
        attention = relation.softmax(relation.score(query, key))
        total = relation.total(value, attention)
        gradients = torch.autograd.grad((total * weights).sum(), given)
        found.append([attention, total, *gradients])
        assert total.shape == (5, 2, 3)
        assert total[4].abs().max() == 0.0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", heads.BUILT_IN)
def test_the_invariant_encoder_learns_with_every_head(kind):
    """A few steps on one batch bring the loss down, and every part of the encoder that is read has a gradient."""
    model = small_model(kind, SETTINGS.get(kind, {}), encoder="invariant", layers=2).train()
    data = atomica.open_dataset("demo://pockets")
    noise_config = NoiseConfig(
        rotation_sigma=0.5,
        translation_sigma=1.0,
        gaussian_sigma=0.5,
        mask_proportion=0.2,
        lone_proportion=0.7 if kind in ("partner", "contact") else 0.0,
    )
    graph, found = perturbed(
        [data[row] for row in range(4)], noise_config, seeds(0, 0, range(4)), **model.config.graph_options()
    )
    targets = {
        "perturbation": found.perturbation,
        "masks": found.mask_labels,
        "absent": found.absent,
        "touching": found.touching,
        "labels": torch.tensor([4, 7, 6, 5] if kind in ("affinity", "regression") else [0, 1, 1, 0])
        if kind != "multilabel"
        else torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
        "block_labels": torch.arange(graph.num_nodes("block")) % 2,
        "none": None,
    }[model.head(kind).targets]
    model.standardise(
        lambda names: [model.read(model.attach(graph, {kind: targets}), names)], lambda one: [one]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.loss(graph, {kind: targets}).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.97 * losses[0]
    read = ["atoms", "atoms_to_block", "blocks"]
    read += ["sent", "gate"] if kind == "denoise" else []
    read += ["blocks_to_complex"] if "graph" in model.head(kind).needs_of(model.head(kind).config) else []
    for name in read:
        for parameter in model.encoder.get_submodule(name).parameters():
            assert parameter.grad.abs().max() > 0, name


def test_details_are_the_same_embeddings_with_vectors():
    model = small_model("denoise", encoder="invariant")
    inputs = inputs_of(model, join([random_interface(1), random_interface(2, (3, 0))]))
    encoding = model.encoder.detailed(inputs)
    assert isinstance(encoding, DetailedEncoding)
    assert encoding.atoms.features.shape == (len(inputs.atoms.x), encoding.atoms.layout.dim)
    assert encoding.atoms.layout == model.config.detail_layout
    vectors = encoding.atoms.layout.run(encoding.atoms.features, 1)
    assert vectors.abs().max() > 0.01
    for one, other in zip(encoding, model.encoder(inputs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_a_model_keeps_its_kind(tmp_path):
    model = small_model(encoder="invariant", attention_heads=2)
    model.save(tmp_path)
    again = atomica.load(tmp_path, device="cpu")
    assert (again.config.kind, again.config) == ("invariant", model.config)
    batch = graph_of(model, random_interface(1))
    assert torch.equal(model.predict(batch)["binary"], again.predict(batch)["binary"])
    assert saved_encoder(tmp_path)["kind"] == "invariant"
    assert (model.kernel, again.use_kernel("torch").kernel) == (None, None)


def test_models_saved_before_there_were_kinds_are_equivariant(tmp_path):
    model = small_model(layers=1)
    model.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    assert description["encoder"].pop("kind") == "equivariant"
    (tmp_path / "model.json").write_text(json.dumps(description))
    assert atomica.load(tmp_path, device="cpu").config == model.config
    assert saved_encoder(tmp_path)["kind"] == "equivariant"


def test_unknown_kinds_name_the_nearest(tmp_path):
    message = "unknown encoder kind 'invarant'; known: equivariant, invariant; did you mean 'invariant'?"
    with pytest.raises(SpecError) as caught:
        encoders.encoder_class("invarant")
    assert str(caught.value) == message
    small_model(layers=1).save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"equivariant"', '"invarant"'))
    with pytest.raises(SpecError, match="unknown encoder kind 'invarant'"):
        atomica.load(tmp_path)


def test_weights_of_another_kind_are_refused(tmp_path):
    small_model(encoder="invariant").save(tmp_path)
    equivariant = small_model()
    with pytest.raises(DataError, match="encoder is of the kind 'invariant', this one 'equivariant'"):
        initialise(equivariant, tmp_path)
    with pytest.raises(DataError, match='set model.kind = "invariant"'):
        inherit(equivariant.config, (), saved_encoder(tmp_path))
    assert any(
        line.startswith("encoder loaded") for line in initialise(small_model(encoder="invariant"), tmp_path)
    )


def test_the_interface_head_keeps_an_encoder_of_the_model_s_kind(tmp_path):
    model = small_model("interface", {}, encoder="invariant")
    copy = model.head("interface").complex_encoder
    assert type(copy) is type(model.encoder)
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    small_model(encoder="invariant").save(tmp_path)
    initialise(model, tmp_path)
    for name, weight in copy.state_dict().items():
        assert torch.equal(weight, model.encoder.state_dict()[name]), name


def test_scores_of_blocks_need_no_equivariant_encoder():
    model = small_model(encoder="invariant")
    record = atomica.open_dataset("demo://pockets")[0]
    found = cosines(model, record, batch_blocks=100)
    blocks = maskable(record)[:3]
    whole = model.encode(masked_copies(record, blocks).graph(model.config.graph_options())).graph
    expected = torch.nn.functional.cosine_similarity(whole[:1].double(), whole[1:].double())
    np.testing.assert_allclose(found[:3], expected.detach(), atol=1e-6)


@dataclass(frozen=True)
class MeanConfig(EncoderSettings):
    """Settings of an encoder that serves no detail."""


def test_an_encoder_is_a_class_and_a_decorator(monkeypatch):
    """What it does not serve is refused, and its settings are its own."""
    monkeypatch.setattr(encoders._KINDS, "_classes", dict(encoders._KINDS._classes))

    @encoders.register("mean")
    class Mean(Encoder):
        """A mean over the types of atoms."""

        Config = MeanConfig

        def __init__(self, config):
            super().__init__(config)
            self.types = torch.nn.Embedding(121, config.block_hidden)
            self.own = torch.nn.Embedding(config.block_types, config.block_hidden)

        def forward(self, inputs):
            atom = self.types(inputs.atoms.type)
            block = self.own(inputs.blocks.type).index_add(0, inputs.block_of_atom, atom)
            graph = block.new_zeros(inputs.num_graphs, block.shape[1])
            graph = graph.index_add(0, inputs.graph_of_block, block)
            return Encoding(*(torch.nn.functional.normalize(x, dim=1) for x in (atom, block, graph)))

    assert "mean" in encoders.available()
    check_model(small_model("affinity", {"readout": "block"}, encoder="mean"))
    with pytest.raises(
        SpecError, match="AffinityHead needs invariants, and the mean encoder gives atom, block, graph alone"
    ):
        AffinityHead(AffinityConfig(), MeanConfig())
    with pytest.raises(
        SpecError, match="DenoiseHead needs detail, and the mean encoder gives atom, block, graph alone"
    ):
        DenoiseHead(DenoiseConfig(), MeanConfig())
    with pytest.raises(SpecError, match="MeanConfig holds the settings of the encoder 'mean' already"):
        encoders.register("median")(type("Median", (Mean,), {}))
    with pytest.raises(
        SpecError, match="encoder kind 'invariant' is taken by atomica.nn.invariant.InvariantEncoder"
    ):
        encoders.register("invariant")(type("Other", (Mean,), {"Config": type("Own", (MeanConfig,), {})}))


def test_an_encoder_of_another_package_is_found(tmp_path):
    """A distribution beside ours, with an entry point that names a module to import."""
    (tmp_path / "other_encoders.py").write_text(
        "from atomica.nn import encoders\n"
        "from atomica.nn.invariant import InvariantConfig, InvariantEncoder\n"
        "class OtherConfig(InvariantConfig):\n"
        '    """Settings of its own."""\n'
        '@encoders.register("other")\n'
        "class Other(InvariantEncoder):\n"
        '    """The same under another name."""\n'
        "    Config = OtherConfig\n"
    )
    metadata = tmp_path / "other_encoders-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other-encoders\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[atomica.encoders]\nother = other_encoders\n")
    code = (
        "from atomica.nn import encoders as e; from atomica.testing import small_model\n"
        "print(e.encoder_class('other').__name__, 'other' in e.available(), small_model(encoder='other').config.kind)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        check=False,
    )
    assert done.stdout.split() == ["Other", "True", "other"], done.stderr


# ------------------------------------------------------------------------------------------------------ specs


def read(tmp_path, model, head="binary"):
    """The spec with these lines in [model], or None, and what is wrong with it."""
    file = tmp_path / "run.toml"
    file.write_text(
        f'[run]\nname = "a"\n[data]\ntrain = "demo://pockets"\n[model]\n{model}\n[[head]]\nkind = "{head}"\n'
    )
    source = spec.load(file)
    issues = spec.Issues(source)
    return read_spec(source, issues), [str(issue).partition(": ")[2] for issue in issues.found]


def test_specs_choose_the_encoder_and_its_settings(tmp_path):
    found, issues = read(tmp_path, 'kind = "invariant"\nattention_heads = 2')
    assert (found.model, issues) == (InvariantConfig(attention_heads=2), [])
    (tmp_path / "again.toml").write_text(spec.dump(found.sections()))
    source = spec.load(tmp_path / "again.toml")
    assert read_spec(source, spec.Issues(source)).model == found.model
    assert found.identity()["model.kind"] == "invariant"
    assert read(tmp_path, "layers = 2")[0].model == atomica.EncoderConfig(layers=2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            'kind = "invarant"',
            '= "invarant": must be one of "equivariant", "invariant"; did you mean "invariant"?',
        ),
        ("kind = 3", "model.kind = 3: expected text"),
        ("attention_heads = 2", "model.attention_heads = 2: unknown key; "),
        ('kind = "invariant"\nreference_quirks = true', "model.reference_quirks = true: unknown key; "),
        ('kind = "invariant"\nattention_heads = 3', "model.attention_heads = 3: must be one of 1, 2, 4"),
    ],
)
def test_specs_are_told_what_an_encoder_does_not_know(tmp_path, model, message):
    found, issues = read(tmp_path, model)
    assert found is None
    assert len(issues) == 1
    assert message in issues[0]


def test_without_a_kind_a_spec_takes_that_of_the_model_it_starts_from(tmp_path):
    small_model(encoder="invariant").save(tmp_path / "kept")
    folder = (tmp_path / "kept").as_posix()
    assert read(tmp_path, f'init = "{folder}"')[0].model.kind == "invariant"
    assert read(tmp_path, f'init = "{folder}"\nkind = "equivariant"')[0].model.kind == "equivariant"
    assert read(tmp_path, 'init = "nowhere"')[0].model.kind == "equivariant"


def test_specs_are_told_which_heads_an_encoder_cannot_serve(tmp_path, monkeypatch):
    monkeypatch.setattr(InvariantConfig, "serves", ("graph",))
    _, issues = read(tmp_path, 'kind = "invariant"', head="masked_block")
    assert any("needs block, and the invariant encoder gives graph alone" in issue for issue in issues), (
        issues
    )
