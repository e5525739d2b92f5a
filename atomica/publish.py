"""A trained model as a folder to publish, and whether a published one says here what it said there.

The folder is itself weights, under its path or as `hf://ORG/NAME` once it is on the Hub: `model.safetensors` and
`model.json`, of a run of several trainings `members.json` and a folder for each. Beside them: the run's spec and those
of the trainings that it went on from, its evaluation, what it measured on validation rows, versions, a card
(README.md), and reference values of three complexes of the demo data.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from atomica import compat, environment, spec
from atomica.data.dataset import open_dataset
from atomica.errors import DataError
from atomica.files import (
    BEST,
    CHECKPOINTS,
    CHECKSUMS,
    EVALUATION,
    LAST,
    MEMBERS,
    METRICS,
    SPEC,
    TRAINING_SET,
    checksums_of,
    sync,
    write_bytes,
    write_json,
    write_text,
)
from atomica.model.contract import Contract
from atomica.model.format import DESCRIPTION, REFERENCE, REFERENCE_VALUES, WEIGHTS
from atomica.model.model import Model
from atomica.model.named import locate, members_of, pin, read_members
from atomica.sweep.members import BASE, PLACE
from atomica.train import checkpoint

__all__ = ["TOLERANCE", "export", "verify"]

TOLERANCE = 1e-5
"""The largest difference of a value that is the same, as a fraction of the largest number of its kind."""
CARD, VERSIONS, VALIDATION = "README.md", "versions.json", "validation.json"
TRIVIAL = "_base"
"""Behind the name of a metric: what one reaches who knows nothing of a complex."""
UNMEASURED = "It was not evaluated: its data had no test rows with labels."
FORMAT, DATA, COMPLEXES = 1, "demo://pockets", 3
_EXACT_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")
_PATH = re.compile(r"(?<![\w:/.~])(?:~|/[^\s/\"',;:]+)(?:/[^\s/\"',;:]+)*/([^\s/\"',;:]+)")


def export(
    run: str,
    folder: str,
    licence: str,
    *,
    name: str = "hf://ORG/NAME",
    alone: bool = False,
    bases: Mapping[str, float] | None = None,
    more: str = "",
    before: Sequence[str] = (),
) -> tuple[bool, list[str]]:
    """Make the folder of a finished training, or of several, to publish it; gives True, and what a person is told.

    run: its folder; licence: SPDX identifier of that of the weights; name: what the card says they will be named;
    alone: the model may be used on a partner alone, too, whatever it was shown in training; bases: what one says who
    knows nothing, by the name of the validation metric; more: Markdown for the card; before: runs, or exported weights,
    that came before those that are found, the first first. Nothing that is written names a
    path of this machine. Raises DataError if the run is not finished, or the folder has anything in it.
    """
    if not _EXACT_LICENCE.fullmatch(licence):
        raise DataError(f"licence {licence!r}: is no SPDX identifier, such as MIT, Apache-2.0 or CC-BY-4.0")
    source, target = Path(run).expanduser(), Path(folder).expanduser()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(f"{target}: is there and not empty; nothing is overwritten, name another folder")
    weights = _weights(source)
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for member, place in weights.items():
            _copy(place, fresh / member, alone=alone)
        if list(weights) != [""]:
            rows = {
                Path(member).name: {**one, "weights": member}
                for member, one in zip(weights, read_members(source / MEMBERS).values(), strict=True)
            }
            write_json(fresh / MEMBERS, {"members": rows})
        settings = _specs(source, before)
        for file, text in settings.items():
            write_text(fresh / file, text)
        evaluation = _evaluation(source)
        if evaluation:
            write_json(fresh / EVALUATION, evaluation)
        validation = _validation(source, weights[""], bases or {}) if "" in weights else {}
        if validation:
            write_json(fresh / VALIDATION, validation)
        first = source if "" in weights else next(iter(weights.values())).parents[1]
        started = environment.read(first)
        versions = {"trained": started[-1]["versions"] if started else {}}
        write_json(fresh / VERSIONS, {**versions, "exported": environment.describe()["versions"]})
        models = {member: compat.load(fresh / member, "cpu") for member in weights}
        about, values = _reference(models)
        write_json(fresh / REFERENCE, about)
        write_bytes(fresh / REFERENCE_VALUES, _packed(values))
        model = next(iter(models.values()))
        scores = [*(_scores(evaluation) or _losses(validation) or (UNMEASURED,)), *([more] if more else [])]
        texts = _card(target.name, name, model, len(models), list(settings.values()), scores, licence)
        write_text(fresh / CARD, texts)
        fresh.replace(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync(target.parent)
    note = (
        f"note    {TRAINING_SET} has the names of training complexes, by which predict says how far a new one is from "
        "them; delete it if they are not to be known"
    )
    return True, [
        *([note] if any(target.rglob(TRAINING_SET)) else []),
        f"written {target}: {_count(len(models))}, {len(values)} reference values; licence {licence}",
        f"check it with atomica-run --verify {target}; publish it with hf upload ORG/{target.name} {target}",
    ]


def verify(weights: str) -> tuple[bool, list[str]]:
    """Whether published weights say of the reference complexes here what they said there, and what a person is told.

    weights: a folder that `export` made, or hf://ORG/NAME. Raises DataError if it has no reference values, or the demo
    data of this version are others.
    """
    name = pin(weights)
    folder = locate(name)
    if not (folder / REFERENCE).is_file() or not (folder / REFERENCE_VALUES).is_file():
        raise DataError(
            f"{name}: has no {REFERENCE} with {REFERENCE_VALUES}, which atomica-run --export writes beside weights"
        )
    expected = _unpacked(folder / REFERENCE_VALUES)
    try:
        about = dict(json.loads((folder / REFERENCE).read_text(encoding="utf-8")))
        version, data, fingerprint = (about[key] for key in ("format", "data", "fingerprint"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / REFERENCE}: is damaged ({error!r})") from None
    own = open_dataset(DATA).fingerprint
    if (version, data, fingerprint) != (FORMAT, DATA, own):
        raise DataError(
            f"{name}: its reference values are of other complexes (format {version}, {data}, {fingerprint[:12]}) than "
            f"this version has (format {FORMAT}, {DATA}, {own[:12]}); take the version of {VERSIONS}"
        )
    places = {_member(one, name): one for one in members_of(name)}
    _, found = _reference({member: compat.load(one, "cpu") for member, one in places.items()})
    if lacking := sorted(expected.keys() ^ found.keys()):
        raise DataError(
            f"{name}: {REFERENCE_VALUES} and the model have not the same values: {', '.join(lacking[:5])}"
        )
    differences = {key: _difference(found[key], expected[key]) for key in expected}
    worst = max(differences, key=differences.__getitem__)
    same = differences[worst] <= TOLERANCE
    return same, [
        f"verify  {name}: {_count(len(places))}, {len(expected)} values of {len(about['complexes'])} complexes",
        f"largest difference {differences[worst]:.2g} of the largest number ({worst}); allowed {TOLERANCE:g}",
        "the same as where it was exported"
        if same
        else "NOT the same as where it was exported: do not use it here; "
        f"compare {VERSIONS} with atomica-run --doctor",
    ]


# ------------------------------------------------------------------------------------------------- the folder


def _weights(run: Path) -> dict[str, Path]:
    """Name of each model in the folder to come, "" of a single one → the checkpoint in the run's folder."""
    if (run / MEMBERS).is_file():
        return {
            f"{PLACE}/{name}": Path(place)
            for name, place in zip(read_members(run / MEMBERS), members_of(str(run)), strict=True)
        }
    last, best = (checkpoint.find(run / CHECKPOINTS / name) for name in (LAST, BEST))
    if last is None or best is None:
        raise DataError(
            f"{run}: is no folder of a training with {CHECKPOINTS}/{BEST}; name the folder of the run"
        )
    if not json.loads((last / checkpoint.STATE).read_text(encoding="utf-8"))["progress"]["finished"]:
        raise DataError(f"{run}: its training has not ended; go on with atomica-run {run / SPEC} --resume")
    return {"": best}


