"""The command line `atomica-run`: arguments → spec → assembled job. Nothing else assembles.

Everything that can be checked is checked before the run folder is made, and all that is wrong is reported at
once. PyTorch is imported only when a spec is read, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.spec import Issues, Problems, Setting, setting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

    from atomica.encoder import EncoderConfig
    from atomica.heads import Head
    from atomica.model import InitConfig, Model
    from atomica.noise import NoiseConfig
    from atomica.records import DataConfig, Dataset, Mixture, Rows, Sampling
    from atomica.train.checkpoint import Checkpoint
    from atomica.train.logging import LogConfig, RunLog
    from atomica.train.loop import Outcome, Part, Stop, TrainConfig

__all__ = ["DeviceConfig", "HeadConfig", "RunConfig", "Spec", "main", "read_spec", "settings"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

CHECKPOINTS = "checkpoints"
RESOLVED, EVALUATION, PREDICTIONS = "spec.toml", "evaluation.json", "predictions.csv"

EXAMPLES = """\
examples:
  atomica-run runs/ligand.toml --dry-run
  atomica-run runs/ligand.toml
  atomica-run runs/ligand.toml --set run.name=small --set train.epochs=3 --set head.0.positive=ZN
  atomica-run outputs/ligand/spec.toml --resume

exit codes:
  0 done; 1 failed; 2 wrong usage, spec or data, nothing written; 130 interrupted, checkpoint written
"""


@dataclass(frozen=True)
class RunConfig:
    """Section `[run]`: the name of a run and where it writes."""

    name: str = setting(doc="name of the run: letters, digits, dot, dash, underscore")
    job: str = setting("train", "what to do", choices=("train",))
    out: str = setting("outputs/{name}", "folder of the run; {name} stands for run.name")
    seed: int = setting(0, "seed of weights, sampling, dropout and resampling", low=0, below=2**32)

    def __post_init__(self) -> None:
        """Check that name and folder can be used."""
        Problems.check(
            (
                re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is None,
                "name",
                "use letters, digits, dot, dash and underscore, starting with a letter or digit",
            ),
            (
                not self.out or re.search(r"[{}]", self.out.replace("{name}", "")) is not None,
                "out",
                "must be a folder; the only placeholder is {name}",
            ),
        )

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.out.replace("{name}", self.name))


@dataclass(frozen=True)
class DeviceConfig:
    """Section `[device]`: what the run computes on."""

    kind: str = setting("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads of PyTorch; 0: its own choice", low=0, high=1024)


@dataclass(frozen=True)
class HeadConfig:
    """Keys that every `[[head]]` table has, beside those of its kind."""

    kind: str = setting(doc="which head: a registered name")
    name: str = setting("", "name in metrics and predictions; empty: the kind")
    label: str = setting("label", "label or metadata column of the data that holds the answer")
    weight: float = setting(1.0, "share in the total loss", above=0)

    def __post_init__(self) -> None:
        """Check that the name can be used as a key."""
        Problems.check(
            (
                bool(self.name) and re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is None,
                "name",
                "use letters, digits, dash and underscore",
            ),
        )


@dataclass(frozen=True)
class HeadSpec:
    """One `[[head]]` table: the common keys, the class of the head, and the head's own settings."""

    common: HeadConfig
    cls: type[Head]
    config: Any

    @property
    def name(self) -> str:
        """Name of the head."""
        return self.common.name or self.common.kind

    @property
    def labelled(self) -> bool:
        """Whether it learns from a column of the data."""
        return self.cls.targets == "labels"

    def table(self) -> dict[str, Any]:
        """All its settings, as a table of a TOML file."""
        common = asdict(self.common)
        if not self.labelled:
            del common["label"]
        return {**common, "name": self.name, **asdict(self.config)}


