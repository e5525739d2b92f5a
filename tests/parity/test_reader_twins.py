"""The quick ways through PDB and mmCIF files against slow ones, over real files; `ATOMICA_ALL_FILES=1` takes all.

Lines that need no second thought take a way of their own in the readers. The same file in a spelling which that way
does not know goes field by field and must give the same structure.
"""

from __future__ import annotations

import gzip
import os
import re
from pathlib import Path

import numpy as np

from atomica import _prep


def texts(shared: Path, suffix: str) -> dict[str, bytes]:
    """Unpacked files by name: all of parser/, a sample of the others."""
    data = shared / "data"
    files = sorted((data / "parser").glob(f"*.{suffix}.gz"))
    for folder in ("bm5", "entries"):
        more = sorted((data / folder).glob(f"*.{suffix}.gz"))
        files += more if os.environ.get("ATOMICA_ALL_FILES") else more[::12]
    return {path.name: gzip.decompress(path.read_bytes()) for path in files}


def outcome(text: bytes, extension: str) -> dict[str, np.ndarray] | tuple[str, int | None]:
    """Columns, or what the error is and where."""
    try:
        return _prep.read_structure(text, extension).columns()
    except _prep.StructureError as error:
        return error.code, error.line


def same(one: bytes, other: bytes, extension: str, name: str) -> int:
    """Compares the structures of two texts bit by bit; gives their atoms, 0 where neither can be read."""
    read = [outcome(text, extension) for text in (one, other)]
    if not isinstance(read[1], dict):
        assert read[0] == read[1], name
        return 0
    columns, wanted = read
    for field in wanted:
        assert columns[field].tobytes() == wanted[field].tobytes(), (name, field)
    return len(columns["x"])


def test_pdb_lines_in_lower_case(shared):
    atoms = 0
    for name, text in texts(shared, "pdb").items():
        slow = re.sub(rb"(?m)^(ATOM  |HETATM)", lambda record: record[0].lower(), text)
        atoms += same(text, slow, "pdb", name)
    assert atoms > 100_000


def test_mmcif_rows_with_tabs(shared):
    atoms = 0
    for name, text in texts(shared, "cif").items():
        slow = re.sub(rb"(?m)^((?:ATOM|HETATM)\S*) ", rb"\1\t", text)
        if name.startswith("gemmi__"):  # tables that begin with another column
            slow = re.sub(rb"(?m)^(\S+) ", rb"\1\t", text)
        atoms += same(text, slow, "cif", name)
    assert atoms > 80_000


def test_pdb_columns(shared):
    """Line by line in Python: the columns of the format, the general parser of numbers."""
    compared = 0
    for name, text in texts(shared, "pdb").items():
        lines = [line for line in text.decode("latin-1").split("\n") if line[:6] in ("ATOM  ", "HETATM")]
        if (
            b"\nMODEL" in text
            or b"\nENDMDL" in text
            or any(line[16] != " " for line in lines if len(line) > 66)
        ):
            continue
        try:
            structure = _prep.read_structure(text, "pdb")
        except _prep.StructureError:
            continue
        odd = ("residue-split", "copies-overlap", "frames-unread", "chain-")
        if any(repair["kind"].startswith(odd) for repair in structure.repairs):
            continue  # its atoms are in another order, its chains called otherwise
        x = np.array([[float(line[at : at + 8]) for at in (30, 38, 46)] for line in lines])
        assert np.array_equal(structure.x, x), name
        assert structure.atom_name.tolist() == [line[12:16].strip() for line in lines], name
        assert structure.resname.tolist() == [line[17:21].strip() for line in lines], name
        assert structure.chain.tolist() == [line[21:22].strip() for line in lines], name
        compared += len(lines)
    assert compared > 50_000
