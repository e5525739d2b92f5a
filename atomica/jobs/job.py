"""What the runner asks of every job, and what all jobs after training share: spec, inputs, folder, going on.

A job after training is a `Kind`: the dataclass that owns the section of its name, which of the common sections it
reads, and the function that does the work.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from atomica import compat, environment, spec
from atomica.console import Journal
from atomica.errors import AtomicaError, DataError, SpecError
from atomica.files import (
    DONE,
    FAILURES,
    IDENTITY,
    RESULT,
    SOME_FAILED,
    SPEC,
    sha256_of,
    to_json,
    write_json,
    write_text,
)
from atomica.jobs import JOBS, SHARED, folder
from atomica.jobs.inputs import InputConfig, Opened, Sources, find, open_data
from atomica.jobs.sections import DeviceConfig, RunConfig, absolute, pinned
from atomica.jobs.tables import PIECES
from atomica.jobs.workers import PiecesDone, Workers, pause
from atomica.model.contract import Contract
from atomica.model.model import Model
from atomica.model.named import is_name, locate, members_of
from atomica.report import done
from atomica.spec import Issues, Problems, Setting, Source, setting
from atomica.train.distributed import ALONE, Ranks, agreed
from atomica.train.stopping import Stop

__all__ = [
    "Job",
    "Kind",
    "Request",
    "Result",
    "WeightsConfig",
    "kind",
    "loaded",
    "settings",
    "without_effect",
]


# ------------------------------------------------------------------------------------- what the runner asks


@dataclass(frozen=True)
class Request:
    """What the command line asks of a job.

    resume: None resumes what the folder holds, if it holds anything. dry: nothing is to be written. ranks: the
    processes that work together. devices: how many of them there are to be. claim: holds the folder for this process.
    shard: whether other processes may be at work on the same job, which this one then helps.
    """

    resume: bool | None = False
    dry: bool = False
    ranks: Ranks = ALONE
    devices: int = 1
    claim: folder.Claim = field(default_factory=folder.Claim)
    shard: bool = False


class Prepared(Protocol):
    """A job whose spec and inputs are checked, and of which nothing is written yet.

    heeds: whether it looks at the request to stop between its steps; else a signal interrupts it.
    """

    @property
    def heeds(self) -> bool:
        """Whether it does."""

    def overview(self) -> list[str]:
        """What is about to run, for a person."""

    def rehearse(self) -> list[str]:
        """What a first step shows, for a person; nothing is written."""

    def take(self) -> None:
        """Make the folder and hold it. Raises SpecError if another process has begun there since it was looked at."""

    def perform(self, journal: Journal, stop: Stop, told: Sequence[str]) -> int:
        """Do the work; gives the exit code. told: the overview, which the report repeats."""


class AnyKind(Protocol):
    """One kind of job. config: owner of the section of its name, if it has one."""

    @property
    def config(self) -> type | None:
        """The dataclass."""

    def prepare(self, source: Source, request: Request) -> Prepared:
        """Read the spec, find and open the inputs. Raises SpecError with all that is wrong."""


def kind(name: str) -> AnyKind:
    """The kind of job of this name; KeyError if there is none."""
    found: AnyKind = importlib.import_module(JOBS[name]).KIND
    return found


# --------------------------------------------------------------------------------------- jobs after training


@dataclass(frozen=True)
class WeightsConfig:
    """Section `[model]` of a job other than training: the trained model."""

    weights: str = setting(
        doc="a saved model's folder (such as a run's checkpoints/best), a run of several trainings (train.seeds), "
        "whose members then answer together, weights of the original: NAME.pt with NAME_config.json beside it, or a "
        "name: of weights in the package, or hf://ORG/NAME[@REVISION][/FILE] of the Hugging Face Hub",
        path="weights",
    )
    config: str | None = setting(
        None, "the original's settings (JSON), where they do not lie beside its weights", path=True
    )


@dataclass(frozen=True)
class Result:
    """What a job leaves behind: tables by name, figures for a person and the report, complexes that are missing."""

    tables: Mapping[str, Path]
    figures: Mapping[str, Any] = field(default_factory=dict)
    failed: int = 0


@dataclass(frozen=True)
class Kind:
    """One kind of job after training.

    config: owner of the section of its name. run: does the work, given the job, its journal, and `data` and `model`
    if it reads these. page: draws its part of the report. reads: which of the sections "data" and "model" it has, and
    optional: which of these a spec may leave out. seeded: whether it draws random numbers, so that `run.seed` means
    something. together: whether several models can answer as one; it then finds them in `Job.models`. check: adds what
    is wrong with its own section to the issues, before anything is written. contracts: what the models that its own
    section names were made for.
    """

    config: type
    run: Callable[..., Result]
    page: done.Draw
    reads: tuple[str, ...] = ("data", "model")
    optional: tuple[str, ...] = ()
    seeded: bool = False
    together: bool = False
    check: Callable[[Job, Issues], None] = lambda job, issues: None
    contracts: Callable[[Any], Sequence[Contract]] = lambda options: ()

    def sections(self, name: str) -> dict[str, tuple[type, dict[str, str]]]:
        """Name of a section → the dataclass that owns it, and fields of it that mean nothing here, with the reason."""
        return {
            "run": (RunConfig, {} if self.seeded else {"seed": "this job draws no random numbers"}),
            **{key: (cls, {}) for key, cls in _COMMON.items() if key in self.reads},
            name: (self.config, {}),
            "device": (DeviceConfig, {"accumulate": "only training has steps to share out"}),
        }

    def prepare(self, source: Source, request: Request) -> Job:
        """Read the spec, find the inputs, open those that are ready, load the model. Raises SpecError."""
        issues, name = Issues(source), source.get(("run", "job"))
        several = request.devices > 1 or request.ranks.size > 1 or request.shard
        if several and name not in SHARED:
            raise SpecError(
                f"run.job = {name!r} runs in one process; leave out --devices, --shard or torchrun"
            )
        read = self._read(source, issues, name)
        known = len(issues.found)
        read = {key: None if one is None else pinned(one, key, issues) for key, one in read.items()}
        there = len(issues.found) == known
        data, weights, device = read.get("data"), read.get("model"), read["device"]
        sources = _sources(source, data, issues) if "data" in self.reads else None
        where = torch.device("cpu") if device is None else device.find(issues, request.ranks)
        models = _load(weights, issues, together=self.together) if weights is not None and there else ()
        issues.raise_any()
        run: RunConfig = read["run"]
        contracts = [*self.contracts(read[name]), *(model.made_for for model in models)]
        if data is not None and sources is not None:
            for key, text in data.strange(contracts).items():
                issues.add(("data", key), text)
            views = sorted({one.view for one in contracts if one.view is not None})
            if data.input is None and len(views) > 1 and not data.force:
                issues.add(
                    ("data", "input"), f"the models were trained with {' and '.join(views)}: not for one job"
                )
            data = data.suited(contracts, build=sources.unbuilt)
            for model in models if data.force else ():
                model.made_for = Contract(view=data.input)
        begun = (run.folder / IDENTITY).is_file()
        resume = begun if request.resume is None else request.resume
        folder.check(run.folder, issues, begun=begun, resume=resume, dry=request.dry)
        job = Job(
            kind=self,
            run=replace(run, out=str(run.folder)),
            device_config=device,
            options=absolute(read[name]),
            data=None if data is None else absolute(data),
            weights=None if weights is None else absolute(weights),
            sources=sources,
            device=where,
            resume=resume,
            models=models,
            request=request,
        )
        _check_input(job, issues)
        if sources is not None and not sources.unbuilt and not issues.found:
            try:
                job = replace(job, opened=job.open())
            except AtomicaError as error:
                issues.add(("data", "source"), str(error))
        self.check(job, issues)
        issues.raise_any()
        if resume:
            folder.check_same(job.folder, job.begun_with(), job.identity())
        return job

    def _read(self, source: Source, issues: Issues, name: str) -> dict[str, Any]:
        """The sections of the spec; None for those with something wrong, which joins the issues."""
        owned = self.sections(name)
        elsewhere = {
            row.key.partition(".")[0]: section
            for section, (cls, hidden) in owned.items()
            for row in spec.describe(cls, exclude=tuple(hidden))
        }
        for key, value in source.tree.items():
            if key not in owned:
                message = spec.unknown_key(key, (), list(owned), elsewhere)
                issues.add((key,), message, value=not isinstance(value, dict | list))
        for section, (_, hidden) in owned.items():
            for key, why in hidden.items():
                if (section, key) in source:
                    issues.add((section, key), f"has no effect: {why}; remove it")
        return {
            section: None
            if section in self.optional and section not in source.tree
            else spec.read(
                cls,
                source,
                (section,),
                issues,
                exclude=tuple(hidden),
                ignore=tuple(hidden),
                elsewhere=elsewhere,
            )
            for section, (cls, hidden) in owned.items()
        }


@dataclass(frozen=True)
class Job:
    """A job whose spec is checked. `options` is the section of its own name; `opened`: its data, if all are ready."""

    kind: Kind
    run: RunConfig
    device_config: DeviceConfig
    options: Any
    data: InputConfig | None
    weights: WeightsConfig | None
    sources: Sources | None
    device: torch.device
    resume: bool
    models: tuple[Model, ...]
    request: Request
    opened: Opened | None = None
    heeds: bool = False

    @property
    def model(self) -> Model | None:
        """Its model, of several the first."""
        return self.models[0] if self.models else None

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.run.folder

    @property
    def weights_folder(self) -> Path:
        """Where the weights of its model lie, of several the first."""
        assert self.weights is not None, "a job without a model"
        return locate(members_of(self.weights.weights)[0])

    def open(self) -> Opened:
        """Its data, built below the folder where they are not yet. Raises DataError if they cannot be used."""
        if self.sources is None or self.data is None:
            raise DataError(f"a job of kind {self.run.job} reads no data")
        graphs, built = self.folder / "graphs", not self.request.claim.held
        return open_data(self.sources, self.data, self.input, self.models, graphs, built=built)

    @property
    def input(self) -> str:
        """What the model sees of each complex; a model that reads one segment alone decides that itself."""
        if self.model is not None and self.model.segment is not None:
            return f"segment{self.model.segment}"
        return (None if self.data is None else self.data.input) or "complex"

    def tables(self) -> list[tuple[str, dict[str, Any]]]:
        """Every setting, defaults included, as tables of a TOML file."""
        sections = {"run": self.run, "data": self.data, "model": self.weights, self.run.job: self.options}
        tables = {name: asdict(section) for name, section in sections.items() if section is not None}
        tables["device"] = asdict(self.device_config)
        for name, (_, hidden) in self.kind.sections(self.run.job).items():
            for key in hidden:
                del tables[name][key]
        return list(tables.items())

    def identity(self) -> dict[str, Any]:
        """What decides the numbers: settings, the model's weights, ready data. A resumed job must share it."""
        settings_ = {name: dict(table) for name, table in self.tables() if name not in ("run", "device")}
        for key in ("batch_blocks", "loader_threads"):
            settings_.get("data", {}).pop(key, None)
        if self.kind.seeded:
            settings_["run"] = {"seed": self.run.seed}
        found: dict[str, Any] = {"job": self.run.job, "settings": settings_}
        if self.weights is not None:
            sums = [
                sha256_of(compat.weights_file(path, self.weights.config))
                for path in members_of(self.weights.weights)
            ]
            found["weights"] = sums[0] if len(sums) == 1 else sums
        if self.sources is not None:
            found["data"] = self.sources.fingerprints()
        return dict(json.loads(json.dumps(found)))

    def begun_with(self) -> dict[str, Any]:
        """The identity of the job in the folder. Raises SpecError if it cannot be read."""
        file = self.folder / IDENTITY
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except ValueError as error:
            raise SpecError(f"{file}: not valid JSON ({error}); start under another run.name") from None

    # ------------------------------------------------------------------------------------------- running

    def overview(self) -> list[str]:
        """What is about to run, for a person."""
        lines = [f"run     {self.run.name}: {self.run.job} on {self.device}"]
        if self.model is not None and self.weights is not None:
            parameters = sum(parameter.numel() for parameter in self.model.parameters())
            heads = ", ".join(self.model.heads) or "none"
            each = f"{len(self.models)} members, each " if len(self.models) > 1 else ""
            lines.append(f"model   {self.weights.weights}: {each}{parameters:,} parameters, heads: {heads}")
            if self.model.config.reference_quirks:
                lines.append(
                    "note    weights of the original: complexes go through it one by one, as batches change them"
                )
        if self.opened is not None:
            lines.append(f"data    {self.opened}")
        return lines

    def rehearse(self) -> list[str]:
        """Run one complex, write nothing."""
        lines = []
        if self.sources is not None and self.sources.unbuilt:
            count = len(self.sources.indexes) + len(self.sources.structures)
            lines.append(f"data    {count} of the sources would be built into graphs first")
        elif self.opened is not None and self.model is not None:
            began = time.monotonic()
            model, rows = self.device_config.place(self.model, self.device), self.opened.rows
            graph = rows.dataset.graphs(rows.rows[:1], input=self.input, **model.config.graph_options())
            with torch.no_grad():
                model.encode(graph)
            lines.append(f"batch   1 complex, {int(rows.blocks[0])} blocks: {time.monotonic() - began:.2f} s")
        return [*lines, f"dry run: all is well; nothing was written to {self.folder}"]

    def take(self) -> None:
        """Make the folder and hold it; of several processes that work together, one does."""
        request = self.request
        if request.shard:
            self.folder.mkdir(parents=True, exist_ok=True)
            request.claim.can_be(self.folder)
            return

        def make() -> None:
            if request.ranks.first:
                begun = (self.folder / IDENTITY).is_file
                folder.take(self.folder, request.claim, begun=begun, resume=self.resume)

        agreed(request.ranks, make)

    @property
    def workers(self) -> Workers:
        """Who shares the work."""
        threads, engine = self.device_config.threads, self.device_config.engine
        return Workers(self.request.claim.held, self.request.devices, engine, threads)

    def perform(self, journal: Journal, stop: Stop, told: Sequence[str]) -> int:
        """Do the work; gives the exit code. Raises DataError for inputs that cannot be used, and KeyboardInterrupt."""
        if not self.request.claim.held:
            if (code := self._help(journal)) is not None:
                return code
            return replace(self, resume=(self.folder / IDENTITY).is_file()).perform(journal, stop, told)
        began = time.monotonic()
        if self.resume and (self.folder / RESULT).is_file():
            journal.say(f"written {self.folder}: this job was done before")
            return self._code()
        journal.open(self.folder, resume=self.resume)
        header = "# Every setting of this job, defaults included. Repeat it under another run.out, or --resume it.\n\n"
        write_text(self.folder / SPEC, header + spec.dump(self.tables()))
        environment.record(self.folder, {"device": str(self.device)}, fresh=not self.resume)
        write_json(self.folder / IDENTITY, self.identity())
        result, lost = self._work(journal, told)
        if lost:
            write_text(self.folder / FAILURES, "".join(to_json(row) + "\n" for row in lost))
            journal.say(f"failed  {len(lost)} inputs, listed in {self.folder / FAILURES}")
        failed = len(lost) + result.failed
        self._finish(result, failed, time.monotonic() - began, journal, told)
        return SOME_FAILED if failed else DONE

    def _work(self, journal: Journal, told: Sequence[str]) -> tuple[Result, list[dict[str, Any]]]:
        """The result, and the rows of inputs that are missing. Raises PiecesDone if another process leads."""
        request = self.request
        self.device_config.use(
            self.device, replace(request.ranks, local_size=max(request.devices, request.ranks.size))
        )
        given: dict[str, Any] = {}
        lost: list[dict[str, Any]] = []
        for model in reversed(self.models):
            given["model"] = self.device_config.place(model, self.device)
        if self.sources is not None:
            given["data"] = opened = self.opened or self.open()
            lost = opened.lost
            if self.opened is None:
                told = [*told, f"data    {opened}"]
                journal.say(told[-1])
        return self.kind.run(self, journal, **given), lost

    def _help(self, journal: Journal) -> int | None:
        """Make pieces of the job that another process leads; None if that has ended before all was done."""
        while not (self.folder / PIECES).is_dir() and not self._ended():
            pause()
        if (self.folder / PIECES).is_dir():
            folder.check_same(self.folder, self.begun_with(), self.identity())
            with suppress(PiecesDone):
                self._work(Journal(silent=True), ())
            while not self._ended():
                pause()
        if not (self.folder / RESULT).is_file():
            return None
        journal.say(f"written {self.folder}: several processes have shared this job")
        return self._code()

    def _ended(self) -> bool:
        """Whether the job is done, or there is nobody who leads, which this process then does."""
        request = self.request
        free = request.ranks.size == 1 and request.claim.can_be(self.folder)
        return (self.folder / RESULT).is_file() or free

    def _code(self) -> int:
        found = json.loads((self.folder / RESULT).read_text(encoding="utf-8"))
        return SOME_FAILED if found["failed"] else DONE

    def _finish(
        self, result: Result, failed: int, seconds: float, journal: Journal, told: Sequence[str]
    ) -> None:
        tables = {name: str(path.relative_to(self.folder)) for name, path in result.tables.items()}
        content = {"job": self.run.job, "tables": tables, "figures": dict(result.figures), "failed": failed}
        content |= {"seconds": round(seconds, 2), "overview": list(told)}
        write_json(self.folder / RESULT, content)
        done.write(self.folder, self.kind.page)
        for name, value in result.figures.items():
            several = isinstance(value, Mapping)
            text = ", ".join(f"{key} {one}" for key, one in value.items()) if several else value
            journal.say(f"{name:<7} {text}")
        journal.say(f"written {self.folder}: {', '.join(tables.values())}; {seconds:.1f} s")


