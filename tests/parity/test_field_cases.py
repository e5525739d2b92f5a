"""Structures and indexes as programs and people in the field write them, each with what is right for it.

The files are in `tests/fixtures/field`: cut from public entries, or written by hand.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from atomica import _prep

FIELD = Path(__file__).resolve().parents[1] / "fixtures" / "field"

# --- Files: what is read of them, chains, assemblies, ligands in files of their own, the index ---


def repairs(structure: _prep.Structure) -> dict[str, int]:
    return {entry["kind"]: entry["count"] for entry in structure.repairs}


def built(out: Path, *arguments: str, code: int = 0) -> list[dict]:
    """Run build-graphs; the lines of repairs.jsonl."""
    assert _prep.run(["build-graphs", *arguments, "--out", str(out)]) == code
    return [json.loads(line) for line in (out / "repairs.jsonl").read_text().splitlines()]


def ids(out: Path) -> list[str]:
    from atomica import open_dataset

    return list(open_dataset(out).ids)


def adds_up(accounts: dict[str, int]) -> bool:
    parts = sum(count for name, count in accounts.items() if name not in ("records", "copies"))
    return parts == accounts["records"] + accounts["copies"]


def test_frames_without_models():
    structure = _prep.read_structure(FIELD / "vmd_frames.pdb")
    assert len(structure) == 199
    assert repairs(structure) == {"frames-unread": 398}
    assert structure.accounts["other-frame"] == 398
    assert adds_up(structure.accounts)


def test_the_first_pose_goes_with_the_receptor_before_it():
    structure = _prep.read_structure(FIELD / "cat_models.pdb")
    assert set(structure.resname[structure.hetero]) == {"LIG"}
    assert int(structure.hetero.sum()) == 57
    assert repairs(structure) == {"model-continues": 1, "models-unread": 57}
    assert structure.accounts["other-model"] == 57


def test_data_blocks_after_the_first_are_counted(tmp_path: Path):
    structure = _prep.read_structure(FIELD / "two_blocks.cif")
    (note,) = structure.repairs
    assert (note["kind"], note["count"]) == ("blocks-unread", structure.accounts["other-block"])
    assert "data_second" in note["message"]
    assert "data_first" in note["message"]
    with pytest.raises(_prep.StructureError, match="data_second"):
        _prep.read_structure(FIELD / "two_blocks.cif", strict=True)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packing", ["plain", "gzip"])
@pytest.mark.parametrize("name", ["x.pdb", "x.pdb.gz"])
def test_marks_line_ends_and_packing(tmp_path: Path, ending: str, mark: bytes, packing: str, name: str):
    """The first bytes tell the packing, whatever the name says."""
    text = mark + (FIELD / "s.pdb").read_text().replace("\n", ending).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if packing == "gzip" else text)
    structure, plain = _prep.read_structure(path), _prep.read_structure(FIELD / "s.pdb")
    assert np.array_equal(structure.x, plain.x)
    assert not structure.repairs


def test_files_with_a_mark_or_packed_under_another_name():
    plain = len(_prep.read_structure(FIELD / "s.pdb"))
    assert len(_prep.read_structure(FIELD / "bom.pdb")) == plain
    assert len(_prep.read_structure(FIELD / "gz_named_plain.pdb")) == plain


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\x00\x00", "xz"),
        (b"PK\x03\x04\x14", "zip"),
        ("ATOM".encode("utf-16-be"), "UTF-16"),
        ("ATOM".encode("utf-32"), "UTF-32"),
    ],
)
def test_encodings_that_are_not_read_are_named(tmp_path: Path, head: bytes, name: str):
    (tmp_path / "x.pdb").write_bytes(head)
    with pytest.raises(_prep.StructureError, match=name):
        _prep.read_structure(tmp_path / "x.pdb")


def test_utf_16():
    with pytest.raises(_prep.StructureError, match="UTF-16") as raised:
        _prep.read_structure(FIELD / "utf16.pdb")
    assert raised.value.code == "Encoding"


def test_files_that_macos_leaves_are_set_aside(tmp_path: Path):
    built(tmp_path / "out", str(FIELD / "macos"), "--discover")
    assert len(ids(tmp_path / "out")) == 1


def records_of(path: Path, data: bytes) -> int:
    """Coordinate records, counted by other means."""
    if ".cif" in path.name:
        from gemmi import cif

        blocks = cif.read_string(data.decode("utf-8", "replace"))
        tables = [block.find(["_atom_site.Cartn_x"]) for block in blocks]
        return sum(len(table) for table in tables)
    lines = (line[:6].rstrip().upper() for line in data.splitlines())
    return sum(line in (b"ATOM", b"HETATM") for line in lines)


def test_every_record_of_the_reference_data_is_accounted_for(shared: Path):
    """Each is an atom or counted with the reason why it is none."""
    suffixes = (".pdb.gz", ".ent.gz", ".cif.gz", ".bcif", ".bcif.gz", ".pdb", ".cif")
    why: Counter[str] = Counter()
    for path in sorted((shared / "data").rglob("*")):
        if not path.name.endswith(suffixes):
            continue
        try:
            structure = _prep.read_structure(path)
        except _prep.StructureError as error:
            why["refused"] += 1
            why[error.code] += 1
            continue
        accounts = structure.accounts
        assert adds_up(accounts), path
        if ".bcif" not in path.name:
            raw = path.read_bytes()
            data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            assert accounts["records"] == records_of(path, data), path
        why.update(accounts)
    assert why["records"] > 6_000_000
    assert why["other-model"] > 0
    assert why["refused"] < 40
    assert not why["Unaccounted"]


@pytest.mark.parametrize(
    ("name", "chains", "kind"),
    [
        ("twochar.pdb", {"AA", "AB"}, "chain-two-letters"),
        ("segid_dimer.pdb", {"PROA", "PROC"}, "chain-by-segment"),
        ("amber_dimer_ter.pdb", {"A", "B"}, "chain-by-break"),
    ],
)
def test_chains_that_column_22_does_not_tell(tmp_path: Path, name: str, chains: set[str], kind: str):
    structure = _prep.read_structure(FIELD / name)
    assert kind in repairs(structure)
    assert chains <= set(structure.chain)
    assert not any(len(residue) > 3 for residue in structure.resname)
    noted = built(tmp_path / "out", str(FIELD / name), "--discover")
    assert kind in {line["kind"] for line in noted}
    assert len(ids(tmp_path / "out")) == 1


def line(serial: int, name: str, residue: str, chain: str, number: int, x: float, segment: str = "") -> str:
    """An atom of a PDB file; `residue` fills columns 18 to 20, `chain` 21 and 22."""
    return (
        f"ATOM  {serial:5d}  {name:<3} {residue:>3}{chain:>2}{number:4d}    {x:8.3f}{0:8.3f}{0:8.3f}"
        f"  1.00  0.00      {segment:<4}{name[0]:>2}"
    )


def chains_of(*lines: str) -> list[str]:
    structure = _prep.read_structure("\n".join(lines).encode(), "pdb")
    return list(structure.chain)


def test_chain_ids_that_repeat():
    first, again = line(1, "CA", "GLY", "A", 1, 0.0), line(2, "CA", "GLY", "A", 1, 9.0)
    other = line(3, "CA", "GLY", "A", 2, 9.0)
    assert chains_of(first, "TER", again) == ["A", "A-2"]
    # A chain that only goes on keeps its name, as does one that only steps back.
    assert chains_of(first, "TER", other) == ["A", "A"]
    assert chains_of(other, first) == ["A", "A"]
    by_segment = [
        line(i, "CA", "GLY", "P", 1 + i % 2, 4.0 * i, "PROA" if i < 2 else "PROB") for i in range(4)
    ]
    assert chains_of(*by_segment) == ["PROA", "PROA", "PROB", "PROB"]


def test_names_of_force_fields_reach_into_column_21():
    """As do chain ids of two letters, but not in the same residue."""
    structure = _prep.read_structure(
        "\n".join([line(1, "CA", "HIS", "DA", 1, 0.0), line(2, "CA", "LYS", "HA", 2, 4.0)]).encode(), "pdb"
    )
    assert set(structure.chain) == {"A"}
    two = [line(1, "CA", "HIS", "DA", 1, 0.0), line(2, "CA", "GLY", "DA", 2, 4.0)]
    assert chains_of(*two) == ["DA", "DA"]


def test_numbering_breaks_end_chains_without_ids():
    atoms = [line(i, "CA", "GLY", "", number, 4.0 * i) for i, number in enumerate([1, 2, 3, 1, 2], start=1)]
    assert chains_of(*atoms) == ["A", "A", "A", "B", "B"]
    # After 9999 numbers begin anew, and one chain without an id keeps having none.
    assert chains_of(line(1, "CA", "GLY", "", 9999, 0.0), line(2, "CA", "GLY", "", 0, 4.0)) == ["", ""]


def test_component_ids_of_five_letters():
    structure = _prep.read_structure(FIELD / "tilde_ccd.pdb")
    assert set(structure.resname[structure.hetero]) == {"A1IJ4"}
    assert repairs(structure) == {"component-restored": 1}


def test_a_long_chain_id_that_has_moved_the_columns():
    with pytest.raises(_prep.StructureError, match='chain id "B1" has more than one letter') as raised:
        _prep.read_structure(FIELD / "boltz_chain_B1.pdb")
    # Said once, counted as often as it is met.
    assert str(raised.value).count("too far right") == 1
    assert "and 56 more" in str(raised.value)


def test_a_long_serial_number_that_has_moved_the_columns():
    text = line(1, "CA", "GLY", "A", 1, 0.0).replace("ATOM      1", "ATOM  100000")
    with pytest.raises(_prep.StructureError, match='serial number "100000"'):
        _prep.read_structure(text.encode(), "pdb")


@pytest.mark.parametrize("name", ["float.csv", "semi.csv"])
def test_indexes_as_programs_write_them(tmp_path: Path, name: str):
    """Whole numbers with a point, and semicolons."""
    assert _prep.run(["check", str(FIELD / name)]) in (0, 3)
    code = _prep.run(["build-graphs", str(FIELD / name), "--out", str(tmp_path / "out")])
    assert code in (0, 3)
    failures = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").read_text().splitlines()]
    # What is left to say is about the structure.
    assert all(failure["code"] == "MissingLigand" for failure in failures)


def test_the_line_of_an_open_quote_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert _prep.run(["build-graphs", str(FIELD / "quote.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "the quote that opens in line 2 is not closed" in capfd.readouterr().err


@pytest.mark.parametrize(
    "modality", ["PP", "PL", "Pion", "Ppeptide", "PRNA", "PDNA", "RNAL", "CSD", "pocket"]
)
def test_an_index_to_begin_from(modality: str, capfd: pytest.CaptureFixture[str]):
    assert _prep.run(["check", "--example", modality]) == 0
    header, *rows = capfd.readouterr().out.splitlines()
    assert rows
    assert all(len(row.split(",")) == len(header.split(",")) for row in rows)


def test_a_chain_with_an_underscore_can_be_named(tmp_path: Path):
    structure = _prep.read_structure(FIELD / "chain_underscore.cif")
    (name,) = {chain for chain in structure.chain if "_" in chain}
    built(tmp_path / "out", str(FIELD / "chain_underscore.cif"), "--discover")
    found = (tmp_path / "out/discovered.csv").read_text()
    assert f"'{name}'" in found
    assert ids(tmp_path / "out")


def test_models_that_are_copies(tmp_path: Path):
    """`.pdb1` is an assembly by its name; elsewhere the models are noted to be others, and read when asked for."""
    first = _prep.read_structure(FIELD / "assembly_models.pdb")
    assert repairs(first) == {"models-unread": 504, "models-differ": 1}
    assert set(first.chain) == {"A"}
    for structure in (
        _prep.read_structure(FIELD / "assembly.pdb1"),
        _prep.read_structure(FIELD / "assembly_models.pdb", assembly="models"),
    ):
        assert set(structure.chain) == {"A", "A-2"}
        assert len(structure) == structure.accounts["records"] == len(first) + 504
    built(tmp_path / "out", str(FIELD / "assembly.pdb1"), "--discover")
    assert ids(tmp_path / "out") == ["assembly_A_A-2"]


def test_conformers_are_no_copies():
    text = "".join(
        f"MODEL {n}\n"
        + "\n".join(line(i, "CA", "GLY", "A", i, 4.0 * i + 0.1 * n) for i in range(1, 9))
        + "\nENDMDL\n"
        for n in (1, 2)
    )
    structure = _prep.read_structure(text.encode(), "pdb", assembly="models")
    assert (len(structure), repairs(structure)) == (8, {"models-unread": 8})


def assembled(structure) -> list[tuple[float, ...]]:
    return sorted(tuple(np.round(x, 1)) for x in structure)


def test_assemblies_as_gemmi_makes_them(shared: Path):
    """The first assembly of twenty entries: the same atoms at the same places, as many chains."""
    import gemmi

    compared = 0
    paths = [
        path
        for folder in ("parser", "pretrain", "cofactor", "entries")
        for path in (shared / "data" / folder).rglob("*.gz")
    ]
    for path in sorted(paths):
        if (".cif" not in path.name and ".pdb" not in path.name) or path.stat().st_size > 150_000:
            continue
        try:
            whole = gemmi.read_structure(str(path))
            plain = _prep.read_structure(path)
        except (RuntimeError, ValueError, _prep.StructureError):
            continue
        named = [assembly for assembly in whole.assemblies if assembly.name == "1"]
        copies = sum(len(g.operators) for assembly in named for g in assembly.generators)
        if copies < 2 or plain.accounts.get("other-location"):
            continue
        made = _prep.read_structure(path, assembly="1")
        theirs = gemmi.make_assembly(named[0], whole[0], gemmi.HowToNameCopiedChain.AddNumber)
        places = assembled(
            np.array([list(atom.pos) for chain in theirs for residue in chain for atom in residue])
        )
        ours = assembled(made.x)
        assert len(ours) == len(places), path
        assert np.allclose(np.array(ours), np.array(places), atol=0.11), path
        assert any("-2" in chain for chain in set(made.chain)), path
        assert adds_up(made.accounts), path
        compared += 1
        if compared == 20:
            return
    assert compared == 20


def test_an_assembly_that_is_not_described():
    with pytest.raises(_prep.StructureError, match="no biological assembly 7"):
        _prep.read_structure(FIELD / "s.pdb", assembly="7")


REMARK_350 = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000  1.000000  0.000000        6.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
"""


