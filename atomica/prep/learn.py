"""Learning a fragment vocabulary: `atomica-prep fragments learn` (principal subgraphs, Kong et al. 2022).

Every molecule starts as one piece per heavy atom. Count the unions of bonded pieces over all molecules, merge the
most frequent one everywhere, and repeat until the vocabulary has the wanted size.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from atomica.console import progress_bar
from atomica.errors import AtomicaError, DataError
from atomica.files import DONE, FAILED, INTERRUPTED, SOME_FAILED, USAGE, write_text
from atomica.prep.fragments import ORGANIC, Assembly, Molecule, UnionWriter, sensible

__all__ = ["Filter", "Learned", "Miner", "Rejected", "dictionary", "learn", "main", "molecules_of_file"]


_ORDERS = {"SING": 1, "DOUB": 2, "TRIP": 3, "COORD": 1}


@dataclass(frozen=True)
class Rejected:
    """An input that could not be used: where it stands, what it is, why."""

    where: str
    text: str
    reason: str


@dataclass(frozen=True)
class Filter:
    """Which molecules count: elements, and the number of heavy atoms."""

    elements: frozenset[str] = ORGANIC
    min_atoms: int = 2
    max_atoms: int = 100

    def reason(self, molecule: Molecule) -> str | None:
        """Why a molecule is left out; None if it counts."""
        if len(molecule.elements) < self.min_atoms:
            return f"fewer than {self.min_atoms} heavy atoms"
        if len(molecule.elements) > self.max_atoms:
            return f"more than {self.max_atoms} heavy atoms"
        if not set(molecule.elements) <= self.elements:
            return "other elements"
        return None


@dataclass
class Learned:
    """A vocabulary, entries (SMILES, atoms, frequency) in the order of the file, and what it was learned from."""

    entries: list[tuple[str, int, int]] = field(default_factory=list)
    molecules: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)


def dictionary() -> Iterator[tuple[str, Molecule | Rejected]]:
    """Non-polymer components of the dictionary that the `biotite` package carries, by component id.

    Obsolete ones are left out, and so are those without bonds.
    """
    import numpy as np
    from biotite.structure import info

    ccd = info.get_ccd()
    table, atoms, bonds = ccd["chem_comp"], ccd["chem_comp_atom"], ccd["chem_comp_bond"]
    wanted = {
        str(code)
        for code, kind, status in zip(
            table["id"].as_array(),
            table["type"].as_array(),
            table["pdbx_release_status"].as_array(),
            strict=True,
        )
        if kind.lower() == "non-polymer" and status == "REL"
    }

    def groups(codes: Any) -> dict[str, tuple[int, int]]:
        edges = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1], True])
        return {str(codes[i]): (int(i), int(j)) for i, j in zip(edges[:-1], edges[1:], strict=True)}

    atom_groups, bond_groups = groups(atoms["comp_id"].as_array()), groups(bonds["comp_id"].as_array())
    names, symbols = atoms["atom_id"].as_array(), atoms["type_symbol"].as_array()
    first, second = bonds["atom_id_1"].as_array(), bonds["atom_id_2"].as_array()
    orders = bonds["value_order"].as_array()
    for code in sorted(wanted & set(atom_groups) & set(bond_groups)):
        start, stop = atom_groups[code]
        heavy = [i for i in range(start, stop) if symbols[i].upper() not in ("H", "D", "T")]
        place = {names[i]: index for index, i in enumerate(heavy)}
        start, stop = bond_groups[code]
        drawn = [
            (place[first[i]], place[second[i]], _ORDERS.get(str(orders[i]).upper(), 0))
            for i in range(start, stop)
            if first[i] in place and second[i] in place
        ]
        if not all(order for _, _, order in drawn):
            yield code, Rejected(code, code, "bonds of unknown order")
            continue
        elements = tuple(str(symbols[i]).capitalize() for i in heavy)
        yield code, Molecule(tuple(str(names[i]) for i in heavy), elements, tuple(drawn))


def _lines(path: Path) -> TextIO:
    """The text of a file, plain or gzip."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
    return path.open(encoding="utf-8-sig", errors="replace", newline="")


