"""Structure files with a number per residue or atom in the column of the B-factor.

All else of a file stays as it is, down to the byte. Which residue an atom is of says the reader that the complexes were
cut with. Where the file is not at hand, the interface itself is written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atomica import _prep
from atomica.data.record import Record
from atomica.errors import StructureError
from atomica.files import write_bytes
from atomica.keys import GLOBAL_BLOCK
from atomica.prep.pockets import Place, kind_of, places

__all__ = [
    "INTERFACE",
    "LABEL_IDS",
    "STRUCTURES",
    "Values",
    "coloured",
    "file_of",
    "interface",
    "of_record",
    "stems",
    "write",
]


INTERFACE = ".interface.cif"
STRUCTURES = "structures"
"""The folder of a job that such files are in."""
LABEL_IDS = "label_ids"
"""In the metadata of a table of blocks: the rows, in JSON, of complexes whose residues have the archive's ids."""
Residue = tuple[str, int, str, str]
"""Chain, residue number, insertion code; and component id."""


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

    def of(self, sites: _prep.Sites) -> npt.NDArray[np.float64]:
        """The number of every record of a file [N]; 0 outside of the interface.

        An alternate location may be another component than the one that was read; then the place decides.
        """
        by_place: dict[Place, float] = {}
        for residue, value in self.residues.items():
            by_place[residue[:3]] = max(value, by_place.get(residue[:3], 0.0))
        atoms, found = sites.atoms, np.zeros(len(sites))
        rows = zip(
            places(atoms),
            atoms.resname.tolist(),
            atoms.atom_name.tolist(),
            sites.alternate.tolist(),
            strict=True,
        )
        for row, (place, component, name, alternate) in enumerate(rows):
            residue = (*place, component)
            other = by_place.get(place, 0.0) if alternate else 0.0
            found[row] = self.atoms.get((residue, name), self.residues.get(residue, other))
        return found


def of_record(record: Record, by_block: Mapping[int, float]) -> Values:
    """The numbers of a record's atoms from those of its blocks; a residue of several blocks gets the largest."""
    found = Values()
    ends = np.cumsum(record.block_lengths.astype(np.int64))
    names = list(record.atom_names)
    labels = (
        record.block_chains,
        record.block_resnums.tolist(),
        record.block_icodes,
        record.block_components,
    )
    residues: list[Residue] = list(zip(*labels, strict=True))
    for block, value in by_block.items():
        residue = residues[block]
        found.residues[residue] = max(value, found.residues.get(residue, 0.0))
        for name in names[int(ends[block]) - int(record.block_lengths[block]) : int(ends[block])]:
            found.atoms[residue, name] = value
    return found


def coloured(source: Path, values: Values, target: Path, *, label_ids: bool = False) -> Path:
    """Write the structure `source` with `values` as B-factors, unpacked; target is given the suffix of its format.

    label_ids: the residues of `values` are named by the archive's ids. Gives the path that was written. Raises
    StructureError if the file cannot be read.
    """
    sites = _prep.read_sites(source, label_ids=label_ids)
    kind = kind_of(source)[1]
    path = target.with_name(target.name + {".ent": ".pdb", ".mmcif": ".cif"}.get(kind, kind))
    write_bytes(path, sites.with_b_factors(values.of(sites)))
    return path


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
    symbols = _prep.atom_symbols()
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


def write(
    source: Path | None,
    record: Record,
    by_block: Mapping[int, float],
    target: Path,
    *,
    label_ids: bool,
    setting: str,
) -> None:
    """Write a complex with the numbers of its blocks: `coloured` if its file can be read, else `interface`.

    setting: says where the files lie.
    """
    why = f"{record.source_path} was not found; {setting} says where it lies"
    if source is not None and source.is_file():
        try:
            coloured(source, of_record(record, by_block), target, label_ids=label_ids)
            return
        except StructureError as error:
            why = str(error)
    interface(record, by_block, target, why)


def _quoted(text: str) -> str:
    """A value as mmCIF; atom names may hold quotes.

    >>> _quoted("CA"), _quoted("O5'"), _quoted("")
    ('CA', '"O5\\'"', '.')
    """
    if not text:
        return "."
    return text if text.replace("?", "").isalnum() or text == "?" else f'"{text}"'
