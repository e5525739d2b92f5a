"""The kernels by name, and which of them works where."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from atomica.nn.couplings import Arguments, Gradients
from atomica.nn.kernels.pytorch import _Torch
from atomica.nn.kernels.rust import _Rust

__all__ = ["kernel_for", "kernel_problem"]


KERNEL = "auto"
"""Which of `keys.KERNELS` does the work. auto: the Rust kernel where it can work (float32 on CPU), else PyTorch. One
for the whole process, set from a run's `device.kernel`."""


class Kernel(Protocol):
    """One way to do the sums and products of a convolution; `needs`: what it works on, for a person."""

    needs: str

    def fits(self, x: Tensor) -> bool:
        """Whether it works in the precision and on the device of `x`."""

    def forward(self, given: Arguments) -> Tensor:
        """[M, D_out]."""

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        """The gradients for `grad_out` [M, D_out]; of y only if `want_y`."""


class _Triton:
    """Tile by tile in a GPU's registers. Imported when it is used, since PyTorch without CUDA has no Triton."""

    needs = "a GPU with Triton 3.3 or newer"

    def fits(self, x: Tensor) -> bool:
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        return x.dtype == torch.float32 and (x.is_cuda or interpreted) and _triton_takes_tuples()

    def forward(self, given: Arguments) -> Tensor:
        from atomica.nn.kernels import triton as conv_triton

        return conv_triton.forward(given)

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        from atomica.nn.kernels import triton as conv_triton

        return conv_triton.backward(given, grad_out, want_y)


@cache
def _triton_takes_tuples() -> bool:
    """Whether there is a Triton, new enough that functions within kernels take tuples."""
    if find_spec("triton") is None:
        return False
    import triton

    major, minor = triton.__version__.split(".")[:2]
    return (int(major), int(minor)) >= (3, 3)


_KERNELS: dict[str, Kernel] = {"rust": _Rust(), "torch": _Torch(), "triton": _Triton()}


def kernel_for(x: Tensor) -> str:
    """The name of the kernel that a convolution of features `x` uses: what `KERNEL` says, where that works.

    >>> kernel_for(torch.zeros(1)), kernel_for(torch.zeros(1, dtype=torch.float64))
    ('rust', 'torch')
    """
    wanted = "rust" if KERNEL == "auto" else KERNEL
    return wanted if _KERNELS[wanted].fits(x) else "torch"


def kernel_problem(name: str, device: str) -> str | None:
    """Why kernel `name` cannot work on a device ("cpu", "cuda"), for a person; None if it can."""
    if name == "auto" or _KERNELS[name].fits(torch.empty(0, device=device)):
        return None
    return f"{name} works on {_KERNELS[name].needs} alone, and this run is on {device}; use auto or torch"


KERNELS = ("auto", "rust", "torch", "triton")
"""What may do the convolution's sums and products, see `conv.KERNEL`."""