def _smiles_of_file(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line and SMILES of every molecule of a file: first word of each line, or a column of a .csv or .tsv."""
    kind = path.with_suffix("").suffix if path.suffix.lower() == ".gz" else path.suffix
    with _lines(path) as file:
        if kind.lower() not in (".csv", ".tsv"):
            for number, line in enumerate(file, start=1):
                words = line.split()
                if words and not line.startswith("#"):
                    yield number, words[0]
            return
        reader = csv.reader(file, delimiter="\t" if kind.lower() == ".tsv" else ",")
        header = [name.strip().lower() for name in next(reader, [])]
        if column.lower() not in header:
            raise DataError(f"{path}:1: no column {column!r}; it has: {', '.join(header)}; give --column")
        at = header.index(column.lower())
        for row in reader:
            yield reader.line_num, row[at].strip() if at < len(row) else ""


def _parsed(smiles: str) -> Molecule | None:
    """Heavy atoms and Kekulé bonds of the largest part of a SMILES; None if it is none."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        read = Chem.MolFromSmiles(smiles) if smiles else None
        if read is None or not read.GetNumAtoms():
            return None
        part = max(Chem.GetMolFrags(read, asMols=True), key=lambda part: part.GetNumHeavyAtoms())
        part = Chem.RemoveAllHs(part)
        Chem.Kekulize(part, clearAromaticFlags=True)
    elements = tuple(atom.GetSymbol() for atom in part.GetAtoms())
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in part.GetBonds()]
    if not all(order in (1, 2, 3) for _, _, order in bonds):
        return None
    return Molecule(tuple(map(str, range(len(elements)))), elements, tuple(bonds))


def molecules_of_file(path: str | Path, column: str = "smiles") -> Iterator[tuple[str, Molecule | Rejected]]:
    """The molecules of a SMILES file (.smi, .txt, .csv, .tsv, each also .gz), named by their lines.

    Of several parts joined with a dot the largest counts. Raises DataError if the file cannot be read.
    """
    file = Path(path)
    try:
        for number, smiles in _smiles_of_file(file, column):
            where = f"{file}:{number}"
            yield where, _parsed(smiles) or Rejected(where, smiles, "no SMILES")
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


class Miner:
    """Molecules in pieces, and how often each union of bonded pieces occurs in them.

    Counts are kept up to date: a merge looks only at molecules that hold the union, and in them only at pairs of
    which a piece is new.
    """

    _BASE = 1 << 20
    """Above the number of any piece; two numbers below it make one key."""

    def __init__(self, *, kekulize: bool = False) -> None:
        self.kekulize = kekulize
        self.elements: Counter[str] = Counter()
        self._writer = UnionWriter(canonical=True)
        self._molecules: list[Assembly] = []
        self._pairs: list[dict[int, int]] = []
        """By molecule: pair of bonded pieces → number of the SMILES of both."""
        self._counts: list[int] = []
        self._where: list[list[int]] = []
        """By number of a SMILES: molecules that have, or had, that union; some more than once."""

    def __len__(self) -> int:
        return len(self._molecules)

    def add(self, molecule: Molecule) -> bool:
        """Count a molecule in; false if its chemistry cannot be made sense of."""
        built = sensible(molecule, kekulize=self.kekulize)
        if built is None:
            return False
        self.elements.update(molecule.elements)
        assembly = Assembly(built, self._writer)
        self._molecules.append(assembly)
        self._pairs.append({})
        for piece in assembly.atoms:
            self._pair(
                len(self) - 1,
                piece,
                {other: bonds for other, bonds in assembly.links(piece).items() if other < piece},
            )
        return True

    def _pair(self, index: int, piece: int, links: dict[int, list[int]]) -> None:
        """Count the unions of a piece with others."""
        assembly, pairs = self._molecules[index], self._pairs[index]
        for other, bonds in links.items():
            number = assembly.union(other, piece, bonds)
            while number >= len(self._counts):
                self._counts.append(0)
                self._where.append([])
            pairs[other * self._BASE + piece] = number
            self._counts[number] += 1
            if not self._where[number] or self._where[number][-1] != index:
                self._where[number].append(index)

    def most_frequent(self) -> tuple[int, int]:
        """Number and count of the most frequent union; of several the first in the alphabet."""
        texts = self._writer.texts
        count = max(self._counts, default=0)
        best = [number for number, value in enumerate(self._counts) if value == count]
        return (min(best, key=lambda number: texts[number]) if best else -1), count

    def merge(self, number: int) -> None:
        """Make one piece of every pair whose union has this number."""
        for index in sorted(set(self._where[number])):
            pairs, assembly = self._pairs[index], self._molecules[index]
            for key in [key for key, value in pairs.items() if value == number]:
                left, right = divmod(key, self._BASE)
                if key not in pairs:  # one of the two was merged with another just now
                    continue
                for piece in (left, right):
                    for other in assembly.links(piece):
                        gone = pairs.pop(min(other, piece) * self._BASE + max(other, piece), None)
                        if gone is not None:
                            self._counts[gone] -= 1
                merged = assembly.merge(left, right, assembly.links(left)[right])
                self._pair(index, merged, assembly.links(merged))
        self._where[number] = []

    def text(self, number: int) -> str:
        """The SMILES of a number."""
        return self._writer.texts[number]


