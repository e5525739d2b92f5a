"""Whether results are right: against the original's numbers and float64, in every precision, and twice the same."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomica.data.transfer import moved
from atomica.model.model import Model
from atomica.nn.irreps import spherical_harmonics
from tests.cases import ENCODERS, Fixture, case, unpacked
from tests.gpu.common import ROOT, Setting, kernels, off, same

LIMITS = {"float32": 1e-5, "tf32": 5e-3, "bf16": 5e-2}
"""Of ‖found − expected‖ / ‖expected‖, of outputs; gradients, sums of many more terms, may be ten times that."""

LAYERS = [
    {"hidden": 8, "depth": 3, "edges": 260, "radial": 12},
    {"hidden": 4, "depth": 0, "nodes": 140, "edges": 150, "radial": 2},
    {"hidden": 20, "depth": 0, "nodes": 4, "edges": 40, "radial": 17},
    {"hidden": 32, "depth": 1, "nodes": 400, "edges": 3000, "radial": 32},
    {"hidden": 32, "depth": 3, "nodes": 400, "edges": 3000, "radial": 32},
]
"""More channels, edges of a receiver and radial features than a program, a round and a tile of Triton's take."""


def parity(setting: Setting) -> Iterator[dict[str, Any]]:
    """Layers and whole networks by every kernel in every precision; then all again, for the same bits."""
    bad: list[str] = []
    precisions = LIMITS if setting.cuda else {"float32": LIMITS["float32"], "bf16": LIMITS["bf16"]}
    layers, sizes = [], LAYERS if setting.cuda else LAYERS[2:3]
    if setting.cuda and "triton" in kernels(setting):
        _compile_ahead(setting)
    for kernel in kernels(setting):
        for precision in ("float32", "tf32") if setting.cuda else ("float32",):
            for size in sizes:
                layers.append(_layer(setting, kernel, precision, size))
                bad += _judged(f"layer {size} by {kernel}", layers[-1], exact=kernel != "torch")
        yield {"layers": layers, "bad": bad, "ok": not bad}
    folder, networks = unpacked(setting.folder), []
    names = [*ENCODERS, "head_binary"] if setting.cuda else ["head_binary"]
    for kernel in kernels(setting):
        if kernel == "triton" and not setting.cuda:
            continue  # interpreted, minutes for each
        for name in names:
            for precision in precisions:
                networks.append(_network(setting, Fixture(folder, name), name, kernel, precision))
                bad += _judged(f"{name} by {kernel}", networks[-1], exact=False)
        yield {"networks": networks, "bad": bad, "ok": not bad}


def _compile_ahead(setting: Setting) -> None:
    """Have a process for each layer and network meet Triton's kernels, so that these are compiled side by side."""
    code = "import sys; from tests.gpu.exactness import meet; meet(*sys.argv[1:])"
    wanted = product([*map(str, range(len(LAYERS))), *ENCODERS, "head_binary"], ("float32", "tf32"))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *pair],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # else all of them want all cores
        )
        for pair in wanted
    ]
    end = time.monotonic() + 0.6 * setting.left
    for one in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.wait(max(0.1, end - time.monotonic()))
        one.kill()
        one.wait()


def meet(what: str, precision: str) -> None:
    """Run Triton's kernels for the layer of that number or the network of that name."""
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting("cuda", time.monotonic() + 600, Path(folder), {})
        if what.isdigit():
            _layer(setting, "triton", precision, LAYERS[int(what)])
        else:
            _network(setting, Fixture(unpacked(setting.folder), what), what, "triton", precision)


def _judged(what: str, numbers: dict[str, Any], *, exact: bool) -> list[str]:
    """What is wrong with these numbers; exact: they must be the same bits each time."""
    limit, bad = LIMITS[numbers["precision"]], []
    for name, factor in (("output", 1), ("gradients", 10), ("again", 1)):
        value = numbers.get(name)
        if value is not None and not value <= factor * limit:  # one that is no number, too
            bad.append(
                f"{what}, {numbers['precision']}: {name} off by {value:.1e}, more than {factor * limit:.0e}"
            )
    if exact and not numbers["same_bits"]:
        bad.append(f"{what}, {numbers['precision']}: other bits each time")
    return bad


def _precise(precision: str) -> None:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def _layer(setting: Setting, kernel: str, precision: str, size: dict[str, int]) -> dict[str, Any]:
    """One convolution, and its gradients for everything, against the textbook form in float64 on the CPU."""

    def results(
        layer: Any, function: Any, plan: Any, x: Tensor, vectors: Tensor, radial: Tensor
    ) -> list[Tensor]:
        x, radial = (tensor.detach().requires_grad_() for tensor in (x, radial))
        y = spherical_harmonics(vectors).detach().requires_grad_()
        out = function(plan, x, y, radial)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out)
        return [out, *torch.autograd.grad((out * weights).sum(), [x, y, radial, *layer.parameters()])]

    layer, *given = case(torch.float32, **size)
    double = copy.deepcopy(layer).double()
    expected = results(
        double, double.reference, *(one.double() if torch.is_tensor(one) else one for one in given)
    )
    layer.to(setting.device).kernel = kernel
    given = [moved(one.detach() if torch.is_tensor(one) else one, setting.device) for one in given]
    _precise(precision)
    one, two = (results(layer, layer, *given) for _ in range(2))
    _precise("float32")
    return {
        "kernel": kernel,
        "precision": precision,
        **size,
        "output": off(one[:1], expected[:1]),
        "gradients": max(off([a], [b]) for a, b in zip(one[1:], expected[1:], strict=True)),
        "again": off(two, one),
        "same_bits": same(two, one),
    }


def _network(setting: Setting, fixture: Fixture, name: str, kernel: str, precision: str) -> dict[str, Any]:
    """One of the original's networks: embeddings against its own, gradients against ours in float64 on the CPU."""

    def results(model: Model, graph: Any) -> tuple[list[Tensor], list[Tensor | None]]:
        model.zero_grad(set_to_none=True)
        with torch.autocast(setting.device, torch.bfloat16) if precision == "bf16" else nullcontext():
            if name in ENCODERS:
                return list(model.encode(graph)), []
            output = model.outputs(graph)["binary"]
        label = fixture.tensors["in.label"].to(output.device)
        model.loss_of(
            {"binary": output.float() if precision == "bf16" else output}, {"binary": label}
        ).total.backward()
        return [output], [parameter.grad for parameter in model.parameters()]

    model = fixture.model()
    graph = fixture.graph(model)
    if name in ENCODERS:
        expected, gradients = [fixture.tensors[f"out.{part}"] for part in ("atom", "block", "graph")], []
    else:
        expected = [fixture.tensors["out.logits"][:, 0]]
        double = copy.deepcopy(model).double()
        double.loss(graph, {"binary": fixture.tensors["in.label"]}).total.backward()
        gradients = [parameter.grad for parameter in double.parameters()]
    model.to(setting.device).use_kernel(kernel)
    _precise(precision)
    (one, first), (two, second) = results(model, graph), results(model, graph)
    _precise("float32")
    return {
        "network": name,
        "kernel": kernel,
        "computed_by": model.kernel,
        "precision": precision,
        "output": off(one, expected),
        "largest": max(float((a.float().cpu() - b).abs().max()) for a, b in zip(one, expected, strict=True)),
        **({"gradients": off(first, gradients)} if gradients else {}),
        "again": off([*two, *second], [*one, *first]),
        "same_bits": same([*two, *second], [*one, *first]),
    }
