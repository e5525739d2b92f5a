"""How alike chains and ligands are: sequences of structure files, related pairs of them, fingerprints of ligands.

Related pairs of proteins are found by MMseqs2 where it is installed, else by k-mers and local alignments of Biotite;
those of nucleic acids always by the latter.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from atomica._prep import read_structure
from atomica.errors import AtomicaError, DataError
from atomica.prep.fragments import component, sensible

__all__ = ["Pair", "ligand", "mmseqs", "one_letter", "related", "sequences", "similarity", "tanimoto"]

SHORTEST = {False: 20, True: 12}
"""Residues of a protein, of a nucleic acid, below which a chain is not compared: anything is like a short one."""
CHANCE = 1e-3
"""Alignments as good expected between two random sequences (Karlin-Altschul); above it, none counts."""
WORDS = {False: 3, True: 8}
"""Length of the words that two sequences must share to be aligned, for proteins and nucleic acids."""
DROP = 20
"""By how much a score may fall below its best before a stretch ends."""
OUT_OF_THE_ORDINARY = {False: 38, True: 60}
"""Score of a stretch without gaps from which on two sequences are aligned (BLAST asks for 41 of proteins)."""


RIBONUCLEOTIDES = {"RA": "A", "RC": "C", "RG": "G", "RU": "U"}
"""Components that blocks stand for under another name."""


@cache
def _nucleotides() -> frozenset[str]:
    from biotite.structure import info

    return frozenset(info.nucleotide_names())


def one_letter(residue: str, nucleic: bool) -> str:
    """Letter of a residue in a sequence: the parent's for a modified one, X or N where there is none."""
    from biotite.structure.info import one_letter_code

    letter = one_letter_code(residue) or ""
    if nucleic:
        letter = letter.replace("U", "T")
        return letter if letter in tuple("ACGT") else "N"
    return letter if letter in tuple("ACDEFGHIKLMNPQRSTVWY") else "X"


class Chain(NamedTuple):
    """Observed residues of a chain, one letter each."""

    sequence: str
    nucleic: bool


def sequences(path: str | Path) -> dict[str, Chain]:
    """The chains of a structure file that are long enough to be compared, of residues as interfaces take them.

    Raises DataError if it cannot be read.
    """
    try:
        structure = read_structure(str(path))
    except (AtomicaError, OSError) as error:
        raise DataError(f"{path}: {error}") from None
    base = _nucleotides()
    names = [structure.chain, structure.resnum, structure.icode, structure.resname, structure.block]
    first = np.ones(len(names[0]), dtype=bool)
    if len(first):
        first[1:] = np.any([one[1:] != one[:-1] for one in names[:3]], axis=0)
    found: dict[str, list[str]] = {}
    seen: set[tuple[str, int, str]] = set()
    for chain, number, icode, written, block in zip(*(one[first].tolist() for one in names), strict=True):
        if (chain, number, icode) not in seen and block:
            seen.add((chain, number, icode))  # residues may be written in several parts
            found.setdefault(chain, []).append(
                written if block == "UNK" else RIBONUCLEOTIDES.get(block, block)
            )
    chains = {}
    for chain, residues in found.items():
        nucleic = 2 * sum(residue in base for residue in residues) > len(residues)
        sequence = "".join(one_letter(residue, nucleic) for residue in residues)
        if len(sequence) >= SHORTEST[nucleic]:
            chains[chain] = Chain(sequence, nucleic)
    return chains


# --------------------------------------------------------------------------------------------------- sequences


class Pair(NamedTuple):
    """Two sequences by number, the identity of their aligned residues, and the shares of each that are aligned."""

    first: int
    second: int
    identity: float
    coverage: float
    other_coverage: float

    @property
    def least(self) -> float:
        """The smaller of the coverages."""
        return min(self.coverage, self.other_coverage)


def _biotite(nucleic: bool) -> tuple[Callable[[str], Any], Any]:
    """What makes a sequence, and the substitution matrix."""
    from biotite.sequence import NucleotideSequence, ProteinSequence, align

    if not nucleic:
        return ProteinSequence, align.SubstitutionMatrix.std_protein_matrix()
    alphabet = NucleotideSequence.alphabet_amb
    return (
        lambda text: NucleotideSequence(text, ambiguous=True),
        align.SubstitutionMatrix(alphabet, alphabet, "NUC"),
    )


def similarity(first: str, second: str, nucleic: bool) -> tuple[float, float, float]:
    """Identity over the aligned residues, and the share of either sequence that is aligned.

    From the best local alignment (proteins: BLOSUM62; nucleic acids: match 5, mismatch -4; gaps 11 and 1). All are 0
    for an alignment that two random sequences of these lengths would give: a short stretch at 30% identity is found
    between any two proteins.

    >>> similarity("ACGTTGCAACGTTTAGC", "TTTTTCCCCCTTTTTCC", True)
    (0.0, 0.0, 0.0)
    """
    from biotite.sequence import align

    make, matrix = _biotite(nucleic)
    scale, factor, unknown = (0.192, 0.177, "N") if nucleic else (0.267, 0.041, "X")
    a, b = make(first), make(second)
    best = align.align_optimal(a, b, matrix, gap_penalty=(-11, -1), local=True, max_number=1)
    if not best or factor * len(first) * len(second) * math.exp(-scale * best[0].score) > CHANCE:
        return 0.0, 0.0, 0.0
    trace = best[0].trace
    aligned = trace[(trace >= 0).all(axis=1)].tolist()
    same = sum(first[i] == second[j] != unknown for i, j in aligned)
    return same / len(aligned), len(aligned) / len(first), len(aligned) / len(second)


