"""The convolution tile by tile in cache, on the CPU, in Rust."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from atomica import _prep
from atomica.nn.couplings import Arguments, Couplings, Gradients
from atomica.nn.irreps import COMPONENTS, coupling

_TABLES: WeakKeyDictionary[Couplings, dict[int, _prep.Convolution]] = WeakKeyDictionary()


def fits(x: Tensor) -> bool:
    """As `registry.Kernel.fits`."""
    return x.dtype == torch.float32 and x.device.type == "cpu"


def forward(given: Arguments) -> Tensor:
    """As `registry.Kernel.forward`."""
    return torch.from_numpy(_convolution(given).forward(_arrays(given), torch.get_num_threads()))


def backward(given: Arguments, grad_out: Tensor, want_y: bool) -> Gradients:
    """As `registry.Kernel.backward`."""
    of_x, of_y, of_hidden, of_weights = _convolution(given).backward(
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
    _, plan, x, y, hidden, weights, _ = given
    return {
        "x": x.detach().contiguous().numpy(),
        "y": y.detach().contiguous().numpy(),
        "hidden": hidden.detach().contiguous().numpy(),
        "sender": plan.sender.numpy(),
        "first_edge": plan.first_edge.tolist(),
        "weights": [weight.detach().contiguous().numpy() for weight in weights],
    }


def _convolution(given: Arguments) -> _prep.Convolution:
    """The tables of a convolution as Rust reads them, made once for each number of radial features."""
    width, made = given.hidden.shape[1], _TABLES.setdefault(given.tables, {})
    if width not in made:
        made[width] = _made(given.tables, width)
    return made[width]


def _made(tables: Couplings, width: int) -> _prep.Convolution:
    triples = dict.fromkeys((path.source.degree, path.harmonic, path.target.degree) for path in tables.paths)
    places = {triple: index for index, triple in enumerate(triples)}
    couplings = []
    for degree_in, harmonic, degree_out in triples:
        table = coupling(degree_in, tables.harmonics[harmonic][0], degree_out)
        start = tables.columns[harmonic].start
        terms = [(i, start + j, k, float(table[i, j, k])) for i, j, k in table.nonzero().tolist()]
        couplings.append(((COMPONENTS[degree_in], COMPONENTS[degree_out]), terms))
    inputs, outputs, targets = tables.inputs, tables.outputs, []
    for slot in tables.targets:
        paths = [
            (
                places[path.source.degree, path.harmonic, slot.degree],
                inputs.offsets[path.source.degree] + inputs.channel_range(path.source)[0],
                inputs.channels[path.source.degree],
                path.source.channels,
                path.first_channel,
            )
            for path in tables.paths
            if path.target == slot
        ]
        column = outputs.offsets[slot.degree] + outputs.channel_range(slot)[0]
        stride, scale = outputs.channels[slot.degree], tables.scale[slot]
        sizes = (COMPONENTS[slot.degree], tables.fan_in[slot], slot.channels, column, stride)
        # couplings shared by paths of both parities lie together, so that each is made once
        targets.append((*sizes, scale, sorted(paths)))
    return _prep.Convolution((inputs.dim, outputs.dim, tables.width, width), couplings, targets)
