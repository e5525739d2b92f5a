"""What a run costs beside its arithmetic, as the README quotes it.

    python tests/bench/runner.py                     overhead per step, time to the first step, checkpoints
    python tests/bench/runner.py --set model.layers=2 --runs 7

Overhead: epochs of the demo data by `fit`, with its records, TensorBoard, progress and checks, in turn with a bare loop
over the same batches (load, loss, backward, clip, step); the median of the ratios of neighbours counts.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from figures import machine

SPEC = Path(__file__).parents[2] / "runs" / "ligand.toml"


def overhead(overrides: list[str], runs: int) -> None:
    """Seconds per step of `fit` and of a bare loop."""
    import torch
    from rich.console import Console

    from atomica import spec
    from atomica.assembly import assemble
    from atomica.train import loop
    from atomica.train.logging import Display, LogConfig, RunLog

    ratios, steps = [], 0
    for run in range(runs + 1):
        seconds = []
        for kind in ("fit", "bare"):
            with tempfile.TemporaryDirectory() as folder:
                words = [f"run.out={folder}/run", "train.epochs=1", "data.loader_threads=0", *overrides]
                job = assemble(spec.load(SPEC, words), resume=False, dry=True)
                train = job.parts["train"]
                steps = len(train.epoch_plan(0))
                if kind == "fit":
                    job.folder.mkdir()
                    with RunLog(job.folder, LogConfig(every_steps=10)) as log:
                        outcome = loop.fit(
                            job.model,
                            train,
                            job.parts["valid"],
                            replace(job.spec.train, monitor="loss"),
                            folder=job.folder / "checkpoints",
                            log=log,
                            display=Display(Console(file=io.StringIO())),
                            every_steps=10,
                            stop=loop.Stop(),
                            identity=job.identity,
                        )
                    seconds.append(len(train.rows) / outcome.complexes_per_s)
                    continue
                optimizer = loop.make_optimizer(job.model, job.spec.train)
                loop.freeze(job.model, job.spec.train)
                began = time.perf_counter()
                for draws in train.epoch_plan(0):
                    batch = train.load(draws, job.model, 0)
                    optimizer.zero_grad(set_to_none=True)
                    losses = job.model.loss(batch.graph, batch.targets, batch.known)
                    losses.total.backward()
                    torch.nn.utils.clip_grad_norm_(job.model.parameters(), 1.0)
                    optimizer.step()
                    float(losses.total.detach())
                seconds.append(time.perf_counter() - began)
        if run:  # the first is a warm-up
            ratios.append(seconds[0] / seconds[1])
    low, high = min(ratios), max(ratios)
    print(
        f"overhead of fit over a bare loop: {100 * (statistics.median(ratios) - 1):+.1f}% "
        f"({100 * (low - 1):+.1f}% to {100 * (high - 1):+.1f}%, {runs} pairs of {steps} steps, "
        f"{1000 * seconds[1] / steps:.0f} ms a step)"
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
