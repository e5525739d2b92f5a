"""Interaction scores of one complex: all masks at once, against a pair of forward passes for every block.

    python tests/bench/scores.py [--hidden 32] [--layers 4] [--blocks 6]

The pairs are timed twice: with this package's convolution, and with the textbook one, which makes a matrix of weights
per edge as the original does. Of them only some blocks are computed, and the time is scaled to all; the scores of these
must agree. Processor time, so that other work on the machine counts little; on a GPU, wall time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from figures import machine

import atomica
from atomica.analysis.masking import masked_copies
from atomica.jobs.score import scores
from atomica.nn import convolution as conv

ATOMS = 480


def pairs(model: atomica.Model, record: Any, blocks: np.ndarray) -> np.ndarray:
    """The scores of some blocks, each from a complex and its masked copy through the whole model."""
    found = []
    for block in blocks:
        graph = masked_copies(record, np.array([block])).graph(model.config.graph_options())
        with torch.no_grad():
            whole, masked = model.encode(graph).graph.double()
        found.append(float(F.cosine_similarity(whole, masked, dim=0)))
    return np.array(found)


def textbook(self: Any, plan: Any, x: Any, y: Any, hidden: Any, *, scalars_only: bool = False) -> Any:
    """`FullyConnected.forward` with one weight matrix per edge."""
    whole = self.reference(plan, x, y, hidden)
    return whole[:, : self.outputs.channels[0]] if scalars_only else whole


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds and result."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    began = clock()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began, result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=32)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=6, help="blocks that are scored pair by pair")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    data = atomica.open_dataset("demo://pockets")
    sizes = np.array([len(record.atom_types) for record in data])
    record = data[int(np.abs(sizes - ATOMS).argmin())]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = atomica.EncoderConfig(atom_hidden=given.hidden, block_hidden=given.hidden, layers=given.layers)
    model = atomica.Model(config).to(device).eval()
    print(f"{machine()}; {device}")
    chosen, _ = scores(model, record)  # kernels and tables are made once
    some = chosen[:: max(1, len(chosen) // given.blocks)][: given.blocks]
    ours, own_pairs, plain_pairs, differences = [], [], [], []
    usual = conv.FullyConnected.forward
    for _ in range(given.runs):
        seconds, (_, values) = timed(lambda: scores(model, record), device)
        ours.append(seconds)
        seconds, wanted = timed(lambda: pairs(model, record, some), device)
        own_pairs.append(seconds * len(chosen) / len(some))
        differences.append(np.abs(values[np.isin(chosen, some)] - wanted).max())
        conv.FullyConnected.forward = textbook  # type: ignore[method-assign]
        seconds, wanted = timed(lambda: pairs(model, record, some), device)
        conv.FullyConnected.forward = usual  # type: ignore[method-assign]
        plain_pairs.append(seconds * len(chosen) / len(some))
        differences.append(np.abs(values[np.isin(chosen, some)] - wanted).max())
    fast, pair, plain = (statistics.median(times) for times in (ours, own_pairs, plain_pairs))
    print(
        f"{len(record.atom_types)} atoms, {len(chosen)} blocks to mask, width {given.hidden}, {given.layers} layers"
    )
    print(f"all masks at once                 {fast:8.2f} s")
    print(f"pairs, this package's convolution {pair:8.2f} s   {pair / fast:5.1f} times as long")
    print(f"pairs, textbook convolution       {plain:8.2f} s   {plain / fast:5.1f} times as long")
    print(f"largest difference of scores      {max(differences):.1e}")


if __name__ == "__main__":
    main()