# ------------------------------------------------------------------------------------------------- the spec

_COMMON: dict[str, type] = {"data": InputConfig, "model": WeightsConfig}


def settings() -> list[Setting]:
    """Every setting of these jobs beside those of `[run]` and `[device]`, with its default and meaning."""
    rows = [
        replace(row, doc=f"(jobs after training) {row.doc}")
        for section, cls in _COMMON.items()
        for row in spec.describe(cls, section)
    ]
    owners = {name: kind(name).config for name in JOBS}
    return rows + [row for name, cls in owners.items() if cls is not None for row in spec.describe(cls, name)]


def _sources(source: Source, data: InputConfig | None, issues: Issues) -> Sources | None:
    """What `data.source` names, also in a section that is wrong otherwise; issues for what has no effect on it."""
    if data is not None:
        look: Callable[[], Sources] = data.find
    else:
        named = source.get(("data", "source")) if ("data", "source") in source else ()
        listed = [named] if isinstance(named, str) else named
        paths = tuple(path for path in listed if isinstance(path, str)) if isinstance(listed, list) else ()
        if not paths:
            return None
        look = partial(find, paths)
    sources = None
    try:
        sources = look()
    except AtomicaError as error:
        issues.take(("data",) if isinstance(error, Problems) else ("data", "source"), error)
    if data is None:
        return sources
    if sources is not None and not sources.unbuilt:
        why = "nothing is built, data.source names data sets alone"
        without_effect("data", data, ("cutoff", "rule", "fragments"), why, issues)
    if data.pockets_above is None:
        without_effect("data", data, ("pocket_residues",), "data.pockets_above is not given", issues)
    elif sources is not None and not sources.structures:
        why = "data.source names no structure files or folders of them"
        issues.add(("data", "pockets_above"), f"has no effect: {why}")
    return sources


