"""The structure readers against gemmi and Biotite: the same atoms at the same places, element by element.

`ATOMICA_ALL_FILES=1` compares every file instead of a sample.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path

import gemmi
import numpy as np
import pytest

from atomica import _prep

SAMPLE = 20


def sample(files: list[Path]) -> list[Path]:
    files = sorted(files)
    return files if os.environ.get("ATOMICA_ALL_FILES") else files[:: max(1, len(files) // SAMPLE)][:SAMPLE]


@pytest.fixture(scope="module")
def structures(shared: Path) -> list[Path]:
    data = shared / "data"
    return sample(list((data / "entries").glob("*.pdb.gz"))) + sample(list((data / "bm5").glob("*.pdb.gz")))


def ours(path: Path) -> tuple[np.ndarray, np.ndarray]:
    structure = _prep.read_structure(path)
    return structure.element.astype(int), structure.x


def order(elements: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Rows sorted by place and element, so that only the sets of atoms matter."""
    rows = np.column_stack([np.round(x, 3), elements])
    return rows[np.lexsort(rows.T)]


def by_gemmi(path: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    """Atoms of the first model; and whether any has an alternate location."""
    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    if path.name.endswith(".cif.gz"):
        structure = gemmi.make_structure_from_block(gemmi.cif.read_string(text)[0])
    else:
        # Legacy text behind the temperature factors is no charge, and an inner END no end.
        lines = [
            line[:66].ljust(76) + element(line) if line[:6] in ("ATOM  ", "HETATM") else line
            for line in text.splitlines()
            if line.strip() != "END"
        ]
        structure = gemmi.read_pdb_string("\n".join(lines))
    atoms = [cra.atom for cra in structure[0].all()]
    elements = np.array([1 if a.element.name in ("D", "T") else a.element.atomic_number for a in atoms])
    x = np.array([a.pos.tolist() for a in atoms]).reshape(-1, 3)
    return elements, x, any(a.altloc != "\0" for a in atoms)


def element(line: str) -> str:
    symbol = line[76:78]
    return symbol if symbol.strip().isalpha() and not line[72:76].strip() else ""


def by_biotite(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of the first model, of alternate locations the one with the highest occupancy."""
    from biotite.structure.io.pdb import PDBFile

    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    array = PDBFile.read(io.StringIO(text)).get_structure(model=1, altloc="occupancy")
    numbers = [1 if e in ("D", "T") else gemmi.Element(str(e)).atomic_number for e in array.element]
    return np.array(numbers), np.asarray(array.coord, dtype=float)


def test_atoms_agree_with_gemmi(structures):
    compared = 0
    for path in structures:
        elements, x, alternates = by_gemmi(path)
        if alternates:
            continue
        compared += 1
        mine = ours(path)
        assert len(mine[0]) == len(elements), path.name
        assert np.abs(order(*mine) - order(elements, x)).max() < 1e-3, path.name
    assert compared >= SAMPLE


def test_alternate_locations_agree_with_biotite(shared):
    compared = 0
    for path in sorted((shared / "data/entries").glob("*.pdb.gz")):
        elements, _, alternates = by_gemmi(path)
        if not alternates:
            continue
        compared += 1
        theirs = by_biotite(path)
        mine = ours(path)
        assert len(mine[0]) == len(theirs[0]) <= len(elements), path.name
        assert np.abs(order(*mine) - order(*theirs)).max() < 2e-3, path.name
        if compared == 12 and not os.environ.get("ATOMICA_ALL_FILES"):
            break
    assert compared >= 10


#: Pairs of files that differ in content, not only in format.
DIFFERENT = {
    "biopython__1LCD": "water is numbered anew in one",
    "biopython__a_structure": "nine atoms of a whole entry",
    "gemmi__HEM": "a component and its coordinates",
    "p2rank__2W83": "atoms are in another order in one",
    "pdbtbx__1ubq": "only one has hydrogens",
}


def test_both_formats_of_an_entry_agree(shared):
    """PDB and mmCIF of one entry, residue numbers and chains included."""
    folder = shared / "data/parser"
    pairs = [(p, p.with_name(p.name.replace(".pdb.gz", ".cif.gz"))) for p in sorted(folder.glob("*.pdb.gz"))]
    pairs = [(p, c) for p, c in pairs if c.exists() and p.name.split(".")[0] not in DIFFERENT]
    assert len(pairs) >= 10
    for pdb, cif in pairs:
        a, b = _prep.read_structure(pdb).columns(), _prep.read_structure(cif).columns()
        # Whether a modified residue is a hetero group is another matter between the formats.
        for field in ("chain", "resname", "icode", "atom_name", "resnum", "element"):
            assert np.array_equal(a[field], b[field]), (pdb.name, field)
        assert np.abs(a["x"] - b["x"]).max() < 1e-3, pdb.name


def test_binary_cif_agrees_with_biotite(shared):
    """Every file: the same atoms, alternate locations by occupancy."""
    from biotite.structure.io.pdbx import BinaryCIFFile, get_structure

    files = sorted((shared / "data/parser").glob("*.bcif*"))
    assert len(files) >= 30
    for path in files:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        array = get_structure(BinaryCIFFile.read(io.BytesIO(raw)), model=1, altloc="occupancy")
        numbers = [1 if e in ("D", "T") else gemmi.Element(str(e)).atomic_number for e in array.element]
        mine = ours(path)
        if path.name == "biotite__1k6p.bcif":
            # Its locations are called 1 and 2, at equal occupancy. We keep the first; Biotite keeps neither.
            assert len(mine[0]) - len(array) == 54
            continue
        assert len(mine[0]) == len(array), path.name
        theirs = order(np.array(numbers), np.asarray(array.coord, dtype=float))
        assert np.abs(order(*mine) - theirs).max() < 2e-3, path.name


def test_binary_cif_is_the_text_form(shared):
    """BinaryCIF, mmCIF and PDB of one entry: every column, and the same graph in the end."""
    folder = shared / "data/parser"
    compared, pdbs = 0, 0
    for binary in sorted(folder.glob("*.bcif*")):
        stem = binary.name.split(".")[0]
        text = folder / f"{stem}.cif.gz"
        if not text.exists() or stem in DIFFERENT:
            continue
        compared += 1
        a, b = _prep.read_structure(binary).columns(), _prep.read_structure(text).columns()
        for field in a.keys() - {"x"}:
            assert np.array_equal(a[field], b[field]), (binary.name, field)
        assert np.array_equal(a["x"].astype(np.float32), b["x"].astype(np.float32)), binary.name
        pdb = folder / f"{stem}.pdb.gz"
        if pdb.exists():
            pdbs += 1
            c = _prep.read_structure(pdb).columns()
            assert np.array_equal(a["x"].astype(np.float32), c["x"].astype(np.float32)), pdb.name
            assert np.array_equal(a["chain"], c["chain"]), pdb.name
    assert compared >= 16
    assert pdbs >= 10


def test_label_ids_agree_with_biotite(shared):
    """Chains and residue numbers by label; what has no number in a sequence keeps the author's."""
    from biotite.structure.io.pdbx import BinaryCIFFile, CIFFile, get_structure

    folder = shared / "data/parser"
    compared = 0
    for binary in sorted(folder.glob("biotite__*.bcif*")):
        text = folder / f"{binary.name.split('.')[0]}.cif.gz"
        mine = _prep.read_structure(binary, label_ids=True).columns()
        if text.exists():
            again = _prep.read_structure(text, label_ids=True).columns()
            for field in ("chain", "resnum", "icode", "resname", "atom_name"):
                assert np.array_equal(mine[field], again[field]), (binary.name, field)
        raw = gzip.decompress(binary.read_bytes()) if binary.suffix == ".gz" else binary.read_bytes()
        file = BinaryCIFFile.read(io.BytesIO(raw))
        if text.exists():
            file = CIFFile.read(io.StringIO(gzip.decompress(text.read_bytes()).decode()))
        array = get_structure(file, model=1, altloc="occupancy", use_author_fields=False)
        if len(array) != len(mine["chain"]) or not np.array_equal(array.res_name, mine["resname"]):
            continue  # alternate locations are settled in another way
        compared += 1
        assert np.array_equal(array.chain_id, mine["chain"]), binary.name
        numbered = ~array.hetero  # Biotite counts the others itself
        assert numbered.sum() > 0
        assert np.array_equal(array.res_id[numbered], mine["resnum"][numbered]), binary.name
        assert not mine["icode"][numbered].any()
    assert compared >= 10


def test_one_entry_by_label_ids(shared, tmp_path, capfd):
    """An index with label ids; PDB files, which have none, go to the ledger."""
    folder = shared / "data/parser"
    (tmp_path / "index.csv").write_text(
        "id,path,chain1,chain2\n"
        f"cif,{folder / 'biotite__1igy.cif.gz'},A,B\n"
        f"bcif,{folder / 'biotite__1igy.bcif.gz'},A,B\n"
        f"pdb,{folder / 'biotite__1igy.pdb.gz'},A,B\n"
    )
    out = tmp_path / "out"
    command = ["build-graphs", str(tmp_path / "index.csv"), "--out", str(out), "--ids", "label"]
    assert _prep.run(command) == 3
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [(row["id"], row["code"]) for row in failures] == [("pdb", "NoLabelIds")]
    assert json.loads((out / "manifest.json").read_text())["options"]["ids"] == "label"
    # A build goes on with the ids that it began with.
    assert _prep.run([*command[:-2], "--resume"]) == 2
    assert "other options" in capfd.readouterr().err


def test_one_entry_in_three_formats_is_one_graph(shared, tmp_path):
    """The records of an interface do not depend on the format it was read from."""
    import pyarrow.feather as feather

    folder = shared / "data/parser"
    rows = ["id,path,chain1,chain2"]
    for suffix in ("pdb", "cif", "bcif"):
        rows.append(f"{suffix},{folder / f'biotite__1igy.{suffix}.gz'},A,B")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "out"
    assert _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(out)]) == 0
    records = feather.read_table(out / "shard-00000.arrow", memory_map=False).to_pylist()
    assert len(records) == 3
    for record in records[1:]:
        for field, value in records[0].items():
            if field not in ("id", "source_path", "source_sha256"):
                assert record[field] == value, (record["id"], field)


