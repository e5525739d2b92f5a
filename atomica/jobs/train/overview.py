"""What is about to run, for a person: data, model, steps; and a dry run of one step: modules, memory, time, disk."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atomica import environment
from atomica.data.labels import known_of
from atomica.data.sampling import counts
from atomica.errors import AtomicaError
from atomica.jobs.train.assembly import Assembled
from atomica.jobs.train.notes import notes
from atomica.train.distributed import ALONE
from atomica.train.loader import Batch
from atomica.train.optimizer import freeze, make_optimizer
from atomica.train.step import Step, Stepper, shares_of

__all__ = ["MIB", "dry_run", "known_texts", "overview", "peak_memory"]


MIB, GIB = 2**20, 2**30


def overview(job: Assembled) -> list[str]:
    """What is about to run, for a person: data, classes, model, steps."""
    checked = job.spec
    by = f"{job.model.kernel} convolution" if job.model.kernel else f"{job.model.config.kind} encoder"
    lines = [f"run     {checked.run.name}, seed {checked.run.seed}, on {job.device}, {by}"]
    seen = "both partners" if checked.data.input == "complex" else f"{checked.data.input} alone"
    for name, split in job.splits.items():
        rows = split.rows
        classes = []
        texts = {head: known_texts(job, head)[name] for head in split.known}
        for head, column in texts.items():
            values = Counter(str(text) for text in column)
            if len(values) <= 20:
                listing = ", ".join(f"{count} {value}" for value, count in sorted(values.items()))
                classes.append(listing if len(texts) == 1 else f"{head}: {listing}")
        if len(split.known) + sum(not head.labelled for head in checked.heads) > 1:
            lacking = {head: int((~known).sum()) for head, known in split.known.items()}
            classes += [f"{count} without {head}" for head, count in lacking.items() if count]
        for head, labels in split.block_targets.items():
            known = known_of(labels.values)
            values = Counter(
                str(text) for text, there in zip(labels.texts, known.tolist(), strict=True) if there
            )
            each = ", ".join(f"{count} {value}" for value, count in sorted(values.items()))
            listing = f": {each}" if len(values) <= 20 else ""
            lost = f", {labels.unmet} labels are of no block" if labels.unmet else ""
            classes.append(f"{head}: {int(known.sum())} blocks with a label{listing}{lost}")
        skipped = f"; skipped {counts(rows.skipped)}" if rows.skipped else ""
        if rows.cropped:
            skipped = f"; {rows.cropped} cropped to {checked.data.max_item_blocks} blocks{skipped}"
        lines.append(
            f"{name:<7} {len(rows)} complexes of {rows.dataset.name}, {seen}, {int(rows.blocks.sum())} blocks"
            + (f" ({'; '.join(classes)})" if classes else "")
            + skipped
        )
    if checked.data.fold is not None:
        lines.append(f"fold    {checked.data.fold} of column {checked.data.folds!r} is tested")
    if "test" not in job.splits:
        lines.append("test    none: there will be no evaluation")
    lines += [f"note    {line}" for line in notes(job.splits, job.texts, checked.heads)]
    lines += [f"start   {line}" for line in job.started]
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    train = job.learnt
    plan = train.epoch_plan(0)
    blocks = [train.blocks_of(batch) for batch in plan]
    complexes = float(np.mean([len(batch) for batch in plan]))
    steps, epochs, schedule = len(plan), checked.train.epochs, checked.train.schedule
    lines.append(
        f"model   {checked.model.kind} encoder, {parameters:,} parameters, "
        f"heads: {', '.join(head.name for head in checked.heads)}"
    )
    lines.append(
        f"steps   {steps} per epoch of {np.mean(blocks):.0f} blocks ({complexes:.1f} complexes) on average, "
        f"{max(blocks)} at most, over all ranks; {epochs} epochs, {steps * epochs} steps"
    )
    if job.both and epochs:
        lines.append(
            "refit   valid rows are learnt from, too: from epoch 1 their metrics tell nothing, and the last is kept"
        )
    if schedule.warmup_steps >= steps * epochs > 0:
        lines.append(f"note    the run is over before its warm-up of {schedule.warmup_steps} steps is")
    return lines


def known_texts(job: Assembled, head: str) -> dict[str, list[str | None]]:
    """The label texts of the complexes whose label is known, by part."""
    return {
        name: [
            text
            for text, known in zip(job.texts[name][head], split.known[head].tolist(), strict=True)
            if known
        ]
        for name, split in job.splits.items()
    }


def dry_run(job: Assembled, devices: int = 1) -> list[str]:
    """What two steps on the largest batch of the first epoch show, for a person; nothing is written.

    devices: processes that are to share each step; this one takes the share of the first, in as many shares as
    `device.accumulate` says. Raises NoMemoryError if that is too large for the device.
    """
    train, config = job.learnt, job.spec.train
    plan = train.epoch_plan(0)
    sizes = [train.blocks_of(batch) for batch in plan]
    draws, blocks = plan[int(np.argmax(sizes))], max(sizes)
    shares = shares_of(draws, train.blocks_each(draws), devices * job.spec.device.accumulate)[::devices]
    batches = [train.load(share, job.model, 0) for share in shares if len(share)]
    freeze(job.model, config)
    optimizer = make_optimizer(job.model, config)
    stepper = Stepper(job.model, optimizer, config, ALONE)
    free = _free_memory(job.device)
    try:
        # The first step pays for what is set up once.
        total = len(plan) * config.epochs
        step, kept, _ = _step(stepper, batches, total)
        _, _, seconds = _step(stepper, batches, total)
    except torch.cuda.OutOfMemoryError:
        raise NoMemoryError(
            f"the largest batch, {blocks} blocks, does not fit into the memory of {job.device}; raise "
            f"device.accumulate (now {job.spec.device.accumulate}), which does not change the result, or lower "
            "data.batch_blocks and data.max_item_blocks"
        ) from None
    unperturbed = sum(batch.unperturbed or 0 for batch in batches)
    still = f"{unperturbed} of them without anything to perturb, " if unperturbed else ""
    weights = _bytes(job.model.parameters())
    gradients = _bytes(parameter.grad for parameter in job.model.parameters() if parameter.grad is not None)
    moments = sum(
        _bytes(value for value in state.values() if torch.is_tensor(value))
        for state in optimizer.state.values()
    )
    average = weights if stepper.average is not None else 0
    shared = f", the share of one of {devices} processes" if devices > 1 else ""
    shared += f", in {len(batches)} shares" if len(batches) > 1 else ""
    epoch = seconds * sum(sizes) / blocks
    host = environment.hardware()
    gpus = "".join(f", {name}" for name in host.get("gpus", ()))
    lines = [
        f"host    {host['processor']}, {host['cores']} cores, {host['threads']} threads, "
        f"{host['memory_gib']} GiB{gpus}",
        *_modules(job),
        f"batch   {sum(len(batch.ids) for batch in batches)} complexes, {still}"
        f"{sum(batch.blocks for batch in batches)} blocks, the largest{shared}: loss {step.loss:.4f}, "
        f"gradient norm {step.norm:.3g}, {seconds:.2f} s",
        *([f"note    the {step.bad} is not finite; see train.max_skipped"] if step.bad else []),
        f"time    about {timedelta(seconds=round(epoch))} per epoch, "
        f"{timedelta(seconds=round(epoch * config.epochs))} for all, validation aside",
        f"memory  {peak_memory(job.device) / MIB:.0f} MiB at the peak{' of each process' if devices > 1 else ''}, of "
        f"them {weights / MIB:.1f} weights, {gradients / MIB:.1f} gradients, {moments / MIB:.1f} optimizer, "
        f"{kept / MIB:.0f} kept for the backward pass; {free / GIB:.1f} GiB were free",
        _disk(job, weights + moments + average),
    ]
    well = "" if step.bad else "all is well; "
    return [*lines, f"dry run: {well}nothing was written to {job.folder}"]


class NoMemoryError(AtomicaError):
    """The device has too little memory for a step."""


def _step(stepper: Stepper, batches: Sequence[Batch], total_steps: int) -> tuple[Step, int, float]:
    """What a step shows, the bytes kept between its forward and its backward pass, its seconds."""
    own = {parameter.untyped_storage().data_ptr() for parameter in stepper.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    began = time.perf_counter()
    counts = stepper.agree(batches, stop=False, save="").counts
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step = stepper.run(batches, counts, 0, total_steps)
    return step, sum(kept.values()) // len(batches), time.perf_counter() - began


def _modules(job: Assembled) -> list[str]:
    """Parameters of each module of the model, and how they are trained."""
    rates = job.spec.train.rates
    lines = []
    for module in (name for name in job.model.module_names() if name.count(".") == 1):
        parameters = list(job.model.get_submodule(module).parameters())
        frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
        within = [rate for rate in rates if module == rate or module.startswith(f"{rate}.")]
        notes = [f"rate {rates[max(within, key=len)]:g}"] if within else []
        notes += [f"{frozen:,} frozen"] if frozen else []
        size = sum(parameter.numel() for parameter in parameters)
        lines.append(f"module  {module:<24} {size:>12,} parameters{''.join(f', {note}' for note in notes)}")
    return lines


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # On macOS the kernel does not say how many pages are free, only how many there are.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: on a GPU by tensors, on a CPU by the whole process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _disk(job: Assembled, checkpoint: int) -> str:
    """What a checkpoint takes, and the room there is for them."""
    folder: Path = job.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f"disk    {checkpoint / MIB:.1f} MiB per checkpoint; {free / GIB:.1f} GiB are free in {folder}"
