"""A checked spec → an assembled job: the data opened, labels encoded, the model built, the run folder looked at."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomica import spec
from atomica.files import FOLDER_LOCK
from atomica.jobs.train.data import _make_parts, _open_data, _open_features
from atomica.jobs.train.spec import Spec, read_spec
from atomica.nn.kernels import registry
from atomica.spec import Issues
from atomica.train.distributed import ALONE, Ranks

if TYPE_CHECKING:
    import torch

    from atomica.data.dataset import Dataset, Mixture
    from atomica.model.model import Model
    from atomica.train.checkpoint import Checkpoint
    from atomica.train.loader import Part

__all__ = ["CHECKPOINTS", "RESOLVED", "Job", "assemble"]


CHECKPOINTS = "checkpoints"
RESOLVED = "spec.toml"
"""What a run folder holds, by name."""


@dataclass
class Job:
    """Everything a run needs, opened and checked, before anything is written."""

    spec: Spec
    parts: dict[str, Part]
    texts: dict[str, dict[str, list[str | None]]]
    model: Model
    device: torch.device
    folder: Path
    resume: Checkpoint | None
    identity: dict[str, Any]
    started: list[str]
    """What was loaded from `model.init`, for a person."""


def assemble(
    source: spec.Source,
    *,
    resume: bool | None,
    dry: bool,
    ranks: Ranks = ALONE,
    issues: Issues | None = None,
    claim: Callable[[Path], None] | None = None,
) -> Job:
    """Read the spec, open the data, build the model. Raises SpecError with all that is wrong.

    resume: None resumes the run in the folder, if it has a checkpoint. dry: nothing is to be written. ranks: the
    processes that train together. issues: what is known to be wrong already. claim: called with the folder before a run
    there is looked at, and raises SpecError if another process writes into it.
    """
    issues = issues or Issues(source)
    checked = read_spec(source, issues)
    data = _open_data(source, issues)
    issues.raise_any()
    assert checked is not None

    import torch

    folder = Path(os.path.abspath(checked.run.folder))
    if claim is not None and (folder / RESOLVED).is_file():
        claim(folder)
    if resume is None:
        resume = _last(folder) is not None
    wanted = checked.device.kind
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        issues.add(("device", "kind"), "PyTorch finds no CUDA device; use auto or cpu")
    elif (problem := registry.kernel_problem(checked.device.kernel, wanted)) is not None:
        issues.add(("device", "kernel"), problem)
    if wanted == "cuda" and 0 < torch.cuda.device_count() < ranks.local_size:
        issues.add(
            ("device", "kind"),
            f"{ranks.local_size} processes need a GPU each, and PyTorch finds {torch.cuda.device_count()}; start "
            'fewer, or use kind = "cpu"',
            value=False,
        )
    checked = _inherit(checked, source, data["train"], issues, resume=resume)
    config = checked.model
    if config.modality_embedding and checked.data.input != "complex":
        issues.add(
            ("model", "modality_embedding"),
            f"has no effect with data.input = {checked.data.input!r}: one partner alone does not show what "
            'kind of interface it is; remove it, or use input = "complex"',
        )
    features = _open_features(checked, issues)
    parts, texts = _make_parts(checked, data, features, issues)
    found = _check_folder(folder, issues, resume=resume, dry=dry)
    issues.raise_any()

    if checked.device.threads:
        torch.set_num_threads(checked.device.threads)
    elif ranks.local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.local_size))
    device = torch.device(wanted)
    if device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    # On a CPU with several threads, PyTorch adds up the gradient of an indexing in any order unless told not to,
    # and two runs part ways after some dozen steps. On CUDA the same switch would refuse operations we need.
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    model, started = _build_model(checked, device, issues, resume=resume)
    _check_model(model, checked, issues)
    identity = {
        "settings": checked.identity(),
        "data": {name: part.rows.dataset.fingerprint for name, part in parts.items() if name != "test"},
    }
    if features is not None:
        identity["data"]["embeddings"] = features.fingerprint
    if found is not None:
        _check_resume(found, identity, folder)
        begun = found.state["progress"]["epoch"] + (found.state["progress"]["step_in_epoch"] > 0)
        if begun > checked.train.epochs:
            issues.add(("train", "epochs"), f"the run to resume is in epoch {begun} already; ask for as many")
    issues.raise_any()
    return Job(_absolute(checked, folder), parts, texts, model, device, folder, found, identity, started)


def _inherit(
    checked: Spec, source: spec.Source, data: Dataset | Mixture, issues: Issues, *, resume: bool
) -> Spec:
    """The spec with the settings of the encoder that it takes from `model.init`, and the data's vocabulary.

    Data without fragments suit a model that knows fragments: its vocabulary begins with theirs. A resumed run takes
    the settings from its own checkpoint, since the model it started from may be gone.
    """
    from atomica.errors import DataError
    from atomica.model.format import saved_encoder
    from atomica.model.start import inherit

    checked = replace(checked, model=replace(checked.model, block_types=data.block_types))
    origin = checked.init.init
    if origin is None:
        return checked
    last = _last(Path(os.path.abspath(checked.run.folder)))
    folder = str(last) if resume and last is not None else origin
    try:
        saved = saved_encoder(folder)
        larger = data.fragments == "none" and saved.get("block_types", 0) > data.block_types
        given = {*source.tree["model"], *(() if larger else ("block_types",))}
        config = inherit(checked.model, given, saved)
    except DataError as error:
        issues.add(("model", "init"), str(error).removeprefix(f"{folder}: "))
        return checked
    return replace(checked, model=config, init=replace(checked.init, init=os.path.abspath(origin)))


def _build_model(
    checked: Spec, device: torch.device, issues: Issues, *, resume: bool
) -> tuple[Model, list[str]]:
    """The model with its first weights, and what of them was loaded; also seeds every random-number generator."""
    import numpy as np
    import torch

    from atomica.errors import DataError
    from atomica.model.model import Model
    from atomica.model.start import initialise

    random.seed(checked.run.seed)
    np.random.seed(checked.run.seed)
    torch.manual_seed(checked.run.seed)
    heads = {head.name: head.cls(head.config, checked.model) for head in checked.heads}
    model = Model(
        checked.model,
        heads,
        kinds={head.name: head.common.kind for head in checked.heads},
        weights={head.name: head.common.weight for head in checked.heads},
    )
    started: list[str] = []
    if checked.init.init is not None and not resume:
        try:
            started = initialise(model, checked.init.init)
        except DataError as error:
            issues.add(("model", "init"), str(error))
    return model.to(device).use_kernel(checked.device.kernel), started


def _check_model(model: Model, checked: Spec, issues: Issues) -> None:
    """What `[train]` says of metrics and parts of the model, against those it has; the plots that heads name."""
    from atomica.errors import DataError
    from atomica.report import predictions
    from atomica.train.optimizer import part_problems
    from atomica.train.validation import monitor_of

    try:
        monitor_of(model, checked.train)
    except DataError as error:
        issues.add(("train", "monitor"), str(error).partition(": ")[2])
    for key, message in part_problems(model, checked.train):
        issues.add(("train", key), message, value=key != "rates")
    for index, head in enumerate(checked.heads):
        for message in predictions.unknown(head.cls.plots):
            issues.add(("head", index, "kind"), f"{head.cls.__name__}.plots: {message}")


def _last(folder: Path) -> Path | None:
    """The checkpoint to go on from in a run's folder, if there is one."""
    from atomica.train import checkpoint
    from atomica.train.saver import LAST

    return checkpoint.find(folder / CHECKPOINTS / LAST)