def test_poses_of_sdf_files(shared, tmp_path):
    """A sample of the ligand series: heavy atoms, coordinates and bonds as RDKit reads them."""
    import csv

    import pyarrow.feather as feather
    from rdkit import Chem

    folder = shared / "data/fep"
    with (folder / "index.csv").open(newline="") as file:
        wanted = list(csv.DictReader(file))
    wanted = wanted if os.environ.get("ATOMICA_ALL_FILES") else wanted[::40]
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, wanted[0])
        writer.writeheader()
        for row in wanted:
            paths = {name: str(folder / row[name]) for name in ("path", "ligand_path")}
            writer.writerow({**row, **paths})
    out = tmp_path / "out"
    code = _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(out)])
    assert code == 0, (out / "failures.jsonl").read_text()
    records = [
        record
        for shard in sorted(out.glob("*.arrow"))
        for record in feather.read_table(shard, memory_map=False).to_pylist()
    ]
    symbols = _prep.atom_symbols()
    assert [record["id"] for record in records] == [row["id"] for row in wanted]
    for record, row in zip(records, wanted, strict=True):
        with gzip.open(folder / row["ligand_path"]) as file:
            supplier = Chem.ForwardSDMolSupplier(file, sanitize=False, removeHs=False)
            molecule = next(m for i, m in enumerate(supplier) if i == int(row["ligand_index"]))
        heavy = [atom for atom in molecule.GetAtoms() if atom.GetAtomicNum() != 1]
        count = len(heavy)
        assert [symbols[t] for t in record["atom_types"][-count:]] == [atom.GetSymbol() for atom in heavy]
        x = molecule.GetConformer().GetPositions()[[atom.GetIdx() for atom in heavy]]
        assert np.abs(np.array(record["positions"][-count:]) - x).max() < 1e-4, row["id"]
        assert record["segment_ids"].count(1) == count + 1
        assert record["modality"] == 1
        metadata = dict(record["metadata"])
        assert metadata["ligand_index"] == row["ligand_index"]
        assert len(metadata["ligand_sha256"]) == 64
        place = {atom.GetIdx(): len(record["atom_types"]) - count + i for i, atom in enumerate(heavy)}
        wanted_bonds = [
            (place[bond.GetBeginAtomIdx()], place[bond.GetEndAtomIdx()], bond.GetBondTypeAsDouble())
            for bond in molecule.GetBonds()
            if bond.GetBeginAtomIdx() in place and bond.GetEndAtomIdx() in place
        ]
        names = ("bond_first", "bond_second", "bond_orders")
        assert list(zip(*(record[name] for name in names), strict=True)) == wanted_bonds, row["id"]


