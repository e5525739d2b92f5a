"""The typed spec of a run: the sections with their owners, what heads need of each other, the table of settings."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from atomica import spec
from atomica.data.noise import NoiseConfig
from atomica.data.sampling import DataConfig
from atomica.errors import DataError, SpecError
from atomica.heads import NEEDS, TARGETS, Head, available, head_class
from atomica.jobs.sections import DeviceConfig, RunConfig
from atomica.model.format import saved_encoder
from atomica.model.named import locate
from atomica.model.start import InitConfig
from atomica.nn import encoders
from atomica.nn.encoding import EncoderSettings
from atomica.spec import Issues, Problems, Setting, setting
from atomica.train.config import TrainConfig
from atomica.train.logging import LogConfig

__all__ = ["NOISE_KEYS", "HeadConfig", "HeadSpec", "Spec", "read_spec", "sections", "settings"]


@dataclass(frozen=True)
class HeadConfig:
    """Keys that every `[[head]]` table has, beside those of its kind."""

    kind: str = setting(doc="which head: a registered name")
    name: str = setting("", "name in metrics and predictions; empty: the kind")
    label: str = setting(
        "label",
        "label or metadata column of the data that holds the answer; of heads on residues, of data.block_labels",
    )
    unit: str = setting(
        "", "unit of the labels, such as kcal/mol; kept with the model and told with its answers"
    )
    weight: float = setting(1.0, "share in the total loss", above=0)

    def __post_init__(self) -> None:
        """Check that the name can be used as a key."""
        Problems.check(
            (
                bool(self.name) and re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is None,
                "name",
                "use letters, digits, dash and underscore",
            ),
        )


@dataclass(frozen=True)
class HeadSpec:
    """One `[[head]]` table: the common keys, the class of the head, and the head's own settings."""

    common: HeadConfig
    cls: type[Head]
    config: Any

    @property
    def name(self) -> str:
        """Name of the head."""
        return self.common.name or self.common.kind

    @property
    def labelled(self) -> bool:
        """Whether it learns from a column of the data."""
        return self.cls.targets == "labels"

    @property
    def on_blocks(self) -> bool:
        """Whether it learns from `data.block_labels`."""
        return self.cls.targets == "block_labels"

    def table(self) -> dict[str, Any]:
        """All its settings, as a table of a TOML file."""
        common = asdict(self.common)
        if not (self.labelled or self.on_blocks):
            del common["label"]
        return {**common, "name": self.name, **asdict(self.config)}


@dataclass(frozen=True)
class Spec:
    """A whole spec, checked."""

    run: RunConfig
    data: DataConfig
    model: EncoderSettings
    init: InitConfig
    noise: NoiseConfig
    heads: tuple[HeadSpec, ...]
    train: TrainConfig
    device: DeviceConfig
    log: LogConfig

    def sections(self) -> list[tuple[str, dict[str, Any]]]:
        """Every setting, defaults included, as tables of a TOML file."""
        model = asdict(self.model)
        model.pop("block_types")
        device = asdict(self.device)
        device.pop("engine")
        return [
            ("run", asdict(self.run)),
            ("data", asdict(self.data)),
            ("noise", asdict(self.noise)),
            ("model", {**asdict(self.init), "kind": self.model.kind, **model}),
            *(("[[head]]", head.table()) for head in self.heads),
            ("train", asdict(self.train)),
            ("device", device),
            ("log", asdict(self.log)),
        ]

    def identity(self) -> dict[str, Any]:
        """The settings that decide the numbers: a resumed run must share them.

        Where the data lie and for how long to train are left out; checksums stand for the data.
        """
        tables = [(name, dict(table)) for name, table in self.sections()]
        found: dict[str, Any] = {}
        for name, table in tables:
            if name == "run":
                found["run.seed"] = table["seed"]
            elif name == "[[head]]":
                index = sum(key.endswith(".kind") and key.startswith("head.") for key in found)
                found |= {f"head.{index}.{key}": value for key, value in table.items()}
            elif name in ("data", "noise", "model", "train"):
                found |= {f"{name}.{key}": value for key, value in table.items()}
        for key in FREE:
            found.pop(key, None)
        return dict(json.loads(json.dumps(found)))


FREE = (
    *(
        f"data.{key}"
        for key in ("train", "valid", "test", "embeddings", "block_labels", "vectors", "loader_threads")
    ),
    "model.force",
    "train.epochs",
    "train.patience",
    "train.max_skipped",
    "train.checkpoints",
)
"""What may differ in a resumed run."""


