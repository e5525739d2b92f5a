"""`run.job = "evaluate"`: metrics of a trained model on labelled data, with 95% bootstrap intervals.

The same files as at the end of a training, without a baseline: that needs the training data.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from atomica.console import Journal
from atomica.errors import DataError
from atomica.evaluation.results import Answers, Evaluation, assess
from atomica.jobs.inputs import Opened
from atomica.jobs.job import Job, Kind, Result
from atomica.model.model import Model
from atomica.report.evaluate import page
from atomica.spec import Issues, not_among, setting
from atomica.train.loader import Part
from atomica.train.validation import predict

__all__ = ["KIND", "EvaluateConfig"]


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `[evaluate]`: which column answers which head."""

    label: str = setting("label", "label or metadata column of the data that holds the answers")
    labels: Mapping[str, str] = setting({}, "columns of heads that are answered by another one, by head")

    def column(self, head: str) -> str:
        """The column that answers a head."""
        return self.labels.get(head, self.label)


def _heads(model: Model) -> list[str]:
    """The model's heads that learn from labels."""
    return [name for name in model.heads if model.head(name).targets == "labels"]


def check(job: Job, issues: Issues) -> None:
    """The model must have a head with labels, every head that is named, and the data the columns that answer them."""
    if job.model is None:
        return
    known, options = _heads(job.model), job.options
    if not known:
        issues.add(
            ("model", "weights"), "this model has no head that learns from labels: nothing can be evaluated"
        )
        return
    for name in sorted(set(options.labels) - set(known)):
        issues.add(("evaluate", "labels", name), f"no such head; {not_among(name, known)}")
    if set(options.labels) >= set(known) and ("evaluate", "label") in issues.source:
        issues.add(
            ("evaluate", "label"), "has no effect: every head has a column of its own in evaluate.labels"
        )
    try:
        if job.opened is not None:
            _labelled(options, job.opened, job.model)
    except DataError as error:
        issues.add(("evaluate", "label"), str(error), value=("evaluate", "label") in issues.source)
    for name, column, problem in _missing(job, known):
        path = ("evaluate", "labels", name) if name in options.labels else ("evaluate", "label")
        issues.add(path, f"{problem}: it has no column {column!r}", value=path in issues.source)


def _missing(job: Job, heads: list[str]) -> list[tuple[str, str, str]]:
    """Heads, and the columns that answer them, which no index that is yet to be built has; and where it was missed."""
    if job.sources is None or job.sources.sets or not job.sources.unbuilt:
        return []
    columns: set[str] = set()
    for path in job.sources.indexes:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as stream:
            columns |= {name.strip() for name in next(csv.reader(stream), [])}
    where = ", ".join(job.sources.indexes) or "structures without an index have no labels"
    wanted = {name: job.options.column(name) for name in heads}
    return [(name, column, where) for name, column in wanted.items() if column not in columns]


def _labelled(
    options: EvaluateConfig, data: Opened, model: Model
) -> tuple[Part, dict[str, list[str | None]]]:
    """The rows with the targets of every head, and the label texts by head. Raises DataError if a head has none."""
    rows = data.rows
    targets, known, texts = {}, {}, {}
    for name in _heads(model):
        head = model.head(name)
        texts[name] = rows.texts(options.column(name))
        try:
            targets[name], usable = head.encode_labels(head.config, texts[name])
        except DataError as error:
            raise DataError(f"{rows.dataset.name}: head {name}: {error}") from None
        known[name] = usable.bool()
        if not bool(known[name].any()):
            raise DataError(f"{rows.dataset.name}: no complex has a label that head {name} knows")
    part = Part(
        rows=rows,
        targets=targets,
        known=known,
        input=data.input,
        graph_options=model.config.graph_options(),
        # the original's padding makes predictions depend on the batch: one complex at a time
        batch_blocks=1 if model.config.reference_quirks else data.config.batch_blocks,
        loader_threads=data.config.loader_threads,
    )
    return part, texts


def run(job: Job, journal: Journal, data: Opened, model: Model) -> Result:
    """Write `evaluation.json` and, for each head, `predictions.csv` (with several heads `predictions-HEAD.csv`)."""
    rows, model = data.rows, model.with_heads(_heads(model))  # the others learn from noise, and there is none
    part, texts = _labelled(job.options, data, model)
    with torch.no_grad():
        predictions, loss, metrics = predict(model, part)
    evaluation = Evaluation(
        split=rows.part,
        data=rows.dataset.name,
        input=data.input,
        loss=loss,
        metrics=metrics,
        heads=list(model.heads),
        labelled=len(predictions),
    )
    figures: dict[str, Any] = {"complexes": len(rows), "loss": round(loss, 4)}
    for name, found in predictions.items():
        head = model.head(name)
        answers = Answers(
            rows.ids,
            texts[name],
            part.targets[name].numpy(),
            part.known[name].numpy(),
            found.double().numpy(),
        )
        evaluation.add(
            name,
            model.kinds[name],
            label=job.options.column(name),
            config=asdict(head.config),
            complexes=int(answers.known.sum()),
            **assess(answers, head.metrics(), judged=head.monitor, seed=0),
        )
        evaluation.predict(name, answers.columns())
        figures[f"head {name}"] = {
            metric: float(f"{value:.4g}") for metric, value in evaluation.own(name).items()
        }
    return Result(evaluation.write(job.folder), figures)


KIND = Kind(EvaluateConfig, run, page, check=check)
