"""Where complexes come from: data sets, indexes, structure files and folders of them, read as one data set.

What is no data set yet is built by `atomica-prep` on the way, into a folder of the job.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atomica import _prep
from atomica.analysis.bfactors import write
from atomica.data.dataset import DEMO, Complexes, Dataset, Mixture, open_dataset
from atomica.data.origin import INPUTS, RULES, Origin
from atomica.data.record import SPLITS, Record
from atomica.data.sampling import Rows, counts
from atomica.errors import DataError
from atomica.model.contract import Contract
from atomica.model.model import Model
from atomica.prep.archive import Archive, indexes
from atomica.prep.fragments import Cutter, read_vocabulary
from atomica.prep.pockets import FORMATS, MOLECULES, PACKED, index_by_score, kind_of, structure_files
from atomica.spec import Issues, Problems, setting

__all__ = [
    "ColouredConfig",
    "Found",
    "InputConfig",
    "Opened",
    "Sources",
    "build",
    "find",
    "ledger",
    "listed",
    "open_data",
    "reasons",
    "warn_of",
]


@dataclass(frozen=True)
class ColouredConfig:
    """Keys that jobs have in common which write structures coloured by block, see `Opened.write_structure`."""

    structures: bool = setting(
        True,
        "write every complex as a structure file with numbers of its blocks in the B-factor column: scores, or what a "
        "head on residues says, probabilities in percent",
    )
    root: str = setting(
        "",
        "folder that the structure paths of ready data sets start from; where a file is not found, the atoms of the "
        "interface alone are written",
        path=True,
    )

    def check_root(self, section: str, issues: Issues) -> None:
        """The root must be a folder, and something must be looked for in it."""
        if self.root and not Path(self.root).is_dir():
            issues.add((section, "root"), "no such folder")
        if self.root and not self.structures:
            issues.add((section, "root"), f"has no effect with {section}.structures = false")


@dataclass(frozen=True)
class InputConfig:
    """Section `[data]` of a job other than training: which complexes, and how they are cut and batched."""

    source: str | tuple[str, ...] = setting(
        (),
        "data set folder, demo://NAME, index (CSV), structure file, or folder of structures, whose interfaces "
        "are then found without an index; a list of them is read as one",
        path=True,
    )
    receptor: str | None = setting(
        None,
        "instead of a source: a structure, into which all molecules of data.ligands are docked",
        path=True,
    )
    ligands: str | tuple[str, ...] = setting(
        (),
        "of data.receptor: files of molecules (SDF, MOL2, PDB, PDBQT), one or many in each, or folders of these; a "
        "complex is made of each molecule, named by its title",
        path=True,
    )
    mirror: str | None = setting(
        None, "of indexes whose paths are pdb:1abc or af:P12345: a local copy of the archive", path=True
    )
    fetch: bool = setting(False, "of such indexes: download what the mirror lacks")
    min_plddt: float = setting(
        0.0, "of such indexes: residues of predicted models with a lower pLDDT are left out", low=0, high=100
    )
    split: str = setting("", "only rows of this split; empty: all", choices=("", *SPLITS))
    input: str | None = setting(
        None,
        "what the model sees: both partners, or one alone with the other removed; absent: what it was trained on",
        choices=INPUTS,
    )
    cutoff: float | None = setting(
        None,
        "of what is built here: blocks closer than this to the other partner, in Å; absent: as the model was trained "
        "with, else 8.0",
        above=0,
        high=100,
    )
    rule: str | None = setting(
        None,
        "of what is built here: which distances are looked at; absent: as the model was trained with, else all-pairs",
        choices=RULES,
    )
    fragments: str | None = setting(
        None,
        "of what is built here: fragment vocabulary for small molecules; absent: as the model was trained with, else "
        "none",
    )
    force: bool = setting(
        False, "give the model what it was not made for: another input, cutoff, rule or fragment vocabulary"
    )
    pockets_above: float | None = setting(
        None,
        "of structures without an index: instead of finding interfaces, take the residues with a B-factor above "
        "this as one pocket of each file; PeSTo and others write scores there",
    )
    pocket_residues: int = setting(
        6, "of pockets_above: files with fewer such residues are listed as failed", low=1
    )
    batch_blocks: int = setting(
        2048, "blocks per forward pass, at most; no effect on the results", low=1, high=10**7
    )
    max_item_blocks: int = setting(8192, "complexes with more blocks are left out and listed", low=2)
    loader_threads: int = setting(
        1, "threads that prepare the next batches; 0: none; no effect on the results", low=0, high=16
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """What `source` names, as a tuple."""
        return _listed(self.source)

    def __post_init__(self) -> None:
        """Check values that were given in Python."""
        Problems.check(config=self)

    def find(self) -> Sources:
        """All that it names. Raises DataError naming every source that is not there or of no known kind, Problems of
        what does not go together."""
        ligands = [(path, _molecules(path)) for path in _listed(self.ligands)]
        files = [file for _, own in ligands for file in own]
        docked = self.receptor is not None or bool(ligands)
        found = Sources((), (), (), (str(self.receptor), *files)) if docked else find(self.paths)
        named = [] if self.receptor is None else [("receptor", self.receptor)]
        named += [("ligands", file) for file in files]
        no_splits = f"structures without an index have no splits, so none is {self.split}; leave it empty"
        Problems.check(
            (docked and bool(self.paths), "source", "has no place beside data.receptor and data.ligands"),
            (docked and self.receptor is None, "ligands", "needs data.receptor, a structure file"),
            (docked and not ligands, "receptor", "needs data.ligands, files of molecules"),
            *((not own, "ligands", f"{path}: holds no files of molecules") for path, own in ligands),
            *((not Path(path).is_file(), key, f"{path}: no such file") for key, path in named),
            (bool(self.split) and bool(found.structures or docked), "split", no_splits),
        )
        return found

    def suited(self, contracts: Sequence[Contract], *, build: bool) -> InputConfig:
        """The same with what is absent as the models want it. build: whether anything is yet to be built.

        >>> InputConfig("index.csv").suited([Contract(view="segment0", origin=Origin(cutoff=6.0))], build=True).cutoff
        6.0
        """
        wanted: dict[str, Any] = {"input": _first(one.view for one in contracts) or "complex"}
        if build:
            origins = [one.origin for one in contracts]
            wanted |= {
                "cutoff": _first(one.cutoff for one in origins) or 8.0,
                "rule": _first(one.rule for one in origins) or RULES[0],
                "fragments": _first(one.fragments for one in origins) or "none",
            }
        return replace(self, **{name: value for name, value in wanted.items() if getattr(self, name) is None})

    def strange(self, contracts: Sequence[Contract]) -> dict[str, str]:
        """Keys with which it gives a model what that was not made for, and both values; nothing with `force`.

        >>> InputConfig("index.csv", cutoff=8.0).strange([Contract(origin=Origin(cutoff=6.0))])
        {'cutoff': 'cutoff 8 Å, and the model was trained with 6 Å; leave it out, or set data.force = true'}
        """
        if self.force:
            return {}
        asked = Origin(self.cutoff, self.rule)
        found = {
            {"view": "input"}.get(kind, kind): f"{text}; leave it out, or set data.force = true"
            for contract in contracts
            for kind, text in contract.problems(asked, self.input).items()
        }
        names = {one.origin.fragments for one in contracts if one.origin.fragments is not None}
        if self.fragments not in (None, "none", *names) and names:
            found["fragments"] = (
                f"fragments {self.fragments!r}, and the model was trained with {', '.join(map(repr, sorted(names)))}; "
                "leave it out, or set data.force = true"
            )
        return found


def _molecules(path: str) -> list[str]:
    """The files of molecules in a folder, or the one that is named."""
    return list(map(str, structure_files(path, MOLECULES))) if Path(path).is_dir() else [path]


def _listed(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _first(values: Iterable[Any]) -> Any:
    """The first of them that is not None; None without any."""
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True)
class Sources:
    """The sources by kind: data sets there are, indexes, and structures (files or folders) to be built.

    docked: a receptor, and the files of the molecules that are docked into it.
    """

    sets: tuple[str, ...]
    indexes: tuple[str, ...]
    structures: tuple[str, ...]
    docked: tuple[str, ...] = ()

    @property
    def unbuilt(self) -> bool:
        """Whether anything must be built before it can be read."""
        return bool(self.indexes or self.structures or self.docked)

    def fingerprints(self) -> dict[str, str]:
        """The checksum over each data set."""
        return {path: open_dataset(path).fingerprint for path in self.sets}


def find(paths: Sequence[str]) -> Sources:
    """Sort sources by kind. Raises DataError naming every one that is not there or is of no known kind.

    >>> find(["demo://pockets"])
    Sources(sets=('demo://pockets',), indexes=(), structures=(), docked=())
    """
    kinds: dict[str, list[str]] = {"sets": [], "indexes": [], "structures": []}
    problems = [] if paths else ["names nothing to read"]
    for path in paths:
        where = Path(path)
        if not path.strip():
            problems.append("an empty text names nothing to read")
        elif path.startswith(DEMO) or (where / "manifest.json").is_file():
            kinds["sets"].append(path)
        elif where.is_dir():
            kinds["structures"].append(path)
        elif not where.is_file():
            problems.append(f"{path}: no such file or folder")
        elif where.suffix.lower() == ".csv":
            kinds["indexes"].append(path)
        elif kind_of(where)[1] in FORMATS:
            kinds["structures"].append(path)
        else:
            problems.append(
                f"{path}: neither a data set, an index (.csv), nor a structure ({', '.join(FORMATS)}, plain, "
                f"{' or '.join(PACKED)})"
            )
    if problems:
        raise DataError(*problems)
    return Sources(**{kind: tuple(found) for kind, found in kinds.items()})


@dataclass(frozen=True)
class Found:
    """Opened data: the complexes; the folder that relative structure paths of each set start from, where it is
    known; and what could not be built, as rows of the ledgers of `atomica-prep`."""

    dataset: Dataset | Mixture
    roots: tuple[Path | None, ...]
    failures: tuple[dict[str, Any], ...]

    def structure(self, row: int) -> Path | None:
        """The structure file that a complex was cut from; None where nothing says where it lies."""
        path, root = Path(self.dataset[row].source_path), self.roots[self._sources[row]]
        if path.is_absolute():
            return path
        return None if root is None else root / path

    def label_ids(self, row: int) -> bool:
        """Whether a complex names its residues by the archive's ids instead of the author's."""
        sets = self.dataset.sets if isinstance(self.dataset, Mixture) else (self.dataset,)
        return sets[self._sources[row]].label_ids

    @cached_property
    def _sources(self) -> list[int]:
        """Which set every row is from, counted from 0."""
        data = self.dataset
        return data.sources.tolist() if isinstance(data, Mixture) else [0] * len(data)


def listed(paths: Any) -> tuple[str, ...]:
    """One path or several as strings, of an open data set its own. Raises DataError for what is none, such as a table.

    >>> listed("index.csv"), listed([Path("a.pdb"), "b.pdb"])
    (('index.csv',), ('a.pdb', 'b.pdb'))
    """
    if isinstance(paths, str | Path):
        return (str(paths),)
    if isinstance(paths, Dataset):
        return (str(paths.folder),)
    if hasattr(paths, "columns"):
        raise DataError(
            "a data frame was given where paths are wanted: write it as an index into the folder that its paths start "
            'from, frame.to_csv("index.csv", index=False), and give that'
        )
    found = tuple(paths) if isinstance(paths, Iterable) else (paths,)
    for one in found:
        if not isinstance(one, str | Path):
            raise DataError(
                f"{type(one).__name__} where a path is wanted: give paths of structure files, folders, an index "
                "or data sets"
            )
    return tuple(map(str, found))


def warn_of(failures: Sequence[Mapping[str, Any]]) -> None:
    """A warning of what could not be read, where no ledger is left."""
    if failures:
        warnings.warn(
            f"{len(failures)} inputs could not be read, see `failures`: {reasons(failures)}",
            stacklevel=_outside(),
        )


def _outside() -> int:
    """How far up the stack, as `warnings` counts it, the one who called this package is."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("atomica."):
        frame, level = frame.f_back, level + 1
    return level


