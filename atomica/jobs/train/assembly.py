"""A checked spec → an assembled job: the data opened, labels encoded, the model built, the run folder looked at."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from atomica import spec
from atomica.data.dataset import Dataset, Mixture
from atomica.data.features import BlockFeatures
from atomica.errors import DataError
from atomica.evaluation.statistics import undefined
from atomica.files import CHECKPOINTS, LAST, SPEC, sha256_of
from atomica.heads import values_met
from atomica.jobs import folder
from atomica.jobs.job import Request
from atomica.jobs.sections import absolute, pinned
from atomica.jobs.train.data import make_splits, open_data, open_features
from atomica.jobs.train.spec import Spec, read_spec
from atomica.model.contract import Contract
from atomica.model.format import saved_encoder
from atomica.model.model import Model, saved_contract
from atomica.model.named import locate
from atomica.model.start import inherit, initialise, take_label_scales
from atomica.report import predictions
from atomica.spec import Issues, Problems
from atomica.train import checkpoint
from atomica.train.checkpoint import Checkpoint
from atomica.train.loader import Split
from atomica.train.optimizer import module_problems
from atomica.train.validation import monitor_of

__all__ = ["Assembled", "assemble", "last_checkpoint"]


@dataclass(frozen=True)
class Assembled:
    """Everything a run needs, opened and checked, before anything is written."""

    spec: Spec
    splits: dict[str, Split]
    both: Split | None
    """Training and validation rows, if they are learnt from together."""
    texts: dict[str, dict[str, list[str | None]]]
    model: Model
    device: torch.device
    folder: Path
    resume: Checkpoint | None
    identity: dict[str, Any]
    started: list[str]
    """What was loaded from `model.init`, for a person."""

    @property
    def learnt(self) -> Split:
        """The rows that epochs go through."""
        return self.both or self.splits["train"]


def assemble(source: spec.Source, request: Request, *, issues: Issues | None = None) -> Assembled:
    """Read the spec, open the data, build the model. Raises SpecError with all that is wrong.

    issues: what is known to be wrong already.
    """
    issues = issues or Issues(source)
    checked = read_spec(source, issues)
    data = open_data(source, issues)
    issues.raise_any()
    assert checked is not None
    checked = replace(checked, init=pinned(checked.init, "model", issues))
    issues.raise_any()

    where = checked.run.folder
    if not request.dry and request.ranks.first and (where / SPEC).is_file():
        request.claim(where)
    begun = last_checkpoint(where) is not None
    resume = begun if request.resume is None else request.resume
    device = checked.device.find(issues, request.ranks)
    checked = _inherit(checked, source, data["train"], issues, resume=resume)
    if checked.model.modality_embedding and checked.data.input != "complex":
        issues.add(
            ("model", "modality_embedding"),
            f"has no effect with data.input = {checked.data.input!r}: one partner alone does not show what "
            'kind of interface it is; remove it, or use input = "complex"',
        )
    features = open_features(checked, issues)
    made = make_splits(checked, data, features, issues)
    splits = made.each
    folder.check(where, issues, begun=begun, resume=resume, dry=request.dry)
    found = _read_checkpoint(where, issues) if resume and begun else None
    issues.raise_any()

    checked.device.use(device, request.ranks)
    targets = splits["train"].known_targets()
    model, started = _build_model(checked, device, issues, targets, found)
    model.made_for = _contract(checked, data["train"], features)
    _check_model(model, checked, splits["valid"], issues)
    identity = {
        "settings": checked.identity(),
        "data": {name: split.rows.dataset.fingerprint for name, split in splits.items() if name != "test"},
    }
    if features is not None:
        identity["data"]["embeddings"] = features.fingerprint
    for key in ("block_labels", "vectors"):
        if (path := getattr(checked.data, key)) is not None:
            identity["data"][key] = sha256_of(Path(path))
    if found is not None:
        folder.check_same(where, found.state["identity"], identity)
        begun_epoch = found.state["progress"]["epoch"] + (found.state["progress"]["step_in_epoch"] > 0)
        if begun_epoch > checked.train.epochs:
            issues.add(
                ("train", "epochs"), f"the run to resume is in epoch {begun_epoch} already; ask for as many"
            )
    issues.raise_any()
    resolved = replace(
        checked,
        run=replace(checked.run, out=str(where)),
        data=absolute(checked.data),
        init=absolute(checked.init),
    )
    return Assembled(resolved, splits, made.both, made.texts, model, device, where, found, identity, started)


def _inherit(
    checked: Spec, source: spec.Source, data: Dataset | Mixture, issues: Issues, *, resume: bool
) -> Spec:
    """The spec with the settings of the encoder that it takes from `model.init`, and the data's vocabulary.

    Data without fragments suit a model that knows fragments: its vocabulary begins with theirs. A resumed run takes
    the settings from its own checkpoint, since the model it started from may be gone.
    """
    checked = replace(checked, model=replace(checked.model, block_types=data.block_types))
    origin = checked.init.init
    if origin is None:
        return checked
    if not resume and not checked.init.force:
        _check_contract(origin, data, issues)
    last = last_checkpoint(checked.run.folder)
    folder = str(last) if resume and last is not None else origin
    try:
        saved = saved_encoder(locate(folder))
        larger = data.fragments == "none" and saved.get("block_types", 0) > data.block_types
        given = {*source.tree["model"], *(() if larger else ("block_types",))}
        config = inherit(checked.model, given, saved)
    except DataError as error:
        issues.add(("model", "init"), str(error).removeprefix(f"{folder}: "))
        return checked
    return replace(checked, model=config)


def _check_contract(origin: str, data: Dataset | Mixture, issues: Issues) -> None:
    """Issues where the data were made otherwise than those of the model that a run starts from."""
    try:
        found = saved_contract(origin).problems(data.origin)
    except DataError:
        return  # said where its settings are read
    for text in found.values():
        issues.add(
            ("model", "init"), f"data.train was built with {text}; build it alike, or set model.force = true"
        )


def _contract(checked: Spec, data: Dataset | Mixture, features: BlockFeatures | None) -> Contract:
    """What the model is made for."""
    labels = {}
    for head in checked.heads:
        if head.labelled or head.on_blocks:
            names = {key: getattr(head.config, key, None) for key in ("classes", "positive", "negative")}
            labels[head.name] = {
                "column": head.common.label,
                **({"unit": head.common.unit} if head.common.unit else {}),
                **{key: name for key, name in names.items() if name},
            }
    read = {} if features is None else {path.name: features.fingerprint for path in features.paths}
    # Where partners were seen alone, too, either will do.
    view = None if checked.noise.lone_proportion else checked.data.input
    return Contract(view=view, origin=data.origin, features=read, labels=labels)


def _build_model(
    checked: Spec,
    device: torch.device,
    issues: Issues,
    targets: Mapping[str, Tensor],
    found: Checkpoint | None,
) -> tuple[Model, list[str]]:
    """The model with its first weights, and what of them was loaded; also seeds every random-number generator.

    targets: of heads with labels, the known ones of training. found: the checkpoint to go on from.
    """
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
    for name, target in targets.items():
        heads[name].learn_labels(target)
    if found is not None:
        take_label_scales(model, found.folder)
    elif checked.init.init is not None:
        try:
            started = initialise(model, checked.init.init)
        except DataError as error:
            issues.add(("model", "init"), str(error))
    return checked.device.place(model, device), started


def _check_model(model: Model, checked: Spec, valid: Split, issues: Issues) -> None:
    """What `[train]` and `[device]` say of metrics and parts of the model, against those it has; the plots of heads."""
    if model.kernel is None and checked.device.kernel != "auto":
        issues.add(
            ("device", "kernel"), f"has no effect: the {model.config.kind} encoder has no convolutions"
        )
    try:
        monitor, _ = monitor_of(model, checked.train)
        _check_monitor(monitor, valid, issues)
    except Problems as error:
        issues.take(("train",), error)
    for key, message in module_problems(model, checked.train):
        issues.add(("train", key), message, value=key != "rates")
    for index, head in enumerate(checked.heads):
        for message in predictions.unknown(head.cls.plots):
            issues.add(("head", index, "kind"), f"{head.cls.__name__}.plots: {message}")


def _check_monitor(monitor: str, valid: Split, issues: Issues) -> None:
    """An issue if the metric that decides which epoch is best means nothing for the validation labels."""
    targets = valid.known_targets()
    for name, target in targets.items():
        own = monitor.removeprefix(f"{name}/")
        if "/" in own or (len(targets) > 1 and own == monitor and own != "loss"):
            continue
        labels = target.numpy()
        # Whatever is predicted, as long as it is not always the same.
        if own in undefined(labels, np.arange(len(labels), dtype=np.float64)):
            met = values_met([f"{value:g}" for value in labels.tolist()])
            issues.add(
                ("train", "monitor"),
                f"{monitor} means nothing for the validation labels of head {name}, which are {met}; choose another, "
                "or other validation rows",
                value=("train", "monitor") in issues.source,
            )


def last_checkpoint(run: Path) -> Path | None:
    """The checkpoint to go on from in a run's folder, if there is one."""
    return checkpoint.find(run / CHECKPOINTS / LAST)


def _read_checkpoint(run: Path, issues: Issues) -> Checkpoint | None:
    try:
        return checkpoint.read(run / CHECKPOINTS / LAST)
    except DataError as error:
        issues.add(("run", "out"), str(error), value=False)
        return None
