"""What there is to run on, and what a run ran on: written beside it when it starts, as a report may be made later."""

from __future__ import annotations

import json
import os
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomica.errors import DataError
from atomica.files import ENVIRONMENT, write_json

if TYPE_CHECKING:
    import torch

__all__ = [
    "PACKAGES",
    "describe",
    "device",
    "hardware",
    "installed",
    "read",
    "record",
    "untouched",
    "version",
]


PACKAGES = ("torch", "dgl", "numpy", "e3nn", "pyarrow", "safetensors", "torchmetrics", "scikit-learn")


def device(wanted: str = "auto") -> torch.device:
    """The device of this name; "auto" is a CUDA device if PyTorch finds one, else the CPU. Raises DataError for others.

    >>> device("cpu")
    device(type='cpu')
    """
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(wanted)
    except RuntimeError:
        raise DataError(f"device = {wanted!r}: must be auto, cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device = {wanted!r}: PyTorch finds no CUDA device; use auto or cpu")
    return found


def version() -> str:
    """That of this package.

    >>> version()
    '0.1.0'
    """
    return metadata.version("atomica-dgl")


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed.

    >>> installed("no-such-package") is None
    True
    """
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def untouched() -> Iterator[None]:
    """Leave as it was what a process keeps of PyTorch, NumPy and Python: threads, determinism, random states."""
    import numpy as np
    import torch

    threads, drawn = (
        torch.get_num_threads(),
        (random.getstate(), np.random.get_state(), torch.get_rng_state()),
    )
    exact = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        now = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        if now != exact:  # it imports more of PyTorch, which what is interrupted early cannot do
            torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])


def describe() -> dict[str, Any]:
    """Versions of this package and of those that decide its numbers; processor, cores, memory, GPUs; the time.

    >>> found = describe()
    >>> found["versions"]["atomica"], found["hardware"]["cores"] >= 1
    ('0.1.0', True)
    """
    packages = {name: installed(name) for name in PACKAGES}
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "atomica": version(),
            "python": platform.python_version(),
            **{name: found for name, found in packages.items() if found is not None},
        },
        "hardware": hardware(),
    }


def hardware() -> dict[str, Any]:
    """System, processor, cores, threads of PyTorch, memory, GPUs if there are any."""
    import torch

    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def record(folder: Path, more: Mapping[str, Any], *, fresh: bool) -> None:
    """Add a start of the run to `folder`; `fresh` forgets those before. `more`: what else a report is to show."""
    before = [] if fresh else read(folder)
    write_json(folder / ENVIRONMENT, [*before, {**describe(), **more}])


def read(folder: Path) -> Sequence[Mapping[str, Any]]:
    """The starts of a run, the first one first; none if there is no (whole) record of them."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