def reasons(failures: Sequence[Mapping[str, Any]]) -> str:
    """What the first of them say."""
    first = [f"{one['id']}: {one['message']}" for one in failures[:3]]
    return "; ".join([*first, *(["…"] if len(failures) > 3 else [])])


def open_sources(
    sources: Sources,
    config: InputConfig,
    neighbors: int,
    folder: Path,
    *,
    built: bool = False,
    quiet: bool = False,
) -> Found:
    """Open all data sets, building what is none yet into folders below `folder`, which are used again if there.

    neighbors: how many the model wants to be stored. built: another process has built all there is to build. quiet: the
    folder goes away afterwards, and nobody wants to hear of it. Raises
    DataError if nothing can be built or read, whatever else `_prep.build` raises for what it cannot use, and
    KeyboardInterrupt if the build is interrupted.
    """
    opened = [open_dataset(path) for path in sources.sets]
    roots: list[Path | None] = [None] * len(opened)
    failures: list[dict[str, Any]] = []
    mirror = None if config.mirror is None else Path(config.mirror)
    archive = Archive(mirror, config.fetch, plddt=config.min_plddt)
    jobs: list[tuple[list[str], Path, bool]] = [
        ([path], Path(path).parent, False) for path in indexes(sources.indexes, folder / "indexes", archive)
    ]
    if sources.structures and config.pockets_above is not None:
        index = folder / "pockets.csv"
        failures += index_by_score(
            sources.structures, index, above=config.pockets_above, least=config.pocket_residues
        )
        jobs.append(([str(index)], folder, False))
    elif sources.structures:
        jobs.append((list(sources.structures), Path.cwd(), True))
    if sources.docked:
        jobs.append(([], Path.cwd(), False))
    for number, (inputs, root, discover) in enumerate(jobs):
        target = folder / f"{number}"
        target.parent.mkdir(parents=True, exist_ok=True)
        docked = {} if inputs else {"receptor": sources.docked[0], "ligands": sources.docked[1:]}
        if not built:
            build(inputs, target, config, quiet=quiet, discover=discover, neighbors=neighbors, **docked)
        failures += ledger(target)
        found = open_dataset(target)
        if len(found):
            opened.append(found)
            roots.append(root)
    if not any(len(one) for one in opened):
        raise DataError(
            f"{', '.join(config.paths or sources.docked)}: holds no complex that could be read"
            + (f"; {len(failures)} failed: {reasons(failures)}" if failures else "")
        )
    return Found(opened[0] if len(opened) == 1 else Mixture(opened), tuple(roots), tuple(failures))


