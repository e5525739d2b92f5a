"""Metrics against scikit-learn, intervals against theory, the words of the comparison, and baselines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, recall_score, roc_auc_score

from atomica.data.dataset import open_dataset
from atomica.data.sampling import DataConfig, select_rows
from atomica.evaluation import results, statistics
from atomica.evaluation.baseline import CONTACT, answer, composition, contacts, counted, neighbours
from atomica.keys import GLOBAL_ATOM, GLOBAL_BLOCK


@pytest.mark.parametrize("seed", range(20))
def test_metrics_agree_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 40)
    labels[:2] = 0, 1
    scores = generator.random(40)
    if seed % 2:
        scores = np.round(scores, 1)  # ties
    assert statistics.auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert statistics.auprc(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


def test_one_class_is_undefined():
    labels, scores = np.zeros(4, dtype=np.int64), np.arange(4.0) / 4
    assert np.isnan(statistics.auroc(labels, scores))
    result = statistics.compare(labels, scores, {"other": scores}, seed=0)
    assert result["model"]["auroc"] == {"value": None, "low": None, "high": None}
    assert "all of one class" in results.format_comparison(result)


def sample(count, shift, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    scores = generator.normal(size=count) + shift * labels
    return labels, 1 / (1 + np.exp(-scores))


def against(labels, scores, other, **options):
    return statistics.compare(labels, scores, {"other": other}, **options)


def test_interval_has_about_the_width_theory_gives():
    labels, scores = sample(400, 1.0)
    found = against(labels, scores, np.zeros(400), seed=3)["model"]["auroc"]
    area = found["value"]
    q1, q2, n = area / (2 - area), 2 * area**2 / (1 + area), 200
    error = np.sqrt((area * (1 - area) + (n - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / n**2)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_relatives_are_drawn_together():
    """Copies of complexes tell nothing new: with clusters the interval is that of the complexes without copies."""
    labels, scores = sample(100, 1.0)
    groups = np.repeat(np.arange(100), 9)

    def width(found):
        return found["high"] - found["low"]

    alone = width(against(labels, scores, 1 - scores, seed=0)["model"]["auroc"])
    copies = [np.repeat(values, 9) for values in (labels, scores, 1 - scores)]
    found = against(*copies, seed=0, groups=groups)
    assert found["clusters"] == 100
    assert width(found["model"]["auroc"]) == pytest.approx(alone, rel=0.15)
    assert "can be trusted" not in found["verdict"]
    few = against(*copies, seed=0, resamples=50, groups=groups // 20)
    assert few["verdict"].endswith("of 5 clusters no interval can be trusted.")
    assert width(against(*copies, seed=0)["model"]["auroc"]) < 0.5 * alone


def test_same_seed_same_intervals():
    labels, scores = sample(50, 0.5)
    one = against(labels, scores, 1 - scores, seed=5, resamples=100)
    assert one == against(labels, scores, 1 - scores, seed=5, resamples=100)
    assert one != against(labels, scores, 1 - scores, seed=6, resamples=100)
    assert one["resamples"] == 100


def test_conclusions_say_whether_the_interval_includes_the_best_baseline():
    labels, good = sample(200, 3.0)
    noise = np.random.default_rng(9).random(200)
    better = against(labels, good, noise, seed=0, resamples=200)
    assert "does not include the best baseline's" in better["conclusions"][0]
    assert "the model is better by" in better["conclusions"][0]
    assert "show the model to be better than every baseline" in better["verdict"]
    worse = against(labels, noise, good, seed=0, resamples=200)
    assert "the model is worse by" in worse["conclusions"][0]
    assert "worse than the baseline of other" in worse["verdict"]
    same = against(labels, good, good, seed=0, resamples=200)
    assert "includes the best baseline's" in same["conclusions"][0]
    assert "do not show the model to be better" in same["verdict"]
    table = results.format_comparison(same)
    assert "other" in table
    assert same["verdict"] in table
    # Of several, the best one is what counts.
    both = statistics.compare(labels, good, {"noise": noise, "good": good}, seed=0, resamples=50)
    assert both["best"] == {"auroc": "good", "auprc": "good"}


def test_less_is_better_for_errors():
    generator = np.random.default_rng(0)
    truth = generator.normal(size=100)
    near, far = (truth + scale * generator.normal(size=100) for scale in (0.1, 1.0))
    found = against(truth, near, far, seed=0, resamples=200)
    assert found["judged"] == "rmse"
    assert found["difference"]["rmse"]["value"] < 0
    assert "better than every baseline" in found["verdict"]
    assert "the model is better by" in found["conclusions"][0]
    assert "worse" in against(truth, far, near, seed=0, resamples=200, judged="spearman")["verdict"]


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_labels_agree_with_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, 60)
    said = generator.dirichlet(np.ones(4), 60)  # one class does not occur
    measures = statistics.MEASURES["classes"]
    recall = recall_score(truth, said.argmax(1), average="macro", labels=[0, 1, 2], zero_division=0)
    assert measures["balanced_accuracy"].function(truth, said) == pytest.approx(recall)
    each = [roc_auc_score(truth == c, said[:, c]) for c in range(3)]
    assert measures["auroc"].function(truth, said) == pytest.approx(np.mean(each))
    several = generator.integers(0, 2, (60, 4))
    several[:, 3] = 1  # says nothing
    each = [average_precision_score(several[:, c], said[:, c]) for c in range(3)]
    assert statistics.MEASURES["labels"]["auprc"].function(several, said) == pytest.approx(np.mean(each))


def test_what_is_the_same_for_all_is_seen():
    classes, flat = np.array([0, 1, 2, 1]), np.tile([0.2, 0.5, 0.3], (4, 1))
    assert statistics.monotony(classes, flat) == "class 1 for all 4"
    assert not statistics.monotony(classes, np.eye(3)[[0, 1, 1, 1]])
    assert not statistics.monotony(np.ones(4, dtype=np.int64), flat)  # nothing else is to be said
    numbers = np.array([4.0, 6.0, 8.0])
    assert statistics.monotony(numbers, np.array([6.0, 6.001, 6.0])) == "about 6 for all 3"
    assert not statistics.monotony(numbers, np.array([5.9, 6.0, 6.1]))


# --------------------------------------------------------------------------------------------------- baselines


@pytest.fixture(scope="module")
def rows():
    """Training and test rows of the demo."""
    dataset = open_dataset("demo://pockets")
    config = DataConfig(train="demo://pockets")
    return [select_rows(dataset, part, config, own=False) for part in ("train", "test")]


def test_composition_is_learnt_and_the_same_every_time(rows):
    train, test = rows
    types = train.dataset.block_types
    counts = [counted(one, "segment0", composition)[0] for one in rows]
    assert counts[0].shape == (len(train), types + 1)
    assert np.allclose(np.exp(counts[0][:, -1]) - 1, counts[0][:, :-1].sum(axis=1))
    # A question that composition answers: is there a cysteine?
    column = int(np.argmax(counts[0][:, :-1].std(axis=0)))
    truth = [(one[:, column] > np.median(counts[0][:, column])).astype(np.int64) for one in counts]

    def ask(*parts, **options):
        return answer("composition", "yes-no", parts or [train], truth[0], test, input="segment0", **options)

    found = {one.name: one for one in ask(seed=1)}
    assert list(found) == ["majority", "regression on counts", "nearest by counts"]
    assert np.allclose(found["majority"].predicted, truth[0].mean())
    assert statistics.auroc(truth[1], found["regression on counts"].predicted) > 0.8
    first = np.arange(len(train)) < 30
    again = ask(train.keep(first, "later"), train.keep(~first, "before"), seed=1)
    assert all(np.array_equal(one.predicted, found[one.name].predicted) for one in again)
    assert "by cross-validation over rows" in found["regression on counts"].method
    grouped = ask(groups=np.arange(len(train)) // 3)
    assert "over clusters" in grouped[1].method
    few = np.zeros(len(train), dtype=bool)
    few[np.flatnonzero(truth[0])[:3]] = few[np.flatnonzero(truth[0] == 0)[:3]] = True
    assert "too few" in ask(learnt=few)[1].method


def test_every_form_of_answer_has_baselines(rows):
    train, test = rows
    generator = np.random.default_rng(0)
    targets = {
        "classes": generator.integers(0, 3, len(train)),
        "labels": generator.integers(0, 2, (len(train), 2)),
        "numbers": generator.normal(size=len(train)),
    }
    for form, target in targets.items():
        kind = "contacts" if form == "numbers" else "composition"
        found = answer(kind, form, [train], target, test, input="complex", classes=4)
        for one in found:
            assert one.predicted.shape == (len(test), *{"classes": (4,), "labels": (2,)}.get(form, ()))
            assert np.isfinite(one.predicted).all()
            if form == "classes":
                assert np.allclose(one.predicted.sum(axis=1), 1)
                assert not one.predicted[:, 3].any()  # a class that the training rows do not have
        assert ("regression on contacts" in [one.name for one in found]) == (form == "numbers")
    assert "contacts" not in str(
        answer("contacts", "numbers", [train], targets["numbers"], test, input="segment0")
    )


def test_contacts_are_counted_across_the_interface(rows):
    record = rows[0].dataset[3]
    found = contacts(record, 150)
    ordinary = record.atom_types != GLOBAL_ATOM
    segment = np.repeat(record.segment_ids, record.block_lengths)
    one, other = (record.positions[ordinary & (segment == s)] for s in (0, 1))
    near = np.linalg.norm(one[:, None].astype(np.float64) - other, axis=2) < CONTACT
    assert found[:-1].sum() == near.sum() > 0
    assert found[-1] == len(other)


def test_answers_of_blocks_have_baselines(rows):
    """Which blocks are buried? Clusters are those of their complexes."""
    train, test = (replace(one, rows=one.rows[:12], blocks=one.blocks[:12]) for one in rows)
    buried = []
    for part in (train, test):
        counts = counted(part, "segment0", neighbours)[0][:, -5]
        buried.append((counts > np.median(counts)).astype(np.int64))
    found = answer(
        "neighbours", "yes-no", [train], buried[0], test, input="segment0", groups=np.arange(12) // 2
    )
    assert [one.name for one in found] == ["majority", "regression on neighbours"]
    assert "over clusters" in found[1].method
    assert statistics.auroc(buried[1], found[1].predicted) > 0.95


def test_neighbours_are_counted_for_every_block(rows):
    record = rows[0].dataset[3]
    found = neighbours(record, 150)
    assert len(found) == (record.block_types != GLOBAL_BLOCK).sum()
    assert (found[:, :150].sum(axis=1) == 1).all()
    counts = found[:, 150:]
    assert (np.diff(counts, axis=1) >= 0).all()
    assert counts.min() >= 0
    assert counts.max() < len(found)


def test_what_counts_as_a_binary_head():
    binary = np.array([0, 1, 1])
    assert statistics.is_binary(binary, np.array([0.1, 0.5, 0.9]))
    assert not statistics.is_binary(binary.astype(float), np.array([0.1, 0.5, 0.9]))
    assert not statistics.is_binary(binary + 1, np.array([0.1, 0.5, 0.9]))
    assert not statistics.is_binary(binary, np.array([0.1, 0.5, 1.9]))
    assert not statistics.is_binary(binary, np.ones((3, 2)) / 2)


def test_predictions_csv():
    text = results.predictions_csv([("id", ["a,b", "c"]), ("probability", [0.123456789, 1.0])])
    assert text == 'id,probability\n"a,b",0.123457\nc,1\n'
