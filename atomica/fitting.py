"""From an index with labels to trained models in one call, which leaves the run's folder that the command would."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomica import runner, spec
from atomica.data.dataset import DEMO, open_dataset
from atomica.errors import DataError, SpecError
from atomica.files import BEST, CHECKPOINTS, EVALUATION, MEMBERS, number_of, sha256_of, write_text
from atomica.heads import head_class
from atomica.heads.regression import RegressionHead
from atomica.jobs.inputs import InputConfig, build, ledger, listed, reasons, warn_of
from atomica.jobs.predict import Predictions, predict
from atomica.jobs.train.spec import read_spec
from atomica.model.format import read_description, saved_encoder
from atomica.model.model import saved_contract
from atomica.model.named import locate
from atomica.model.start import inherit
from atomica.nn.encoders import DEFAULT
from atomica.prep import split
from atomica.spec import show

__all__ = ["Fitted", "fit"]

MOST_CLASSES = 50
"""Classes up to which words are taken for them."""
YES_NO = (("1", "0"), ("yes", "no"), ("true", "false"), ("positive", "negative"), ("active", "inactive"))
"""Words of which the first is what is asked for."""
SETTINGS: Mapping[str, Any] = {
    "data.max_item_blocks": 320,
    "model.dropout": 0.1,
    "train.monitor": "loss",
    "train.refit": True,
    "train.schedule.kind": "cosine",
    "train.schedule.warmup_steps": 10,
    "train.schedule.min_factor": 0.05,
}
GIVEN: Mapping[str, Any] = {
    "data.batch_blocks": 320,
    "head.0.hidden": 16,
    "head.0.layers": 2,
    "head.0.dropout": 0.2,
    "train.epochs": 6,
    "train.learning_rate": 1e-3,
    "train.weight_decay": 1e-2,
    "train.rates.encoder": 1e-4,
    "train.seeds": 1,
}
"""From weights that are given, as in `runs/cofactor.toml`; what that reaches on some hundred complexes stands in
runs/README.md."""
LOW = ["encoder.atom_types", "encoder.block_types", "encoder.atoms", "encoder.atoms_to_block"]
"""Modules of encoders of kind "equivariant" that keep what was given."""
DRAWN: Mapping[str, Any] = {
    "data.batch_blocks": 640,
    "head.0.dropout": 0.1,
    "train.learning_rate": 5e-4,
    "train.weight_decay": 0.3,
    "model.atom_hidden": 16,
    "model.block_hidden": 16,
    "model.edge_size": 8,
    "model.layers": 3,
    "train.epochs": 3,
    "train.seeds": 5,
}
"""Encoders that are drawn anew, another for each seed."""
OTHERWISE = "\nfit(…, init=None) starts from no weights, with sizes of your own"


@dataclass(frozen=True)
class Fitted:
    """What `fit` gives. folder: of the run, with its spec, evaluation.json and report.html.

    failures: rows of the index that could not be built.
    """

    folder: Path
    failures: tuple[dict[str, Any], ...] = ()

    @property
    def weights(self) -> Path:
        """What stands for the trained models wherever weights are named."""
        return self.folder if (self.folder / MEMBERS).is_file() else self.folder / CHECKPOINTS / BEST

    @property
    def evaluation(self) -> dict[str, Any]:
        """What evaluation.json says of the test rows; empty without any."""
        path = self.folder / EVALUATION
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def predict(self, paths: str | Path | Sequence[str | Path] = (), **options: Any) -> Predictions:
        """What the models say of other complexes; options: those of `atomica.predict`."""
        return predict(paths, self.weights, **options)

    def save(self, folder: str | Path) -> Path:
        """Copy the trained models alone into a folder, which then stands for them; it must be empty or not be there."""
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target}: is there already; give the name of a new folder")
        if self.weights != self.folder:
            shutil.copytree(self.weights, target, dirs_exist_ok=True)
            return target
        target.mkdir(parents=True, exist_ok=True)
        members = json.loads((self.folder / MEMBERS).read_text(encoding="utf-8"))["members"]
        for one in members.values():
            shutil.copytree(self.folder / one["weights"], target / one["weights"])
        shutil.copy2(self.folder / MEMBERS, target / MEMBERS)
        return target


def fit(
    data: str | Path,
    *,
    label: str,
    kind: str | None = None,
    unit: str = "",
    init: str | Path | None = "base",
    seeds: int | None = None,
    out: str | Path = "outputs/fit",
    settings: Mapping[str, Any] | None = None,
    devices: int = 1,
    quiet: bool = False,
) -> Fitted:
    """Train a model on labelled complexes, or several as an ensemble, and measure it on rows that it has not seen.

    data: an index (CSV), as for `atomica-prep build-graphs`, or a data set. An index without a column split or fold is
    shared out first, so that no relatives by sequence are on two sides. label: the column with the answers. kind: of
    the head; by default regression of numbers, binary of two words, multiclass of more. `probability` is that of 1,
    yes, true, positive, active, or of the rarer word. unit: of numbers. init: weights to start from, of the package or
    your own: the head is solved on these and, of classes, trained on with the upper layers of the encoder. None:
    encoders that are drawn, for which sizes may be given, trained for three epochs; of numbers they are no worse
    (runs/README.md). Either learns from training and validation rows (`train.refit`). seeds: how many models; by
    default one with init, five without. out: folder of the run; a call with one that was stopped goes on. settings:
    anything a spec may say, by its key, such as {"train.epochs": 20, "data.input": "segment0"}.
    Raises DataError for data that cannot be learnt from, SpecError for settings that cannot be used.

        fitted = atomica.fit("index.csv", label="pk")
        fitted.predict("new/").to_pandas()
        fitted.save("model")
    """
    if devices < 1:
        raise SpecError(f"devices = {devices}: must be at least 1")
    paths = listed(data)
    if len(paths) != 1:
        raise DataError(f"{len(paths)} paths: fit takes one index or one data set")
    named = paths[0]
    folder = Path(out).absolute()
    is_set = named.startswith(DEMO) or Path(named).is_dir()
    texts = open_dataset(named).column(label) if is_set else _labels(Path(named), label)
    known = [text for text in texts if (text or "").strip() not in split.NOTHING]
    if not known:
        raise DataError(f"{data}: no complex has a label in column {label!r}")
    head = _head(known, kind, label, settings or ())
    failures: tuple[dict[str, Any], ...] = ()
    chosen = {
        "run.name": "fit",
        "run.out": str(folder / "run"),
        "data.train": named if is_set else str(folder / "graphs"),
        **head,
        "head.0.label": label,
        **({"head.0.unit": unit} if unit else {}),
        **SETTINGS,
        **(DRAWN if init is None else _given(str(init), head["head.0.kind"])),
        **({} if seeds is None else {"train.seeds": seeds}),
        **(settings or {}),
    }
    if init is not None:
        chosen.setdefault("head.0.name", _unused(str(init), chosen["head.0.kind"]))
    if not is_set:
        issues = spec.Issues(_spec(chosen))
        checked = read_spec(issues.source, issues)
        if checked is not None and checked.init.init is not None:
            try:
                inherit(checked.model, issues.source.tree["model"], saved_encoder(locate(checked.init.init)))
            except DataError as error:
                issues.add(("model", "init"), f"{error}{OTHERWISE}")
        issues.raise_any()  # before anything is built
        failures = _build(Path(named), label, folder, chosen.get("model.init"), quiet=quiet)
        warn_of(failures)
    with suppress(DataError):
        if all(open_dataset(chosen["data.train"]).column("cluster")):
            chosen.setdefault("data.cluster", "cluster")
    try:
        runner.perform(_spec(chosen), devices=devices, quiet=quiet)
    except SpecError as error:
        if init is None or "model.init" not in str(error):
            raise
        raise SpecError(f"{error}{OTHERWISE}") from None
    return Fitted(folder / "run", failures)


def _given(init: str, kind: str) -> dict[str, Any]:
    """Settings for a head of some kind on given weights."""
    found = {**GIVEN, "model.init": init}
    with suppress(DataError, SpecError):  # said where the spec is read
        if issubclass(head_class(kind), RegressionHead):
            # Trained on, it would learn which of the proteins binds strongly, which says nothing of another one.
            found["train.epochs"] = 0
        if saved_encoder(locate(init))["kind"] == DEFAULT:
            found["train.freeze"] = LOW
    return found


def _unused(init: str, kind: str) -> str:
    """A name for a head of some kind that no head of given weights has: one of theirs would be taken as it is."""
    taken: set[str] = set()
    with suppress(DataError):  # said where the spec is read
        taken = {entry["name"] for entry in read_description(locate(init))["heads"]}
    return next(name for n in itertools.count(1) if (name := kind if n == 1 else f"{kind}_{n}") not in taken)


def _spec(chosen: Mapping[str, Any]) -> spec.Source:
    """A spec of these keys alone. Raises SpecError for what is wrong with them."""
    with tempfile.TemporaryDirectory(prefix="atomica-") as work:
        path = Path(work) / "fit.toml"
        path.write_text('[run]\nname = "fit"\n[[head]]\n', encoding="utf-8")
        return spec.load(path, [f"{key}={show(value)}" for key, value in chosen.items()])


def _labels(data: Path, label: str) -> list[str]:
    """A column of an index. Raises DataError if there is none."""
    if not data.is_file():
        raise DataError(f"{data}: no such index or data set")
    return split.read_index(data).column(label)


def _build(
    data: Path, label: str, folder: Path, init: str | None, *, quiet: bool
) -> tuple[dict[str, Any], ...]:
    """Build the data set `graphs` of an index below a folder, its rows shared out, unless that was done: what failed.

    init: weights whose data were made as these should be. Raises DataError if nothing could be built, or something was
    trained on what was made of another index.
    """
    index, graphs = data, folder / "graphs"
    if not set(split.read_index(data).columns) & {"split", "fold"}:
        index, made_of = folder / "index.csv", folder / "index.sha256"
        index.parent.mkdir(parents=True, exist_ok=True)
        digest = sha256_of(data)
        if index.is_file() and not (made_of.is_file() and made_of.read_text(encoding="utf-8") == digest):
            if not made_of.is_file() or (folder / "run").exists():
                raise DataError(
                    f"{folder}: holds what was made of another index, or of this one before it was changed; "
                    "name another folder in out, or remove this one"
                )
            index.unlink()
            shutil.rmtree(graphs, ignore_errors=True)
        if not index.is_file():
            write_text(made_of, digest)
            given = split.arguments(data, "--out", index, "--label", label)
            with ExitStack() as muted:
                if quiet:
                    muted.enter_context(redirect_stdout(io.StringIO()))
                    muted.enter_context(redirect_stderr(io.StringIO()))
                split.split(given)
    contracts = [] if init is None else [saved_contract(init)]
    build([index], graphs, InputConfig().suited(contracts, build=True), quiet=quiet)
    failures = tuple(ledger(graphs))
    if not len(open_dataset(graphs)):
        raise DataError(
            f"{data}: none of its complexes could be built, remove {graphs} when that is mended: "
            f"{reasons(failures)}"
        )
    return failures


def _head(known: Sequence[Any], kind: str | None, label: str, settings: Collection[str]) -> dict[str, Any]:
    """The keys of the head that suits some labels. Raises DataError for words that are no classes.

    settings: the keys that were given.
    """
    if kind not in (None, "binary", "multiclass"):
        return {"head.0.kind": kind}
    wrong = [text for text in known if number_of(text) is None]
    if kind is None and len(wrong) <= (1 - split.NUMBERS) * len(known) and len(set(known)) > 2:
        if wrong:
            warnings.warn(
                f"{len(wrong)} of {len(known)} labels of column {label!r} are no numbers, such as {wrong[0]!r}, and "
                "are left out; name kind if they are classes",
                stacklevel=3,
            )
        return {"head.0.kind": "regression"}
    names = [name for name, _ in sorted(Counter(known).items(), key=lambda pair: (-pair[1], pair[0]))]
    if len(names) == 1:
        raise DataError(
            f"all {len(known)} labels of column {label!r} are {names[0]!r}: nothing tells one complex from another; "
            "label some that are otherwise"
        )
    if len(names) > MOST_CLASSES:
        raise DataError(
            f"labels of column {label!r} are neither numbers nor classes: {len(names)} different values, such as "
            f"{', '.join(map(repr, names[:5]))}; name the head's kind, and give its keys in settings"
        )
    if kind == "binary" and len(names) > 2:
        if not {"head.0.positive", "head.0.negative"} <= set(settings):
            raise DataError(
                f"column {label!r} has {len(names)} different labels, and a binary head tells two apart: name these in "
                f"settings, such as {{'head.0.positive': {names[1]!r}, 'head.0.negative': {names[0]!r}}}; complexes "
                "with others are left out"
            )
        return {"head.0.kind": "binary"}
    if kind == "multiclass" or len(names) > 2:
        return {"head.0.kind": "multiclass", "head.0.classes": names, "data.sampler": "balanced"}
    if {name.casefold() for name in names} in [{yes, no} for yes, no in YES_NO]:
        names.sort(key=lambda name: name.casefold() in [yes for yes, _ in YES_NO])
    return {"head.0.kind": "binary", "head.0.positive": names[1], "head.0.negative": names[0]}
