"""Whether scores by gradient rank blocks as masking does: Spearman's rho for each complex, the mean and its interval.

    python tests/bench/gradients.py --weights outputs/ligand/checkpoints/best [--data demo://pockets] [--input segment0]

Beside it the textbook's integrated gradients of the same path (Gauss-Legendre, 4 points), and the processor time of
each. Complexes are drawn at random, those of 10 to `--largest` blocks.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from figures import machine
from scipy.stats import spearmanr

import atomica
from atomica.analysis import gradient
from atomica.analysis.masking import cosines, maskable
from atomica.data.record import INPUTS

POINTS = 4


def textbook(model: atomica.Model, record: Any) -> np.ndarray:
    """Of the cosine to the embedding of the complex, what each block loses along the path: [M]."""
    path = gradient.Path.of(model, record)
    with torch.no_grad():
        whole = path.embedding(path.here)
    lost = torch.zeros(len(path.here))
    for point, weight in zip(*np.polynomial.legendre.leggauss(POINTS), strict=True):
        at = (path.here + (point + 1) / 2 * path.step).requires_grad_()
        (slope,) = torch.autograd.grad(path.embedding(at), at, whole)
        lost -= weight / 2 * (slope * path.step).sum(dim=1)
    return 1.0 - lost.numpy()[maskable(record)]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", default="", help="a saved model; none: random weights of the published size"
    )
    parser.add_argument("--data", default="demo://pockets")
    parser.add_argument(
        "--input", choices=INPUTS, help="what the model sees; none: what it was trained on, else segment0"
    )
    parser.add_argument("--complexes", type=int, default=30)
    parser.add_argument("--largest", type=int, default=120, help="blocks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if given.weights:
        model = atomica.load(given.weights, "cpu")
    else:
        model = atomica.Model(atomica.EncoderConfig(atom_hidden=32, block_hidden=32, layers=4)).eval()
    data = atomica.open_dataset(given.data)
    alone = None if model.segment is None else f"segment{model.segment}"
    seen = given.input or alone or model.made_for.view or "segment0"
    wrong = list(model.made_for.problems(data.origin, seen).values())
    if alone not in (None, seen):
        wrong.append(f"input {seen}, and the model reads {alone} alone")
    if wrong:
        parser.error(f"--weights {given.weights}, --data {given.data}: {'; '.join(wrong)}")
    sizes = data.block_counts(seen)
    fitting = np.flatnonzero((sizes >= 10) & (sizes <= given.largest))
    if not len(fitting):
        parser.error(f"--data {given.data}: no complex has 10 to {given.largest} blocks of {seen}")
    rows = np.random.default_rng(0).permutation(fitting)[: given.complexes]
    methods = {
        "masking": lambda record: cosines(model, record, batch_blocks=1024),
        "gradient": lambda record: gradient.gradient_scores(model, record),
        f"integrated gradients, {POINTS} points": lambda record: textbook(model, record),
    }
    rho: dict[str, list[float]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    for row in rows.tolist():
        record, values = data[row].view(seen), {}
        for name, method in methods.items():
            began = time.process_time()
            values[name] = method(record)
            seconds[name] += time.process_time() - began
            rho[name].append(float(spearmanr(values[name], values["masking"])[0]))
        told = ", ".join(f"{name} {each[-1]:.3f}" for name, each in rho.items() if name != "masking")
        print(f"{record.id:<24} {len(values['masking']):>4} blocks   {told}", flush=True)
    print(f"{machine()}; {len(rows)} complexes of {given.data}, {seen}; {given.weights or 'random weights'}")
    drawn = np.random.default_rng(0).integers(0, len(rows), (2000, len(rows)))
    for name, each in rho.items():
        low, high = np.percentile(np.array(each)[drawn].mean(axis=1), [2.5, 97.5])
        told = f"{np.mean(each):.3f} [{low:.3f}, {high:.3f}], lowest {min(each):.3f}"
        print(
            f"{name:<32} {'' if name == 'masking' else told:<44} {seconds[name] / len(rows):7.3f} s a complex"
        )


if __name__ == "__main__":
    main()
