"""Structures and indexes as programs and people in the field write them, each with what is right for it.

The files are in `tests/fixtures/field`: cut from public entries, or written by hand.
"""

from __future__ import annotations

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
