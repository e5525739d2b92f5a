"""The `atomica-prep` command: the Rust program, with ligand chemistry from RDKit where it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `atomica-prep` with `arguments` (default: the command line's) and give its exit code.

    `build-graphs --fragments NAME` cuts ligands with that vocabulary while the build runs, `fragments learn` makes
    one; everything else is the Rust program's.
    """
    from atomica._prep import run

    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["fragments"]:
        from atomica import mining

        return mining.main(given[1:])
    vocabulary = _fragments(given)
    if given[:1] != ["build-graphs"] or vocabulary in (None, "none") or {"-h", "--help"} & set(given):
        return run(given)

    from atomica.errors import AtomicaError
    from atomica.fragments import Cutter, read_vocabulary

    try:
        cutter = Cutter(read_vocabulary(vocabulary))
    except AtomicaError as error:
        print(f"atomica-prep: --fragments {error}", file=sys.stderr)
        return _USAGE
    return run(given, cutter)


def _fragments(arguments: Sequence[str]) -> str | None:
    """The value of `--fragments VALUE` or `--fragments=VALUE`."""
    value: str | None = None
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--fragments":
            value = next(waiting, "")
        elif argument.startswith("--fragments="):
            value = argument.partition("=")[2]
    return value


if __name__ == "__main__":
    sys.exit(main())
