"""Are pockets of the same ligand near each other? Cosines of frozen vectors beside size, composition, random weights.

    python tests/bench/retrieval.py GRAPHS --weights base --label label --cluster cluster --split test

GRAPHS: a folder of graphs with a column of labels. Pairs of one cluster are left out: relatives are found by sequence.
For each pocket the others are ranked by similarity. AUC: the probability that a pair of one label is ranked above one
of two, over all pairs; mAP: the mean over pockets of the average precision of their own ranking. Intervals of 95% draw
whole clusters.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import atomica
from atomica.evaluation.baseline import composition
from atomica.evaluation.statistics import numbered
from atomica.jobs.probe import redrawn
from atomica.model.model import Model
from atomica.nn.representations import POOLS, Representation

Floats = npt.NDArray[np.float64]


def cosines(x: Floats) -> Floats:
    """[N, N] of vectors [N, D]."""
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x @ x.T


def figures(
    similar: Floats, same: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """AUC over pairs and mAP over pockets that have another of their label."""
    upper = np.triu(usable, 1)
    if not same[upper].any() or same[upper].all():
        return np.nan, np.nan
    each = [
        average_precision_score(same[row][usable[row]], similar[row][usable[row]])
        for row in range(len(similar))
        if same[row][usable[row]].any()
    ]
    return float(roc_auc_score(same[upper], similar[upper])), float(np.mean(each))


def embedded(model: Model, records: list[Any], wanted: Representation) -> Floats:
    """The vectors of some complexes."""
    with torch.no_grad():
        parts = [model.represent(records[at : at + 16], wanted)[0] for at in range(0, len(records), 16)]
    return torch.cat(parts).double().numpy()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("graphs")
    parser.add_argument("--weights", default="base")
    parser.add_argument("--label", default="label")
    parser.add_argument("--cluster", default="cluster")
    parser.add_argument("--split", default="", help="rows of this split alone")
    parser.add_argument("--labels", nargs="*", default=[], help="of these labels alone")
    parser.add_argument("--input", default="segment0", choices=("segment0", "segment1", "complex"))
    parser.add_argument("--representation", default="z_graph", choices=("z_graph", "h_graph"))
    parser.add_argument("--pool", default="mean_component_normalized", choices=tuple(POOLS))
    parser.add_argument("--seeds", type=int, default=5, help="encoders with random weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = atomica.open_dataset(arguments.graphs)
    records, labels, clusters = [], [], []
    for row in range(len(data)):
        record = data[row]
        label = record.labels.get(arguments.label) or record.metadata.get(arguments.label)
        wanted = not arguments.labels or label in arguments.labels
        if label and wanted and arguments.split in ("", record.split):
            records.append(record.view(arguments.input))
            labels.append(label)
            clusters.append(record.metadata[arguments.cluster])
    model = atomica.load(arguments.weights).eval()
    representation = Representation(arguments.representation, arguments.pool)
    kinds, groups = np.array(labels), numbered(clusters)
    same, usable = kinds[:, None] == kinds[None, :], groups[:, None] != groups[None, :]
    blocks = np.array([float(len(record.block_types)) for record in records])
    counts = np.stack([composition(record, model.config.block_types) for record in records])
    arms: dict[str, list[Floats]] = {
        str(arguments.weights): [cosines(embedded(model, records, representation))],
        "size": [-np.abs(np.log(blocks[:, None]) - np.log(blocks[None, :]))],
        "composition": [cosines(counts)],
        "random weights": [],
    }
    for seed in range(arguments.seeds):
        other = redrawn(model, seed).eval()
        arms["random weights"].append(cosines(embedded(other, records, representation)))
    print(
        f"{len(records)} complexes, {len(set(labels))} labels, {len(set(clusters))} clusters; {representation}"
    )
    drawn: Mapping[str, list[tuple[float, float]]] = {name: [] for name in arms}
    generator, members = (
        np.random.default_rng(0),
        [np.flatnonzero(groups == one) for one in range(groups.max() + 1)],
    )
    for _ in range(200):
        rows = np.concatenate([members[one] for one in generator.integers(0, len(members), len(members))])
        for name, each in arms.items():
            found = [
                figures(one[np.ix_(rows, rows)], same[np.ix_(rows, rows)], usable[np.ix_(rows, rows)])
                for one in each
            ]
            drawn[name].append(tuple(np.mean(found, axis=0)))
    first = next(iter(arms))
    for name, each in arms.items():
        values = np.mean([figures(one, same, usable) for one in each], axis=0)
        low, high = np.nanpercentile(np.array(drawn[name]), [2.5, 97.5], axis=0)
        line = f"{name:16} AUC {values[0]:.3f} [{low[0]:.3f}, {high[0]:.3f}]"
        line += f"  mAP {values[1]:.3f} [{low[1]:.3f}, {high[1]:.3f}]"
        if name != first:
            gaps = np.array(drawn[first]) - np.array(drawn[name])
            low, high = np.nanpercentile(gaps, [2.5, 97.5], axis=0)
            line += (
                f"  {first} less it: AUC [{low[0]:+.3f}, {high[0]:+.3f}]  mAP [{low[1]:+.3f}, {high[1]:+.3f}]"
            )
        print(line)


if __name__ == "__main__":
    main()