@dataclass(frozen=True)
class Spec:
    """A whole spec, checked."""

    run: RunConfig
    data: DataConfig
    model: EncoderConfig
    init: InitConfig
    noise: NoiseConfig
    heads: tuple[HeadSpec, ...]
    train: TrainConfig
    device: DeviceConfig
    log: LogConfig

    def sections(self) -> list[tuple[str, dict[str, Any]]]:
        """Every setting, defaults included, as tables of a TOML file."""
        model = asdict(self.model)
        model.pop("block_types")
        return [
            ("run", asdict(self.run)),
            ("data", asdict(self.data)),
            ("noise", asdict(self.noise)),
            ("model", {**asdict(self.init), **model}),
            *(("[[head]]", head.table()) for head in self.heads),
            ("train", asdict(self.train)),
            ("device", asdict(self.device)),
            ("log", asdict(self.log)),
        ]

    def identity(self) -> dict[str, Any]:
        """The settings that decide the numbers: a resumed run must share them.

        Where the data lie and for how long to train are left out; checksums stand for the data.
        """
        tables = [(name, dict(table)) for name, table in self.sections()]
        found: dict[str, Any] = {}
        for name, table in tables:
            if name == "run":
                found["run.seed"] = table["seed"]
            elif name == "[[head]]":
                index = sum(key.endswith(".kind") and key.startswith("head.") for key in found)
                found |= {f"head.{index}.{key}": value for key, value in table.items()}
            elif name in ("data", "noise", "model", "train"):
                free = ("train", "valid", "test", "loader_threads", "epochs", "patience")
                found |= {f"{name}.{key}": value for key, value in table.items() if key not in free}
        return dict(json.loads(json.dumps(found)))


@dataclass(frozen=True)
class _Section:
    """The dataclass that owns keys of a section of the spec, and fields of it that a spec may not set."""

    name: str
    cls: type
    hidden: tuple[str, ...] = ()

    def keys(self) -> list[str]:
        """The keys it owns, without those of nested tables."""
        return list(
            dict.fromkeys(row.key.partition(".")[0] for row in spec.describe(self.cls, exclude=self.hidden))
        )


def _sections() -> dict[str, _Section]:
    """Field of `Spec` → its section."""
    from atomica.encoder import EncoderConfig
    from atomica.model import InitConfig
    from atomica.noise import NoiseConfig
    from atomica.records import DataConfig
    from atomica.train.logging import LogConfig
    from atomica.train.loop import TrainConfig

    return {
        "run": _Section("run", RunConfig),
        "data": _Section("data", DataConfig),
        "noise": _Section("noise", NoiseConfig),
        "init": _Section("model", InitConfig),
        "model": _Section("model", EncoderConfig, ("block_types",)),
        "train": _Section("train", TrainConfig),
        "device": _Section("device", DeviceConfig),
        "log": _Section("log", LogConfig),
    }


def settings(kinds: Sequence[str] = ()) -> list[Setting]:
    """Every setting there is, with its default and meaning: the rows of the table in the documentation.

    kinds: the heads whose settings are listed; empty: all, those of other packages too.
    """
    from atomica.heads import available, head_class

    rows: list[Setting] = []
    for section in _sections().values():
        rows += spec.describe(section.cls, section.name, exclude=section.hidden)
    rows += spec.describe(HeadConfig, "head.N")
    for kind in kinds or available():
        rows += [
            replace(row, doc=f"({kind}) {row.doc}")
            for row in spec.describe(head_class(kind).Config, "head.N")
        ]
    return rows


def read_spec(source: spec.Source, issues: Issues) -> Spec | None:
    """The typed spec of a source; None, and issues added, if anything is wrong with it."""
    sections = _sections()
    owned: dict[str, list[str]] = {}
    for section in sections.values():
        owned.setdefault(section.name, []).extend(section.keys())
    elsewhere: dict[str, str] = {}
    for name, keys in owned.items():
        for key in keys:
            elsewhere.setdefault(key, name)
    for key in source.tree:
        if key not in (known := [*owned, "head"]):
            issues.add(
                (key,), spec.unknown_key(key, (), known, elsewhere), value=not _is_table(source.tree[key])
            )
    found: dict[str, Any] = {}
    for name, section in sections.items():
        own = section.keys()
        table = source.tree.get(section.name)
        others = [key for key in owned[section.name] if key not in own]
        if name == "init" and isinstance(table, dict):
            others = list(set(table).difference(own))  # a key that nobody knows is reported once
        found[name] = spec.read(
            section.cls,
            source,
            (section.name,),
            issues,
            exclude=section.hidden,
            ignore=others,
            elsewhere=elsewhere,
        )
    heads = _read_heads(source, issues)
    if issues.found or heads is None or any(value is None for value in found.values()):
        return None
    checked = Spec(heads=heads, **found)
    _check_heads(checked, issues)
    return None if issues.found else checked


