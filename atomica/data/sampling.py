"""Records → batches: which rows a run uses, the order of an epoch, batches, prefetching.

Everything random depends on (seed, epoch) alone. Nothing here needs PyTorch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from atomica.data.dataset import Dataset, Mixture
from atomica.data.record import INPUTS, SPLITS, Indices
from atomica.errors import DataError
from atomica.spec import Problems, setting

__all__ = [
    "DataConfig",
    "Rows",
    "Sampling",
    "counts",
    "epoch_order",
    "folds_of",
    "occurrences",
    "plan_batches",
    "prefetch",
    "sampling",
    "select_rows",
]


SAMPLERS = {
    "uniform": "every complex once per epoch",
    "balanced": "every class equally often",
    "cluster": "each cluster of data.cluster in proportion to the root of its number of complexes",
    "modality": "each kind of interface in proportion to n / log n, n its number of complexes",
}

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class DataConfig:
    """Section `[data]`: which complexes, what of them, and how they are batched."""

    train: str | tuple[str, ...] = setting(
        doc="data set folder, or demo://NAME for one that comes with the package; a list of them is a mixture",
        path=True,
    )
    valid: str | tuple[str, ...] | None = setting(
        None, "validation set or sets; absent: rows of `train` whose split is valid", path=True
    )
    test: str | tuple[str, ...] | None = setting(
        None,
        "test set or sets, of which all rows are taken; absent, or the same as `train`: rows of `train` whose split is "
        "test, if any",
        path=True,
    )
    embeddings: str | tuple[str, ...] | None = setting(
        None,
        "external features of blocks: a safetensors file with a tensor [blocks, size] for each complex, by id; or two "
        "files, for the blocks of segment 0 and of segment 1. model.embeddings.sizes must say the same sizes",
        path=True,
    )
    block_labels: str | None = setting(
        None,
        "CSV with columns id, chain, resnum, icode and labels, a row for each residue: what heads on residues learn",
        path=True,
    )
    vectors: str | None = setting(
        None,
        "a vector for each complex, which heads with a vector_size read: a safetensors file with a tensor [size] by id",
        path=True,
    )
    keep_blocks: float = setting(
        1.0,
        "augmentation: each block of a training complex but global ones is kept with this probability, one of each "
        "partner at least",
        above=0,
        high=1,
    )
    keep_whole: float = setting(
        0.0, "of keep_blocks: share of training complexes that are left as they are", low=0, high=1
    )
    weights: tuple[float, ...] = setting(
        (),
        "of a mixture: share of each set of `train` in an epoch, relative to the others; empty: every complex "
        "as often as any other",
        above=0,
    )
    epoch_complexes: int = setting(
        0, "complexes drawn per training epoch; 0: as many as there are training rows", low=0
    )
    input: str = setting(
        "complex",
        "what the model sees: both partners, or one alone with the other removed",
        choices=INPUTS,
    )
    fragments: str | None = setting(
        None, "fragment vocabulary the data must be built with; absent: that of data.train, whatever it is"
    )
    batch_blocks: int = setting(1024, "blocks per step, at most; complexes are added until it is full", low=1)
    max_item_blocks: int = setting(1024, "complexes with more blocks are large", low=1)
    large: str = setting(
        "skip",
        "large complexes are skipped and counted, or cropped around a contact between the partners, another "
        "one in every epoch",
        choices=("skip", "crop"),
    )
    cluster: str = setting(
        "",
        "column that names the cluster of relatives that a complex belongs to, such as cluster; intervals and choices "
        "of baselines then draw whole clusters",
    )
    fold: int | None = setting(
        None,
        "instead of splits: which of the folds of data.folds is tested, counted from 0; the next one chooses the "
        "epoch, and all others, with rows of no fold, are learnt from",
        low=0,
    )
    folds: str = setting("fold", "column of folds, for data.fold and train.folds")
    sampler: str = setting("uniform", "how training complexes are drawn", choices=SAMPLERS)
    loader_threads: int = setting(
        1, "threads that prepare the next batches; 0: none; no effect on the results", low=0, high=16
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        sets = len(self.paths("train"))
        Problems.check(
            *(
                (getattr(self, split) == (), split, "the list is empty; name a data set, or remove the key")
                for split in SPLITS
            ),
            (
                self.fold is not None and (self.valid is not None or self.test is not None),
                "fold",
                "takes all rows from data.train; remove data.valid and data.test, or fold",
            ),
            (
                len(self.feature_files) > 2,
                "embeddings",
                "must be one file for all blocks, or two: for segment 0 and for segment 1",
            ),
            (
                len(self.feature_files) == 2 and self.input != "complex",
                "embeddings",
                f"names a file for each segment, but data.input = {self.input!r} shows one alone; name one file",
            ),
            (
                self.keep_whole > 0 and self.keep_blocks == 1,
                "keep_whole",
                "has no effect with data.keep_blocks = 1",
            ),
            (
                self.max_item_blocks > self.batch_blocks,
                "max_item_blocks",
                f"must be at most data.batch_blocks ({self.batch_blocks}), which a step may not exceed; "
                "raise batch_blocks or lower max_item_blocks",
            ),
            (
                self.large == "crop" and self.input != "complex",
                "large",
                f"crops around a contact between partners, but data.input = {self.input!r} shows one alone; "
                'use "skip"',
            ),
            (
                self.large == "crop" and self.max_item_blocks < 4,
                "max_item_blocks",
                "must be at least 4 to crop: two blocks of each partner",
            ),
            (
                bool(self.weights) and len(self.weights) != sets,
                "weights",
                f"must be one number for each of the {sets} sets of data.train",
            ),
            (
                len(self.weights) == 1 and sets == 1,
                "weights",
                "has no effect with a single data set; remove it, or name several in data.train",
            ),
        )

    def paths(self, split: str) -> tuple[str, ...]:
        """The data sets named for train, valid or test; empty if none is."""
        return _listed(getattr(self, split))

    @property
    def feature_files(self) -> tuple[str, ...]:
        """The files of external features; empty if there are none."""
        return _listed(self.embeddings)


def _listed(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One path or several, as several.

    >>> _listed("a"), _listed(("a", "b")), _listed(None)
    (('a',), ('a', 'b'), ())
    """
    return (named,) if isinstance(named, str) else tuple(named or ())