def _copy(place: Path, target: Path, *, alone: bool) -> None:
    """Copy the weights and their description, with checksums; alone: which says nothing of the view then."""
    target.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, DESCRIPTION, TRAINING_SET):
        if name != TRAINING_SET or (place / name).is_file():
            shutil.copyfile(place / name, target / name)
            sync(target / name)
    if alone:
        description = json.loads((target / DESCRIPTION).read_text(encoding="utf-8"))
        description["inputs"]["view"] = None
        write_json(target / DESCRIPTION, description)
    write_text(target / CHECKSUMS, checksums_of(target))


def _specs(run: Path, earlier: Sequence[str]) -> dict[str, str]:
    """The run's spec by the name of its file, and those of the runs whose weights it went on from, the first first.

    earlier: folders of runs, or of exported weights with the specs these have, that are put before all.
    """
    runs = [run]
    while (before := _before(runs[-1])) is not None and before not in runs:
        runs.append(before)
    texts: list[str] = []
    for place in map(Path, earlier):
        named = sorted(place.glob("spec-*.toml"), key=lambda file: int(file.stem.partition("-")[2]))
        exported = (place / VERSIONS).is_file()
        texts += [file.read_text(encoding="utf-8") for file in named if exported]
        texts.append((place / SPEC).read_text(encoding="utf-8") if exported else _spec(place))
    texts += [_spec(one) for one in runs[:0:-1]]
    return {SPEC: _spec(run)} | {
        SPEC.replace(".", f"-{number}."): text for number, text in enumerate(texts, 1)
    }


