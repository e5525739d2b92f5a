"""How fast it is: the card itself, whole steps against e3nn's form, a step by kernel, shapes of Triton's kernels."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomica import environment
from atomica.nn.convolution import FullyConnected
from atomica.nn.kernels import pytorch, registry
from atomica.train import step as steps_of_training
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE
from atomica.train.loader import Batch
from atomica.train.optimizer import make_optimizer
from tests.bench import steps as bench
from tests.gpu.common import ROOT, Setting, kernels, milliseconds

PRECISIONS = ("float32", "tf32", "bf16")


def card(setting: Setting) -> Iterator[dict[str, Any]]:
    """What it runs on, and what that can do at most: matrix products in each precision, copies within its memory."""
    found: dict[str, Any] = {**environment.describe(), "device": setting.device}
    for name in ("triton", "cuequivariance_torch", "openequivariance"):
        found["versions"][name] = getattr(_imported(name), "__version__", None)
    if setting.cuda:
        one = torch.cuda.get_device_properties(0)
        found |= {"card": one.name, "processors": one.multi_processor_count, "gib": one.total_memory / 2**30}
        found |= {"cuda": torch.version.cuda, "capability": f"{one.major}.{one.minor}"}
    yield found
    side, rates = 8192 if setting.cuda else 256, {}
    for precision in PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        one, other = torch.randn(2, side, side, device=setting.device, dtype=dtype)
        rates[precision] = 2.0 * side**3 / milliseconds(setting, lambda a=one, b=other: a @ b, 8, 2) / 1e9
    torch.set_float32_matmul_precision("highest")
    many = torch.empty(2**30 if setting.cuda else 2**20, dtype=torch.uint8, device=setting.device)
    copied = milliseconds(setting, many.clone, 8, 2)
    yield {"tflops": rates, "copies_gb_per_s": 2 * len(many) / copied / 1e6, "ok": True}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception:  # a library for another version of CUDA fails in its own ways
        return None


# -------------------------------------------------------------------------------------------------- whole steps


def steps(setting: Setting) -> Iterator[dict[str, Any]]:
    """`tests/bench/steps.py` at each size: time, memory, arithmetic; then e3nn's form, and peers if they are there.

    Processes of ours start together, so that their kernels are compiled at the same time; then each is timed alone.
    Those of e3nn, which needs most of the memory, come one by one when the others have ended.
    """
    sizes, runs = ((500, 2000, 8000), 7) if setting.cuda else ((29,), 1)
    own = [name for name in ("triton", "torch") if name in kernels(setting)]
    peers = ["e3nn"]
    if setting.cuda and _imported("cuequivariance_ops_torch") and _imported("cuequivariance_torch"):
        peers.append("cuequivariance")
    found: list[dict[str, Any]] = []

    def start(variant: str, blocks: int) -> bench.Variant:
        arguments = argparse.Namespace(device=setting.device, memory=0.0, threads=0 if setting.cuda else 1)
        one = bench.Variant(variant, blocks, setting.folder / f"{variant}-{blocks}.npy", arguments)
        for work in bench.WORK:
            for _ in range(3 if setting.cuda else 0):
                one.do(work, keep=False)
        return one

    def timed(variant: str, blocks: int, one: bench.Variant) -> None:
        for work in bench.WORK:
            for _ in range(runs):
                one.do(work, keep=True)
        one.close()
        line: dict[str, Any] = {"variant": variant, **one.sizes, "blocks": blocks}
        for work in bench.WORK:
            if work in one.seconds:
                line |= {
                    f"{work}_ms": 1000 * statistics.median(one.seconds[work]),
                    f"{work}_added_mib": one.added(work),
                }
            else:
                line[f"{work}_failed"] = one.failed or "failed"
        found.append(line)

    with ThreadPoolExecutor(16 if setting.cuda else 1) as pool:
        waiting = {(v, b): pool.submit(start, v, b) for b in sizes for v in own}
        ready = {key: future.result() for key, future in waiting.items()}
    operations: dict[int, dict[str, float]] = {}
    for blocks in sizes:
        for variant in own:
            timed(variant, blocks, ready[variant, blocks])
        model = bench.published(setting.device)
        operations[blocks] = bench.counts(model, *bench.batch(blocks, model))
        yield _told(found, operations, setting)
    del model
    if setting.cuda:
        torch.cuda.empty_cache()
    for blocks in sizes:
        for variant in peers:
            timed(variant, blocks, start(variant, blocks))
            yield _told(found, operations, setting)


def _told(
    found: list[dict[str, Any]], operations: dict[int, dict[str, float]], setting: Setting
) -> dict[str, Any]:
    """The measured, with what it says: shares of the rate of matrix products, ratios to e3nn's form, differences."""
    rates = setting.found.get("card", {}).get("tflops", {})
    first = {line["blocks"]: line for line in found if line["variant"] == "e3nn"}
    bad = []
    for line in found:
        for work in bench.WORK:
            if f"{work}_ms" not in line:
                if line["variant"] != "e3nn":
                    bad.append(
                        f"{line['variant']} at {line['blocks']} blocks: {work} {line[f'{work}_failed']}"
                    )
                continue
            tflops = operations[line["blocks"]][work] / line[f"{work}_ms"] / 1e9
            line[f"{work}_tflops"] = tflops
            line[f"{work}_of_rate"] = {name: tflops / rate for name, rate in rates.items()}
            base = first.get(line["blocks"], {})
            if base is not line and f"{work}_ms" in base:
                line[f"{work}_times_e3nn"] = base[f"{work}_ms"] / line[f"{work}_ms"]
                line[f"{work}_memory_of_e3nn"] = line[f"{work}_added_mib"] / base[f"{work}_added_mib"]
        paths = [setting.folder / f"{name}-{line['blocks']}.npy" for name in (line["variant"], "e3nn")]
        if all(path.exists() for path in paths):
            one, other = map(np.load, paths)
            line["off_e3nn"] = float(np.abs(one - other).max())
            if not line["off_e3nn"] < 1e-4:
                bad.append(
                    f"{line['variant']} at {line['blocks']} blocks: embeddings off by {line['off_e3nn']:.1e}"
                )
    return {"measured": found, "bad": bad, "ok": not bad}