def build(
    inputs: Sequence[str | Path], target: Path, config: InputConfig, *, quiet: bool = False, **options: Any
) -> None:
    """Build a data set, or go on with it, with the cutoff, rule and fragments that `config` names.

    options: more of `_prep.BuildOptions`. Raises whatever `_prep.build` does.
    """
    given = {"cutoff": config.cutoff, "interface_rule": config.rule}
    options |= {name: value for name, value in given.items() if value is not None}
    fragments = config.fragments or "none"
    cutter = None if fragments == "none" else Cutter(read_vocabulary(fragments))
    _prep.build(_prep.BuildOptions(inputs, target, resume=True, **options), cutter, quiet=quiet)


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The rows of `failures.jsonl` in a data set's folder; none without the file."""
    path = folder / "failures.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


@dataclass(frozen=True)
class Opened:
    """The data of a job, opened: what was asked for, where they come from, the rows, and what a model sees of each.

    input: one of `data.record.INPUTS`.
    """

    config: InputConfig
    found: Found
    rows: Rows
    input: str

    def record(self, position: int) -> Record:
        """One of the rows, as a model sees it."""
        return self.rows.dataset[int(self.rows.rows[position])].view(self.input)

    def write_structure(
        self, position: int, by_block: Mapping[int, float], target: Path, root: str, setting: str
    ) -> None:
        """Write the structure of one of the rows with numbers of its blocks as B-factors, see `bfactors.write`.

        root: the folder that paths of ready data sets start from; setting: says where that stands in a spec.
        """
        row, record = int(self.rows.rows[position]), self.record(position)
        source = self.found.structure(row)
        if source is None and root:
            source = Path(root) / record.source_path
        write(source, record, by_block, target, label_ids=self.found.label_ids(row), setting=setting)

    @property
    def lost(self) -> list[dict[str, Any]]:
        """What could not be built, and what was left out of the rows, as rows of a ledger."""
        left_out = self.rows.skipped.items()
        return [
            *self.found.failures,
            *({"stage": "select", "count": count, "message": reason} for reason, count in left_out),
        ]

    def __str__(self) -> str:
        """What a person is told of it."""
        rows = self.rows
        seen = "both partners" if self.input == "complex" else f"{self.input} alone"
        skipped = f"; left out: {counts(rows.skipped)}" if rows.skipped else ""
        return (
            f"{len(rows)} complexes of {rows.dataset.name}, {seen}, {int(rows.blocks.sum())} blocks{skipped}"
        )


