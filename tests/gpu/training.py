"""Whether training works there: whole runs, a process group with DistributedDataParallel, memory that runs out."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from atomica import open_dataset
from atomica.data import graph, noise
from atomica.data.transfer import moved
from atomica.heads import head_class
from atomica.model.model import Model
from atomica.nn.encoders import settings_from
from atomica.train import distributed
from atomica.train.config import TrainConfig
from atomica.train.distributed import ALONE, Ranks
from atomica.train.loader import Batch
from atomica.train.optimizer import make_optimizer
from atomica.train.step import Stepper
from tests.gpu.common import ROOT, Setting, kernels, off

NOISE = noise.NoiseConfig(rotation_sigma=0.5, translation_sigma=1.0, torsion_sigma=0.5, mask_proportion=0.1)


def _run(
    setting: Setting, spec: str, name: str, *changes: str, before: str = ""
) -> tuple[int, str, list[dict[str, Any]], float]:
    """`atomica-run` as a process, with code `before` it: exit code, what it wrote to stderr, its records, seconds."""
    out = setting.folder / name
    words = [
        f"device.kind={setting.device}",
        f"run.out={out}",
        "log.tensorboard=false",
        "log.every_steps=1",
        *changes,
    ]
    options = [word for change in words for word in ("--set", change)]
    code = f"{before}\nimport sys\nfrom atomica.runner import main\nsys.exit(main(sys.argv[1:]))"
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "runs" / f"{spec}.toml"), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=max(10.0, setting.left),
    )
    path = out / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return done.returncode, done.stderr, records, time.monotonic() - start


SMALL = (
    *(
        "data.batch_blocks=64",
        "data.max_item_blocks=64",
        "data.epoch_complexes=6",
        "model.atom_hidden=8",
        "model.block_hidden=8",
    ),
    *("model.edge_size=4", "model.layers=1"),
)


def runs(setting: Setting) -> Iterator[dict[str, Any]]:
    """`runs/ligand.toml` and `runs/pretrain.toml` from the spec to the test result, with each kernel for a GPU."""
    found: list[dict[str, Any]] = []
    changes = ("train.epochs=3",) if setting.cuda else ("train.epochs=1", *SMALL)
    own = [name for name in ("torch", "triton") if setting.cuda and name in kernels(setting)] or ["auto"]
    for spec in ("ligand", "pretrain"):
        for kernel in own:
            told = _Usage(setting)
            code, errors, records, seconds = _run(
                setting, spec, f"{spec}-{kernel}", f"device.kernel={kernel}", *changes
            )
            usage = told.end()
            epochs = [record for record in records if record["event"] == "epoch"]
            steps = [record["loss"] for record in records if record["event"] == "step"]
            line: dict[str, Any] = {"spec": spec, "kernel": kernel, "exit": code, "seconds": seconds, **usage}
            line |= {"steps": len(steps), "first_loss": steps[:1], "last_loss": steps[-1:]}
            line["waiting"] = [record["wait"] for record in epochs]
            line["complexes_per_s"] = [record["complexes_per_s"] for record in epochs]
            line["valid_loss"] = [record["valid_loss"] for record in epochs]
            fine = (
                code == 0 and bool(steps) and all(loss is not None and math.isfinite(loss) for loss in steps)
            )
            line["ok"] = fine
            if not fine:
                line["stderr"] = errors[-1500:]
            found.append(line)
            yield {"runs": found, "ok": all(one["ok"] for one in found)}


class _Usage:
    """The share of time in which the GPU has a kernel, as its driver counts it, asked for five times a second."""

    def __init__(self, setting: Setting) -> None:
        tool = shutil.which("nvidia-smi") if setting.cuda else None
        query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200"]
        self.process = (
            subprocess.Popen([tool, *query], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            if tool
            else None
        )

    def end(self) -> dict[str, Any]:
        if self.process is None:
            return {}
        self.process.terminate()
        text, _ = self.process.communicate()
        rows = [[float(one) for one in row] for row in re.findall(r"^(\d+), (\d+)$", text, flags=re.M)]
        if not rows:
            return {}
        busy = [use for use, _ in rows if use > 0]
        return {
            "gpu_use": statistics.mean(use for use, _ in rows) / 100,
            "gpu_use_while_training": statistics.mean(busy) / 100 if busy else 0.0,
            "gpu_mib": max(memory for _, memory in rows),
        }


# ---------------------------------------------------------------------------------------------- a process group


def _pretraining(setting: Setting, complexes: int) -> tuple[Model, list[Batch], list[Batch]]:
    """A small model to be pretrained, and the same complexes as one batch and as two shares of it."""
    torch.manual_seed(0)
    config = settings_from({"atom_hidden": 8, "block_hidden": 8, "edge_size": 6, "layers": 2})
    classes = {kind: head_class(kind) for kind in ("denoise", "masked_block")}
    model = Model(config, {kind: cls(cls.Config(), config) for kind, cls in classes.items()}).train()
    data = open_dataset("demo://pockets")
    batches = []
    for rows in (range(complexes), range(complexes // 2), range(complexes // 2, complexes)):
        made, found = graph.perturbed(
            [data[row] for row in rows], NOISE, noise.seeds(0, 0, rows), **config.graph_options()
        )
        targets = {"denoise": found.perturbation, "masked_block": found.mask_labels}
        prepared = model.prepare(made, targets).planned()
        counts = model.counts(prepared, targets, {})
        own = moved(targets, setting.device)
        batches.append(Batch((), 0, prepared.to(setting.device), own, known={}, rows={}, counts=counts))
    return model.to(setting.device), batches[:1], batches[1:]


def ranks(setting: Setting) -> Iterator[dict[str, Any]]:
    """A process group of one (NCCL on GPUs) with DistributedDataParallel: the steps of a process alone.

    In float32, with two shares of a batch, and in bfloat16.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    start = time.perf_counter()
    joined = distributed.join()
    found: dict[str, Any] = {
        "joined": [joined.rank, joined.size],
        "backend": str(torch.distributed.get_backend_config()),
        "joining_s": time.perf_counter() - start,
        "gathered": replace(joined, size=1).gather([1, "two"]),
    }
    lines, bad = [], []
    for kernel in [name for name in kernels(setting) if setting.cuda or name == "torch"]:
        for shares, precision in ((1, "float32"), (2, "float32"), (1, "bf16"), (2, "bf16")):
            results = []
            for wrapped in (False, True):
                model, whole, halves = _pretraining(setting, 4)
                model.use_kernel(kernel)
                config = TrainConfig(precision=precision)
                # what makes a stepper wrap its model; then the one rank that there is
                stepper = Stepper(
                    model, make_optimizer(model, config), config, Ranks(size=2) if wrapped else ALONE
                )
                stepper.ranks = ALONE
                assert (stepper.wrapped is not None) == wrapped
                before = copy.deepcopy([weight.detach() for weight in model.parameters()])
                batches = halves if shares == 2 else whole
                losses = []
                for step in range(3):
                    agreed = stepper.agree(batches, stop=False, save="")
                    losses.append(stepper.run(batches, agreed.counts, step, 10).loss)
                after = [weight.detach() for weight in model.parameters()]
                results.append((losses, [a - b for a, b in zip(after, before, strict=True)]))
            (alone, moves), (together, others) = results
            line = {"kernel": kernel, "shares": shares, "precision": precision, "losses": together}
            line["off_alone"] = max(abs(a - b) / abs(a) for a, b in zip(alone, together, strict=True))
            line["moves_off_alone"] = off(others, moves)
            line["ok"] = line["off_alone"] < (1e-4 if precision == "float32" else 1e-2)
            lines.append(line)
            if not line["ok"]:
                bad.append(f"{kernel}, {shares} shares, {precision}: losses off by {line['off_alone']:.1e}")
            yield {**found, "steps": lines, "bad": bad, "ok": not bad}
    torch.distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------ memory that runs out

