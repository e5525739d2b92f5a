"""The `atomica-prep` command: the Rust program, with ligand chemistry from RDKit where it is asked for."""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `atomica-prep` with `arguments` (default: the command line's) and give its exit code.

    `build-graphs --fragments FILE` cuts the index's ligands with that vocabulary before the build starts;
    everything else is the Rust program's.
    """
    from atomica._prep import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    rest, vocabulary = _take_fragments(given)
    if given[:1] != ["build-graphs"] or vocabulary in (None, "none") or {"-h", "--help"} & set(given):
        return run(given)

    from atomica.errors import AtomicaError
    from atomica.fragments import fragment_table, read_vocabulary, write_table

    try:
        table = fragment_table(_ligand_codes(rest), read_vocabulary(vocabulary))
    except AtomicaError as error:
        print(f"atomica-prep: {error}", file=sys.stderr)
        return _USAGE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fragments.json"
        write_table(table, path)
        return run([*rest, "--fragment-table", str(path)])


def _take_fragments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Split `--fragments VALUE` (or `--fragments=VALUE`) off the arguments; the last one counts."""
    rest: list[str] = []
    value: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--fragments":
            value = next(waiting, "")
        elif argument.startswith("--fragments="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return rest, value


def _ligand_codes(arguments: Sequence[str]) -> set[str]:
    """Component ids in the `lig_code` columns of the index files among the arguments.

    Files that cannot be read are left to the build, which says so.
    """
    codes: set[str] = set()
    for argument in arguments:
        path = Path(argument)
        if path.suffix.lower() != ".csv" or not path.is_file():
            continue
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for row in csv.DictReader(file):
                code = (row.get("lig_code") or "").strip()
                if code:
                    codes.add(code)
    return codes


if __name__ == "__main__":
    sys.exit(main())
