"""Metrics against scikit-learn, intervals against theory, and the words of the comparison."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from atomica.evaluation import baseline, results, statistics


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
    labels, scores = np.zeros(4, dtype=np.int64), np.arange(4.0)
    assert np.isnan(statistics.auroc(labels, scores))
    result = statistics.compare(labels, scores, scores, seed=0)
    assert result["model"]["auroc"] == {"value": None, "low": None, "high": None}
    assert "all of one class" in results.format_comparison(result, "yes")


def sample(count, shift, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return labels, generator.normal(size=count) + shift * labels


def test_interval_has_about_the_width_theory_gives():
    labels, scores = sample(400, 1.0)
    found = statistics.compare(labels, scores, np.zeros(400), seed=3)["model"]["auroc"]
    area = found["value"]
    q1, q2, n = area / (2 - area), 2 * area**2 / (1 + area), 200
    error = np.sqrt((area * (1 - area) + (n - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / n**2)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_same_seed_same_intervals():
    labels, scores = sample(50, 0.5)
    one = statistics.compare(labels, scores, -scores, seed=5, resamples=100)
    assert one == statistics.compare(labels, scores, -scores, seed=5, resamples=100)
    assert one != statistics.compare(labels, scores, -scores, seed=6, resamples=100)
    assert one["resamples"] == 100


def test_conclusions_say_whether_the_interval_includes_the_baseline():
    labels, good = sample(200, 3.0)
    noise = np.random.default_rng(9).random(200)
    better = statistics.compare(labels, good, noise, seed=0, resamples=200)["conclusions"][0]
    assert "does not include the baseline's" in better
    assert "the model is better by" in better
    worse = statistics.compare(labels, noise, good, seed=0, resamples=200)["conclusions"][0]
    assert "the model is worse by" in worse
    same = statistics.compare(labels, good, good, seed=0, resamples=200)
    assert "includes the baseline's" in same["conclusions"][0]
    assert "do not show the model to be better" in same["conclusions"][0]
    table = results.format_comparison(same, "yes")
    assert "residue composition" in table
    assert "base rate of yes" in table


def test_baseline_learns_composition_and_is_deterministic():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = generator.random((60, 10))
    features[:, 3] += labels
    features[:, 7] = 0.0  # a block type that does not occur
    one = baseline.fit_baseline(features[:40], labels[:40], features[40:], seed=1)
    two = baseline.fit_baseline(features[:40], labels[:40], features[40:], seed=1)
    assert np.array_equal(one.probabilities, two.probabilities)
    assert one.chosen_by == "cross-validation"
    assert statistics.auroc(labels[40:], one.probabilities) > 0.8
    few = baseline.fit_baseline(features[:6], labels[:6], features[40:], seed=1)
    assert (few.strength, few.chosen_by) == (1.0, "fixed")


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
