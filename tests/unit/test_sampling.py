"""Batches: rows of each part, the order of an epoch, samplers, batches, prefetching."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from atomica.data.dataset import open_dataset
from atomica.data.record import PARTS
from atomica.data.sampling import (
    DataConfig,
    Sampling,
    epoch_order,
    occurrences,
    plan_batches,
    prefetch,
    sampling,
    select_rows,
)
from atomica.errors import DataError


def test_rows_of_each_part(tiny_set):
    dataset = open_dataset(tiny_set)
    config = DataConfig(train=str(tiny_set))
    parts = {name: select_rows(dataset, name, config, own=name == "train") for name in PARTS}
    assert sum(len(rows) for rows in parts.values()) == len(dataset)
    for name, rows in parts.items():
        assert {dataset.splits[row] for row in rows.rows} == {name}
        assert rows.skipped == {}


def test_large_complexes_are_skipped_and_counted(tiny_set):
    dataset = open_dataset(tiny_set)
    every = select_rows(dataset, "train", DataConfig(train="x"), own=True)
    limit = int(np.median(every.blocks))
    rows = select_rows(dataset, "train", DataConfig(train="x", max_item_blocks=limit), own=True)
    assert rows.blocks.max() <= limit
    assert list(rows.skipped.values()) == [len(every) - len(rows)]
    assert "data.max_item_blocks" in next(iter(rows.skipped))


def test_batches_are_full_in_order_and_complete():
    generator = np.random.default_rng(0)
    blocks = generator.integers(1, 50, 200)
    order = generator.permutation(200)
    batches = plan_batches(order, blocks, 100)
    assert np.concatenate(batches).tolist() == order.tolist()
    sums = [int(blocks[batch].sum()) for batch in batches]
    assert max(sums) <= 100
    for batch, following in zip(batches, batches[1:], strict=False):
        assert blocks[batch].sum() + blocks[following[0]] > 100
    assert [b.tolist() for b in plan_batches(np.arange(3), np.array([1, 500, 1]), 100)] == [[0], [1], [2]]
    assert plan_batches(np.arange(0), np.array([], dtype=int), 5) == []


def test_order_depends_on_seed_and_epoch_only():
    one = epoch_order(100, seed=1, epoch=2)
    assert sorted(one.tolist()) == list(range(100))
    assert np.array_equal(one, epoch_order(100, seed=1, epoch=2))
    assert not np.array_equal(one, epoch_order(100, seed=1, epoch=3))
    assert not np.array_equal(one, epoch_order(100, seed=2, epoch=2))


@pytest.mark.parametrize("minority", [1, 3, 20, 50])
def test_balanced_order(minority):
    classes = np.array([1] * minority + [0] * (100 - minority))
    balanced = sampling("balanced", classes)
    for epoch in range(3):
        order = epoch_order(100, seed=0, epoch=epoch, sampling=balanced)
        assert len(order) == 100
        assert int(classes[order].sum()) == 50
        times = np.bincount(order, minlength=100)[:minority]
        assert times.max() - times.min() <= 1
        assert np.array_equal(order, epoch_order(100, seed=0, epoch=epoch, sampling=balanced))


def test_shares_by_modality_and_by_set():
    kinds = np.array([0] * 100 + [1] * 10 + [2])
    found = sampling("modality", kinds)
    weights = np.array([100 / np.log(100), 10 / np.log(10), 1 / np.log(2)])
    assert found.shares == pytest.approx(weights / weights.sum())
    sources = np.array([0] * 105 + [1] * 6)
    mixed = sampling("balanced", kinds, sources=sources, weights=(1.0, 3.0))
    per_row = mixed.shares[mixed.strata]
    assert per_row[0] == pytest.approx(1 / 8)  # set 0: kinds 0 and 1
    assert per_row[-1] == pytest.approx(3 / 8)  # set 1: kinds 1 and 2
    assert sampling("uniform", kinds) is None
    by_set = sampling("uniform", kinds, sources=sources, weights=(1.0, 1.0))
    assert by_set.shares == pytest.approx([0.5, 0.5])


def test_an_epoch_of_shares():
    """Each stratum's places are right to within one in each epoch, and exactly on average."""
    strata = np.repeat([0, 1, 2], [50, 5, 1])
    found = Sampling(strata, np.array([0.45, 0.35, 0.2]))
    counts = []
    for epoch in range(64):
        order = epoch_order(56, seed=0, epoch=epoch, sampling=found, length=33)
        assert len(order) == 33
        counts.append(np.bincount(strata[order], minlength=3))
        assert np.all(np.abs(counts[-1] - found.shares * 33) < 1)
    assert np.mean(counts, axis=0) == pytest.approx(found.shares * 33, abs=0.05)
    assert len(set(epoch_order(56, seed=0, epoch=0, length=20).tolist())) == 20
    long = epoch_order(5, seed=0, epoch=0, length=12)
    assert sorted(np.bincount(long, minlength=5).tolist()) == [2, 2, 2, 3, 3]


def test_occurrences_count_repeats():
    order = np.random.default_rng(0).integers(0, 9, 100)
    seen = {}
    for value, count in zip(order.tolist(), occurrences(order).tolist(), strict=True):
        assert count == seen.get(value, 0)
        seen[value] = count + 1


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_prefetch_keeps_the_order(threads):
    def make(job):
        time.sleep(0.002 * (job % 3))
        return job * job

    assert list(prefetch(range(30), make, threads=threads)) == [job * job for job in range(30)]


@pytest.mark.parametrize("threads", [0, 2])
def test_prefetch_raises_where_the_result_would_come(threads):
    def make(job):
        if job == 3:
            raise DataError("three")
        return job

    results = prefetch(range(10), make, threads=threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="three"):
        next(results)


def test_prefetch_begins_with_the_call():
    begun = threading.Event()
    results = prefetch(range(3), lambda job: begun.set() or job)
    assert begun.wait(timeout=5)
    assert list(results) == [0, 1, 2]


def test_prefetch_is_bounded_and_leaves_no_thread():
    made = []
    results = prefetch(range(100), lambda job: made.append(job) or job, threads=1, ahead=3)
    next(results)
    time.sleep(0.05)
    assert len(made) <= 5
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("atomica-prefetch")]


def test_limits_of_the_section_are_checked_together():
    with pytest.raises(ValueError, match="must be at most data.batch_blocks"):
        DataConfig(train="x", batch_blocks=10, max_item_blocks=20)
