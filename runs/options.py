"""Writes parts of runs/README.md: every setting of a spec, where each option of the original went, an example.

    python -m runs.options            from the top of the source tree: bring runs/README.md up to date
    python -m runs.options --check    exit 1 if it is not

The table of settings is made from the settings as the components define them, that of options from
`original_options.csv`, whose column `ours` names settings or options of a command.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from atomica.spec import Setting

FOLDER = Path(__file__).resolve().parent
README, MAPPING = FOLDER / "README.md", FOLDER / "original_options.csv"
EXAMPLE = FOLDER.parent / "tests" / "e2e" / "plugin_example"
BEGIN, END = "<!-- begin {name} -->\n", "<!-- end {name} -->\n"


def mapping() -> list[dict[str, str]]:
    """The rows of `original_options.csv`: script, option, ours, note."""
    with MAPPING.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def keys_of(ours: str) -> list[str]:
    """The settings that a cell of the column `ours` names; none if it names a command.

    >>> keys_of("data.train data.weights"), keys_of("atomica-prep build-graphs --out")
    (['data.train', 'data.weights'], [])
    """
    return [] if ours.startswith("atomica-prep") else ours.split()


def every_setting() -> list[Setting]:
    """Of training, of sweeps, and of the jobs after training."""
    from atomica.heads import BUILT_IN
    from atomica.jobs import job
    from atomica.jobs.train.spec import settings
    from atomica.spec import describe
    from atomica.sweep.config import SweepConfig

    return [*settings(BUILT_IN), *describe(SweepConfig, "sweep"), *job.settings()]


def settings_table() -> str:
    """A Markdown table of all settings with type, default, limits and meaning."""
    rows = []
    for row in every_setting():
        limits = f"; {row.limits}" if row.limits else ""
        rows.append((f"`{row.key}`", row.type, f"`{row.default}`", row.doc + limits))
    return _table(("key", "type", "default", "meaning"), rows)


def original_table() -> str:
    """A Markdown table of the original's options and what stands for them."""
    rows = []
    for row in mapping():
        keys = keys_of(row["ours"]) or [row["ours"]] * bool(row["ours"])
        rows.append((row["script"], f"`{row['option']}`", ", ".join(f"`{key}`" for key in keys), row["note"]))
    return _table(("script", "option", "here", "note"), rows)


def example() -> str:
    """The files of the example package that a reader needs, as Markdown."""
    parts = []
    for name, language in (("atomica_ranking/__init__.py", "python"), ("pyproject.toml", "toml")):
        text = (EXAMPLE / name).read_text(encoding="utf-8")
        parts.append(f"`{name}`:\n\n```{language}\n{text}```\n")
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def updated(text: str) -> str:
    """The text of the README with these parts as they must be."""
    parts = {"example": example(), "settings": settings_table(), "original": original_table()}
    for name, part in parts.items():
        begin, end = BEGIN.format(name=name), END.format(name=name)
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{README}: the lines {begin.strip()} and {end.strip()} are missing")
        text = f"{before}{begin}{part}{end}{after}"
    return text


def main(arguments: Sequence[str]) -> int:
    """Write the README, or with --check only compare."""
    text = README.read_text(encoding="utf-8")
    fresh = updated(text)
    if list(arguments) == ["--check"]:
        if fresh != text:
            print(f"{README} is out of date: run python -m runs.options", file=sys.stderr)
        return int(fresh != text)
    README.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
