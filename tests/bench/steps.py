"""Whole steps of the published model against the same model with the textbook convolution: time and memory.

    python tests/bench/steps.py --memory 20                      small, middle, large: ours against e3nn
    python tests/bench/steps.py --blocks 60 --variants ours e3nn torch cuequivariance
    python tests/bench/steps.py --blocks 1000 2000 4000 8000 --variants ours --runs 1      how it grows
    python tests/bench/steps.py --profile --blocks 1000          where a step of ours spends its time
    python tests/bench/steps.py --interface 20000                memory and time to embed one interface of so many atoms
    python tests/bench/steps.py --invariants --runs 9            what z_graph costs more than h_graph, in pairs of runs

The model is the pretraining one of the published size: 4 layers at each level, width 32, with the heads for noise and
masks. Its batches are complexes of the demo data set, up to so many blocks. `embed` is the encoder without gradients,
`gradient` a forward and backward pass of the pretraining loss, `step` that with clipping and Adam.

Variants: `ours` with the kernel that would be chosen, or `rust`, `torch`, `triton` by name; `e3nn` and `cuequivariance`
with their fully connected tensor products, one weight matrix per edge, as the original has it. They get the same
weights and batches, and must give the same embeddings. (cuEquivariance works on CPUs without its kernels;
OpenEquivariance works on GPUs alone and is not tried.)

Every variant lives in a process of its own, since memory is counted by process, and they take turns, so that a change
in the machine's speed meets all of them; CPU seconds, of all threads, say more where it does other work beside. What
would add more than `--memory` to what is loaded is stopped and shown as such. Ratios of time are medians over pairs of
runs; those of memory are of what the work adds (`added`) to what the process held before, with code, data and model
loaded. The share of the machine's rate of matrix products counts the arithmetic of the summed form alone, without what
is computed twice to save memory. With three sizes or more it is also shown what a block costs at each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

WORK = ("embed", "gradient", "step")
BASELINE = "e3nn"
NO_ROOM = "does not fit"
CONVOLUTION = "_Contract"
"""Name of its autograd function, in profiles."""
GIB = 2**30


# ------------------------------------------------------------------------------------------- what is measured


def batch(blocks: int, model: Any) -> tuple[Any, dict[str, Any]]:
    """Inputs and targets, as a loader leaves them: complexes of the demo set in order, up to `blocks` blocks.

    At least one complex; perturbed.
    """
    from atomica import open_dataset
    from atomica.data import graph, noise
    from atomica.data.transfer import moved

    dataset = open_dataset("demo://pockets")
    sizes = [len(record.block_types) for record in dataset]
    if blocks < 2 * min(sizes):
        rows = [int(np.argmin(np.abs(np.array(sizes) - blocks)))]
    else:
        rows = list(range(max(1, int(np.searchsorted(np.cumsum(sizes), blocks, side="right")))))
    config = noise.NoiseConfig(
        rotation_sigma=0.5, translation_sigma=1.0, torsion_sigma=0.5, mask_proportion=0.1
    )
    options = model.config.graph_options()
    made, found = graph.perturbed([dataset[i] for i in rows], config, noise.seeds(0, 0, rows), **options)
    targets = {"denoise": found.perturbation, "masked_block": found.mask_labels}
    device = next(model.parameters()).device
    return model.prepare(made, targets).planned().to(device), moved(targets, device)


def published(device: str) -> Any:
    """The model of the published size with its pretraining heads, the same weights in every process."""
    import torch

    from atomica import EncoderConfig, Model
    from atomica.heads import head_class

    torch.manual_seed(0)
    config = EncoderConfig(layers=4, edge_size=32, modality_embedding=True)
    heads = {}
    for kind in ("denoise", "masked_block"):
        cls = head_class(kind)
        heads[kind] = cls(cls.Config(), config)
    return Model(config, heads).to(device)


def textbook(own: Any, library: str) -> Any:
    """A convolution with one weight matrix per edge, from `own`'s weights, to be put in its place."""
    import torch

    from atomica.nn.irreps import COMPONENTS

    def named(pairs: list[tuple[int, int, int]]) -> str:
        return "+".join(f"{count}x{degree}{'e' if parity > 0 else 'o'}" for count, degree, parity in pairs)

    sides = [[(s.channels, s.degree, s.parity) for s in layout.slots] for layout in (own.inputs, own.outputs)]
    irreps = [named(side) for side in (sides[0], [(1, *pair) for pair in own.harmonics], sides[1])]
    if library == "e3nn":
        from e3nn import o3

        product = o3.FullyConnectedTensorProduct(*irreps, shared_weights=False, internal_weights=False)
    else:
        import cuequivariance as cue
        import cuequivariance_torch as cuet

        on_gpu = next(own.parameters()).is_cuda
        product = cuet.FullyConnectedTensorProduct(
            *(cue.Irreps("O3", text) for text in irreps),
            layout=cue.mul_ir,
            shared_weights=False,
            internal_weights=False,
            method="fused_tp" if on_gpu else "naive",
        )
    flat, bias = [], []
    for path in own.tables.paths:
        rows = own.weights[path.target.name].detach()
        rows = rows[path.first_channel : path.first_channel + path.source.channels]
        flat.append(rows[:, :-1].permute(0, 2, 1).flatten(0, 1))
        bias.append(rows[:, -1].flatten())
    scalars = sum(slot.channels * COMPONENTS[slot.degree] for slot in own.outputs.slots if slot.degree == 0)

    class Textbook(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = product
            self.linear = torch.nn.Linear(own.radial, sum(map(len, bias)))
            with torch.no_grad():
                self.linear.weight.copy_(torch.cat(flat))
                self.linear.bias.copy_(torch.cat(bias))

        def forward(
            self, plan: Any, x: Any, y: Any, hidden: Any, *, scalars_only: bool = False
        ) -> torch.Tensor:
            (real,) = torch.nonzero(plan.mean, as_tuple=True)
            sender = own.inputs.to_e3nn(x)[plan.sender[real]]
            messages = self.product(sender, y[real], self.linear(hidden[real]))
            messages = messages * plan.mean[real].to(messages)[:, None]
            total = x.new_zeros(plan.num_nodes, messages.shape[1])
            total = own.outputs.from_e3nn(total.index_add(0, plan.receiver[real], messages))
            return total[:, :scalars] if scalars_only else total

    return Textbook().to(next(own.parameters()).device)


def counts(model: Any, inputs: Any, targets: dict[str, Any]) -> dict[str, float]:
    """Floating-point operations of each work."""
    forward = flops(model, lambda: model.loss(inputs, targets))
    return {
        "embed": flops(model, lambda: model.encode(inputs)),
        "gradient": 3 * forward,
        "step": 3 * forward,
    }


def flops(model: Any, work: Callable[[], object]) -> float:
    """Floating-point operations of the convolutions in `work`, forward, in the summed form: outer products, weights.

    They are counted, not done: results are zeros meanwhile.
    """
    import torch

    from atomica.nn.convolution import FullyConnected
    from atomica.nn.irreps import COMPONENTS

    found = 0

    def count(
        module: Any, plan: Any, x: Any, y: Any, hidden: Any, *, scalars_only: bool = False
    ) -> torch.Tensor:
        nonlocal found
        edges = int((plan.mean > 0).sum())
        for slot in module.tables.targets:
            if scalars_only and slot.degree:
                continue
            outer = module.tables.fan_in[slot] * COMPONENTS[slot.degree] * (module.radial + 1)
            found += 2 * outer * (edges + len(plan.rows) * slot.channels)
        return x.new_zeros(plan.num_nodes, module.outputs.channels[0] if scalars_only else module.outputs.dim)

    real = FullyConnected.forward
    FullyConnected.forward = count  # type: ignore[assignment]
    try:
        with torch.no_grad():
            work()
    finally:
        FullyConnected.forward = real  # type: ignore[method-assign]
    return float(found)


def product_rate(device: str) -> float:
    """Operations per second of a large float32 matrix product, the best of a few."""
    import torch

    side = 2048
    one, other = torch.randn(2, side, side, device=device)
    best = 0.0
    for _ in range(6):
        start = time.perf_counter()
        result = one @ other
        float(result[0, 0])  # waits for a GPU
        best = max(best, 2.0 * side**3 / (time.perf_counter() - start))
    return best


# -------------------------------------------------------------------------------------------------- processes


def resident(what: str) -> int:
    """Memory of this process in bytes, as the kernel counts it: VmRSS now, VmHWM at the most so far, or VmData."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    return 0


def limit(memory: float, cuda: bool) -> None:
    """Refuse memory beyond what is held now and `memory` GiB."""
    import torch

    if cuda:
        whole = torch.cuda.get_device_properties(0).total_memory
        share = (torch.cuda.memory_allocated() + memory * GIB) / whole
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (resident("VmData") + int(memory * GIB),) * 2)


def worker(arguments: argparse.Namespace) -> None:
    """Build one variant, then do what standard input asks for, answering each line with one of JSON."""
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    from atomica.nn import convolution as conv
    from atomica.nn.kernels.registry import CHOICES

    cuda = arguments.device == "cuda"
    (variant,) = arguments.variants
    (blocks,) = arguments.blocks
    model = published(arguments.device)
    inputs, targets = batch(blocks, model)
    if variant in CHOICES:
        model.use_kernel(variant)
    elif variant != "ours":
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, conv.FullyConnected):
                    setattr(parent, name, textbook(child, variant))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)  # as in training

    def embed() -> None:
        with torch.no_grad():
            found = model.encode(inputs)
        if arguments.embedding:
            np.save(arguments.embedding, found.graph.cpu().numpy())

    def gradient() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss_of(model.outputs(inputs), targets).total.backward()

    def step() -> None:
        gradient()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    works: dict[str, Callable[[], None]] = {"embed": embed, "gradient": gradient, "step": step}
    sizes = {
        "complexes": inputs.num_graphs,
        "blocks": len(inputs.graph_of_block),
        "atoms": len(inputs.block_of_atom),
        "edges": len(inputs.atoms.edges.sender) + len(inputs.blocks.edges.sender),
        "parameters": sum(p.numel() for p in model.parameters()),
        "MiB before": (torch.cuda.memory_allocated() if cuda else resident("VmRSS")) >> 20,
    }
    if arguments.profile:
        profile(step, arguments.runs)
        return
    if arguments.memory:
        limit(arguments.memory, cuda)
    print(json.dumps(sizes), flush=True)
    for line in sys.stdin:
        start, busy = time.perf_counter(), time.process_time()
        try:
            works[line.strip()]()
        except (RuntimeError, MemoryError) as error:
            if "memory" not in str(error) and not isinstance(error, MemoryError):
                raise
            print(json.dumps({"failed": NO_ROOM}), flush=True)
            return
        if cuda:
            torch.cuda.synchronize()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
        print(json.dumps({"seconds": seconds, "cpu": busy, "peak": peak}), flush=True)


def interface(atoms: int) -> Any:
    """The graph of one complex of at least `atoms` atoms: interfaces of the demo set, side by side."""
    from atomica import graph_from_arrays, keys, open_dataset

    records, count = [], 0
    for record in open_dataset("demo://pockets"):
        if count >= atoms:
            break
        records.append(record)
        count += len(record.atom_types)
    places = [60.0 * np.array([i // 36, i // 6 % 6, i % 6]) for i in range(len(records))]
    x = np.concatenate(
        [r.positions - r.positions.mean(axis=0) + at for r, at in zip(records, places, strict=True)]
    )
    atom_types = np.concatenate([r.atom_types for r in records]).astype(int)
    names = ("block_types", "block_lengths", "segment_ids")
    types, lengths, segments = (np.concatenate([getattr(r, n) for r in records]).astype(int) for n in names)
    of_atom, ordinary = np.repeat(np.arange(len(types)), lengths), types != keys.GLOBAL_BLOCK
    blocks, atom_rows = [], []
    for segment in (0, 1):
        own = ordinary & (segments == segment)
        # the first global block of the partner serves for all of it, at its centre
        hub = np.flatnonzero(~ordinary & (segments == segment))[:1]
        x[of_atom == hub] = x[own[of_atom]].mean(axis=0)
        blocks += [hub, np.flatnonzero(own)]
        atom_rows += [np.flatnonzero(of_atom == hub), np.flatnonzero(own[of_atom])]
    b, a = np.concatenate(blocks), np.concatenate(atom_rows)
    return graph_from_arrays(x[a], types[b], atom_types[a], lengths[b], segments[b], [len(b)])


def embed_interface(atoms: int) -> None:
    """Prints the memory and the time to embed one interface with the published model."""
    import torch

    model, graph = published("cpu").eval(), interface(atoms)
    before = resident("VmHWM")
    start = time.perf_counter()
    with torch.no_grad():
        model.encode(graph)
    seconds = time.perf_counter() - start
    peak = resident("VmHWM")
    print(
        f"one interface of {graph.num_nodes('atom'):,} atoms in {graph.num_nodes('block'):,} blocks: "
        f"{peak >> 20} MiB at the peak, {before >> 20} before; {seconds:.1f} s"
    )


def embed_invariants(arguments: argparse.Namespace) -> None:
    """Prints how much longer the invariants of complexes take than their embeddings, for each size of batch."""
    import torch

    from atomica.nn.representations import Representation

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = published("cpu").eval()
    for blocks in arguments.blocks:
        graph, _ = batch(blocks, model)
        seconds: dict[str, list[float]] = {"h_graph": [], "z_graph": []}
        with torch.no_grad():
            for run in range(arguments.runs + 1):
                for name in list(seconds)[:: 1 if run % 2 else -1]:
                    start = time.process_time()
                    model.represent(graph, Representation(name))
                    if run:
                        seconds[name].append(time.process_time() - start)
        ratios = [z / h for h, z in zip(*seconds.values(), strict=True)]
        h, z = (statistics.median(found) for found in seconds.values())
        print(
            f"{len(graph.segment):,} blocks: {h:.2f} CPU seconds, with invariants {z:.2f}; median of "
            f"{len(ratios)} pairs {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def profile(step: Callable[[], None], runs: int) -> None:
    """Prints the share of each kind of work in a step: the convolution, and the operations that take longest."""
    import torch

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(runs):
            step()
    rows = found.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    product = sum(
        row.self_cpu_time_total for row in rows if row.key in (CONVOLUTION, f"{CONVOLUTION}Backward")
    )
    print(f"the convolution's sums and products, forward and backward: {product / total:.1%} of a step")
    print(f"{'share':>6} {'ms/step':>8} {'calls':>6}  operation")
    for row in sorted(rows, key=lambda row: -row.self_cpu_time_total)[:25]:
        own = row.self_cpu_time_total
        print(f"{own / total:6.1%} {own / runs / 1000:8.1f} {row.count // runs:6}  {row.key}")


class Variant:
    """One variant in a process of its own, and what it has answered."""

    def __init__(self, name: str, blocks: int, embedding: Path, arguments: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", "--variants", name, "--blocks", str(blocks)]
        command += ["--embedding", str(embedding), "--device", arguments.device]
        command += ["--memory", str(arguments.memory), "--threads", str(arguments.threads)]
        self.name, self.embedding = name, embedding
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seconds: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}
        self.peak: dict[str, int] = {}
        self.failed = ""
        self.sizes = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            # killed for memory, or an error that it has printed
            self.failed = NO_ROOM if self.process.wait() < 0 else "failed"
            return {}
        found: dict[str, Any] = json.loads(line)
        self.failed = found.get("failed", "")
        return found

    def do(self, work: str, keep: bool) -> None:
        """Have it do `work` once; `keep`: count the time."""
        if self.failed:
            return
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(work + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and what it last said tells why
        found = self._answer()
        if not self.failed:
            self.peak[work] = found["peak"]
            if keep:
                self.seconds.setdefault(work, []).append(found["seconds"])
                self.cpu.setdefault(work, []).append(found["cpu"])

    def added(self, work: str) -> int:
        """MiB that the work has taken at most beyond what the process held before."""
        return max(1, (self.peak[work] >> 20) - int(self.sizes["MiB before"]))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(blocks: int, arguments: argparse.Namespace, rate: float) -> Variant:
    """All variants on one batch: run them in turn and print the table; returns the first one."""
    with tempfile.TemporaryDirectory() as folder:
        variants = [
            Variant(name, blocks, Path(folder, f"{name}.npy"), arguments) for name in arguments.variants
        ]
        for work in WORK:
            for run in range(arguments.runs + 1):
                for variant in variants:
                    variant.do(work, keep=run > 0 or arguments.runs == 0)
        for variant in variants:
            variant.close()
        shown = next((variant.sizes for variant in variants if variant.sizes), {})
        print("\n" + ", ".join(f"{count:,} {name}" for name, count in shown.items()))
        model = published("cpu")
        inputs, targets = batch(blocks, model)
        table(variants, counts(model, inputs, targets), rate)
        reference = next((v for v in variants if v.name == BASELINE and v.embedding.exists()), None)
        for variant in variants:
            if reference and variant is not reference and variant.embedding.exists():
                error = np.abs(np.load(variant.embedding) - np.load(reference.embedding)).max()
                print(f"embeddings of {variant.name} and {reference.name} differ by at most {error:.1e}")
    return variants[0]


def growth(sizes: list[Variant]) -> None:
    """Prints what a block costs of a step at each size, against the first, and how far that is from a straight line.

    CPU seconds, which other work on the machine changes least, and memory that the step adds.
    """
    sizes = [variant for variant in sizes if "step" in variant.cpu]
    if len(sizes) < 3:
        return
    blocks = np.array([variant.sizes["blocks"] for variant in sizes], dtype=float)
    kinds = {
        "CPU seconds": np.array([statistics.median(variant.cpu["step"]) for variant in sizes]),
        "MiB added": np.array([variant.added("step") for variant in sizes], dtype=float),
    }
    print(f"\nhow a step of {sizes[0].name} grows")
    for name, values in kinds.items():
        each = values / blocks
        slope, start = np.polyfit(blocks, values, 1)
        off = np.abs(values - (start + slope * blocks)).max() / values.max()
        shown = ", ".join(f"{n:,.0f}: {v / each[0]:.2f}" for n, v in zip(blocks, each, strict=True))
        print(
            f"{name} per block, against {blocks[0]:,.0f} blocks: {shown}; line {start:.3g} + {slope:.3g} per block, "
            f"off by at most {off:.1%} of the largest"
        )


def table(variants: list[Variant], needed: dict[str, float], rate: float) -> None:
    """Prints a line for each work and variant."""
    first = variants[0]
    print(
        f"{'':10} {'':16} {'seconds':>9} {'CPU s':>8} {'of rate':>8} {'peak MiB':>9} {'added':>8}   {first.name} is"
    )
    for work in WORK:
        for variant in variants:
            line = f"{work:10} {variant.name:16}"
            if work not in variant.seconds:
                print(f"{line} {variant.failed or 'failed'}")
                continue
            times = variant.seconds[work]
            used = needed[work] / statistics.median(times) / rate
            line += (
                f" {statistics.median(times):9.3f} {statistics.median(variant.cpu[work]):8.2f} {used:8.0%}"
            )
            line += f" {variant.peak[work] >> 20:9} {variant.added(work):8}"
            if variant is not first and work in first.seconds:
                ratio = statistics.median(b / a for a, b in zip(first.seconds[work], times, strict=True))
                line += f"   {ratio:5.1f} times as fast, {first.added(work) / variant.added(work):.2f} of the memory"
            print(line)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[30, 500, 1000, 4000], help="sizes of batches"
    )
    parser.add_argument("--variants", nargs="+", default=["ours", BASELINE], help="the first is ours")
    parser.add_argument("--runs", type=int, default=3, help="runs that count, after one that does not")
    parser.add_argument("--memory", type=float, default=0, help="GiB that the work may add; 0: no limit")
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch and our kernel; 0: its choice")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--interface", type=int, metavar="ATOMS", help="embed one interface instead")
    parser.add_argument("--invariants", action="store_true", help="what invariants cost instead")
    parser.add_argument(
        "--profile", action="store_true", help="the operations of a step of the first variant"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--embedding", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    from figures import machine

    print(machine())
    if arguments.interface:
        embed_interface(arguments.interface)
        return
    if arguments.invariants:
        embed_invariants(arguments)
        return
    if arguments.profile:
        arguments.variants, arguments.blocks = arguments.variants[:1], arguments.blocks[:1]
        worker(arguments)
        return
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rate = product_rate(arguments.device)
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s with {torch.get_num_threads()} threads")
    growth([compare(blocks, arguments, rate) for blocks in arguments.blocks])


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
