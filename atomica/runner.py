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
    import torch
    from torch import Tensor

    from atomica.encoder import EncoderConfig
    from atomica.heads import Head
    from atomica.model import Model
    from atomica.records import DataConfig, Dataset, Rows
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


@dataclass(frozen=True)
class Spec:
    """A whole spec, checked."""

    run: RunConfig
    data: DataConfig
    model: EncoderConfig
    heads: tuple[HeadSpec, ...]
    train: TrainConfig
    device: DeviceConfig
    log: LogConfig

    def sections(self) -> list[tuple[str, dict[str, Any]]]:
        """Every setting, defaults included, as tables of a TOML file."""
        model = asdict(self.model)
        model.pop("block_types")
        heads = [("[[head]]", {**asdict(h.common), "name": h.name, **asdict(h.config)}) for h in self.heads]
        return [
            ("run", asdict(self.run)),
            ("data", asdict(self.data)),
            ("model", model),
            *heads,
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
            elif name in ("data", "model", "train"):
                free = ("train", "valid", "test", "loader_threads", "epochs", "patience")
                found |= {f"{name}.{key}": value for key, value in table.items() if key not in free}
        return dict(json.loads(json.dumps(found)))


def _section_classes() -> dict[str, tuple[type, tuple[str, ...]]]:
    """Section name → the dataclass that owns it, and fields of it that a spec may not set."""
    from atomica.encoder import EncoderConfig
    from atomica.records import DataConfig
    from atomica.train.logging import LogConfig
    from atomica.train.loop import TrainConfig

    return {
        "run": (RunConfig, ()),
        "data": (DataConfig, ()),
        "model": (EncoderConfig, ("block_types",)),
        "train": (TrainConfig, ()),
        "device": (DeviceConfig, ()),
        "log": (LogConfig, ()),
    }


def settings() -> list[Setting]:
    """Every setting there is, with its default and meaning: the rows of the table in the documentation."""
    from atomica.heads import available, head_class

    rows: list[Setting] = []
    for name, (cls, hidden) in _section_classes().items():
        rows += spec.describe(cls, name, exclude=hidden)
    rows += spec.describe(HeadConfig, "head.N")
    for kind in available():
        rows += [
            replace(row, doc=f"({kind}) {row.doc}")
            for row in spec.describe(head_class(kind).Config, "head.N")
        ]
    return rows


def read_spec(source: spec.Source, issues: Issues) -> Spec | None:
    """The typed spec of a source; None, and issues added, if anything is wrong with it."""
    classes = _section_classes()
    known = [*classes, "head"]
    elsewhere: dict[str, str] = {}
    for name, (cls, hidden) in classes.items():
        for row in spec.describe(cls, exclude=hidden):
            elsewhere.setdefault(row.key.partition(".")[0], name)
    for key in source.tree:
        if key not in known:
            issues.add(
                (key,), spec.unknown_key(key, (), known, elsewhere), value=not _is_table(source.tree[key])
            )
    found: dict[str, Any] = {
        name: spec.read(cls, source, (name,), issues, exclude=hidden, elsewhere=elsewhere)
        for name, (cls, hidden) in classes.items()
    }
    heads = _read_heads(source, issues)
    if issues.found or heads is None or any(value is None for value in found.values()):
        return None
    return Spec(heads=heads, **found)


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
    config = replace(checked.model, block_types=data["train"].block_types)
    if config.modality_embedding and checked.data.input != "complex":
        issues.add(
            ("model", "modality_embedding"),
            f"has no effect with data.input = {checked.data.input!r}: one partner alone does not show what "
            'kind of interface it is; remove it, or use input = "complex"',
        )
    parts, texts = _make_parts(checked, config, data, issues)
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
    model = _build_model(checked, config, device)
    _check_monitor(model, checked, issues)
    identity = {
        "settings": checked.identity(),
        "data": {name: part.rows.dataset.fingerprint for name, part in parts.items() if name != "test"},
    }
    if found is not None:
        _check_resume(found, identity, folder)
    issues.raise_any()
    return Job(_absolute(checked, folder), parts, texts, model, device, folder, found, identity)


def _open_data(source: spec.Source, issues: Issues) -> dict[str, Dataset]:
    """The data sets a spec names. What is wrong with them joins the other issues, also of a faulty spec."""
    from atomica.errors import AtomicaError
    from atomica.records import PARTS, open_dataset

    table = source.tree.get("data")
    if not isinstance(table, dict):
        return {}
    fragments = table.get("fragments", "none")
    opened: dict[str, Dataset] = {}
    for part in PARTS:
        path = table.get(part)
        if not isinstance(path, str):
            continue
        try:
            opened[part] = open_dataset(path)
        except AtomicaError as error:
            issues.add(("data", part), str(error).removeprefix(f"{path}: "))
            continue
        if opened[part].fragments != fragments:
            issues.add(
                ("data", part),
                f"built with fragment vocabulary {opened[part].fragments!r}, but data.fragments is "
                f"{fragments!r}; rebuild the data, or set data.fragments",
            )
    vocabularies = {part: dict(dataset.manifest["vocabulary"]) for part, dataset in opened.items()}
    for part, vocabulary in vocabularies.items():
        if vocabulary != vocabularies.get("train", vocabulary):
            issues.add(
                ("data", part), "its vocabulary differs from that of data.train; build both with the same"
            )
    return opened


def _make_parts(
    checked: Spec, config: EncoderConfig, data: Mapping[str, Dataset], issues: Issues
) -> tuple[dict[str, Part], dict[str, dict[str, list[str | None]]]]:
    """Rows and targets of train, valid and test, and the label texts of each by head."""
    from atomica.records import PARTS, select_rows
    from atomica.train.loop import Part

    parts: dict[str, Part] = {}
    texts: dict[str, dict[str, list[str | None]]] = {}
    for name in PARTS:
        if name != "train" and issues.found:
            break  # what is wrong with the training rows is wrong with the others: say it once
        dataset = data.get(name, data["train"])
        rows = select_rows(dataset, name, checked.data, own=name in data)
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
        encoded = _encode_labels(checked, rows, issues)
        if encoded is None:
            continue
        rows, targets, texts[name] = encoded
        if not len(rows):
            issues.add(
                ("data", name), f"no complex is left; skipped: {_counts(rows.skipped)}", value=name in data
            )
            continue
        classes = next(
            (t.numpy() for t in targets.values() if t.ndim == 1 and not t.is_floating_point()), None
        )
        by_loss = name == "valid" and checked.train.monitor == "loss"
        if classes is not None and name != "test" and not by_loss and len(set(classes.tolist())) < 2:
            head = checked.heads[0].name
            remedy = (
                'give a data.valid with both, or choose epochs by train.monitor = "loss"'
                if name == "valid"
                else "both are needed"
            )
            issues.add(
                ("data", name),
                f"all {len(rows)} {name} complexes are of one class for head {head!r}; {remedy}",
                value=name in data,
            )
        balanced = checked.data.sampler == "balanced"
        if balanced and classes is None:
            issues.add(("data", "sampler"), "needs a head with classes; use uniform")
        parts[name] = Part(
            rows=rows,
            targets=targets,
            input=checked.data.input,
            graph_options=config.graph_options(),
            batch_blocks=checked.data.batch_blocks,
            loader_threads=checked.data.loader_threads,
            classes=classes if balanced and name == "train" else None,
        )
    return parts, texts


def _encode_labels(
    checked: Spec, rows: Rows, issues: Issues
) -> tuple[Rows, dict[str, Tensor], dict[str, list[str | None]]] | None:
    """Targets of every head, for the rows that have a usable label for all of them."""
    import numpy as np
    import torch

    from atomica.errors import DataError

    targets: dict[str, Tensor] = {}
    texts: dict[str, list[str | None]] = {}
    known = np.ones(len(rows), dtype=bool)
    lost: list[tuple[str, Any]] = []
    for index, head in enumerate(checked.heads):
        try:
            column = rows.dataset.column(head.common.label)
        except DataError as error:
            issues.add(("head", index, "label"), str(error), value=("head", index, "label") in issues.source)
            return None
        texts[head.name] = [column[row] for row in rows.rows]
        try:
            targets[head.name], usable = head.cls.encode_labels(head.config, texts[head.name])
        except DataError as error:
            where = next(
                (key for key in ("positive", "label") if ("head", index, key) in issues.source), "kind"
            )
            issues.add(("head", index, where), f"{rows.part} rows of {rows.dataset.name}: {error}")
            return None
        lost.append((f"no usable {head.common.label} for head {head.name}", usable.numpy().astype(bool)))
    for reason, usable in lost:
        rows = rows.keep(usable[known], reason)
        known &= usable
    index_ = torch.from_numpy(np.flatnonzero(known))
    kept = np.flatnonzero(known).tolist()
    return (
        rows,
        {name: target[index_] for name, target in targets.items()},
        {name: [column[i] for i in kept] for name, column in texts.items()},
    )


def _build_model(checked: Spec, config: EncoderConfig, device: torch.device) -> Model:
    """The model with fresh weights; also seeds every random-number generator of the process."""
    import numpy as np
    import torch

    from atomica.model import Model

    random.seed(checked.run.seed)
    np.random.seed(checked.run.seed)
    torch.manual_seed(checked.run.seed)
    heads = {head.name: head.cls(head.config, config) for head in checked.heads}
    return Model(
        config,
        heads,
        kinds={head.name: head.common.kind for head in checked.heads},
        weights={head.name: head.common.weight for head in checked.heads},
    ).to(device)


def _check_monitor(model: Model, checked: Spec, issues: Issues) -> None:
    from atomica.errors import DataError
    from atomica.train.loop import monitor_of

    try:
        monitor_of(model, checked.train)
    except DataError as error:
        issues.add(("train", "monitor"), str(error).partition(": ")[2])


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

    paths = {part: getattr(checked.data, part) for part in PARTS}
    full = {
        part: path if path is None or path.startswith(DEMO) else os.path.abspath(path)
        for part, path in paths.items()
    }
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
        for head, column in job.texts[name].items():
            values = Counter(str(text) for text in column)
            if len(values) <= 20:
                listing = ", ".join(f"{count} {value}" for value, count in sorted(values.items()))
                classes.append(listing if len(job.texts[name]) == 1 else f"{head}: {listing}")
        skipped = f"; skipped {_counts(rows.skipped)}" if rows.skipped else ""
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
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    train = job.parts["train"]
    plan = train.epoch_plan(checked.run.seed, 0)
    blocks = float(np.mean([train.rows.blocks[batch].sum() for batch in plan]))
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

    train = job.parts["train"]
    plan = train.epoch_plan(job.spec.run.seed, 0)
    batch = train.load(plan[0], job.model)
    job.model.train()
    began = time.perf_counter()
    losses = job.model.loss(batch.graph, batch.targets)
    losses.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), float("inf"))
    print(
        f"batch   {len(batch.ids)} complexes, {batch.blocks} blocks: loss {float(losses.total.detach()):.4f},"
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
            seed=job.spec.run.seed,
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
    import numpy as np
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
    for head in job.spec.heads:
        target = test.targets[head.name].numpy()
        predicted = predictions[head.name].double().numpy()
        texts = job.texts["test"][head.name]
        columns: list[tuple[str, Sequence[Any]]] = [("id", test.rows.ids), ("label", texts)]
        entry: dict[str, Any] = {"kind": head.common.kind, "label": head.common.label}
        if evaluate.is_binary(target, predicted):
            for name in ("train", "test"):
                if name not in features:
                    features[name] = evaluate.composition(job.parts[name].rows, job.spec.data.input)
            answers = job.parts["train"].targets[head.name].numpy()
            baseline = evaluate.fit_baseline(features["train"], answers, features["test"], seed=seed)
            result = evaluate.compare(target, predicted, baseline.probabilities, seed=seed)
            entry |= {
                "classes": {
                    name: dict(sorted(Counter(str(t) for t in job.texts[name][head.name]).items()))
                    for name in job.parts
                },
                **result,
                "baseline_method": {
                    "kind": "logistic regression on residue composition",
                    "C": baseline.strength,
                    "chosen_by": baseline.chosen_by,
                },
            }
            columns += [("probability", predicted.tolist()), ("baseline", baseline.probabilities.tolist())]
            positive = str(getattr(head.config, "positive", "") or "positives")
            title = f"head {head.name}: " if len(job.spec.heads) > 1 else ""
            print(f"\n{title}{result['complexes']} test complexes, {result['positives']} of them {positive}")
            print(evaluate.format_comparison(result, positive) + "\n", flush=True)
        else:
            flat = (
                predicted
                if predicted.ndim == 1
                else [json.dumps(row) for row in np.asarray(predicted).tolist()]
            )
            if len(predicted) == len(texts):
                columns.append(("prediction", list(flat)))
            print(
                f"test    head {head.name}: "
                + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            )
        report["heads"][head.name] = entry
        name = PREDICTIONS if len(job.spec.heads) == 1 else f"predictions-{head.name}.csv"
        write_text(job.folder / name, evaluate.predictions_csv(columns))
    report["run"] = {
        "training_complexes_per_s": round(outcome.complexes_per_s, 2),
        "peak_memory_mib": round(_peak_memory_mib(), 1),
    }
    write_text(job.folder / EVALUATION, json.dumps(report, indent=1) + "\n")


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