def mmseqs() -> str | None:
    """The path of MMseqs2, if it is installed."""
    return shutil.which("mmseqs")


def related(
    chains: Sequence[Chain],
    *,
    tool: str | None = None,
    wanted: Callable[[int, int], bool] = lambda i, j: True,
) -> list[Pair]:
    """Pairs of different sequences that are more alike than chance would have it.

    tool: path of MMseqs2, None for Biotite. wanted: which pairs, by their numbers in `chains`, are looked at.
    """
    found: list[Pair] = []
    for nucleic in (False, True):
        numbers = [number for number, one in enumerate(chains) if one.nucleic == nucleic]
        texts = [chains[number].sequence for number in numbers]
        if len(texts) < 2:
            continue
        search = (
            _by_mmseqs(tool, texts) if tool and not nucleic else _by_words(texts, nucleic, numbers, wanted)
        )
        for one in search:
            i, j = numbers[one.first], numbers[one.second]
            if wanted(i, j):
                found.append(one._replace(first=i, second=j))
    return found


def _by_mmseqs(tool: str, texts: Sequence[str]) -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="atomica-") as folder:
        fasta, table = Path(folder) / "all.fasta", Path(folder) / "pairs.tsv"
        fasta.write_text("".join(f">{number}\n{text}\n" for number, text in enumerate(texts)))
        words = [
            tool,
            "easy-search",
            fasta,
            fasta,
            table,
            Path(folder) / "work",
            "-s",
            "7.5",
            "-e",
            str(CHANCE),
        ]
        words += ["--max-seqs", str(max(300, len(texts))), "-v", "1"]
        words += ["--format-output", "query,target,fident,qcov,tcov"]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DataError(
                f"{tool} failed with exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
            )
        for line in table.read_text().splitlines():
            query, target, *numbers = line.split("\t")
            if int(query) < int(target):
                yield Pair(int(query), int(target), *map(float, numbers))


def _by_words(
    texts: Sequence[str], nucleic: bool, numbers: Sequence[int], wanted: Callable[[int, int], bool]
) -> Iterator[Pair]:
    """Pairs with a stretch, around a word in common, whose score without gaps is out of the ordinary; then aligned."""
    from biotite.sequence import align

    make, matrix = _biotite(nucleic)
    made = [make(text) for text in texts]
    table = align.KmerTable.from_sequences(WORDS[nucleic], made)
    for i, one in enumerate(made):
        place, other, at = table.match(one).astype(np.int64).T
        later = other > i
        place, other, at = place[later], other[later], at[later]
        # Of words on one diagonal the first: what is extended from it comes past the others if they belong together.
        seeds = np.unique(np.stack([other, at - place, place, at], axis=1), axis=0)
        _, first = np.unique(seeds[:, :2], axis=0, return_index=True)
        best: dict[int, bool] = {}
        for j, _, here, there in seeds[first].tolist():
            if best.get(j) or not wanted(numbers[i], numbers[j]):
                continue
            score = align.align_local_ungapped(one, made[j], matrix, (here, there), DROP, score_only=True)
            best[j] = score >= OUT_OF_THE_ORDINARY[nucleic]
        for j in sorted(j for j, worth in best.items() if worth):
            identity, coverage, other_coverage = similarity(texts[i], texts[j], nucleic)
            if identity:
                yield Pair(i, j, identity, coverage, other_coverage)


# ---------------------------------------------------------------------------------------------------- ligands


def ligand(row: Mapping[str, str], folder: Path) -> Any:
    """The ligand of a row of an index as an RDKit molecule; None where none is named, or it makes no sense.

    From `lig_smiles`, else the file that `ligand_path` names (relative to `folder`), else the component `lig_code`.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        if row.get("lig_smiles"):
            return Chem.MolFromSmiles(row["lig_smiles"])
        if row.get("ligand_path"):
            return _of_file(folder / row["ligand_path"], int(row.get("ligand_index") or 0))
        known = component(row["lig_code"]) if row.get("lig_code") else None
        return None if known is None else sensible(known)


def _of_file(path: Path, index: int) -> Any:
    """A molecule of an SDF or MOL2 file, plain or packed."""
    import pyarrow as pa
    from rdkit import Chem

    packing = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    try:
        with pa.input_stream(str(path), compression=packing) as stream:
            text = stream.read().decode("utf-8", "replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if ".mol2" in path.name:
        parts = ["@<TRIPOS>MOLECULE" + part for part in text.split("@<TRIPOS>MOLECULE")[1:]]
        return Chem.MolFromMol2Block(parts[index]) if index < len(parts) else None
    parts = text.split("$$$$\n")
    return Chem.MolFromMolBlock(parts[index]) if index < len(parts) else None


def scaffold(molecule: Any) -> str:
    """SMILES of the Bemis-Murcko scaffold; of a molecule without rings its own."""
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule) or Chem.MolToSmiles(molecule)


def tanimoto(molecules: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Tanimoto similarity [N, N] of Morgan fingerprints (radius 2, 2048 bits)."""
    from rdkit import DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    made = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [made.GetFingerprint(one) for one in molecules]
    return np.array([DataStructs.BulkTanimotoSimilarity(one, prints) for one in prints], dtype=np.float32)