# ------------------------------------------------------------------------------- rows, sampling, batches


@dataclass(frozen=True)
class Rows:
    """The complexes of one split (train, valid or test) that a run uses.

    rows [N]: row numbers in `dataset`; blocks [N]: blocks the model sees of each; skipped: reason → count of
    complexes left out; cropped: how many are cropped to fit; note: what a person should know of the choice.
    """

    split: str
    dataset: Dataset | Mixture
    rows: Indices
    blocks: Indices
    skipped: Mapping[str, int]
    cropped: int = 0
    note: str = ""

    def __len__(self) -> int:
        """Number of complexes."""
        return len(self.rows)

    def keep(self, mask: npt.NDArray[np.bool_], reason: str) -> Rows:
        """Only the complexes where `mask` is true; the others are counted under `reason`."""
        lost = int((~mask).sum())
        skipped = {**self.skipped, reason: lost} if lost else self.skipped
        return replace(self, rows=self.rows[mask], blocks=self.blocks[mask], skipped=skipped)

    @property
    def ids(self) -> list[str]:
        """Names of the complexes."""
        ids = self.dataset.ids
        return [ids[row] for row in self.rows]

    @property
    def checksums(self) -> list[str]:
        """SHA-256 of the structure file of each."""
        found = self.dataset.checksums
        return [found[row] for row in self.rows]

    def texts(self, column: str) -> list[str | None]:
        """What a label or metadata column says of each. Raises DataError if the data have no such column."""
        found = self.dataset.column(column)
        return [found[row] for row in self.rows]

    def clusters(self, column: str) -> list[str] | None:
        """The cluster of each by a column of the data, None without a column; a complex that has none is its own."""
        if not column:
            return None
        return [text or f"alone: {one}" for text, one in zip(self.texts(column), self.ids, strict=True)]


def joined(one: Rows, other: Rows) -> Rows:
    """The complexes of two splits as one split, which has the name of the first."""
    dataset, first = one.dataset, 0
    if other.dataset is not dataset:
        each = [data.sets if isinstance(data, Mixture) else (data,) for data in (dataset, other.dataset)]
        dataset, first = Mixture([*each[0], *each[1]]), len(dataset)
    return Rows(
        one.split,
        dataset,
        np.concatenate([one.rows, other.rows + first]),
        np.concatenate([one.blocks, other.blocks]),
        {},
        one.cropped + other.cropped,
    )


def select_rows(dataset: Dataset | Mixture, split: str, config: DataConfig, *, own: bool) -> Rows:
    """The complexes of one split of the data; those with too many blocks are skipped, or to be cropped.

    own: the data set was named for this split (`data.valid = ...`), so that all its rows belong to it if it
    has no splits at all. In a data set with splits, only the rows of this split are used; but of a test set all
    are, unless it is that of `data.train`. With `data.fold` folds decide instead; raises DataError if they cannot.
    """
    found = dataset.rows_of(split, own=own) if config.fold is None else rows_of_fold(dataset, split, config)
    rows, note = found.astype(np.int64), ""
    apart = own and split == "test" and not set(config.paths("test")) & set(config.paths("train"))
    if apart and config.fold is None and len(rows) < len(dataset):
        note = f"all {len(dataset)} complexes of data.test are taken, though its split column says test of {len(rows)}"
        rows = np.arange(len(dataset))
    chosen = Rows(split, dataset, rows, dataset.block_counts(config.input)[rows], {}, note=note)
    if config.input != "complex":
        # One block is the global block alone, none a partner that is not there.
        chosen = chosen.keep(chosen.blocks > 1, f"no {config.input}")
    fits = chosen.blocks <= config.max_item_blocks
    if config.large == "crop":
        cropped = np.minimum(chosen.blocks, config.max_item_blocks)
        return replace(chosen, blocks=cropped, cropped=int((~fits).sum()))
    return chosen.keep(fits, f"more than {config.max_item_blocks} blocks (data.max_item_blocks)")