#: Files with nothing but headers, components, small crystals or reflections in them.
WITHOUT_ATOMS = {
    "biopython__1MOM_min.cif.gz",
    "biopython__4Q9R_min.cif.gz",
    "biopython__d256ba_.ent.gz",
    "biopython__header.pdb.gz",
    "biotite__TYR.cif.gz",
    "gemmi__1011031.cif.gz",
    "gemmi__2013551.cif.gz",
    "gemmi__5moo_header.pdb.gz",
    "gemmi__HEM.cif.gz",
    "gemmi__SO3.cif.gz",
    "gemmi__eol-test.cif.gz",
    "gemmi__misc.cif.gz",
    "gemmi__r5wkdsf.cif.gz",
    "pdbeccdutils__UNL.cif.gz",
}


def test_no_file_breaks_the_readers(shared):
    """Every file is read, or refused with its name and, where there is one, the line."""
    read, refused = 0, {}
    for path in sorted((shared / "data/parser").iterdir()):
        if path.name.split(".gz")[0].rsplit(".", 1)[-1] not in ("pdb", "ent", "cif", "bcif"):
            continue
        try:
            structure = _prep.read_structure(path)
        except _prep.StructureError as error:
            refused[path.name] = error.code if path.name in str(error) else str(error)
        else:
            read += 1
            assert len(structure.chain) == len(structure) > 0
            assert np.isfinite(structure.x).all()
    assert read >= 155
    assert refused == dict.fromkeys(WITHOUT_ATOMS, "NoAtoms")
