"""Structures and indexes as programs and people in the field write them, each with what is right for it.

The files are in `tests/fixtures/field`: cut from public entries, or written by hand.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from atomica import _prep

FIELD = Path(__file__).resolve().parents[1] / "fixtures" / "field"

# --- Residues: what they are, which of them are one, what is found around them ---


class Found:
    """What --discover makes of files."""

    def __init__(self, out: Path, *paths: Path | str, options: tuple[str, ...] = ()):
        self.out = out
        arguments = ["build-graphs", *map(str, paths), "--discover", "--out", str(out), *options]
        self.code = _prep.run(arguments)
        self.rows, self.left_out = (
            list(csv.DictReader((out / name).open(encoding="utf-8")))
            for name in ("discovered.csv", "left_out.csv")
        )
        lines = (out / "repairs.jsonl").read_text(encoding="utf-8").splitlines()
        self.repairs = {line["kind"]: line["count"] for line in map(json.loads, lines)}

    def ligands(self) -> list[tuple[str, str, str, str]]:
        """Component, chain, number and modality of each ligand."""
        return [(r["lig_code"], r["chain2"], r["lig_resnum"], r["modality"]) for r in self.rows]

    def reasons(self) -> dict[tuple[str, str], str]:
        return {(r["component"], r["number"]): r["code"] for r in self.left_out}

    def records(self):
        from atomica import open_dataset

        return list(open_dataset(self.out))


@pytest.fixture
def find(tmp_path: Path):
    def find(name: str, *options: str) -> Found:
        return Found(tmp_path / name.replace("/", "_"), FIELD / name, options=options)

    return find


def pdb_line(
    name: str, residue: str, chain: str, number: int, place, element: str = "", record: str = "ATOM"
) -> str:
    x, y, z = place
    name = f" {name:<3}" if len(name) < 4 else name
    return (
        f"{record:<6}{1:5d} {name}{' '}{residue:<4}{chain}{number:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}"
    )


def peptide(residues: str = "GLY ALA SER LEU VAL GLY", chain: str = "A", z: float = 0.0) -> list[str]:
    """A straight chain of N, CA, C, O and CB, bonded to one another."""
    lines = []
    for number, residue in enumerate(residues.split(), start=1):
        for name, along, away in (
            ("N", 0, 0),
            ("CA", 1.2, 0.7),
            ("C", 2.4, 0),
            ("O", 2.4, -1.2),
            ("CB", 1.2, 2.2),
        ):
            if (residue, name) != ("GLY", "CB"):
                place = (3.7 * number + along, away, z)
                lines.append(pdb_line(name, residue, chain, number, place, name[0]))
    return lines


def test_a_ligand_numbered_like_a_residue(find):
    """Writers that number everything, and a ligand in a chain of its own."""
    assert find("biotite_written.cif").ligands() == [("LIG", "A", "1001", "PL")]
    for name in ("biotite_ligand_chain.cif", "biotite_ligand_chain.bcif"):
        found = find(name)
        assert found.ligands() == [("LIG", "L", "1", "PL")]
        assert (np.asarray(found.records()[0].segment_ids) == 1).sum() == 58  # 57 atoms and the global block


def test_a_free_amino_acid(find):
    assert find("free_glu_noter.pdb").ligands() == [("GLU", "A", "900", "PL")]
    found = find("free_glu_chainL_atom.pdb")
    assert found.ligands() == [("GLU", "L", "1", "PL")]
    assert found.repairs == {"free-residue": 1}


def test_names_of_unknown_ligands_are_no_additives(find):
    found = find("unl.pdb")
    assert (found.ligands(), found.left_out) == ([("UNL", "A", "1001", "PL")], [])


def test_two_copies_of_one_number(find):
    found = find("same_id_copies.pdb")
    assert found.code == 0
    assert [(r["id"], r["lig_copy"]) for r in found.rows] == [("same_id_copies_LIG_A_1001-1", "1")]
    assert found.reasons() == {("LIG", "1001"): "no-contact"}  # the other one, 40 Å away
    assert found.repairs == {"copies-parted": 1}


def test_blank_and_lettered_locations(find):
    found = find("altloc_blank_B.pdb")
    assert (np.asarray(found.records()[0].segment_ids) == 1).sum() == 21
    assert found.repairs == {"altloc-blank": 1}


def test_ions_of_simulations():
    structure = _prep.read_structure(FIELD / "charmm_ions.pdb")
    ions = structure.chain == "I"
    symbols = "Na K Cl Cs Rb Ca Cd Li Mg Zn Ba Na Na K Cl Fe Mn Cu"
    assert [_prep.atom_symbols()[2 + int(e)] for e in structure.element[ions]] == symbols.split()


def test_names_of_force_fields_and_modified_residues(find):
    found = find("protonation.pdb")
    assert found.repairs == {"force-field-name": 68, "modified-residue": 18}
    kinds = {_prep.block_symbols()[int(k)] for k in found.records()[0].block_types}
    assert "UNK" not in kinds
    for record in found.records():
        for kind, component in zip(record.block_types, record.block_components, strict=True):
            if component in ("HISD", "TPO", "NALA"):
                expected = {"HISD": "HIS", "TPO": "THR", "NALA": "ALA"}[component]
                assert _prep.block_symbols()[int(kind)] == expected


def index(tmp_path: Path, ligand: str, *options: str) -> tuple[int, Path]:
    (tmp_path / "index.csv").write_text(
        f"id,path,chain1,ligand_path\nx,{FIELD / 'recep.pdb'},A,{FIELD / ligand}\n"
    )
    out = tmp_path / "out"
    return _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(out), *options]), out


def test_types_of_force_fields_in_mol2(tmp_path: Path):
    from atomica import open_dataset

    code, out = index(tmp_path, "gaff.mol2")
    assert code == 0
    record = open_dataset(out)[0]
    symbols = {
        _prep.block_symbols()[int(k)]
        for k, s in zip(record.block_types, record.segment_ids, strict=True)
        if s
    }
    assert symbols == {"GLOBAL", "C", "N", "O", "S", "Cl", "Br", "F", "P", "I"} & symbols
    assert {"C", "N", "O", "S", "Cl", "Br", "I"} <= symbols
    lines = [json.loads(line) for line in (out / "repairs.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["file"][-9:]) for line in lines][-1] == ("element-guessed", "gaff.mol2")


def test_atoms_that_are_none(tmp_path: Path):
    code, out = index(tmp_path, "rgroup.sdf")
    lines = [json.loads(line) for line in (out / "repairs.jsonl").read_text().splitlines()]
    assert code == 0
    assert {line["kind"]: line["count"] for line in lines} == {"query-atom": 8, "no-atom": 3}
    code, out = index(tmp_path, "rgroup.sdf", "--strictness", "strict", "--overwrite")
    failure = json.loads((out / "failures.jsonl").read_text())
    assert (code, failure["code"], failure["line"]) == (3, "NeedsRepair", 7)


def test_the_same_complex_from_many_writers(tmp_path: Path):
    """As PDB, and as mmCIF by gemmi, Biotite and by hand in the ways of PyMOL and AlphaFold: one graph."""
    gemmi = pytest.importorskip("gemmi")
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    from biotite.structure.io import pdb

    source = FIELD / "unl.pdb"
    files = {"pdb": tmp_path / "plain.pdb"}
    files["pdb"].write_text(source.read_text())
    structure = gemmi.read_structure(str(source))
    structure.setup_entities()
    files["gemmi"] = tmp_path / "gemmi.cif"
    structure.make_mmcif_document().write_file(str(files["gemmi"]))
    atoms = pdb.PDBFile.read(str(source)).get_structure(model=1, extra_fields=["occupancy", "b_factor"])
    for name, kind in (("biotite.cif", pdbx.CIFFile), ("biotite.bcif", pdbx.BinaryCIFFile)):
        file = kind()
        pdbx.set_structure(file, atoms)
        files[name] = tmp_path / name
        file.write(str(files[name]))
    columns = [
        "group_PDB",
        "id",
        "type_symbol",
        "label_atom_id",
        "label_comp_id",
        "label_asym_id",
        "label_seq_id",
        "auth_seq_id",
        "auth_asym_id",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "occupancy",
        "pdbx_PDB_model_num",
    ]
    # PyMOL leaves the sequence number to the author's; AlphaFold numbers ligands from 1 in chains of their own.
    for name, group, sequence in (
        ("pymol", "HETATM", "?"),
        ("alphafold", "HETATM", "1"),
        ("all_atom", "ATOM", "1"),
    ):
        rows = []
        for i, atom in enumerate(atoms, start=1):
            hetero = bool(atom.hetero)
            number = sequence if hetero else str(atom.res_id)
            kind = group if hetero else "ATOM"
            place = " ".join(f"{c:.3f}" for c in atom.coord)
            rows.append(
                f"{kind} {i} {atom.element} {atom.atom_name} {atom.res_name} A {number} {atom.res_id} A {place} 1.0 1"
            )
        files[name] = tmp_path / f"{name}.cif"
        head = "".join(f"_atom_site.{column}\n" for column in columns)
        files[name].write_text(f"data_x\nloop_\n{head}" + "\n".join(rows) + "\n#\n")
    graphs = {}
    for name, path in files.items():
        found = Found(tmp_path / f"out_{name}", path)
        assert found.ligands() == [("UNL", "A", "1001", "PL")], name
        record = found.records()[0]
        graphs[name] = (
            np.asarray(record.block_types).tolist(),
            np.round(np.asarray(record.positions), 2).tolist(),
        )
    assert all(graph == graphs["pdb"] for graph in graphs.values())


def test_water_by_any_name(tmp_path: Path):
    lines = peptide()
    for number, (residue, atoms) in enumerate(
        [("T3P", ["O", "H1", "H2"]), ("OPC", ["O", "H1", "H2", "EPW"]), ("XYZ", ["O1"])], start=20
    ):
        for i, name in enumerate(atoms):
            place = (8.0 + 0.6 * i, 4.5, 3.0 * (number - 20))
            lines.append(
                pdb_line(name, residue, "W", number, place, "" if name == "EPW" else name[0], "HETATM")
            )
    (tmp_path / "w.pdb").write_text("\n".join(lines) + "\nEND\n")
    found = Found(tmp_path / "out", tmp_path / "w.pdb")
    assert found.rows == []
    assert [r["code"] for r in found.left_out] == ["no-interface"]
    assert found.repairs["water-by-atoms"] == 3


def test_a_modified_residue_that_the_file_explains(tmp_path: Path):
    for record, expected in (("MODRES 1XXX XAX A    3  SER  MINE", "SER"), ("", "UNK")):
        lines = [
            line.replace("SER", "XAX").replace("ATOM  ", "HETATM") if "SER" in line else line
            for line in peptide()
        ]
        extra = pdb_line("XG", "XAX", "A", 3, (12.3, 3.6, 0.4), "C", "HETATM")
        lines.insert(max(i for i, line in enumerate(lines) if "XAX" in line) + 1, extra)
        text = "\n".join([record, *lines, *peptide(chain="B", z=4.0), "END"])
        (tmp_path / "m.pdb").write_text(text)
        found = Found(tmp_path / expected, tmp_path / "m.pdb")
        record = found.records()[0]
        kinds = [
            _prep.block_symbols()[int(kind)]
            for kind, component in zip(record.block_types, record.block_components, strict=True)
            if component == "XAX"
        ]
        assert kinds == [expected]
        assert {"SER": "modified-residue", "UNK": "residue-unknown"}[expected] in found.repairs
        reference = Found(
            tmp_path / f"{expected}_ref", tmp_path / "m.pdb", options=("--interface-rule", "reference")
        )
        record = reference.records()[0]
        assert "SER" not in {_prep.block_symbols()[int(kind)] for kind in record.block_types if kind < 32} - {
            "SER"
        }


def test_beads_are_no_atoms(tmp_path: Path):
    lines = [pdb_line("BB", "ALA", "A", n, (3.8 * n, 0, 0)) for n in range(1, 8)]
    (tmp_path / "cg.pdb").write_text("\n".join(lines) + "\n")
    found = Found(tmp_path / "out", tmp_path / "cg.pdb")
    assert [r["code"] for r in found.left_out] == ["beads", "no-interface"]
    assert found.repairs["coarse-grained"] == 7


def test_a_covalent_ligand_is_marked(tmp_path: Path):
    lines = peptide("GLY ALA SER LEU CYS GLY")
    sulphur = (3.7 * 5 + 1.2, 3.9, 0.4)
    lines.append(pdb_line("SG", "CYS", "A", 5, sulphur, "S"))
    ligand = [("C1", (0, 1.7, 0.4)), ("C2", (1.2, 2.4, 0.6)), ("O1", (0, 2.6, 1.5))]
    for name, (x, y, z) in ligand:
        place = (sulphur[0] + x, sulphur[1] + y, sulphur[2] + z - 0.4)
        lines.append(pdb_line(name, "LIG", "A", 100, place, name[0], "HETATM"))
    (tmp_path / "c.pdb").write_text("\n".join(lines) + "\nEND\n")
    found = Found(tmp_path / "out", tmp_path / "c.pdb")
    assert [(r["lig_code"], r["covalent"]) for r in found.rows] == [("LIG", "A:5 CYS SG")]
    assert dict(found.records()[0].metadata)["covalent"] == "A:5 CYS SG"


def test_an_oligosaccharide_is_one_unit(shared: Path, tmp_path: Path):
    found = Found(tmp_path / "out", shared / "data/parser/biotite__1igy.pdb.gz")
    sugars = [r for r in found.rows if r["lig_code"]]
    assert len(sugars) == 2
    for row in sugars:
        assert len(row["lig_members"].split()) == 9
        assert "ASN ND2" in row["covalent"]
    assert found.code == 0


def test_lipids_of_a_simulation_are_left_out(tmp_path: Path):
    lines = peptide()
    for n in range(30):
        for i, name in enumerate(("P1", "C2", "C3")):
            lines.append(
                pdb_line(name, "POPC", "L", n + 1, (6 + 2.5 * (n % 6), 5 + 4 * (n // 6), 1.5 * i), name[0])
            )
    (tmp_path / "l.pdb").write_text("\n".join(lines) + "\nEND\n")
    found = Found(tmp_path / "out", tmp_path / "l.pdb")
    assert found.rows == []
    assert {r["code"] for r in found.left_out} == {"lipids", "no-interface"}
    kept = Found(tmp_path / "kept", tmp_path / "l.pdb", options=("--keep-additives",))
    assert any(r["lig_code"] == "POPC" for r in kept.rows)


def test_ids_without_folders_and_chains(tmp_path: Path):
    text = "\n".join([line[:21] + " " + line[22:] for line in peptide()])
    text += "\n" + pdb_line("ZN", "ZN", " ", 90, (9.0, 4.0, 0.0), "ZN", "HETATM") + "\nEND\n"
    for folder in ("zinc", "other"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "1abc.pdb").write_text(text)
    found = Found(tmp_path / "out", tmp_path / "data")
    assert [r["id"] for r in found.rows] == ["1abc_ZN_90", "1abc-2_ZN_90"]


def test_dna_with_a_ligand_has_a_modality(shared: Path, tmp_path: Path):
    found = Found(tmp_path / "out", shared / "data/parser/biopython__1LCD.pdb.gz")
    assert {r["modality"] for r in found.rows if r["id"].endswith("_na")} == {"RNAL"}
