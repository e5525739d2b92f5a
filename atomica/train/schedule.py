"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atomica.spec import Problems, setting

__all__ = ["ScheduleConfig", "factor"]


@dataclass(frozen=True)
class ScheduleConfig:
    """Table `[train.schedule]`: how the learning rate changes from step to step."""

    kind: str = setting(
        "constant",
        "after the warm-up, stay (constant), or fall to min_factor along a half cosine or geometrically",
        choices=("constant", "cosine", "exponential"),
    )
    warmup_steps: int = setting(0, "steps over which the learning rate first rises linearly", low=0)
    min_factor: float | None = setting(
        None,
        "final fraction of train.learning_rate; absent: 0 for cosine, 0.01 for exponential",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        Problems.check(
            (
                self.kind == "constant" and self.min_factor is not None,
                "min_factor",
                "has no effect with a constant schedule; remove it, or choose cosine or exponential",
            ),
            (
                self.kind == "exponential" and self.min_factor == 0.0,
                "min_factor",
                "an exponential schedule never reaches 0; give a value above 0, such as 0.01",
            ),
        )

    @property
    def floor(self) -> float:
        """The final factor."""
        if self.min_factor is not None:
            return self.min_factor
        return {"constant": 1.0, "cosine": 0.0, "exponential": 0.01}[self.kind]


def factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Multiple of `train.learning_rate` used for `step` (from 0) of a run of `total_steps`.

    The warm-up ends at 1 in its last step; the last step of the run uses `config.floor`.

    >>> config = ScheduleConfig(kind="cosine", warmup_steps=2)
    >>> [round(factor(config, step, 5), 3) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.kind == "constant":
        return 1.0
    span = total_steps - config.warmup_steps - 1
    progress = min(1.0, (step - config.warmup_steps) / span) if span > 0 else 0.0
    if config.kind == "cosine":
        return config.floor + (1.0 - config.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
    return float(config.floor**progress)