NOISE_KEYS = {
    "rotation": "rotation_sigma",
    "translation": "translation_sigma",
    "torsion": "torsion_sigma",
    "gaussian": "gaussian_sigma",
    "mask": "mask_proportion",
}
"""Kind of noise, as heads name it → the key of section `[noise]` that switches it on."""


def _check_heads(checked: Spec, issues: Issues) -> None:
    """What heads need of the data, the noise and each other, against what the spec gives them."""
    from atomica.heads import NEEDS, TARGETS

    learnt: set[str] = set()
    for index, head in enumerate(checked.heads):
        path: spec.KeyPath = ("head", index, "kind")
        kinds = head.cls.learns(head.config)
        unknown = [need for need in head.cls.needs if need not in NEEDS]
        unknown += [f"{kind} noise" for kind in sorted(kinds - NOISE_KEYS.keys())]
        unknown += [] if head.cls.targets in TARGETS else [f"targets from {head.cls.targets!r}"]
        if unknown:
            issues.add(path, f"its class asks for {', '.join(unknown)}, which no run can give")
        if "partners" in head.cls.needs and checked.data.input != "complex":
            issues.add(
                path,
                f"needs both partners, but data.input = {checked.data.input!r} shows one alone; "
                'use input = "complex"',
            )
        if not head.labelled and ("head", index, "label") in issues.source:
            issues.add(
                ("head", index, "label"), f"has no effect: a head of kind {head.common.kind!r} reads no label"
            )
        learnt |= kinds
        for kind in sorted(kinds & NOISE_KEYS.keys()):
            key = NOISE_KEYS[kind]
            if not getattr(checked.noise, key):
                task = {"gaussian": "atom"}.get(kind, kind)
                off = f", or set head.{index}.{task} = 0" if hasattr(head.config, task) else ""
                issues.add(path, f"learns from {kind} noise, but noise.{key} is 0; give it a value{off}")
    if checked.model.embeddings.sizes:
        issues.add(
            ("model", "embeddings", "sizes"),
            "data sets hold no external features of blocks; leave it out, or train in Python on graphs that "
            'have the frame "embedding"',
        )
    for kind, key in NOISE_KEYS.items():
        if getattr(checked.noise, key) and kind not in learnt:
            kinds_ = "masked_block" if kind == "mask" else "denoise"
            issues.add(("noise", key), f'no head learns from it; add one of kind "{kinds_}", or set it to 0')


def _is_table(value: Any) -> bool:
    return isinstance(value, dict | list)


def _read_heads(source: spec.Source, issues: Issues) -> tuple[HeadSpec, ...] | None:
    from atomica.errors import SpecError
    from atomica.heads import available, head_class

    tables = source.tree.get("head")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        kinds = ", ".join(available())
        issues.add(
            ("head",), f"a model needs a head: write [[head]] and kind below it (one of {kinds})", value=False
        )
        return None
    heads: list[HeadSpec] = []
    common_keys = [row.key for row in spec.describe(HeadConfig)]
    for index, table in enumerate(tables):
        path = ("head", index)
        try:
            cls = head_class(table["kind"]) if isinstance(table.get("kind"), str) else None
        except SpecError:
            issues.add((*path, "kind"), spec.not_among(table["kind"], available()))
            continue
        # Without a kind nobody can say which other keys are right.
        own = list(table) if cls is None else [row.key for row in spec.describe(cls.Config)]
        common = spec.read(HeadConfig, source, path, issues, ignore=own)
        if cls is None:
            continue
        config = spec.read(
            cls.Config, source, path, issues, ignore=[*common_keys, *set(table).difference(own)]
        )
        if common is not None and config is not None:
            heads.append(HeadSpec(common, cls, config))
    names = Counter(head.name for head in heads)
    for index, head in enumerate(heads):
        if names[head.name] > 1:
            issues.add(
                ("head", index), f"several heads are called {head.name!r}; give each a name", value=False
            )
    return tuple(heads) if len(heads) == len(tables) else None


