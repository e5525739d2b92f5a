"""A checked spec → an assembled job: the data opened, labels encoded, the model built, the run folder looked at."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.locks import FOLDER_LOCK
from atomica.runspec import NOISE_KEYS, Spec, read_spec
from atomica.spec import Issues
from atomica.train.distributed import ALONE, Ranks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from atomica.features import BlockFeatures
    from atomica.model import Model
    from atomica.records import Dataset, Mixture
    from atomica.sampling import Rows, Sampling
    from atomica.train.checkpoint import Checkpoint
    from atomica.train.parts import Part

__all__ = ["CHECKPOINTS", "RESOLVED", "Job", "assemble", "counts"]

CHECKPOINTS = "checkpoints"
RESOLVED = "spec.toml"
"""What a run folder holds, by name."""


@dataclass
class Job:
    """Everything a run needs, opened and checked, before anything is written."""

    spec: Spec
    parts: dict[str, Part]
    texts: dict[str, dict[str, list[str | None]]]
    model: Model
    device: torch.device
    folder: Path
    resume: Checkpoint | None
    identity: dict[str, Any]
    started: list[str]
    """What was loaded from `model.init`, for a person."""


def assemble(
    source: spec.Source,
    *,
    resume: bool | None,
    dry: bool,
    ranks: Ranks = ALONE,
    issues: Issues | None = None,
    claim: Callable[[Path], None] | None = None,
) -> Job:
    """Read the spec, open the data, build the model. Raises SpecError with all that is wrong.

    resume: None resumes the run in the folder, if it has a checkpoint. dry: nothing is to be written. ranks: the
    processes that train together. issues: what is known to be wrong already. claim: called with the folder before a run
    there is looked at, and raises SpecError if another process writes into it.
    """
    issues = issues or Issues(source)
    checked = read_spec(source, issues)
    data = _open_data(source, issues)
    issues.raise_any()
    assert checked is not None

    import torch

    from atomica import conv

    folder = Path(os.path.abspath(checked.run.folder))
    if claim is not None and (folder / RESOLVED).is_file():
        claim(folder)
    if resume is None:
        resume = _last(folder) is not None
    wanted = checked.device.kind
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        issues.add(("device", "kind"), "PyTorch finds no CUDA device; use auto or cpu")
    elif (problem := conv.kernel_problem(checked.device.kernel, wanted)) is not None:
        issues.add(("device", "kernel"), problem)
    if wanted == "cuda" and 0 < torch.cuda.device_count() < ranks.local_size:
        issues.add(
            ("device", "kind"),
            f"{ranks.local_size} processes need a GPU each, and PyTorch finds {torch.cuda.device_count()}; start "
            'fewer, or use kind = "cpu"',
            value=False,
        )
    checked = _inherit(checked, source, data["train"], issues, resume=resume)
    config = checked.model
    if config.modality_embedding and checked.data.input != "complex":
        issues.add(
            ("model", "modality_embedding"),
            f"has no effect with data.input = {checked.data.input!r}: one partner alone does not show what "
            'kind of interface it is; remove it, or use input = "complex"',
        )
    features = _open_features(checked, issues)
    parts, texts = _make_parts(checked, data, features, issues)
    found = _check_folder(folder, issues, resume=resume, dry=dry)
    issues.raise_any()

    if checked.device.threads:
        torch.set_num_threads(checked.device.threads)
    elif ranks.local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.local_size))
    conv.KERNEL = checked.device.kernel
    device = torch.device(wanted)
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    # On a CPU with several threads, PyTorch adds up the gradient of an indexing in any order unless told not to,
    # and two runs part ways after some dozen steps. On CUDA the same switch would refuse operations we need.
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model, started = _build_model(checked, device, issues, resume=resume)
    _check_model(model, checked, issues)
    identity = {
        "settings": checked.identity(),
        "data": {name: part.rows.dataset.fingerprint for name, part in parts.items() if name != "test"},
    }
    if features is not None:
        identity["data"]["embeddings"] = features.fingerprint
    if found is not None:
        _check_resume(found, identity, folder)
        begun = found.state["progress"]["epoch"] + (found.state["progress"]["step_in_epoch"] > 0)
        if begun > checked.train.epochs:
            issues.add(("train", "epochs"), f"the run to resume is in epoch {begun} already; ask for as many")
    issues.raise_any()
    return Job(_absolute(checked, folder), parts, texts, model, device, folder, found, identity, started)


def _inherit(
    checked: Spec, source: spec.Source, data: Dataset | Mixture, issues: Issues, *, resume: bool
) -> Spec:
    """The spec with the settings of the encoder that it takes from `model.init`, and the data's vocabulary.

    Data without fragments suit a model that knows fragments: its vocabulary begins with theirs. A resumed run takes
    the settings from its own checkpoint, since the model it started from may be gone.
    """
    from atomica.errors import DataError
    from atomica.model import inherit, saved_encoder

    checked = replace(checked, model=replace(checked.model, block_types=data.block_types))
    origin = checked.init.init
    if origin is None:
        return checked
    last = _last(Path(os.path.abspath(checked.run.folder)))
    folder = str(last) if resume and last is not None else origin
    try:
        saved = saved_encoder(folder)
        larger = data.fragments == "none" and saved.get("block_types", 0) > data.block_types
        given = {*source.tree["model"], *(() if larger else ("block_types",))}
        config = inherit(checked.model, given, saved)
    except DataError as error:
        issues.add(("model", "init"), str(error).removeprefix(f"{folder}: "))
        return checked
    return replace(checked, model=config, init=replace(checked.init, init=os.path.abspath(origin)))


def _open_data(source: spec.Source, issues: Issues) -> dict[str, Dataset | Mixture]:
    """The data sets a spec names. What is wrong with them joins the other issues, also of a faulty spec."""
    from atomica.errors import AtomicaError
    from atomica.records import PARTS, Mixture, open_dataset

    table = source.tree.get("data")
    if not isinstance(table, dict):
        return {}
    fragments = table.get("fragments", "none")
    opened: dict[str, Dataset | Mixture] = {}
    for part in PARTS:
        named = table.get(part)
        paths = [named] if isinstance(named, str) else named
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            continue
        sets: list[Dataset] = []
        for path in paths:
            try:
                sets.append(open_dataset(path))
            except AtomicaError as error:
                problem = str(error) if len(paths) > 1 else str(error).removeprefix(f"{path}: ")
                issues.add(("data", part), problem)
                continue
            if sets[-1].fragments != fragments:
                which = f"{path} was " if len(paths) > 1 else ""
                issues.add(
                    ("data", part),
                    f"{which}built with fragment vocabulary {sets[-1].fragments!r}, but data.fragments is "
                    f"{fragments!r}; rebuild the data, or set data.fragments",
                )
        if len(sets) < len(paths):
            continue
        try:
            opened[part] = sets[0] if len(sets) == 1 else Mixture(sets)
        except AtomicaError as error:
            issues.add(("data", part), str(error))
    vocabularies = {part: dict(dataset.manifest["vocabulary"]) for part, dataset in opened.items()}
    for part, vocabulary in vocabularies.items():
        if vocabulary != vocabularies.get("train", vocabulary):
            issues.add(
                ("data", part), "its vocabulary differs from that of data.train; build both with the same"
            )
    return opened


def _open_features(checked: Spec, issues: Issues) -> BlockFeatures | None:
    """The external features of blocks that the spec names; an issue if the model asks for others, or for none."""
    from atomica.errors import DataError
    from atomica.features import BlockFeatures

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
    """An issue if the features do not fit the rows of a part."""
    import numpy as np

    from atomica.records import Mixture

    ids, dataset = rows.ids, rows.dataset
    if isinstance(dataset, Mixture) and len(set(ids)) < len(ids):
        issues.add(
            ("data", "embeddings"),
            f"features are told apart by id, but {len(ids) - len(set(ids))} ids of {dataset.name} are in several sets",
            value=False,
        )
    blocks = np.stack([dataset.block_counts(f"segment{s}")[rows.rows] for s in range(2)], axis=1)
    for problem in features.problems(ids, blocks, checked.model.embeddings.sizes):
        issues.add(("data", "embeddings"), f"{rows.part}: {problem}", value=False)


def _check_partners(checked: Spec, rows: Rows, issues: Issues) -> None:
    """An issue if a complex of a single partner is to be shifted or turned: against what, no model can say."""
    import numpy as np

    keys = [key for key in ("translation_sigma", "rotation_sigma") if getattr(checked.noise, key)]
    if not keys or checked.data.input != "complex":
        return
    counts = [rows.dataset.block_counts(f"segment{s}")[rows.rows] for s in range(2)]
    # One block is the global block of a partner that has no other.
    alone = np.flatnonzero(np.minimum(*counts) <= 1)
    if len(alone):
        issues.add(
            ("noise", keys[0]),
            f"{len(alone)} of the {len(rows)} {rows.part} complexes, {rows.ids[alone[0]]} for one, have a single "
            "partner: no model can say how that was shifted or turned; leave them out of the data, or set "
            + " and ".join(f"noise.{key}" for key in keys)
            + " to 0",
        )


def _make_parts(
    checked: Spec, data: Mapping[str, Dataset | Mixture], features: BlockFeatures | None, issues: Issues
) -> tuple[dict[str, Part], dict[str, dict[str, list[str | None]]]]:
    """Rows and targets of train, valid and test, and the label texts of each by head."""
    from atomica.records import PARTS
    from atomica.sampling import select_rows
    from atomica.train.parts import Part

    noisy = any(getattr(checked.noise, key) for key in NOISE_KEYS.values())
    parts: dict[str, Part] = {}
    texts: dict[str, dict[str, list[str | None]]] = {}
    for name in PARTS:
        if name != "train" and issues.found:
            break  # what is wrong with the training rows is wrong with the others: say it once
        rows = select_rows(data.get(name, data["train"]), name, checked.data, own=name in data)
        if not len(rows):
            reason = "; skipped: " + counts(rows.skipped) if rows.skipped else ""
            if name in data:
                issues.add(("data", name), f"has no complexes for this part{reason}")
            elif name == "valid":
                issues.add(
                    ("data", "valid"),
                    f'data.train has no rows with split = "valid"{reason}; name a validation set, or rebuild '
                    "the data from an index with a split column",
                    value=False,
                )
            continue
        labels = _encode_labels(checked, rows, issues)
        if labels is None:
            continue
        rows, texts[name] = labels.rows, labels.texts
        if not len(rows):
            issues.add(
                ("data", name), f"no complex is left; skipped: {counts(rows.skipped)}", value=name in data
            )
            continue
        if features is not None:
            _check_features(features, checked, rows, issues)
        _check_partners(checked, rows, issues)
        groups = _classes(checked, name, labels, issues, named=name in data)
        parts[name] = Part(
            rows=rows,
            targets=labels.targets,
            known=labels.known,
            input=checked.data.input,
            graph_options=checked.model.graph_options(),
            batch_blocks=checked.data.batch_blocks,
            seed=checked.run.seed,
            loader_threads=checked.data.loader_threads,
            sampling=_sampling(checked, rows, groups, issues) if name == "train" else None,
            epoch_complexes=checked.data.epoch_complexes if name == "train" else 0,
            noise=checked.noise if noisy else None,
            max_blocks=checked.data.max_item_blocks if rows.cropped else None,
            features=features,
        )
    return parts, texts


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
    import torch

    from atomica.errors import DataError

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
            column = rows.dataset.column(head.common.label)
            texts[head.name] = [column[row] for row in rows.rows]
            key = next(
                (one for one in ("positive", "label") if ("head", index, one) in issues.source), "kind"
            )
            problem = f"{rows.part} rows of {rows.dataset.name}: "
            targets[head.name], usable = head.cls.encode_labels(head.config, texts[head.name])
            known[head.name] = usable.bool()
        except DataError as error:
            if rows.part == "test" and several:
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


def _classes(
    checked: Spec, part: str, labels: _Labels, issues: Issues, *, named: bool
) -> npt.NDArray[np.int64] | None:
    """Class of each row by the first head that has classes, -1 where unknown; None without such a head.

    An issue for every head whose classes are all the same in a part that needs more than one.
    """
    import numpy as np

    by_loss = part == "valid" and checked.train.monitor.rpartition("/")[2] == "loss"
    groups = None
    for name, target in labels.targets.items():
        if target.ndim != 1 or target.is_floating_point():
            continue
        known = labels.known[name].numpy()
        classes = np.where(known, target.numpy(), -1)
        groups = classes if groups is None else groups
        if part != "test" and not by_loss and len(set(classes[known].tolist())) < 2:
            remedy = (
                'give a data.valid with both, or choose epochs by train.monitor = "loss"'
                if part == "valid"
                else "both are needed"
            )
            issues.add(
                ("data", part),
                f"all {int(known.sum())} {part} complexes are of one class for head {name!r}; {remedy}",
                value=named,
            )
    return groups


def _sampling(
    checked: Spec, rows: Rows, classes: npt.NDArray[np.int64] | None, issues: Issues
) -> Sampling | None:
    """How the training rows are drawn."""
    import numpy as np

    from atomica.records import Mixture
    from atomica.sampling import sampling

    sampler, weights, dataset = checked.data.sampler, checked.data.weights, rows.dataset
    groups = np.zeros(len(rows), dtype=np.int64)
    if sampler == "modality":
        groups = dataset.modalities[rows.rows]
        if len(np.unique(groups)) < 2:
            issues.add(
                ("data", "sampler"), "has no effect: all training complexes are of one kind; use uniform"
            )
    if sampler == "balanced":
        if classes is None:
            issues.add(("data", "sampler"), "needs a head with classes; use uniform")
            return None
        groups = classes
    sources = None
    if isinstance(dataset, Mixture):
        sources = dataset.sources[rows.rows]
        for index, one in enumerate(dataset.sets):
            if weights and not (sources == index).any():
                issues.add(("data", "weights"), f"{one.name} has no training rows that could be drawn")
    return sampling(sampler, groups, sources=sources, weights=weights)


def _build_model(
    checked: Spec, device: torch.device, issues: Issues, *, resume: bool
) -> tuple[Model, list[str]]:
    """The model with its first weights, and what of them was loaded; also seeds every random-number generator."""
    import numpy as np
    import torch

    from atomica.errors import DataError
    from atomica.model import Model, initialise

    random.seed(checked.run.seed)
    np.random.seed(checked.run.seed)
    torch.manual_seed(checked.run.seed)
    heads = {head.name: head.cls(head.config, checked.model) for head in checked.heads}
    model = Model(
        checked.model,
        heads,
        kinds={head.name: head.common.kind for head in checked.heads},
        weights={head.name: head.common.weight for head in checked.heads},
    )
    started: list[str] = []
    if checked.init.init is not None and not resume:
        try:
            started = initialise(model, checked.init.init)
        except DataError as error:
            issues.add(("model", "init"), str(error))
    return model.to(device), started


def _check_model(model: Model, checked: Spec, issues: Issues) -> None:
    """What `[train]` says of metrics and parts of the model, against those it has; the plots that heads name."""
    from atomica.errors import DataError
    from atomica.report import predictions
    from atomica.train.optimizer import part_problems
    from atomica.train.validation import monitor_of

    try:
        monitor_of(model, checked.train)
    except DataError as error:
        issues.add(("train", "monitor"), str(error).partition(": ")[2])
    for key, message in part_problems(model, checked.train):
        issues.add(("train", key), message, value=key != "rates")
    for index, head in enumerate(checked.heads):
        for message in predictions.unknown(head.cls.plots):
            issues.add(("head", index, "kind"), f"{head.cls.__name__}.plots: {message}")


def _last(folder: Path) -> Path | None:
    """The checkpoint to go on from in a run's folder, if there is one."""
    from atomica.train import checkpoint
    from atomica.train.saving import LAST

    return checkpoint.find(folder / CHECKPOINTS / LAST)