@dataclass(frozen=True)
class _Section:
    """The dataclass that owns keys of a section of the spec, and fields of it that a spec may not set."""

    name: str
    cls: type
    hidden: tuple[str, ...] = ()

    def keys(self) -> list[str]:
        """The keys it owns, without those of nested tables."""
        return list(
            dict.fromkeys(row.key.partition(".")[0] for row in spec.describe(self.cls, exclude=self.hidden))
        )


def _sections(encoder: str = encoders.DEFAULT) -> dict[str, _Section]:
    """Field of `Spec` → its section, in specs with that kind of encoder."""
    return {
        "run": _Section("run", RunConfig),
        "data": _Section("data", DataConfig),
        "noise": _Section("noise", NoiseConfig),
        "init": _Section("model", InitConfig),
        "model": _Section("model", encoders.encoder_class(encoder).Config, ("block_types",)),
        "train": _Section("train", TrainConfig),
        "device": _Section("device", DeviceConfig, ("engine",)),
        "log": _Section("log", LogConfig),
    }


def sections(encoder: str = encoders.DEFAULT) -> list[tuple[str, type, tuple[str, ...]]]:
    """Sections of a spec that trains, but [[head]]: name, the dataclass that owns keys of it, fields not to be set.

    encoder: its kind.
    """
    return [(section.name, section.cls, section.hidden) for section in _sections(encoder).values()]


def settings(kinds: Sequence[str] = ()) -> list[Setting]:
    """Every setting there is, with its default and meaning: the rows of the table in the documentation.

    kinds: the heads whose settings are listed; empty: all, and all encoders, those of other packages too.
    """
    rows: list[Setting] = []
    for name, section in _sections().items():
        cls = EncoderSettings if name == "model" else section.cls
        rows += spec.describe(cls, section.name, exclude=section.hidden)
    shared = {row.key for row in rows}
    for kind in encoders.BUILT_IN if kinds else encoders.available():
        own = spec.describe(encoders.encoder_class(kind).Config, "model", exclude=("block_types",))
        rows += [replace(row, doc=f"({kind}) {row.doc}") for row in own if row.key not in shared]
    rows += spec.describe(HeadConfig, "head.N")
    for kind in kinds or available():
        rows += [
            replace(row, doc=f"({kind}) {row.doc}")
            for row in spec.describe(head_class(kind).Config, "head.N")
        ]
    return rows


def read_spec(source: spec.Source, issues: Issues) -> Spec | None:
    """The typed spec of a source; None, and issues added, if anything is wrong with it."""
    sections = _sections(_encoder_kind(source, issues))
    owned: dict[str, list[str]] = {}
    for section in sections.values():
        owned.setdefault(section.name, []).extend(section.keys())
    elsewhere: dict[str, str] = {}
    for name, keys in owned.items():
        for key in keys:
            elsewhere.setdefault(key, name)
    for key in source.tree:
        if key not in (known := [*owned, "head"]):
            issues.add(
                (key,),
                spec.unknown_key(key, (), [*known, "sweep", *spec.DERIVING], elsewhere),
                value=not _is_table(source.tree[key]),
            )
    found: dict[str, Any] = {}
    for name, section in sections.items():
        own = section.keys()
        table = source.tree.get(section.name)
        others = [key for key in owned[section.name] if key not in own]
        if name == "init" and isinstance(table, dict):
            others = list(set(table).difference(own))  # a key that nobody knows is reported once
        found[name] = spec.read(
            section.cls,
            source,
            (section.name,),
            issues,
            exclude=section.hidden,
            ignore=others,
            elsewhere=elsewhere,
        )
    heads = _read_heads(source, issues)
    if issues.found or heads is None or any(value is None for value in found.values()):
        return None
    checked = Spec(heads=heads, **found)
    _check_heads(checked, issues)
    if checked.train.refit and checked.data.weights:
        issues.add(("train", "refit"), "does not go with data.weights, which say nothing of validation rows")
    return None if issues.found else checked


def _encoder_kind(source: spec.Source, issues: Issues) -> str:
    """The kind of encoder that a spec asks for: by name, or by the model that it starts from."""
    table = source.tree.get("model")
    kind, origin = (table.get(key) if isinstance(table, dict) else None for key in ("kind", "init"))
    try:
        if isinstance(kind, str):
            return encoders.encoder_class(kind).Config.kind
        if kind is None and isinstance(origin, str):
            return str(saved_encoder(locate(origin))["kind"])
    except SpecError:
        issues.add(("model", "kind"), spec.not_among(kind, encoders.available()))
    except DataError:
        pass  # reported where the model is opened
    return encoders.DEFAULT


