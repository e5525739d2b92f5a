"""Metrics of every head, updated on two ranks and computed together, equal those of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import run_script

from atomica.data.noise import Perturbation
from atomica.heads.denoise import DenoiseOutput
from atomica.testing import small_model


def heads():
    """Name → metrics of a head, and batches of (prediction, target): two for rank 0, one for rank 1."""
    generator = torch.Generator().manual_seed(3)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    def whole(high, *shape):
        return torch.randint(high, shape, generator=generator)

    sizes = (7, 4, 9)
    classes = {"classes": tuple("abc")}
    pairs = [torch.nn.functional.normalize(uniform(n, 2, 8) - 0.5, dim=2) for n in sizes]
    found = {
        "binary": (small_model("binary", {"hidden": 8}), [(uniform(n), whole(2, n)) for n in sizes]),
        "regression": (small_model("regression"), [(uniform(n), uniform(n)) for n in sizes]),
        "multiclass": (
            small_model("multiclass", classes),
            [(uniform(n, 3).softmax(1), whole(3, n)) for n in sizes],
        ),
        "masked_block": (
            small_model("masked_block"),
            [(uniform(n, 146).softmax(1), whole(146, n)) for n in sizes],
        ),
        "partner": (
            small_model("partner"),
            [(uniform(3, 146).softmax(1), torch.stack([whole(3, n), whole(146, n)])) for n in sizes],
        ),
        "contact": (small_model("contact"), [(uniform(n), whole(3, n) - 1) for n in sizes]),
        "multilabel": (
            small_model("multilabel", classes),
            [(uniform(n, 3), whole(2, n, 3)) for n in sizes],
        ),
        "interface": (small_model("interface", layers=1), [(pair, None) for pair in pairs]),
        "denoise": (small_model("denoise"), [_denoised(n, uniform) for n in sizes]),
    }
    return {name: (model.head(name).metrics(), batches) for name, (model, batches) in found.items()}


def _denoised(complexes, uniform):
    """Predictions and targets of some complexes, one of which could not be perturbed, with two bonds each."""
    segment = torch.ones(complexes, dtype=torch.long)
    segment[0] = -1
    of = torch.arange(complexes).repeat_interleave(2)[2:]
    target = Perturbation(
        segment=segment,
        translation_score=uniform(complexes, 3),
        translation_eps=uniform(complexes),
        rotation_score=uniform(complexes, 3),
        torsion_bonds=torch.zeros(2, len(of), dtype=torch.long),
        torsion_score=uniform(len(of)),
    )
    output = DenoiseOutput(
        translation=uniform(complexes, 3),
        rotation=uniform(complexes, 3),
        torsion=uniform(len(of)),
        atom=None,
        graph_of_torsion=of,
        graph_of_atom=torch.zeros(0, dtype=torch.long),
        perturbed=torch.zeros(0, dtype=torch.bool),
    )
    return output, target


def measured(rank=None):
    """All metrics as plain data, of the batches of one rank or of all."""
    found = {}
    for name, (metrics, batches) in heads().items():
        mine = batches if rank is None else (batches[:2], batches[2:])[rank]
        for prediction, target in mine:
            metrics.update(prediction, target)
        found |= {f"{name}/{metric}": float(value) for metric, value in metrics.compute().items()}
    return found


RANK = """\
import json, sys
from pathlib import Path
sys.path += sys.argv[2:]
from atomica.train import distributed
from test_metrics_of_ranks import measured
ranks = distributed.join()
Path(sys.argv[1], str(ranks.rank)).write_text(json.dumps(measured(ranks.rank)))
distributed.leave(ranks)
"""


def test_two_ranks_measure_what_one_process_does(tmp_path):
    done = run_script(RANK, tmp_path, tmp_path, *Path(__file__).parents[:2])
    assert done.returncode == 0, done.stderr
    alone = measured()
    assert len(alone) == 6 + 5 + 6 + 2 + 1 + 2 + 4 + 1 + 6
    for rank in range(2):
        together = json.loads((tmp_path / str(rank)).read_text())
        assert together == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_the_base_is_what_predicting_zero_scores():
    metrics, batches = heads()["denoise"]
    for output, target in batches:
        still = output._replace(
            **{
                name: torch.zeros_like(getattr(output, name))
                for name in ("translation", "rotation", "torsion")
            }
        )
        metrics.update(still, target)
    values = {name: float(value) for name, value in metrics.compute().items()}
    for task in ("translation", "rotation", "torsion"):
        assert values[task] == pytest.approx(values[f"{task}_base"]) != 0
