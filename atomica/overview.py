"""What is about to run, for a person: data, model, steps; and a dry run of one step: parts, memory, time, disk."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomica.assembly import Job, counts
from atomica.errors import AtomicaError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from atomica.train.parts import Batch

__all__ = ["MIB", "dry_run", "known_texts", "overview", "peak_memory"]

MIB, GIB = 2**20, 2**30


def overview(job: Job) -> list[str]:
    """What is about to run, for a person: data, classes, model, steps."""
    import numpy as np
    import torch

    from atomica.conv import kernel_for

    checked = job.spec
    kernel = kernel_for(torch.empty(0, device=job.device))
    lines = [f"run     {checked.run.name}, seed {checked.run.seed}, on {job.device}, {kernel} convolution"]
    seen = "both partners" if checked.data.input == "complex" else f"{checked.data.input} alone"
    for name, part in job.parts.items():
        rows = part.rows
        classes = []
        texts = {head: known_texts(job, head)[name] for head in part.known}
        for head, column in texts.items():
            values = Counter(str(text) for text in column)
            if len(values) <= 20:
                listing = ", ".join(f"{count} {value}" for value, count in sorted(values.items()))
                classes.append(listing if len(texts) == 1 else f"{head}: {listing}")
        if len(part.known) + sum(not head.labelled for head in checked.heads) > 1:
            lacking = {head: int((~known).sum()) for head, known in part.known.items()}
            classes += [f"{count} without {head}" for head, count in lacking.items() if count]
        skipped = f"; skipped {counts(rows.skipped)}" if rows.skipped else ""
        if rows.cropped:
            skipped = f"; {rows.cropped} cropped to {checked.data.max_item_blocks} blocks{skipped}"
        lines.append(
            f"{name:<7} {len(rows)} complexes of {rows.dataset.name}, {seen}, {int(rows.blocks.sum())} blocks"
            + (f" ({'; '.join(classes)})" if classes else "")
            + skipped
        )
    if "test" not in job.parts:
        lines.append("test    none: there will be no evaluation")
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if one in job.parts and other in job.parts:
            shared = set(job.parts[one].rows.ids) & set(job.parts[other].rows.ids)
            if shared:
                lines.append(
                    f"note    {len(shared)} complexes are in {one} and in {other}, {min(shared)} for one"
                )
    lines += [f"start   {line}" for line in job.started]
    parameters = sum(parameter.numel() for parameter in job.model.parameters())
    train = job.parts["train"]
    plan = train.epoch_plan(0)
    blocks = [train.blocks_of(batch) for batch in plan]
    complexes = float(np.mean([len(batch) for batch in plan]))
    steps, epochs, schedule = len(plan), checked.train.epochs, checked.train.schedule
    lines.append(f"model   {parameters:,} parameters, heads: {', '.join(h.name for h in checked.heads)}")
    lines.append(
        f"steps   {steps} per epoch of {np.mean(blocks):.0f} blocks ({complexes:.1f} complexes) on average, "
        f"{max(blocks)} at most, over all ranks; {epochs} epochs, {steps * epochs} steps"
    )
    if schedule.warmup_steps >= steps * epochs:
        lines.append(f"note    the run is over before its warm-up of {schedule.warmup_steps} steps is")
    return lines


def known_texts(job: Job, head: str) -> dict[str, list[str | None]]:
    """The label texts of the complexes whose label is known, by part."""
    return {
        name: [
            text
            for text, known in zip(job.texts[name][head], part.known[head].tolist(), strict=True)
            if known
        ]
        for name, part in job.parts.items()
    }


def dry_run(job: Job) -> list[str]:
    """What two steps on the largest batch of the first epoch show, for a person; nothing is written.

    Raises NoMemoryError if the batch is too large for the device.
    """
    import numpy as np
    import torch

    from atomica.train.optimizer import freeze, make_optimizer

    train, config = job.parts["train"], job.spec.train
    plan = train.epoch_plan(0)
    sizes = [train.blocks_of(batch) for batch in plan]
    batch = train.load(plan[int(np.argmax(sizes))], job.model, 0)
    freeze(job.model, config)
    optimizer = make_optimizer(job.model, config)
    free = _free_memory(job.device)
    try:
        # The first step pays for what is set up once.
        loss, norm, kept, _ = _step(job, batch, optimizer)
        _, _, _, seconds = _step(job, batch, optimizer)
    except torch.cuda.OutOfMemoryError:
        raise NoMemoryError(
            f"the largest batch, {batch.blocks} blocks, does not fit into the memory of {job.device}; lower "
            "data.batch_blocks and data.max_item_blocks"
        ) from None
    still = f"{batch.unperturbed} of them without anything to perturb, " if batch.unperturbed else ""
    weights = _bytes(job.model.parameters())
    gradients = _bytes(parameter.grad for parameter in job.model.parameters() if parameter.grad is not None)
    moments = sum(
        _bytes(value for value in state.values() if torch.is_tensor(value))
        for state in optimizer.state.values()
    )
    lines = [
        *_parts(job),
        f"batch   {len(batch.ids)} complexes, {still}{batch.blocks} blocks, the largest: loss {loss:.4f}, "
        f"gradient norm {norm:.3g}, {seconds:.2f} s",
        f"time    about {timedelta(seconds=round(seconds * sum(sizes) / batch.blocks))} per epoch, "
        f"{timedelta(seconds=round(seconds * sum(sizes) / batch.blocks * config.epochs))} for all, validation aside",
        f"memory  {peak_memory(job.device) / MIB:.0f} MiB at the peak, of them {weights / MIB:.1f} weights, "
        f"{gradients / MIB:.1f} gradients, {moments / MIB:.1f} optimizer, {kept / MIB:.0f} kept for the backward pass; "
        f"{free / GIB:.1f} GiB were free",
        _disk(job, weights + moments),
    ]
    return [*lines, f"dry run: all is well; nothing was written to {job.folder}"]


class NoMemoryError(AtomicaError):
    """The device has too little memory for a step."""


def _step(job: Job, batch: Batch, optimizer: Any) -> tuple[float, float, int, float]:
    """Loss and gradient norm of a step, the bytes kept between its forward and its backward pass, its seconds."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in job.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = job.model.loss_of(job.model.outputs(batch.graph), batch.targets, batch.rows)
    losses.total.backward()
    norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), float("inf"))
    optimizer.step()
    loss = float(losses.total.detach())  # waits for the device
    return loss, float(norm), sum(kept.values()), time.perf_counter() - began


def _parts(job: Job) -> list[str]:
    """Parameters of each part of the model, and how they are trained."""
    rates = job.spec.train.rates
    lines = []
    for part in (name for name in job.model.part_names() if name.count(".") == 1):
        parameters = list(job.model.get_submodule(part).parameters())
        frozen = sum(parameter.numel() for parameter in parameters if not parameter.requires_grad)
        within = [rate for rate in rates if part == rate or part.startswith(f"{rate}.")]
        notes = [f"rate {rates[max(within, key=len)]:g}"] if within else []
        notes += [f"{frozen:,} frozen"] if frozen else []
        size = sum(parameter.numel() for parameter in parameters)
        lines.append(f"part    {part:<24} {size:>12,} parameters{''.join(f', {note}' for note in notes)}")
    return lines


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    # On macOS the kernel does not say how many pages are free, only how many there are.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: on a GPU by tensors, on a CPU by the whole process."""
    import resource

    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Kibibytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _disk(job: Job, checkpoint: int) -> str:
    """What a checkpoint takes, and the room there is for them."""
    folder: Path = job.folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return f"disk    {checkpoint / MIB:.1f} MiB per checkpoint; {free / GIB:.1f} GiB are free in {folder}"
