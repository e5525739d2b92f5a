"""`run.job = "annotate"`: which classes of partner a pocket binds, by ensembles of classifiers with thresholds.

Each class has members, models whose probabilities are averaged, and a threshold; a pocket is called if the mean is at
least the threshold. Pockets are what `[data]` gives: residues of an index, residues by a score, or what is left of a
complex without its partner.

Shape letters: N pockets, M members of all classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from atomica import compat
from atomica.analysis.familiarity import learnt_from
from atomica.analysis.thresholds import (
    RULES,
    ClassRule,
    Learnt,
    checksum,
    learn,
    read_ensemble,
    write_ensemble,
)
from atomica.console import Journal, Meter
from atomica.data import graph
from atomica.data.record import Record
from atomica.data.sampling import Rows, plan_batches, prefetch, within_memory
from atomica.errors import AtomicaError, DataError
from atomica.evaluation.results import predictions_csv
from atomica.files import write_text
from atomica.heads import Head
from atomica.heads.binary import BinaryHead
from atomica.heads.multiclass import MulticlassHead
from atomica.jobs.inputs import InputConfig, Opened, check_suits, find, open_data
from atomica.jobs.job import Job, Kind, Result, without_effect
from atomica.jobs.tables import in_pieces
from atomica.model.contract import Contract
from atomica.model.model import Model
from atomica.model.named import members_of
from atomica.report.annotate import page
from atomica.spec import Issues, KeyPath, Problems, setting

__all__ = ["KIND", "AnnotateConfig", "Member", "probabilities"]


Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

ENSEMBLE = "ensemble.json"
PIECE_POCKETS = 256
"""Pockets of one piece of the table."""


@dataclass(frozen=True)
class AnnotateConfig:
    """Section `[annotate]`: the members of every class, and where its threshold comes from."""

    members: Mapping[str, tuple[str, ...]] = setting(
        {},
        "class → its members: saved models with a binary head, or a multiclass head that knows the class; a run of "
        "several trainings stands for all of its members",
        path="weights",
    )
    ensemble: str | None = setting(
        None,
        f"instead of members: the {ENSEMBLE} of an earlier job, with its members and thresholds",
        path=True,
    )
    thresholds: Mapping[str, float] = setting(
        {}, "class → least mean probability of a pocket that is called", low=0, high=1
    )
    validation: str | tuple[str, ...] | None = setting(
        None,
        "labelled data on which the thresholds of all other classes are learnt; as data.source",
        path=True,
    )
    split: str = setting("valid", "rows of the validation data that are used; empty: all")
    label: str = setting("label", "label or metadata column of the validation data that names the class")
    rule: str = setting(
        "f1",
        "how a threshold is learnt: f1, where F1 is highest; precision, where recall is highest with at least "
        "annotate.precision",
        choices=RULES,
    )
    precision: float = setting(0.9, "of the rule precision: the least one", above=0, high=1)

    def __post_init__(self) -> None:
        """Check keys against each other."""
        given = bool(self.members)
        unknown = sorted(set(self.thresholds) - set(self.members))
        open_ = sorted(set(self.members) - set(self.thresholds))
        Problems.check(
            (
                given == (self.ensemble is not None),
                "members",
                "name members for every class, or an ensemble that an earlier job wrote; one of the two",
            ),
            (
                self.ensemble is not None and self.validation is not None,
                "validation",
                "has no effect: the ensemble has its thresholds already; remove one of them",
            ),
            (
                bool(unknown),
                "thresholds",
                f"{', '.join(map(repr, unknown))} has no members here; the classes are "
                f"{', '.join(map(repr, self.members)) or 'those of the ensemble, with thresholds of their own'}",
            ),
            (
                given and bool(open_) and self.validation is None,
                "thresholds",
                f"nothing says what the threshold of {', '.join(map(repr, open_))} is; give it, or name "
                "annotate.validation to learn it on",
            ),
            (
                given and not open_ and self.validation is not None,
                "validation",
                "has no effect: every class has a threshold already",
            ),
            *(
                (
                    not paths or len(set(paths)) < len(paths),
                    "members",
                    f"class {name!r} {'names a member twice' if paths else 'has no members'}",
                )
                for name, paths in self.members.items()
            ),
        )


# ------------------------------------------------------------------------------------------------- members


@dataclass(frozen=True)
class Member:
    """One model in the ensemble of one class. pick: the head's prediction → the probability of the class [G]."""

    cls: str
    path: str
    model: Model
    head: str
    pick: Callable[[Tensor], Tensor]

    def truth(self, texts: Sequence[str | None]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Labels as the member was taught them: is it the class [N], and is that known [N]."""
        head = self.model.head(self.head)
        target, known = type(head).encode_labels(head.config, texts)
        if isinstance(head, MulticlassHead):
            target = target == head.config.classes.index(self.cls)
        return target.numpy().astype(np.int64), known.numpy().astype(bool)


def member(cls: str, path: str, model: Model) -> Member:
    """The head of a model that answers for a class. Raises DataError if there is not exactly one."""
    heads = {name: model.head(name) for name in model.heads}
    found = [name for name, head in heads.items() if _answers(head, cls)]
    if len(found) > 1:
        # Of several binary heads, the one that is named after the class or was taught it.
        found = [n for n in found if n == cls or getattr(heads[n].config, "positive", None) == cls] or found
    if len(found) != 1:
        listing = ", ".join(f"{name} ({model.kinds[name]})" for name in heads) or "none"
        raise DataError(
            f"{path}: {len(found)} of its heads answer for class {cls!r}; it must be one, binary or multiclass "
            f"with that class. Heads: {listing}"
        )
    head = heads[found[0]]
    if isinstance(head, MulticlassHead):
        column = head.config.classes.index(cls)
        return Member(cls, path, model, found[0], lambda prediction: prediction[:, column])
    return Member(cls, path, model, found[0], lambda prediction: prediction)


def _answers(head: Head, cls: str) -> bool:
    return isinstance(head, BinaryHead) or (isinstance(head, MulticlassHead) and cls in head.config.classes)


def ensemble_of(options: AnnotateConfig) -> tuple[dict[str, ClassRule], dict[str, str]]:
    """Classes of a spec, a threshold that is not known being NaN, and the checksums of members that have one."""
    if options.ensemble is not None:
        return read_ensemble(options.ensemble)
    return {
        name: ClassRule(
            tuple(one for path in paths for one in members_of(path)),
            options.thresholds.get(name, float("nan")),
        )
        for name, paths in options.members.items()
    }, {}


def ensemble(options: AnnotateConfig) -> tuple[dict[str, ClassRule], list[Member]]:
    """Classes and members of a spec; a class without a threshold yet has NaN. Raises DataError naming what is wrong.

    A model that is a member of several classes is loaded once.
    """
    classes, sums = ensemble_of(options)
    models: dict[str, Model] = {}
    members = []
    for name, rule in classes.items():
        for path in rule.members:
            if path not in models:
                models[path] = compat.load(path, "cpu")
                if path in sums and checksum(compat.weights_file(path)) != sums[path]:
                    raise DataError(
                        f"{path}: its weights are not those that the thresholds of {options.ensemble} belong to"
                    )
            members.append(member(name, path, models[path]))
    return classes, members


def probabilities(members: Sequence[Member], data: Opened, positions: Indices | None = None) -> Floats:
    """Probability [N, M] that every member gives its class, for some of the rows of `data` (default: all).

    Each graph is built once for all members that see the same edges, each model run once for all its classes.
    """
    rows = data.rows
    wanted = np.arange(len(rows)) if positions is None else positions
    order = np.argsort(rows.blocks[wanted], kind="stable")
    if any(one.model.config.reference_quirks for one in members):
        # The original's padding makes what a complex gives depend on its batch.
        plan = [order[index : index + 1] for index in range(len(order))]
    else:
        plan = plan_batches(order, rows.blocks[wanted], data.config.batch_blocks)

    def load(batch: Indices) -> tuple[Indices, list[Record]]:
        return batch, [data.record(position) for position in wanted[batch]]

    found = np.empty((len(wanted), len(members)))
    for batch, records in prefetch(plan, load, threads=data.config.loader_threads):

        def said(places: Indices, records: list[Record] = records) -> list[tuple[int, Floats]]:
            return list(_predictions(members, [records[place] for place in places]))

        for places, predictions in within_memory(np.arange(len(records)), said):
            for index, prediction in predictions:
                found[batch[places], index] = prediction
    return found


def _predictions(members: Sequence[Member], records: Sequence[Record]) -> Iterator[tuple[int, Floats]]:
    """Place of each member, and the probabilities [G] that it gives."""
    graphs: dict[tuple[tuple[str, Any], ...], Any] = {}
    outputs: dict[int, Mapping[str, Tensor]] = {}
    for index, one in enumerate(members):
        if id(one.model) not in outputs:
            options = one.model.config.graph_options()
            key = tuple(sorted(options.items()))
            if key not in graphs:
                graphs[key] = graph.batch(records, **options)
            outputs[id(one.model)] = one.model.predict(graphs[key])
        yield index, one.pick(outputs[id(one.model)][one.head]).double().cpu().numpy()


def mean_by_class(found: Floats, members: Sequence[Member], classes: Sequence[str]) -> tuple[Floats, Floats]:
    """Mean and standard deviation over the members of each class, both [N, classes]."""
    own = [[index for index, one in enumerate(members) if one.cls == cls] for cls in classes]
    return (
        np.stack([found[:, index].mean(axis=1) for index in own], axis=1),
        np.stack([found[:, index].std(axis=1) for index in own], axis=1),
    )


# ---------------------------------------------------------------------------------------------- thresholds


def learnt(
    options: AnnotateConfig,
    data: Opened,
    classes: Mapping[str, ClassRule],
    members: Sequence[Member],
    folder: Path,
    journal: Journal,
) -> dict[str, ClassRule]:
    """The classes with a threshold each: those without one learn it on the validation data, built below `folder`."""
    missing = [name for name, rule in classes.items() if np.isnan(rule.threshold)]
    if not missing or options.validation is None:
        return dict(classes)
    config = replace(data.config, source=options.validation, split=options.split)
    asked = [one for one in members if one.cls in missing]
    models = [one.model for one in asked]
    validation = open_data(find(config.paths), config, data.input, models, folder)
    if told := learnt_from([one.path for one in asked], validation.rows.ids):
        journal.say(f"note    {told}: thresholds on them are those of answers known by heart")
    texts = validation.rows.texts(options.label)
    mean, _ = mean_by_class(probabilities(asked, validation), asked, missing)
    where = validation.rows.dataset.name
    result = dict(classes)
    for index, name in enumerate(missing):
        truth, known = _truth(name, asked, texts, where)
        try:
            rule = learn(truth[known], mean[known, index], options.rule, options.precision)
        except DataError as error:
            raise DataError(f"threshold of class {name!r} on {where}: {error}") from None
        result[name] = replace(classes[name], threshold=rule.threshold, learnt=rule)
        journal.say(
            f"learnt  {name}: threshold {rule.threshold:.4f} by {rule.rule}, from {rule.pockets} pockets "
            f"({rule.positives} {name}): precision {rule.precision:.3f}, recall {rule.recall:.3f}, F1 {rule.f1:.3f}"
        )
    return result


def _truth(
    cls: str, members: Sequence[Member], texts: Sequence[str | None], where: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """What the members of a class were taught of these labels; DataError if they do not agree."""
    found = []
    for one in members:
        if one.cls == cls:
            try:
                found.append(one.truth(texts))
            except DataError as error:
                raise DataError(f"{where}: for {one.path}: {error}") from None
    truth, known = found[0]
    for other, also in found[1:]:
        if (other != truth).any() or (also != known).any():
            raise DataError(
                f"the members of class {cls!r} do not mean the same by the labels of {where}: they were trained with "
                "other positive or negative values"
            )
    return truth, known


# ------------------------------------------------------------------------------------------------- the job


def check(job: Job, issues: Issues) -> None:
    """Models, thresholds and validation data, before anything is written."""
    options: AnnotateConfig = job.options
    if options.rule != "precision":
        without_effect("annotate", options, ("precision",), 'annotate.rule is not "precision"', issues)
    if options.validation is None:
        why = "no threshold is learnt without annotate.validation"
        without_effect("annotate", options, ("split", "label", "rule"), why, issues)
    else:
        try:
            find(InputConfig(options.validation).paths)
        except DataError as error:
            issues.add(("annotate", "validation"), str(error))
    path: KeyPath = ("annotate", "members" if options.ensemble is None else "ensemble")
    try:
        ensemble(options)
    except AtomicaError as error:
        issues.add(path, str(error))


def contracts(options: AnnotateConfig) -> list[Contract]:
    """What the members were made for; those that cannot be read are told of by `check`."""
    try:
        classes, _ = ensemble_of(options)
        paths = dict.fromkeys(path for rule in classes.values() for path in rule.members)
        return [compat.made_for(path) for path in paths]
    except AtomicaError:
        return []


def run(job: Job, journal: Journal, data: Opened) -> Result:
    """Write a table with a row per pocket and class, one with a row per pocket, and the ensemble."""
    rows, options = data.rows, job.options
    kept = job.folder / ENSEMBLE
    if kept.is_file():  # of an interrupted job: its thresholds hold
        options = AnnotateConfig(ensemble=str(kept))
    classes, members = ensemble(options)
    models = list({id(one.model): one.model for one in members}.values())
    check_suits(rows.dataset, models, force=data.config.force)
    for model in models:
        job.device_config.place(model, job.device).eval()
        if data.config.force:
            model.made_for = Contract(view=data.input)
    classes = learnt(options, data, classes, members, job.folder / "validation", journal)
    write_ensemble(kept, classes, {one.path: checksum(compat.weights_file(one.path)) for one in members})

    def make(positions: Indices) -> dict[str, pa.Table]:
        found = probabilities(members, data, positions)
        meter.add(len(positions))
        return {"annotations": table(rows, positions, classes, *mean_by_class(found, members, list(classes)))}

    with Meter(journal, len(rows), "pockets") as meter:
        tables = in_pieces(job.folder, ("annotations",), len(rows), PIECE_POCKETS, make, meter, job.workers)
    csv, figures = summary(tables["annotations"], classes)
    tables["pockets"] = job.folder / "annotations.csv"
    write_text(tables["pockets"], csv)
    figures["speed"] = f"{meter.rate:.1f} pockets/s with {len(members)} members"
    return Result({**tables, "ensemble": kept}, figures)


def table(
    rows: Rows, positions: Indices, classes: Mapping[str, ClassRule], mean: Floats, spread: Floats
) -> pa.Table:
    """One row per pocket and class: mean and spread of the members, threshold, whether it is called."""
    thresholds = np.array([rule.threshold for rule in classes.values()])
    ids = rows.ids
    each = len(classes)
    records = [rows.dataset[row] for row in rows.rows[positions]]
    names = pa.array(list(classes), pa.utf8())
    return pa.table(
        {
            "row": pa.array(np.repeat(rows.rows[positions], each)),
            "id": pa.array([ids[position] for position in positions for _ in classes], pa.utf8()),
            "source_path": pa.array([record.source_path for record in records for _ in classes], pa.utf8()),
            "class": names.take(pa.array(np.tile(np.arange(each), len(positions)))),
            "probability": pa.array(mean.reshape(-1)),
            "spread": pa.array(spread.reshape(-1)),
            "threshold": pa.array(np.tile(thresholds, len(positions))),
            "called": pa.array((mean >= thresholds).reshape(-1)),
        }
    )


def summary(path: Path, classes: Mapping[str, ClassRule]) -> tuple[str, dict[str, Any]]:
    """A CSV with a row per pocket, and how many pockets each class was called for."""
    found = pq.read_table(path)
    each = len(classes)
    called = found.column("called").to_numpy(zero_copy_only=False).reshape(-1, each)
    probability = found.column("probability").to_numpy().reshape(-1, each)
    names = list(classes)
    texts = ["; ".join(name for name, yes in zip(names, row, strict=True) if yes) for row in called.tolist()]
    columns: list[tuple[str, Sequence[Any]]] = [
        (name, found.column(name).to_pylist()[::each]) for name in ("id", "source_path")
    ]
    columns.append(("classes", texts))
    columns += [(f"P({name})", probability[:, index].tolist()) for index, name in enumerate(names)]
    figures = {
        "pockets": len(called),
        "called": {name: int(called[:, index].sum()) for index, name in enumerate(names)},
        "none": int((~called.any(axis=1)).sum()),
        "thresholds": {name: _threshold(rule) for name, rule in classes.items()},
    }
    return predictions_csv(columns), figures


def _threshold(rule: ClassRule) -> dict[str, Any]:
    found: Learnt | None = rule.learnt
    shown: dict[str, Any] = {"threshold": round(rule.threshold, 4), "members": len(rule.members)}
    if found is not None:
        shown |= {"rule": found.rule, "pockets": found.pockets}
        shown |= {name: round(getattr(found, name), 4) for name in ("precision", "recall", "f1")}
    return shown


KIND = Kind(AnnotateConfig, run, page, reads=("data",), check=check, contracts=contracts)