def test_an_assembly_as_option_and_as_a_column(tmp_path: Path):
    chain = "\n".join(line(i, "CA", "GLY", "A", i, 3.8 * i) for i in range(1, 9))
    (tmp_path / "x.pdb").write_text(REMARK_350 + chain + "\n")
    (tmp_path / "x.csv").write_text("id,path,chain1,chain2,assembly\na,x.pdb,A,A-2,1\nb,x.pdb,A,A-2,\n")
    built(tmp_path / "column", str(tmp_path / "x.csv"), code=3)
    assert ids(tmp_path / "column") == ["a"]
    built(tmp_path / "option", str(tmp_path / "x.csv"), "--assembly", "1")
    assert ids(tmp_path / "option") == ["a", "b"]


@pytest.mark.parametrize("name", ["lig.pdb", "lig.pdbqt"])
def test_docked_ligands_as_pdb_and_pdbqt(tmp_path: Path, name: str):
    (tmp_path / "x.csv").write_text(f"id,path,chain1,ligand_path\nx,{FIELD / 'recep.pdb'},A,{FIELD / name}\n")
    noted = built(tmp_path / "out", str(tmp_path / "x.csv"))
    from atomica import open_dataset

    record = open_dataset(tmp_path / "out")[0]
    assert int((record.segment_ids == 1).sum()) == 1 + 57  # its global block, and a block per atom
    assert not [entry for entry in noted if entry["kind"] == "element-guessed"]


