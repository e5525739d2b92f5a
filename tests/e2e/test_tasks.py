"""What a spec can ask of a run: several heads, parts that are frozen, pretrained weights, mixtures, sampling."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from helpers import BINARY, HEADLESS, changed
from safetensors.numpy import save_file
from safetensors.torch import load_file

import atomica
from atomica import _prep, spec
from atomica.data.features import BlockFeatures
from atomica.errors import DataError
from atomica.jobs.job import Request
from atomica.jobs.train.assembly import assemble
from atomica.model.start import inherit
from atomica.runner import main

BASE = changed(HEADLESS, {'input = "segment0"\n': "", "epochs = 3": "epochs = 2\nlearning_rate = 3e-3"})
SIZE = '[[head]]\nkind = "regression"\nname = "size"\nlabel = "label_size"\nhidden = 8\n'


@pytest.fixture
def run(tiny_set, tmp_path, capsys):
    """Runs the base spec with heads and `--set` changes; returns exit code, run folder, stdout and stderr."""
    count = iter(range(100))

    def start(heads, *changes, data=None, flags=()):
        folder = tmp_path / str(next(count))
        folder.mkdir()
        path = folder / "spec.toml"
        path.write_text(BASE.format(out=folder / "out", data=data or tiny_set) + "".join(heads))
        code = main([str(path), *flags, *(word for change in changes for word in ("--set", change))])
        captured = capsys.readouterr()
        return code, folder / "out", captured.out, captured.err

    return start


def events(out, kind):
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == kind]


def weights(out, which="last"):
    return load_file(out / "checkpoints" / which / "model.safetensors")


def same(one, other):
    """Equal but for what a learning rate of 1e-30 does."""
    return torch.allclose(one, other, rtol=0, atol=1e-20)


# --------------------------------------------------------------------------------------------- several heads


def test_heads_with_labels_of_their_own(run, tiny_set):
    code, out, said, errors = run([BINARY, SIZE])
    assert code == 0, errors
    assert re.search(r"train +36 complexes .*12 without size", said), said
    last = events(out, "epoch")[-1]
    for name in ("binary/loss", "size/loss", "binary/auroc", "size/rmse", "size/spearman"):
        assert f"valid_{name}" in last
    assert last["train_loss"] == pytest.approx(last["train_binary/loss"] + last["train_size/loss"])
    # The slow twin: one complex at a time, each head over the complexes it has labels for.
    model = atomica.load(out / "checkpoints" / "last", device="cpu")
    dataset = atomica.open_dataset(tiny_set)
    valid = [row for row, split in enumerate(dataset.splits) if split == "valid"]
    errors_, logs = [], []
    for row in valid:
        predicted = model.predict(dataset.graphs([row], **model.config.graph_options()))
        label, size = dataset.column("label")[row], dataset.column("label_size")[row]
        probability = float(predicted["binary"][0])
        logs.append(-np.log(probability if label == "yes" else 1 - probability))
        if size:
            errors_.append((float(predicted["size"][0]) - float(size)) ** 2)
    assert 0 < len(errors_) < len(valid)
    assert last["valid_size/rmse"] == pytest.approx(np.sqrt(np.mean(errors_)), rel=1e-4)
    assert last["valid_binary/loss"] == pytest.approx(np.mean(logs), rel=1e-4)
    scale = model.head("size").label_scale[1]  # its loss is in standard deviations of the labels
    assert last["valid_loss"] == pytest.approx(np.mean(logs) + np.mean(errors_) / scale**2, rel=1e-4)
    report = json.loads((out / "evaluation.json").read_text())
    test = [row for row, split in enumerate(dataset.splits) if split == "test"]
    labelled = [row for row in test if dataset.column("label_size")[row]]
    assert report["heads"]["size"]["complexes"] == len(labelled)
    assert set(report["heads"]["size"]["metrics"]) >= {"rmse", "mae", "pearson", "spearman", "r2"}
    table = (out / "predictions-size.csv").read_text().splitlines()
    assert len(table) == len(test) + 1


def test_a_test_set_may_lack_the_labels_of_a_head(run, tiny_set, tmp_path):
    from atomica import _prep

    index = (tiny_set.parent / "index.csv").read_text().splitlines()
    rows = [line.rpartition(",")[0] for line in index]
    (tiny_set.parent / "nosize.csv").write_text("\n".join(rows) + "\n")
    shards = tmp_path / "nosize"
    assert _prep.run(["build-graphs", str(tiny_set.parent / "nosize.csv"), "--out", str(shards)]) == 0
    code, out, said, errors = run([BINARY, SIZE], f"data.test={shards}", "train.epochs=1")
    assert code == 0, errors
    assert re.search(r"test .*60 without size", said)
    assert "head size: not evaluated, the test complexes have no label_size" in said
    assert not (out / "predictions-size.csv").exists()
    code, _, _, errors = run([BINARY, SIZE], f"data.valid={shards}", flags=["--dry-run"])
    assert code == 2
    assert "has no column 'label_size'" in errors


REFUSED = [
    (
        [BINARY.replace("binary", "interface").partition("positive")[0]],
        ["data.input=segment0"],
        "needs both partners",
    ),
    (
        ['[[head]]\nkind = "interface"\nlabel = "label"\n'],
        [],
        r"head.0.label = \"label\": has no effect: a head of kind 'interface' reads no label",
    ),
    (
        ['[[head]]\nkind = "denoise"\n'],
        [],
        r"learns from torsion noise, but noise.torsion_sigma is 0; .*head.0.torsion = 0",
    ),
    (['[[head]]\nkind = "masked_block"\n'], [], "learns from mask noise, but noise.mask_proportion is 0"),
    (['[[head]]\nkind = "partner"\n'], [], "learns from lone noise, but noise.lone_proportion is 0"),
    ([BINARY], ["noise.mask_proportion=0.1"], r'no head learns from it; add one of kind "masked_block"'),
    (
        [BINARY],
        ["noise.lone_proportion=0.1"],
        r'no head learns from it; add one of kind "partner" or "contact"',
    ),
    (
        [BINARY],
        ["model.embeddings.sizes=[3]"],
        r"data.embeddings: the model reads external features of \[3\] numbers .*name 1 files here, for all blocks",
    ),
    ([BINARY], ["data.embeddings=x.safetensors"], "has no effect: the model reads no external features"),
    (
        [BINARY],
        ["data.embeddings=/nowhere.safetensors", "model.embeddings.sizes=[3]"],
        "/nowhere.safetensors: no safetensors file that can be read",
    ),
    (
        [BINARY],
        ['data.embeddings=["a", "b"]', "model.embeddings.sizes=[3, 3]", "data.input=segment0"],
        "names a file for each segment, but data.input = 'segment0' shows one alone",
    ),
    (
        ['[[head]]\nkind = "denoise"\ntorsion = 0\n'],
        ["data.input=segment0", "noise.translation_sigma=1.0", "noise.rotation_sigma=0.5"],
        "noise.rotation_sigma = 0.5: data.input = 'segment0' shows one partner alone: no model can say how",
    ),
    ([BINARY, BINARY], [], "several heads are called 'binary'"),
    ([BINARY, SIZE], ["head.1.label=label"], "no row is labelled with a number; the values are: '(no|yes)'"),
    ([BINARY], ["data.sampler=modality"], "has no effect: all training complexes are of one kind"),
    ([BINARY], ["data.sampler=cluster"], "needs data.cluster, the column that names clusters"),
    ([SIZE], ["data.sampler=balanced"], "needs a head with classes"),
    ([BINARY], ["data.weights=[1.0]"], "has no effect with a single data set"),
    ([BINARY], ["data.large=crop", "data.max_item_blocks=3"], "must be at least 4 to crop"),
    ([BINARY], ["data.train=[]"], "the list is empty"),
    ([BINARY], ["data.large=crop", "data.input=segment0"], r"data.large = \"crop\": crops around a contact"),
    (
        [BINARY],
        ['train.freeze=["encoder.atom"]'],
        r"'encoder.atom' is no module of the model: it must be one of .*did you mean",
    ),
    ([BINARY], ['train.freeze=["encoder","heads"]'], "leaves nothing to train"),
    (
        [BINARY],
        ["train.rates.encodr=1e-4"],
        r"train.rates: 'encodr' is no module of the model.*did you mean \"encoder\"",
    ),
    ([BINARY], ["train.rates.encoder=-1"], "train.rates = .*: must be more than 0"),
    (
        [BINARY],
        ["train.rates.encoder=1e-4", 'train.freeze=["encoder"]'],
        r"train.rates: 'encoder' has no effect: it is frozen",
    ),
    ([BINARY], ["model.init=/nowhere"], r"model.init = \"/nowhere\": .*no model.json there"),
]


@pytest.mark.parametrize(("heads", "changes", "message"), REFUSED)
def test_what_a_run_cannot_give_is_refused_before_it_starts(run, heads, changes, message):
    code, out, said, errors = run(heads, *changes)
    assert code == 2
    assert re.search(message, errors), errors
    assert said == ""
    assert not out.exists()


def test_a_head_that_asks_for_what_there_is_not(run, monkeypatch):
    from atomica.heads.binary import BinaryHead

    monkeypatch.setattr(BinaryHead, "needs", ("surface",))
    monkeypatch.setattr(BinaryHead, "learns", classmethod(lambda cls, config: frozenset({"heat"})))
    code, _, _, errors = run([BINARY])
    assert code == 2
    assert 'head.0.kind = "binary": its class asks for surface, heat noise, which no run can give' in errors


def test_heads_that_must_see_different_things(run):
    code, _, _, errors = run([BINARY, '[[head]]\nkind = "interface"\n'])
    assert code == 2
    assert "heads of one model must see the same of a complex" in errors


def test_interface(run):
    code, out, said, errors = run(['[[head]]\nkind = "interface"\n'])
    assert code == 0, errors
    assert 0 <= events(out, "epoch")[-1]["valid_retrieval"] <= 1
    assert "test    head interface: retrieval" in said
    assert not list(out.glob("predictions*"))


# ------------------------------------------------------------------------------------- freezing, rates, init


def test_frozen_parts_stay_and_others_have_rates_of_their_own(run):
    code, out, _, errors = run(
        [BINARY], 'train.freeze=["encoder.atoms"]', "train.rates.heads=1e-30", "model.dropout=0.2"
    )
    assert code == 0, errors
    fresh = weights(run([BINARY], "train.learning_rate=1e-30", "train.epochs=1", "model.dropout=0.2")[1])
    trained = weights(out)
    moved = {name for name in fresh if not same(fresh[name], trained[name])}
    assert moved
    assert not [name for name in moved if name.startswith(("encoder.atoms.", "heads."))]
    first = events(out, "step")[0]
    assert (first["learning_rate"], first["learning_rate/heads"]) == (3e-3, 1e-30)


def test_a_frozen_encoder_has_no_dropout_and_no_gradient(tiny_set):
    from atomica.train.config import TrainConfig
    from atomica.train.optimizer import freeze

    model = atomica.Model(atomica.EncoderConfig(atom_hidden=8, block_hidden=8, layers=1, dropout=0.5))
    freeze(model, TrainConfig(freeze=("encoder",)))
    graph = atomica.open_dataset(tiny_set).graphs([0, 1])
    one, other = model.encode(graph).graph, model.encode(graph).graph
    assert torch.equal(one, other)
    assert not one.requires_grad
    freeze(model, TrainConfig())
    assert not torch.equal(model.encode(graph).graph, one)


@pytest.fixture(scope="module")
def pretrained(tiny_set, tmp_path_factory):
    """A saved model of the base spec's sizes, with a head called size."""
    from atomica.heads.regression import RegressionConfig, RegressionHead

    torch.manual_seed(7)
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1, k_neighbors=5)
    head = RegressionHead(RegressionConfig(hidden=8), config)
    folder = tmp_path_factory.mktemp("pretrained")
    atomica.Model(config, {"size": head}, kinds={"size": "regression"}).save(folder)
    return folder


