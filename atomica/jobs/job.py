"""What all jobs after training share: their spec, their inputs, the folder they write, going on after a stop.

A job is a `Kind`: the dataclass that owns the section of its name, which of the common sections it reads, and the
function that does the work.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from atomica import compat, environment, spec
from atomica.console import Journal
from atomica.data.dataset import DEMO, open_dataset
from atomica.data.sampling import Rows
from atomica.errors import AtomicaError, DataError, SpecError
from atomica.files import FOLDER_LOCK, write_text
from atomica.jobs import JOBS
from atomica.jobs.inputs import Found, InputConfig, Sources, check_vocabulary, find, open_sources, select
from atomica.jobs.sections import DeviceConfig, RunConfig
from atomica.model.model import Model
from atomica.report import done as reports
from atomica.report.done import Draw
from atomica.spec import Issues, Setting, Source, setting

__all__ = [
    "Job",
    "Kind",
    "Result",
    "WeightsConfig",
    "absolute",
    "assemble",
    "dry_run",
    "kind",
    "overview",
    "perform",
    "sections",
    "settings",
    "without_effect",
]


RESOLVED, IDENTITY, RESULT, FAILURES = "spec.toml", "job.json", "result.json", "failures.jsonl"
DONE, SOME_FAILED = 0, 3


@dataclass(frozen=True)
class WeightsConfig:
    """Section `[model]` of a job other than training: the trained model."""

    weights: str = setting(
        doc="a saved model's folder (such as a run's checkpoints/best), or weights of the original: NAME.pt with "
        "NAME_config.json beside it"
    )
    config: str | None = setting(
        None, "the original's settings (JSON), where they do not lie beside its weights"
    )


@dataclass(frozen=True)
class Result:
    """What a job leaves behind: tables by name, figures for a person and the report, complexes that are missing."""

    tables: Mapping[str, Path]
    figures: Mapping[str, Any] = field(default_factory=dict)
    failed: int = 0


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    config: owner of the section of its name. run: does the work. reads: which of the sections "data" and "model"
    it has; seeded: whether it draws random numbers, so that `run.seed` means something.
    check: adds what is wrong with its own section to the issues, before anything is written.
    page: draws the sections of its report that are its own.
    """

    config: type
    run: Callable[[Job], Result]
    reads: tuple[str, ...] = ("data", "model")
    seeded: bool = False
    check: Callable[[Job, Issues], None] = lambda job, issues: None
    page: Draw | None = None


@dataclass
class Job:
    """A job whose spec is checked. `options` is the section of its own name."""

    kind: Kind
    run: RunConfig
    device_config: DeviceConfig
    options: Any
    data: InputConfig | None
    weights: WeightsConfig | None
    sources: Sources | None
    folder: Path
    device: torch.device
    resume: bool
    model: Model | None = None
    found: Found | None = None
    rows: Rows | None = None

    @property
    def input(self) -> str:
        """What the model sees of each complex; a model that reads one segment alone decides that itself."""
        assert self.data is not None
        if self.model is not None and self.model.segment is not None:
            return f"segment{self.model.segment}"
        return self.data.input

    def tables(self) -> list[tuple[str, dict[str, Any]]]:
        """Every setting, defaults included, as tables of a TOML file."""
        run = asdict(self.run)
        if not self.kind.seeded:
            del run["seed"]
        found = [("run", run)]
        if self.data is not None:
            found.append(("data", asdict(self.data)))
        if self.weights is not None:
            found.append(("model", asdict(self.weights)))
        return [*found, (self.run.job, asdict(self.options)), ("device", asdict(self.device_config))]

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: settings, the model's weights, ready data. A resumed job must share it."""
        free = ("run", "device")
        settings_ = {name: table for name, table in self.tables() if name not in free}
        for key in ("batch_blocks", "loader_threads"):
            settings_.get("data", {}).pop(key, None)
        if self.kind.seeded:
            settings_["run"] = {"seed": self.run.seed}
        found: dict[str, Any] = {"job": self.run.job, "settings": settings_}
        if self.weights is not None:
            file = compat.weights_file(self.weights.weights, self.weights.config)
            found["weights"] = hashlib.sha256(file.read_bytes()).hexdigest()
        if self.sources is not None:
            found["data"] = {path: open_dataset(path).fingerprint for path in self.sources.sets}
        return dict(json.loads(json.dumps(found)))


