"""What `device.kernel = "auto"` should stand for on this device, by the figures of other parts; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.gpu.common import Setting

RULE = (
    "of the kernels that are right in every precision (parity) and have taken a step at every size (steps), the one "
    "with the fastest steps in the geometric mean over the sizes; another than torch only if that is at least 1.1 "
    "times as fast as torch, and at no size slower than 0.95 times"
)


def auto(setting: Setting) -> Iterator[dict[str, Any]]:
    """The kernel that `RULE` chooses, with what it has seen."""
    measured = setting.found.get("steps", {}).get("measured", [])
    wrong = {
        line["kernel"]
        for part, lines in (("parity", "layers"), ("parity", "networks"))
        for line in setting.found.get(part, {}).get(lines, [])
        if any(f"by {line['kernel']}," in text for text in setting.found[part].get("bad", []))
    }
    checked = {line["kernel"] for line in setting.found.get("parity", {}).get("networks", [])}
    times: dict[str, dict[int, float]] = {}
    for line in measured:
        if "step_ms" in line and line["variant"] in checked - wrong:
            times.setdefault(line["variant"], {})[line["blocks"]] = line["step_ms"]
    sizes = {line["blocks"] for line in measured}
    whole = {kernel: found for kernel, found in times.items() if set(found) == sizes}
    told = {"rule": RULE, "wrong": sorted(wrong), "checked": sorted(checked), "step_ms": times}
    if "torch" not in whole:
        yield {**told, "auto": None, "why": "no whole set of figures for torch", "ok": False}
        return
    choice, why = "torch", "no other kernel is right at every size"
    ratios: dict[str, list[float]] = {}
    for kernel, found in whole.items():
        if kernel != "torch":
            ratios[kernel] = [whole["torch"][size] / found[size] for size in sorted(sizes)]
    if ratios:
        best = max(ratios, key=lambda kernel: _mean(ratios[kernel]))
        shown = ", ".join(f"{ratio:.2f}" for ratio in ratios[best])
        why = f"steps by {best} are {shown} times as fast as by torch at {sorted(sizes)} blocks"
        if _mean(ratios[best]) >= 1.1 and min(ratios[best]) >= 0.95:
            choice = best
    yield {**told, "auto": choice, "why": why, "ok": True}


def _mean(ratios: list[float]) -> float:
    """The geometric mean."""
    product = 1.0
    for ratio in ratios:
        product *= ratio
    return product ** (1 / len(ratios))
