"""Prints the figures that the README quotes, with the machine they were taken on.

    python tests/bench/figures.py build INDEX.csv     complexes per second of build-graphs, 1 and 2 threads
    python tests/bench/figures.py memory INDEX.csv    largest memory of build-graphs for 100 and 10,000 inputs
    python tests/bench/figures.py convolution         one layer against e3nn's fully connected tensor product

Every figure is the median of runs taken in turn, so that a change in the machine's speed meets all of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def machine() -> str:
    """Processor, cores in use, Python and PyTorch versions."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, PyTorch {torch.__version__}"


ORIGINAL = 5.9
"""Complexes per second of the original's preparation of the same kind of inputs, on one thread of this machine."""


def build(index: Path, runs: int) -> None:
    """Whole builds into a fresh folder each time: as processes, and within this one, which has started already."""
    from atomica import _prep

    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    quiet = os.open(os.devnull, os.O_WRONLY)
    errors = os.dup(2)
    for run in range(runs + 1):
        for kind in ("command", "in process"):
            for threads in (1, 2):
                with tempfile.TemporaryDirectory() as folder:
                    command = [
                        "build-graphs",
                        str(index),
                        "--out",
                        f"{folder}/graphs",
                        "--threads",
                        str(threads),
                    ]
                    start = time.perf_counter()
                    if kind == "command":
                        whole = [sys.executable, "-m", "atomica.prep", *command]
                        code = subprocess.run(whole, stderr=quiet, check=False).returncode
                    else:
                        os.dup2(quiet, 2)
                        code = _prep.run(command)
                        os.dup2(errors, 2)
                    elapsed = time.perf_counter() - start
                    if code not in (0, 3):
                        sys.exit(f"atomica-prep {' '.join(command)} failed with {code}")
                    counts = json.loads(Path(folder, "graphs", "manifest.json").read_text())["counts"]
                if run:  # the first round warms the disk cache
                    seconds.setdefault(f"{kind}, {threads} thread(s)", []).append(elapsed)
    print(f"{index}: {counts}")
    for name, taken in seconds.items():
        median, low, high = (counts["complexes"] / f(taken) for f in (statistics.median, max, min))
        print(
            f"{name:>23}: {median:8.1f} complexes/s ({runs} runs, {low:.1f} to {high:.1f}), "
            f"{median / ORIGINAL:.0f} times the original's {ORIGINAL}"
        )
    for kind in ("command", "in process"):
        pairs = zip(seconds[f"{kind}, 1 thread(s)"], seconds[f"{kind}, 2 thread(s)"], strict=True)
        ratio = statistics.median(one / two for one, two in pairs)
        print(f"{kind}: 2 threads {ratio:.2f} times as fast as 1, pair by pair")


def memory(index: Path, inputs: tuple[int, ...] = (100, 10_000)) -> None:
    """Largest resident memory of builds of different length: the index's rows over and over, ids made distinct."""
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for count in inputs:
        with tempfile.TemporaryDirectory() as folder:
            many = Path(folder, "index.csv")
            with many.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                for i in range(count):
                    row = rows[i % len(rows)]
                    paths = {
                        k: str(index.parent.absolute() / row[k])
                        for k in ("path", "ligand_path")
                        if row.get(k)
                    }
                    writer.writerow({**row, **paths, "id": f"{row['id']}/{i}"})
            # The kernel's own count since the start of the program; rusage would count the memory of this one.
            code = (
                "import sys; from atomica.prep import main; main(sys.argv[1:]); "
                "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
            )
            command = [sys.executable, "-c", code, "build-graphs", str(many), "--shard-rows", "64"]
            done = subprocess.run(
                [*command, "--out", f"{folder}/graphs"], capture_output=True, text=True, check=False
            )
            manifest = Path(folder, "graphs", "manifest.json")
            if not manifest.is_file():
                sys.exit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr}")
            written = json.loads(manifest.read_text())["counts"]["complexes"]
        peak = int(done.stdout.split()[1]) / 1024
        print(f"{count:6} inputs, {written} complexes: {peak:6.0f} MiB at the peak")


def convolution(runs: int) -> None:
    """One full layer of the published width: 500 receivers, 8,000 edges, the same weights in both forms."""
    import torch
    from e3nn import o3

    from atomica.conv import FullyConnected, plan_edges
    from atomica.irreps import Layout, layer_slots, spherical_harmonics

    torch.manual_seed(0)
    hidden, receivers, degree, radial = 32, 500, 16, 128
    layout = Layout(layer_slots(hidden, 3))
    receiver = torch.arange(receivers).repeat_interleave(degree)
    sender = torch.randint(0, receivers, receiver.shape)
    plan = plan_edges(sender, receiver, torch.zeros_like(sender), receivers)
    layer = FullyConnected(layout, layout, radial)
    x = torch.randn(receivers, layout.dim, requires_grad=True)
    y = spherical_harmonics(torch.randn(len(sender), 3))
    features = torch.randn(len(sender), radial, requires_grad=True)
    irreps = "+".join(map(str, layout.slots))
    product = o3.FullyConnectedTensorProduct(irreps, "0e+1o+2e", irreps, shared_weights=False)
    flat, bias = [], []
    for path in layer.tables.paths:
        rows = layer.weights[path.target.name].detach()
        rows = rows[path.first_channel : path.first_channel + path.source.channels]
        flat.append(rows[:, :-1].permute(0, 2, 1).flatten(0, 1))
        bias.append(rows[:, -1].flatten())
    linear = torch.nn.Linear(radial, sum(map(len, bias)))
    with torch.no_grad():
        linear.weight.copy_(torch.cat(flat))
        linear.bias.copy_(torch.cat(bias))

    def ours() -> torch.Tensor:
        return layout.to_e3nn(layer(plan, x, y, features))

    def theirs() -> torch.Tensor:
        messages = product(layout.to_e3nn(x)[plan.sender], y, linear(features))
        total = torch.zeros(receivers, messages.shape[1]).index_add(0, plan.receiver, messages)
        return total / degree

    difference = float((ours() - theirs()).abs().max().detach())
    print(f"largest difference of the two: {difference:.1e}")
    seconds: dict[str, list[float]] = {}

    def clock(name: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    for run in range(runs + 1):
        if run == 1:
            seconds.clear()
        for name, function in (("ours", ours), ("e3nn", theirs)):
            with torch.no_grad():
                clock(f"{name} forward", function)
            clock(f"{name} forward + backward", lambda function=function: function().sum().backward())
    for what in ("forward", "forward + backward"):
        fast, slow = seconds[f"ours {what}"], seconds[f"e3nn {what}"]
        ratio = statistics.median(b / a for a, b in zip(fast, slow, strict=True))
        print(
            f"{what:>18}: ours {statistics.median(fast):6.3f} s, e3nn {statistics.median(slow):6.3f} s, "
            f"{ratio:5.1f} times as fast"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("build", "convolution", "memory"))
    parser.add_argument("index", nargs="?", type=Path, help="index for `build`")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what in ("build", "memory") and arguments.index is None:
        parser.error(f"{arguments.what} needs an index file")
    print(machine())
    if arguments.what == "build":
        build(arguments.index, arguments.runs)
    elif arguments.what == "memory":
        memory(arguments.index)
    else:
        convolution(arguments.runs)


if __name__ == "__main__":
    main()
