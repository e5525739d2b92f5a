"""The linear path of heads, solved before the first step, beside scikit-learn's solvers."""

import csv
import json
import re
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import TINY, changed
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression, Ridge

from atomica import AtomicaError, EncoderConfig, _prep, keys, load, open_dataset, spec
from atomica.analysis.familiarity import TrainingSet
from atomica.data.labels import BlockTargets
from atomica.data.sampling import DataConfig, Sampling, select_rows
from atomica.heads.multiclass import MulticlassConfig, MulticlassHead
from atomica.heads.multilabel import MultilabelConfig, MultilabelHead
from atomica.heads.regression import RegressionConfig, RegressionHead
from atomica.jobs.train.data import make_splits
from atomica.jobs.train.spec import read_spec
from atomica.runner import main
from atomica.testing import small_model
from atomica.train import linear
from atomica.train.distributed import ALONE
from atomica.train.loader import Split

ENCODER = EncoderConfig(atom_hidden=4, block_hidden=4, edge_size=4, layers=1)


def rows_for(head, count, seed):
    """Random rows for a head, standardised, and a direction in them."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, head.linear.in_features, generator=generator)
    head.standardise(torch.tensor(count), rows.double().sum(0), rows.double().square().sum(0))
    return rows, rows @ torch.randn(rows.shape[1], generator=generator)


def scaled(head, rows):
    """What the linear path multiplies: embeddings and counts, each group divided by the root of its width."""
    own = 2 * ENCODER.block_hidden
    share = np.repeat([own**-0.5, (rows.shape[1] - own) ** -0.5], [own, rows.shape[1] - own])
    standardised = ((rows - head.network.mean) * head.network.scale).numpy()
    return np.clip(standardised, -3, 3) * share


@pytest.mark.parametrize("layers", [1, 3])
def test_what_lies_far_from_all_training_rows_says_no_more(layers):
    """A complex ten times as large as any seen is answered as one that is just out of their range."""
    torch.manual_seed(0)
    head = RegressionHead(RegressionConfig(readout="mean_std", layers=layers), ENCODER).eval()
    rows, _ = rows_for(head, 50, 6)
    for part in head.network.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.normal_(part.weight)
    out, far, near = 4 * rows.std(0), 40 * rows.std(0), 2 * rows.std(0)
    assert torch.equal(*(head.answer(head.network.mean + step[None]) for step in (out, far)))
    assert not torch.allclose(*(head.answer(head.network.mean + step[None]) for step in (near, far)))


@pytest.mark.parametrize("layers", [1, 2])
def test_classes_are_told_apart_as_by_logistic_regression(monkeypatch, layers):
    monkeypatch.setattr(linear, "STRENGTHS", (1e-2,))
    torch.manual_seed(0)
    config = MulticlassConfig(classes=("a", "b", "c"), readout="mean_std", layers=layers, dropout=0.5)
    head = MulticlassHead(config, ENCODER)
    rows, along = rows_for(head, 90, 1)
    target = torch.bucketize(along, along.quantile(torch.tensor([0.3, 0.6])))
    assert linear._solve(head, (rows, target, torch.ones(90)), (rows, target, torch.ones(90))) == 1e-2
    other = LogisticRegression(C=1 / (1e-2 * 90), tol=1e-8, max_iter=1000).fit(scaled(head, rows), target)
    ours = head.predict(head.eval().answer(rows)).detach().numpy()
    np.testing.assert_allclose(ours, other.predict_proba(scaled(head, rows)), atol=2e-3)
    assert head.linear.weight.abs().max() > 0.1


def test_classes_drawn_equally_often_weigh_alike(monkeypatch):
    monkeypatch.setattr(linear, "STRENGTHS", (1e-2,))
    torch.manual_seed(0)
    head = MulticlassHead(MulticlassConfig(classes=("a", "b"), readout="mean_std", layers=1), ENCODER)
    rows, along = rows_for(head, 80, 2)
    target = (along > along.quantile(0.8)).long()
    weights = torch.where(target == 1, 0.5 / 16, 0.5 / 64)
    linear._solve(head, (rows, target, weights), (rows, target, torch.ones(80)))
    # Of two classes ours has a vector for each, opposite to one another; scikit-learn's has their difference.
    other = LogisticRegression(C=2 / 1e-2, tol=1e-8, max_iter=1000)
    other.fit(scaled(head, rows), target, sample_weight=weights.numpy())
    ours = head.predict(head.answer(rows)).detach().numpy()
    np.testing.assert_allclose(ours, other.predict_proba(scaled(head, rows)), atol=2e-3)


def test_numbers_are_found_as_by_ridge_regression_and_the_strength_by_the_rows_held_out(monkeypatch):
    torch.manual_seed(0)
    head = RegressionHead(RegressionConfig(readout="mean_std", layers=1), ENCODER)
    rows, along = rows_for(head, 200, 3)
    noisy = along + 3 * torch.randn(200, generator=torch.Generator().manual_seed(4))
    seen, held = (
        (rows[:40], noisy[:40], torch.ones(40)),
        (rows[40:], noisy[40:], torch.ones(160)),
    )
    strength = linear._solve(head, seen, held)
    losses = {}
    for one in linear.STRENGTHS:
        monkeypatch.setattr(linear, "STRENGTHS", (one,))
        linear._solve(head, seen, held)
        with torch.no_grad():
            losses[one] = float(linear._loss(head, held))
        x = scaled(head, rows)
        # Half the mean square, or the whole of it: the loss of the head says.
        share = float(head.loss(torch.tensor([1.0]), torch.tensor([0.0])))
        other = Ridge(alpha=one * 40 / (2 * share), tol=1e-8).fit(x[:40], noisy[:40])
        ours = head.answer(rows).detach().numpy()
        np.testing.assert_allclose(ours, other.predict(x), atol=0.05 * float(noisy.std()))
    assert strength == min(losses, key=losses.get)


def test_several_answers_of_yes_or_no_are_solved_together():
    torch.manual_seed(0)
    head = MultilabelHead(MultilabelConfig(classes=("a", "b"), readout="mean_std", layers=1), ENCODER)
    rows, along = rows_for(head, 60, 5)
    target = torch.stack([along > 0, along < 1], dim=1).long()
    linear._solve(head, (rows, target, torch.ones(60)), (rows, target, torch.ones(60)))
    said = head.predict(head.answer(rows)) > 0.5
    assert said.shape == target.shape
    assert (said == (target == 1)).float().mean() > 0.95


def test_blocks_weigh_as_often_as_their_complexes_are_drawn(tiny_set):
    dataset = open_dataset(tiny_set)
    rows = select_rows(dataset, "train", DataConfig(str(tiny_set)), own=False)
    sampling = Sampling((np.arange(len(rows)) >= 4).astype(np.int64), np.array([0.5, 0.5]))
    ends = np.cumsum(rows.blocks)
    ordinary = np.concatenate([dataset[row].block_types for row in rows.rows]) != keys.GLOBAL_BLOCK
    values = torch.where(torch.from_numpy(ordinary), torch.arange(len(ordinary)) % 3 - 1, -1)
    targets = BlockTargets(values, ends, [], [], [], ordinary)
    model = small_model("residue_binary", {"layers": 1}, layers=1)
    split = Split(rows, targets={}, known={}, block_targets={"residue_binary": targets}, sampling=sampling,
                  input="complex", graph_options=model.config.graph_options(), batch_blocks=256)  # fmt: skip
    read = linear._read(model, split, ("residue_binary",), ALONE)["residue_binary"]
    _, target, weight = read.weighed(split.weights)
    known = targets.values >= 0
    assert torch.equal(target, targets.values[known])
    of = np.repeat(np.arange(len(rows)), rows.blocks)[known.numpy()]
    np.testing.assert_allclose(weight, np.where(of < 4, 0.5 / 4, 0.5 / (len(rows) - 4)), rtol=1e-6)


SPEC = changed(TINY, {'input = "segment0"\n': "", "epochs = 3": "epochs = 0"})
"""No epoch, on whole complexes."""


def test_heads_alone_are_solved_in_no_epoch(tmp_path, tiny_set):
    """The encoder stays as it starts, epoch 0 is the best, and test rows are evaluated."""
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.format(out=tmp_path / "none", data=tiny_set))
    assert main([str(path)]) == 0
    found = json.loads((tmp_path / "none" / "evaluation.json").read_text())
    assert found["checkpoint"]["epoch"] == 0
    assert found["metrics"]["auroc"] > 0.9
    (record,) = map(json.loads, (tmp_path / "none" / "metrics.jsonl").read_text().splitlines()[:1])
    assert (record["event"], record["epoch"], record["step"]) == ("epoch", 0, 0)
    assert record[f"valid_{found['checkpoint']['monitor']}"] == found["checkpoint"]["valid"]
    assert main([str(path), "--set", "train.solve_heads=false", "--set", "run.out=elsewhere"]) == 2
    # A head that has nothing to be solved leaves the model as it starts.
    words = ["head.0.readout=graph", f"run.out={tmp_path / 'as it starts'}"]
    assert main([str(path), *(word for one in words for word in ("--set", one))]) == 0
    assert "no head, and none is trained" in (tmp_path / "as it starts" / "log.txt").read_text()
    words = ["train.seeds=2", f"run.out={tmp_path / 'members'}", "device.threads=1"]
    assert main([str(path), *(word for one in words for word in ("--set", one))]) == 0
    members = json.loads((tmp_path / "members" / "members.json").read_text())["members"].values()
    assert [one["epoch"] for one in members] == [0, 0]


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_a_refitted_head_has_learnt_from_training_and_validation_rows(tmp_path, tiny_set, sampler):
    """Beside scikit-learn on both."""
    path, words = tmp_path / "spec.toml", ["--set", f"data.sampler={sampler}", "--set", "head.0.layers=1"]
    path.write_text(SPEC.format(out=tmp_path / "apart", data=tiny_set))
    assert main([str(path), *words]) == 0
    assert main([str(path), *words, "--set", "train.refit=true", "--set", f"run.out={tmp_path}/refit"]) == 0
    told, kept = [], []
    for name in ("apart", "refit"):
        log = (tmp_path / name / "log.txt").read_text()
        told.append(re.search(r"epoch 0/0 .*valid loss ([\d.]+)", log)[1])
        kept.append(load(tmp_path / name / "checkpoints" / "best").eval())
    ends = [float(end) for end in re.search(r"with decay ([\d.e-]+)(?: to ([\d.e-]+))?", log).groups() if end]
    used = [one for one in linear.STRENGTHS if min(ends) * 0.9 < one < max(ends) * 1.1]
    assert (
        told[0] == told[1]
    )  # validation rows are judged by a head that has not seen them; both take the weakest decay
    data = open_dataset(tiny_set)
    known = [row for row in range(len(data)) if data[row].split in ("train", "valid")]
    head = kept[1].head("binary")
    with torch.no_grad():
        read = kept[1].read(data.graphs(known), ["binary"])["binary"]
    share = head.network.share.numpy()
    x = np.clip(((read - head.network.mean) * head.network.scale).numpy(), -3, 3) * share
    y = np.array([data[row].labels["label"] == "yes" for row in known])
    weights = (
        np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()) if sampler == "balanced" else np.full(len(y), 1 / len(y))
    )
    each = [
        LogisticRegression(C=1 / one, tol=1e-8, max_iter=5000)
        .fit(x, y, sample_weight=weights)
        .decision_function(x)
        for one in used
    ]
    ours = [head.predict(one.head("binary").answer(read)).detach().numpy() for one in kept]
    np.testing.assert_allclose(ours[1], 1 / (1 + np.exp(-np.mean(each, axis=0))), atol=5e-3)
    assert np.abs(ours[0] - ours[1]).max() > 1e-2
    # Baselines learn from as many.
    tables = [
        list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in ("apart", "refit")
    ]
    found = [[row["regression on counts"] for row in table] for table in tables]
    assert found[0] != found[1]


def test_of_few_rows_cross_validation_over_whole_clusters_chooses_the_strength(monkeypatch):
    """Beside scikit-learn, part by part; rows count alike there, whatever they weigh."""
    monkeypatch.setattr(linear, "STRENGTHS", (1.0, 3e-2, 1e-3, 1e-5))
    torch.manual_seed(0)
    head = MulticlassHead(MulticlassConfig(classes=("a", "b"), readout="mean_std", layers=1), ENCODER)
    rows, along = rows_for(head, 60, 7)
    noisy = along + 6 * torch.randn(60, generator=torch.Generator().manual_seed(8))
    target, weights = (noisy > noisy.quantile(0.7)).long(), torch.rand(60) + 0.5
    groups = [f"cluster {row // 5}" for row in range(60)]
    parts = linear._parts(target, groups)
    assert len(parts) == 5
    for learnt, left in parts:
        assert not {groups[row] for row in learnt} & {groups[row] for row in left}
    losses = np.zeros((5, len(linear.STRENGTHS)))
    for part, (learnt, left) in enumerate(parts):
        for place, strength in enumerate(linear.STRENGTHS):
            x, weight = scaled(head, rows), weights[learnt].numpy() / float(weights[learnt].sum())
            other = LogisticRegression(C=2 / strength, tol=1e-8, max_iter=2000)
            said = other.fit(x[learnt], target[learnt], sample_weight=weight).predict_proba(x[left])
            losses[part, place] = -np.log(said[np.arange(len(left)), target[left]]).mean()
    sizes = [len(left) for _, left in parts]
    means = np.average(losses, axis=0, weights=sizes)
    errors = np.std(losses - losses[:, [means.argmin()]], axis=0, ddof=1) / 5**0.5
    within = means - means.min() <= errors
    own = linear._cross_validated(head, (rows, target, weights), parts)
    assert np.allclose(own, losses, atol=0.01)
    chosen = linear._alike(own, sizes)
    assert linear._alike(own, sizes, errors=0.0) == (linear.STRENGTHS[means.argmin()],)
    assert chosen == tuple(np.array(linear.STRENGTHS)[within])
    assert 1 < len(chosen) < len(linear.STRENGTHS), (means, errors)
    each = []
    for strength in chosen:
        linear._reach(head, (rows, target, weights), (strength,))
        each.append(head.linear.weight.detach().clone())
    linear._reach(head, (rows, target, weights), chosen)
    assert torch.allclose(head.linear.weight, torch.stack(each).mean(0), atol=1e-3)
    assert not linear._parts(target, ["one cluster"] * 60)
    assert not linear._parts(torch.zeros(linear.MOST + 1), [str(row) for row in range(linear.MOST + 1)])
    assert len(linear._parts(along, groups)) == 5
    assert not linear._parts(torch.arange(12) % 4, [str(row) for row in range(12)])  # no class has five rows


def test_clusters_weigh_together_as_they_would_be_drawn_from_all_rows(tmp_path, tiny_set):
    """By their size in training and validation rows together, which have parts of each."""
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.format(out=tmp_path / "out", data=tiny_set))
    words = ["data.sampler=cluster", "data.cluster=batch_of", "train.refit=true", "head.0.label=label_size"]
    source = spec.load(path, [*words, "head.0.kind=regression", "train.monitor=loss"])
    for key in ("positive", "negative"):
        del source.tree["head"][0][key]
    issues = spec.Issues(source)
    checked = read_spec(source, issues)
    made = make_splits(checked, {"train": open_dataset(tiny_set)}, None, issues)
    issues.raise_any()
    assert made.both.rows.ids == [*made.each["train"].rows.ids, *made.each["valid"].rows.ids]
    assert made.both.clusters == [*made.each["train"].clusters, *made.each["valid"].clusters]
    sizes = Counter(made.both.clusters)
    assert len(set(sizes.values())) > 1
    total = sum(size**0.5 for size in sizes.values())
    wanted = [sizes[one] ** -0.5 / total for one in made.both.clusters]
    np.testing.assert_allclose(made.both.weights, wanted, rtol=1e-5)
    # Which set validation rows are of, data.weights do not say.
    source = spec.load(
        path, [f'data.train=["{tiny_set}", "{tiny_set}"]', "data.weights=[1, 2]", "train.refit=true"]
    )
    issues = spec.Issues(source)
    read_spec(source, issues)
    with pytest.raises(AtomicaError, match=r"train\.refit = true: does not go with data\.weights"):
        issues.raise_any()


def test_refitting_goes_through_validation_rows_too_and_keeps_the_last_epoch(tmp_path, tiny_set):
    """From the head as it is solved on both; the same where validation rows are named as a data set of their own."""

    def run(name, *changes):
        path, out = tmp_path / "spec.toml", tmp_path / name
        path.write_text(SPEC.format(out=out, data=tiny_set))
        words = ["train.refit=true", "data.sampler=uniform", "head.0.layers=1", *changes]
        assert main([str(path), *(word for one in words for word in ("--set", one))]) == 0
        states = [load(out / "checkpoints" / one).state_dict() for one in ("best", "last")]
        return (out / "log.txt").read_text(), *states

    log, best, last = run("one", "train.epochs=3")
    assert "last    epoch 3 of 3" in log
    assert "valid rows are learnt from, too" in log
    assert all(torch.equal(best[name], last[name]) for name in best)
    data = open_dataset(tiny_set)
    blocks = sum(
        int(data.block_counts("complex")[row])
        for split in ("train", "valid")
        for row in data.rows_of(split, own=False)
    )
    steps, mean = re.search(r"steps   (\d+) per epoch of (\d+) blocks", log).groups()
    assert abs(int(steps) * int(mean) - blocks) <= int(steps)
    # New complexes are held against all that was learnt from.
    remembered = TrainingSet.load(tmp_path / "one" / "checkpoints" / "best").ids
    assert set(remembered) == {
        data.ids[row] for name in ("train", "valid") for row in data.rows_of(name, own=False)
    }
    evaluate, weights = tmp_path / "evaluate.toml", tmp_path / "one" / "checkpoints" / "best"
    for split, told in (("valid", True), ("test", False)):
        evaluate.write_text(
            f'[run]\nname = "of"\njob = "evaluate"\nout = "{tmp_path / split}"\n'
            f'[data]\nsource = "{tiny_set}"\nsplit = "{split}"\n[model]\nweights = "{weights}"\n'
        )
        assert main([str(evaluate)]) == 0
        log = (tmp_path / split / "log.txt").read_text()
        assert ("12 of 12 complexes are among those that were learnt from" in log) == told
    _, two, _ = run("two", "train.epochs=3", f'data.valid="{tiny_set}"')
    assert all(torch.equal(best[name], two[name]) for name in best)
    _, apart, _ = run("apart", "train.epochs=3", "train.refit=false")
    assert not torch.equal(best["encoder.atom_types.weight"], apart["encoder.atom_types.weight"])
    _, solved, _ = run("solved", "train.epochs=0")
    _, still, _ = run("still", "train.epochs=1", "train.learning_rate=1e-30")
    assert all(torch.equal(solved[name], still[name]) for name in solved if name.startswith("heads"))
    path = tmp_path / "spec.toml"
    assert main([str(path), "--set", "train.refit=true", "--set", "train.patience=2"]) == 2


def test_refitting_needs_validation_rows_that_were_built_as_training_rows_were(tmp_path, tiny_set, capsys):
    index = tiny_set.parent / "index.csv"
    assert _prep.run(["build-graphs", str(index), "--cutoff", "6", "--out", str(tmp_path / "nearer")]) == 0
    path = tmp_path / "spec.toml"
    path.write_text(SPEC.format(out=tmp_path / "out", data=tiny_set))
    words = [str(path), "--set", f"data.valid={tmp_path / 'nearer'}", "--set", "train.refit=true"]
    assert main(words) == 2
    assert "built with cutoff 6 Å, and 8 Å in data.train" in capsys.readouterr().err


def test_what_adds_up_over_blocks_is_solved(tmp_path, tiny_set):
    """The length of a patch, which no mean over blocks knows: an affinity is a sum, and solved as one."""
    path = tmp_path / "spec.toml"
    path.write_text(
        f'[run]\nname = "size"\nout = "{tmp_path}/size"\n[data]\ntrain = "{tiny_set}"\n'
        "[model]\natom_hidden = 8\nblock_hidden = 8\nedge_size = 4\nlayers = 1\n"
        '[[head]]\nkind = "affinity"\nlabel = "label_size"\n[train]\nepochs = 0\n'
        '[device]\nkind = "cpu"\nthreads = 1\n'
    )
    assert main([str(path)]) == 0
    found = json.loads((tmp_path / "size" / "evaluation.json").read_text())
    mean = found["heads"]["affinity"]["baselines"]["mean"]["rmse"]["value"]
    assert found["metrics"]["rmse"] < 0.8 * mean


def test_a_frozen_head_stays_as_it_is(tmp_path, tiny_set):
    path = tmp_path / "spec.toml"
    path.write_text(
        f'[run]\nname = "frozen"\nout = "{tmp_path}/frozen"\n[data]\ntrain = "{tiny_set}"\n'
        "[model]\natom_hidden = 8\nblock_hidden = 8\nedge_size = 4\nlayers = 1\n"
        '[[head]]\nkind = "binary"\npositive = "yes"\n[train]\nepochs = 1\nfreeze = ["heads.binary"]\n'
        '[device]\nkind = "cpu"\nthreads = 1\n'
    )
    assert main([str(path)]) == 0
    weights = load_file(tmp_path / "frozen" / "checkpoints" / "last" / "model.safetensors")
    assert weights["heads.binary.network.linear.weight"].abs().max() == 0
    assert weights["heads.binary.network.fitted"]