def test_weights_of_another_run(run, pretrained):
    code, out, said, errors = run(
        [SIZE],
        f"model.init={pretrained}",
        "train.learning_rate=1e-30",
        "train.epochs=1",
        "train.solve_heads=false",
    )
    assert code == 0, errors
    assert re.search(r"start +encoder loaded, [\d,]+ numbers\n", said)
    assert re.search(r"start +heads.size loaded", said)
    before, after = load_file(pretrained / "model.safetensors"), weights(out)
    statistics = {f"heads.size.network.{name}" for name in ("mean", "scale", "fitted")}
    assert all(same(before[name], after[name]) for name in after.keys() - statistics)
    assert after["heads.size.network.fitted"], "the saved model had none yet"
    # What the spec leaves out comes from the saved model; the run's own spec and checkpoint say so.
    assert "k_neighbors = 5" in (out / "spec.toml").read_text()


def test_a_pretrained_encoder_under_another_head(run, pretrained):
    code, out, said, errors = run(
        [BINARY], f"model.init={pretrained}", 'train.freeze=["encoder"]', "model.k_neighbors=8"
    )
    assert code == 0, errors
    assert "heads.binary left fresh" in said
    assert "not used: heads size of the saved model" in said
    assert "k_neighbors = 8" in (out / "spec.toml").read_text()
    before, after = load_file(pretrained / "model.safetensors"), weights(out)
    for name, tensor in after.items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, before[name])