# ------------------------------------------------------------------------------------------------ within a step


def _stepper(setting: Setting, kernel: str, precision: str, blocks: int) -> Callable[[], object]:
    """A real training step of the published model, less its last question to the device, if that is left out."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    model = bench.published(setting.device).use_kernel(kernel).train()
    inputs, targets = bench.batch(blocks, model)
    config = TrainConfig(precision="bf16" if precision == "bf16" else "float32", learning_rate=1e-9)
    stepper = steps_of_training.Stepper(model, make_optimizer(model, config), config, ALONE)
    batch = Batch((), blocks, inputs, targets, known={}, rows={}, counts={})
    return lambda: stepper.run([batch], None, 0, 10)


@contextlib.contextmanager
def _unasked() -> Iterator[None]:
    """Steps that do not fetch the loss at their end, so that they return when all is queued."""
    real = steps_of_training.numbers_of
    steps_of_training.numbers_of = lambda terms: dict.fromkeys(terms, 0.0)
    try:
        yield
    finally:
        steps_of_training.numbers_of = real


def profile(setting: Setting) -> Iterator[dict[str, Any]]:
    """A training step: by precision; the processor's own time for it; questions to the device; kernels by time.

    The processor's time is also that of a step on one small complex, whose kernels end sooner than they are queued:
    the queue of a GPU is finite, and a processor far ahead of it waits.
    """
    blocks, small, runs = (2000, 29, 5) if setting.cuda else (29, 29, 1)
    own = [name for name in ("triton", "torch", "rust") if name in kernels(setting)][
        : None if setting.cuda else 1
    ]
    lines: list[dict[str, Any]] = []
    for kernel in own:
        for precision in PRECISIONS if setting.cuda else ("float32",):
            work = _stepper(setting, kernel, precision, blocks)
            line: dict[str, Any] = {"kernel": kernel, "precision": precision, "blocks": blocks}
            line["step_ms"] = milliseconds(setting, work, runs, 2 if setting.cuda else 0)
            lines.append(line)
            if precision == "float32":
                line["questions"] = _questions(setting, work)
                with _unasked():
                    line["host_ms"] = _host(setting, work, runs)
                line |= _by_kernel(setting, work, line["step_ms"])
                small_step = _stepper(setting, kernel, precision, small)
                line["small_step_ms"] = milliseconds(setting, small_step, runs, 2 if setting.cuda else 0)
            asked = [one for one in lines if sum(one.get("questions", {}).values()) > 1]
            bad = [f"{one['kernel']} asks the device within a step: {one['questions']}" for one in asked]
            yield {"steps": lines, "bad": bad, "ok": not bad}
    torch.set_float32_matmul_precision("highest")


def _host(setting: Setting, work: Callable[[], object], runs: int) -> float:
    """Median milliseconds until `work` has queued all that the device is to do."""
    taken = []
    for _ in range(runs):
        setting.wait()
        start = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - start))
        setting.wait()
    return statistics.median(taken)


def _questions(setting: Setting, work: Callable[[], object]) -> dict[str, int]:
    """Where a step makes the processor wait for the device, and how often; see `tests/unit/test_sync.py` for a CPU."""
    if not setting.cuda:
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in told if "synchroniz" in str(one.message)]
    return dict(Counter(places))


def _by_kernel(setting: Setting, work: Callable[[], object], step_ms: float) -> dict[str, Any]:
    """What takes the device's time, launches, and the share of the step in which the device has work."""
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with torch.profiler.profile(activities=kinds) as told:
        work()
        setting.wait()
    rows = [
        (row.key, (row.self_device_time_total if setting.cuda else row.self_cpu_time_total) / 1000, row.count)
        for row in told.key_averages()
        # on a GPU, of operations and the kernels that these launch, the kernels alone
        if not setting.cuda or row.device_type != torch.autograd.DeviceType.CPU
    ]
    total = sum(ms for _, ms, _ in rows)
    launches = sum(row.count for row in told.key_averages() if re.match("cu(da)?LaunchKernel", row.key))
    waits = {row.key: row.count for row in told.key_averages() if "Synchronize" in row.key}
    top = sorted(rows, key=lambda row: -row[1])[:20]
    return {
        "device_ms": total,
        "device_busy": total / step_ms,
        "launches": launches,
        "waits": waits,
        "kernels": [{"name": name[:90], "ms": round(ms, 4), "calls": count} for name, ms, count in top],
    }


