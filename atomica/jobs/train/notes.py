"""What a person should know of rows and labels before a training, though nothing is wrong with the spec."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np

from atomica.data.sampling import Rows
from atomica.heads.regression import SMALLEST_SPREAD
from atomica.jobs.train.spec import HeadSpec
from atomica.train.loader import Split

__all__ = ["notes"]

PAIRS = (("train", "valid"), ("train", "test"), ("valid", "test"))
LARGE = 100.0
"""Labels larger than this, or than so many times their spread, are worth a line on how they are learnt."""


def notes(
    splits: Mapping[str, Split],
    texts: Mapping[str, Mapping[str, Sequence[str | None]]],
    heads: Sequence[HeadSpec],
) -> Iterator[str]:
    """Lines on complexes that are in several splits, on labels that teach nothing, and on classes without rows."""
    for split in splits.values():
        if split.rows.note:
            yield split.rows.note
    for one, other in PAIRS:
        if one in splits and other in splits:
            yield from _shared(splits[one].rows, splits[other].rows)
    train = splits["train"]
    for head in heads:
        if head.name in train.targets:
            yield from _labels(head, train, texts["train"][head.name])


def _shared(one: Rows, other: Rows) -> Iterator[str]:
    """Complexes of one id, and those of one structure, chains and residues under two ids."""
    ids = set(one.ids) & set(other.ids)
    if ids:
        yield f"{len(ids)} complexes are in {one.split} and in {other.split}, {min(ids)} for one"
    twins = [(a, b) for a, b in _twins(one, other) if a not in ids and b not in ids]
    if twins:
        a, b = twins[0]
        yield (
            f"{len(twins)} complexes of {other.split} are in {one.split} under another id, by the checksum of the "
            f"structure, chains and residues: {b} is {a}" + (", for one" if len(twins) > 1 else "")
        )


def _twins(one: Rows, other: Rows) -> list[tuple[str, str]]:
    """Pairs of ids of the same complex. Only complexes from files that both have are looked at."""
    sums = [dict(zip(rows.rows.tolist(), rows.checksums, strict=True)) for rows in (one, other)]
    both = (set(sums[0].values()) & set(sums[1].values())) - {""}
    known: dict[Hashable, str] = {}
    found = []
    for rows, of_row in zip((one, other), sums, strict=True):
        for row, checksum in of_row.items():
            if checksum not in both:
                continue
            record = rows.dataset[row]
            residues = zip(
                record.block_chains, record.block_resnums.tolist(), record.block_icodes, strict=True
            )
            key = (checksum, frozenset(zip(residues, record.segment_ids.tolist(), strict=True)))
            if rows is one:
                known[key] = record.id
            elif key in known:
                found.append((known[key], record.id))
    return found


def _labels(head: HeadSpec, train: Split, texts: Sequence[str | None]) -> Iterator[str]:
    known = train.known[head.name]
    values = train.targets[head.name][known]
    if values.is_floating_point() and values.ndim == 1 and len(values):
        numbers = values.double().numpy()
        middle, spread = float(numbers.mean()), float(numbers.std())
        size = max(1.0, float(np.abs(numbers).max()))
        if spread <= SMALLEST_SPREAD * size:
            yield (
                f"the training labels of head {head.name} are all {numbers[0]:g}, or as good as that: "
                "there is nothing to learn in them"
            )
        elif size > LARGE or abs(middle) > LARGE * spread:
            yield (
                f"the labels of head {head.name} are {middle:.4g} ± {spread:.2g}; it learns them in standard "
                "deviations from their mean, and predicts in their unit"
            )
    classes = getattr(head.config, "classes", None)
    if classes:
        met = Counter(text for text in texts if text)
        others = [
            text for text in train.rows.dataset.column(head.common.label) if text and text not in classes
        ]
        for name in classes:
            if not met[name]:
                near = difflib.get_close_matches(name, sorted(set(others)), n=1)
                hint = f"; did you mean {near[0]!r} ({others.count(near[0])} rows)?" if near else ""
                yield f"class {name!r} of head {head.name} has no training row{hint}"