# ---------------------------------------------------------------------------------------------- assembly


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


def assemble(source: spec.Source, *, resume: bool, dry: bool) -> Job:
    """Read the spec, open the data, build the model. Raises SpecError with all that is wrong."""
    issues = Issues(source)
    checked = read_spec(source, issues)
    data = _open_data(source, issues)
    issues.raise_any()
    assert checked is not None

    import torch

    wanted = checked.device.kind
    if wanted == "cuda" and not torch.cuda.is_available():
        issues.add(("device", "kind"), "PyTorch finds no CUDA device; use auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    checked = _inherit(checked, source, data["train"], issues, resume=resume)
    config = checked.model
    if config.modality_embedding and checked.data.input != "complex":
        issues.add(
            ("model", "modality_embedding"),
            f"has no effect with data.input = {checked.data.input!r}: one partner alone does not show what "
            'kind of interface it is; remove it, or use input = "complex"',
        )
    parts, texts = _make_parts(checked, data, issues)
    folder = Path(os.path.abspath(checked.run.folder))
    found = _check_folder(folder, issues, resume=resume, dry=dry)
    issues.raise_any()

    if checked.device.threads:
        torch.set_num_threads(checked.device.threads)
    device = torch.device(wanted)
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
    if found is not None:
        _check_resume(found, identity, folder)
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
    from atomica.train import checkpoint
    from atomica.train.loop import LAST

    checked = replace(checked, model=replace(checked.model, block_types=data.block_types))
    origin = checked.init.init
    if origin is None:
        return checked
    last = checkpoint.find(Path(os.path.abspath(checked.run.folder)) / CHECKPOINTS / LAST)
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


def _make_parts(
    checked: Spec, data: Mapping[str, Dataset | Mixture], issues: Issues
) -> tuple[dict[str, Part], dict[str, dict[str, list[str | None]]]]:
    """Rows and targets of train, valid and test, and the label texts of each by head."""
    from atomica.records import PARTS, select_rows
    from atomica.train.loop import Part

    noisy = any(getattr(checked.noise, key) for key in NOISE_KEYS.values())
    parts: dict[str, Part] = {}
    texts: dict[str, dict[str, list[str | None]]] = {}
    for name in PARTS:
        if name != "train" and issues.found:
            break  # what is wrong with the training rows is wrong with the others: say it once
        rows = select_rows(data.get(name, data["train"]), name, checked.data, own=name in data)
        if not len(rows):
            reason = "; skipped: " + _counts(rows.skipped) if rows.skipped else ""
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
                ("data", name), f"no complex is left; skipped: {_counts(rows.skipped)}", value=name in data
            )
            continue
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

    from atomica.records import Mixture, sampling

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
    """What `[train]` says of metrics and parts of the model, against those it has."""
    from atomica.errors import DataError
    from atomica.train.loop import monitor_of, part_problems

    try:
        monitor_of(model, checked.train)
    except DataError as error:
        issues.add(("train", "monitor"), str(error).partition(": ")[2])
    for key, message in part_problems(model, checked.train):
        issues.add(("train", key), message, value=key != "rates")


def _check_folder(folder: Path, issues: Issues, *, resume: bool, dry: bool) -> Checkpoint | None:
    """The checkpoint to resume from; an issue if the folder does not fit what is asked for."""
    from atomica.errors import DataError
    from atomica.train import checkpoint
    from atomica.train.loop import LAST

    last = checkpoint.find(folder / CHECKPOINTS / LAST)
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
    elif any(folder.iterdir()) and not (folder / RESOLVED).is_file():
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
    return replace(checked, run=replace(checked.run, out=str(folder)), data=replace(checked.data, **full))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