def folds_of(dataset: Dataset | Mixture, config: DataConfig) -> list[str]:
    """The names of the folds, numbers by size. Raises DataError if relatives, by `data.cluster`, are in several."""
    column = dataset.column(config.folds)
    names = sorted({one for one in column if one}, key=lambda one: (not one.isdigit(), len(one), one))
    if len(names) < 3:
        raise DataError(
            f"{dataset.name}: column {config.folds!r} names {len(names)} folds; it takes 3: to learn from, to choose "
            "the epoch, and to test"
        )
    if config.cluster:
        first: dict[str, str | None] = {}
        for cluster, fold in zip(dataset.column(config.cluster), column, strict=True):
            if cluster and first.setdefault(cluster, fold) != fold:
                raise DataError(
                    f"{dataset.name}: cluster {cluster!r} (column {config.cluster!r}) lies in folds "
                    f"{first[cluster]!r} and {fold!r}: models would be tested on relatives of what they saw"
                )
    return names


def rows_of_fold(dataset: Dataset | Mixture, split: str, config: DataConfig) -> Indices:
    """Row numbers of train, valid or test when `data.fold` is tested."""
    names = folds_of(dataset, config)
    tested = config.fold or 0
    if tested >= len(names):
        raise DataError(f"{dataset.name}: there are folds 0 to {len(names) - 1}: {', '.join(names)}")
    column = np.array([one or "" for one in dataset.column(config.folds)], dtype=object)
    test, valid = column == names[tested], column == names[(tested + 1) % len(names)]
    return np.flatnonzero({"test": test, "valid": valid, "train": ~(test | valid)}[split])


@dataclass(frozen=True)
class Sampling:
    """How often complexes come in an epoch: strata [N], the stratum of each, and shares [S], which add up to 1."""

    strata: Indices
    shares: npt.NDArray[np.float64]

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """The share of each complex [N]: that of its stratum, divided among its members.

        >>> Sampling(np.array([0, 0, 1]), np.array([0.5, 0.5])).weights.tolist()
        [0.25, 0.25, 0.5]
        """
        counts = np.bincount(self.strata, minlength=len(self.shares))
        return (self.shares / np.maximum(counts, 1))[self.strata].astype(np.float32)


def sampling(
    sampler: str, groups: Indices, *, sources: Indices | None = None, weights: Sequence[float] = ()
) -> Sampling | None:
    """The strata that `data.sampler` and `data.weights` ask for; None where every complex comes once.

    groups [N]: class, kind of interface or cluster of each complex; sources [N]: its data set, read with `weights`
    only, which then hold for the sets, and `sampler` within each. The share of a group of n complexes is 1 if
    balanced, n / log n by modality (log 2 for n = 1, which has log 0), the root of n by cluster, and n if uniform.

    >>> sampling("balanced", np.array([0, 0, 0, 1])).shares.tolist()
    [0.5, 0.5]
    >>> sampling("cluster", np.array([0, 0, 0, 0, 1])).shares.round(3).tolist()
    [0.667, 0.333]
    >>> both = sampling("uniform", np.zeros(4, int), sources=np.array([0, 0, 0, 1]), weights=(1.0, 3.0))
    >>> both.shares.tolist()
    [0.25, 0.75]
    """
    if sampler == "uniform" and not weights:
        return None
    group = np.zeros_like(groups) if sampler == "uniform" else groups
    source = sources if weights and sources is not None else np.zeros_like(groups)
    pairs, strata, counts = np.unique(
        np.stack([source, group], axis=1), axis=0, return_inverse=True, return_counts=True
    )
    within = {
        "uniform": counts.astype(np.float64),
        "balanced": np.ones(len(counts)),
        "cluster": np.sqrt(counts),
        "modality": counts / np.log(np.maximum(counts, 2)),
    }[sampler]
    share = within / np.bincount(pairs[:, 0], within)[pairs[:, 0]]
    if weights:
        share = share * np.asarray(weights)[pairs[:, 0]]
    return Sampling(strata.reshape(-1), share / share.sum())