def _tree(run: Path) -> dict[str, Any]:
    return dict(spec.load(run / (BASE if (run / MEMBERS).is_file() else SPEC)).tree)


def _before(run: Path) -> Path | None:
    """The folder of the run whose weights another started from, if they are in one that is still there."""
    init = Path(_tree(run).get("model", {}).get("init") or "")
    found = init.parents[1] if init.is_absolute() and init.parent.name == CHECKPOINTS else None
    return found if found is not None and (found / SPEC).is_file() else None


def _spec(run: Path) -> str:
    """The run's spec, with names instead of paths, and without accounts."""
    tree = _tree(run)
    tree["run"] = {**tree["run"], "out": "outputs/{name}"}
    if (before := _before(run)) is not None:
        place = Path("outputs", _tree(before)["run"]["name"], CHECKPOINTS, Path(tree["model"]["init"]).name)
        tree["model"] = {**tree["model"], "init": str(place)}
    tree["log"] = {key: value for key, value in tree.get("log", {}).items() if key != "wandb"}
    heads = tree.pop("head", [])
    tables = [*((name, _nameless(table)) for name, table in tree.items())]
    tables += [("[[head]]", _nameless(table)) for table in heads]
    head = "# What this model was trained with, defaults included. Of paths the last name is left: put your own.\n\n"
    return head + spec.dump(tables)


def _evaluation(run: Path) -> dict[str, Any]:
    """What was found on the test rows; empty if nothing was."""
    file = run / EVALUATION
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return dict(_nameless({key: value for key, value in found.items() if key != "run"}))


def _validation(run: Path, best: Path, bases: Mapping[str, float]) -> dict[str, Any]:
    """What was measured on the validation rows after the best epoch; empty if nothing was."""
    state = json.loads((best / checkpoint.STATE).read_text(encoding="utf-8"))["progress"]
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines() if (run / METRICS).is_file() else []
    epochs = [
        one for one in map(json.loads, lines) if (one["event"], one["epoch"]) == ("epoch", state["epoch"])
    ]
    found = {
        key.removeprefix("valid_"): value
        for one in epochs[-1:]
        for key, value in one.items()
        if key.startswith("valid_")
    }
    found |= {f"{key}{TRIVIAL}": value for key, value in bases.items()}
    return {"split": "valid", "epoch": state["epoch"], "metrics": found} if epochs else {}


def _nameless(value: Any) -> Any:
    """The same with the last name of each path.

    >>> _nameless({"train": ("/data/mine/graphs", "demo://pockets"), "unit": "kcal/mol", "seed": 1})
    {'train': ['graphs', 'demo://pockets'], 'unit': 'kcal/mol', 'seed': 1}
    """
    if isinstance(value, str):
        return Path(value).name if value.startswith(("/", "~")) else _PATH.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {key: _nameless(one) for key, one in value.items()}
    return [_nameless(one) for one in value] if isinstance(value, list | tuple) else value


# --------------------------------------------------------------------------------------------------- the card


