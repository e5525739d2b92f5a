"""`atomica-prep split`: an index with its rows shared out so that no relatives are in two parts; and who is near whom.

Rows that belong together, by sequence, entry, ligand or a column, make a cluster (single linkage); clusters go whole
to train, valid and test, or to folds, with the labels shared out evenly.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from atomica import _prep
from atomica.console import hang_up
from atomica.errors import AtomicaError, DataError
from atomica.files import DONE, FAILED, INTERRUPTED, SOME_FAILED, USAGE, number_of, write_text
from atomica.prep import archive
from atomica.prep.alike import Chain, Pair, ligand, mmseqs, related, scaffold, sequences, tanimoto

__all__ = ["NOTHING", "main", "strata", "warn_of_twins"]

Indices = npt.NDArray[np.int64]

PARTS = ("train", "valid", "test")
TWIN, TWIN_COVERAGE = 0.9, 0.8
"""Identity and coverage of both from which on two chains are near twins."""
NUCLEIC = 0.8
"""The least identity of nucleic acids that are related: a quarter of any two is equal by chance."""
NOTHING = ("", "nan", "NaN", "<NA>")
"""How programs write that there is no label; NA is sodium."""
FEW = 10
"""Different numbers up to which each is a class of its own."""
NUMBERS = 0.9
"""Share of numbers among labels from which on what is none, such as >5, is no label."""
MOST_TOLD = 5
"""Causes that are told of rows that are not compared."""
MOST_CHAINS = 5000
"""Different chains up to which `check` looks for twins."""


@dataclass(frozen=True)
class Index:
    """The rows of an index, and the folder that their paths start from."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def column(self, name: str) -> list[str]:
        """A column. Raises DataError if there is none of that name."""
        if name not in self.columns:
            raise DataError(f"{self.path}: has no column {name!r}; it has {', '.join(self.columns)}")
        return [row[name] for row in self.rows]

    @property
    def paths(self) -> list[str]:
        """The structure of each row."""
        return self.column("path" if "path" in self.columns else "pdb_path")

    @property
    def names(self) -> list[str]:
        """The id of each row."""
        return self.column("id" if "id" in self.columns else "pdb_id")

    def entries(self) -> list[str]:
        """What structure each row is cut from: its `pdb_id`, else its file without suffixes."""
        if "pdb_id" in self.columns:
            return self.column("pdb_id")
        return [Path(path).name.partition(".")[0] for path in self.paths]


def read_index(path: Path) -> Index:
    """Read an index as `atomica-prep build-graphs` does. Raises AtomicaError if it is none, or has no rows."""
    columns, texts = _prep.read_index(path)
    if not texts:
        raise DataError(f"{path}: has no rows below its header")
    return Index(path, tuple(columns), tuple(dict(zip(columns, row, strict=True)) for row in texts))


# --------------------------------------------------------------------------------------------------- clusters


@dataclass(frozen=True)
class Chains:
    """The different sequences of an index, and which of them each row has: none where its file cannot be read.

    unread: how many rows that is so of, by what is said of it.
    """

    different: tuple[Chain, ...]
    of_rows: tuple[frozenset[int], ...]
    unread: Counter[str]


def chains_of(index: Index) -> Chains:
    """The chains of both partners of each row; without names all of the file."""
    numbers: dict[Chain, int] = {}
    known: dict[str, Mapping[str, Chain]] = {}
    problems: dict[str, str] = {}
    of_rows = []
    for row, path in zip(index.rows, index.paths, strict=True):
        if path not in known:
            known[path] = {}
            try:
                if archive.named(path):
                    raise DataError(
                        f"{path}: sequences are read from files, and this names an entry by its id"
                    )
                known[path] = sequences(index.path.parent / path)
            except DataError as error:
                problems[path] = str(error)
        named = {name for key in ("chain1", "chain2") for name in row.get(key, "").split("_") if name}
        own = [chain for name, chain in known[path].items() if not named or name in named]
        of_rows.append(frozenset(numbers.setdefault(chain, len(numbers)) for chain in own))
    unread = Counter(problems[path] for path in index.paths if path in problems)
    return Chains(tuple(numbers), tuple(of_rows), unread)


