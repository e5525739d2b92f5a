"""`run.job = "evaluate"`: a trained model on labelled complexes that it has not seen, as at the end of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from atomica.data.sampling import Rows
from atomica.errors import DataError
from atomica.evaluation import results
from atomica.evaluation import statistics as evaluate
from atomica.files import write_text
from atomica.jobs.job import Job, Kind, Result
from atomica.report.evaluate import page
from atomica.spec import Issues, not_among, setting
from atomica.train.loader import Part
from atomica.train.validation import predict

__all__ = ["KIND", "EvaluateConfig"]


EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class EvaluateConfig:
    """Section `[evaluate]`: which column answers which head."""

    label: str = setting("label", "label or metadata column of the data that holds the answers")
    labels: Mapping[str, str] = setting({}, "columns of heads that are answered by another one, by head")


def _heads(job: Job) -> list[str]:
    """The model's heads that learn from labels."""
    assert job.model is not None
    return [name for name in job.model.heads if job.model.head(name).targets == "labels"]


def check(job: Job, issues: Issues) -> None:
    """The model must have a head with labels, and every head that is named."""
    known = _heads(job)
    if not known:
        issues.add(
            ("model", "weights"), "this model has no head that learns from labels: nothing can be evaluated"
        )
        return
    for name in sorted(set(job.options.labels) - set(known)):
        issues.add(("evaluate", "labels", name), f"no such head; {not_among(name, known)}")
    if set(job.options.labels) >= set(known) and ("evaluate", "label") in issues.source:
        issues.add(
            ("evaluate", "label"), "has no effect: every head has a column of its own in evaluate.labels"
        )


def _labelled(job: Job, rows: Rows) -> tuple[Part, dict[str, list[str | None]]]:
    """The rows with the targets of every head, and the label texts by head. Raises DataError if a head has none."""
    assert job.model is not None
    assert job.data is not None
    targets, known, texts = {}, {}, {}
    for name in _heads(job):
        head = job.model.head(name)
        column = rows.dataset.column(job.options.labels.get(name, job.options.label))
        texts[name] = [column[row] for row in rows.rows]
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
        input=job.input,
        graph_options=job.model.config.graph_options(),
        # the original's padding makes predictions depend on the batch: one complex at a time
        batch_blocks=1 if job.model.config.reference_quirks else job.data.batch_blocks,
        loader_threads=job.data.loader_threads,
    )
    return part, texts


def run(job: Job) -> Result:
    """Write `evaluation.json` and, for each head, `predictions.csv` (with several heads `predictions-HEAD.csv`)."""
    assert job.rows is not None
    assert job.model is not None
    part, texts = _labelled(job, job.rows)
    with torch.no_grad():
        predictions, loss, metrics = predict(job.model, part)
    several = len(job.model.heads) > 1
    report: dict[str, Any] = {
        "part": job.rows.part,
        "data": job.rows.dataset.name,
        "input": job.input,
        "loss": loss,
        "metrics": metrics,
        "heads": {},
    }
    figures: dict[str, Any] = {"complexes": len(job.rows), "loss": round(loss, 4)}
    tables: dict[str, Path] = {}
    for name, found in predictions.items():
        head, known = job.model.head(name), part.known[name].numpy()
        everyone = found.double().numpy()
        target = part.targets[name].numpy()
        own = {
            metric.removeprefix(f"{name}/"): value
            for metric, value in metrics.items()
            if not several or metric.startswith(f"{name}/")
        }
        report["heads"][name] = {
            "kind": job.model.kinds[name],
            "config": asdict(head.config),
            "label": job.options.labels.get(name, job.options.label),
            "complexes": int(known.sum()),
            "metrics": own,
            "intervals": evaluate.intervals(head.metrics(), target[known], everyone[known], seed=0),
        }
        figures[f"head {name}"] = {metric: float(f"{value:.4g}") for metric, value in own.items()}
        path = job.folder / (f"predictions-{name}.csv" if several else "predictions.csv")
        write_text(
            path, results.predictions_csv(_columns(job.rows, texts[name], target[known], known, everyone))
        )
        tables[path.stem] = path
    write_text(job.folder / EVALUATION, json.dumps(report, indent=1) + "\n")
    return Result({"evaluation": job.folder / EVALUATION, **tables}, figures)


def _columns(
    rows: Rows, texts: Sequence[str | None], target: Any, known: Any, everyone: Any
) -> list[tuple[str, Sequence[Any]]]:
    """The columns of predictions.csv, as at the end of a training."""
    kind = "probability" if evaluate.is_binary(target, everyone[known]) else "prediction"
    flat = everyone.tolist() if everyone.ndim == 1 else [json.dumps(row) for row in everyone.tolist()]
    return [("id", rows.ids), ("label", [text or "" for text in texts]), (kind, flat)]


KIND = Kind(EvaluateConfig, run, check=check, page=page)