# ------------------------------------------------------------------------------------------------- the spec

_COMMON: dict[str, type] = {"data": InputConfig, "model": WeightsConfig}


def kind(name: str) -> Kind:
    """The kind of job of this name; KeyError if there is none."""
    found = importlib.import_module(JOBS[name]).KIND
    assert isinstance(found, Kind)
    return found


def sections(name: str) -> dict[str, tuple[type, tuple[str, ...]]]:
    """Sections of the spec of a job: name → the dataclass that owns it, and fields of it that a spec may not set."""
    this = kind(name)
    return {
        "run": (RunConfig, () if this.seeded else ("seed",)),
        **{key: (cls, ()) for key, cls in _COMMON.items() if key in this.reads},
        name: (this.config, ()),
        "device": (DeviceConfig, ()),
    }


def settings() -> list[Setting]:
    """Every setting of these jobs beside those of `[run]` and `[device]`, with its default and meaning."""
    rows = [
        replace(row, doc=f"(jobs after training) {row.doc}")
        for section, cls in _COMMON.items()
        for row in spec.describe(cls, section)
    ]
    return rows + [row for name in JOBS for row in spec.describe(kind(name).config, name)]


def _read(source: Source, issues: Issues, name: str) -> dict[str, Any]:
    """The sections of the spec; None for those with something wrong, which joins the issues."""
    owned = sections(name)
    elsewhere = {
        row.key.partition(".")[0]: section
        for section, (cls, hidden) in owned.items()
        for row in spec.describe(cls, exclude=hidden)
    }
    for key, value in source.tree.items():
        if key not in owned:
            message = spec.unknown_key(key, (), list(owned), elsewhere)
            issues.add((key,), message, value=not isinstance(value, dict | list))
    return {
        section: spec.read(cls, source, (section,), issues, exclude=hidden, elsewhere=elsewhere)
        for section, (cls, hidden) in owned.items()
    }


def assemble(source: Source, name: str, *, resume: bool | None, dry: bool) -> Job:
    """Read the spec, find the inputs, load the model. Raises SpecError with all that is wrong.

    resume: None resumes what the folder holds, if it holds anything.
    """
    issues = Issues(source)
    read = _read(source, issues, name)
    data, weights, device = read.get("data"), read.get("model"), read["device"]
    sources = None
    paths = _paths(source) if data is None else data.paths
    if "data" in read and paths:
        try:
            sources = find(paths)
        except DataError as error:
            issues.add(("data", "source"), str(error))
    if data is not None and sources is not None and not sources.unbuilt:
        why = "nothing is built, data.source names data sets alone"
        without_effect("data", data, ("cutoff", "fragments"), why, issues)
    if data is not None:
        _check_pockets(data, sources, issues)
    where = _device(device, issues)
    model = None
    if weights is not None:
        try:
            model = compat.load(weights.weights, "cpu", config=weights.config)
        except AtomicaError as error:
            hint = (
                ""
                if Path(weights.weights).exists()
                else "; train a model first: atomica-run runs/ligand.toml"
            )
            issues.add(("model", "weights"), f"{error}{hint}")
    issues.raise_any()
    run = read["run"]
    folder = Path(os.path.abspath(run.folder))
    if resume is None:
        resume = (folder / IDENTITY).is_file()
    _check_folder(folder, issues, resume=resume, dry=dry)
    job = Job(
        kind=kind(name),
        run=replace(run, out=str(folder)),
        device_config=device,
        options=read[name],
        data=None if data is None else replace(data, source=tuple(absolute(path) for path in data.paths)),
        weights=None if weights is None else _absolute_weights(weights),
        sources=sources,
        folder=folder,
        device=where,
        resume=resume,
        model=model,
    )
    _check_input(job, source, issues)
    job.kind.check(job, issues)
    issues.raise_any()
    if resume:
        _check_identity(job.folder, job.identity())
    if device.threads:
        torch.set_num_threads(device.threads)
    return job


def _paths(source: Source) -> tuple[str, ...]:
    """What `data.source` names in a section that has something else wrong."""
    found = source.get(("data", "source")) if ("data", "source") in source else ()
    listed = [found] if isinstance(found, str) else found
    return tuple(path for path in listed if isinstance(path, str)) if isinstance(listed, list) else ()