def _check_folder(folder: Path, issues: Issues, *, resume: bool, dry: bool) -> Checkpoint | None:
    """The checkpoint to resume from; an issue if the folder does not fit what is asked for."""
    from atomica.errors import DataError
    from atomica.train import checkpoint
    from atomica.train.saver import LAST

    last = _last(folder)
    if resume:
        if last is None:
            issues.add(
                ("run", "out"), f"{folder} holds no checkpoint to resume; leave out --resume", value=False
            )
            return None
        try:
            return checkpoint.read(folder / CHECKPOINTS / LAST)
        except DataError as error:
            issues.add(("run", "out"), str(error), value=False)
            return None
    if dry or not folder.exists():
        return None
    if not folder.is_dir():
        issues.add(("run", "out"), f"{folder} is a file", value=False)
    elif last is not None:
        issues.add(
            ("run", "out"),
            f"{folder} holds a run already; add --resume to go on with it, or change run.name or run.out",
            value=False,
        )
    elif any(file.name != FOLDER_LOCK for file in folder.iterdir()) and not (folder / RESOLVED).is_file():
        issues.add(
            ("run", "out"), f"{folder} is not empty and holds no run; give another run.out", value=False
        )
    return None


def _check_resume(found: Checkpoint, identity: Mapping[str, Any], folder: Path) -> None:
    """Raise SpecError if the checkpoint was made with other settings or data."""
    from atomica.errors import SpecError

    old = found.state["identity"]
    changed = [
        f"  {key}: {old['settings'].get(key, 'absent')!r} then, {value!r} now"
        for key, value in identity["settings"].items()
        if old["settings"].get(key) != value
    ]
    changed += [
        f"  data.{part}: other data than then"
        for part, sum_ in identity["data"].items()
        if old["data"].get(part) != sum_
    ]
    if changed:
        raise SpecError(
            f"cannot resume {folder}: it was started with other settings\n"
            + "\n".join(changed)
            + f"\nresume with {folder / RESOLVED}, or start a new run under another run.name"
        )


def _absolute(checked: Spec, folder: Path) -> Spec:
    """The spec with paths that mean the same from any current directory."""
    from atomica.data.dataset import DEMO
    from atomica.data.record import PARTS

    full: dict[str, Any] = {}
    for part in PARTS:
        paths = [
            path if path.startswith(DEMO) else os.path.abspath(path) for path in checked.data.paths(part)
        ]
        full[part] = tuple(paths) if len(paths) > 1 else next(iter(paths), None)
    files = tuple(os.path.abspath(path) for path in checked.data.feature_files)
    full["embeddings"] = files if len(files) > 1 else next(iter(files), None)
    return replace(checked, run=replace(checked.run, out=str(folder)), data=replace(checked.data, **full))
