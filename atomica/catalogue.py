"""What a spec can say, from the definitions of the components: a list for a person, a JSON schema for editors."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from atomica import spec
from atomica.data.sampling import DataConfig
from atomica.heads import available, head_class
from atomica.jobs import JOBS
from atomica.jobs.job import Kind, kind
from atomica.jobs.train.spec import HeadConfig, sections
from atomica.nn import encoders
from atomica.report.predictions import PLOTS
from atomica.sweep.config import SweepConfig
from atomica.train.config import TrainConfig
from atomica.train.schedule import TAKES, ScheduleConfig

__all__ = ["listing", "schema"]


def listing() -> str:
    """Heads, their plots, encoders, samplers, schedules, optimizers, sweeps and jobs, and what each takes."""
    lines = ['heads: kind = "…" in [[head]]']
    for name in available():
        cls = head_class(name)
        lines += _entry(name, cls.__doc__ or "", spec.describe(cls.Config))
        if cls.plots:
            lines += _wrapped(f"plots in reports: {', '.join(cls.plots)}")
    lines += ["", "plots: what a head may name in its `plots`, for reports"]
    for name, found in PLOTS.items():
        lines += _entry(name, f"{found.meaning}; for {' or '.join(found.forms)}", ())
    lines += ["", 'encoders: kind = "…" in [model]']
    for name in encoders.available():
        encoder = encoders.encoder_class(name)
        lines += _entry(name, encoder.__doc__ or "", spec.describe(encoder.Config, exclude=("block_types",)))
    lines += ["", "schedules: train.schedule.kind"]
    rows = {row.key: row for row in spec.describe(ScheduleConfig)}
    for name, meaning in spec.meanings(ScheduleConfig, "kind").items():
        lines += _entry(name, meaning, (rows[key] for key in ("warmup_steps", *TAKES[name])))
    for title, cls_, key in (
        ("optimizers: train.optimizer", TrainConfig, "optimizer"),
        ("samplers: data.sampler", DataConfig, "sampler"),
        ("sweeps: sweep.method", SweepConfig, "method"),
        ("pruning of sweeps: sweep.prune", SweepConfig, "prune"),
        ("places of trials: sweep.engine", SweepConfig, "engine"),
    ):
        lines += ["", title]
        for name, meaning in spec.meanings(cls_, key).items():
            lines += _entry(name, meaning, ())
    lines += ["", "jobs: run.job, with a section of the same name"]
    for name, module in JOBS.items():
        meaning, config = importlib.import_module(module).__doc__ or "", kind(name).config
        lines += _entry(name, meaning, () if config is None else spec.describe(config, name))
    return "\n".join(lines)


def _entry(name: str, meaning: str, rows: Iterable[spec.Setting]) -> list[str]:
    """A name with the first line of its meaning, and a line for each setting."""
    first = f"{name}: {meaning.strip().splitlines()[0] if meaning else ''}"
    lines = textwrap.wrap(first, 110, initial_indent="  ", subsequent_indent="    ")
    for row in rows:
        limits = f"; {row.limits}" if row.limits else ""
        text = f"{row.key} ({row.type}, {row.default}): {row.doc}{limits}"
        lines += _wrapped(text)
    return lines


def _wrapped(text: str) -> list[str]:
    """What belongs to an entry, as lines."""
    return textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 10)


# ------------------------------------------------------------------------------------------------ the schema


def schema() -> dict[str, Any]:
    """The JSON schema (draft 7, which TOML editors read) of all specs that this installation can run."""
    jobs = [_training()]
    for name, job in ((name, kind(name)) for name in sorted(JOBS)):
        if not isinstance(job, Kind):
            continue
        tables = {
            key: spec.schema(cls, exclude=tuple(hidden)) for key, (cls, hidden) in job.sections(name).items()
        }
        tables["run"]["properties"]["job"] = {"const": name}
        tables["run"]["required"] = ["job", *tables["run"]["required"]]
        jobs.append(_variant(tables))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Spec of an Atomica run",
        "type": "object",
        "anyOf": jobs,
    }


def _training() -> dict[str, Any]:
    """The schema of specs that train."""
    tables: dict[str, Any] = {}
    models = []
    for encoder in encoders.available():
        tables = {}
        for name, cls, hidden in sections(encoder):
            table = spec.schema(cls, exclude=hidden)
            if name in tables:  # two components share [model]
                tables[name]["properties"] |= table["properties"]
            else:
                tables[name] = table
        del tables["model"]["required"]  # no encoder has a setting without a default
        tables["model"]["properties"]["kind"] |= {"const": encoder}
        models.append(tables["model"])
    tables["model"] = {"type": "object", "anyOf": models}
    tables["run"]["properties"]["job"] = {"const": "train", "default": "train"}
    heads = []
    for name in available():
        cls = head_class(name)
        head = spec.schema(
            HeadConfig, exclude=() if cls.targets in ("labels", "block_labels") else ("label",)
        )
        own = spec.schema(cls.Config)
        head["properties"] |= {"kind": {"const": name}, **own["properties"]}
        head["required"] += own["required"]
        heads.append({**head, "description": (cls.__doc__ or "").strip().splitlines()[0]})
    tables["head"] = {"type": "array", "minItems": 1, "items": {"anyOf": heads}}
    return _variant(tables, optional={"sweep": spec.schema(SweepConfig)})


def _variant(tables: dict[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The schema of specs with these sections. What is required may stand in the base of a derived spec."""
    needed = {name: table.pop("required", []) for name, table in tables.items()}
    complete = {
        "required": [name for name, keys in needed.items() if keys or name == "head"],
        "properties": {name: {"required": keys} for name, keys in needed.items() if keys},
    }
    return {
        "type": "object",
        "properties": {
            "base": {"type": "string", "description": "path of a spec that this one derives from"},
            "unset": {
                "type": "array",
                "items": {"type": "string"},
                "description": "keys of the base that do not hold here",
            },
            **tables,
            **(optional or {}),
        },
        "additionalProperties": False,
        "anyOf": [{"required": ["base"]}, complete],
    }