def epoch_order(
    count: int, *, seed: int, epoch: int, sampling: Sampling | None = None, length: int = 0
) -> Indices:
    """Order in which an epoch visits `count` complexes; depends on (seed, epoch) only.

    Without `sampling` a permutation. With it, every stratum fills its share of the epoch's `length` places (0:
    `count`), to within one in each epoch and exactly over many: complexes of a small stratum come several
    times, each equally often to within one, and of a large one a random part is left out.

    >>> balanced = sampling("balanced", np.array([0, 0, 0, 0, 1]))
    >>> order = epoch_order(5, seed=0, epoch=0, sampling=balanced)
    >>> len(order), int((order == 4).sum())
    (5, 2)
    """
    generator = np.random.default_rng([seed, epoch])
    length = length or count
    if sampling is None:
        rounds = -(-length // count)
        return np.concatenate([generator.permutation(count) for _ in range(rounds)])[:length]
    # One offset for all boundaries shifts the odd places from stratum to stratum between epochs.
    ends = np.floor(np.cumsum(sampling.shares) * length + _spread(epoch) + 1e-9).astype(np.int64)
    ends[-1] = length
    picked = []
    for stratum, places in enumerate(np.diff(ends, prepend=0)):
        members = np.flatnonzero(sampling.strata == stratum)
        rounds = -(-int(places) // len(members))
        picked.append(
            np.concatenate([generator.permutation(members) for _ in range(max(rounds, 1))])[:places]
        )
    return generator.permutation(np.concatenate(picked))


def _spread(epoch: int) -> float:
    """The binary digits of epoch + 1 mirrored at the point: 1/2, 1/4, 3/4, 1/8, … covers [0, 1) evenly."""
    digits = f"{epoch + 1:b}"[::-1]
    return int(digits, 2) / 2 ** len(digits)


def occurrences(order: Indices) -> Indices:
    """How often the complex at each place of `order` came before, so that its noise can differ each time.

    >>> occurrences(np.array([4, 1, 4, 4, 1])).tolist()
    [0, 0, 1, 2, 1]
    """
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    first = np.searchsorted(ordered, ordered)
    found = np.empty_like(order)
    found[by_value] = np.arange(len(order)) - first
    return found


def within_memory(rows: Indices, work: Callable[[Indices], T]) -> Iterator[tuple[Indices, T]]:
    """What `work` gives for these rows; where a GPU's memory runs out, for halves of them, and halves of those.

    Raises torch.cuda.OutOfMemoryError for a row that does not fit alone.

    >>> [(rows.tolist(), done) for rows, done in within_memory(np.arange(3), len)]
    [([0, 1, 2], 3)]
    """
    import torch

    try:
        found = work(rows)
    except torch.cuda.OutOfMemoryError:
        if len(rows) == 1:
            raise
    else:
        yield rows, found
        return
    # outside of the handler, which holds the tensors of what has failed
    for half in np.array_split(rows, 2):
        yield from within_memory(half, work)


def plan_batches(order: Indices, blocks: Indices, batch_blocks: int) -> list[Indices]:
    """Cut `order` into batches of at most `batch_blocks` blocks, in order; blocks [N] are indexed by it.

    A single complex that is larger makes a batch of its own.

    >>> [batch.tolist() for batch in plan_batches(np.array([2, 0, 1]), np.array([3, 4, 5]), 8)]
    [[2, 0], [1]]
    """
    ends = np.cumsum(blocks[order])
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        filled = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, filled + batch_blocks, side="right")))
        batches.append(order[start:end])
        start = end
    return batches


def prefetch(
    jobs: Iterable[T], make: Callable[[T], R], *, threads: int = 1, ahead: int = 4
) -> Generator[R, None, None]:
    """`map(make, jobs)`, prepared up to `ahead` results early by other threads, in order.

    The first results are begun with the call. The order of the results does not depend on the number of threads;
    0 threads prepare each result when it is asked for. An exception in `make` is raised where its result would
    have come.

    >>> list(prefetch([1, 2, 3], lambda x: x * x, threads=2))
    [1, 4, 9]
    """
    if threads == 0:
        return (make(job) for job in jobs)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="atomica-prefetch")
    source = iter(jobs)
    waiting = deque(pool.submit(make, job) for job in islice(source, ahead))
    return _results(pool, waiting, source, make)


def _results(
    pool: ThreadPoolExecutor, waiting: deque[Future[R]], source: Iterator[T], make: Callable[[T], R]
) -> Generator[R, None, None]:
    """The results in order, a new job begun before each."""
    try:
        for job in source:
            waiting.append(pool.submit(make, job))
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)


def counts(found: Mapping[str, int]) -> str:
    """Reasons and how often each was met, for a message."""
    return ", ".join(f"{count} {reason}" for reason, count in found.items())
