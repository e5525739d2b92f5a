"""Times neighbour search against scipy's cKDTree, vesin and Biotite's CellList, in one process.

    OMP_NUM_THREADS=1 python tests/bench/neighbors.py --data FOLDER     .pdb, .cif and .bcif files below it, also .gz

Two tasks at 500, 5,000 and 50,000 atoms: the 8 nearest atoms of every atom, and all pairs within 5 Å. The atoms are the
first ones of the largest structures, set side by side. Every time includes the building of the tree or the cells, on
one thread. Each round runs everybody once, so that a change in the machine's speed meets all; figures are medians,
ratios the median of the rounds' ratios to the fastest of the others. All must find the same first; what vesin and
Biotite do not offer (the nearest k) they are not timed on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from figures import machine
from numpy.typing import NDArray

# Before our threads start.
os.environ["RAYON_NUM_THREADS"] = "1"

from atomica import _prep

SIZES = (500, 5_000, 50_000)
NEAREST, CUTOFF = 8, 5.0
FORMATS = (".pdb", ".ent", ".cif", ".bcif")

Points = NDArray[np.float64]
Search = Callable[[Points], object]


def real_points(folder: Path, wanted: int) -> Points:
    """Atoms of the largest structures in Å, [wanted, 3], one structure beside the other."""
    files = [p for p in folder.rglob("*") if p.name.lower().removesuffix(".gz").endswith(FORMATS)]
    parts, edge, count = [], 0.0, 0
    for path in sorted(files, key=lambda p: (-p.stat().st_size, p.name)):
        try:
            x = _prep.read_structure(path).x
        except _prep.StructureError:
            continue
        x = x - x.min(axis=0)
        x[:, 0] += edge
        edge = float(x[:, 0].max()) + 2 * CUTOFF
        parts.append(x)
        count += len(x)
        if count >= wanted:
            return np.concatenate(parts)[:wanted]
    raise SystemExit(f"{folder} holds structures of {count} atoms in all; {wanted} are needed")


def our_nearest(x: Points) -> NDArray[np.int32]:
    """The nearest atoms, [N, 8]."""
    rows = len(x)
    one = np.zeros(rows, np.int64), np.zeros(rows, np.uint8), np.ones(rows, np.bool_)
    return _prep.nearest(x.astype(np.float32), *one, NEAREST)[0]


def our_pairs(x: Points) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Rows of pairs."""
    return _prep.pairs_within(x.astype(np.float32), CUTOFF)


def others() -> dict[str, dict[str, Search]]:
    """The other searches by task and name."""
    import biotite.structure
    import vesin
    from scipy.spatial import cKDTree

    cells = vesin.NeighborList(cutoff=CUTOFF, full_list=False)

    def biotite_pairs(x: Points) -> object:
        x32 = x.astype(np.float32)
        return biotite.structure.CellList(x32, CUTOFF).get_atoms(x32, CUTOFF)

    return {
        "nearest": {"cKDTree": lambda x: cKDTree(x).query(x, NEAREST + 1)[1]},
        "pairs": {
            "cKDTree": lambda x: cKDTree(x).query_pairs(CUTOFF, output_type="ndarray"),
            "vesin": lambda x: cells.compute(x, np.zeros((3, 3)), periodic=False, quantities="ij"),
            "Biotite": biotite_pairs,
        },
    }


def check(x: Points, tasks: dict[str, dict[str, Search]]) -> None:
    """Everybody finds the same, but for what lies within rounding of the cutoff or of a tie."""

    def apart(rows: object) -> NDArray[np.float64]:
        return np.linalg.norm(x[np.asarray(rows)] - x[:, None], axis=-1)

    theirs = np.asarray(tasks["nearest"]["cKDTree"](x))[:, 1:]
    np.testing.assert_allclose(apart(our_nearest(x)), apart(theirs), atol=1e-4)
    counts = {"ours": len(our_pairs(x)[0])}
    counts["cKDTree"] = len(np.asarray(tasks["pairs"]["cKDTree"](x)))
    counts["vesin"] = len(tasks["pairs"]["vesin"](x)[0])  # type: ignore[index]
    # Both ways round, and every atom with itself.
    counts["Biotite"] = (int((np.asarray(tasks["pairs"]["Biotite"](x)) >= 0).sum()) - len(x)) // 2
    if max(counts.values()) - min(counts.values()) > 1e-4 * counts["ours"]:
        raise SystemExit(f"{len(x)} atoms: different numbers of pairs {counts}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with structures")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(machine())
    tasks = others()
    points = real_points(arguments.data, max(SIZES))
    for size in SIZES:
        x = np.ascontiguousarray(points[:size])
        check(x, tasks)
        for task, ours in (("nearest", our_nearest), ("pairs", our_pairs)):
            searches: dict[str, Search] = {"atomica": ours, **tasks[task]}
            repeats = max(1, 20_000 // size)
            seconds: dict[str, list[float]] = {name: [] for name in searches}
            for _ in range(arguments.rounds):
                for name, search in searches.items():
                    start = time.perf_counter()
                    for _ in range(repeats):
                        search(x)
                    seconds[name].append((time.perf_counter() - start) / repeats)
            rounds = zip(*seconds.values(), strict=True)
            ratio = statistics.median(min(rest) / own for own, *rest in rounds)
            rates = ", ".join(
                f"{name} {size / statistics.median(taken) / 1e6:.2f}" for name, taken in seconds.items()
            )
            print(f"{size:6} atoms, {task:>7}: {rates} M atoms/s; {ratio:.1f} times the best of the others")


if __name__ == "__main__":
    main()