def test_both_encoders_of_an_interface_head_start_pretrained(run, pretrained):
    code, out, said, errors = run(
        ['[[head]]\nkind = "interface"\n'], f"model.init={pretrained}", "train.learning_rate=1e-30"
    )
    assert code == 0, errors
    assert "heads.interface.complex_encoder loaded" in said
    before, after = load_file(pretrained / "model.safetensors"), weights(out)
    for name, tensor in before.items():
        if name.startswith("encoder."):
            assert same(after[name], tensor)
            assert torch.equal(after[f"heads.interface.complex_{name}"], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.block_hidden=12", "weights have other sizes: block_hidden is 8 there, 12 here"),
        ("model.layers=2", "layers is 1 there, 2 here"),
    ],
)
def test_weights_of_other_sizes_are_refused(run, pretrained, change, message):
    code, out, _, errors = run([BINARY], f"model.init={pretrained}", change)
    assert code == 2
    assert message in errors
    assert not out.exists()


def test_weights_with_a_larger_vocabulary(run, tmp_path):
    """As the original's, which know fragments: data without fragments use the beginning of their vocabulary."""
    config = atomica.EncoderConfig(atom_hidden=8, block_hidden=8, edge_size=4, layers=1, block_types=440)
    atomica.Model(config).save(tmp_path / "large")
    code, out, _, errors = run([BINARY], f"model.init={tmp_path / 'large'}", "train.epochs=1")
    assert code == 0, errors
    assert atomica.load(out / "checkpoints" / "best", device="cpu").config.block_types == 440
    shutil.rmtree(tmp_path / "large")
    assert main([str(out / "spec.toml"), "--resume", "--set", "train.epochs=2"]) == 0
    fragmented = {**asdict(config), "block_types": 500}
    with pytest.raises(DataError, match="block_types is 500 there, 440 here"):
        inherit(config, {"block_types"}, fragmented)