def _check_folder(folder: Path, issues: Issues, *, resume: bool, dry: bool) -> Checkpoint | None:
    """The checkpoint to resume from; an issue if the folder does not fit what is asked for."""
    from atomica.errors import DataError
    from atomica.train import checkpoint
    from atomica.train.saving import LAST

    last = _last(folder)
    if resume:
        if last is None:
            issues.add(
                ("run", "out"), f"{folder} holds no checkpoint to resume; leave out --resume", value=False
            )
            return None
        try:
            return checkpoint.read(folder / CHECKPOINTS / LAST)
        except DataError as error:
            issues.add(("run", "out"), str(error), value=False)
            return None
    if dry or not folder.exists():
        return None
    if not folder.is_dir():
        issues.add(("run", "out"), f"{folder} is a file", value=False)
    elif last is not None:
        issues.add(
            ("run", "out"),
            f"{folder} holds a run already; add --resume to go on with it, or change run.name or run.out",
            value=False,
        )
    elif any(file.name != FOLDER_LOCK for file in folder.iterdir()) and not (folder / RESOLVED).is_file():
        issues.add(
            ("run", "out"), f"{folder} is not empty and holds no run; give another run.out", value=False
        )
    return None


def _check_resume(found: Checkpoint, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise SpecError if the checkpoint was made with other settings or data."""
    from atomica.errors import SpecError

    old = found.state["identity"]
    changed = [
        f"  {key}: {old['settings'].get(key, 'absent')!r} then, {value!r} now"
        for key, value in identity["settings"].items()
        if old["settings"].get(key) != value
    ]
    changed += [
        f"  data.{part}: other data than then"
        for part, sum_ in identity["data"].items()
        if old["data"].get(part) != sum_
    ]
    if changed:
        raise SpecError(
            f"cannot resume {folder}: it was started with other settings\n"
            + "\n".join(changed)
            + f"\nresume with {folder / RESOLVED}, or start a new run under another run.name"
        )


def _absolute(checked: Spec, folder: Path) -> Spec:
    """The spec with paths that mean the same from any current directory."""
    from atomica.records import DEMO, PARTS

    full: dict[str, Any] = {}
    for part in PARTS:
        paths = [
            path if path.startswith(DEMO) else os.path.abspath(path) for path in checked.data.paths(part)
        ]
        full[part] = tuple(paths) if len(paths) > 1 else next(iter(paths), None)
    files = tuple(os.path.abspath(path) for path in checked.data.feature_files)
    full["embeddings"] = files if len(files) > 1 else next(iter(files), None)
    return replace(checked, run=replace(checked.run, out=str(folder)), data=replace(checked.data, **full))


def counts(found: Mapping[str, int]) -> str:
    """Reasons and how often each was met, for a message."""
    return ", ".join(f"{count} {reason}" for reason, count in found.items())