def without_effect(section: str, config: Any, keys: Sequence[str], why: str, issues: Issues) -> None:
    """An issue for each of some keys of a section that a spec gives another value than its default.

    The default itself is no mistake: a resolved spec holds every setting.
    """
    defaults = {one.name: one.default for one in fields(config)}
    for key in keys:
        if (section, key) in issues.source and getattr(config, key) != defaults[key]:
            issues.add((section, key), f"has no effect: {why}")


def _check_pockets(data: InputConfig, sources: Sources | None, issues: Issues) -> None:
    """What `[data]` says of pockets by a score, against what there is to cut them from."""
    if data.pockets_above is None:
        without_effect("data", data, ("pocket_residues",), "data.pockets_above is not given", issues)
    if data.pockets_above is not None and sources is not None and not sources.structures:
        issues.add(
            ("data", "pockets_above"),
            "has no effect: data.source names no structure files or folders of them",
        )


def _device(config: DeviceConfig | None, issues: Issues) -> torch.device:
    wanted = "auto" if config is None else config.kind
    if wanted == "cuda" and not torch.cuda.is_available():
        issues.add(("device", "kind"), "PyTorch finds no CUDA device; use auto or cpu")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def absolute(path: str) -> str:
    """A path that means the same from any current directory."""
    return path if path.startswith(DEMO) else os.path.abspath(path)


def _absolute_weights(weights: WeightsConfig) -> WeightsConfig:
    config = None if weights.config is None else os.path.abspath(weights.config)
    return WeightsConfig(os.path.abspath(weights.weights), config)


def _check_input(job: Job, source: Source, issues: Issues) -> None:
    """What the model can take of what `[data]` gives."""
    model = job.model
    if model is None or job.data is None:
        return
    if model.segment is not None and ("data", "input") in source and job.data.input != job.input:
        issues.add(("data", "input"), f'has no effect: this model reads {job.input} alone; use "{job.input}"')
    if model.config.embeddings.sizes:
        issues.add(
            ("model", "weights"),
            "this model reads external features of blocks, which data sets do not hold; use it in Python on graphs "
            f"that have {', '.join(model.config.embeddings.frames)}",
        )


def _check_folder(folder: Path, issues: Issues, *, resume: bool, dry: bool) -> None:
    """An issue if the folder does not fit what is asked for."""
    holds = (folder / IDENTITY).is_file()
    if resume:
        if not holds:
            issues.add(("run", "out"), f"{folder} holds no job to resume; leave out --resume", value=False)
        return
    if dry or not folder.exists():
        return
    if not folder.is_dir():
        issues.add(("run", "out"), f"{folder} is a file", value=False)
    elif holds:
        issues.add(
            ("run", "out"),
            f"{folder} holds a job already; add --resume to go on with it, or change run.name or run.out",
            value=False,
        )
    elif any(file.name != FOLDER_LOCK for file in folder.iterdir()):
        issues.add(("run", "out"), f"{folder} is not empty; give another run.out", value=False)


# ------------------------------------------------------------------------------------------------- running


def open_data(job: Job, folder: Path) -> None:
    """Open the data, building below `folder` what is none yet, and choose the rows."""
    assert job.data is not None
    assert job.sources is not None
    neighbors = 8 if job.model is None else job.model.config.k_neighbors
    job.found = open_sources(job.sources, job.data, neighbors, folder)
    if job.model is not None:
        check_vocabulary(job.found.dataset, job.model.config.block_types)
    job.rows = select(job.found, job.data, job.input)


def overview(job: Job) -> list[str]:
    """What is about to run, for a person."""
    lines = [f"run     {job.run.name}: {job.run.job} on {job.device}"]
    if job.model is not None and job.weights is not None:
        parameters = sum(parameter.numel() for parameter in job.model.parameters())
        heads = ", ".join(job.model.heads) or "none"
        lines.append(f"model   {job.weights.weights}: {parameters:,} parameters, heads: {heads}")
        if job.model.config.reference_quirks:
            lines.append(
                "note    weights of the original: complexes go through it one by one, as batches change them"
            )
    return lines


def _described(rows: Rows, input: str) -> str:
    seen = "both partners" if input == "complex" else f"{input} alone"
    skipped = ", ".join(f"{count} {reason}" for reason, count in rows.skipped.items())
    return (
        f"data    {len(rows)} complexes of {rows.dataset.name}, {seen}, {int(rows.blocks.sum())} blocks"
        + (f"; left out: {skipped}" if skipped else "")
    )