def test_a_head_of_other_sizes_is_left_fresh(run, pretrained):
    code, _, said, _ = run([SIZE], f"model.init={pretrained}", "head.0.hidden=4", flags=["--dry-run"])
    assert code == 0
    assert "heads.size left fresh: the saved one has other sizes" in said


def test_a_head_that_answers_another_question_is_left_fresh(run, pretrained, tmp_path):
    """The same sizes, but other words for what its outputs mean."""
    changes = ["train.epochs=1", "head.0.dropout=0.3"]
    code, out, _, errors = run([BINARY], f"model.init={pretrained}", "train.epochs=1")
    assert code == 0, errors
    known, swapped = (
        f"model.init={out / 'checkpoints' / 'best'}",
        ["head.0.positive=no", "head.0.negative=yes"],
    )
    for more, told in (
        ([], "heads.binary loaded"),
        (swapped, 'heads.binary left fresh: the saved one has positive = "yes"'),
    ):
        code, _, said, _ = run(
            [BINARY], known, *changes, *more, f"run.out={tmp_path / 'again'}", flags=["--dry-run"]
        )
        assert code == 0
        assert told in said


def test_a_run_from_weights_that_are_gone_can_be_resumed(run, pretrained, tmp_path, capsys):
    elsewhere = shutil.copytree(pretrained, tmp_path / "elsewhere")
    code, out, _, errors = run([SIZE], f"model.init={elsewhere}", "train.epochs=1")
    assert code == 0, errors
    shutil.rmtree(elsewhere)
    assert main([str(out / "spec.toml"), "--resume", "--set", "train.epochs=2"]) == 0
    assert "loaded" not in capsys.readouterr().out
    assert main([str(out / "spec.toml"), "--resume", "--set", "model.init=/other"]) == 2
    assert "model.init: '" in capsys.readouterr().err


