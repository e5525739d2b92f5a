"""Times the structure readers against gemmi and Biotite, in one process, on bytes in memory.

    python tests/bench/readers.py --data FOLDER     every .pdb, .ent, .cif and .bcif file (also .gz) below it

Each round reads all files of a format once with us, once with the other, file by file in turn, so that a change in the
machine's speed meets both. A figure is the median of the rounds; a ratio the median of the rounds' ratios. Files that
either side cannot read are left out for both, and counted. Everything is unpacked before the clock starts. Both sides
end with a structure in memory: ours has one model and one set of alternate locations, gemmi's has all of them, and
Biotite is asked for the first model.
"""

from __future__ import annotations

import argparse
import gzip
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from figures import machine

from atomica import _prep

EXTENSIONS = {"pdb": "pdb", "ent": "pdb", "cif": "cif", "mmcif": "cif", "bcif": "bcif"}
Reader = Callable[[bytes], object]


def gemmi_pdb(text: bytes) -> object:
    """A gemmi.Structure."""
    import gemmi

    return gemmi.read_pdb_string(text)


def gemmi_cif(text: bytes) -> object:
    """A gemmi.Structure, by way of gemmi's CIF document."""
    import gemmi

    return gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])


def biotite_bcif(content: bytes) -> object:
    """An AtomArray of the first model."""
    from biotite.structure.io.pdbx import BinaryCIFFile, get_structure

    return get_structure(BinaryCIFFile.read(io.BytesIO(content)), model=1)


OTHERS: dict[str, tuple[str, Reader]] = {
    "pdb": ("gemmi", gemmi_pdb),
    "cif": ("gemmi", gemmi_cif),
    "bcif": ("Biotite", biotite_bcif),
}


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Unpacked bytes by format and file name."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        name = path.name.lower().removesuffix(".gz")
        kind = EXTENSIONS.get(name.rpartition(".")[2])
        if kind and path.is_file():
            raw = path.read_bytes()
            files = found.setdefault(kind, {})
            files[str(path)] = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
    return found


def readable(files: dict[str, bytes], kind: str) -> tuple[list[bytes], int]:
    """The files that both sides read, and our number of atoms in them."""
    name, other = OTHERS[kind]
    kept, atoms, refused = [], 0, {"atomica": 0, name: 0}
    for content in files.values():
        try:
            structure = _prep.read_structure(content, kind)
        except _prep.StructureError:
            refused["atomica"] += 1
            continue
        try:
            other(content)
        except Exception:  # whatever the other raises, the file is left out and counted
            refused[name] += 1
            continue
        kept.append(content)
        atoms += len(structure)
    for who, count in refused.items():
        if count:
            print(f"{kind:>5}: {count} files left out that {who} refuses")
    return kept, atoms


def race(files: list[bytes], kind: str, runs: int) -> tuple[list[float], list[float]]:
    """Seconds of each round, ours and the other's."""
    other = OTHERS[kind][1]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(runs):
        mine, yours = 0.0, 0.0
        for content in files:
            # Both results live until the clock has stopped: freeing them is not reading.
            start = time.perf_counter()
            structure = _prep.read_structure(content, kind)
            middle = time.perf_counter()
            result = other(content)
            yours += time.perf_counter() - middle
            mine += middle - start
            del structure, result
        ours.append(mine)
        theirs.append(yours)
    return ours, theirs


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--formats", nargs="+", choices=sorted(OTHERS), default=list(OTHERS))
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = contents(arguments.data)
    if not found:
        sys.exit(f"{arguments.data}: no .pdb, .ent, .cif or .bcif files below it")
    print(machine())
    for kind in arguments.formats:
        files, atoms = readable(found.get(kind, {}), kind)
        if not files:
            continue
        size = sum(map(len, files)) / 1e6
        ours, theirs = race(files, kind, arguments.runs)
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        print(f"{kind:>5}: {len(files)} files, {size:.1f} MB, {atoms} atoms, {arguments.runs} rounds")
        for who, seconds in (("atomica", ours), (OTHERS[kind][0], theirs)):
            median = statistics.median(seconds)
            print(f"       {who:>8} {size / median:7.0f} MB/s {atoms / median / 1e6:6.2f} M atoms/s")
        print(
            f"       {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