# ------------------------------------------------------------------------------------------------- jobs


def _overview(job: Job) -> list[str]:
    """What is about to run, for a person: data, classes, model, steps."""
    import numpy as np

    checked = job.spec
    lines = [f"run     {checked.run.name}, seed {checked.run.seed}, on {job.device}"]
    seen = "both partners" if checked.data.input == "complex" else f"{checked.data.input} alone"
    for name, part in job.parts.items():
        rows = part.rows
        classes = []
        texts = {head: _known_texts(job, head)[name] for head in part.known}
        for head, column in texts.items():
            values = Counter(str(text) for text in column)
            if len(values) <= 20:
                listing = ", ".join(f"{count} {value}" for value, count in sorted(values.items()))
                classes.append(listing if len(texts) == 1 else f"{head}: {listing}")
        if len(part.known) + sum(not head.labelled for head in checked.heads) > 1:
            lacking = {head: int((~known).sum()) for head, known in part.known.items()}
            classes += [f"{count} without {head}" for head, count in lacking.items() if count]
        skipped = f"; skipped {_counts(rows.skipped)}" if rows.skipped else ""
        if rows.cropped:
            skipped = f"; {rows.cropped} cropped to {checked.data.max_item_blocks} blocks{skipped}"
        lines.append(
            f"{name:<7} {len(rows)} complexes of {rows.dataset.name}, {seen}, {int(rows.blocks.sum())} blocks"
            + (f" ({'; '.join(classes)})" if classes else "")
            + skipped
        )
    if "test" not in job.parts:
        lines.append("test    none: there will be no evaluation")
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if one in job.parts and other in job.parts:
            shared = set(job.parts[one].rows.ids) & set(job.parts[other].rows.ids)
            if shared:
                lines.append(
                    f"note    {len(shared)} complexes are in {one} and in {other}, {min(shared)} for one"
                )
    lines += [f"start   {line}" for line in job.started]
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    train = job.parts["train"]
    plan = train.epoch_plan(0)
    blocks = float(np.mean([train.blocks_of(batch) for batch in plan]))
    complexes = float(np.mean([len(batch) for batch in plan]))
    lines.append(f"model   {parameters:,} parameters, heads: {', '.join(h.name for h in checked.heads)}")
    lines.append(
        f"steps   {len(plan)} per epoch of {blocks:.0f} blocks ({complexes:.1f} complexes) on average, "
        f"{checked.train.epochs} epochs"
    )
    return lines


def _dry_run(job: Job) -> None:
    """One real batch forward and backward; nothing is written."""
    import torch

    from atomica.train.loop import freeze

    train = job.parts["train"]
    batch = train.load(train.epoch_plan(0)[0], job.model, 0)
    freeze(job.model, job.spec.train)
    began = time.perf_counter()
    losses = job.model.loss(batch.graph, batch.targets, batch.known)
    losses.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), float("inf"))
    still = f"{batch.unperturbed} of them without anything to perturb, " if batch.unperturbed else ""
    print(
        f"batch   {len(batch.ids)} complexes, {still}{batch.blocks} blocks: loss {float(losses.total.detach()):.4f},"
        f" gradient norm {float(norm):.3g}, {time.perf_counter() - began:.2f} s"
    )
    print(f"dry run: all is well; nothing was written to {job.folder}")