def without_effect(section: str, config: Any, keys: Sequence[str], why: str, issues: Issues) -> None:
    """An issue for each of some keys of a section that a spec gives another value than its default.

    The default itself is no mistake: a resolved spec holds every setting.
    """
    defaults = {one.name: one.default for one in fields(config)}
    for key in keys:
        if (section, key) in issues.source and getattr(config, key) != defaults[key]:
            issues.add((section, key), f"has no effect: {why}")


def loaded(
    weights: Model | str | Path | Sequence[Model | str | Path], device: str
) -> tuple[list[Model], Path | None]:
    """Models given as such, or by folders of one or of a run of several; and the folder of the first, if any.

    Raises DataError if there are none.
    """
    given = [weights] if isinstance(weights, Model | str | Path) else list(weights)
    each = [[one] if isinstance(one, Model) else members_of(str(one)) for one in given]
    found = [one for several in each for one in several]
    if not found:
        raise DataError("no weights are named")
    first = None if isinstance(found[0], Model) else locate(found[0])
    return [one if isinstance(one, Model) else compat.load(one, device) for one in found], first


def _load(weights: WeightsConfig, issues: Issues, *, together: bool) -> tuple[Model, ...]:
    try:
        paths = members_of(weights.weights)
        if len(paths) > 1 and not together:
            raise DataError(
                f"{weights.weights}: holds {len(paths)} trainings, whose embeddings are of different spaces; name one "
                f"of them, such as {paths[0]}"
            )
        models = tuple(compat.load(path, "cpu", config=weights.config) for path in paths)
    except AtomicaError as error:
        missing = not is_name(weights.weights) and not Path(weights.weights).exists()
        hint = '; train a model first (atomica-run runs/ligand.toml), or name "base"' if missing else ""
        issues.add(("model", "weights"), f"{error}{hint}")
        return ()
    return models


def _check_input(job: Job, issues: Issues) -> None:
    """What the model can take of what `[data]` gives."""
    model = job.model
    if model is None or job.data is None:
        return
    if model.segment is not None and ("data", "input") in issues.source and job.data.input != job.input:
        issues.add(("data", "input"), f'has no effect: this model reads {job.input} alone; use "{job.input}"')
    if model.config.embeddings.sizes:
        issues.add(
            ("model", "weights"),
            "this model reads external features of blocks, which data sets do not hold; use it in Python on graphs "
            f"that have {', '.join(model.config.embeddings.frames)}",
        )