NOISE_KEYS = {
    "rotation": "rotation_sigma",
    "translation": "translation_sigma",
    "torsion": "torsion_sigma",
    "gaussian": "gaussian_sigma",
    "mask": "mask_proportion",
    "lone": "lone_proportion",
}
"""Kind of noise, as heads name it → the key of section `[noise]` that switches it on."""


def _check_heads(checked: Spec, issues: Issues) -> None:
    """What heads need of the data, the noise and each other, against what the spec gives them."""
    learnt: set[str] = set()
    for index, head in enumerate(checked.heads):
        path: spec.KeyPath = ("head", index, "kind")
        kinds = head.cls.learns(head.config)
        needs = head.cls.needs_of(head.config)
        unknown = [need for need in needs if need not in NEEDS]
        unknown += [f"{kind} noise" for kind in sorted(kinds - NOISE_KEYS.keys())]
        unknown += [] if head.cls.targets in TARGETS else [f"targets from {head.cls.targets!r}"]
        if unknown:
            issues.add(path, f"its class asks for {', '.join(unknown)}, which no run can give")
        if lacking := head.cls.unserved(checked.model, head.config):
            issues.add(path, lacking)
        if "partners" in needs and checked.data.input != "complex":
            issues.add(
                path,
                f"needs both partners, but data.input = {checked.data.input!r} shows one alone; "
                'use input = "complex"',
            )
        if not (head.labelled or head.on_blocks) and ("head", index, "label") in issues.source:
            issues.add(
                ("head", index, "label"), f"has no effect: a head of kind {head.common.kind!r} reads no label"
            )
        learnt |= kinds
        for kind in sorted(kinds & NOISE_KEYS.keys()):
            key = NOISE_KEYS[kind]
            if not getattr(checked.noise, key):
                task = {"gaussian": "atom"}.get(kind, kind)
                off = f", or set head.{index}.{task} = 0" if hasattr(head.config, task) else ""
                issues.add(path, f"learns from {kind} noise, but noise.{key} is 0; give it a value{off}")
    for kind, key in NOISE_KEYS.items():
        if (
            checked.data.input != "complex"
            and kind in ("rotation", "translation", "lone")
            and getattr(checked.noise, key)
        ):
            issues.add(
                ("noise", key),
                f"data.input = {checked.data.input!r} shows one partner alone: no model can say how that was shifted "
                'or turned, and none is left out; set it to 0, or use input = "complex"',
            )
        if getattr(checked.noise, key) and kind not in learnt:
            kinds_ = {"mask": '"masked_block"', "lone": '"partner" or "contact"'}.get(kind, '"denoise"')
            issues.add(("noise", key), f"no head learns from it; add one of kind {kinds_}, or set it to 0")


def _is_table(value: Any) -> bool:
    return isinstance(value, dict | list)


def _read_heads(source: spec.Source, issues: Issues) -> tuple[HeadSpec, ...] | None:
    tables = source.tree.get("head")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        kinds = ", ".join(available())
        issues.add(
            ("head",), f"a model needs a head: write [[head]] and kind below it (one of {kinds})", value=False
        )
        return None
    heads: list[HeadSpec] = []
    common_keys = [row.key for row in spec.describe(HeadConfig)]
    for index, table in enumerate(tables):
        path = ("head", index)
        try:
            cls = head_class(table["kind"]) if isinstance(table.get("kind"), str) else None
        except SpecError:
            issues.add((*path, "kind"), spec.not_among(table["kind"], available()))
            continue
        # Without a kind nobody can say which other keys are right.
        own = list(table) if cls is None else [row.key for row in spec.describe(cls.Config)]
        common = spec.read(HeadConfig, source, path, issues, ignore=own)
        if cls is None:
            continue
        config = spec.read(
            cls.Config, source, path, issues, ignore=[*common_keys, *set(table).difference(own)]
        )
        if common is not None and config is not None:
            heads.append(HeadSpec(common, cls, config))
    names = Counter(head.name for head in heads)
    for index, head in enumerate(heads):
        if names[head.name] > 1:
            issues.add(
                ("head", index), f"several heads are called {head.name!r}; give each a name", value=False
            )
    return tuple(heads) if len(heads) == len(tables) else None