# --------------------------------------------------------------------------------------- mixtures and sampling


def test_a_mixture_draws_from_each_set_by_its_weight(run, tiny_set, tmp_path):
    other = shutil.copytree(tiny_set, tmp_path / "other")
    sets = f'data.train=["{tiny_set}", "{other}"]'
    code, _, said, errors = run(
        [BINARY], sets, "data.weights=[3, 1]", "data.epoch_complexes=20", "data.loader_threads=2"
    )
    assert code == 0, errors
    assert re.search(r"train +72 complexes of \S+ \+ \S+, both partners", said)
    code, _, said, _ = run([BINARY], sets, flags=["--dry-run"])
    assert code == 0
    code, _, _, errors = run([BINARY], f'data.train=["{tiny_set}", "/nowhere"]')
    assert code == 2
    assert "/nowhere: no such folder" in errors


# ------------------------------------------------------------------------------------------------- pretraining

DENOISE = '[[head]]\nkind = "denoise"\ntorsion = 0\n'
MASKED = '[[head]]\nkind = "masked_block"\nweight = 0.1\n'
NOISE = (
    "noise.rotation_sigma=0.5",
    "noise.translation_sigma=1.0",
    "noise.mask_proportion=0.2",
)
PRETRAIN = (*NOISE, "data.max_item_blocks=14", "data.large=crop", "model.dropout=0.1")


def test_pretraining_logs_each_loss_beside_its_base(run):
    code, out, said, errors = run([DENOISE, MASKED], *PRETRAIN)
    assert code == 0, errors
    assert re.search(r"train +36 complexes .*; \d+ cropped to 14 blocks", said)
    first, last = events(out, "epoch")
    for task in ("translation", "rotation"):
        for part in ("train", "valid"):
            assert last[f"{part}_denoise/{task}"] > 0
            assert last[f"{part}_denoise/{task}_base"] > 0
        # The noise of validation stays the same, that of training does not.
        assert first[f"valid_denoise/{task}_base"] == last[f"valid_denoise/{task}_base"]
        assert first[f"train_denoise/{task}_base"] != last[f"train_denoise/{task}_base"]
    assert 1 < last["valid_masked_block/perplexity"] < 200
    assert 0 <= last["valid_masked_block/accuracy"] <= 1
    shares = last["valid_denoise/translation"] + 0.1 * last["valid_denoise/rotation"]
    assert last["valid_denoise/loss"] == pytest.approx(shares, rel=1e-4)
    total = last["valid_denoise/loss"] + 0.1 * last["valid_masked_block/loss"]
    assert last["valid_loss"] == pytest.approx(total)
    assert "test    head denoise: " in said
    assert not list(out.glob("predictions*"))


def test_a_model_that_saw_lone_partners_takes_both(run):
    partner = '[[head]]\nkind = "partner"\n'
    contact = '[[head]]\nkind = "contact"\n'
    heads = [MASKED, partner, contact]
    code, out, _, errors = run(heads, NOISE[2], "noise.lone_proportion=0.5", "train.epochs=1")
    assert code == 0, errors
    last = events(out, "epoch")[-1]
    assert last["valid_partner/loss"] > 0
    assert 0 <= last["valid_partner/accuracy"] <= 1
    assert last["valid_contact/loss"] > 0
    assert 0 <= last["valid_contact/auroc"] <= 1
    model = atomica.load(out / "checkpoints" / "best")
    record = atomica.open_dataset("demo://pockets")[0]
    assert model.made_for.view is None
    for view in ("complex", "segment0", "segment1"):
        assert atomica.embed(record.view(view), model, input=view) is not None