def _train(job: Job, stop: Stop) -> None:
    """Train, then evaluate the best checkpoint on the test rows."""
    from rich.console import Console

    from atomica.train.checkpoint import write_text
    from atomica.train.logging import EVENTS, METRICS, Display, RunLog
    from atomica.train.loop import fit

    job.folder.mkdir(parents=True, exist_ok=True)
    if job.resume is None:
        # What a run left that ended before its first checkpoint.
        (job.folder / METRICS).unlink(missing_ok=True)
        shutil.rmtree(job.folder / EVENTS, ignore_errors=True)
    header = (
        "# Every setting of this run, defaults included. Repeat it under another run.out, or --resume it.\n\n"
    )
    write_text(job.folder / RESOLVED, header + spec.dump(job.spec.sections()))
    done = None if job.resume is None else int(job.resume.state["progress"]["step"])
    if job.resume is not None:
        from safetensors.torch import load_file

        job.model.load_state_dict(load_file(job.resume.folder / "model.safetensors"))
        print(f"resume  after step {done}, in epoch {job.resume.state['progress']['epoch'] + 1}", flush=True)
    log = RunLog(job.folder, job.spec.log, resume_step=done)
    try:
        outcome = fit(
            job.model,
            job.parts["train"],
            job.parts["valid"],
            job.spec.train,
            folder=job.folder / CHECKPOINTS,
            log=log,
            display=Display(Console(stderr=True)),
            every_steps=job.spec.log.every_steps,
            stop=stop,
            identity=job.identity,
            resume=job.resume,
        )
        early = ", stopped early" if outcome.stopped_early else ""
        print(
            f"best    epoch {outcome.best_epoch} of {outcome.epochs}{early}: "
            f"valid {outcome.monitor} {outcome.best:.4f}",
            flush=True,
        )
        if "test" in job.parts:
            _evaluate(job, outcome, log, stop)
    finally:
        log.close()
    rate = (
        f"{outcome.complexes_per_s:.1f} complexes/s in training" if outcome.complexes_per_s else "no training"
    )
    print(f"speed   {rate}; peak memory {_peak_memory_mib():.0f} MiB")
    print(f"written {job.folder}")


def _evaluate(job: Job, outcome: Outcome, log: RunLog, stop: Stop) -> None:
    """Test-set metrics of the best checkpoint and of the baseline, printed and written."""
    from safetensors.torch import load_file

    from atomica import evaluate
    from atomica.train.checkpoint import write_text
    from atomica.train.loop import BEST, predict

    best = job.folder / CHECKPOINTS / BEST
    job.model.load_state_dict(load_file(best / "model.safetensors"))
    test, seed = job.parts["test"], job.spec.run.seed
    predictions, loss, metrics = predict(job.model, test, stop)
    log.record("test", outcome.best_epoch, outcome.steps, {"loss": loss, **metrics})
    report: dict[str, Any] = {
        "part": "test",
        "data": test.rows.dataset.name,
        "input": job.spec.data.input,
        "checkpoint": {"epoch": outcome.best_epoch, "monitor": outcome.monitor, "valid": outcome.best},
        "loss": loss,
        "metrics": metrics,
        "heads": {},
    }
    features: dict[str, Any] = {}
    several = len(job.spec.heads) > 1
    for head in job.spec.heads:
        own = {
            name.removeprefix(f"{head.name}/"): value
            for name, value in metrics.items()
            if not several or name.startswith(f"{head.name}/")
        }
        entry: dict[str, Any] = {"kind": head.common.kind, "metrics": own}
        report["heads"][head.name] = entry
        if not head.labelled:
            _print_metrics(head.name, own)
            continue
        entry["label"] = head.common.label
        known = test.known[head.name].numpy()
        entry["complexes"] = int(known.sum())
        if not known.any():
            print(f"test    head {head.name}: not evaluated, the test complexes have no {head.common.label}")
            continue
        target = test.targets[head.name].numpy()[known]
        everyone = predictions[head.name].double().numpy()
        predicted = everyone[known]
        columns: list[tuple[str, Sequence[Any]]] = [
            ("id", test.rows.ids),
            ("label", [text or "" for text in job.texts["test"][head.name]]),
        ]
        if evaluate.is_binary(target, predicted):
            for name in ("train", "test"):
                if name not in features:
                    features[name] = evaluate.composition(job.parts[name].rows, job.spec.data.input)
            learnt = job.parts["train"].known[head.name].numpy()
            answers = job.parts["train"].targets[head.name].numpy()[learnt]
            baseline = evaluate.fit_baseline(features["train"][learnt], answers, features["test"], seed=seed)
            result = evaluate.compare(target, predicted, baseline.probabilities[known], seed=seed)
            entry |= {
                "classes": {
                    name: dict(sorted(Counter(str(t) for t in found).items()))
                    for name, found in _known_texts(job, head.name).items()
                },
                **result,
                "baseline_method": {
                    "kind": "logistic regression on residue composition",
                    "C": baseline.strength,
                    "chosen_by": baseline.chosen_by,
                },
            }
            columns += [("probability", everyone.tolist()), ("baseline", baseline.probabilities.tolist())]
            positive = str(getattr(head.config, "positive", "") or "positives")
            title = f"head {head.name}: " if several else ""
            print(f"\n{title}{result['complexes']} test complexes, {result['positives']} of them {positive}")
            print(evaluate.format_comparison(result, positive) + "\n", flush=True)
        else:
            flat = everyone.tolist() if everyone.ndim == 1 else [json.dumps(row) for row in everyone.tolist()]
            columns.append(("prediction", flat))
            _print_metrics(head.name, own)
        labelled = sum(one.labelled for one in job.spec.heads)
        name = PREDICTIONS if labelled == 1 else f"predictions-{head.name}.csv"
        write_text(job.folder / name, evaluate.predictions_csv(columns))
    report["run"] = {
        "training_complexes_per_s": round(outcome.complexes_per_s, 2),
        "peak_memory_mib": round(_peak_memory_mib(), 1),
    }
    write_text(job.folder / EVALUATION, json.dumps(report, indent=1) + "\n")


