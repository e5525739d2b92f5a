"""Learning-rate schedules against their definitions."""

from __future__ import annotations

import itertools
import math

import pytest

from atomica.spec import Problems
from atomica.train.schedule import ScheduleConfig, factor

KINDS = ("constant", "cosine", "exponential")


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_linearly_to_one(kind):
    config = ScheduleConfig(kind=kind, warmup_steps=4)
    assert [factor(config, step, 20) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(config, 4, 20) == 1.0


@pytest.mark.parametrize(("kind", "least"), [("cosine", 0.0), ("cosine", 0.2), ("exponential", 0.05)])
def test_the_last_step_reaches_the_floor(kind, least):
    config = ScheduleConfig(kind=kind, min_factor=least, warmup_steps=3)
    values = [factor(config, step, 50) for step in range(50)]
    assert values[-1] == pytest.approx(least)
    assert all(a >= b for a, b in itertools.pairwise(values[3:]))
    assert factor(config, 500, 50) == pytest.approx(least)  # more steps than planned never rise again


def test_shapes():
    cosine = ScheduleConfig(kind="cosine", min_factor=0.1)
    assert factor(cosine, 25, 101) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    exponential = ScheduleConfig(kind="exponential", min_factor=0.01)
    assert factor(exponential, 50, 101) == pytest.approx(0.1)
    assert {factor(ScheduleConfig(), step, 7) for step in range(7)} == {1.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_runs(kind, total):
    config = ScheduleConfig(kind=kind, warmup_steps=2)
    assert all(0 <= factor(config, step, total) <= 1 for step in range(total))


def test_settings_without_effect_are_refused():
    with pytest.raises(Problems, match="no effect"):
        ScheduleConfig(kind="constant", min_factor=0.1)
    with pytest.raises(Problems, match="never reaches 0"):
        ScheduleConfig(kind="exponential", min_factor=0.0)
