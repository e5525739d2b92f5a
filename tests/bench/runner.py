"""What a run costs beside its arithmetic.

    python tests/bench/runner.py                     overhead per step, time to the first step, checkpoints
    python tests/bench/runner.py --only overhead --runs 20 --set data.batch_blocks=60 --set data.max_item_blocks=60

Overhead: steps of `fit`, with its records, TensorBoard, progress and checks, beside bare ones (loss, backward, clip,
step, the loss as a number). It is a fixed time for each step, so that small batches show it best. `--runs`: epochs.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import json
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
    """What a step in `fit` takes beside a bare one on the same batch, with the same weights and random numbers.

    One thread. CPU time of the process counts, since other work on the host does not disturb it as much as the clock.
    Of neighbouring pairs, one has the bare step first, the other that of `fit`.
    """
    import torch
    from rich.console import Console

    from atomica import spec
    from atomica.jobs.job import Request
    from atomica.jobs.train.assembly import assemble
    from atomica.train import loop
    from atomica.train.display import Display
    from atomica.train.loader import FIXED, Batch, Part
    from atomica.train.logging import LogConfig, RunLog
    from atomica.train.optimizer import freeze, make_optimizer
    from atomica.train.schedule import factor
    from atomica.train.stopping import Stop

    with tempfile.TemporaryDirectory() as folder:
        settings = ["data.loader_threads=0", "device.kind=cpu", "device.threads=1", "log.every_steps=10"]
        words = [f"run.out={folder}/run", f"train.epochs={epochs}", *settings, *overrides]
        job = assemble(spec.load(SPEC, words), Request(dry=True))
        config, every = job.spec.train, job.spec.log.every_steps
        other = copy.deepcopy(job.model)
        optimizer = make_optimizer(other, config)
        freeze(other, config)
        in_fit: list[tuple[float, float]] = []
        bare: list[tuple[float, float]] = []
        losses: list[float] = []

        def step(batch: Batch) -> None:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor(config.schedule, len(bare), total)
            began = clocks()
            optimizer.zero_grad(set_to_none=True)
            total_loss = other.loss_of(other.outputs(batch.graph), batch.targets, batch.rows).total
            total_loss.backward()
            torch.nn.utils.clip_grad_norm_(other.parameters(), config.clip_norm)
            optimizer.step()
            losses.append(float(total_loss.detach()))
            bare.append(since(began))

        class Paired(Part):
            """Takes a bare step with each batch that it loads, before or after that of `fit`."""

            left: tuple[float, float] | None = None
            batch: Batch | None = None
            random: Any = None

            def load(self, draws: Any, model: Any, epoch: int = FIXED) -> Batch:
                state = Paired
                if state.left is not None:
                    in_fit.append(since(state.left))
                if state.batch is not None:  # after the step that fit took with it
                    later = torch.get_rng_state()
                    torch.set_rng_state(state.random)
                    step(state.batch)
                    torch.set_rng_state(later)
                batch = super().load(draws, model, epoch)
                state.random = torch.get_rng_state()
                state.batch = batch
                if len(bare) % 2:
                    step(batch)
                    torch.set_rng_state(state.random)
                    state.batch = None
                state.left = clocks()
                return batch

        train = Paired(**{field.name: getattr(job.parts["train"], field.name) for field in fields(Part)})
        total = len(train.epoch_plan(0)) * epochs
        lasts = set(itertools.accumulate(len(train.epoch_plan(epoch)) for epoch in range(epochs)))
        job.folder.mkdir()
        with RunLog(job.folder, LogConfig(every_steps=every)) as log:
            trainer = loop.Trainer(
                model=job.model,
                train=train,
                valid=job.parts["valid"],
                config=config,
                folder=job.folder / "checkpoints",
                log=log,
                display=Display(Console(file=io.StringIO())),
                every_steps=every,
                stop=Stop(),
                identity=job.identity,
            )
            trainer.fit()
        records = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
        told = {record["step"]: record["loss"] for record in records if record["event"] == "step"}
    same = all(losses[at - 1] == loss for at, loss in told.items() if at <= len(losses))
    # The last step of an epoch is followed by validation and a checkpoint; the first ones warm up.
    pairs = [pair for at, pair in enumerate(zip(in_fit, bare, strict=False), 1) if at not in lasts and at > 4]
    print(f"{len(pairs)} pairs of steps, losses {'equal' if same else 'DIFFERENT'}")
    for clock, name in enumerate(("CPU time", "clock")):
        ours, theirs = ([one[clock] for one in side] for side in zip(*pairs, strict=True))
        middle = statistics.median(theirs)
        extra = statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
        print(
            f"  {name}: a bare step {1000 * middle:.1f} ms, in fit {1000 * extra:+.2f} ms more (median of pairs), "
            f"{100 * extra / middle:+.1f}%; all steps together {100 * (sum(ours) / sum(theirs) - 1):+.1f}%"
        )


def clocks() -> tuple[float, float]:
    """CPU time of all threads of this process, and the clock."""
    return time.process_time(), time.perf_counter()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """What has passed on both clocks."""
    cpu, wall = clocks()
    return cpu - began[0], wall - began[1]


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

    from atomica.model.model import Model
    from atomica.nn.equivariant import EncoderConfig
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
    parser.add_argument("--only", choices=("checkpoints", "overhead", "start"))
    arguments = parser.parse_args()
    print(machine())
    if arguments.only in (None, "checkpoints"):
        checkpoints(arguments.runs)
    if arguments.only in (None, "overhead"):
        overhead(arguments.overrides, arguments.runs)
    if arguments.only in (None, "start"):
        start(min(arguments.runs, 3))


if __name__ == "__main__":
    main()
