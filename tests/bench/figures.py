"""Prints figures of README.md beside this file, with the machine they were taken on.

    python tests/bench/figures.py build INDEX.csv     complexes per second of build-graphs, 1 and 2 threads
    python tests/bench/figures.py entries FOLDER      whole entries without an index, and hours for all of the PDB
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


ENTRIES, CORES, ATOMS = 230_000, 64, 8_000
"""Of the Protein Data Bank: entries today, and what is assumed to be the mean number of atoms of one."""


def one_build(inputs: list[str], threads: int, kind: str) -> tuple[float, dict[str, int]]:
    """Seconds and counts of one build into a fresh folder, as a command of its own or within this process."""
    from atomica import _prep

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as quiet:
        command = ["build-graphs", *inputs, "--out", f"{folder}/graphs", "--threads", str(threads)]
        errors = os.dup(2)
        start = time.perf_counter()
        if kind == "command":
            whole = [sys.executable, "-m", "atomica.prep", *command]
            code = subprocess.run(whole, stderr=quiet, check=False).returncode
        else:
            os.dup2(quiet.fileno(), 2)
            code = _prep.run(command)
            os.dup2(errors, 2)
        elapsed = time.perf_counter() - start
        os.close(errors)
        if code not in (0, 3):
            sys.exit(f"atomica-prep {' '.join(command)} failed with {code}")
        return elapsed, json.loads(Path(folder, "graphs", "manifest.json").read_text())["counts"]


def entries(folder: Path, runs: int, mean_atoms: int) -> None:
    """Whole entries with `--discover`, by 1 and by 2 threads; then what that means for the whole archive."""
    from atomica import _prep

    one_build([str(folder), "--discover"], 2, "in process")  # warms the disk cache
    pairs = []
    for _ in range(runs):
        one, counts = one_build([str(folder), "--discover"], 1, "in process")
        two, _ = one_build([str(folder), "--discover"], 2, "in process")
        pairs.append((one, two))
    atoms = files = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            atoms += len(_prep.read_structure(path).x)
            files += 1
        except _prep.AtomicaError:
            continue
    seconds = statistics.median(one for one, _ in pairs)
    gain = statistics.median(one / two for one, two in pairs)
    print(
        f"{folder}: {files} structures of {atoms / files:.0f} atoms in the mean, {counts['complexes']} complexes\n"
        f"on 1 thread: {files / seconds:.1f} structures/s, {atoms / seconds / 1e3:.0f} thousand atoms/s, "
        f"{counts['complexes'] / seconds:.0f} complexes/s; 2 threads {gain:.2f} times as fast, pair by pair"
    )
    for size, whose in ((atoms / files, "as large as these"), (mean_atoms, "which is assumed")):
        hours = ENTRIES * size * seconds / atoms / CORES / (gain / 2) / 3600
        print(
            f"{ENTRIES:,} entries of {size:,.0f} atoms in the mean, {whose}: {hours:.2f} hours on {CORES} cores, "
            f"if each does {gain / 2:.2f} of the work of one alone, as with 2 threads here"
        )


def build(index: Path, runs: int) -> None:
    """Whole builds into a fresh folder each time: as processes, and within this one, which has started already."""
    seconds: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for run in range(runs + 1):
        for kind in ("command", "in process"):
            for threads in (1, 2):
                elapsed, counts = one_build([str(index)], threads, kind)
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
                "import sys; from atomica.prep.command import main; main(sys.argv[1:]); "
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

    from atomica.data.edges import plan_edges
    from atomica.nn.convolution import FullyConnected
    from atomica.nn.irreps import COMPONENTS, Layout, layer_slots, spherical_harmonics

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
    tables, rows = layer.tables, (radial + 1) * receivers
    columns = {slot: tables.fan_in[slot] * COMPONENTS[slot.degree] for slot in tables.targets}
    outer = 2e-9 * rows * degree * sum(columns.values())
    product = 2e-9 * rows * sum(count * slot.channels for slot, count in columns.items())
    # backward makes the outer products again
    needed = {"forward": outer + product, "forward + backward": 4 * outer + 3 * product}
    for what, work in needed.items():
        fast, slow = seconds[f"ours {what}"], seconds[f"e3nn {what}"]
        ratio = statistics.median(b / a for a, b in zip(fast, slow, strict=True))
        print(
            f"{what:>18}: ours {statistics.median(fast):6.3f} s, e3nn {statistics.median(slow):6.3f} s, "
            f"{ratio:5.1f} times as fast; {work / statistics.median(fast):.0f} GFLOP/s"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("build", "entries", "memory", "convolution"))
    parser.add_argument("input", nargs="?", type=Path, help="index, or folder of structures for `entries`")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mean-atoms", type=int, default=ATOMS, help="of an entry of the PDB, for `entries`")
    arguments = parser.parse_args()
    if arguments.what != "convolution" and arguments.input is None:
        parser.error(f"{arguments.what} needs an index file, or a folder of structures for `entries`")
    print(machine())
    if arguments.what == "build":
        build(arguments.input, arguments.runs)
    elif arguments.what == "entries":
        entries(arguments.input, arguments.runs, arguments.mean_atoms)
    elif arguments.what == "memory":
        memory(arguments.input)
    else:
        convolution(arguments.runs)


if __name__ == "__main__":
    main()