# ----------------------------------------------------------------------------------- what lies around the kernels


def graphs(setting: Setting) -> Iterator[dict[str, Any]]:
    """What a step would gain if queueing it cost nothing: forward and backward as they are, replayed, and compiled.

    A replay holds the sizes of one batch. It is the bound of what any of the ways could gain.
    """
    sizes = (29, 500, 2000) if setting.cuda else (29,)
    kernel = ("triton" if "triton" in kernels(setting) else "torch") if setting.cuda else "torch"
    lines: list[dict[str, Any]] = []
    for blocks in sizes:
        model = bench.published(setting.device).use_kernel(kernel).train()
        inputs, targets = bench.batch(blocks, model)

        def gradient(model: Any = model, inputs: Any = inputs, targets: Any = targets) -> None:
            model.zero_grad(set_to_none=True)
            model.loss_of(model.outputs(inputs), targets).total.backward()

        line: dict[str, Any] = {
            "kernel": kernel,
            "blocks": blocks,
            "plain_ms": milliseconds(setting, gradient, 5, 3),
        }
        lines.append(line)
        if setting.cuda:
            try:
                replay = _captured(gradient)
                line["replayed_ms"] = milliseconds(setting, replay, 5, 2)
                line["gain"] = line["plain_ms"] / line["replayed_ms"]
            except RuntimeError as error:
                line["not_captured"] = str(error)[:300]
                with contextlib.suppress(RuntimeError):
                    torch.cuda.synchronize()
        yield {"steps": lines, "ok": True}
    if not setting.cuda or setting.left < 30:
        return
    torch._dynamo.config.cache_size_limit = 64
    FullyConnected.forward = torch._dynamo.disable(FullyConnected.forward)
    model = bench.published(setting.device).use_kernel(kernel).train()
    inputs, targets = bench.batch(sizes[-1], model)
    outputs = torch.compile(model.outputs, dynamic=True)

    def compiled() -> None:
        model.zero_grad(set_to_none=True)
        model.loss_of(outputs(inputs), targets).total.backward()

    start = time.perf_counter()
    try:
        compiled()
        lines[-1]["compiling_s"] = time.perf_counter() - start
        lines[-1]["compiled_ms"] = milliseconds(setting, compiled, 5, 2)
    except Exception as error:  # whatever the compiler meets
        lines[-1]["not_compiled"] = f"{type(error).__name__}: {str(error)[:300]}"
    yield {"steps": lines, "ok": True}


