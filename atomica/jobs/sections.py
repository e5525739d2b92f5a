"""Sections of a spec that all jobs share: what a run is called and where it writes, and what it computes on."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from atomica import environment
from atomica.data.dataset import DEMO
from atomica.errors import DataError
from atomica.jobs import JOBS
from atomica.jobs.workers import ENGINES
from atomica.model import named
from atomica.model.model import Model
from atomica.nn.kernels.registry import CHOICES, kernel_problem
from atomica.spec import Issues, Problems, setting
from atomica.train.distributed import ALONE, Ranks

__all__ = ["DeviceConfig", "RunConfig", "absolute", "pinned"]

C = TypeVar("C")


@dataclass(frozen=True)
class RunConfig:
    """Section `[run]`: the name of a run and where it writes."""

    name: str = setting(doc="name of the run: letters, digits, dot, dash, underscore")
    job: str = setting("train", "what to do", choices=tuple(JOBS))
    out: str = setting("outputs/{name}", "folder of the run; {name} stands for run.name")
    seed: int = setting(0, "seed of weights, sampling, dropout and resampling", low=0, below=2**32)

    def __post_init__(self) -> None:
        """Check that name and folder can be used."""
        Problems.check(
            (
                re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is None,
                "name",
                "use letters, digits, dot, dash and underscore, starting with a letter or digit",
            ),
            (
                not self.out or re.search(r"[{}]", self.out.replace("{name}", "")) is not None,
                "out",
                "must be a folder; the only placeholder is {name}",
            ),
        )

    @property
    def folder(self) -> Path:
        """The folder of the run, from the root of the file system."""
        return Path(os.path.abspath(self.out.replace("{name}", self.name)))


@dataclass(frozen=True)
class DeviceConfig:
    """Section `[device]`: what the run computes on."""

    kind: str = setting("auto", "auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads of PyTorch; 0: its own choice", low=0, high=1024)
    kernel: str = setting(
        "auto",
        "what computes the equivariant encoder's convolutions",
        choices=CHOICES,
    )
    engine: str = setting(
        "processes",
        "what shares a job after training between --devices N: processes of this machine, or workers of a Ray cluster "
        "that see the run's folder under the same path",
        choices=ENGINES,
    )
    accumulate: int = setting(
        1,
        "shares in which a device works through its share of a step: less memory and the same result, but for "
        "interface heads, which compare the complexes of a share",
        low=1,
    )

    def find(self, issues: Issues, ranks: Ranks = ALONE) -> torch.device:
        """The device of this process; issues where PyTorch has none for every rank, or the kernel cannot work on it."""
        if self.kind == "cuda" and not torch.cuda.is_available():
            issues.add(("device", "kind"), "PyTorch finds no CUDA device; use auto or cpu")
            return torch.device("cpu")
        device = environment.device(self.kind)
        if (problem := kernel_problem(self.kernel, device.type)) is not None:
            issues.add(("device", "kernel"), problem)
        if device.type == "cuda" and torch.cuda.device_count() < ranks.local_size:
            issues.add(
                ("device", "kind"),
                f"{ranks.local_size} processes need a GPU each, and PyTorch finds {torch.cuda.device_count()}; start "
                'fewer, or use kind = "cpu"',
                value=False,
            )
        return torch.device("cuda", ranks.local_rank) if device.type == "cuda" else device

    def use(self, device: torch.device, ranks: Ranks = ALONE) -> None:
        """Set what PyTorch keeps for the whole process: threads, current GPU, deterministic sums on a CPU."""
        if self.threads:
            torch.set_num_threads(self.threads)
        elif ranks.local_size > 1:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.local_size))
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # On a CPU with several threads, PyTorch adds up the gradient of an indexing in any order unless told not to,
        # and two runs part ways after some dozen steps. On CUDA the same switch would refuse operations we need.
        torch.use_deterministic_algorithms(device.type == "cpu")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]

    def place(self, model: Model, device: torch.device) -> Model:
        """The model on the device, with the kernel that is asked for."""
        return model.to(device).use_kernel(self.kernel)


def absolute(config: C) -> C:
    """A section whose paths mean the same from any current directory.

    >>> absolute(DeviceConfig()) == DeviceConfig()
    True
    """

    def whole(path: str) -> str:
        return path if not path or path.startswith(DEMO) else os.path.abspath(path)

    def whole_or_name(weights: str) -> str:
        return weights if named.is_name(weights) else whole(weights)

    return _changed(_changed(config, True, whole), "weights", whole_or_name)


def pinned(config: C, section: str, issues: Issues) -> C:
    """A section with weights of the Hub under the commit that their names stand for now; an issue where none does."""
    for field in fields(config):  # type: ignore[arg-type]
        if field.metadata.get("path") == "weights":
            try:
                config = _changed(config, "weights", named.pin)
            except DataError as error:
                issues.add((section, field.name), str(error))
    return config


def _changed(config: C, kind: object, change: Callable[[str], str]) -> C:
    """A section with `change` of each path of a kind, also in lists and tables."""

    def each(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(each, value))
        if isinstance(value, Mapping):
            return {name: each(one) for name, one in value.items()}
        return change(value) if isinstance(value, str) else value

    found = [field.name for field in fields(config) if field.metadata.get("path") == kind]  # type: ignore[arg-type]
    return replace(config, **{name: each(getattr(config, name)) for name in found})  # type: ignore[type-var]
