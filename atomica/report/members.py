"""The report of a run of several trainings: what each member reached, and what they say together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from atomica import environment
from atomica.files import EVALUATION, MEMBERS, REPORT
from atomica.report import labelled
from atomica.report.page import Column, Page
from atomica.report.svg import number
from atomica.spec import tomllib

__all__ = ["write"]

BASE = "member.toml"


def write(folder: Path, overview: Sequence[str] = ()) -> Path:
    """Write `report.html` into the folder of such a run; returns its path. overview: what it said at its start."""
    members = json.loads((folder / MEMBERS).read_text(encoding="utf-8"))["members"]
    base = (folder / BASE).read_text(encoding="utf-8")
    states = [one["state"] for one in members.values()]
    done = all(state == "done" for state in states)
    page = Page(
        title=str(tomllib.loads(base)["run"]["name"]),
        kind="report of an ensemble",
        lead=f"{len(members)} trainings of one spec, with other seeds"
        + (" and on other folds." if any(one["fold"] is not None for one in members.values()) else "."),
        status="done" if done else "failed" if "failed" in states else "interrupted",
    )
    evaluation = {}
    if (folder / EVALUATION).is_file():
        evaluation = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    page.section("Summary")
    page.tiles([*labelled.tiles(evaluation, "test "), ("members", str(states.count("done")), "are done")])
    lead = "The mean of what all seeds say of rows that none of the models asked has seen."
    labelled.sections(page, folder, evaluation, "Test", lead)
    for name, entry in evaluation.get("heads", {}).items():
        page.section(f"One model: {name}", "Each seed alone, and what one of them is worth on average.")
        metrics = list(entry["single"])
        rows = [
            [f"seed {seed}", *(number(values[metric], 3) for metric in metrics)]
            for seed, values in entry["seeds"].items()
        ]
        rows.append(
            ["mean ± deviation"]
            + [f"{number(one['mean'], 3)} ± {number(one['sd'], 2)}" for one in entry["single"].values()]
        )
        page.small_table(["", *metrics], rows, "On the test rows, those of all folds together")
        if "single_verdict" in entry:
            page.text(entry["single_verdict"])
    page.section("Members")
    keys = list(dict.fromkeys(key for one in members.values() for key in one))
    columns = [Column(key, [one.get(key) for one in members.values()]) for key in keys]
    page.table([Column("member", list(members)), *columns], "All members", name="members", whole=MEMBERS)
    if overview:
        page.section("Run", "What the run said of itself when it started:")
        page.facts([(line[:8].strip(), line[8:]) for line in overview])
    page.section(
        "Spec", "What all members share; each has a spec.toml and a report of its own in its folder."
    )
    page.code(base, BASE)
    page.versions(environment.describe())
    path = folder / REPORT
    page.write(path)
    return path