def learn(
    molecules: Iterable[tuple[str, Molecule | Rejected]],
    size: int,
    *,
    keep: Filter | None = None,
    kekulize: bool = False,
    told: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> Learned:
    """Learn a vocabulary of `size` entries, single atoms included.

    It is smaller where no union occurs twice any more. `told` hears of progress: what, how much, of how much.
    The outcome depends on the molecules and their order alone. Raises DataError if nothing can be learned.
    """
    keep = keep or Filter()
    out, miner = Learned(), Miner(kekulize=kekulize)
    for seen, (where, molecule) in enumerate(molecules, start=1):
        told("reading molecules", seen, None)
        if isinstance(molecule, Rejected):
            out.rejected.append(molecule)
        elif reason := keep.reason(molecule):
            out.left_out[reason] += 1
        elif not miner.add(molecule):
            out.rejected.append(Rejected(where, where, "its valences make no sense"))
    out.molecules = len(miner)
    if not out.molecules:
        raise DataError("no molecule is left to learn from; see the filters and the list of unreadable ones")
    entries = {element: (1, count) for element, count in miner.elements.items()}
    if size <= len(entries):
        raise DataError(
            f"--size {size}: the molecules have {len(entries)} elements alone; ask for more entries than that"
        )
    gc.freeze()  # millions of small objects that stay; looking through them again and again takes most of the time
    try:
        while len(entries) < size:
            told("merging", len(entries), size)
            number, count = miner.most_frequent()
            if count < 2:
                break
            miner.merge(number)
            smiles = miner.text(number)
            # A union may come up again, after other merges made new pairs of the same SMILES.
            atoms, before = entries.get(smiles, (_atoms(smiles), 0))
            entries[smiles] = (atoms, before + count)
    finally:
        gc.unfreeze()
    out.entries = sorted(
        ((smiles, atoms, count) for smiles, (atoms, count) in entries.items()),
        key=lambda entry: (-entry[1], -entry[2], entry[0]),
    )
    return out


def _atoms(smiles: str) -> int:
    """Heavy atoms of a fragment."""
    from rdkit import Chem

    return int(Chem.MolFromSmiles(smiles, sanitize=False).GetNumAtoms())


def _header(arguments: argparse.Namespace, keep: Filter, learned: Learned) -> dict[str, Any]:
    """What the first line of a vocabulary says: how to make it again. No date, so that it comes out the same."""
    import biotite
    import rdkit

    if arguments.source == "ccd":
        source = {"kind": "ccd", "biotite": biotite.__version__}
    else:
        path = Path(arguments.source)
        source = {"kind": "file", "name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return {
        "kekulize": arguments.kekulize,
        "canonical": True,
        "source": source,
        "molecules": learned.molecules,
        "rdkit": rdkit.__version__,
        "elements": sorted(keep.elements),
        "min_atoms": keep.min_atoms,
        "max_atoms": keep.max_atoms,
        "method": "principal subgraphs, Kong et al. 2022",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="atomica-prep fragments learn",
        description="Learn a vocabulary of fragments from small molecules: merge the most frequent pair of bonded "
        "pieces everywhere, and repeat (principal subgraphs, Kong et al. 2022).",
        epilog="Examples:\n  atomica-prep fragments learn molecules.smi --size 300 --out mine.tsv\n"
        "  atomica-prep fragments learn --from ccd --size 300 --out ccd_300.tsv\n"
        "  atomica-prep build-graphs complexes.csv --fragments mine.tsv --out graphs\n\n"
        "The same molecules give the same file. About 10 kB of memory per molecule. Exit codes: 0 written, 3 written\n"
        "but some molecules could not be read (FILE.rejected.tsv lists them), 2 wrong usage, 130 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", nargs="?", help="SMILES, one per line, or a .csv/.tsv with a column of them; each also .gz")
    add("--from", dest="origin", choices=["ccd"], help="the chemical component dictionary of biotite instead")
    add("--column", default="smiles", help="column of the SMILES in a .csv or .tsv (smiles)")
    add("--size", type=int, default=300, help="entries, single atoms included (300)")
    add("--out", required=True, type=Path, metavar="FILE", help="the vocabulary to write")
    add("--kekulize", action="store_true", help="write aromatic bonds as alternating single and double ones")
    add("--elements", help="only molecules of these elements, e.g. C,N,O,S (default: those of fixed valence)")
    add("--min-atoms", type=int, default=2, help="least heavy atoms of a molecule (2)")
    add("--max-atoms", type=int, default=100, help="most heavy atoms of a molecule (100)")
    add("--overwrite", action="store_true", help="replace FILE")
    return parser


def _checked(parser: argparse.ArgumentParser, words: Sequence[str]) -> tuple[argparse.Namespace, Filter]:
    """The arguments and the filter they ask for; everything wrong ends with exit code 2 before any work."""
    arguments = parser.parse_args(words)
    if (arguments.file is None) == (arguments.origin is None):
        parser.error("give a file of SMILES, or --from ccd")
    arguments.source = arguments.origin or arguments.file
    if arguments.file and not Path(arguments.file).is_file():
        parser.error(f"{arguments.file}: no such file")
    if arguments.size < 2 or arguments.size > 60_000:
        parser.error(f"--size {arguments.size}: expected 2 to 60000")
    if not 1 <= arguments.min_atoms <= arguments.max_atoms <= 1024:
        parser.error("expected 1 <= --min-atoms <= --max-atoms <= 1024")
    elements = ORGANIC
    if arguments.elements:
        elements = frozenset(e.strip() for e in arguments.elements.split(",") if e.strip())
        if unknown := elements - ORGANIC:
            parser.error(
                f"--elements: {', '.join(sorted(unknown))} not among {', '.join(sorted(ORGANIC))}; "
                "molecules of others stay one block per atom"
            )
    if not arguments.out.parent.is_dir():
        parser.error(f"--out {arguments.out}: the folder does not exist")
    if arguments.out.exists() and not arguments.overwrite:
        parser.error(f"--out {arguments.out}: is there already; give --overwrite to replace it")
    return arguments, Filter(elements, arguments.min_atoms, arguments.max_atoms)


def _progress() -> tuple[AbstractContextManager[Any], Callable[[str, int, int | None], None]]:
    """A line on the terminal with rate and remaining time; nothing where stderr is none."""
    bar = progress_bar()
    tasks: dict[str, Any] = {}

    def told(what: str, done: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, rate="", completed=done)
        task = bar.tasks[tasks[what]]
        speed = task.speed
        bar.update(tasks[what], completed=done, rate=f"{speed:.0f}/s" if speed else "")

    return bar, told


def _report(arguments: argparse.Namespace, learned: Learned) -> None:
    """What was learned from what, and what could not be read."""
    print(
        f"{len(learned.entries)} entries from {learned.molecules} molecules written to {arguments.out}",
        file=sys.stderr,
    )
    if len(learned.entries) < arguments.size:
        print(f"  fewer than the {arguments.size} asked for: no union occurs twice any more", file=sys.stderr)
    for reason, count in learned.left_out.most_common():
        print(f"  {count} left out: {reason}", file=sys.stderr)
    for rejected in learned.rejected[:5]:
        print(f"  {rejected.where}: {rejected.text[:60]!r}: {rejected.reason}", file=sys.stderr)
    if learned.rejected:
        print(
            f"  {len(learned.rejected)} could not be used; see {_rejected_file(arguments.out)}",
            file=sys.stderr,
        )


def _rejected_file(out: Path) -> Path:
    return out.with_name(out.name + ".rejected.tsv")


def main(words: Sequence[str]) -> int:
    """Run `atomica-prep fragments …` with the words behind `fragments`, and give the exit code."""
    parser = _parser()
    if not words or words[0] != "learn":
        parser.print_help(sys.stdout if words and words[0] in ("-h", "--help") else sys.stderr)
        return DONE if words and words[0] in ("-h", "--help") else USAGE
    try:
        arguments, keep = _checked(parser, words[1:])
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    molecules = dictionary() if arguments.origin else molecules_of_file(arguments.file, arguments.column)
    bar, told = _progress()
    try:
        with bar:
            learned = learn(molecules, arguments.size, keep=keep, kekulize=arguments.kekulize, told=told)
        lines = [json.dumps(_header(arguments, keep, learned)), "smiles\tatom_count\tfrequency"]
        lines += ["\t".join(map(str, entry)) for entry in learned.entries]
        if learned.rejected:
            rows = ["where\ttext\treason", *(f"{r.where}\t{r.text}\t{r.reason}" for r in learned.rejected)]
            write_text(_rejected_file(arguments.out), "\n".join(rows) + "\n")
        write_text(arguments.out, "\n".join(lines) + "\n")
    except AtomicaError as error:
        print(f"atomica-prep: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"atomica-prep: --out {arguments.out}: cannot be written: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    _report(arguments, learned)
    return SOME_FAILED if learned.rejected else DONE