def test_complexes_that_cannot_be_perturbed_are_counted(run):
    """The side chains of the made-up residues have no rotatable bond."""
    head = '[[head]]\nkind = "denoise"\n'
    changes = ("noise.torsion_sigma=0.5", *NOISE[:2], "train.epochs=1")
    code, out, _, errors = run([head], *changes)
    assert code == 0, errors
    last = events(out, "epoch")[-1]
    assert last["train_unperturbed"] == last["valid_unperturbed"] == 1.0
    assert last["train_translation"] == last["train_torsion_base"] == 0.0
    code, _, said, _ = run([head], *changes, flags=["--dry-run"])
    assert code == 0
    assert re.search(r"batch +(\d+) complexes, \1 of them without anything to perturb", said)


def test_gaussian_noise(run):
    head = DENOISE + "rotation = 0\ntranslation = 0\natom = 1.0\n"
    code, out, _, errors = run([head], "noise.gaussian_sigma=0.5", "train.epochs=1")
    assert code == 0, errors
    assert events(out, "epoch")[0]["valid_atom_base"] > 0


def test_noise_beside_a_head_with_labels(run):
    """What the original never combined: a supervised head that learns from perturbed complexes with a denoising one."""
    head = DENOISE + "rotation = 0\ntranslation = 1.0\nweight = 0.1\n"
    code, out, _, errors = run([BINARY, head], "noise.translation_sigma=0.5", "train.epochs=1")
    assert code == 0, errors
    assert {"valid_binary/auroc", "valid_denoise/translation_base"} <= set(events(out, "epoch")[0])
    assert (out / "predictions.csv").exists()


class StopAfter:
    """A request to stop that comes after it was looked at `left` times."""

    left = 0

    @property
    def requested(self):
        type(self).left -= 1
        return type(self).left < 0


@pytest.mark.parametrize("looks", [3, 10])
def test_pretraining_goes_on_as_if_undisturbed(run, tiny_set, monkeypatch, capsys, looks):
    """Interrupted in the middle of an epoch: noise, crops, order and dropout are those of the whole run."""
    changes = (*PRETRAIN, f'data.train=["{tiny_set}"]', "data.epoch_complexes=40", "data.loader_threads=2")
    code, whole, _, errors = run([DENOISE, MASKED], *changes)
    assert code == 0, errors
    StopAfter.left = looks
    with monkeypatch.context() as patch:
        patch.setattr("atomica.runner.Stop", StopAfter)
        code, out, _, errors = run([DENOISE, MASKED], *changes)
        assert code == 130, errors
    assert main([str(out / "spec.toml"), "--resume"]) == 0

    def steady(folder):
        timings = ("complexes_per_s", "wait")
        return [
            {k: v for k, v in e.items() if k not in timings}
            for kind in ("step", "epoch")
            for e in events(folder, kind)
        ]

    assert steady(out) == steady(whole)
    one, other = weights(out), weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_crops_alone_for_a_head_with_labels(run):
    code, out, said, errors = run([BINARY], "data.max_item_blocks=12", "data.large=crop", "train.epochs=1")
    assert code == 0, errors
    assert re.search(r"\d+ cropped to 12 blocks", said)
    assert len((out / "predictions.csv").read_text().splitlines()) == 13


def test_a_single_partner_is_not_shifted(run, tiny_set, tmp_path):
    """Pockets without a partner: blocks can be hidden all the same."""
    shutil.copy(tiny_set.parent / "c00.pdb", tmp_path / "pocket.pdb")
    rows = [f"p{i},pocket.pdb,A,1 2 3 4 5,,{split}" for i, split in enumerate(["train", "train", "valid"])]
    (tmp_path / "index.csv").write_text("\n".join(["id,path,chain1,residues,chain2,split", *rows, ""]))
    data = tmp_path / "pockets"
    assert _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(data)]) == 0
    code, out, _, errors = run([DENOISE + "translation = 1.0\nrotation = 0\n"], *NOISE[1:2], data=data)
    assert code == 2
    assert "2 of the 2 train complexes, p0 for one, have a single partner" in errors
    assert not out.exists()
    assert run([MASKED], "noise.mask_proportion=0.3", "train.epochs=1", data=data)[0] == 0


# ------------------------------------------------------------------------------------- external features of blocks


def features(data, path, segment=None):
    """A file of two features of every block, its type and 1, or of the blocks of one segment."""
    tensors = {}
    for record in atomica.open_dataset(data):
        own = record.block_types[slice(None) if segment is None else record.segment_ids == segment]
        tensors[record.id] = np.stack([own, np.ones(len(own))], axis=1).astype(np.float32)
    save_file(tensors, path)
    return tensors


