"""What a run costs beside its arithmetic, as the README quotes it.

    python tests/bench/runner.py                     overhead per step, time to the first step, checkpoints
    python tests/bench/runner.py --set model.layers=2 --runs 7

Overhead: steps of `fit`, with its records, TensorBoard, progress and checks, in turn with bare ones (loss, backward,
clip, step, the loss as a number) on the same batches; the median of the ratios of neighbours counts. `--runs`: epochs.
"""

from __future__ import annotations

import argparse
import copy
import io
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from figures import machine

SPEC = Path(__file__).parents[2] / "runs" / "ligand.toml"


def overhead(overrides: list[str], epochs: int) -> None:
    """Time of a step in `fit`, with all that it does around it, and of a bare step right after it on the same batch."""
    import torch
    from rich.console import Console

    from atomica import spec
    from atomica.assembly import assemble
    from atomica.train import loop
    from atomica.train.logging import Display, LogConfig, RunLog
    from atomica.train.optimizer import freeze, make_optimizer
    from atomica.train.parts import FIXED, Batch, Part
    from atomica.train.stopping import Stop

    with tempfile.TemporaryDirectory() as folder:
        words = [f"run.out={folder}/run", f"train.epochs={epochs}", "data.loader_threads=0", *overrides]
        job = assemble(spec.load(SPEC, words), resume=False, dry=True)
        other = copy.deepcopy(job.model)
        optimizer = make_optimizer(other, job.spec.train)
        freeze(other, job.spec.train)
        within: list[float] = []
        bare: list[float] = []
        left = [time.perf_counter()]

        class Paired(Part):
            """Takes a bare step with each batch that it loads, and looks at the clock before and after."""

            def load(self, draws: Any, model: Any, epoch: int = FIXED) -> Batch:
                now = time.perf_counter()
                within.append(now - left[0])
                batch = super().load(draws, model, epoch)
                began = time.perf_counter()
                optimizer.zero_grad(set_to_none=True)
                losses = other.loss_of(other.outputs(batch.graph), batch.targets, batch.rows)
                losses.total.backward()
                torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
                optimizer.step()
                float(losses.total.detach())
                left[0] = time.perf_counter()
                bare.append(left[0] - began)
                return batch

        train = Paired(**{field.name: getattr(job.parts["train"], field.name) for field in fields(Part)})
        job.folder.mkdir()
        with RunLog(job.folder, LogConfig(every_steps=10)) as log:
            loop.fit(
                job.model,
                train,
                job.parts["valid"],
                job.spec.train,
                folder=job.folder / "checkpoints",
                log=log,
                display=Display(Console(file=io.StringIO())),
                every_steps=10,
                stop=Stop(),
                identity=job.identity,
            )
    # The first load of an epoch comes after validation and a checkpoint.
    steps = len(train.epoch_plan(0))
    pairs = [(within[i + 1], bare[i]) for i in range(len(bare) - 1) if (i + 1) % steps and i > 1]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    quarter = len(ratios) // 4
    print(
        f"overhead of a step in fit over a bare one: {100 * (statistics.median(ratios) - 1):+.1f}% (half of them "
        f"{100 * (ratios[quarter] - 1):+.1f}% to {100 * (ratios[-1 - quarter] - 1):+.1f}%, {len(ratios)} pairs, "
        f"{1000 * statistics.median(theirs for _, theirs in pairs):.0f} ms a step)"
    )


def start(runs: int) -> None:
    """Seconds from the command to the first recorded step, and what PyTorch alone takes of them."""
    first, alone = [], []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        alone.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            record = Path(folder, "run", "metrics.jsonl")
            changes = (f"run.out={folder}/run", "log.every_steps=1")
            words = [word for change in changes for word in ("--set", change)]
            command = [sys.executable, "-m", "atomica.runner", str(SPEC), *words]
            began = time.perf_counter()
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while not (record.is_file() and record.stat().st_size) and process.poll() is None:
                    time.sleep(0.01)
                first.append(time.perf_counter() - began)
                process.kill()
    print(
        f"first step after {statistics.median(first):.1f} s ({runs} runs, {min(first):.1f} to {max(first):.1f}), of "
        f"them {statistics.median(alone):.1f} s import torch"
    )


def checkpoints(runs: int) -> None:
    """Milliseconds to write and to read, with checksums, the state of a training with Adam at two sizes."""
    import torch

    from atomica.encoder import EncoderConfig
    from atomica.model import Model
    from atomica.train import checkpoint

    for hidden in (16, 32):
        model = Model(EncoderConfig(atom_hidden=hidden, block_hidden=hidden))
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        write, read, size = [], [], 0
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "last")
            for _ in range(runs):
                began = time.perf_counter()
                plain, tensors = checkpoint.pack_optimizer(optimizer)
                checkpoint.write(place, model.save, {"optimizer": plain}, tensors)
                write.append(time.perf_counter() - began)
                began = time.perf_counter()
                checkpoint.read(place)
                read.append(time.perf_counter() - began)
            size = sum(file.stat().st_size for file in place.iterdir())
        print(
            f"checkpoint of {size / 2**20:.1f} MiB ({sum(p.numel() for p in model.parameters()):,} parameters): "
            f"written in {1000 * statistics.median(write):.0f} ms, read in {1000 * statistics.median(read):.0f} ms "
            f"({runs} runs)"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY.PATH=VALUE")
    arguments = parser.parse_args()
    print(machine())
    checkpoints(arguments.runs)
    overhead(arguments.overrides, arguments.runs)
    start(min(arguments.runs, 3))


if __name__ == "__main__":
    main()