def open_data(
    sources: Sources,
    config: InputConfig,
    input: str,
    models: Sequence[Model],
    folder: Path,
    *,
    built: bool = False,
    quiet: bool = False,
) -> Opened:
    """Open data for some models, building below `folder` what is none yet unless it is `built`, and choose the rows.

    built, quiet: as for `open_sources`. Raises DataError if nothing can be read, or is not what a model was made for,
    unless `config.force` says so.
    """
    neighbors = max((model.config.k_neighbors for model in models), default=8)
    config = config.suited([model.made_for for model in models], build=sources.unbuilt)
    found = open_sources(sources, config, neighbors, folder, built=built, quiet=quiet)
    check_suits(found.dataset, models, force=config.force)
    return Opened(config, found, select(found, config, input), input)


def select(found: Found, config: InputConfig, input: str) -> Rows:
    """The rows that a job reads, in order. Raises DataError if none is left, saying why."""
    dataset = found.dataset
    rows = np.arange(len(dataset)) if not config.split else dataset.rows_of(config.split, own=False)
    chosen = Rows(
        config.split or "all", dataset, rows.astype(np.int64), dataset.block_counts(input)[rows], {}
    )
    if input != "complex":
        # One block is the global block alone, none a partner that is not there.
        chosen = chosen.keep(chosen.blocks > 1, f"no {input}")
    chosen = chosen.keep(
        chosen.blocks <= config.max_item_blocks,
        f"more than {config.max_item_blocks} blocks (data.max_item_blocks)",
    )
    if not len(chosen):
        reasons = ", ".join(f"{count} {reason}" for reason, count in chosen.skipped.items())
        splits = Counter(name or "none" for name in dataset.splits)
        there = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items()))
        raise DataError(
            f"{dataset.name}: no complex is left"
            + (f" of split {config.split}; there are {there}; empty: all" if config.split else "")
            + (f"; left out: {reasons}" if reasons else "")
        )
    return chosen


def check_suits(dataset: Complexes, models: Sequence[Model], *, force: bool = False) -> None:
    """Raise DataError if the data know fragments that a model does not, or were made otherwise than a model's.

    force: the models are to take them all the same, as far as they can.
    """
    for model in models:
        if dataset.block_types != model.config.block_types and dataset.fragments != "none":
            raise DataError(
                f"{dataset.name}: has {dataset.block_types} block types (fragments {dataset.fragments!r}), the model "
                f"{model.config.block_types}; build the data with the vocabulary that the model was trained with"
            )
        if not force and (found := model.made_for.problems(dataset.origin)):
            raise DataError(
                f"{dataset.name}: built with {'; '.join(found.values())}; build it alike, or set data.force = true"
            )
