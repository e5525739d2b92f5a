"""Structure files with a number per residue or atom in the column of the B-factor.

PDB files are edited column by column, so that all else stays as it is, down to the byte; mmCIF and BinaryCIF go
through Biotite, which keeps their other categories. Where the file is not at hand, the interface itself is written.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from atomica._prep import atom_symbols
from atomica.data.record import Record
from atomica.errors import DataError
from atomica.files import write_bytes
from atomica.keys import GLOBAL_BLOCK

__all__ = ["INTERFACE", "STRUCTURES", "Values", "coloured", "file_of", "interface", "of_record", "stems"]


_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
INTERFACE = ".interface.cif"
STRUCTURES = "structures"
"""The folder of a job that such files are in."""
Residue = tuple[str, int, str]


def stems(ids: Sequence[str], rows: Sequence[int]) -> list[str]:
    """The name of the file of each complex without its suffix: its id, made harmless, with its row if that is needed.

    ids, rows [N] of all complexes of a job.

    >>> stems(["1abc", "a/b", "a_b"], [0, 1, 2]), stems(["a", "a", "a-1"], [0, 1, 2])
    (['1abc', 'a_b-1', 'a_b-2'], ['a-0', 'a-1', 'a-1-2'])
    """
    plain = [re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".") or "complex" for name in ids]
    counts = Counter(plain)
    numbered = [f"{name}-{row}" for name, row in zip(plain, rows, strict=True)]
    found = [name if counts[name] == 1 else other for name, other in zip(plain, numbered, strict=True)]
    return found if len(set(found)) == len(found) else numbered


def file_of(folder: Path, stem: str) -> Path | None:
    """The file that `coloured` or `interface` wrote into a folder under this name; None if there is none."""
    paths = (folder / f"{stem}{suffix}" for suffix in (".pdb", ".cif", ".bcif", INTERFACE))
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class Values:
    """Numbers by atom, and by residue for atoms that have none of their own (hydrogens, alternate locations)."""

    atoms: dict[tuple[Residue, str], float] = field(default_factory=dict)
    residues: dict[Residue, float] = field(default_factory=dict)

    def of(self, chain: str, resnum: str, icode: str, atom: str) -> float:
        """The number of an atom as a file names it; 0 for atoms outside of the interface."""
        try:
            residue = (chain, int(resnum), icode)
        except ValueError:
            return 0.0
        return self.atoms.get((residue, atom), self.residues.get(residue, 0.0))


def of_record(record: Record, by_block: Mapping[int, float]) -> Values:
    """The numbers of a record's atoms from those of its blocks; a residue of several blocks gets the largest."""
    found = Values()
    ends = np.cumsum(record.block_lengths.astype(np.int64))
    chains, icodes = list(record.block_chains), list(record.block_icodes)
    names = list(record.atom_names)
    for block, value in by_block.items():
        residue = (chains[block], int(record.block_resnums[block]), icodes[block])
        found.residues[residue] = max(value, found.residues.get(residue, 0.0))
        for name in names[int(ends[block]) - int(record.block_lengths[block]) : int(ends[block])]:
            found.atoms[residue, name] = value
    return found


def coloured(source: Path, values: Values, target: Path) -> Path:
    """Write the structure `source` with `values` as B-factors; target is given the suffix of its format.

    Gives the path that was written, unpacked. Raises DataError if the file cannot be read.
    """
    suffixes = [suffix.lower() for suffix in source.suffixes]
    packing = _PACKINGS.get(suffixes[-1]) if suffixes else None
    suffix = suffixes[-2] if packing and len(suffixes) > 1 else suffixes[-1]
    try:
        with pa.input_stream(str(source), compression=packing) as stream:
            content = stream.read()
        plain = suffix in (".pdb", ".ent")
        made = _pdb(content, values) if plain else _cif(content, values, binary=suffix == ".bcif")
    except (OSError, ValueError, KeyError, LookupError) as error:
        raise DataError(f"{source}: cannot be coloured: {type(error).__name__}: {error}") from None
    path = target.with_name(
        target.name + (".bcif" if suffix == ".bcif" else ".cif" if "cif" in suffix else ".pdb")
    )
    write_bytes(path, made)
    return path


