"""Learning-rate schedules against their definitions, and against those of PyTorch."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from atomica.spec import Problems
from atomica.train.schedule import KINDS, TAKES, ScheduleConfig, factor

STARTS = {"onecycle": 0.04}


def torch_factors(steps, make):
    """What one of PyTorch's schedulers multiplies a learning rate of 1 with, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_linearly_to_where_the_schedule_starts(kind):
    config = ScheduleConfig(kind=kind, warmup_steps=4)
    start = STARTS.get(kind, 1.0)
    assert [factor(config, step, 20) for step in range(4)] == pytest.approx(
        [start * share for share in (0.25, 0.5, 0.75, 1.0)]
    )
    assert factor(config, 4, 20) == pytest.approx(start)


@pytest.mark.parametrize(
    ("kind", "least"), [("cosine", 0.0), ("cosine", 0.2), ("exponential", 0.05), ("onecycle", 0.01)]
)
def test_the_last_step_reaches_the_floor(kind, least):
    config = ScheduleConfig(kind=kind, min_factor=least, warmup_steps=3)
    values = [factor(config, step, 50) for step in range(50)]
    assert values[-1] == pytest.approx(least)
    top = values.index(max(values))
    assert all(a >= b for a, b in itertools.pairwise(values[top:]))
    assert factor(config, 500, 50) == pytest.approx(least)  # more steps than planned never rise again


def test_shapes():
    cosine = ScheduleConfig(kind="cosine", min_factor=0.1)
    assert factor(cosine, 25, 101) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    exponential = ScheduleConfig(kind="exponential", min_factor=0.01)
    assert factor(exponential, 50, 101) == pytest.approx(0.1)
    assert {factor(ScheduleConfig(), step, 7) for step in range(7)} == {1.0}


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (
            ScheduleConfig(kind="cosine", min_factor=0.1, cycle_steps=7),
            lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 7, eta_min=0.1),
        ),
        (
            ScheduleConfig(kind="cosine", cycle_steps=5, cycle_growth=2),
            lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5, T_mult=2),
        ),
        (
            ScheduleConfig(kind="cosine", min_factor=0.2),
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 99, eta_min=0.2),
        ),
        (
            ScheduleConfig(kind="exponential", min_factor=0.05),
            lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.05 ** (1 / 99)),
        ),
        (
            ScheduleConfig(kind="onecycle"),
            lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=100, cycle_momentum=False),
        ),
        (
            ScheduleConfig(kind="onecycle", start_factor=0.1, rise=0.4, min_factor=0.001),
            lambda optimizer: lr_scheduler.OneCycleLR(
                optimizer, 1.0, 100, pct_start=0.4, div_factor=10, final_div_factor=100, cycle_momentum=False
            ),
        ),
    ],
    ids=["restarts", "growing", "cosine", "exponential", "onecycle", "onecycle-own"],
)
def test_as_in_pytorch(config, make):
    ours = [factor(config, step, 100) for step in range(100)]
    assert ours == pytest.approx(torch_factors(100, make), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3, 4])
@pytest.mark.parametrize("warmup", [0, 2])
def test_short_runs(kind, total, warmup):
    config = ScheduleConfig(kind=kind, warmup_steps=warmup)
    assert all(0 <= factor(config, step, total) <= 1 for step in range(total + 2))


def test_settings_without_effect_are_refused():
    for kind in KINDS:
        for key, value in {
            "min_factor": 0.1,
            "cycle_steps": 3,
            "start_factor": 0.1,
            "rise": 0.2,
        }.items():
            if key in TAKES[kind]:
                ScheduleConfig(kind=kind, **{key: value})
            else:
                with pytest.raises(Problems, match=f"{key}: has no effect with a schedule of kind {kind}"):
                    ScheduleConfig(kind=kind, **{key: value})
    with pytest.raises(Problems, match="cycle_growth: has no effect without cycle_steps"):
        ScheduleConfig(kind="cosine", cycle_growth=2)
    with pytest.raises(Problems, match="never reaches 0"):
        ScheduleConfig(kind="exponential", min_factor=0.0)
