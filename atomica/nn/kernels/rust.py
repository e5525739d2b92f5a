"""The convolution tile by tile in cache, on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from atomica.nn.couplings import Arguments, Gradients


class _Rust:
    """Tile by tile in cache, on the CPU."""

    needs = "a CPU"

    def fits(self, x: Tensor) -> bool:
        return x.dtype == torch.float32 and x.device.type == "cpu"

    def forward(self, given: Arguments) -> Tensor:
        kernel = given.tables.kernel(given.hidden.shape[1])
        return torch.from_numpy(kernel.forward(_arrays(given), torch.get_num_threads()))

    def backward(self, given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
        kernel = given.tables.kernel(given.hidden.shape[1])
        of_x, of_y, of_hidden, of_weights = kernel.backward(
            _arrays(given), grad_out.contiguous().numpy(), want_y, torch.get_num_threads()
        )
        return (
            torch.from_numpy(of_x),
            None if of_y is None else torch.from_numpy(of_y),
            torch.from_numpy(of_hidden),
            [torch.from_numpy(g).view_as(w) for g, w in zip(of_weights, given.weights, strict=True)],
        )


def _arrays(given: Arguments) -> dict[str, Any]:
    """The arguments of the Rust kernel: NumPy arrays of the tensors' own memory."""
    _, plan, x, y, hidden, weights = given
    return {
        "x": x.detach().contiguous().numpy(),
        "y": y.detach().contiguous().numpy(),
        "hidden": hidden.detach().contiguous().numpy(),
        "sender": plan.sender.numpy(),
        "first_edge": plan.first_edge.tolist(),
        "weights": [weight.detach().contiguous().numpy() for weight in weights],
    }
