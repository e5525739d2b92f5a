"""Build the demo data set `pockets` from PDB entries that come inside PyPI and Debian packages.

    python -m atomica.demo.build --out atomica/demo/pockets

Downloads the packages listed in `sources.csv` with pip and apt-get, checks every structure file against its
SHA-256, finds the interfaces between chains, clusters the chains, splits the interfaces so that no cluster is in
two parts, writes an index, and calls `atomica-prep build-graphs` on it. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SOURCES", "Chain", "Row", "Source", "build", "main"]

SOURCES = Path(__file__).with_name("sources.csv")

CUTOFF = 8.0
"""Å. A residue belongs to the interface if a heavy atom of it is this near to one of the partner's."""

POCKET_BLOCKS = 16
PARTNER_BLOCKS = 8
COMPLEX_BLOCKS = 200
"""Fewest residues of the pocket and of the partner; most residues of both together."""

SPLIT_IDENTITY, SPLIT_COVERAGE = 0.30, 0.50
"""Proteins this alike (identity over aligned residues, share of the shorter chain aligned) are one cluster."""

SAME_IDENTITY, SAME_COVERAGE = 0.90, 0.80
"""Chains this alike count as copies: an interface between copies of two chains is kept once."""

NUCLEIC_IDENTITY, NUCLEIC_COVERAGE = 0.80, 0.50

CHANCE = 1e-3
"""Expected number of alignments as good between two random sequences (Karlin-Altschul); above it, none counts."""

RIBOSOME = "6zu5"
TRAIN_RNA, TEST_RNA = "L50", "S60"
"""Chains of the ribosome's large (25S) and small (16S-like) subunit RNA; what touches them goes to that part."""

VALID_PROTEINS = 20
"""Validation takes entries without nucleic acid until it has this many protein-protein interfaces."""

NUCLEIC, PROTEIN = "nucleic", "protein"

INDEX_FIELDS = (
    "id",
    "path",
    "chain1",
    "chain2",
    "label",
    "split",
    "pdb_id",
    "package",
    "partner",
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
    """One polymer chain of an entry, as observed: `sequence` has one letter per residue, X for an unknown one."""

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
    """One interface: a protein chain (the pocket) and its partner; `patch` has a letter per pocket residue."""

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

    pip insists on reading the metadata of a source package, which runs the package's build system. Only the files
    are wanted here: without build isolation that step is short or fails at once, and `--no-clean` leaves the
    unpacked source where pip put it.
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
        raise SystemExit(f"apt-get did not download {package} {version} (run `apt-get update` first?):\n{said}")
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
            raise SystemExit(f"{source.package} {source.version}: {source.path}: SHA-256 is {found}, not {source.sha256}")
        path.write_bytes(content)
    return paths


# ---------------------------------------------------------------- chains and interfaces


def read_polymers(pdb_id: str, path: Path) -> tuple[Any, list[Chain]]:
    """Heavy atoms of the polymer residues of model 1 (a Biotite atom array), and their chains."""
    from biotite import structure
    from biotite.structure.io import pdb, pdbx

    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = io.StringIO(content.decode("utf-8", "replace"))
    if ".cif" in path.suffixes:
        atoms = pdbx.get_structure(pdbx.CIFFile.read(text), model=1)
    else:
        atoms = pdb.PDBFile.read(text).get_structure(model=1)
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


def one_letter(residue: str, nucleic: bool) -> str:
    """Letter of a residue in a sequence: the parent's for a modified one, X or N where there is none."""
    from biotite.structure.info import one_letter_code

    letter = one_letter_code(residue) or ""
    if nucleic:
        letter = letter.replace("U", "T")
        return letter if letter in tuple("ACGT") else "N"
    return letter if letter in tuple("ACDEFGHIKLMNPQRSTVWY") else "X"


def find_interfaces(atoms: Any, chains: Sequence[Chain]) -> list[Row]:
    """Every protein chain with every other chain that comes within the cutoff, residues counted on both sides."""
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


def similarity(first: str, second: str, nucleic: bool) -> tuple[float, float]:
    """Identity over the aligned residues, and the share of the shorter sequence that is aligned.

    From the best local alignment (proteins: BLOSUM62; nucleic acids: match 5, mismatch -4; gaps 11 and 1). Both are
    0 for an alignment that two random sequences of these lengths would give: a short stretch at 30% identity is
    found between any two proteins.
    """
    from biotite.sequence import NucleotideSequence, ProteinSequence, align

    a: Any
    b: Any
    if nucleic:
        a, b = NucleotideSequence(first, ambiguous=True), NucleotideSequence(second, ambiguous=True)
        matrix = align.SubstitutionMatrix(a.alphabet, b.alphabet, "NUC")
        scale, factor, unknown = 0.192, 0.177, "N"
    else:
        a, b = ProteinSequence(first), ProteinSequence(second)
        matrix = align.SubstitutionMatrix.std_protein_matrix()
        scale, factor, unknown = 0.267, 0.041, "X"
    best = align.align_optimal(a, b, matrix, gap_penalty=(-11, -1), local=True, max_number=1)
    if not best or factor * len(first) * len(second) * math.exp(-scale * best[0].score) > CHANCE:
        return 0.0, 0.0
    trace = best[0].trace
    aligned = trace[(trace >= 0).all(axis=1)].tolist()
    same = sum(first[i] == second[j] != unknown for i, j in aligned)
    return same / len(aligned), len(aligned) / min(len(first), len(second))


def cluster(chains: Sequence[Chain]) -> tuple[dict[str, str], dict[str, str]]:
    """Cluster of every chain for the split, and group of copies of every chain, by chain key (single linkage)."""
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
                identity, coverage = similarity(one, two, nucleic)
                if identity >= least and coverage >= share:
                    split.join(one_key, two_key)
                if identity >= SAME_IDENTITY and coverage >= SAME_COVERAGE:
                    copies.join(one_key, two_key)
    keys = [chain.key for chain in chains]
    return {key: split.find(key) for key in keys}, {key: copies.find(key) for key in keys}
