"""The kernels by name, and which of them works where.

A kernel is imported when it is first used, and PyTorch with it, so that specs can name kernels without either.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from torch import Tensor

    from atomica.nn.couplings import Arguments, Gradients

__all__ = ["CHOICES", "KERNELS", "Kernel", "Row", "kernel_for", "kernel_problem", "load"]


class Kernel(Protocol):
    """The functions that the module of a kernel has."""

    def fits(self, x: Tensor) -> bool:
        """Whether it works in the precision and on the device of `x`."""

    def forward(self, given: Arguments) -> Tensor:
        """The sum over edges, then the weights: [M, D_out]."""

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        """The gradients for `grad_out` [M, D_out]; of y only if `want_y`."""


class Row(NamedTuple):
    """module: of the kernel. needs: what it works on, meaning: what it is, both for a person."""

    module: str
    needs: str
    meaning: str


KERNELS = {
    "rust": Row("atomica.nn.kernels.rust", "a CPU", "tile by tile in a CPU's cache"),
    "torch": Row(
        "atomica.nn.kernels.pytorch", "anything", "PyTorch's operations, on a CPU about half as fast"
    ),
    "triton": Row(
        "atomica.nn.kernels.triton",
        "a GPU with Triton 3.3 or newer",
        "kernels for a GPU, compiled when they are first used",
    ),
}
PREFERRED, ON_GPU, EVERYWHERE = "rust", "triton", "torch"
"""What `auto` stands for on a CPU and on a GPU that the kernel prefers, and what works where a kernel does not fit."""
CHOICES = {"auto": "rust on a CPU, triton on a Hopper GPU, else torch"} | {
    name: row.meaning for name, row in KERNELS.items()
}
"""What a convolution can be told to use, and what it means."""


def load(name: str) -> Kernel:
    """The kernel of that name. Raises ImportError if it cannot be had here."""
    return cast(Kernel, importlib.import_module(KERNELS[name].module))


def kernel_for(wanted: str, x: Tensor) -> str:
    """The name of the kernel for a convolution of features `x` that was told to use `wanted`, one of `CHOICES`.

    >>> import torch
    >>> kernel_for("auto", torch.zeros(1)), kernel_for("auto", torch.zeros(1, dtype=torch.float64))
    ('rust', 'torch')
    """
    name = wanted
    if wanted == "auto":
        name = ON_GPU if x.is_cuda and _preferred(x) else PREFERRED
    return name if _obstacle(name, x) is None else EVERYWHERE


def _preferred(x: Tensor) -> bool:
    """Whether the GPU's own kernel can be had, and is known to be faster on the GPU of `x`."""
    try:
        return bool(importlib.import_module(KERNELS[ON_GPU].module).preferred(x))
    except ImportError:
        return False


def kernel_problem(wanted: str, device: str) -> str | None:
    """Why a kernel, one of `CHOICES`, cannot work on a device ("cpu", "cuda"), for a person; None if it can."""
    import torch

    if wanted == "auto" or (obstacle := _obstacle(wanted, torch.empty(0, device=device))) is None:
        return None
    needs = KERNELS[wanted].needs
    return f"{wanted} works on {needs} alone, and this run is on {device}{obstacle}; use auto or torch"


def _obstacle(name: str, x: Tensor) -> str | None:
    """None if a kernel works for features `x`, else what more there is to say about it."""
    try:
        return None if load(name).fits(x) else ""
    except ImportError as error:
        return f" ({error})"