def test_bonds_of_docked_ligands_and_where_they_are_from(tmp_path: Path):
    """CONECT, else the SMILES in the PDBQT's remarks; the record says which."""
    from atomica import open_dataset
    from atomica.prep.command import main

    atoms = [("C1", 10.0, 0.0, "A "), ("C2", 11.5, 0.0, "C "), ("O1", 12.1, 1.1, "OA")]
    lines = "".join(
        f"HETATM{i:5d}  {name:<3} LIG L   1    {x:8.3f}{y:8.3f}{0:8.3f}  1.00  0.00    +0.000 {kind}\n"
        for i, (name, x, y, kind) in enumerate(atoms, start=1)
    )
    (tmp_path / "smiles.pdbqt").write_text("REMARK SMILES CC=O\nREMARK SMILES IDX 1 1 2 2 3 3\n" + lines)
    (tmp_path / "conect.pdb").write_text(
        lines + "CONECT    1    2\nCONECT    2    1    3    3\nCONECT    3    2    2\n"
    )
    protein = "\n".join(line(i, "CA", "GLY", "A", i, 3.8 * i) for i in range(1, 9))
    (tmp_path / "p.pdb").write_text(protein + "\n")
    (tmp_path / "x.csv").write_text(
        "id,path,chain1,ligand_path\na,p.pdb,A,smiles.pdbqt\nb,p.pdb,A,conect.pdb\n"
    )
    out = tmp_path / "out"
    assert main(["build-graphs", str(tmp_path / "x.csv"), "--fragments", "ccd_300", "--out", str(out)]) == 0
    records = {record.id: record for record in (open_dataset(out)[i] for i in range(2))}
    assert (records["a"].ligand_chemistry, records["b"].ligand_chemistry) == ("smiles", "bonds")


