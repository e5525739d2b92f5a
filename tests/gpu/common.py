"""What the parts share: what they are told, how they measure time, how far two results are from each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomica.nn.irreps import spherical_harmonics
from atomica.nn.kernels import registry
from tests.cases import case

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """What a part is told.

    device: "cuda", or "cpu" for small sizes that only show that the part works. end: on `time.monotonic`'s clock, when
    it should be done. folder: an empty one. found: what other parts have found so far, by name.
    """

    device: str
    end: float
    folder: Path
    found: dict[str, dict[str, Any]]

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.cuda:
            torch.cuda.synchronize()


@lru_cache
def _interpreted() -> bool:
    """Whether Triton's interpreter works here: that of 3.6 does not with NumPy 2.4."""
    layer, plan, x, vectors, radial = case(torch.float32, hidden=4, depth=0, nodes=4, edges=4, radial=2)
    layer.kernel = "triton"
    try:
        layer(plan, x, spherical_harmonics(vectors), radial)
    except Exception:
        return False
    return True


def kernels(setting: Setting) -> list[str]:
    """Kernels that work on the device; on a CPU Triton's do in its interpreter."""
    found = [name for name in registry.KERNELS if registry.kernel_problem(name, setting.device) is None]
    return [name for name in found if setting.cuda or name != "triton" or _interpreted()]


def milliseconds(setting: Setting, work: Callable[[], object], runs: int, warm: int = 1) -> float:
    """Median time of `work`, by the clock, from an idle device until it is idle again."""
    taken = []
    for run in range(warm + runs):
        setting.wait()
        start = time.perf_counter()
        work()
        setting.wait()
        if run >= warm:
            taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def off(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together, in float64; not a number if any entry is none."""
    pairs = [
        (one.detach().double().cpu().flatten(), other.detach().double().cpu().flatten())
        for one, other in zip(found, expected, strict=True)
        if one is not None and other is not None
    ]
    assert pairs, "nothing to compare"
    one, other = (torch.cat(side) for side in zip(*pairs, strict=True))
    return float((one - other).norm() / other.norm())


def same(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether all bits are equal."""
    return all(
        one is None if other is None else one is not None and torch.equal(one, other)
        for one, other in zip(found, expected, strict=True)
    )