def _pdb(content: bytes, values: Values) -> bytes:
    lines = content.splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line[:6] not in (b"ATOM  ", b"HETATM"):
            continue
        bare = line.rstrip(b"\r\n")
        ending, text = line[len(bare) :], bare.ljust(66).decode("latin-1")
        chain, resnum, icode = text[21].strip(), text[22:26].strip(), text[26].strip()
        value = values.of(chain, resnum, icode, text[12:16].strip())
        lines[index] = (text[:60] + f"{value:6.2f}" + text[66:]).encode("latin-1") + ending
    return b"".join(lines)


def _cif(content: bytes, values: Values, *, binary: bool) -> bytes:
    from biotite.structure.io import pdbx

    if binary:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    else:
        file = pdbx.CIFFile.read(io.StringIO(content.decode("utf-8", errors="replace")))
    atoms = file.block["atom_site"]

    def column(*names: str) -> list[str]:
        name = next((name for name in names if name in atoms), None)
        if name is None:
            return [""] * atoms.row_count
        texts = atoms[name].as_array(str).tolist()
        return ["" if text in (".", "?") else text for text in texts]

    rows = zip(
        column("auth_asym_id", "label_asym_id"),
        column("auth_seq_id", "label_seq_id"),
        column("pdbx_PDB_ins_code"),
        column("auth_atom_id", "label_atom_id"),
        strict=True,
    )
    numbers = [values.of(*row) for row in rows]
    if binary:
        atoms["B_iso_or_equiv"] = pdbx.BinaryCIFColumn(
            pdbx.BinaryCIFData(np.array(numbers, dtype=np.float32))
        )
        packed = io.BytesIO()
        file.write(packed)
        return packed.getvalue()
    atoms["B_iso_or_equiv"] = [f"{number:.2f}" for number in numbers]
    written = io.StringIO()
    file.write(written)
    return written.getvalue().encode()


def interface(record: Record, by_block: Mapping[int, float], target: Path, why: str) -> Path:
    """Write the atoms of a record alone, as TARGET.interface.cif with the numbers of their blocks as B-factors.

    why: the reason that it is not the whole structure, a comment in the file.
    """
    columns = (
        *(
            "group_PDB",
            "id",
            "type_symbol",
            "label_atom_id",
            "label_alt_id",
            "label_comp_id",
            "label_asym_id",
        ),
        *(
            "label_entity_id",
            "label_seq_id",
            "pdbx_PDB_ins_code",
            "Cartn_x",
            "Cartn_y",
            "Cartn_z",
            "occupancy",
        ),
        *("B_iso_or_equiv", "auth_seq_id", "auth_asym_id", "auth_atom_id", "pdbx_PDB_model_num"),
    )
    symbols = atom_symbols()
    block_of = np.repeat(np.arange(len(record.block_lengths)), record.block_lengths)
    chains, icodes, components = (
        list(record.block_chains),
        list(record.block_icodes),
        list(record.block_components),
    )
    lines = [
        f"# {' '.join(why.split())}",
        "data_interface",
        "#",
        "loop_",
        *(f"_atom_site.{name}" for name in columns),
    ]
    for atom, (block, name) in enumerate(zip(block_of.tolist(), record.atom_names, strict=True)):
        if record.block_types[block] == GLOBAL_BLOCK:
            continue
        x, y, z = record.positions[atom].tolist()
        segment, resnum = int(record.segment_ids[block]) + 1, int(record.block_resnums[block])
        shown, chain = _quoted(name), _quoted(chains[block])
        fields = (
            *(
                "ATOM",
                atom,
                symbols[record.atom_types[atom]],
                shown,
                ".",
                _quoted(components[block]),
                chain,
                segment,
            ),
            *(resnum, _quoted(icodes[block] or "?"), f"{x:.3f}", f"{y:.3f}", f"{z:.3f}", "1.00"),
            *(f"{by_block.get(block, 0.0):.2f}", resnum, chain, shown, 1),
        )
        lines.append(" ".join(str(value) for value in fields))
    path = target.with_name(target.name + INTERFACE)
    write_bytes(path, ("\n".join(lines) + "\n#\n").encode())
    return path


def _quoted(text: str) -> str:
    """A value as mmCIF; atom names may hold quotes.

    >>> _quoted("CA"), _quoted("O5'"), _quoted("")
    ('CA', '"O5\\'"', '.')
    """
    if not text:
        return "."
    return text if text.replace("?", "").isalnum() or text == "?" else f'"{text}"'