LIMIT = """
import torch
torch.cuda.set_per_process_memory_fraction({fraction!r})
"""

PRETENDED = """
import torch
from atomica.train.step import Stepper
real = Stepper.run
def run(self, batches, *more):
    if max(len(batch.ids) for batch in batches) > {complexes!r}:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    return real(self, batches, *more)
Stepper.run = run
"""
"""On a CPU, where memory is not counted: a step with a share of more complexes is refused."""


def memory(setting: Setting) -> Iterator[dict[str, Any]]:
    """A run with too little memory for its batches repeats them in shares, to the same losses; with none, it says so.

    The memory is that of the whole run, with the first share of it that is too small for some step.
    """
    # several complexes in a batch, so that there are shares to be made
    own = ("data.batch_blocks=2048",) if setting.cuda else (*SMALL, "data.batch_blocks=128")
    changes = ("train.epochs=1", *own)
    peak = f"{setting.folder}/peak"
    told = (
        f"import atexit, torch\natexit.register(lambda: open({peak!r}, 'w').write("
        "str(torch.cuda.max_memory_reserved())))"
    )
    code, errors, records, _ = _run(
        setting, "pretrain", "whole", *changes, before=told if setting.cuda else ""
    )
    expected = [record["loss"] for record in records if record["event"] == "step"]
    found: dict[str, Any] = {"whole": {"exit": code, "steps": len(expected)}, "ok": False}
    if code or not expected:
        yield {**found, "stderr": errors[-1500:]}
        return
    if setting.cuda:
        reserved = int(Path(peak).read_text())
        total = torch.cuda.get_device_properties(0).total_memory
        found["whole"]["mib"] = reserved >> 20
        tries = [LIMIT.format(fraction=share * reserved / total) for share in (0.7, 0.5, 0.35, 0.25)]
        none = LIMIT.format(fraction=0.03 * reserved / total)
    else:
        tries, none = [PRETENDED.format(complexes=1)], PRETENDED.format(complexes=0)
    for number, before in enumerate(tries):
        code, errors, records, _ = _run(setting, "pretrain", f"less-{number}", *changes, before=before)
        losses = [record["loss"] for record in records if record["event"] == "step"]
        repeated = sum(record.get("out_of_memory", 0) for record in records if record["event"] == "epoch")
        line = {"exit": code, "steps": len(losses), "repeated": repeated, "said": "repeated in" in errors}
        if len(losses) == len(expected):
            line["off"] = max(abs(a - b) / abs(a) for a, b in zip(expected, losses, strict=True))
        found.setdefault("less", []).append(line)
        if repeated or code:
            break
    found["recovered"] = code == 0 and line["repeated"] > 0 and line["said"] and line.get("off", 1.0) < 1e-2
    if not found["recovered"]:
        found["stderr"] = errors[-1500:]
    yield found
    code, errors, _, _ = _run(setting, "pretrain", "none", *changes, before=none)
    found["none"] = {"exit": code, "stderr": errors[-600:]}
    found["said_so"] = code == 1 and "device.accumulate" in errors and "Traceback" not in errors
    yield {**found, "ok": found["recovered"] and (found["said_so"] or setting.cuda)}