def test_sdf_text_under_the_name_of_mol2(tmp_path: Path):
    (tmp_path / "x.mol2").write_text((FIELD / "nohdr.sdf").read_text().replace("  3  1", "t\n\n\n  3  1", 1))
    (tmp_path / "x.csv").write_text(f"id,path,chain1,ligand_path\nx,{FIELD / 'recep.pdb'},A,x.mol2\n")
    built(tmp_path / "out", str(tmp_path / "x.csv"))
    assert ids(tmp_path / "out") == ["x"]


def test_many_poses_against_one_receptor(tmp_path: Path):
    """A complex per molecule, its title as id; those without one by their file, and numbered."""
    pose = (FIELD / "lig.pdbqt").read_text()
    titled = "".join(
        f"MODEL {n}\n{pose.replace('Name = x', f'Name = {title}')}\nENDMDL\n" for n, title in enumerate("aab")
    )
    (tmp_path / "poses.pdbqt").write_text(titled)
    out = tmp_path / "out"
    ligands = [str(tmp_path / "poses.pdbqt"), str(FIELD / "lig.pdb")]
    assert (
        _prep.run(
            ["build-graphs", "--receptor", str(FIELD / "recep.pdb"), "--ligands", *ligands, "--out", str(out)]
        )
        == 0
    )
    assert ids(out) == ["a_0", "a_1", "b", "lig"]


def test_molecules_that_the_index_does_not_choose_are_noted(tmp_path: Path):
    pose = (FIELD / "lig.pdb").read_text()
    (tmp_path / "two.pdb").write_text(f"MODEL 1\n{pose}ENDMDL\nMODEL 2\n{pose}ENDMDL\n")
    row = f"{FIELD / 'recep.pdb'},A,two.pdb"
    (tmp_path / "x.csv").write_text(f"id,path,chain1,ligand_path,ligand_index\na,{row},\nb,{row},0\n")
    noted = built(tmp_path / "out", str(tmp_path / "x.csv"))
    assert [(entry["id"], entry["kind"], entry["count"]) for entry in noted] == [("a", "molecules-unread", 1)]


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
