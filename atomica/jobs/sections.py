"""Sections of a spec that all jobs share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from atomica.nn.kernels.registry import CHOICES
from atomica.spec import Problems, setting

__all__ = ["DeviceConfig", "RunConfig"]


@dataclass(frozen=True)
class RunConfig:
    """Section `[run]`: the name of a run and where it writes."""

    name: str = setting(doc="name of the run: letters, digits, dot, dash, underscore")
    job: str = setting(
        "train", "what to do", choices=("train", "embed", "score", "annotate", "network", "evaluate")
    )
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
        """The folder of the run."""
        return Path(self.out.replace("{name}", self.name))


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
    accumulate: int = setting(
        1,
        "parts in which a device works through its share of a step: less memory and the same result, but for "
        "interface heads, which compare the complexes of a part",
        low=1,
    )