def _card(
    title: str,
    name: str,
    model: Model,
    members: int,
    settings: Sequence[str],
    scores: Sequence[str],
    licence: str,
) -> str:
    """The model card: YAML that the Hub reads, then Markdown for a person. settings: specs, the run's own first."""
    tree = spec.tomllib.loads(settings[0])
    heads = {one: model.kinds[one] for one in model.heads}
    own = licence if licence.startswith("LicenseRef-") else ""
    front: dict[str, Any] = {"license": "other", "license_name": own} if own else {"license": licence.lower()}
    front |= {
        "library_name": "atomica",
        "tags": ["atomica", "biology", "chemistry", "molecular-interfaces", *dict.fromkeys(heads.values())],
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    each = (
        f"{members} trainings that differ by their seed or fold and answer together, each of "
        if members > 1
        else ""
    )
    origin, contract = model.made_for.origin, model.made_for
    made = {
        "sees": {
            "complex": "both partners",
            None: 'both partners, or one alone (data.input = "segment0")',
        }.get(contract.view, f"one partner, {contract.view}, the other removed"),
        "cutoff of the interface": "not known" if origin.cutoff is None else f"{origin.cutoff:g} Å",
        "rule of the interface": origin.rule or "not known",
        "fragments": origin.fragments or "not known",
        "training data": _joined(tree["data"]["train"]),
    }
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {title}\n",
        f"A model of the interfaces of molecules, made with Atomica: {each}{parameters:,} parameters, with the "
        f"{model.config.kind} encoder"
        + (
            f" and heads {', '.join(f'{one} ({kind})' for one, kind in heads.items())}.\n" if heads else ".\n"
        ),
        "## Use\n",
        "```bash",
        f"atomica-run --verify {name}  # does it say here what it said there?",
        f"atomica-run runs/embed.toml --set model.weights={name} --set data.source=structures/",
        "```\n",
        *(
            []
            if members > 1
            else ["```python", "import atomica", "", f'model = atomica.load("{name}")', "```\n"]
        ),
        *(
            [f"A folder takes the place of `{name}`. Write `{name}@COMMIT` to stay with one version.\n"]
            if name.startswith("hf:")
            else []
        ),
        "## What it was made for\n",
        "| | |\n| --- | --- |",
        *(f"| {key} | {_cell(value)} |" for key, value in made.items()),
        *(
            f"| label of {head} | {_cell(', '.join(f'{key} {_joined(one)}' for key, one in entry.items()))} |"
            for head, entry in contract.labels.items()
        ),
        "\n## How good it is\n",
        *scores,
        "\n## What is here\n",
        f"`{SPEC}` is every setting of the training"
        + (f" ({len(settings) - 1} before it in their order, by number)" if len(settings) > 1 else "")
        + f", `{VALIDATION}` and, of labelled test rows, `{EVALUATION}` all that was measured, `{VERSIONS}` what it "
        f"was trained and exported with, `{REFERENCE}` and `{REFERENCE_VALUES}` are what it says of {COMPLEXES} "
        f"complexes that come with Atomica. Licence of the weights: {licence}.\n",
    ]
    return "\n".join(lines)


def _losses(validation: Mapping[str, Any]) -> list[str]:
    """What a model without labels was measured by: a table beside what one says who knows nothing."""
    metrics = {key: value for key, value in validation.get("metrics", {}).items() if value is not None}
    if not metrics:
        return []
    shown = [key for key in metrics if not key.endswith((TRIVIAL, "unperturbed"))]
    rows = [(key, metrics[key], metrics.get(f"{key}{TRIVIAL}")) for key in shown]
    return [
        f"On the {validation['split']} rows, which it was not trained on, after epoch {validation['epoch']}, the best "
        "one, with noise and hidden blocks drawn once; beside what one says who knows nothing of the complex.\n",
        "| metric | value | knowing nothing |\n| --- | --- | --- |",
        *(f"| {key} | {value:.4g} | {'–' if base is None else f'{base:.4g}'} |" for key, value, base in rows),
        "",
    ]


def _scores(evaluation: Mapping[str, Any]) -> list[str]:
    """The metrics of each head with their intervals, as tables, and how they compare with the baselines."""
    measured = {name: entry for name, entry in evaluation.get("heads", {}).items() if entry.get("metrics")}
    return list(_tables(evaluation, measured)) if measured else []