def joined(count: int, links: Sequence[tuple[int, int]]) -> Indices:
    """The number of the cluster of each of `count` things, those that links join having one.

    >>> joined(4, [(0, 2), (2, 3)]).tolist()
    [0, 1, 0, 0]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    ends = np.array(links, dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def links_of(names: Sequence[Any]) -> list[tuple[int, int]]:
    """Each row with the first of the same name; rows without a name alone."""
    first: dict[Any, int] = {}
    return [(first.setdefault(name, row), row) for row, name in enumerate(names) if name not in ("", None)]


def links_by_chain(chains: Chains, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """Rows that have a chain in common, or related ones."""
    holders: dict[int, list[int]] = {}
    for row, own in enumerate(chains.of_rows):
        for number in own:
            holders.setdefault(number, []).append(row)
    links = [(rows[0], row) for rows in holders.values() for row in rows[1:]]
    return links + [(holders[one.first][0], holders[one.second][0]) for one in pairs]


def strata(labels: Sequence[str]) -> list[str]:
    """What is shared out evenly: classes as they are, of numbers with many values which fifth of them a row is in.

    >>> strata(["HEM", "nan", "FAD"])
    ['HEM', '', 'FAD']
    >>> strata([str(value) for value in range(20)])[::5]
    ['up to 3.8', '3.8 to 7.6', '7.6 to 11.4', '11.4 to 15.2']
    """
    known = ["" if text.strip() in NOTHING else text for text in labels]
    values = np.array([math.nan if (number := number_of(text)) is None else number for text in known])
    finite = np.isfinite(values)
    if len(np.unique(values[finite])) <= FEW or finite.sum() < NUMBERS * sum(map(bool, known)):
        return known
    edges = np.nanquantile(values, [0.2, 0.4, 0.6, 0.8])
    ends = [f"{edge:.4g}" for edge in edges]
    names = [f"up to {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), f"above {ends[-1]}"]
    fifths = np.searchsorted(edges, values)
    return [names[fifth] if good else "" for fifth, good in zip(fifths, finite, strict=True)]


def assign(clusters: Indices, labels: Sequence[str], shares: Sequence[float], seed: int = 0) -> Indices:
    """A part for each row, whole clusters to one part, so that rows and labels come near their shares.

    clusters [N]; shares: of the rows, one per part. The largest cluster first, each to the part where it leaves the
    least squared difference from what is due of each label and of all rows; equal ones by a draw.

    >>> np.bincount(assign(np.array([0, 0, 1, 2, 3]), ["a"] * 5, [0.6, 0.4])).tolist()
    [3, 2]
    """
    generator = np.random.default_rng(seed)
    names = {name: number for number, name in enumerate(dict.fromkeys(labels))}
    table = np.zeros((int(clusters.max(initial=-1)) + 1, len(names) + 1))
    for cluster, label in zip(clusters.tolist(), labels, strict=True):
        table[cluster, names[label]] += 1
        table[cluster, -1] += 1
    due = np.outer(np.asarray(shares) / np.sum(shares), table.sum(axis=0))
    weight = 1 / np.maximum(table.sum(axis=0), 1)  # a rare label counts as much as a frequent one
    filled, parts = np.zeros_like(due), np.zeros(len(table), dtype=np.int64)
    order = generator.permutation(len(table))
    for cluster in order[np.argsort(-table[order, -1], kind="stable")]:
        before = (weight * (filled - due) ** 2).sum(axis=1)
        after = (weight * (filled + table[cluster] - due) ** 2).sum(axis=1)
        parts[cluster] = part = int(np.argmin(after - before))
        filled[part] += table[cluster]
    return parts[clusters]


# ---------------------------------------------------------------------------------------------------- leakage


@dataclass(frozen=True)
class Near:
    """The training row that is nearest to a test row, and how near: from 0 to 1."""

    row: int
    nearest: int | None
    value: float


def nearest_by_chain(chains: Chains, pairs: Sequence[Pair], parts: Sequence[str]) -> list[Near]:
    """For each test row the training row with the chain of highest identity, half of both being aligned."""
    alike: dict[int, list[tuple[float, int]]] = {}
    for one in pairs:
        if one.least >= 0.5:
            alike.setdefault(one.first, []).append((one.identity, one.second))
            alike.setdefault(one.second, []).append((one.identity, one.first))
    trained: dict[int, int] = {}
    for row, own in enumerate(chains.of_rows):
        if parts[row] == "train":
            for number in own:
                trained.setdefault(number, row)
    found = []
    for row, own in enumerate(chains.of_rows):
        if parts[row] == "test":
            near = [(1.0, number) for number in own] + [
                two for number in own for two in alike.get(number, ())
            ]
            best = max(
                ((value, trained[number]) for value, number in near if number in trained), default=None
            )
            found.append(Near(row, None, 0.0) if best is None else Near(row, best[1], best[0]))
    return found


def nearest_by_ligand(molecules: Sequence[Any], parts: Sequence[str]) -> list[Near]:
    """For each test row with a ligand the training row with the most similar one."""
    there = [row for row, one in enumerate(molecules) if one is not None]
    train = [place for place, row in enumerate(there) if parts[row] == "train"]
    if not train:
        return []
    values = tanimoto([molecules[row] for row in there])[:, train]
    return [
        Near(row, there[train[int(values[place].argmax())]], float(values[place].max()))
        for place, row in enumerate(there)
        if parts[row] == "test"
    ]


def distribution(found: Sequence[Near], what: str) -> list[str]:
    """How near test rows are to training rows, as lines with bars."""
    edges = (0.0, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 1.0 + 1e-9)
    values = np.array([one.value for one in found])
    lines = [f"{what} of the nearest training row, {len(found)} test rows:"]
    for low, high in zip(edges, edges[1:], strict=False):
        count = int(((values >= low) & (values < high)).sum())
        bar = "#" * round(40 * count / max(len(found), 1))
        lines.append(f"  {low:.1f} to {min(high, 1.0):.1f}  {count:>6}  {bar}".rstrip())
    return lines


# ------------------------------------------------------------------------------------------------ the command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomica-prep split",
        description="Share the rows of an index out to train, valid and test, or to folds, so that no relatives are in "
        "two of them; say how near the test rows are to the training rows.",
        allow_abbrev=False,
    )
    parser.add_argument("index", type=Path, help="CSV, as for build-graphs")
    parser.add_argument(
        "--out", type=Path, required=True, help="index to write, with columns split and cluster"
    )
    parser.add_argument(
        "--by",
        nargs="+",
        default=["sequence"],
        metavar="KIND",
        help="what makes rows relatives, one or several of: sequence, entry, scaffold, tanimoto, column:NAME",
    )
    parser.add_argument("--identity", type=float, default=0.3, help="sequence: least identity of relatives")
    parser.add_argument(
        "--coverage", type=float, default=0.5, help="sequence: least share of both chains aligned"
    )
    parser.add_argument("--tanimoto", type=float, default=0.5, help="tanimoto: least similarity of relatives")
    parser.add_argument(
        "--shares", type=float, nargs=3, default=[0.8, 0.1, 0.1], metavar=("TRAIN", "VALID", "TEST")
    )
    parser.add_argument(
        "--folds", type=int, default=0, help="instead of shares: column fold; 0 is test, 1 valid"
    )
    parser.add_argument(
        "--label", default="", help="column whose values are shared out evenly; default: label, if any"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw between equal choices")
    parser.add_argument(
        "--tool",
        choices=("auto", "mmseqs", "biotite"),
        default="auto",
        help="what compares proteins; auto: MMseqs2 if there",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out, also where it is the index itself"
    )
    return parser


def _checked(words: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    given = parser.parse_args(list(words))
    for kind in given.by:
        if kind not in ("sequence", "entry", "scaffold", "tanimoto") and not re.fullmatch("column:.+", kind):
            parser.error(f"--by {kind}: is none of sequence, entry, scaffold, tanimoto, column:NAME")
    for name in ("identity", "coverage", "tanimoto"):
        if not 0 < getattr(given, name) <= 1:
            parser.error(f"--{name}: must be more than 0 and at most 1")
    if min(given.shares) < 0 or not given.shares[0]:
        parser.error("--shares: three numbers, none negative, and some for train")
    if given.folds and given.folds < 3:
        parser.error("--folds: at least 3, to learn from, to choose by, and to test")
    if given.tool == "mmseqs" and mmseqs() is None:
        parser.error("--tool mmseqs: there is no command mmseqs; install MMseqs2, or use biotite")
    if given.out.exists() and not given.overwrite:
        parser.error(f"--out {given.out}: is there already; give another, or --overwrite")
    return given


def main(words: Sequence[str]) -> int:
    """Run `atomica-prep split …` with the words behind `split`, and give the exit code."""
    try:
        given = _checked(words)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    try:
        return split(given)
    except AtomicaError as error:
        print(f"atomica-prep: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # nobody reads what is told; the files are written before that
        hang_up()
        return DONE
    except OSError as error:
        print(f"atomica-prep: --out {given.out}: cannot be written: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED


def arguments(*words: str | Path) -> argparse.Namespace:
    """What `split` wants, from the words behind `atomica-prep split`, of which nothing may be wrong."""
    return _checked([str(word) for word in words])


def split(given: argparse.Namespace) -> int:
    """Write an index with its rows shared out, and say how near they are. Raises AtomicaError for one that is wrong."""
    index = read_index(given.index)
    count = len(index.rows)
    label = given.label or ("label" if "label" in index.columns else "")
    labels = strata(index.column(label)) if label else [""] * count
    if repeated := [name for name, number in Counter(index.names).items() if number > 1]:
        print(
            f"{len(repeated)} ids are there twice, {repeated[0]!r} for one; build-graphs takes each once",
            file=sys.stderr,
        )
    links = links_of(index.entries())
    chains = chains_of(index)
    unread = chains.unread.total()
    if unread:
        told = [f"{unread} of {count} rows are not compared by sequence:"]
        told += [f"  {number} rows: {why}" for why, number in chains.unread.most_common(MOST_TOLD)]
        if len(chains.unread) > MOST_TOLD:
            told.append(f"  and {len(chains.unread) - MOST_TOLD} other causes")
        if unread == count and given.by == ["sequence"]:
            raise DataError(f"{index.path}: nothing to go by: " + "\n".join(told))
        print("\n".join(told), file=sys.stderr)
    tool = None if given.tool == "biotite" else mmseqs()
    by = "MMseqs2" if tool else "Biotite"
    print(f"{count} rows, {len(chains.different)} different chains, compared by {by}", file=sys.stderr)
    pairs = related(chains.different, tool=tool)
    molecules: list[Any] = [None] * count
    if {"lig_smiles", "ligand_path", "lig_code"} & set(index.columns):
        molecules = [ligand(row, index.path.parent) for row in index.rows]
    for kind in given.by:
        links += _links(kind, given, index, chains, pairs, molecules)
    clusters = joined(count, links)
    sizes = np.bincount(clusters)
    shares = [1.0] * given.folds if given.folds else given.shares
    parts = assign(clusters, labels, shares, given.seed)
    splits = [PARTS[part] for part in parts] if not given.folds else [_split_of(fold) for fold in parts]
    added = {"split": splits, "cluster": [f"c{one:05}" for one in clusters]}
    if given.folds:
        added["fold"] = [str(fold) for fold in parts]
    found = {
        "sequence": nearest_by_chain(chains, pairs, splits),
        "ligand": nearest_by_ligand(molecules, splits),
    }
    _write(given.out, index, added)
    _write_leakage(given.out, index, added, found)
    print(f"{len(sizes)} clusters, the largest of {sizes.max()} rows ({sizes.max() / count:.0%})")
    for name in PARTS:
        own = [row for row in range(count) if splits[row] == name]
        met = Counter(labels[row] for row in own)
        shown = ", ".join(f"{value or 'no label'} {number}" for value, number in met.most_common(12))
        held = len({int(clusters[row]) for row in own})
        print(
            f"{name:<6} {len(own)} rows, {held} clusters" + (f": {shown}" if label and len(met) <= 40 else "")
        )
    for what, title in (("sequence", "identity of a chain"), ("ligand", "Tanimoto similarity of the ligand")):
        if found[what]:
            print("\n".join(distribution(found[what], title)))
    print(f"written {given.out} and {_leakage(given.out)}")
    return SOME_FAILED if unread and "sequence" in given.by else DONE


def _split_of(fold: int) -> str:
    """The split that stands for folds where nobody asks for them."""
    return {0: "test", 1: "valid"}.get(int(fold), "train")


def _links(
    kind: str,
    given: argparse.Namespace,
    index: Index,
    chains: Chains,
    pairs: Sequence[Pair],
    molecules: Sequence[Any],
) -> list[tuple[int, int]]:
    """Rows that are relatives by one kind."""
    if kind == "sequence":
        near = [
            one
            for one in pairs
            if one.least >= given.coverage
            and one.identity >= max(given.identity, NUCLEIC * chains.different[one.first].nucleic)
        ]
        return links_by_chain(chains, near)
    if kind == "entry":
        return links_of(index.entries())
    if kind.startswith("column:"):
        return links_of(index.column(kind.partition(":")[2]))
    there = [row for row, one in enumerate(molecules) if one is not None]
    if not there:
        raise DataError(
            f"{index.path}: --by {kind}: no row names a ligand that can be read (lig_smiles, ligand_path, lig_code)"
        )
    if kind == "scaffold":
        return links_of([None if one is None else scaffold(one) for one in molecules])
    alike = np.argwhere(np.triu(tanimoto([molecules[row] for row in there]) >= given.tanimoto, 1))
    return [(there[i], there[j]) for i, j in alike.tolist()]


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _write(out: Path, index: Index, added: Mapping[str, Sequence[str]]) -> None:
    """The index with columns added, or in place of those of the same name; its paths start from where it lies now."""
    columns = [*index.columns, *(name for name in added if name not in index.columns)]
    rows: list[Sequence[Any]] = [columns]
    same = out.parent.absolute() == index.path.parent.absolute()
    for number, row in enumerate(index.rows):
        whole = {**row, **{name: values[number] for name, values in added.items()}}
        for name in () if same else ("path", "pdb_path", "ligand_path"):
            if whole.get(name) and not archive.named(whole[name]):
                whole[name] = str((index.path.parent / whole[name]).absolute())
        rows.append([whole.get(name, "") for name in columns])
    write_text(out, _csv(rows))


def _leakage(out: Path) -> Path:
    return out.with_name(f"{out.stem}.leakage.csv")


def _write_leakage(
    out: Path, index: Index, added: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[Near]]
) -> None:
    """The nearest training row of each test row, by sequence and by ligand."""
    names = index.names
    rows: list[Sequence[Any]] = [["id", "cluster", "by", "nearest", "value"]]
    for what, near in found.items():
        for one in sorted(near, key=lambda one: -one.value):
            nearest = "" if one.nearest is None else names[one.nearest]
            rows.append([names[one.row], added["cluster"][one.row], what, nearest, f"{one.value:.3f}"])
    write_text(_leakage(out), _csv(rows))


def warn_of_twins(path: Path) -> str:
    """What there is to say of an index whose test rows have near twins among its training rows; empty if none has.

    Of files and rows that cannot be read nothing is said: `check` tells of them.
    """
    try:
        index = read_index(path)
    except AtomicaError:
        return ""
    parts = [row.get("split", "") for row in index.rows]
    if not {"train", "test"} <= set(parts):
        return ""
    kept = [number for number, part in enumerate(parts) if part in ("train", "test")]
    index = Index(path, index.columns, tuple(index.rows[number] for number in kept))
    parts = [parts[number] for number in kept]
    chains = chains_of(index)
    if len(chains.different) > MOST_CHAINS:
        many = len(chains.different)
        return f"  not looked for near twins of test rows: {many} chains are many; atomica-prep split compares them"
    held = {part: set[int]() for part in ("train", "test")}
    for part, own in zip(parts, chains.of_rows, strict=True):
        held[part] |= own

    def across(i: int, j: int) -> bool:
        return (i in held["train"] and j in held["test"]) or (j in held["train"] and i in held["test"])

    near = [
        one
        for one in related(chains.different, tool=mmseqs(), wanted=across)
        if one.identity >= TWIN and one.least >= TWIN_COVERAGE
    ]
    found = [one for one in nearest_by_chain(chains, near, parts) if one.nearest is not None]
    if not found:
        return ""
    names, tested = index.names, parts.count("test")
    one, other = names[found[0].row], names[found[0].nearest or 0]
    return (
        f"warning: {len(found)} of {tested} test rows have a chain at least {TWIN:.0%} identical to one of a training "
        f"row, {one} and {other} for one: what a model scores there says little about others; atomica-prep split makes "
        "parts without relatives"
    )
