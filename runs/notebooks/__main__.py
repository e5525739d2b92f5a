"""Executes the notebooks beside this file, and keeps what they show. Needs nbclient and ipykernel.

python -m runs.notebooks                    all of them, some minutes
python -m runs.notebooks network.ipynb      some
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def executed(path: Path, seconds: int = 600) -> Any:
    """A notebook after all its cells were run in its folder; raises CellExecutionError where one fails.

    What cells print that are to be silent (%%capture), programs beneath Python too, is not kept.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": HERE}}
    )
    client.execute()
    for cell in book.cells:
        cell.metadata = {}
        if cell.source.startswith("%%capture"):
            cell.outputs = []
        elif cell.cell_type == "code":  # complaints name paths of this machine
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    return book


def main(names: list[str]) -> int:
    """Execute notebooks, all if none is named, and write them back."""
    import nbformat

    for path in [HERE / name for name in names] or sorted(HERE.glob("*.ipynb")):
        began = time.monotonic()
        nbformat.write(executed(path), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