def _tables(evaluation: Mapping[str, Any], measured: Mapping[str, Any]) -> Iterator[str]:
    yield f"On the {evaluation['split']} rows of {evaluation['data']}, which it was not trained on.\n"
    for name, entry in measured.items():
        count = f", {entry['complexes']} {entry.get('of', 'complexes')}" if "complexes" in entry else ""
        unit = f", in {entry['unit']}" if entry.get("unit") else ""
        yield f"Head `{name}` ({entry['kind']}){count}{unit}:\n"
        yield "| metric | value | 95% interval |\n| --- | --- | --- |"
        for metric, value in entry["metrics"].items():
            ends = entry.get("intervals", {}).get(metric)
            between = f"{ends['low']:.3g} to {ends['high']:.3g}" if ends else "–"
            yield f"| {metric} | {'–' if value is None else f'{value:.4g}'} | {between} |"
        yield ""
        if "verdict" in entry:
            yield f"Beside simple baselines ({', '.join(entry['methods'])}): {entry['verdict']}\n"


def _count(models: int) -> str:
    return "one model" if models == 1 else f"{models} members"


def _joined(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ------------------------------------------------------------------------------------------- reference values


def _reference(models: Mapping[str, Model]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is told of the reference complexes, and all that the models say of them: MEMBER/COMPLEX/graph and /HEAD."""
    data = open_dataset(DATA)
    values: dict[str, Tensor] = {}
    for name, model in models.items():
        for row in range(COMPLEXES):
            for key, value in _said(model, row).items():
                values["/".join(part for part in (name, data.ids[row], key) if part)] = value
    about = {
        "format": FORMAT,
        "data": DATA,
        "fingerprint": data.fingerprint,
        "complexes": data.ids[:COMPLEXES],
        "values": {key: list(value.shape) for key, value in values.items()},
        "versions": environment.describe()["versions"],
    }
    return about, values


def _said(model: Model, row: int) -> dict[str, Tensor]:
    """The vector of one complex of the demo data, and what each head says of it, on a CPU.

    Heads that answer for noise alone are left out. External features are made up.
    """
    model = copy.deepcopy(model).eval()
    view = f"segment{model.segment}" if model.segment is not None else model.made_for.view or "complex"
    model.made_for = Contract(view=view)  # the demo data may have been cut otherwise than its own
    graph = open_dataset(DATA).graphs([row], input=view, **model.config.graph_options())
    count = torch.arange(1.0, graph.num_nodes("block") + 1)[:, None]
    wanted = dict(zip(model.config.embeddings.frames, model.config.embeddings.sizes, strict=True))
    for frame, size in wanted.items():
        graph.nodes["block"].data[frame] = torch.sin(count * torch.arange(1, size + 1))
    vector = max((getattr(model.head(one).config, "vector_size", 0) for one in model.heads), default=0)
    if vector:
        graph.nodes["block"].data["vector"] = torch.sin(torch.arange(1.0, vector + 1)).expand(len(count), -1)
    answering = [one for one in model.heads if not model.head(one).learns(model.head(one).config)]
    with torch.no_grad():
        found = {"graph": model.encode(graph).graph}
    for name, answer in model.with_heads(answering).predict(graph).items():
        found.update(_flat(f"heads/{name}", answer))
    return {key: value.detach().contiguous() for key, value in found.items()}


def _flat(name: str, value: Any) -> dict[str, Tensor]:
    """All tensors of numbers in an answer, by name."""
    if isinstance(value, Tensor):
        return {name: value} if value.is_floating_point() else {}
    fields = value._asdict() if hasattr(value, "_asdict") else value
    pairs = (
        fields.items()
        if isinstance(fields, Mapping)
        else enumerate(fields)
        if isinstance(fields, Sequence)
        else ()
    )
    return {key: one for part, inner in pairs for key, one in _flat(f"{name}/{part}", inner).items()}


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest number; infinite where shapes or finiteness differ."""
    if found.shape != expected.shape or not bool((found.isfinite() == expected.isfinite()).all()):
        return float("inf")
    if not expected.numel():
        return 0.0
    gap, scale = (
        (found.double() - expected.double()).nan_to_num().abs().max(),
        expected.double().nan_to_num().abs().max(),
    )
    return float(gap / scale) if float(scale) else float(gap)


def _member(place: str, name: str) -> str:
    """The name of a member within the folder of all; empty of a single model."""
    return "/".join(Path(place).parts[-2:]) if place != name else ""


def _packed(values: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save(dict(values))


def _unpacked(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except Exception as error:
        raise DataError(f"{file}: cannot be read ({error})") from None