def _captured(work: Callable[[], object]) -> Callable[[], object]:
    """Replays what `work` has the device do."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


# -------------------------------------------------------------------------------------------------------- shapes

SHAPES = {
    "FORWARD": [
        (64, 64, 8, 2),
        (64, 64, 8, 1),
        (64, 64, 8, 3),
        (128, 32, 8, 2),
        (128, 64, 8, 2),
        (64, 32, 4, 2),
    ],
    "COUPLED": [(128, 32, 8, 2), (64, 64, 8, 2), (128, 32, 8, 3), (64, 32, 4, 2), (128, 64, 8, 1)],
    "HIDDEN": [(128, 32, 8, 2), (128, 32, 8, 3), (64, 32, 4, 2), (64, 32, 4, 3), (128, 64, 8, 2)],
    "WEIGHTS": [
        (64, 64, 8, 2),
        (32, 64, 4, 2),
        (32, 64, 8, 2),
        (64, 64, 8, 1),
        (64, 64, 8, 3),
        (64, 128, 8, 2),
    ],
}
"""Edges, columns, warps, stages."""
NAMES = tuple(SHAPES)


def tune(setting: Setting) -> Iterator[dict[str, Any]]:
    """Times of a layer's forward or backward pass with other shapes of one of Triton's kernels; of PyTorch's pieces.

    Shapes are compiled by several processes at once, which leave them in Triton's cache, and then timed by one.
    """
    table: list[dict[str, Any]] = []
    floats, name_of = (
        [2**n for n in ((23, 25, 27, 29) if setting.cuda else (21,))],
        "_GPU_CHUNK_FLOATS" if setting.cuda else "_CHUNK_FLOATS",
    )
    before = getattr(pytorch, name_of)
    work = _layer_work(setting, "torch")
    for size in floats:
        setattr(pytorch, name_of, size)
        try:
            ms = milliseconds(
                setting, lambda: (work["forward"](), work["backward"]()), 3 if setting.cuda else 1, 1
            )
            table.append({"kernel": "torch", "floats_of_a_piece": size, "ms": ms})
        except torch.cuda.OutOfMemoryError:
            table.append({"kernel": "torch", "floats_of_a_piece": size, "failed": "memory"})
        setattr(pytorch, name_of, before)
    yield {"table": table, "ok": True}
    if "triton" not in kernels(setting):
        return
    work = _layer_work(setting, "triton")
    from atomica.nn.kernels import triton as module

    chosen = {name: getattr(module, name) for name in NAMES}
    pairs = [(name, tuple(chosen[name])) for name in NAMES]
    others = [[(name, shape) for shape in SHAPES[name] if shape != tuple(chosen[name])] for name in NAMES]
    pairs += [pair for one in zip_longest(*others) for pair in one if pair is not None]
    if setting.cuda:
        _compile_ahead(setting, pairs)
    for name, shape in pairs if setting.cuda else pairs[:1]:
        if setting.left < 5:
            break
        setattr(module, name, module._Shape(*shape))
        line: dict[str, Any] = {"kernel": name, **module._Shape(*shape)._asdict()}
        try:
            line["ms"] = milliseconds(
                setting, work["forward" if name == "FORWARD" else "backward"], 5 if setting.cuda else 1, 1
            )
        except Exception as error:  # a shape that does not compile, or has no room
            line["failed"] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:120]}"
        setattr(module, name, chosen[name])
        table.append(line)
        timed = {name: [one for one in table if one["kernel"] == name and "ms" in one] for name in NAMES}
        best = {name: min(lines, key=lambda one: one["ms"]) for name, lines in timed.items() if lines}
        yield {"table": table, "best": best, "ok": True}


def _layer_work(setting: Setting, kernel: str) -> dict[str, Callable[[], object]]:
    """The two passes of the widest convolution of the published model, on the atoms' edges of a real batch."""
    from atomica.nn.couplings import Arguments
    from atomica.nn.irreps import spherical_harmonics
    from tests.cases import case

    if setting.cuda:
        model = bench.published(setting.device)
        inputs, _ = bench.batch(2000, model)
        layer = max(
            (module for module in model.modules() if isinstance(module, FullyConnected)),
            key=lambda one: sum(weight.numel() for weight in one.parameters()),
        )
        plan, nodes = inputs.atoms.edges.plan, len(inputs.atoms.x)
        torch.manual_seed(0)
        x = torch.randn(nodes, layer.inputs.dim, device=setting.device)
        vectors = torch.randn(len(plan.sender), 3, device=setting.device)
        radial = torch.randn(len(plan.sender), layer.radial, device=setting.device)
    else:
        layer, plan, x, vectors, radial = case(torch.float32, hidden=4, depth=0, nodes=20, edges=30, radial=2)
    with torch.no_grad():
        y, mean = spherical_harmonics(vectors), plan.mean.to(radial.dtype)[:, None]
        hidden = torch.cat([radial * mean, mean], dim=1)
    weights = [layer.weights[slot.name].detach() for slot in layer.tables.targets]
    given, one = Arguments(layer.tables, plan, x.detach(), y, hidden.detach(), weights), registry.load(kernel)
    with torch.no_grad():
        gradient = torch.randn_like(one.forward(given))
    return {
        "forward": torch.no_grad()(lambda: one.forward(given)),
        "backward": torch.no_grad()(lambda: one.backward(given, gradient, True)),
    }