def perform(job: Job, journal: Journal) -> int:
    """Run a job; gives the exit code. Raises DataError for inputs that cannot be used, and KeyboardInterrupt."""
    began = time.monotonic()
    if job.resume and (job.folder / RESULT).is_file():
        failed = int(json.loads((job.folder / RESULT).read_text())["failed"])
        journal.say(f"written {job.folder}: this job was done before")
        return SOME_FAILED if failed else DONE
    job.folder.mkdir(parents=True, exist_ok=True)
    journal.open(job.folder, resume=job.resume)
    header = (
        "# Every setting of this job, defaults included. Repeat it under another run.out, or --resume it.\n\n"
    )
    write_text(job.folder / RESOLVED, header + spec.dump(job.tables()))
    write_text(job.folder / IDENTITY, json.dumps(job.identity(), indent=1) + "\n")
    if job.model is not None:
        job.model.to(job.device)
    lost: list[dict[str, Any]] = []
    if job.data is not None:
        open_data(job, job.folder / "graphs")
        assert job.found is not None
        assert job.rows is not None
        journal.say(_described(job.rows, job.input))
        lost = [*job.found.failures, *_left_out(job.rows)]
    result = job.kind.run(job)
    failed = len(lost) + result.failed
    if lost:
        write_text(job.folder / FAILURES, "".join(json.dumps(row) + "\n" for row in lost))
        journal.say(f"failed  {len(lost)} inputs, listed in {job.folder / FAILURES}")
    _finish(job, result, failed, time.monotonic() - began, journal)
    return SOME_FAILED if failed else DONE


def _left_out(rows: Rows) -> list[dict[str, Any]]:
    """What the selection of rows left out because it cannot be read, in the form of a ledger's rows."""
    return [{"stage": "select", "count": count, "message": reason} for reason, count in rows.skipped.items()]


def _finish(job: Job, result: Result, failed: int, seconds: float, journal: Journal) -> None:
    tables = {name: str(path.relative_to(job.folder)) for name, path in result.tables.items()}
    content = {"job": job.run.job, "tables": tables, "figures": dict(result.figures), "failed": failed}
    told = overview(job) + ([] if job.rows is None else [_described(job.rows, job.input)])
    content |= {"seconds": round(seconds, 2), "overview": told, "environment": environment.describe()}
    write_text(job.folder / RESULT, json.dumps(content, indent=1) + "\n")
    reports.write(job.folder, job.kind.page)
    for name, value in result.figures.items():
        several = isinstance(value, Mapping)
        text = ", ".join(f"{key} {one}" for key, one in value.items()) if several else value
        journal.say(f"{name:<7} {text}")
    journal.say(f"written {job.folder}: {', '.join(tables.values())}; {seconds:.1f} s")


def _check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise SpecError if the job in the folder was started with other settings, weights or data."""
    try:
        before = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpecError(
            f"{folder / IDENTITY}: not valid JSON ({error}); start under another run.name"
        ) from None
    changed = list(_differences(before, identity))
    if changed:
        raise SpecError(
            f"cannot resume {folder}: it was started with other settings\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nresume with {folder / RESOLVED}, or start a new job under another run.name"
        )


def _differences(before: Any, now: Any, path: Sequence[str] = ()) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*now, *before]))
        return [line for key in keys for line in _differences(before.get(key), now.get(key), (*path, key))]
    name = ".".join(path).removeprefix("settings.")
    return [] if before == now else [f"{name}: {before!r} then, {now!r} now"]


def dry_run(job: Job, journal: Journal) -> None:
    """Read what there is, run one batch, write nothing."""
    if job.sources is not None and job.sources.unbuilt:
        count = len(job.sources.indexes) + len(job.sources.structures)
        journal.say(f"data    {count} of the sources would be built into graphs first")
    elif job.data is not None:
        open_data(job, job.folder)
        assert job.rows is not None
        journal.say(_described(job.rows, job.input))
        if job.model is not None:
            began = time.monotonic()
            model = job.model.to(job.device)
            row = job.rows.rows[:1]
            graph = job.rows.dataset.graphs(row, input=job.input, **model.config.graph_options())
            with torch.no_grad():
                model.encode(graph)
            journal.say(
                f"batch   1 complex, {int(job.rows.blocks[0])} blocks: {time.monotonic() - began:.2f} s"
            )
    journal.say(f"dry run: all is well; nothing was written to {job.folder}")
