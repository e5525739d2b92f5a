"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from atomica.spec import Problems, setting

__all__ = ["TAKES", "ScheduleConfig", "factor"]

KINDS = {
    "constant": "stays as it is",
    "cosine": "falls along half a cosine, again and again with cycle_steps",
    "exponential": "falls by the same share in every step",
    "onecycle": "rises and falls along half cosines",
}
"""Kind of schedule → what the learning rate does after the warm-up."""

TAKES = {
    "constant": (),
    "cosine": ("min_factor", "cycle_steps", "cycle_growth"),
    "exponential": ("min_factor",),
    "onecycle": ("min_factor", "start_factor", "rise"),
}
"""Kind of schedule → the keys it reads beside `kind` and `warmup_steps`."""

FLOORS = {"constant": 1.0, "cosine": 0.0, "exponential": 0.01, "onecycle": 4e-6}


@dataclass(frozen=True)
class ScheduleConfig:
    """Table `[train.schedule]`: how the learning rate changes from step to step."""

    kind: str = setting("constant", "what the learning rate does after the warm-up", choices=KINDS)
    warmup_steps: int = setting(
        0, "steps over which the learning rate first rises linearly, to where the schedule starts", low=0
    )
    min_factor: float | None = setting(
        None,
        "final fraction of train.learning_rate; absent: 0 for cosine, 0.01 for exponential, 4e-6 for onecycle",
        low=0,
        high=1,
    )
    cycle_steps: int | None = setting(
        None, "cosine: steps after which it starts again from the top; absent: never", low=1
    )
    cycle_growth: int | None = setting(
        None, "cosine: each cycle is so many times as long as the one before; absent: 1", low=1
    )
    start_factor: float | None = setting(
        None, "onecycle: fraction of train.learning_rate it rises from; absent: 0.04", above=0, below=1
    )
    rise: float | None = setting(
        None,
        "onecycle: share of the steps after the warm-up in which it rises; absent: 0.3",
        above=0,
        below=1,
    )

    def __post_init__(self) -> None:
        """Check keys against each other."""
        optional = dict.fromkeys(key for keys in TAKES.values() for key in keys)
        Problems.check(
            *(
                (
                    getattr(self, key) is not None and key not in TAKES[self.kind],
                    key,
                    f"has no effect with a schedule of kind {self.kind}; remove it, or choose "
                    + " or ".join(kind for kind, keys in TAKES.items() if key in keys),
                )
                for key in optional
            ),
            (
                self.kind == "exponential" and self.min_factor == 0.0,
                "min_factor",
                "an exponential schedule never reaches 0; give a value above 0, such as 0.01",
            ),
            (
                self.kind == "cosine" and self.cycle_growth is not None and self.cycle_steps is None,
                "cycle_growth",
                "has no effect without cycle_steps; give the steps of the first cycle, or remove it",
            ),
        )

    @property
    def floor(self) -> float:
        """The final factor."""
        return FLOORS[self.kind] if self.min_factor is None else self.min_factor

    @property
    def start(self) -> float:
        """The factor that the warm-up leads to."""
        if self.kind != "onecycle":
            return 1.0
        return 0.04 if self.start_factor is None else self.start_factor


def factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Multiple of `train.learning_rate` used for `step` (from 0) of a run of `total_steps`.

    The warm-up reaches `config.start` in its last step; the last step of the run uses `config.floor`, but for cycles
    of a given length, which end where they end.

    >>> config = ScheduleConfig(kind="cosine", warmup_steps=2)
    >>> [round(factor(config, step, 5), 3) for step in range(5)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < config.warmup_steps:
        return config.start * (step + 1) / config.warmup_steps
    done = step - config.warmup_steps
    if config.kind == "constant":
        return 1.0
    if config.cycle_steps is not None:
        return _half_cosine(
            1.0, config.floor, _within_cycle(done, config.cycle_steps, config.cycle_growth or 1)
        )
    span = total_steps - config.warmup_steps - 1
    progress = min(1.0, done / span) if span > 0 else 0.0
    if config.kind == "cosine":
        return _half_cosine(1.0, config.floor, progress)
    if config.kind == "exponential":
        return float(config.floor**progress)
    # As in PyTorch's OneCycleLR, the top is reached in the last step of the rising part.
    rise = 0.3 if config.rise is None else config.rise
    top = (rise * (span + 1) - 1) / span if span > 0 else 0.0
    if progress <= top:
        return _half_cosine(config.start, 1.0, progress / top if top > 0 else 1.0)
    return _half_cosine(1.0, config.floor, (progress - max(top, 0.0)) / (1.0 - max(top, 0.0)))


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _within_cycle(step: int, length: int, growth: int) -> float:
    """How much of its cycle lies behind `step` (from 0): from 0 to below 1."""
    if growth == 1:
        return step % length / length
    # Cycles of lengths l, gl, g²l, … start at l (gⁿ - 1) / (g - 1).
    start = 0
    while step >= start + length:
        start += length
        length *= growth
    return (step - start) / length