def _known_texts(job: Job, head: str) -> dict[str, list[str | None]]:
    """The label texts of the complexes whose label is known, by part."""
    return {
        name: [
            text
            for text, known in zip(job.texts[name][head], part.known[head].tolist(), strict=True)
            if known
        ]
        for name, part in job.parts.items()
    }


def _print_metrics(head: str, metrics: Mapping[str, float]) -> None:
    listing = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    print(f"test    head {head}: {listing}", flush=True)


def _peak_memory_mib() -> float:
    import resource

    # Kibibytes on Linux, bytes on macOS.
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# --------------------------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomica-run",
        description="Run what a TOML spec describes: train a model and evaluate it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("spec", metavar="SPEC.toml", help="the run's settings; see runs/ligand.toml")
    parser.add_argument(
        "--set",
        metavar="KEY.PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="change one setting; may be repeated. VALUE is TOML or bare text",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, run one batch, print the figures, write nothing",
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    return parser


class _Signals:
    """SIGINT and SIGTERM: once training runs, the first asks it to stop after the step and checkpoint."""

    def __init__(self) -> None:
        self.stop: Stop | None = None
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self.receive)

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.stop is None or self.stop.requested:
            raise KeyboardInterrupt
        self.stop.requested = True


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args(argv)
    signals = _Signals()
    signals.install()
    started = False
    try:
        # The heavy imports start here, after the arguments are known to be right.
        from atomica.errors import AtomicaError
        from atomica.train.loop import Interrupted, Stop, StopRequested

        try:
            source = spec.load(arguments.spec, arguments.overrides)
            job = assemble(source, resume=arguments.resume, dry=arguments.dry_run)
            print("\n".join(_overview(job)), flush=True)
            if arguments.dry_run:
                _dry_run(job)
                return DONE
            started = True
            signals.stop = Stop()
            _train(job, signals.stop)
            return DONE
        except (Interrupted, StopRequested) as error:
            reason = str(error) or "stopped during evaluation; the checkpoints are written"
            print(f"atomica-run: {reason}; go on with --resume", file=sys.stderr)
            return INTERRUPTED
        except AtomicaError as error:
            print(f"atomica-run: {error}", file=sys.stderr)
            return FAILED if started else USAGE
        except OSError as error:
            print(f"atomica-run: {error}", file=sys.stderr)
            return FAILED
    except KeyboardInterrupt:
        after = "the last checkpoint stands; go on with --resume" if started else "nothing was written"
        print(f"atomica-run: interrupted; {after}", file=sys.stderr)
        return INTERRUPTED
    finally:
        signals.restore()


if __name__ == "__main__":
    sys.exit(main())
