"""The report of a sweep: its trials as a table, what each reached and when, and how that hangs on the values tried."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica import environment
from atomica.files import METRICS, REPORT
from atomica.report.page import Column, Page
from atomica.report.svg import Chart, number
from atomica.report.training import records
from atomica.spec import tomllib

__all__ = ["TABLE", "write"]

TABLE, PLAN, BASE = "trials.csv", "sweep.json", "trial.toml"

CURVES_SHOWN = 30
"""Trials whose course is drawn; more could not be told apart."""

COLOURS = {"done": "c0", "pruned": "c6", "failed": "c3", "running": "c2"}


@dataclass(frozen=True)
class _Sweep:
    """What the folder of a sweep holds. rows: of the table, by column; the best trial first."""

    folder: Path
    monitor: str
    mode: str
    keys: Mapping[str, Any]
    columns: Mapping[str, Sequence[str]]

    @property
    def values(self) -> list[float | None]:
        """What each trial reached."""
        return [float(text) if text else None for text in self.columns[f"valid {self.monitor}"]]

    @property
    def trials(self) -> list[int]:
        """Numbers of the trials."""
        return [int(text) for text in self.columns["trial"]]


def write(folder: Path) -> Path:
    """Write `report.html` into the folder of a sweep, of what its table holds; returns its path."""
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    base = (folder / BASE).read_text(encoding="utf-8")
    with (folder / TABLE).open(encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    sweep = _Sweep(
        folder,
        plan["monitor"],
        plan["mode"],
        plan["sweep"]["keys"],
        {name: [row[place] for row in rows] for place, name in enumerate(head)},
    )
    running = "running" in sweep.columns["state"]
    page = Page(
        title=str(tomllib.loads(base)["run"]["name"]),
        kind="sweep report",
        lead=f"{len(rows)} trials, {plan['sweep']['method']}, compared by valid {sweep.monitor} "
        f"({'the larger' if sweep.mode == 'max' else 'the smaller'} the better) of their best epoch.",
        status="" if running or not rows else "done",
    )
    _summary(page, sweep)
    if rows:
        _table(page, sweep)
        page.section("Values", "What each trial reached, by when it was started and by the values it tried.")
        page.charts([_in_order(sweep), *(_by_key(sweep, name) for name in sweep.keys)])
        _courses(page, sweep)
    page.section("Spec", "What all trials share; each has a spec.toml of its own in its folder.")
    page.code(base, BASE)
    page.code(json.dumps(plan, indent=1), PLAN)
    page.versions(environment.describe())
    path = folder / REPORT
    page.write(path)
    return path


def _summary(page: Page, sweep: _Sweep) -> None:
    page.section("Summary")
    states = sweep.columns["state"]
    counts = [(state, str(states.count(state)), "trials") for state in COLOURS if state in states]
    best = [
        (f"best valid {sweep.monitor}", number(value), f"trial {trial}") for trial, value in _done(sweep)[:1]
    ]
    page.tiles([*best, *counts] or [("trials", "0", "none is finished")])
    if "done" in states:
        page.facts([(name, sweep.columns[name][0]) for name in (*sweep.keys, "folder")])
        page.text(
            "The best of many trials looks better than it is, having been chosen for that. Its test metrics say what "
            "it is worth, if those of the other trials played no part in the choice.",
            "note",
        )


def _done(sweep: _Sweep) -> list[tuple[int, float]]:
    """Trials that were run to their end, the best first, with what they reached."""
    found = zip(sweep.trials, sweep.columns["state"], sweep.values, strict=True)
    return [(trial, value) for trial, state, value in found if state == "done" and value is not None]


def _table(page: Page, sweep: _Sweep) -> None:
    page.section("Trials")
    page.table(
        [Column(name, [_number(text) for text in texts]) for name, texts in sweep.columns.items()],
        "All trials, the best first",
        name=TABLE,
        whole=TABLE,
    )


def _number(text: str) -> float | int | str | None:
    """A cell as the number that it is, if it is one."""
    if not text:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _in_order(sweep: _Sweep) -> Chart:
    """Each trial's value by its number, and the best so far."""
    chart = Chart(
        "By trial",
        "trial",
        f"valid {sweep.monitor}",
        f"The valid {sweep.monitor} of each trial, in the order they were started, and the best so far.",
        x_whole=True,
    )
    done = sorted(_done(sweep))
    better = max if sweep.mode == "max" else min
    best: list[float] = []
    for _, value in done:
        best.append(better(best[-1], value) if best else value)
    texts = [f"trial {trial}: {number(value)}" for trial, value in done]
    order = [trial for trial, _ in done]
    chart.line("best so far", order, best, colour="c7", hover=False)
    chart.points("trials", order, [value for _, value in done], texts, colour="c0")
    return chart


