"""Metrics of every head, updated on two ranks and computed together, equal those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atomica.heads.denoise import DenoiseOutput
from atomica.noise import Perturbation
from atomica.testing import small_model

ROOT = Path(__file__).parents[2]
RANKS = 2


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
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from test_metrics_of_ranks import RANKS, measured
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=RANKS)
print(json.dumps(measured(rank)))
dist.destroy_process_group()
"""


def test_two_ranks_measure_what_one_process_does(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    arguments = [sys.executable, "-c", RANK, str(Path(__file__).parent)]
    running = [
        subprocess.Popen(
            [*arguments, str(rank), str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    alone = measured()
    assert len(alone) == 6 + 5 + 6 + 2 + 1 + 6
    for out, _ in outputs:
        together = json.loads(out.splitlines()[-1])
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
