"""Thresholds of an ensemble's classes: by the stated rule, against trying every cut, and kept in a file."""

import json
import time

import numpy as np
import pytest

from atomica.analysis.thresholds import ClassRule, learn, read_ensemble, write_ensemble
from atomica.errors import DataError


def figures(labels, probabilities, threshold):
    called = probabilities >= threshold
    hits = (called & (labels == 1)).sum()
    precision = hits / called.sum() if called.any() else 0.0
    recall = hits / labels.sum()
    return precision, recall, 2 * hits / (called.sum() + labels.sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_is_better(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 40)
    # Ties, too.
    probabilities = np.round(np.clip(0.3 * labels + generator.random(40) * 0.7, 0, 1), 2)
    cuts = [
        (a + b) / 2 for a, b in zip([0, *np.unique(probabilities)], np.unique(probabilities), strict=False)
    ]
    every = np.array([figures(labels, probabilities, cut) for cut in cuts])
    found = learn(labels, probabilities, "f1")
    assert figures(labels, probabilities, found.threshold) == (found.precision, found.recall, found.f1)
    assert found.f1 == every[:, 2].max()
    wanted = every[:, 0].max() - 0.05
    found = learn(labels, probabilities, "precision", wanted)
    assert found.precision >= wanted
    assert found.recall == every[every[:, 0] >= wanted, 1].max()
    assert (found.pockets, found.positives) == (40, labels.sum())


def slowly(labels, probabilities, rule, precision):
    """As `learn`, counting all pockets again for every probability."""
    values = np.unique(probabilities)[::-1]
    figures_ = [figures(labels, probabilities, value) for value in values]
    if rule == "f1":
        scores = [f1 for _, _, f1 in figures_]
    else:
        scores = [recall if reached >= precision else -1.0 for reached, recall, _ in figures_]
    best = int(np.argmax(scores))
    below = values[best + 1] if best + 1 < len(values) else 0.0
    return (values[best] + below) / 2, *figures_[best]


@pytest.mark.parametrize("rule", ["f1", "precision"])
@pytest.mark.parametrize(("count", "digits"), [(2, 9), (30, 1), (300, 2), (3000, 9)])
def test_thresholds_are_those_of_counting_every_time(rule, count, digits):
    generator = np.random.default_rng(count)
    labels = np.arange(count) % 2
    probabilities = np.round(np.clip(0.3 * labels + generator.random(count) * 0.7, 0, 1), digits)
    probabilities[1] = 1.0  # so that there is a threshold of precision 1
    found = learn(labels, probabilities, rule, 0.8)
    own = (found.threshold, found.precision, found.recall, found.f1)
    assert own == slowly(labels, probabilities, rule, 0.8)


def test_many_pockets_take_no_time():
    """Sorting 100,000 takes some hundredths of a second; to count anew for each of them took half a minute."""
    generator = np.random.default_rng(0)
    labels, probabilities = generator.integers(0, 2, 100_000), generator.random(100_000)
    began = time.process_time()
    learn(labels, probabilities, "f1")
    assert time.process_time() - began < 3


def test_what_cannot_be_learnt_is_said():
    with pytest.raises(DataError, match="0 of 3 pockets are of this class"):
        learn(np.zeros(3, dtype=int), np.array([0.1, 0.2, 0.3]), "f1")
    with pytest.raises(
        DataError, match=r"no threshold has a precision of 0.9 on these 4 pockets; the best is 0.500"
    ):
        learn(np.array([1, 0, 1, 0]), np.array([0.1, 0.9, 0.8, 0.7]), "precision", 0.9)


def test_ensembles_come_back_from_their_file(tmp_path):
    learnt = learn(np.array([0, 1]), np.array([0.2, 0.7]), "f1")
    classes = {
        "HEM": ClassRule((str(tmp_path / "a" / "best"), str(tmp_path / "b.pt")), learnt.threshold, learnt),
        "a class": ClassRule((str(tmp_path / "b.pt"),), 0.5),
    }
    sums = {member: member[-1] * 64 for rule in classes.values() for member in rule.members}
    file = tmp_path / "ensemble.json"
    write_ensemble(file, classes, sums)
    assert read_ensemble(file) == (classes, sums)
    assert "../" not in json.loads(file.read_text())["classes"]["HEM"]["members"][0]["path"]
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "no ensemble of format 1"),
        ('{"format": 2}', "format 1.*: 2"),
        ('{"format": 1, "classes": {"HEM": {"members": []}}}', "damaged: KeyError"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_ensemble(file)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_ensemble(tmp_path / "absent.json")
