"""The rows, labels and batches of a training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atomica import spec
from atomica.data.dataset import Dataset, Mixture, open_dataset
from atomica.data.features import BlockFeatures
from atomica.data.labels import BlockLabels, BlockTargets, ComplexVectors
from atomica.data.record import SPLITS
from atomica.data.sampling import Rows, Sampling, counts, joined, sampling, select_rows
from atomica.errors import AtomicaError, DataError
from atomica.evaluation.statistics import numbered
from atomica.heads import values_met
from atomica.jobs.train.spec import NOISE_KEYS, Spec
from atomica.spec import Issues, KeyPath
from atomica.train.loader import Split

__all__ = ["Splits", "make_splits", "open_data", "open_features"]


def open_data(source: spec.Source, issues: Issues) -> dict[str, Dataset | Mixture]:
    """The data sets a spec names. What is wrong with them joins the other issues, also of a faulty spec."""
    table = source.tree.get("data")
    if not isinstance(table, dict):
        return {}
    fragments = table.get("fragments")
    opened: dict[str, Dataset | Mixture] = {}
    for split in SPLITS:
        named = table.get(split)
        paths = [named] if isinstance(named, str) else named
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            continue
        sets: list[Dataset] = []
        for path in paths:
            try:
                sets.append(open_dataset(path))
            except AtomicaError as error:
                problem = str(error) if len(paths) > 1 else str(error).removeprefix(f"{path}: ")
                issues.add(("data", split), problem)
                continue
            if fragments is not None and sets[-1].fragments != fragments:
                which = f"{path} was " if len(paths) > 1 else ""
                issues.add(
                    ("data", split),
                    f"{which}built with fragment vocabulary {sets[-1].fragments!r}, but data.fragments is "
                    f"{fragments!r}; rebuild the data, or set data.fragments",
                )
        if len(sets) < len(paths):
            continue
        try:
            opened[split] = sets[0] if len(sets) == 1 else Mixture(sets)
        except AtomicaError as error:
            issues.add(("data", split), str(error))
    vocabularies = {split: dict(dataset.manifest["vocabulary"]) for split, dataset in opened.items()}
    for split, vocabulary in vocabularies.items():
        if vocabulary != vocabularies.get("train", vocabulary):
            issues.add(
                ("data", split), "its vocabulary differs from that of data.train; build both with the same"
            )
    for split, dataset in opened.items():
        for text in dataset.origin.others(opened["train"].origin) if "train" in opened else ():
            issues.add(("data", split), f"{text} in data.train; build both alike")
    return opened


def open_features(checked: Spec, issues: Issues) -> BlockFeatures | None:
    """The external features of blocks that the spec names; an issue if the model asks for others, or for none."""
    files, sizes = checked.data.feature_files, checked.model.embeddings.sizes
    named = ("data", "embeddings") in issues.source
    if not files and not sizes:
        return None
    if len(files) != len(sizes):
        each = "for all blocks" if len(sizes) == 1 else "one for each segment"
        message = (
            f"the model reads external features of {list(sizes)} numbers (model.embeddings.sizes): name "
            f"{len(sizes)} files here, {each}"
            if sizes
            else "has no effect: the model reads no external features; give their length as model.embeddings.sizes"
        )
        issues.add(("data", "embeddings"), message, value=named)
        return None
    try:
        return BlockFeatures(files)
    except DataError as error:
        issues.add(("data", "embeddings"), str(error), value=False)
        return None


def _check_features(features: BlockFeatures, checked: Spec, rows: Rows, issues: Issues) -> None:
    """An issue if the features do not fit the rows of a split."""
    ids, dataset = rows.ids, rows.dataset
    if isinstance(dataset, Mixture) and len(set(ids)) < len(ids):
        issues.add(
            ("data", "embeddings"),
            f"features are told apart by id, but {len(ids) - len(set(ids))} ids of {dataset.name} are in several sets",
            value=False,
        )
    blocks = np.stack([dataset.block_counts(f"segment{s}")[rows.rows] for s in range(2)], axis=1)
    for problem in features.problems(ids, blocks, checked.model.embeddings.sizes):
        issues.add(("data", "embeddings"), f"{rows.split}: {problem}", value=False)


def _check_partners(checked: Spec, rows: Rows, issues: Issues) -> None:
    """An issue if a complex of a single partner is to be shifted or turned: against what, no model can say."""
    keys = [key for key in ("translation_sigma", "rotation_sigma") if getattr(checked.noise, key)]
    if not keys or checked.data.input != "complex":
        return
    counts = [rows.dataset.block_counts(f"segment{s}")[rows.rows] for s in range(2)]
    # One block is the global block of a partner that has no other.
    alone = np.flatnonzero(np.minimum(*counts) <= 1)
    if len(alone):
        issues.add(
            ("noise", keys[0]),
            f"{len(alone)} of the {len(rows)} {rows.split} complexes, {rows.ids[alone[0]]} for one, have a single "
            "partner: no model can say how that was shifted or turned; leave them out of the data, or set "
            + " and ".join(f"noise.{key}" for key in keys)
            + " to 0",
        )


@dataclass(frozen=True)
class Splits:
    """What the data hold for a training: train, valid and test as far as there are such rows, and label texts by head.

    both: training and validation rows as one split, where they are learnt from together.
    """

    each: dict[str, Split]
    texts: dict[str, dict[str, list[str | None]]]
    both: Split | None = None


def make_splits(
    checked: Spec, data: Mapping[str, Dataset | Mixture], features: BlockFeatures | None, issues: Issues
) -> Splits:
    """Rows and targets of train, valid and test, and the label texts of each by head."""
    found = Splits({}, {})
    for name in SPLITS:
        if name != "train" and issues.found:
            break  # what is wrong with the training rows is wrong with the others: say it once
        try:
            rows = select_rows(data.get(name, data["train"]), name, checked.data, own=name in data)
            rows.clusters(checked.data.cluster)
        except DataError as error:
            key = "cluster" if checked.data.cluster and "cluster" in str(error) else "fold"
            issues.add(("data", key), str(error), value=("data", key) in issues.source)
            break
        if not len(rows):
            reason = "; skipped: " + counts(rows.skipped) if rows.skipped else ""
            if name in data:
                issues.add(("data", name), f"has no complexes for this split{reason}{_splits(rows)}")
            elif name == "valid":
                issues.add(
                    ("data", "valid"),
                    f'data.train has no rows with split = "valid"{reason}{_splits(rows)}; name a validation set, or '
                    "rebuild the data from an index with a split column",
                    value=False,
                )
            continue
        labels = _encode_labels(checked, rows, issues)
        if labels is not None:
            found.texts[name] = labels.texts
            made = _split(checked, labels, features, issues, named=name in data)
            if made is not None:
                found.each[name] = made
    if not checked.train.refit or issues.found or not {"train", "valid"} <= set(found.each):
        return found
    rows = joined(found.each["train"].rows, found.each["valid"].rows)
    labels = _encode_labels(checked, rows, issues)
    both = None if labels is None else _split(checked, labels, features, issues, named=True)
    return replace(found, both=both)


def _split(
    checked: Spec, labels: _Labels, features: BlockFeatures | None, issues: Issues, *, named: bool
) -> Split | None:
    """Rows with their targets, ready to be batched; None, and issues added, if they can not be."""
    of_blocks = _block_targets(checked, labels.rows, issues)
    if of_blocks is None:
        return None
    rows, training = labels.rows, labels.rows.split == "train"
    if not len(rows):
        issues.add(("data", rows.split), f"no complex is left; skipped: {counts(rows.skipped)}", value=named)
        return None
    if features is not None:
        _check_features(features, checked, rows, issues)
    _check_partners(checked, rows, issues)
    classes = _classes(checked, labels, issues, named=named)
    return Split(
        rows=rows,
        targets=labels.targets,
        known=labels.known,
        input=checked.data.input,
        graph_options=checked.model.graph_options(),
        batch_blocks=checked.data.batch_blocks,
        seed=checked.run.seed,
        loader_threads=checked.data.loader_threads,
        sampling=_sampling(checked, rows, classes, issues) if training else None,
        clusters=rows.clusters(checked.data.cluster),
        epoch_complexes=checked.data.epoch_complexes if training else 0,
        noise=checked.noise if any(getattr(checked.noise, key) for key in NOISE_KEYS.values()) else None,
        max_blocks=checked.data.max_item_blocks if rows.cropped else None,
        features=features,
        vectors=_open_vectors(checked, rows, issues),
        block_targets=of_blocks,
        keep_blocks=checked.data.keep_blocks if training else 1.0,
        keep_whole=checked.data.keep_whole,
    )


@dataclass
class _Labels:
    """Rows with a label for some head, the targets by head, where they are known, and the texts they are made of."""

    rows: Rows
    targets: dict[str, Tensor]
    known: dict[str, Tensor]
    texts: dict[str, list[str | None]]


def _encode_labels(checked: Spec, rows: Rows, issues: Issues) -> _Labels | None:
    """Targets of every head that reads labels; rows without a usable one for any head are left out.

    A test set may lack the labels of some heads, which are then not evaluated; train and valid may not.
    """
    targets: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    texts: dict[str, list[str | None]] = {}
    several = sum(head.labelled for head in checked.heads) > 1
    before = len(issues.found)
    for index, head in enumerate(checked.heads):
        if not head.labelled:
            continue
        key, problem = "label", ""
        try:
            texts[head.name] = rows.texts(head.common.label)
            key = next(
                (one for one in ("positive", "label") if ("head", index, one) in issues.source), "kind"
            )
            problem = f"{rows.split} rows of {rows.dataset.name}: "
            targets[head.name], usable = head.cls.encode_labels(head.config, texts[head.name])
            known[head.name] = usable.bool()
        except DataError as error:
            if rows.split == "test" and several:
                texts[head.name] = [None] * len(rows)
                targets[head.name] = torch.zeros(len(rows))
                known[head.name] = torch.zeros(len(rows), dtype=torch.bool)
                continue
            path = ("head", index, key)
            issues.add(path, f"{problem}{error}", value=path in issues.source)
    if len(issues.found) > before:
        return None
    if not known:
        return _Labels(rows, {}, {}, {})
    # A head that needs no labels can use every row.
    usable = torch.stack(list(known.values())).any(dim=0)
    if any(not head.labelled for head in checked.heads):
        usable = torch.ones_like(usable)
    if several:
        reason = "no usable label for any head"
    else:
        only = next(head for head in checked.heads if head.labelled)
        reason = f"no usable {only.common.label} for head {only.name}"
    kept = torch.nonzero(usable)[:, 0]
    return _Labels(
        rows.keep(usable.numpy(), reason),
        {name: target[kept] for name, target in targets.items()},
        {name: mask[kept] for name, mask in known.items()},
        {name: [column[i] for i in kept.tolist()] for name, column in texts.items()},
    )


def _splits(rows: Rows) -> str:
    """The splits that a data set has, where some are called otherwise than ours."""
    met = Counter(split for split in rows.dataset.splits if split)
    listing = ", ".join(f"{split!r} ({count})" for split, count in met.most_common(8))
    strange = [split for split in met if split not in SPLITS]
    names = f", and must be called {', '.join(SPLITS)}" if strange else ""
    return f"; its splits are {listing}{names}" if met else ""


def _block_targets(checked: Spec, rows: Rows, issues: Issues) -> dict[str, BlockTargets] | None:
    """Labels of the blocks of all rows, by head that learns from them; None, and issues added, if they are wrong."""
    heads = [(index, head) for index, head in enumerate(checked.heads) if head.on_blocks]
    path = checked.data.block_labels
    if not heads or path is None:
        why = (
            "a head of kind residue_… learns from them: name the file"
            if heads
            else "has no effect: no head learns from it"
        )
        if bool(heads) != (path is not None):
            issues.add(("data", "block_labels"), why, value=path is not None)
            return None
        return {}
    found: dict[str, BlockTargets] = {}
    path_: KeyPath = ("data", "block_labels")
    try:
        labels = BlockLabels(path)
        for index, head in heads:
            path_ = ("head", index, "label")
            found[head.name] = BlockTargets.read(
                labels,
                head.common.label,
                rows,
                checked.data.input,
                partial(head.cls.encode_labels, head.config),
            )
            targets, known = found[head.name].answered()
            met = np.unique(targets[known])
            if rows.split == "train" and len(met) < 2:
                raise DataError(
                    f"all {known.sum()} labels of head {head.name!r} are alike: nothing can be learnt"
                )
    except DataError as error:
        issues.add(path_, f"{rows.split} blocks: {error}", value=path_ in issues.source)
        return None
    return found


def _open_vectors(checked: Spec, rows: Rows, issues: Issues) -> ComplexVectors | None:
    """The external vectors of complexes; an issue if heads ask for others, or for none."""
    sizes = {getattr(head.config, "vector_size", 0) for head in checked.heads} - {0}
    path = checked.data.vectors
    if not sizes and path is None:
        return None
    if path is None or len(sizes) != 1:
        why = (
            "has no effect: no head has a vector_size"
            if not sizes
            else f"heads read vectors of {' and '.join(map(str, sorted(sizes)))} numbers: name one file that has them"
        )
        issues.add(("data", "vectors"), why, value=path is not None)
        return None
    try:
        vectors = ComplexVectors(path)
    except DataError as error:
        issues.add(("data", "vectors"), str(error), value=False)
        return None
    if problem := vectors.problem(rows.ids, *sizes):
        issues.add(("data", "vectors"), f"{rows.split}: {problem}", value=False)
    return vectors


def _classes(checked: Spec, labels: _Labels, issues: Issues, *, named: bool) -> npt.NDArray[np.int64] | None:
    """Class of each row by the first head that has classes, -1 where unknown; None without such a head.

    An issue for every head whose classes are all the same in a split that needs more than one.
    """
    split = labels.rows.split
    by_loss = split == "valid" and checked.train.monitor.rpartition("/")[2] == "loss"
    groups = None
    for name, target in labels.targets.items():
        if target.ndim != 1 or target.is_floating_point():
            continue
        known = labels.known[name].numpy()
        classes = np.where(known, target.numpy(), -1)
        groups = classes if groups is None else groups
        if split != "test" and not by_loss and len(set(classes[known].tolist())) < 2:
            remedy = (
                'give a data.valid with both, or choose epochs by train.monitor = "loss"'
                if split == "valid"
                else "both are needed"
            )
            column = labels.texts[name]
            config = next(head.config for head in checked.heads if head.name == name)
            yes = getattr(config, "positive", None)
            missed = f"no row is labelled {yes!r}; " if yes is not None and yes not in column else ""
            issues.add(
                ("data", split),
                f"all {int(known.sum())} {split} complexes are of one class for head {name!r}: {missed}the values are "
                f"{values_met(column)}; {remedy}",
                value=named,
            )
    return groups


def _sampling(
    checked: Spec, rows: Rows, classes: npt.NDArray[np.int64] | None, issues: Issues
) -> Sampling | None:
    """How the training rows are drawn. classes [N]: those of a head that has some."""
    sampler, weights, dataset = checked.data.sampler, checked.data.weights, rows.dataset
    clusters = rows.clusters(checked.data.cluster) if sampler == "cluster" else None
    groups = {
        "uniform": np.zeros(len(rows), dtype=np.int64),
        "modality": dataset.modalities[rows.rows],
        "balanced": classes,
        "cluster": None if clusters is None else numbered(clusters),
    }[sampler]
    if groups is None:
        needed = "a head with classes"
        if sampler == "cluster":
            needed = "data.cluster, the column that names clusters"
        issues.add(("data", "sampler"), f"needs {needed}; or use uniform")
        return None
    if sampler == "modality" and len(np.unique(groups)) < 2:
        issues.add(("data", "sampler"), "has no effect: all training complexes are of one kind; use uniform")
    sources = None
    if isinstance(dataset, Mixture):
        sources = dataset.sources[rows.rows]
        for index, one in enumerate(dataset.sets):
            if weights and not (sources == index).any():
                issues.add(("data", "weights"), f"{one.name} has no training rows that could be drawn")
    return sampling(sampler, groups, sources=sources, weights=weights)
