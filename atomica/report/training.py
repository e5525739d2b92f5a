"""The report of a training run, made from the files in its folder.

It reads what the run has written and nothing else, so that it can be made of an interrupted or failed run as well,
and made again: `python -m atomica.report FOLDER`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomica import environment
from atomica.files import EVALUATION, METRICS, REPORT, SPEC
from atomica.report import labelled
from atomica.report.page import Page
from atomica.report.svg import Chart, number
from atomica.spec import tomllib
from atomica.train.stopping import Interrupted, StopRequested

__all__ = ["reported", "write"]

MOST_STEPS = 400
"""Points of a curve over steps; more steps are joined, and their means shown."""


@dataclass(frozen=True)
class _Run:
    """What the folder of a run holds."""

    folder: Path
    spec: Mapping[str, Any]
    spec_text: str
    steps: Sequence[Mapping[str, Any]]
    epochs: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]


def write(folder: Path, *, status: str, problem: str = "") -> Path:
    """Write `report.html` into the folder of a training run; returns its path.

    status: "done", "interrupted" or "failed", with what happened in `problem`.
    """
    run = _read(folder, finished=status == "done")
    table = run.spec.get("run", {})
    data = run.spec.get("data", {}).get("train", "")
    named = ", ".join(data) if isinstance(data, list) else str(data)
    page = Page(
        title=str(table.get("name", folder.name)),
        kind="training report",
        lead=f"Trained on {named}, seed {table.get('seed', 0)}." if named else "",
        status=status,
    )
    _summary(page, run, problem)
    lead = (
        f"The checkpoint of the best epoch on {run.evaluation.get('data', 'the test set')}, chosen by validation "
        "alone; the test set had no part in it."
    )
    labelled.sections(page, folder, run.evaluation, "Test", lead)
    _curves(page, run)
    _speed(page, run)
    _data(page, run)
    _versions(page, run)
    if run.spec_text:
        page.section("Spec", "Every setting of the run, defaults included; the same text is in spec.toml.")
        page.code(run.spec_text, SPEC)
    path = folder / REPORT
    page.write(path)
    return path


@contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Write the report however what is done inside ends. What ended it early is what is raised, whatever else fails."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Interrupted | StopRequested | KeyboardInterrupt)
        problem = str(error) or type(error).__name__
        with suppress(Exception):
            if stopped:
                write(folder, status="interrupted", problem=f"Interrupted: {problem}. Go on with --resume.")
            else:
                write(folder, status="failed", problem=f"{type(error).__name__}: {problem}")
        raise
    write(folder, status="done")


def _read(folder: Path, *, finished: bool) -> _Run:
    found = list(records(folder / METRICS))
    try:
        text = (folder / SPEC).read_text(encoding="utf-8")
        spec = tomllib.loads(text)
    except (OSError, ValueError):
        text, spec = "", {}
    evaluation: Mapping[str, Any] = {}
    if finished:
        try:
            evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            evaluation = {}
    return _Run(
        folder=folder,
        spec=spec,
        spec_text=text,
        steps=[one for one in found if one["event"] == "step"],
        epochs=[one for one in found if one["event"] == "epoch"],
        evaluation=evaluation,
        starts=environment.read(folder),
    )


def records(path: Path) -> Iterator[Mapping[str, Any]]:
    """The records of metrics.jsonl; a last line that was cut off is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "event" in record:
            yield record


# ------------------------------------------------------------------------------------------- sections


def _summary(page: Page, run: _Run, problem: str) -> None:
    page.section("Summary")
    if problem:
        page.text(problem, "warn")
    tiles = labelled.tiles(run.evaluation, "test ")
    chosen = run.evaluation.get("checkpoint", {})
    if chosen:
        tiles.append(
            (f"valid {chosen['monitor']}", number(chosen["valid"], 3), f"best, in epoch {chosen['epoch']}")
        )
    if run.epochs:
        planned = run.spec.get("train", {}).get("epochs")
        done = len(run.epochs)
        early = "stopped early" if planned and done < planned and page.status == "done" else "epochs done"
        tiles.append(("epochs", f"{done} of {planned}" if planned else str(done), early))
    if run.starts:
        last = run.starts[-1]
        if "parameters" in last:
            tiles.append(("parameters", f"{last['parameters']:,}", "in the model"))
    rate = _rate(run)
    if rate:
        tiles.append(("speed", f"{number(rate, 3)}", "complexes per second in training"))
    if tiles:
        page.tiles(tiles)
    if not run.evaluation:
        done = page.status == "done"
        page.text(
            "There was no test set, so nothing is said about data that the model has not seen."
            if done
            else "The run did not get to its evaluation; below is what it had recorded."
        )


def _rate(run: _Run) -> float | None:
    found = run.evaluation.get("run", {}).get("training_complexes_per_s")
    rates = [one["complexes_per_s"] for one in run.epochs if one.get("complexes_per_s")]
    return found or (float(np.median(rates)) if rates else None)


# --------------------------------------------------------------------------------------------- curves