def _compile_ahead(setting: Setting, pairs: list[tuple[str, tuple[int, ...]]]) -> None:
    """Have several processes run each shape once; what they have not done when half of the time is over is left."""
    count = max(1, min(14, (os.cpu_count() or 1) - 2))
    words = [
        ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in pairs[i::count])
        for i in range(count)
    ]
    code = "import sys; from tests.gpu.speed import try_shapes; try_shapes(sys.argv[1])"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, one],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for one in words
    ]
    end = time.monotonic() + 0.6 * setting.left
    for one in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.wait(max(0.1, end - time.monotonic()))
    for one in started:
        if one.poll() is None:
            one.kill()
            one.wait()


def try_shapes(text: str) -> None:
    """Run Triton's kernels with each of some shapes, NAME:R,J,M,WARPS,STAGES;…, so that they are compiled."""
    work = _layer_work(Setting("cuda", time.monotonic() + 600, Path(), {}), "triton")
    from atomica.nn.kernels import triton as module

    for one in text.split(";"):
        name, _, numbers = one.partition(":")
        before = getattr(module, name)
        setattr(module, name, module._Shape(*map(int, numbers.split(","))))
        with contextlib.suppress(Exception):
            work["forward" if name == "FORWARD" else "backward"]()
            torch.cuda.synchronize()
        setattr(module, name, before)