def first_inputs(data, folder, *changes):
    """What the model gets in the first step."""
    path = folder / "spec.toml"
    path.write_text(BASE.format(out=folder / "out", data=data) + BINARY + MASKED)
    job = assemble(spec.load(path, ["noise.mask_proportion=0.2", *changes]), Request(dry=True))
    part = job.splits["train"]
    return part.load(part.epoch_plan(0)[0], job.model, 0).graph


@pytest.mark.parametrize("changes", [[], ["data.max_item_blocks=8", "data.large=crop"]])
def test_features_belong_to_their_blocks(tiny_set, tmp_path, changes):
    """Also where blocks are cropped away; blocks that are hidden have none, which would tell their type."""
    path = tmp_path / "features.safetensors"
    features(tiny_set, path)
    graph = first_inputs(
        tiny_set, tmp_path, f"data.embeddings={path}", "model.embeddings.sizes=[2]", *changes
    )
    rows = graph.embeddings["embedding"]
    assert graph.masked.any()
    assert torch.equal(rows[~graph.masked, 0], graph.blocks.type[~graph.masked].float())
    assert (rows[~graph.masked, 1] == 1).all()
    assert not rows[graph.masked].any()


def test_features_of_each_segment(tiny_set, tmp_path):
    paths = [tmp_path / f"{segment}.safetensors" for segment in range(2)]
    for segment, path in enumerate(paths):
        features(tiny_set, path, segment)
    files = json.dumps([str(path) for path in paths])
    graph = first_inputs(tiny_set, tmp_path, f"data.embeddings={files}", "model.embeddings.sizes=[2, 2]")
    for segment in range(2):
        rows = graph.embeddings[f"embedding_{segment}"]
        own = (graph.segment == segment) & ~graph.masked
        assert torch.equal(rows[own, 0], graph.blocks.type[own].float())
        assert not rows[~own].any()


def test_affinity_with_external_features(run, tiny_set, tmp_path):
    """A run with features of blocks, of one partner, is another than without, and can be resumed with them only."""
    path, other = tmp_path / "features.safetensors", tmp_path / "other.safetensors"
    tensors = features(tiny_set, path)
    head = '[[head]]\nkind = "affinity"\nlabel = "label_size"\nhidden = 8\n'
    changes = [f"data.embeddings={path}", "model.embeddings.sizes=[2]", "data.input=segment0"]
    code, out, _, errors = run([head], *changes)
    assert code == 0, errors
    assert weights(out)["encoder.mix_before.projectors.0.2.weight"].shape == (32, 2)
    assert main([str(out / "spec.toml"), "--resume", "--set", "train.epochs=3"]) == 0
    save_file(
        {name: values[:, :1].repeat(2, axis=1) for name, values in tensors.items()} | {"more": np.ones(3)},
        other,
    )
    assert main([str(out / "spec.toml"), "--resume", "--set", f"data.embeddings={other}"]) == 2


def test_features_that_do_not_fit(run, tiny_set, tmp_path):
    """All complexes are looked at before the run starts."""
    path = tmp_path / "features.safetensors"
    tensors = features(tiny_set, path)
    train = [record.id for record in atomica.open_dataset(tiny_set) if record.split == "train"]
    tensors[train[0]] = tensors[train[0]][1:]
    del tensors[train[1]], tensors[train[2]]
    save_file(tensors, path)
    code, out, _, errors = run([BINARY], f"data.embeddings={path}", "model.embeddings.sizes=[2]")
    assert code == 2
    assert f"lacks 2 ({train[1]}; {train[2]}) of 36 complexes" in errors
    assert re.search(
        rf"must hold \[blocks, 2\] .*: 1 \({train[0]} is \[\d+, 2\] F32 for \d+ blocks\)", errors
    )
    assert not out.exists()


def test_features_that_are_not_finite(tiny_set, tmp_path):
    path = tmp_path / "features.safetensors"
    tensors = features(tiny_set, path)
    record = atomica.open_dataset(tiny_set)[3]
    tensors[record.id][0, 0] = np.nan
    save_file(tensors, path)
    with pytest.raises(DataError, match=f"{record.id} has a feature that is not finite"):
        BlockFeatures([path]).rows([record])