def _curves(page: Page, run: _Run) -> None:
    if not run.steps and not run.epochs:
        return
    page.section("Curves")
    charts = [_loss(run)]
    best = run.evaluation.get("checkpoint", {}).get("epoch")
    names = list(dict.fromkeys(key for one in run.epochs for key in one if key.startswith("valid_")))
    bases = {name for name in names if name.endswith("_base")}
    for name in names:
        if name in bases or name in ("valid_loss", "valid_unperturbed"):
            continue
        charts.append(_metric(run, name.removeprefix("valid_"), best))
    if run.steps:
        charts += [
            _over_steps(run, "gradient_norm", "Gradient norm, before clipping"),
            _over_steps(run, "learning_rate", "Learning rate"),
        ]
    page.charts([chart for chart in charts if chart.series])


def _values(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [math.nan if (value := one.get(key)) is None else float(value) for one in records]


def _loss(run: _Run) -> Chart:
    chart = Chart("Loss", "step", "loss", "Training loss by step, and training and validation loss by epoch.")
    if run.steps:
        x, y, size = joined(_values(run.steps, "step"), _values(run.steps, "loss"))
        chart.line("training, by step", x, y, colour="c6")
        chart.note = f"Each point by step is the mean of {size} records." if size > 1 else ""
    if run.epochs:
        x = _values(run.epochs, "step")
        chart.line("training, by epoch", x, _values(run.epochs, "train_loss"), colour="c0")
        chart.line("validation", x, _values(run.epochs, "valid_loss"), colour="c1")
    return chart


def _metric(run: _Run, name: str, best: int | None) -> Chart:
    """A metric of validation by epoch, with training's where it is recorded, and what a trivial answer scores."""
    chart = Chart(name, "epoch", name, f"{name} on the validation set by epoch.", x_whole=True, height=240)
    epochs = _values(run.epochs, "epoch")
    found = {
        "validation": (f"valid_{name}", "c1"),
        "training": (f"train_{name}", "c0"),
        "trivial answer, validation": (f"valid_{name}_base", "c7"),
    }
    for label, (key, colour) in found.items():
        values = _values(run.epochs, key)
        if any(math.isfinite(value) for value in values):
            chart.line(label, epochs, values, colour=colour)
    by_epoch = dict(zip(epochs, _values(run.epochs, f"valid_{name}"), strict=True))
    if best is not None and math.isfinite(by_epoch.get(best, math.nan)):
        chart.points(
            "chosen epoch",
            [best],
            [by_epoch[best]],
            [f"epoch {best}, chosen: {number(by_epoch[best])}"],
            colour="c1",
        )
    return chart


def _over_steps(run: _Run, prefix: str, title: str) -> Chart:
    """What is recorded by step under a name, and under it by module of the model."""
    chart = Chart(title, "step", title.partition(",")[0].lower(), f"{title}, by step.", height=240)
    keys = list(dict.fromkeys(key for one in run.steps for key in one if key.partition("/")[0] == prefix))
    for index, key in enumerate(keys):
        x, y, _ = joined(_values(run.steps, "step"), _values(run.steps, key))
        chart.line(
            key.partition("/")[2] or ("" if len(keys) == 1 else "all else"), x, y, colour=f"c{index % 7}"
        )
    return chart


def joined(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float], int]:
    """A curve with at most `MOST_STEPS` points, each the mean of as many neighbours, and how many these are."""
    size = -(-len(x) // MOST_STEPS)
    if size <= 1:
        return list(x), list(y), 1
    chunks = [slice(start, start + size) for start in range(0, len(x), size)]
    return [float(np.mean(x[one])) for one in chunks], [_mean(y[one]) for one in chunks], size


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


# ------------------------------------------------------------------------------- speed, data, versions


def _speed(page: Page, run: _Run) -> None:
    rates = _values(run.epochs, "complexes_per_s")
    if not rates:
        return
    page.section("Throughput")
    waits = [value for value in _values(run.epochs, "wait") if math.isfinite(value)]
    facts = [("complexes per second", f"{number(_rate(run), 3)} in training")]
    if waits:
        facts.append(
            (
                "waiting for data",
                f"{float(np.mean(waits)):.1%} of the time, {max(waits):.1%} in the worst epoch",
            )
        )
    peak = run.evaluation.get("run", {}).get("peak_memory_mib")
    if peak:
        facts.append(("peak memory", f"{number(peak)} MiB"))
    if run.epochs:
        facts.append(("steps", f"{run.epochs[-1]['step']:,} in {len(run.epochs)} epochs"))
    page.facts(facts)
    if len(rates) > 1:
        chart = Chart(
            "Complexes per second",
            "epoch",
            "complexes/s",
            "Training speed by epoch.",
            x_whole=True,
            height=220,
        )
        chart.line("", _values(run.epochs, "epoch"), rates, colour="c0")
        chart.y_range = (0.0, max((rate for rate in rates if math.isfinite(rate)), default=1.0) * 1.1 or 1.0)
        page.charts([chart])


def _data(page: Page, run: _Run) -> None:
    overview = run.starts[-1].get("overview", []) if run.starts else []
    if overview:
        page.section("Data and model", "What the run said of itself when it started:")
        page.facts([(line[:8].strip(), line[8:]) for line in overview])


def _versions(page: Page, run: _Run) -> None:
    if not run.starts:
        return
    page.section("Versions and hardware")
    if len(run.starts) > 1:
        page.text("Started and resumed: " + ", ".join(str(one.get("started", "")) for one in run.starts))
    page.versions(run.starts[-1])