def _by_key(sweep: _Sweep, name: str) -> Chart:
    """Each trial's value by one of the values it tried; those that are no numbers stand side by side."""
    tried, space = sweep.columns[name], sweep.keys[name]
    numbers = [_number(text) for text in tried]
    listed = any(not isinstance(value, int | float) for value in numbers)
    logarithmic = not listed and isinstance(space, dict) and bool(space["log"])
    names = [str(value) for value in space] if listed else []
    label = (
        f"{name}: {', '.join(f'{place} = {text}' for place, text in enumerate(names, 1))}" if listed else name
    )
    chart = Chart(
        name,
        f"log10 of {name}" if logarithmic else label,
        f"valid {sweep.monitor}",
        f"The valid {sweep.monitor} of each trial by the value of {name} that it tried.",
        x_whole=listed,
    )
    for state, colour in COLOURS.items():
        points = [
            (
                _place(text, names, logarithmic=logarithmic),
                value,
                f"trial {trial}, {name} = {text}: {number(value)}",
            )
            for trial, text, value, other in zip(
                sweep.trials, tried, sweep.values, sweep.columns["state"], strict=True
            )
            if value is not None and other == state
        ]
        if points:
            x, y, texts = map(list, zip(*points, strict=True))
            chart.points(state, x, y, texts, colour=colour)
    return chart


def _place(text: str, names: Sequence[str], *, logarithmic: bool) -> float:
    if names:
        return float(names.index(text) + 1) if text in names else math.nan
    return math.log10(float(text)) if logarithmic else float(text)


def _courses(page: Page, sweep: _Sweep) -> None:
    """The metric by epoch of the first trials of the table, also of those that were pruned."""
    chart = Chart(
        "By epoch",
        "epoch",
        f"valid {sweep.monitor}",
        f"The valid {sweep.monitor} of trials after each epoch.",
        x_whole=True,
        width=1100,
        height=320,
    )
    found = zip(sweep.trials, sweep.columns["state"], sweep.columns["folder"], strict=True)
    for trial, state, place in list(found)[:CURVES_SHOWN]:
        epochs = [one for one in records(sweep.folder / place / METRICS) if one["event"] == "epoch"]
        course = [(one["epoch"], one[f"valid_{sweep.monitor}"]) for one in epochs]
        course = [(epoch, math.nan if value is None else value) for epoch, value in course]
        if course:
            x, y = map(list, zip(*course, strict=True))
            texts = [f"trial {trial}, {state}, epoch {epoch}: {number(value)}" for epoch, value in course]
            chart.line("", x, y, colour=COLOURS[state], hover=False)
            chart.points(state, x, y, texts, colour=COLOURS[state])
    if not chart.series:
        return
    page.section(
        "Courses", "The metric after each epoch, of trials that were run to their end and of others."
    )
    if len(sweep.trials) > CURVES_SHOWN:
        page.text(f"The first {CURVES_SHOWN} trials of the table.", "note")
    page.wide(chart)
