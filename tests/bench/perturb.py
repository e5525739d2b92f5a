"""Prints how many complexes a second are perturbed for pretraining on one core, with the machine.

    python tests/bench/perturb.py

Complexes of the demo set that are nearest in size to the one the original was timed on (62 blocks, 486 atoms), with
rotation, translation, torsions and masks, batches of 16, nearest 8 neighbours. Every stage is timed in turn, so that
a change in the machine's speed meets all of them; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

ORIGINAL = 149.0
"""Complexes per second of the original on one core, without neighbour lists."""
SIZE = 486
"""Atoms of the complex it was timed on."""
COMPLEXES, BATCH = 64, 16


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=25)
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"  # read when the first batch is made

    import numpy as np
    from figures import machine

    from atomica import open_dataset
    from atomica.data import graph, noise

    dataset = open_dataset("demo://pockets")
    records = sorted(dataset, key=lambda record: abs(len(record.atom_types) - SIZE))[:COMPLEXES]
    atoms = np.mean([len(record.atom_types) for record in records])
    blocks = np.mean([len(record.block_types) for record in records])
    bonds = np.mean([len(record.torsion_fixed) for record in records])
    print(machine())
    print(f"{COMPLEXES} complexes of {blocks:.0f} blocks, {atoms:.0f} atoms, {bonds:.0f} rotatable bonds")
    off = noise.NoiseConfig()
    moves = noise.NoiseConfig(rotation_sigma=0.25, translation_sigma=1.0, torsion_sigma=0.5)
    masks = noise.NoiseConfig(mask_proportion=0.15)
    full = noise.NoiseConfig(
        rotation_sigma=0.25, translation_sigma=1.0, torsion_sigma=0.5, mask_proportion=0.15
    )
    gaussian = noise.NoiseConfig(rotation_sigma=0.25, translation_sigma=1.0, gaussian_sigma=1.0)
    seeds = noise.seeds(0, 0, np.arange(COMPLEXES))

    def batches(work: Callable[..., object]) -> None:
        for start in range(0, COMPLEXES, BATCH):
            work(records[start : start + BATCH], seeds[start : start + BATCH])

    def perturb(config: noise.NoiseConfig, neighbors: int) -> Callable[[], None]:
        return lambda: batches(lambda some, own: noise.perturb(some, config, own, neighbors=neighbors))

    stages: dict[str, Callable[[], None]] = {
        "reading arrays, nothing else": perturb(off, 0),
        "rotation, translation, torsions": perturb(moves, 0),
        "masks": perturb(masks, 0),
        "all noise, without neighbours": perturb(full, 0),
        "all noise and neighbours": perturb(full, 8),
        "Gaussian noise and neighbours": perturb(gaussian, 8),
        "and a DGL graph": lambda: batches(lambda some, own: graph.perturbed(some, full, own)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for run in range(arguments.runs + 2):
        for name, work in stages.items():
            start = time.perf_counter()
            work()
            if run >= 2:
                seconds[name].append(time.perf_counter() - start)
    each = {name: statistics.median(taken) / COMPLEXES for name, taken in seconds.items()}
    whole = each["all noise and neighbours"]
    for name, taken in each.items():
        print(f"{name:>32}: {1e6 * taken:7.1f} µs each, {100 * taken / whole:5.1f}%, {1 / taken:8.0f}/s")
    fastest, slowest = min(seconds["all noise and neighbours"]), max(seconds["all noise and neighbours"])
    print(
        f"{1 / whole:.0f} complexes/s on one core ({COMPLEXES / slowest:.0f} to {COMPLEXES / fastest:.0f} in "
        f"{arguments.runs} runs), {1 / whole / ORIGINAL:.1f} times the original's {ORIGINAL:.0f}"
    )


if __name__ == "__main__":
    main()
