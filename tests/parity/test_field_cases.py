"""Structures and indexes as programs and people in the field write them, each with what is right for it.

The files are in `tests/fixtures/field`: cut from public entries, or written by hand.
"""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from atomica import _prep
from atomica.errors import AtomicaError

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


def test_tables_after_the_first_and_before_it():
    """Of two tables in one block the first is read, unless it is empty."""
    text = (FIELD / "two_blocks.cif").read_text().replace("data_second", "#")
    (note,) = _prep.read_structure(text.encode(), "cif").repairs
    assert note["kind"] == "blocks-unread"
    assert 'another table _atom_site of "data_first"' in note["message"]
    table = text[text.index("loop_\n_atom_site.") :]
    tags = [line for line in table.splitlines()[1:] if line.startswith("_atom_site.")]
    empty = "\n".join(["data_empty", "loop_", *tags[: len(set(tags))], "#", text])
    assert len(_prep.read_structure(empty.encode(), "cif")) == len(_prep.read_structure(text.encode(), "cif"))


def models_of(path: Path, *models: list[str]) -> None:
    """The atoms of PDB lines as models of an mmCIF or BinaryCIF file, by gemmi and Biotite."""
    gemmi = pytest.importorskip("gemmi")
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    texts = [[f"MODEL     {n:4d}", *lines, "ENDMDL"] for n, lines in enumerate(models, start=1)]
    structure = gemmi.read_pdb_string("\n".join(line for lines in texts for line in lines))
    text = structure.make_mmcif_document().as_string()
    if path.suffix == ".cif":
        path.write_text(text)
        return
    category = pdbx.CIFFile.deserialize(text).block["atom_site"]
    columns = {
        name: pdbx.BinaryCIFData(column.as_array(), [pdbx.StringArrayEncoding()])
        for name, column in category.items()
    }
    block = pdbx.BinaryCIFBlock({"atom_site": pdbx.BinaryCIFCategory(columns)})
    pdbx.BinaryCIFFile({"x": block}).write(str(path))


@pytest.mark.parametrize("suffix", [".cif", ".bcif"])
def test_models_with_other_atoms_than_the_first(tmp_path: Path, suffix: str):
    protein, ligand = parts_of("s.pdb")

    def read(*models: list[str]) -> dict[str, int]:
        models_of(tmp_path / f"x{suffix}", *models)
        return repairs(_prep.read_structure(tmp_path / f"x{suffix}"))

    size = len(protein)
    assert read(protein, moved(protein, 1.0), moved(protein, 2.0)) == {"models-unread": 2 * size}
    other = [f"{text[:21]}B{text[22:]}" for text in protein]
    assert read(protein, other, protein, protein[1:]) == {"models-unread": 3 * size - 1, "models-differ": 2}
    assert read(protein, ligand) == {"models-unread": len(ligand), "models-differ": 1}


def test_an_empty_chain_id_of_the_author(tmp_path: Path):
    """As in BinaryCIF, the label is taken."""
    as_cif(tmp_path / "x.cif", parts_of("s.pdb")[0])
    atoms = (tmp_path / "x.cif").read_text().splitlines()
    tags = [line.strip() for line in atoms if line.startswith("_atom_site.")]
    column = tags.index("_atom_site.auth_asym_id")
    rows = [line.split() for line in atoms if line.startswith("ATOM")]
    rows = [" ".join([*row[:column], "''", *row[column + 1 :]]) for row in rows]
    structure = _prep.read_structure("\n".join(["data_x", "loop_", *tags, *rows, ""]).encode(), "cif")
    assert set(structure.chain) == {"A"}
    assert "label-for-author" in repairs(structure)


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
        (b"\x1f\x9d\x90", "compress"),
        (b"\0" * 257 + b"ustar", "tar"),
        (gzip.compress(b"\0" * 257 + b"ustar"), "tar"),
        (gzip.compress(gzip.compress(b"ATOM")), "packed twice"),
    ],
)
def test_encodings_that_are_not_read_are_named(tmp_path: Path, head: bytes, name: str):
    (tmp_path / "x.pdb").write_bytes(head)
    with pytest.raises(_prep.StructureError, match=name):
        _prep.read_structure(tmp_path / "x.pdb")


@pytest.mark.parametrize("name", ["s.pdb", "two_blocks.cif"])
def test_damage_within_a_file(name: str):
    """NUL bytes would hide atoms, in a file of any format."""
    content = (FIELD / name).read_bytes()
    middle = content.index(b"\n", len(content) // 2)
    with pytest.raises(_prep.StructureError, match="NUL") as raised:
        _prep.read_structure(content[:middle] + b"\0" * 40 + content[middle + 40 :], name)
    assert raised.value.code == "BadRecords"


@pytest.mark.parametrize("end", ["A", "ATO", "HETAT"])
def test_a_file_that_is_cut_off(end: str):
    atoms, _ = parts_of("s.pdb")
    with pytest.raises(_prep.StructureError, match="cut off"):
        _prep.read_structure("\n".join([*atoms, end]).encode(), "pdb")


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
    return sum(line in (b"ATOM", b"HETATM") or line.startswith(b"ATOM ") for line in lines)


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


@pytest.mark.parametrize("suffix", [".cif", ".bcif"])
def test_chains_that_are_there_twice_in_mmcif(tmp_path: Path, suffix: str):
    """As in PDB files: frames are none, nor is a lone residue."""
    protein, ligand = parts_of("s.pdb")

    def read(lines: list[str]) -> _prep.Structure:
        as_cif(tmp_path / f"x{suffix}", lines)
        return _prep.read_structure(tmp_path / f"x{suffix}")

    twice = read([*protein, *ligand, *moved(protein, 60.0), *moved(ligand, 60.0)])
    assert {"A", "A-2"} == set(twice.chain) == set(_prep.read_sites(tmp_path / f"x{suffix}").atoms.chain)
    assert list(twice.chain).count("A") == len(protein + ligand)
    assert repairs(twice) == {"chain-by-break": 1}
    assert {"A", "A-2", "A-3"} == set(read(protein + moved(protein, 60.0) + moved(protein, 120.0)).chain)
    assert set(read(protein + moved(protein, 0.4)).chain) == {"A"}
    first = [text for text in protein if text[22:26] == protein[0][22:26]]
    assert repairs(read(protein + moved(first, 60.0))) == {"copies-parted": 1}


def bonded_mol2(lines: list[str]) -> bytes:
    """Without chains, as Open Babel writes it; bonds by distance."""
    places = np.array([[float(text[at : at + 8]) for at in (30, 38, 46)] for text in lines])
    near = np.linalg.norm(places[:, None] - places[None], axis=-1) < 1.7
    pairs = [(a, b) for a, b in zip(*np.nonzero(near), strict=True) if a < b]
    atoms = [
        f"{i} {text[12:16].strip()} {text[30:38]} {text[38:46]} {text[46:54]} {text[76:78].strip()}.3 "
        f"{text[22:26].strip()} {text[17:20]}{text[22:26].strip()} 0.0"
        for i, text in enumerate(lines, start=1)
    ]
    bonds = [f"{i} {a + 1} {b + 1} 1" for i, (a, b) in enumerate(pairs, start=1)]
    head = ["@<TRIPOS>MOLECULE", "p", f"{len(atoms)} {len(bonds)}", "SMALL", "NO_CHARGES", "@<TRIPOS>ATOM"]
    return "\n".join([*head, *atoms, "@<TRIPOS>BOND", *bonds, ""]).encode()


def test_mol2_without_chains():
    """What bonds part is a chain of its own where numbers step back or an end is reached, not behind a gap."""
    first, other = peptide(), peptide(z=8.0)
    goes_on = [f"{text[:22]}{int(text[22:26]) + 20:4d}{text[26:]}" for text in other]
    twice = _prep.read_structure(bonded_mol2(first + other), "mol2")
    assert [list(twice.chain).count(name) for name in "AB"] == [len(first), len(other)]
    assert repairs(twice) == {"chain-by-break": 2}
    gap = _prep.read_structure(bonded_mol2(first + goes_on), "mol2")
    assert (set(gap.chain), repairs(gap)) == ({""}, {})
    end = pdb_line("OXT", "GLY", "A", 6, (25.6, 0.7, 0.0), "O")
    ended = _prep.read_structure(bonded_mol2([*first, end, *goes_on]), "mol2")
    assert set(ended.chain) == {"A", "B"}


@pytest.mark.parametrize(("away", "together"), [(4.0, True), (0.8, False), (60.0, False)])
def test_partners_of_a_docking_in_two_parts(away: float, together: bool):
    """Two monomers under one chain id, each closed by END: unlike frames, they touch and do not overlap."""
    parts = ["HEADER rec", *peptide(), "END", "HEADER lig", *peptide(z=away), "END"]
    structure = _prep.read_structure("\n".join(parts).encode(), "pdb")
    assert set(structure.chain) == ({"A", "A-2"} if together else {"A"})
    assert ("frames-unread" in repairs(structure)) != together
    assert adds_up(structure.accounts)
    third = [*parts, *peptide(z=away), "END"]
    assert set(_prep.read_structure("\n".join(third).encode(), "pdb").chain) == {"A"}


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
    again = tmp_path / "again"
    (tmp_path / "clash.pdbqt").write_text(titled.replace("Name = b", "Name = a_0"))
    (tmp_path / "broken.sdf.gz").write_bytes(b"\x1f\x8bdamaged")
    files = [tmp_path / name for name in ("clash.pdbqt", "broken.sdf.gz", "poses.pdbqt")]
    options = _prep.BuildOptions([], again, receptor=FIELD / "recep.pdb", ligands=files, threads=1)
    done = _prep.build(options, quiet=True)
    assert ids(again) == ["a_0_", "a_1", "a_0", "a_2", "a_3", "b"]
    assert done.failures == 1
    (failure,) = map(json.loads, (again / "failures.jsonl").read_text().splitlines())
    assert (failure["id"], failure["row"]) == ("broken", 5)
    with pytest.raises(AtomicaError, match=r"gone\.sdf"):
        _prep.build(
            _prep.BuildOptions(
                [], tmp_path / "none", receptor=FIELD / "recep.pdb", ligands=[tmp_path / "gone.sdf"]
            )
        )


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
    assert ("element-guessed", "gaff.mol2") in [(line["kind"], line["file"][-9:]) for line in lines]


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


@pytest.mark.parametrize("chain", ["E", "E 1", "it's 1", "'1 2"])
def test_lists_of_residues_in_a_chain_with_a_blank(tmp_path: Path, chain: str):
    """Blanks part the members of a ligand and the residues of a pocket, but for those of a chain's id in quotes."""
    from atomica import open_dataset

    sugar = [(("C1", "LIG"), 1), (("C2", "LIG"), 1), (("C1", "LIH"), 2), (("C2", "LIH"), 2)]
    ligand = [
        pdb_line(*what, "E", n, (9.0 + 1.5 * i, 4.2, 2.0), "C", "HETATM") for i, (what, n) in enumerate(sugar)
    ]
    columns = "group_PDB id type_symbol label_atom_id label_comp_id label_asym_id auth_seq_id Cartn_x Cartn_y Cartn_z"
    rows = [
        f'{text[:6]} {i} {text[76:78]} {text[12:16]} {text[17:20]} "{chain}" {n} {text[30:54]}'
        for i, text in enumerate([*peptide(), *ligand])
        for n in [int(text[22:26]) + 100 * text.startswith("HETATM")]
    ]
    head = "".join(f"_atom_site.{column}\n" for column in columns.split())
    (tmp_path / "x.cif").write_text(f"data_x\nloop_\n{head}" + "\n".join(rows) + "\n#\n")
    found = Found(tmp_path / "found", tmp_path / "x.cif")
    shown = chain if chain == "E" else "'{}'".format(chain.replace("'", "''"))
    assert [row["lig_members"] for row in found.rows] == [f"{shown}:101 {shown}:102"]
    built(tmp_path / "again", str(tmp_path / "found" / "discovered.csv"))
    for record in (found.records()[0], open_dataset(tmp_path / "again")[0]):
        assert (np.asarray(record.segment_ids) == 1).sum() == 5  # four atoms, and the global block
    index = f"id,path,chain1,residues\na,x.cif,{shown},{shown}:2 {shown}:3\n"
    (tmp_path / "x.csv").write_text(index)
    built(tmp_path / "pocket", str(tmp_path / "x.csv"))
    assert open_dataset(tmp_path / "pocket")[0].block_resnums[1:].tolist() == [2, 3]


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


# --- The same kinds as other programs write them ---


def parts_of(name: str) -> tuple[list[str], list[str]]:
    """Protein and ligand lines of a PDB file."""
    lines = (FIELD / name).read_text().splitlines()
    return tuple([line for line in lines if line.startswith(record)] for record in ("ATOM", "HETATM"))


def moved(lines: list[str], along: float) -> list[str]:
    return [f"{line[:30]}{float(line[30:38]) + along:8.3f}{line[38:]}" for line in lines]


def numbered(lines: list[str], number: int, chain: str = "A", record: str = "ATOM") -> list[str]:
    return [f"{record:<6}{line[6:21]}{chain}{number:4d}{line[26:]}" for line in lines]


def discover(tmp_path: Path, lines: list[str], name: str = "x.pdb") -> Found:
    (tmp_path / name).write_text("\n".join(lines) + "\nEND\n")
    return Found(tmp_path / f"{name}.out", tmp_path / name)


@pytest.mark.parametrize("between", [[], ["TER"], ["CRYST1   10.000   10.000   10.000  90.00  90.00  90.00"]])
@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_frames_that_nothing_parts(tmp_path: Path, between: list[str], drift: float):
    """Chains that stand in one another are frames; far away they are copies."""
    protein, ligand = parts_of("s.pdb")
    frame = protein + between + ligand
    again = moved(protein, drift) + between + moved(ligand, drift)
    found = discover(tmp_path, [*frame, *between, *again, *between, *again])
    assert found.ligands() == [("LIG", "A", "1001", "PL")]
    assert found.repairs == {"frames-unread": 2 * len(protein + ligand)}
    copies = _prep.read_structure("\n".join([*protein, "TER", *moved(protein, 60.0)]).encode(), "pdb")
    assert {"A", "A-2"} == set(copies.chain)


def test_copies_that_others_part(tmp_path: Path):
    protein, ligand = parts_of("s.pdb")
    zinc = pdb_line("ZN", "ZN", "A", 777, (50.0, 17.0, 12.0), "ZN", "HETATM")
    found = discover(tmp_path, [*protein, *ligand, zinc, *moved(ligand, 40.0)])
    assert found.repairs == {"copies-parted": 1}
    assert [(r["lig_code"], r["lig_copy"]) for r in found.rows] == [("LIG", "1"), ("ZN", "")]
    poses = discover(tmp_path, [*protein, *ligand, zinc, *moved(ligand, 0.3)], "poses.pdb")
    assert poses.repairs == {"copies-overlap": 1}
    assert [(r["lig_code"], r["lig_copy"]) for r in poses.rows] == [("LIG", ""), ("ZN", "")]


@pytest.mark.parametrize("record", ["ATOM", "HETATM"])
@pytest.mark.parametrize("component", ["   ", "UNK", "LIG", "DRG", "<0>", "1  "])
def test_names_of_ligands_that_say_nothing(tmp_path: Path, record: str, component: str):
    protein, ligand = parts_of("s.pdb")
    lines = [f"{record:<6}{line[6:17]}{component}{line[20:]}" for line in ligand]
    found = discover(tmp_path, protein + lines)
    name = component.strip() or "UNL"
    assert found.ligands() == [(name, "A", "1001", "PL")]
    assert found.repairs == ({} if component.strip() else {"name-missing": 1})


def test_free_amino_acids_without_ends(tmp_path: Path):
    """Without OXT the number and the place tell; a lone residue of a chain is listed."""
    protein, glu = parts_of("free_glu_noter.pdb")
    bare = [line for line in glu if line[12:16].strip() != "OXT"]
    for place, (lines, chain) in enumerate(
        [(numbered(bare, 900), "A"), (numbered(bare, 900, record="HETATM"), "A"), (numbered(glu, 58), "A")]
    ):
        found = discover(tmp_path, protein + lines, f"{place}.pdb")
        assert [(code, where) for code, where, *_ in found.ligands()] == [("GLU", chain)], place
    alone = discover(tmp_path, protein + numbered(bare, 900, "L"), "alone.pdb")
    assert alone.reasons()["GLU", "900"] == "few-contacts"


@pytest.mark.parametrize(
    ("name", "component", "stated", "expected"),
    [
        ("SOD", "SOD", "S", "Na"),
        ("POT", "POT", "P", "K"),
        ("CES", "CES", "CE", "Cs"),
        ("RUB", "RUB", "RU", "Rb"),
        ("CLA", "CLA", "C", "Cl"),
        ("CA", "CA", "C", "Ca"),
        ("HG", "HG", "H", "Hg"),
        ("Na+", "Na+", "", "Na"),
        ("Cl-", "Cl-", "", "Cl"),
        ("MG2", "MG2", "", "Mg"),
        ("CA+2", "CA", "", "Ca"),
        ("SOD", "ION", "", "Na"),
        ("POT", "ION", "P", "K"),
        ("NA", "ION", "N", "Na"),
    ],
)
def test_elements_of_ions_that_programs_guessed(name: str, component: str, stated: str, expected: str):
    line = f"HETATM    1 {name:<4} {component:<3} I   1    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00          {stated:>2}"
    structure = _prep.read_structure(line.encode(), "pdb")
    assert _prep.atom_symbols()[2 + int(structure.element[0])] == expected
    assert repairs(structure) == {"element-guessed": 1}


def test_segments_that_share_a_chain_id(tmp_path: Path):
    """As CHARMM writes them: one letter of PROA and PROB, numbers going on; counted lines are no segments."""
    lines = [line for line in (FIELD / "segid_dimer.pdb").read_text().splitlines() if line.startswith("ATOM")]
    segments = sorted({line[72:76].strip() for line in lines})
    shared = [f"{line[:21]}P{line[22:]}" for line in lines]
    shift = {name: 1000 * i for i, name in enumerate(segments)}
    shared = [f"{x[:22]}{int(x[22:26]) + shift[x[72:76].strip()]:4d}{x[26:]}" for x in shared]
    assert set(chains_of(*shared)) == set(segments)
    figures = [f"{x[:21]} {x[22:72]}{segments.index(x[72:76].strip()) + 1:<4d}{x[76:]}" for x in lines]
    assert set(chains_of(*figures)) == {"1", "2"}
    counted = [f"{x[:21]}A{x[22:72]}{i:>4d}{x[76:]}" for i, x in enumerate(shared, start=1000)]
    assert set(chains_of(*counted)) == {"A"}


def test_charged_names_are_no_chains():
    lines = [line(1, "CA", "LYS", "+A", 1, 0.0), line(2, "CA", "GLY", "A", 2, 3.8)]
    assert chains_of(*lines) == ["A", "A"]


def ligand_file(tmp_path: Path, name: str, text: str) -> tuple[int, Path]:
    (tmp_path / name).write_text(text)
    (tmp_path / "index.csv").write_text(
        f"id,path,chain1,ligand_path\nx,{FIELD / 'recep.pdb'},A,{tmp_path / name}\n"
    )
    out = tmp_path / f"{name}.out"
    return _prep.run(["build-graphs", str(tmp_path / "index.csv"), "--out", str(out)]), out


def atoms_of_the_ligand(out: Path) -> list[str]:
    from atomica import open_dataset

    record = open_dataset(out)[0]
    kinds = zip(record.block_types, record.segment_ids, strict=True)
    return [_prep.block_symbols()[int(kind)] for kind, segment in kinds if segment][1:]


def mol2(*atoms: tuple[str, str]) -> str:
    lines = [
        f"{i} {name} {44 + 1.4 * i:.3f} 17.5 14.6 {kind} 1 LIG 0.0"
        for i, (name, kind) in enumerate(atoms, start=1)
    ]
    bonds = [f"{i} {i} {i + 1} 1" for i in range(1, len(atoms))]
    head = "@<TRIPOS>MOLECULE\nx\n0 0\nSMALL\nNO_CHARGES\n@<TRIPOS>ATOM\n"
    return head + "\n".join([*lines, "@<TRIPOS>BOND", *bonds]) + "\n"


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        ([("C1", "c5"), ("N1", "n7"), ("N2", "nu")], "C N N"),
        ([("C01", "opls_135"), ("O03", "opls_154")], "C O"),
        ([("C", "CG2R61"), ("CL1", "CLGR1"), ("S1", "SG311")], "C Cl S"),
        ([("NA", "NA"), ("NB", "NB"), ("FE", "FE")], "N N Fe"),
        ([("C1", "c3"), ("SE1", "SE"), ("C2", "c3")], "C Se C"),
        ([("C1", "C_3"), ("O", "O_2"), ("N", "N_R")], "C O N"),
        ([("C1", "C.3"), ("D1", "Du"), ("LP1", "LP")], "C"),
        ([("C1", "C.3"), ("C2", "Cd"), ("C3", "C.3")], None),
        ([("C1", "c3"), ("C2", "cl"), ("C3", "c3")], None),
    ],
)
def test_types_of_many_programs(tmp_path: Path, atoms: list[tuple[str, str]], expected: str | None):
    code, out = ligand_file(tmp_path, "x.mol2", mol2(*atoms))
    if expected is None:
        failure = json.loads((out / "failures.jsonl").read_text())
        assert (code, failure["line"]) == (3, 8)
    else:
        assert atoms_of_the_ligand(out) == expected.split()


def test_what_is_no_part_of_a_ligand(tmp_path: Path):
    """Flexible residues of the receptor, and water."""
    text = (FIELD / "lig.pdbqt").read_text()
    flexible = pdb_line("CA", "TYR", "A", 57, (45.7, 17.6, 11.7), "C")
    water = pdb_line("O", "HOH", "A", 999, (44.7, 17.6, 15.7), "O", "HETATM")
    for name, more in (
        ("f.pdbqt", f"BEGIN_RES TYR A  57\n{flexible}\nEND_RES TYR A  57\n"),
        ("w.pdb", water),
    ):
        _, out = ligand_file(
            tmp_path, name, (text if "qt" in name else (FIELD / "lig.pdb").read_text()) + more
        )
        assert len(atoms_of_the_ligand(out)) == 57
        noted = [json.loads(line) for line in (out / "repairs.jsonl").read_text().splitlines()]
        assert [(entry["kind"], entry["count"]) for entry in noted] == [("outside-ligand", 1)], name


@pytest.mark.parametrize("name", ["x.sdf", "x.mol2", "x.pdb", "x.pdbqt"])
@pytest.mark.parametrize("text", ["sdf", "mol2", "lig.pdb", "lig.pdbqt"])
def test_ligands_under_the_name_of_another_format(tmp_path: Path, name: str, text: str):
    content = {
        "sdf": (FIELD / "nohdr.sdf").read_text().replace("  3  1", "t\n\n\n  3  1", 1),
        "mol2": mol2(("C1", "C.3"), ("N1", "N.3"), ("O1", "O.3")),
    }
    _, out = ligand_file(tmp_path, name, content.get(text) or (FIELD / text).read_text())
    assert len(atoms_of_the_ligand(out)) == (57 if "." in text else 3)


def test_where_the_bonds_of_docked_ligands_are_from(tmp_path: Path):
    from atomica import open_dataset

    for name, source in (("lig.pdb", "distances"), ("lig.pdbqt", "distances")):
        _, out = ligand_file(tmp_path, name, (FIELD / name).read_text())
        record = open_dataset(out)[0]
        assert dict(record.metadata)["ligand_bonds"] == source
        assert len(record.bond_orders) == 60
        assert not np.asarray(record.bond_orders).any()
    # What CONECT leaves out is by distance, too.
    conect = "CONECT 1117 1118\nCONECT 1118 1119\n"
    _, out = ligand_file(tmp_path, "c.pdb", (FIELD / "lig.pdb").read_text().replace("END", "") + conect)
    record = open_dataset(out)[0]
    assert (dict(record.metadata)["ligand_bonds"], len(record.bond_orders)) == ("conect", 60)


def protein_mol2(lines: list[str]) -> str:
    numbers: dict[str, int] = {}
    atoms = []
    for i, text in enumerate(lines, start=1):
        residue = text[17:20] + text[22:26].strip()
        number = numbers.setdefault(residue, len(numbers) + 1)
        place = f"{text[30:38]} {text[38:46]} {text[46:54]}"
        atoms.append(f"{i} {text[12:16].strip()} {place} {text[76:78].strip()}.3 {number} {residue} 0.0")
    chains = [f"{number} {name} 1 RESIDUE 4 A {name[:3]} 1" for name, number in numbers.items()]
    head = "@<TRIPOS>MOLECULE\np\n0 0 1\nPROTEIN\nNO_CHARGES\n@<TRIPOS>ATOM\n"
    return head + "\n".join([*atoms, "@<TRIPOS>SUBSTRUCTURE", *chains]) + "\n"


def test_proteins_in_mol2(tmp_path: Path):
    protein, _ = parts_of("recep.pdb")
    (tmp_path / "p.mol2").write_text(protein_mol2(protein))
    theirs, ours = _prep.read_structure(FIELD / "recep.pdb"), _prep.read_structure(tmp_path / "p.mol2")
    for column in ("chain", "resname", "resnum", "atom_name", "element"):
        assert np.array_equal(getattr(theirs, column), getattr(ours, column)), column
    assert np.allclose(theirs.x, ours.x)
    assert not ours.repairs


def test_structures_with_ligands_beside_them(tmp_path: Path):
    """`X_protein.*` and `X_ligand.*` of a folder make a complex; pockets cut out of the protein are left aside."""
    protein, ligand = ("\n".join(lines) + "\nEND\n" for lines in parts_of("s.pdb"))
    data = tmp_path / "data"
    for name, text in (
        ("1abc/1abc_protein.pdb", protein),
        ("1abc/1abc_pocket.pdb", protein),
        ("1abc/1abc_ligand.mol2", mol2(("C1", "C.3"), ("N1", "N.3"))),
        ("1abc/1abc_ligand.pdb", ligand),
        ("2xyz_receptor.pdb", protein),
        ("2xyz_lig.pdb", f"MODEL 1\n{ligand}ENDMDL\nMODEL 2\n{ligand}ENDMDL\n"),
        ("site/protein.mol2", protein_mol2(parts_of("s.pdb")[0])),
        ("site/ligand.mol2", mol2(("C1", "C.3"), ("N1", "N.3"))),
        ("lone_ligand.sdf", "left alone"),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text)
    found = Found(tmp_path / "out", data)
    told = [(r["id"], Path(r["ligand_path"]).name, r["ligand_index"]) for r in found.rows]
    assert told == [
        ("1abc_ligand", "1abc_ligand.mol2", "0"),
        ("2xyz_ligand_0", "2xyz_lig.pdb", "0"),
        ("2xyz_ligand_1", "2xyz_lig.pdb", "1"),
        ("site_ligand", "ligand.mol2", "0"),
    ]
    assert found.code == 0
    assert [record.id for record in found.records()] == [name for name, *_ in told]
    again = tmp_path / "again"
    built(again, str(tmp_path / "out/discovered.csv"))
    assert ids(again) == [name for name, *_ in told]


def test_modified_residues_of_binary_cif(tmp_path: Path):
    """`_pdbx_struct_mod_residue` as in mmCIF."""
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    lines = [
        line.replace("SER", "XAX").replace("ATOM  ", "HETATM") if "SER" in line else line
        for line in peptide()
    ]
    extra = pdb_line("XG", "XAX", "A", 3, (12.3, 3.6, 0.4), "C", "HETATM")
    lines.insert(max(i for i, line in enumerate(lines) if "XAX" in line) + 1, extra)
    text = "\n".join([*lines, *peptide(chain="B", z=4.0), "END"])
    (tmp_path / "m.pdb").write_text(text)
    from biotite.structure.io import pdb

    atoms = pdb.PDBFile.read(str(tmp_path / "m.pdb")).get_structure(model=1)
    graphs = []
    for name, file, category in (
        ("m.cif", pdbx.CIFFile(), pdbx.CIFCategory),
        ("m.bcif", pdbx.BinaryCIFFile(), pdbx.BinaryCIFCategory),
    ):
        pdbx.set_structure(file, atoms)
        file.block["pdbx_struct_mod_residue"] = category(
            {"label_comp_id": ["XAX"], "parent_comp_id": ["SER"]}
        )
        file.write(str(tmp_path / name))
        found = Found(tmp_path / f"{name}.out", tmp_path / name)
        assert found.repairs.get("modified-residue") == 1, name
        graphs.append(np.asarray(found.records()[0].block_types).tolist())
    assert graphs[0] == graphs[1]


def test_two_chains_without_a_mark_between_them(tmp_path: Path):
    """Numbers that go on where no chain would reach are noted; a gap with its jump in the numbers is none."""
    chain = peptide("GLY ALA SER LEU VAL GLY ALA SER LEU VAL")

    def further(first: int, along: float) -> list[str]:
        return [f"{line[:22]}{int(line[22:26]) + first - 1:4d}{line[26:]}" for line in moved(chain, along)]

    for name, more, count in (
        ("goes_on", further(11, 60.0), 1),
        ("bonded", further(11, 37.0), 0),
        ("gap", further(21, 60.0), 0),
        ("wide_gap", further(21, 137.0), 1),
        ("short", further(11, 60.0)[:20], 0),
    ):
        lines = [f"{line[:21]} {line[22:]}" for line in [*chain, *more]]
        found = discover(tmp_path, lines, f"{name}.pdb")
        assert found.repairs.get("chain-interrupted", 0) == count, name


def test_a_free_amino_acid_numbered_after_the_chain(tmp_path: Path):
    """Without OXT, near its chain and numbered next: its bonds tell. Members beside gaps have none, and belong."""
    protein = peptide("GLY ALA SER LEU VAL GLY ALA SER")
    free = [
        pdb_line(*args, args[0][0])
        for args in (
            ("N", "GLU", "A", 9, (15.0, 3.4, 3.0)),
            ("CA", "GLU", "A", 9, (15.0, 4.9, 3.0)),
            ("C", "GLU", "A", 9, (15.0, 5.5, 4.4)),
            ("O", "GLU", "A", 9, (15.0, 6.7, 4.5)),
            ("CB", "GLU", "A", 9, (16.3, 5.4, 2.3)),
        )
    ]
    found = discover(tmp_path, [*protein, *free], "free.pdb")
    assert [(r["lig_code"], r["lig_resnum"]) for r in found.rows] == [("GLU", "9")]
    assert found.repairs["free-residue"] == 1
    for number in (10, 11, 15):
        found = discover(tmp_path, [*protein, *numbered(free, number)], f"gap{number}.pdb")
        assert [r["lig_code"] for r in found.rows] == [], number
        assert "free-residue" not in found.repairs
    # Numbered anew, a gap has no jump; what is beyond it tells.
    beyond = [f"{line[:22]}{int(line[22:26]) + 9:4d}{line[26:]}" for line in moved(protein, 60.0)]
    found = discover(tmp_path, [*protein, *free, *beyond], "anew.pdb")
    assert "free-residue" not in found.repairs
    before = [line for line in protein if int(line[22:26]) not in (3, 5)]  # 4 stands alone
    found = discover(tmp_path, [*before, *peptide(chain="B", z=4.0)], "alone.pdb")
    assert "free-residue" not in found.repairs
    assert [r["lig_code"] for r in found.rows] == [""]


# --- Bonds that the file states ---


def attached(far: float) -> list[str]:
    """A peptide, and a ligand whose C1 is so far from the sulphur of the cysteine, A:5."""
    lines = peptide("GLY ALA SER LEU CYS GLY")
    x, y, z = 3.7 * 5 + 1.2, 3.9, 0.4
    lines.insert(
        max(i for i, line in enumerate(lines) if "CYS" in line) + 1,
        pdb_line("SG", "CYS", "A", 5, (x, y, z), "S"),
    )
    for name, (dx, dy) in {"C1": (0, far), "C2": (1.2, far + 0.7), "O1": (-1.2, far + 0.7)}.items():
        lines.append(pdb_line(name, "LIG", "A", 100, (x + dx, y + dy, z), name[0], "HETATM"))
    return [f"{line[:6]}{serial:5d}{line[11:]}" for serial, line in enumerate(lines, start=1)]


def link(one: str, other: str, operators: str = "  1555   1555") -> str:
    """Each end as columns 13 to 27 of an atom line."""
    return f"LINK        {one:<15}{'':15}{other:<15}  {operators:<15}  2.30"


def serial_of(lines: list[str], atom: str) -> int:
    """The serial number of the atom line with these words in columns 13 to 27."""
    return next(int(line[6:11]) for line in lines if line[12:27].split() == atom.split())


def conect(lines: list[str], one: str, other: str) -> str:
    return f"CONECT{serial_of(lines, one):5d}{serial_of(lines, other):5d}"


SULPHUR, CARBON = " SG  CYS A   5 ", " C1  LIG A 100 "


def as_cif(path: Path, lines: list[str], connections: dict[str, list[str]] | None = None) -> None:
    """The same atoms as mmCIF or BinaryCIF, by Biotite, with a table `_struct_conn`."""
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    from biotite.structure.io import pdb

    plain = path.with_suffix(".plain.pdb")
    plain.write_text("\n".join([*lines, "END", ""]))
    atoms = pdb.PDBFile.read(str(plain)).get_structure(model=1, extra_fields=["occupancy", "b_factor"])
    plain.unlink()
    file, category = {
        ".cif": (pdbx.CIFFile, pdbx.CIFCategory),
        ".bcif": (pdbx.BinaryCIFFile, pdbx.BinaryCIFCategory),
    }[path.suffix]
    file = file()
    pdbx.set_structure(file, atoms)
    if connections:
        file.block["struct_conn"] = category(connections)
    file.write(str(path))


def connection(kind: str = "covale", one=("CYS", "5", "SG"), other=("LIG", "100", "C1"), operator="1_555"):
    partner = lambda n, who, op: {  # noqa: E731
        f"ptnr{n}_label_asym_id": ["A"],
        f"ptnr{n}_label_comp_id": [who[0]],
        f"ptnr{n}_label_seq_id": ["?"],
        f"ptnr{n}_label_atom_id": [who[2]],
        f"ptnr{n}_auth_asym_id": ["A"],
        f"ptnr{n}_auth_comp_id": [who[0]],
        f"ptnr{n}_auth_seq_id": [who[1]],
        f"ptnr{n}_symmetry": [op],
    }
    return {"id": ["x1"], "conn_type_id": [kind], **partner(1, one, "1_555"), **partner(2, other, operator)}


def test_stretched_bonds_are_known_from_what_the_file_states(tmp_path: Path):
    lines = attached(2.3)
    files = {
        "link": [link(SULPHUR, CARBON), *lines],
        "conect": [*lines, conect(lines, SULPHUR, CARBON)],
        "models": [
            "MODEL        1",
            *lines,
            "ENDMDL",
            "MODEL        2",
            *lines,
            "ENDMDL",
            conect(lines, SULPHUR, CARBON),
        ],
        "hybrid": [
            *(f"{line[:6]}A{int(line[6:11]):04d}{line[11:]}" for line in lines),
            f"CONECTA{serial_of(lines, CARBON):04d}A{serial_of(lines, SULPHUR):04d}",
        ],
        "nothing": lines,
    }
    graphs = {}
    for name, text in files.items():
        found = discover(tmp_path, text, f"{name}.pdb")
        assert [r["covalent"] for r in found.rows] == ["" if name == "nothing" else "A:5 CYS SG"], name
        record = found.records()[0]
        assert dict(record.metadata).get("covalent", "") == found.rows[0]["covalent"]
        graphs[name] = np.asarray(record.block_types).tolist()
    for name in ("x.cif", "x.bcif"):
        as_cif(tmp_path / name, lines, connection())
        labels = Found(tmp_path / f"{name}.labels", tmp_path / name, options=("--ids", "label"))
        found = Found(tmp_path / f"{name}.out", tmp_path / name)
        assert [r["covalent"] for r in (*found.rows, *labels.rows)] == ["A:5 CYS SG"] * 2, name
        graphs[name] = np.asarray(found.records()[0].block_types).tolist()
    assert all(graph == graphs["link"] for graph in graphs.values())


@pytest.mark.parametrize(
    ("record", "distance", "covalent", "kind"),
    [
        (link(SULPHUR, CARBON, "  1555   2655"), 2.3, "", None),  # with a copy by symmetry
        (link(SULPHUR, CARBON, ""), 2.3, "A:5 CYS SG", None),
        (link(SULPHUR, CARBON), 3.4, "", "bond-implausible"),
        (link(SULPHUR, " C7  LIG A 100 "), 2.3, "", "bond-unmatched"),
        (link(SULPHUR, " C1  LIG B 100 "), 2.3, "", "bond-unmatched"),
        (link(SULPHUR, CARBON, "").replace("LINK ", "LINKR"), 2.3, "A:5 CYS SG", None),
        (link(SULPHUR, CARBON, "").replace("LINK ", "LINKR")[:72].ljust(73) + "gap", 2.3, "", None),
    ],
)
def test_links_that_are_used_and_others(
    tmp_path: Path, record: str, distance: float, covalent: str, kind: str | None
):
    found = discover(tmp_path, [record, *attached(distance)])
    assert [r["covalent"] for r in found.rows] == [covalent]
    assert set(found.repairs) == ({kind} if kind else set())


@pytest.mark.parametrize(
    ("kind", "operator", "covalent"),
    [
        ("covale", "1_555", True),
        ("hydrog", "1_555", False),
        ("metalc", "1_555", False),
        ("covale", "2_655", False),
    ],
)
@pytest.mark.parametrize("suffix", ["cif", "bcif"])
def test_connections_that_are_used_and_others(
    tmp_path: Path, kind: str, operator: str, covalent: bool, suffix: str
):
    as_cif(tmp_path / f"x.{suffix}", attached(2.3), connection(kind, operator=operator))
    found = Found(tmp_path / "out", tmp_path / f"x.{suffix}")
    assert [r["covalent"] for r in found.rows] == ["A:5 CYS SG" if covalent else ""]
    assert found.repairs == {}


def test_serial_numbers_that_repeat_or_overflow(tmp_path: Path):
    lines = attached(2.3)
    bond = conect(lines, SULPHUR, CARBON)
    twice = [f"{line[:6]}{int(line[6:11]) % 20:5d}{line[11:]}" for line in lines]
    wide = [f"{line[:6]}{100000 + int(line[6:11])}{line[12:]}" for line in lines]
    other = [f"{line[:6]}{101 - int(line[6:11]):5d}{line[11:]}" for line in lines]  # given anew
    shuffled = [f"CONECT{101 - a:5d}{101 - b:5d}" for a, b in [(1, 20), (2, 25), (30, 3), (4, 5)]]
    for name, text in {
        "twice": [*twice, "CONECT    5    6"],
        "wide": [*wide, bond],
        "other": [*other, *shuffled],
    }.items():
        found = discover(tmp_path, text, f"{name}.pdb")
        assert [r["covalent"] for r in found.rows] == [""], name
        assert found.repairs["conect-ignored"] > 0, name


def test_bonds_of_alternate_locations(tmp_path: Path):
    """The location that is chosen counts; a bond of the other one is passed over."""
    lines = attached(2.3)
    at = next(i for i, line in enumerate(lines) if line[12:16].strip() == "SG")
    first, second = lines[at], lines[at]
    y = float(first[38:46])
    first = f"{first[:16]}A{first[17:54]}  0.60{first[60:]}"
    second = f"{second[:16]}B{second[17:38]}{y - 2.5:8.3f}{second[46:54]}  0.40{second[60:]}"
    both = [*lines[:at], first, second, *lines[at + 1 :]]
    for letter, covalent in ((" ", "A:5 CYS SG"), ("A", "A:5 CYS SG"), ("B", "")):
        record = link(f" SG {letter}CYS A   5 ", CARBON)
        found = discover(tmp_path, [record, *both], f"{ord(letter)}.pdb")
        assert [r["covalent"] for r in found.rows] == [covalent]
        assert found.repairs == {}


def test_a_metal_is_no_part_of_a_polymer(tmp_path: Path):
    zinc = pdb_line("ZN", "ZN", "A", 100, (3.7 * 5 + 1.2, 6.2, 0.4), "ZN", "HETATM")
    lines = attached(2.3)[:-3]
    found = discover(tmp_path, [link(SULPHUR, "ZN    ZN A 100 "), *lines, zinc])
    assert found.ligands() == [("ZN", "A", "100", "Pion")]
    assert (found.rows[0]["covalent"], found.repairs) == ("", {})
    as_cif(tmp_path / "z.cif", [*lines, zinc], connection("metalc", other=("ZN", "100", "ZN")))
    found = Found(tmp_path / "z", tmp_path / "z.cif")
    assert (found.ligands(), found.rows[0]["covalent"]) == ([("ZN", "A", "100", "Pion")], "")


def test_a_glycan_by_conect(tmp_path: Path):
    """A sugar 2.2 Å from its asparagine, and a second one on it."""
    lines = peptide("GLY ALA SER LEU ASN GLY")
    x, y, z = 3.7 * 5 + 1.2, 3.7, 0.4
    lines.append(pdb_line("ND2", "ASN", "A", 5, (x, y, z), "N"))
    for number, base in ((100, y + 2.2), (101, y + 6.2)):
        for name, dx, dy in (
            ("C1", 0, 0),
            ("C4", 0, 1.5),
            ("O4", 0, 2.0 if number == 100 else 2.9),
            ("O5", 1.4, 0.2),
        ):
            place = (x + dx, base + dy * 0.9, z)
            lines.append(pdb_line(name, "NAG", "A", number, place, name[0], "HETATM"))
    lines = [f"{line[:6]}{serial:5d}{line[11:]}" for serial, line in enumerate(lines, start=1)]
    sugar = conect(lines, "O4 NAG A 100", "C1 NAG A 101")
    found = discover(tmp_path, [*lines, conect(lines, "C1 NAG A 100", "ND2 ASN A 5"), sugar], "glycan.pdb")
    (row,) = found.rows
    assert (row["lig_members"].split(), row["covalent"]) == (["A:100", "A:101"], "A:5 ASN ND2")
    assert {row["covalent"] for row in discover(tmp_path, lines, "without.pdb").rows} == {""}


def test_a_modified_residue_by_stretched_bonds(tmp_path: Path):
    """A residue under an unknown name is of the polymer where LINK says so, however long its bonds are."""
    lines = [
        line.replace("SER", "XAX").replace("ATOM  ", "HETATM") if "SER" in line else line
        for line in peptide()
    ]
    lines = [
        *moved([line for line in lines if int(line[22:26]) < 3], -0.95),
        *[line for line in lines if int(line[22:26]) == 3],
        *moved([line for line in lines if int(line[22:26]) > 3], 0.95),
    ]
    partner = peptide(chain="B", z=4.0)
    links = [link(" C   ALA A   2 ", " N   XAX A   3 "), link(" C   XAX A   3 ", " N   LEU A   4 ")]
    with_links = discover(tmp_path, [*links, *lines, *partner], "with.pdb")
    without = discover(tmp_path, [*lines, *partner], "without.pdb")
    assert [r["lig_code"] for r in with_links.rows] == [""]
    assert "XAX" in [r["lig_code"] for r in without.rows]


def test_assemblies_keep_stated_bonds(tmp_path: Path):
    head = ["REMARK 350 BIOMOLECULE: 1", "REMARK 350 APPLY THE FOLLOWING TO CHAINS: A"]
    for copy, shift in ((1, 0.0), (2, 60.0)):
        for row in range(3):
            unit = "".join(f"{float(row == column):10.6f}" for column in range(3))
            head.append(f"REMARK 350   BIOMT{row + 1}   {copy}{unit}{shift * (row == 2):15.5f}")
    path = tmp_path / "a.pdb"
    path.write_text("\n".join([*head, link(SULPHUR, CARBON), *attached(2.3), "END", ""]))
    found = Found(tmp_path / "out", path, options=("--assembly", "1"))
    assert [r["covalent"] for r in found.rows] == ["A:5 CYS SG", "A-2:5 CYS SG"]


@pytest.mark.parametrize("around", ["link", "conect"])
def test_models_keep_what_stands_around_them(tmp_path: Path, around: str):
    """LINK and MODRES before the models, CONECT after them, are of every copy; messages count the file's lines."""
    lines = attached(2.3)
    ser = max(i for i, text in enumerate(lines) if "SER" in text)
    lines = [text.replace("SER", "XAX") for text in lines]
    again = [f"{text[:46]}{float(text[46:54]) + 60.0:8.3f}{text[54:]}" for text in lines]
    head = ["MODRES 1ABC XAX A    3  SER  A SERINE"] + [link(SULPHUR, CARBON)] * (around == "link")
    tail = [conect(lines, SULPHUR, CARBON)] * (around == "conect")

    def text(second: list[str]) -> str:
        models = ["MODEL        1", *lines, "ENDMDL", "MODEL        2", *second, "ENDMDL"]
        return "\n".join([*head, *models, *tail, "END", ""])

    path = tmp_path / "a.pdb1"
    path.write_text(text(again))
    found = Found(tmp_path / "out", path)
    assert [r["covalent"] for r in found.rows if r["lig_code"]] == ["A:5 CYS SG", "A-2:5 CYS SG"]
    assert found.repairs == {"modified-residue": 2}
    assert "XAX" not in [r["lig_code"] for r in found.rows]
    broken = [f"{text[:30]}   x{text[34:]}" if i == ser else text for i, text in enumerate(again)]
    with pytest.raises(_prep.StructureError, match=f"line {len(head) + len(lines) + 3 + ser + 1}, "):
        _prep.read_structure(text(broken).encode(), "pdb", assembly="models")


@pytest.mark.parametrize(("kind", "covalent"), [("1", "A:5 CYS SG"), ("nc", "")])
def test_bonds_of_mol2_between_residues(tmp_path: Path, kind: str, covalent: str):
    lines = attached(2.3)
    text = protein_mol2(lines).replace(".3 ", " ")
    ends = [serial_of(lines, end) for end in (SULPHUR, CARBON)]
    path = tmp_path / "x.mol2"
    path.write_text(f"{text}@<TRIPOS>BOND\n1 {ends[0]} {ends[1]} {kind}\n")
    assert [r["covalent"] for r in Found(tmp_path / "out", path).rows] == [covalent]


def test_a_free_amino_acid_numbered_between_two_members(tmp_path: Path):
    """Far from both, where the chain goes on without it, or lacks just one residue there."""
    chain = peptide("GLY ALA SER LEU VAL GLY ALA SER")
    free = [
        pdb_line(name, "GLU", "A", 4, (15.0, 3.4 + away, 3.0 + aside), name[0])
        for name, away, aside in (
            ("N", 0, 0),
            ("CA", 1.5, 0),
            ("C", 2.1, 1.4),
            ("O", 3.3, 1.5),
            ("CB", 2, -0.7),
        )
    ]
    lacking = [text for text in chain if int(text[22:26]) != 4]
    number = lambda text: int(text[22:26]) + (int(text[22:26]) > 3)  # noqa: E731
    going_on = [f"{text[:22]}{number(text):4d}{text[26:]}" for text in chain]
    for name, lines in (("lacking", lacking), ("going_on", going_on)):
        before = sum(int(text[22:26]) < 4 for text in lines)
        for place in (before, len(lines)):
            found = discover(tmp_path, [*lines[:place], *free, *lines[place:]], f"{name}{place}.pdb")
            assert [(r["lig_code"], r["lig_resnum"]) for r in found.rows] == [("GLU", "4")], name
    # Beyond it the chain is somewhere else: the file was numbered anew, and gaps are on both sides.
    parts = [*lacking[:before], *free, *moved(lacking[before:], 30.0)]
    assert "free-residue" not in discover(tmp_path, parts, "anew.pdb").repairs


@pytest.mark.parametrize(("hydrogens", "chemistry"), [(True, "perceived"), (False, "atoms")])
def test_bond_orders_of_docked_ligands_are_perceived(tmp_path: Path, hydrogens: bool, chemistry: str):
    """Only where the file gives the hydrogens; else the record and repairs.jsonl say that they are not known."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    from atomica import open_dataset
    from atomica.prep.command import main

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Nc1ccc(C(=O)[O-])cc1"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    molecule = molecule if hydrogens else Chem.RemoveHs(molecule)
    lines = [text for text in Chem.MolToPDBBlock(molecule).splitlines() if not text.startswith("CONECT")]
    (tmp_path / "l.pdb").write_text("\n".join(lines) + "\n")
    (tmp_path / "p.pdb").write_text("\n".join(peptide(z=4.0)) + "\n")
    (tmp_path / "x.csv").write_text("id,path,chain1,ligand_path\na,p.pdb,A,l.pdb\n")
    out = tmp_path / "out"
    assert main(["build-graphs", str(tmp_path / "x.csv"), "--fragments", "ccd_300", "--out", str(out)]) == 0
    record = open_dataset(out)[0]
    assert (record.ligand_chemistry, dict(record.metadata)["ligand_bonds"]) == (chemistry, "distances")
    noted = [json.loads(line) for line in (out / "repairs.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in noted] == ([] if hydrogens else ["orders-unknown"])


# --- More of the same kinds ---


def shifted(lines: list[str], *by: float) -> list[str]:
    moved_by = lambda text, at, d: f"{float(text[at : at + 8]) + d:8.3f}"  # noqa: E731
    return [
        text[:30] + "".join(moved_by(text, at, d) for at, d in zip((30, 38, 46), by, strict=True)) + text[54:]
        for text in lines
    ]


NUCLEOTIDE = [
    pdb_line(name, "  A", "A", 1, (9.0 + 0.9 * i, 4.2 + 0.4 * (i % 2), 2.0), name[0])
    for i, name in enumerate(("P", "O5'", "C5'", "C4'", "C3'", "O3'", "C2'", "O2'", "C1'", "N9", "C8", "N7"))
]


@pytest.mark.parametrize(
    ("chain", "number", "between"), [("A", 900, []), ("A", 2, ["TER"]), ("B", 1, []), ("B", 1, ["TER"])]
)
def test_a_free_nucleotide_as_atom(tmp_path: Path, chain: str, number: int, between: list[str]):
    """Among amino acids, or alone in its chain, with no bond to another one."""
    found = discover(tmp_path, [*peptide(), *between, *numbered(NUCLEOTIDE, number, chain)])
    assert found.ligands() == [("A", chain, str(number), "PL")]
    assert found.repairs == {"free-residue": 1}


@pytest.mark.parametrize(("chain", "number"), [("A", 7), ("A", 200), ("L", 1)])
def test_a_free_nucleotide_under_a_name_with_a_parent(tmp_path: Path, chain: str, number: int):
    """GDP is a modified G by the dictionary; as ATOM in a chain of amino acids it is a ligand still."""
    lines = shifted([f"{text[:17]}GDP{text[20:]}" for text in NUCLEOTIDE], 9.0, 0.0, 1.5)
    found = discover(tmp_path, peptide() + numbered(lines, number, chain))
    assert (found.ligands(), found.repairs) == ([("GDP", chain, str(number), "PL")], {})


def test_a_protein_written_as_hetatm(tmp_path: Path):
    """Where no residue is written as ATOM, HETATM says nothing."""
    protein, ligand = parts_of("s.pdb")
    found = discover(tmp_path, [text.replace("ATOM  ", "HETATM") for text in protein] + ligand)
    assert found.ligands() == [("LIG", "A", "1001", "PL")]


def test_members_of_a_chain_beside_gaps(tmp_path: Path):
    """What has members on both sides stands beside a gap, however it is numbered."""
    chain = peptide("GLY ALA SER LEU VAL GLY ALA SER LEU VAL GLY ALA SER LEU VAL GLY")
    number = lambda text: int(text[22:26])  # noqa: E731
    # 8 is numbered next to 7, and a loop is missing between them: the others do not show that it is too long.
    apart = [shifted([text], 6.0 * (number(text) > 7), 0.0, 6.0 * (number(text) == 8))[0] for text in chain]
    gap = [text for text in apart if number(text) not in (9, 10, 11)]
    # Kabat's numbers: 5, 6, 7, 8, 9, 10 are 27, 27A, 27B, 27C, 27D, 28.
    kabat = {5: "27 ", 6: "27A", 7: "27B", 8: "27C", 9: "27D"}
    kabat_number = lambda n: kabat.get(n, f"{n + 18 if n > 9 else n} ")  # noqa: E731
    lettered = [f"{text[:22]}{kabat_number(number(text)):>5}{text[27:]}" for text in chain]
    cut = [text for text in lettered if text[22:27].strip() not in ("27A", "27C")]
    ends = [text for text in lettered if text[22:27].strip() in ("27", "28", "29", "31", "32")]
    partner = shifted([f"{text[:21]}B{text[22:]}" for text in chain], 0.0, 0.0, 4.0)
    # Distant pieces of a chain in one pocket: 2 stands alone, and the others are 500 away.
    pocket = [text for text in chain if number(text) in (2, 5, 6, 8, 9, 11, 12)]
    shift = lambda text: number(text) + 500 * (number(text) > 2)  # noqa: E731
    far = [f"{text[:22]}{shift(text):4d}{text[26:]}" for text in pocket]
    # The last one of a file that was numbered anew, behind a short gap.
    last = [text for text in gap if number(text) < 9]
    for name, lines in (("gap", gap), ("cut", cut), ("ends", ends), ("far", far), ("last", last)):
        found = discover(tmp_path, [*lines, *partner], f"{name}.pdb")
        assert ([row["lig_code"] for row in found.rows], found.repairs) == ([""], {}), name
    # Without members beyond it, it is free.
    found = discover(tmp_path, last[:-6] + shifted(last[-6:], 8.0, 0.0, 0.0), "free.pdb")
    assert found.repairs == {"free-residue": 1}


def test_residues_of_polymers_by_any_name():
    """The column says what interfaces take them for."""
    names = ["GLY", "SEP", "HISD", "LYS+", "ala", "UNK", "VAL"]
    standard = ["GLY", "SER", "HIS", "LYS", "ALA", "LEU", "VAL"]
    renamed = dict(enumerate(names, start=1))
    lines = [f"{text[:17]}{renamed[int(text[22:26])]:<4}{text[21:]}" for text in peptide(" ".join(standard))]
    lines = [
        text for text in lines if text[17:20] != "LYS" or text[12:16].strip() in ("N", "CA", "C", "O", "CB")
    ]
    free = numbered(NUCLEOTIDE, 1, "L")
    structure = _prep.read_structure("\n".join([*lines, *free]).encode(), "pdb")
    found = dict(zip(structure.resname.tolist(), structure.block.tolist(), strict=True))
    expected = ["GLY", "SER", "HIS", "LYS", "ALA", "UNK", "VAL", ""]
    assert found == dict(zip([*names, "A"], expected, strict=True))
    assert np.array_equal(structure.polymer, structure.block != "")


def test_sequences_by_any_name(tmp_path: Path):
    """Chains are compared as the residues that interfaces take them for."""
    from atomica.prep import alike

    standard = peptide("GLY SER HIS LYS ALA LEU VAL " * 4)
    other = {"SER": "SEP", "HIS": "HISD", "LYS": "LYS+", "ALA": "ala"}
    lines = [f"{text[:17]}{other.get(text[17:20], text[17:20]):<4}{text[21:]}" for text in standard]
    base = numbered(NUCLEOTIDE, 900)  # free, no part of the sequence
    found = []
    for name, atoms in (("standard", standard), ("other", [*lines, *base])):
        (tmp_path / f"{name}.pdb").write_text("\n".join(atoms) + "\n")
        found.append(alike.sequences(tmp_path / f"{name}.pdb"))
    assert found == [{"A": alike.Chain("GSHKALV" * 4, nucleic=False)}] * 2


@pytest.mark.parametrize(
    ("name", "sugar", "kind", "block"),
    [
        ("U", "deoxy", "residue-unknown", "UNK"),
        ("URA", "deoxy", "residue-unknown", "UNK"),
        ("T", "ribose", "modified-residue", "RU"),
        ("DT", "ribose", "modified-residue", "RU"),
        ("THY", "ribose", "modified-residue", "RU"),
        ("U", "ribose", None, "RU"),
        ("T", "deoxy", None, "DT"),
    ],
)
def test_bases_with_the_other_sugar(tmp_path: Path, name: str, sugar: str, kind: str | None, block: str):
    lines = [f"{text[:17]}{name:>3}{text[20:]}" for text in shifted(NUCLEOTIDE, 0.0, 0.0, 1.0)]
    lines = [text for text in lines if sugar == "ribose" or "O2'" not in text]
    chain = [*numbered(lines, 1, "R"), *numbered(moved(lines, 6.1), 2, "R")]
    found = discover(tmp_path, [*peptide(), *peptide(chain="B", z=4.0), *chain])
    assert found.repairs == ({kind: 2} if kind else {})
    structure = _prep.read_structure(tmp_path / "x.pdb")
    assert set(structure.block[structure.chain == "R"].tolist()) == {block}


@pytest.mark.parametrize(("name", "expected"), [("SEC", "CYS"), ("PYL", "LYS")])
def test_amino_acids_beyond_the_twenty(tmp_path: Path, name: str, expected: str):
    found = discover(tmp_path, [text.replace("SER", name) for text in peptide()] + peptide(chain="B", z=4.0))
    assert found.repairs == {"modified-residue": 1}
    assert expected in {_prep.block_symbols()[int(kind)] for kind in found.records()[0].block_types}


def test_a_name_of_four_letters_is_no_chain(tmp_path: Path):
    """Of a single residue in a chain; chain ids of two letters are those of several."""
    lines = [f"{text[:17]}HISZ{text[21:]}" if "SER" in text else text for text in peptide()]
    found = discover(tmp_path, lines + peptide(chain="B", z=4.0))
    assert [(row["chain1"], row["chain2"]) for row in found.rows] == [("A", "B")]
    assert (np.asarray(found.records()[0].segment_ids) == 0).sum() == 7  # the global block as well


@pytest.mark.parametrize("letter", ["D", "Z"])
def test_names_of_four_letters_among_plain_ones_are_no_chain(tmp_path: Path, letter: str):
    """Deprotonated residues of CHARMM, and others: they are bonded to the plain ones of the chain."""
    among = peptide("GLY CYS ALA SER VAL")
    odd = [f"{text[:20]}{letter}{text[21:]}" if text[17:20] in ("CYS", "SER") else text for text in among]
    found = discover(tmp_path, odd + peptide(chain="B", z=4.0))
    assert [(row["chain1"], row["chain2"]) for row in found.rows] == [("A", "B")]
    assert "chain-two-letters" not in found.repairs
    # A chain of its own, not bonded to the one whose letter it shares.
    own = [f"{text[:20]}ZA{text[22:]}" for text in peptide(z=4.0)]
    found = discover(tmp_path, peptide() + own, "own.pdb")
    assert [(row["chain1"], row["chain2"]) for row in found.rows] == [("A", "ZA")]
    assert found.repairs == {"chain-two-letters": 1}


@pytest.mark.parametrize("start", ["ATOM\t1  N", "ATOM\t      1  N", "ATOM      1\tN"])
def test_tabs_in_columns_are_refused(start: str):
    text = "\n".join(peptide()).replace("ATOM      1  N", start, 1)
    with pytest.raises(_prep.StructureError, match="line 1, column (5|12): a tab"):
        _prep.read_structure(text.encode(), "pdb")


def test_serial_numbers_of_six_digits():
    """They begin in column 6; nothing else is moved. Words without columns are refused."""
    lines = [f"ATOM {100000 + i:6d}{text[11:]}" for i, text in enumerate(peptide())]
    structure = _prep.read_structure("\n".join([*peptide(chain="B"), *lines]).encode(), "pdb")
    assert len(structure) == structure.accounts["records"] == 2 * len(lines)
    with pytest.raises(_prep.StructureError, match="line 29"):
        _prep.read_structure("\n".join([*lines, "ATOM 1 N GLY A 1 1.0 2.0 3.0"]).encode(), "pdb")


@pytest.mark.parametrize("named", ["pdb", "cif", "bcif", "mol2", "pdb.gz"])
@pytest.mark.parametrize("text", ["s.pdb", "biotite_written.cif", "biotite_ligand_chain.bcif"])
def test_a_structure_under_the_name_of_another_format(text: str, named: str):
    content = (FIELD / text).read_bytes()
    expected = _prep.read_structure(FIELD / text)
    structure = _prep.read_structure(gzip.compress(content) if named.endswith("gz") else content, named)
    assert np.array_equal(structure.x, expected.x)
    assert repairs(structure) == repairs(expected)


def test_residue_numbers_of_five_digits():
    lines = [f"{text[:22]}{int(text[22:26]) + 12000:5d}{text[27:]}" for text in parts_of("s.pdb")[0]]
    structure = _prep.read_structure("\n".join(lines).encode(), "pdb")
    assert (int(structure.resnum.min()), set(structure.icode)) == (12057, {""})
    assert set(repairs(structure)) == {"number-five-digits"}


def test_residue_numbers_that_end_in_column_27():
    """A digit there is part of the number if the whole file has one there, else an insertion code."""
    protein, ligand = parts_of("s.pdb")
    lines = [f"{text[:22]} {text[22:26]}{text[27:]}" for text in protein + ligand]
    structure = _prep.read_structure("\n".join(lines).encode(), "pdb")
    expected = _prep.read_structure("\n".join(protein + ligand).encode(), "pdb")
    assert np.array_equal(structure.resnum, expected.resnum)
    assert (set(structure.icode), set(repairs(structure))) == ({""}, {"number-five-digits"})
    one = [f"{text[:26]}7{text[27:]}" for text in protein[:3]]
    structure = _prep.read_structure("\n".join([*one, *protein[3:]]).encode(), "pdb")
    assert (set(structure.icode), repairs(structure)) == ({"", "7"}, {})


@pytest.mark.parametrize("step", ["A010", "A00G"])
def test_numbers_with_letters_are_hexadecimal_or_hybrid(step: str):
    """OpenMM goes on from A00F to A010, hybrid-36 to A00G."""
    written = ["9999", *(f"A{n:03X}" for n in range(16)), step, "A020"]
    places = [(4.0 * n, 0.0, 0.0) for n in range(len(written))]
    lines = [pdb_line("CA", "GLY", "A", 0, place, "C") for place in places]
    lines = [f"{text[:22]}{number}{text[26:]}" for text, number in zip(lines, written, strict=True)]
    structure = _prep.read_structure("\n".join(lines).encode(), "pdb")
    last = 10_000 + (0x20 if step == "A010" else 2 * 36)
    assert structure.resnum.tolist() == [*range(9999, 10_017), last]
    assert set(repairs(structure)) == {"number-hexadecimal" if step == "A010" else "number-hybrid36"}


def test_atom_names_of_five_letters():
    """They reach into the column of alternate locations, but are bonded to one another as these are not."""
    protein, _ = parts_of("s.pdb")
    ligand = []
    for n in range(12):
        atom = pdb_line(f"C1{n // 4}A", "LIG", "A", 999, (1.3 * n, 0.7 * (n % 2), 0.0), "C", "HETATM")
        ligand.append(f"{atom[:16]}{n % 4 + 1}{atom[17:]}")
    structure = _prep.read_structure("\n".join(protein + ligand).encode(), "pdb")
    names = [str(name) for name in structure.atom_name[structure.hetero]]
    assert names == [f"C1{n // 4}A{n % 4 + 1}" for n in range(12)]
    assert repairs(structure) == {"name-five-letters": 1}
    places = [[(1.3 * n, 0.7 * (n % 2) + away, 0.0) for n in range(12)] for away in (0.0, 1.6)]
    located = [
        (lambda atom: f"{atom[:16]}{letter}{atom[17:]}")(
            pdb_line(f"C{101 + n}", "LIG", "A", 999, place, "C", "HETATM")
        )
        for letter, location in zip("12", places, strict=True)
        for n, place in enumerate(location)
    ]
    structure = _prep.read_structure("\n".join(protein + located).encode(), "pdb")
    assert (structure.accounts["other-location"], repairs(structure)) == (12, {})


@pytest.mark.parametrize("place", ["   0.000   0.000   0.000", "9999.0009999.0009999.000"])
def test_atoms_without_a_place(tmp_path: Path, place: str):
    protein, ligand = parts_of("s.pdb")
    lines = [f"{text[:30]}{place}{text[54:]}" if i < 3 else text for i, text in enumerate(ligand)]
    structure = _prep.read_structure("\n".join(protein + lines).encode(), "pdb")
    assert (repairs(structure), structure.accounts["no-place"]) == ({"no-place": 3}, 3)
    assert len(structure) == len(protein + ligand) - 3
    assert adds_up(structure.accounts)
    found = discover(tmp_path, protein + [f"{text[:30]}{place}{text[54:]}" for text in ligand])
    assert (found.rows, found.repairs) == ([], {"no-place": 57})


@pytest.mark.parametrize("interleaved", [False, True])
def test_two_components_in_one_place(tmp_path: Path, interleaved: bool):
    """Microheterogeneity without letters: the first is kept."""
    chain = peptide()
    one = [text for text in chain if "SER" in text]
    other = [text.replace("SER", "THR") for text in one]
    both = [text for pair in zip(one, other, strict=True) for text in pair] if interleaved else one + other
    at = chain.index(one[0])
    lines = [*chain[:at], *both, *chain[at + len(one) :], *peptide(chain="B", z=4.0)]
    found = discover(tmp_path, lines)
    assert found.repairs["copies-overlap"] == 1
    assert "THR" not in {_prep.block_symbols()[int(kind)] for kind in found.records()[0].block_types}


def test_names_that_stand_too_far_left(tmp_path: Path):
    """A chain of atoms named like metals, without elements; a chlorine and a true metal beside them."""
    names = ["CA", "CD", "NE", "CO", "OS", "NA", "CL1", "PB"]
    lines = [
        f"HETATM{i:5d} {name:<4} LIG A   1    {47 + 1.4 * i:8.3f}{14:8.3f}{16:8.3f}"
        for i, name in enumerate(names)
    ]
    lines.append(f"HETATM{9:5d} {'ZN':<4} LIG A   1    {47:8.3f}{16.1:8.3f}{16:8.3f}")
    _, out = ligand_file(tmp_path, "l.pdb", "\n".join(lines) + "\n")
    assert atoms_of_the_ligand(out) == ["C", "C", "N", "C", "O", "N", "Cl", "P", "Zn"]


def pdbqt(*atoms: tuple[str, str]) -> str:
    return "".join(
        f"HETATM{i:5d}  {name:<3} LIG L   1    {46 + 1.4 * i:8.3f}{14:8.3f}{16:8.3f}  1.00  0.00    +0.000 {kind}\n"
        for i, (name, kind) in enumerate(atoms, start=1)
    )


def test_pseudo_atoms_of_autodock(tmp_path: Path):
    """Glue of rings, hydrating water; a type that is none is told."""
    atoms = [("C1", "A"), ("C2", "CG0"), ("G1", "G0"), ("W", "W"), ("N", "NA"), ("H", "HD")]
    _, out = ligand_file(tmp_path, "l.pdbqt", pdbqt(*atoms))
    assert atoms_of_the_ligand(out) == ["C", "C", "N"]
    noted = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    assert [(entry["kind"], entry["count"]) for entry in noted] == [("no-atom", 2)]
    _, out = ligand_file(tmp_path, "m.pdbqt", pdbqt(("C1", "A"), ("O", "Xy"), ("C2", "C")))
    noted = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    assert [entry["kind"] for entry in noted] == ["element-guessed"]


def test_a_pose_with_its_receptor(tmp_path: Path):
    """The receptor is left out of the ligand's file; a peptide is a ligand."""
    _, out = ligand_file(tmp_path, "l.pdb", (FIELD / "s.pdb").read_text())
    assert len(atoms_of_the_ligand(out)) == 57
    noted = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    assert [(entry["kind"], entry["count"]) for entry in noted] == [("outside-ligand", 142)]
    near = shifted(peptide("GLY ALA"), 42.0, 14.0, 16.0)
    _, out = ligand_file(tmp_path, "p.pdb", "\n".join(near) + "\n")
    assert len(atoms_of_the_ligand(out)) == 9


def flat(text: str, mark: str) -> str:
    """An SDF with this mark for its dimensions, and z of 0."""
    head, program, *rest = text.splitlines()
    rest = [f"{row[:20]}{0:10.4f}{row[30:]}" if row[31:32].isalpha() else row for row in rest]
    return "\n".join([head, f"{program:<20.20}{mark}", *rest]) + "\n"


@pytest.mark.parametrize("mark", ["2D", "3D"])
def test_drawings_are_no_structures(tmp_path: Path, mark: str):
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    molecule = Chem.MolFromSmiles("CCOc1ccccc1")
    text = Chem.MolToMolBlock(molecule)
    code, out = ligand_file(tmp_path, "none.sdf", text)  # all of its atoms are at the origin
    assert json.loads((out / "failures.jsonl").read_text())["code"] == "BadRecords"
    rdDepictor.Compute2DCoords(molecule)
    code, out = ligand_file(tmp_path, "flat.sdf", flat(Chem.MolToMolBlock(molecule), mark))
    told = json.loads((out / "failures.jsonl").read_text())["code"]
    assert (code, told) == (3, {"2D": "BadRecords", "3D": "NoInterface"}[mark])


def test_a_delimiter_is_a_whole_line(tmp_path: Path):
    text = (FIELD / "nohdr.sdf").read_text().replace("  3  1", "t\n\n\n  3  1", 1)
    text = text.replace("$$$$", "> <note>\n$$$$ of cost\n\n$$$$")
    _, out = ligand_file(tmp_path, "l.sdf", text)
    assert noted_of(out) == {"bonds-missing": 1}


@pytest.mark.parametrize(
    ("component", "atom", "expected"), [("IP", "NA", "Na"), ("IM", "CL", "Cl"), ("IP", "IP", "Na")]
)
def test_old_names_of_ions(component: str, atom: str, expected: str):
    text = pdb_line(atom, component, "I", 1, (1.0, 2.0, 3.0), "", "HETATM")
    structure = _prep.read_structure(text.encode(), "pdb")
    assert _prep.atom_symbols()[2 + int(structure.element[0])] == expected


def test_water_of_drude_models(tmp_path: Path):
    names = [("OH2", "O"), ("OM", ""), ("LP", ""), ("H1", "H"), ("H2", "H")]
    water = [
        pdb_line(n, "SWM4", "W", 1, (8 + 0.3 * i, 4.5, 2), e, "HETATM") for i, (n, e) in enumerate(names)
    ]
    assert discover(tmp_path, peptide() + water).rows == []


def test_a_mol2_that_is_cut_off(tmp_path: Path):
    text = mol2(("C1", "C.3"), ("N1", "N.3")).replace("0 0\n", "3 1\n")
    code, out = ligand_file(tmp_path, "l.mol2", text)
    assert code == 3
    assert "3 atoms are announced, and 2" in (out / "failures.jsonl").read_text()


def test_a_nucleotide_by_its_base(tmp_path: Path, shared: Path):
    """GTP that begins an RNA is a G of it."""
    lines = (
        gzip.decompress((shared / "data/parser/rna_tools__1ehz.pdb.gz").read_bytes()).decode().splitlines()
    )
    lines = [text for text in lines if text.startswith("ATOM") and int(text[22:26]) < 4]
    place = tuple(float(lines[3][at : at + 8]) + 2.0 for at in (30, 38, 46))
    lines = [f"{text[:17]}GTP{text[20:]}" if text[25] == "1" else text for text in lines]
    found = discover(tmp_path, [*lines, pdb_line("MG", "MG", "M", 1, place, "MG", "HETATM")])
    assert found.repairs == {"residue-by-atoms": 1}
    free = [f"{text[:17]}GTP B{text[22:]}" for text in lines if text[17:20] == "GTP"]
    x, y, z = (float(free[0][at : at + 8]) for at in (30, 38, 46))
    near = discover(tmp_path, [*shifted(peptide(), x - 9.0, y - 3.5, z + 2.0), *free], "free.pdb")
    assert near.ligands() == [("GTP", "B", "1", "PL")]


@pytest.mark.parametrize("damage", ["  6.0x000", "         "])
def test_a_damaged_operator_makes_no_assembly(tmp_path: Path, damage: str):
    text = REMARK_350.replace("  6.00000", damage) + "\n".join(peptide())
    with pytest.raises(_prep.StructureError, match="none that can be made"):
        _prep.read_structure(text.encode(), "pdb", assembly="1")


def test_indexes_of_spreadsheets(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Empty columns behind the others; numbers with their letter; a packed file."""
    row = f"x,{FIELD / 's.pdb'},A,A,LIG,1001"
    (tmp_path / "x.csv").write_text(
        f"id,path,chain1,chain2,lig_code,lig_resnum,,\n{row},,\n{row.replace('x', 'y', 1)},,,\n"
    )
    built(tmp_path / "out", str(tmp_path / "x.csv"))
    assert ids(tmp_path / "out") == ["x", "y"]
    (tmp_path / "y.csv").write_text(f"id,path,chain1,chain2,lig_code,lig_resnum\n{row}A\n")
    built(tmp_path / "letter", str(tmp_path / "y.csv"), code=3)
    assert "lig_icode" in (tmp_path / "letter/failures.jsonl").read_text()
    (tmp_path / "z.csv").write_bytes(gzip.compress(b"id,path\n"))
    assert _prep.run(["build-graphs", str(tmp_path / "z.csv"), "--out", str(tmp_path / "z")]) == 2
    assert "packed" in capfd.readouterr().err


def test_a_tie_in_two_digits(tmp_path: Path):
    """0.498 and 0.502 of mmCIF are 0.50 and 0.50 in the PDB file: both give the first location, one says so."""
    lines = [
        pdb_line(name, "LIG", "A", 1, (x, 4.0, 1.0), name[0], "HETATM")
        for name, x in (("C1", 8.0), ("C2", 9.4), ("O1", 10.6))
    ]
    letter = lambda text, a, occupancy: f"{text[:16]}{a}{text[17:54]}{occupancy:6.2f}{text[60:]}"  # noqa: E731
    both = [letter(text, a, 0.5) for text in lines for a in "AB"]
    both = [f"{x[:30]}{float(x[30:38]) + 0.3 * (x[16] == 'B'):8.3f}{x[38:]}" for x in both]
    pdb = _prep.read_structure("\n".join(both).encode(), "pdb")
    rows = [
        f"HETATM {i} {x[76:78]} {x[12:16]} {x[16]} LIG A 1 {x[30:54]} {0.498 if x[16] == 'A' else 0.502}"
        for i, x in enumerate(both)
    ]
    columns = "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id auth_asym_id auth_seq_id"
    columns = [*columns.split(), "Cartn_x", "Cartn_y", "Cartn_z", "occupancy"]
    text = "data_x\nloop_\n" + "".join(f"_atom_site.{c}\n" for c in columns) + "\n".join(rows) + "\n"
    cif = _prep.read_structure(text.encode(), "cif")
    assert np.allclose(pdb.x, cif.x)
    assert np.allclose(pdb.x[:, 0], [8.0, 9.4, 10.6])
    assert (repairs(pdb), repairs(cif)) == ({}, {"altloc-tie": 1})


@pytest.mark.parametrize(
    ("smiles", "chemistry"),
    [
        ("CC(=O)Nc1ccc(O)cc1", "perceived"),
        ("O=C1NC(=O)C=C1", "perceived"),
        ("OCC#CCN", "perceived"),
        ("Cc1ccccc1", "atoms"),  # no hydrogen is polar, so nothing tells that hydrogens are left out
    ],
)
def test_orders_from_polar_hydrogens(tmp_path: Path, smiles: str, chemistry: str):
    """Those of carbon are inferred, and told; the blocks are those of the SDF."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    from atomica import open_dataset
    from atomica.prep.command import main

    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(molecule)
    nonpolar = [
        atom.GetIdx()
        for atom in molecule.GetAtoms()
        if atom.GetAtomicNum() == 1 and atom.GetNeighbors()[0].GetAtomicNum() == 6
    ]
    kinds = {"H": "HD", "O": "OA", "N": "NA"}
    rows = []
    for atom in molecule.GetAtoms():
        if atom.GetIdx() not in nonpolar:
            p, symbol = molecule.GetConformer().GetAtomPosition(atom.GetIdx()), atom.GetSymbol()
            rows.append(
                f"HETATM{len(rows) + 1:5d}  {symbol}{len(rows):<2} LIG L   1    {p.x:8.3f}{p.y:8.3f}{p.z:8.3f}"
                f"  1.00  0.00    +0.000 {kinds.get(symbol, symbol)}"
            )
    (tmp_path / "l.pdbqt").write_text("\n".join(rows) + "\n")
    (tmp_path / "l.sdf").write_text(Chem.MolToMolBlock(molecule) + "$$$$\n")
    (tmp_path / "p.pdb").write_text("\n".join(peptide(z=4.0)) + "\n")
    (tmp_path / "x.csv").write_text("id,path,chain1,ligand_path\na,p.pdb,A,l.pdbqt\nb,p.pdb,A,l.sdf\n")
    out = tmp_path / "out"
    assert main(["build-graphs", str(tmp_path / "x.csv"), "--fragments", "ccd_300", "--out", str(out)]) == 0
    ours, theirs = (open_dataset(out)[i] for i in range(2))
    assert (ours.ligand_chemistry, theirs.ligand_chemistry) == (chemistry, "bonds")
    noted = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    expected = {"perceived": "hydrogens-inferred", "atoms": "orders-unknown"}[chemistry]
    assert [entry["kind"] for entry in noted] == [expected]
    if chemistry == "perceived":
        assert sorted(ours.block_types) == sorted(theirs.block_types)


# --- What was met in trying programs one by one ---


def nameless(lines: list[str]) -> list[str]:
    """As Open Babel writes them: each atom is called by its element."""
    return [f"{text[:12]} {text[76:78].strip():<3}{text[16:]}" for text in lines]


@pytest.mark.parametrize("poses", [2, 3])
def test_copies_whose_atoms_have_no_names_of_their_own(tmp_path: Path, poses: int):
    protein, ligand = parts_of("s.pdb")
    ligand = nameless(ligand)
    away = [text for i in range(1, poses) for text in shifted(ligand, 0.0, 20.0 * i, 0.0)]
    found = discover(tmp_path, protein + ligand + away, "copies.pdb")
    assert found.repairs == {"copies-parted": 1}
    assert found.rows[0]["lig_copy"] == "1"
    assert (np.asarray(found.records()[0].segment_ids) == 1).sum() == 58
    near = [text for i in range(1, poses) for text in shifted(ligand, 0.3 * i, 0.3 * i, 0.0)]
    found = discover(tmp_path, protein + ligand + near, "poses.pdb")
    assert found.repairs == {"copies-overlap": poses - 1}
    assert (np.asarray(found.records()[0].segment_ids) == 1).sum() == 58
    assert discover(tmp_path, protein + ligand, "one.pdb").repairs == {}


@pytest.mark.parametrize(
    ("name", "atoms", "expected", "kind"),
    [
        ("CYT", "SG", "CYS", "residue-by-atoms"),  # of Maestro, and cytosine elsewhere
        ("NLN", "CG OD1 ND2", "ASN", "force-field-name"),  # of GLYCAM, and an amide of norleucine elsewhere
        ("NLN", "CG CD CE NH2", "LEU", "modified-residue"),
        ("OLS", "OG", "SER", "force-field-name"),
        ("S1P", "OG P O1P O2P O3P", "SER", "force-field-name"),  # of Amber
        ("T1P", "OG1 CG2 P O1P O2P O3P", "THR", "force-field-name"),
    ],
)
def test_names_that_mean_two_things(tmp_path: Path, name: str, atoms: str, expected: str, kind: str):
    lines = [text.replace("SER", name) for text in peptide()]
    at = max(i for i, text in enumerate(lines) if name in text) + 1
    x, y, z = 12.3, 3.6, 0.4
    more = [(atom, (x + 0.9 * i, y + 1.2 * i, z)) for i, atom in enumerate(atoms.split())]
    lines[at:at] = [pdb_line(atom, name, "A", 3, place, atom[0]) for atom, place in more]
    found = discover(tmp_path, lines + peptide(chain="B", z=4.0))
    assert found.repairs == {kind: 1}
    record = found.records()[0]
    kinds = zip(record.block_types, record.block_components, strict=True)
    assert [_prep.block_symbols()[int(k)] for k, component in kinds if component == name] == [expected]


@pytest.mark.parametrize("hydrogen", [True, False])
def test_the_hydroxyl_at_the_end_of_a_sugar_is_no_water(tmp_path: Path, hydrogen: bool):
    """ROH of GLYCAM is a residue of its own, bonded to the sugar after it."""
    place = lambda x, y: (9.0 + x, 4.5 + y, 1.5)  # noqa: E731
    lines = [pdb_line("O1", "ROH", "S", 1, place(0, 0), "O", "HETATM")]
    if hydrogen:
        lines.append(pdb_line("HO1", "ROH", "S", 1, place(-0.8, 0.5), "H", "HETATM"))
    sugar = [("C1", 1.4, 0), ("O5", 2.2, 1.2), ("C2", 2.1, -1.3), ("C3", 3.6, -1.2)]
    lines += [pdb_line(name, "0GB", "S", 2, place(x, y), name[0], "HETATM") for name, x, y in sugar]
    found = discover(tmp_path, peptide() + lines)
    assert [(r["lig_members"], r["modality"]) for r in found.rows] == [("S:1 S:2", "PL")]
    assert found.repairs == {}
    assert (np.asarray(found.records()[0].segment_ids) == 1).sum() == 6


def test_a_peptide_as_hetatm_under_the_name_of_its_receptor(tmp_path: Path):
    """Bonded to nothing else, numbered and placed where the chain cannot be: a ligand of several residues."""
    free = shifted(peptide("GLY ALA SER"), 3.0, 3.5, 3.5)
    for number, expected in ((901, [("GLY", "A", "901", "PL")]), (7, [("GLY", "A", "7", "PL")])):
        lines = [f"HETATM{text[6:22]}{int(text[22:26]) + number - 1:4d}{text[26:]}" for text in free]
        found = discover(tmp_path, peptide() + lines, f"{number}.pdb")
        assert found.ligands() == expected
        assert found.rows[0]["lig_members"] == " ".join(f"A:{number + i}" for i in range(3))
        assert found.repairs == {"free-residue": 3}
    # The same residues where the chain lacks them.
    chain = peptide("GLY ALA SER LEU VAL GLY ALA SER")
    inner = [f"HETATM{text[6:]}" if 3 <= int(text[22:26]) <= 5 else text for text in chain]
    apart = [moved([text], 0.9 * ((int(text[22:26]) > 2) + (int(text[22:26]) > 5)))[0] for text in inner]
    for name, lines in (("inner", inner), ("apart", apart)):
        found = discover(tmp_path, lines + peptide(chain="B", z=4.0), f"{name}.pdb")
        assert ("free-residue" in found.repairs, [r["lig_code"] for r in found.rows]) == (False, [""]), name


def receptor_pdbqt(lines: list[str]) -> str:
    kinds = {"O": "OA", "S": "SA", "CL": "Cl", "FE": "Fe", "BR": "Br"}
    typed = [(text, text[76:78].strip().upper()) for text in lines]
    return "".join(f"{text[:66]}    {0.1:+6.3f} {kinds.get(e, e.title()):<2}\n" for text, e in typed)


@pytest.mark.parametrize("name", ["r.pdbqt", "r.pdb"])
def test_structures_in_pdbqt(tmp_path: Path, name: str):
    """Types of AutoDock are no elements: Cl ends where PDB has a carbon, Fe where it has fluorine."""
    protein, ligand = parts_of("s.pdb")
    ligand = [f"{text[:76]}{('CL', 'BR', 'FE')[i]}" if i < 3 else text for i, text in enumerate(ligand)]
    (tmp_path / name).write_text(receptor_pdbqt(protein + ligand) + "TER\n")
    plain = _prep.read_structure("\n".join(protein + ligand).encode(), "pdb")
    for strict in (False, True):
        structure = _prep.read_structure(tmp_path / name, strict=strict)
        for column in ("element", "chain", "resname", "atom_name", "x"):
            assert np.array_equal(getattr(structure, column), getattr(plain, column)), column
        assert repairs(structure) == {}
    out = tmp_path / "out"
    command = ["build-graphs", "--receptor", str(tmp_path / name), "--ligands", str(FIELD / "lig.pdbqt")]
    assert _prep.run([*command, "--out", str(out)]) == 0
    assert ids(out) == ["x"]


def test_receptors_in_pdbqt_beside_their_ligands(tmp_path: Path):
    protein, _ = parts_of("recep.pdb")
    data = tmp_path / "data"
    data.mkdir()
    (data / "1abc_receptor.pdbqt").write_text(receptor_pdbqt(protein))
    for name in ("1abc_ligand.pdbqt", "other.pdbqt"):
        (data / name).write_text((FIELD / "lig.pdbqt").read_text())
    found = Found(tmp_path / "out", data)
    assert [(r["id"], Path(r["path"]).name) for r in found.rows] == [("1abc_ligand", "1abc_receptor.pdbqt")]
    (data / "1abc_receptor.pdb").write_text("\n".join(protein) + "\n")
    found = Found(tmp_path / "again", data)
    assert [Path(r["path"]).name for r in found.rows] == ["1abc_receptor.pdb"]


@pytest.mark.parametrize("name", ["l.pdb", "l.pdbqt"])
@pytest.mark.parametrize("typed", [True, False])
def test_elements_of_ligands_in_pdb_and_pdbqt_under_either_name(tmp_path: Path, name: str, typed: bool):
    atoms = [("C1", "C"), ("CL1", "CL"), ("BR1", "BR"), ("C2", "C"), ("N1", "N")]
    lines = [
        pdb_line(atom, "LIG", "L", 1, (46 + 1.4 * i, 14, 16), element, "HETATM")
        for i, (atom, element) in enumerate(atoms)
    ]
    _, out = ligand_file(tmp_path, name, receptor_pdbqt(lines) if typed else "\n".join(lines) + "\n")
    assert atoms_of_the_ligand(out) == ["C", "Cl", "Br", "C", "N"]


def test_lone_pairs_of_structures_and_ligands(tmp_path: Path):
    """As models of CHARMM have them, of Drude's kind and at halogens; bonds stay those of CONECT."""
    pairs = [f"{text[:12]} LPA{text[16:76]}" for text in peptide() if text[12:16] == " O  "]
    structure = _prep.read_structure("\n".join([*peptide(), *pairs]).encode(), "pdb")
    assert (len(structure), structure.accounts["no-atom"]) == (28, 6)
    assert adds_up(structure.accounts)
    assert repairs(structure)["no-atom"] == 6
    names = ("C1", "CL1", "LP1")
    lines = [pdb_line(name, "LIG", "L", 1, (46 + 1.7 * i, 14, 16)) for i, name in enumerate(names)]
    lines = [f"{text[:6]}{serial:5d}{text[11:]}" for serial, text in enumerate(lines, start=1)]
    _, out = ligand_file(
        tmp_path, "l.pdb", "\n".join([*lines, "CONECT    1    2", "CONECT    2    1    3"]) + "\n"
    )
    assert atoms_of_the_ligand(out) == ["C", "Cl"]
    noted = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    assert ("no-atom", 1) in [(entry["kind"], entry["count"]) for entry in noted]
    from atomica import open_dataset

    record = open_dataset(out)[0]
    assert (dict(record.metadata)["ligand_bonds"], len(record.bond_orders)) == ("conect", 1)


@pytest.mark.parametrize(
    ("name", "distance", "expected"),
    [(" CL1", 1.74, "Cl"), (" BR1", 1.9, "Br"), (" CL1", 1.5, "C"), ("CL1 ", 1.74, "Cl")],
)
def test_halogens_a_column_too_far_right(tmp_path: Path, name: str, distance: float, expected: str):
    """Without elements, as CHARMM writes them: their bond tells."""
    lines = [pdb_line("C1", "LIG", "L", 1, (46, 14, 16)), pdb_line("C2", "LIG", "L", 1, (44.6, 14, 16))]
    lines.append(f"{pdb_line('X', 'LIG', 'L', 1, (46 + distance, 14, 16))[:12]}{name}{lines[0][16:]}")
    lines[-1] = f"{lines[-1][:30]}{46 + distance:8.3f}{lines[-1][38:]}"
    _, out = ligand_file(tmp_path, "l.pdb", "\n".join(lines) + "\n")
    assert atoms_of_the_ligand(out) == ["C", "C", expected]


@pytest.mark.parametrize("start", [" ", "\x1b[?1034h", "> "])
@pytest.mark.parametrize("at", [0, 5])
def test_atom_lines_that_begin_late_are_refused(start: str, at: int):
    """Not passed over: the first atom of a file would be gone."""
    lines = peptide()
    lines[at] = start + lines[at]
    with pytest.raises(_prep.StructureError, match=f"line {at + 1}, .*begins in column {len(start) + 1}"):
        _prep.read_structure("\n".join(lines).encode(), "pdb")
    assert len(_prep.read_structure("\n".join(["REMARK ATOM", *peptide()]).encode(), "pdb")) == 28


def test_columns_moved_by_something_else_than_an_id():
    """The name of an atom that is too long: no chain id is blamed."""
    text = peptide()[1].replace(" CA  GLY", " CA100 GLY")
    with pytest.raises(_prep.StructureError, match="2 columns too far right: something in") as raised:
        _prep.read_structure(text.encode(), "pdb")
    assert "chain id" not in str(raised.value)


def mmcif(lines: list[str]) -> bytes:
    """Lines of a PDB file as a table."""
    columns = (
        "group_PDB type_symbol label_atom_id label_comp_id label_asym_id label_seq_id Cartn_x Cartn_y Cartn_z"
    )
    rows = [
        " ".join(
            text[first:last].strip() or "?"
            for first, last in (
                (0, 6),
                (76, 78),
                (12, 16),
                (17, 20),
                (21, 22),
                (22, 26),
                (30, 38),
                (38, 46),
                (46, 54),
            )
        )
        for text in lines
    ]
    return "\n".join(["data_x", "loop_", *(f"_atom_site.{name}" for name in columns.split()), *rows]).encode()


def elements(structure: _prep.Structure) -> list[str]:
    return [_prep.atom_symbols()[2 + int(number)] if number else "X" for number in structure.element]


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_elements_that_are_the_first_letters_of_names(form: str):
    """Calcium for alpha carbons, sodium for nitrogens of haem; true metals are not as near to their neighbours."""
    named = [f"{text[:76]}{text[12:15].strip()[:2]:>2}" for text in peptide()]
    haem = [("FE", "FE", 0.0), ("NA", "NA", 2.0), ("C1A", "C", 3.4), ("ND", "ND", 4.8), ("C4D", "C", 6.2)]
    true = [("CA", "CA", 9.0), ("O1", "O", 11.4), ("PD", "PD", 13.4), ("C2", "C", 15.38), ("HG", "HG", 17.4)]
    others = [
        pdb_line(name, "LIG", "L", 1, (x, 40.0, 0.0), element, "HETATM") for name, element, x in haem + true
    ]
    hydrogen = pdb_line("HG", "SER", "A", 3, (9.0, 9.0, 9.0), "HG")
    lines = [*named[:14], hydrogen, *named[14:], *others]
    structure = _prep.read_structure("\n".join(lines).encode() if form == "pdb" else mmcif(lines), form)
    expected = [text[12:16].strip()[0] for text in lines[:29]]
    assert elements(structure) == [*expected, "Fe", "N", "C", "N", "C", "Ca", "O", "Pd", "C", "Hg"]
    assert repairs(structure)["element-guessed"] >= 9
    # Locations of one ion are as near to each other as they like, and antimony to carbon in a poor model.
    ion = [pdb_line("CA", "CA", "B", 1, (9.0 + 0.4 * i, 9.0, 9.0), "CA", "HETATM") for i in range(2)]
    ion = [f"{text[:16]}{letter}{text[17:]}" for text, letter in zip(ion, "AB", strict=True)]
    poor = [pdb_line("SB", "118", "B", 2, (20.0, 9.0, 9.0), "SB", "HETATM")]
    poor += [pdb_line(f"C{i}", "118", "B", 2, (20.0 + 1.73 * i, 9.0, 9.0), "C", "HETATM") for i in (-1, 1)]
    structure = _prep.read_structure("\n".join(ion + poor).encode(), "pdb")
    assert (elements(structure), repairs(structure)) == (["Ca", "Sb", "C", "C"], {})


@pytest.mark.parametrize(
    ("component", "atoms", "element"),
    [
        ("DUM", "N O", ""),
        ("STP", "POL APOL", "Ve"),
        ("XXX", "ORIG X Y", "X"),
        ("MEM", "THKN CNTR NORM", "X"),
        ("MMB", "BJ", "BJ"),
        ("ANI", "X Y Z OO", ""),
        ("PSD", "PS1", "PS"),
        ("SPH", "C", ""),
        ("LIG", "A1", "Du"),
    ],
)
def test_what_programs_write_beside_a_structure(tmp_path: Path, component: str, atoms: str, element: str):
    """Membranes, spheres and axes are no ligands; molecules that bear their names are."""
    marks = [
        pdb_line(name, component, "M", 1, (5.0 + 1.5 * i, 3.0, 0.0), element, "HETATM")
        for i, name in enumerate(atoms.split())
    ]
    found = discover(tmp_path, peptide() + marks)
    assert found.ligands() == []
    assert found.repairs["no-atom"] == len(marks)
    ligand = [
        pdb_line(f"C{i}", component, "M", 1, (5.0 + 1.5 * i, 3.0, 0.0), "C", "HETATM") for i in range(4)
    ]
    structure = _prep.read_structure("\n".join(peptide() + ligand).encode(), "pdb")
    assert len(structure) == 28 + 4


@pytest.mark.parametrize("form", ["pdb", "cif"])
@pytest.mark.parametrize(
    ("name", "element"),
    [("QB", ""), ("QQG", ""), ("MCB1", ""), ("NV", "X"), ("NV", ""), ("pseu", "PS")],
)
def test_sites_within_residues(form: str, name: str, element: str):
    sites = [pdb_line(name, "ALA", "A", 2, (8.6, 2.6 + i, 0.5), element) for i in range(2)]
    lines = peptide()[:9] + sites + peptide()[9:]
    structure = _prep.read_structure("\n".join(lines).encode() if form == "pdb" else mmcif(lines), form)
    assert (len(structure), structure.accounts["no-atom"]) == (28, 2)
    assert adds_up(structure.accounts)
    ligand = [
        pdb_line(name, "LIG", "L", 1, (0.0, 1.4 * i, 0.0), "C") for i, name in enumerate(("QB", "NV", "C"))
    ]
    assert len(_prep.read_structure("\n".join(ligand).encode(), "pdb")) == 3


@pytest.mark.parametrize(
    ("component", "atom", "element"),
    [
        ("NA1", "NA+1", "Na"),
        ("CS1", "CS+1", "Cs"),
        ("HO3", "HO+3", "Ho"),
        ("F1", " F-1", "F"),
        ("CA+", " CA", "Ca"),
    ],
)
def test_ions_with_their_charges(component: str, atom: str, element: str):
    text = f"HETATM    1 {atom:<4} {component:>3} B   1    {1:8.3f}{2:8.3f}{3:8.3f}  1.00  0.00"
    assert elements(_prep.read_structure(text.encode(), "pdb")) == [element]


def test_rings_of_elements_that_take_turns(tmp_path: Path):
    """Triazine, whose atoms are called N C N C N C, is one molecule; three of hydrogen cyanide are three."""
    turns = [np.deg2rad(60 * i) for i in range(6)]
    ring = [(8 + 1.35 * np.cos(turn), 5 + 1.35 * np.sin(turn), 0.0) for turn in turns]
    lines = [
        pdb_line("NC"[i % 2], "UNL", "L", 1, place, "NC"[i % 2], "HETATM") for i, place in enumerate(ring)
    ]
    found = discover(tmp_path, peptide() + lines, "ring.pdb")
    assert (found.repairs, found.ligands()) == ({}, [("UNL", "L", "1", "PL")])
    assert found.rows[0]["lig_copy"] == ""
    lines = [
        pdb_line(
            "NC"[i % 2], "UNL", "L", 1, (6.0 * (i // 2) + 1.15 * (i % 2), 5.0, 0.0), "NC"[i % 2], "HETATM"
        )
        for i in range(6)
    ]
    assert discover(tmp_path, peptide() + lines, "apart.pdb").repairs == {"copies-parted": 1}


def sdf(places: list[tuple[str, float, float, float]], bonds: list[tuple[int, int]], title: str = "x") -> str:
    head = f"{title}\n\n\n{len(places):3d}{len(bonds):3d}  0  0  0  0            999 V2000\n"
    atoms = "".join(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0  0\n" for symbol, x, y, z in places)
    return head + atoms + "".join(f"{a:3d}{b:3d}  1  0\n" for a, b in bonds) + "M  END\n$$$$\n"


def noted_of(out: Path) -> dict[str, int]:
    lines = [json.loads(text) for text in (out / "repairs.jsonl").read_text().splitlines()]
    return {entry["kind"]: entry["count"] for entry in lines}


CHAIN = [("C", 46 + 1.5 * i, 14.0, 16.0) for i in range(5)]


@pytest.mark.parametrize(
    ("bonds", "missing", "source"),
    [
        ([(i, i + 1) for i in range(1, 5)], 0, None),
        ([], 4, "distances"),
        ([(1, 2), (2, 3)], 2, None),
    ],
)
def test_bonds_that_a_ligand_lacks(
    tmp_path: Path, bonds: list[tuple[int, int]], missing: int, source: str | None
):
    from atomica import open_dataset

    noted = {"bonds-missing": missing} if missing else {}
    _, out = ligand_file(tmp_path, "l.sdf", sdf(CHAIN, bonds))
    record = open_dataset(out)[0]
    assert (noted_of(out), len(record.bond_orders)) == (noted, 4)
    assert dict(record.metadata).get("ligand_bonds") == source
    if not bonds:
        return
    lines = [pdb_line(f"C{i}", "LIG", "L", 1, place[1:], "C", "HETATM") for i, place in enumerate(CHAIN)]
    lines = [f"{text[:6]}{serial:5d}{text[11:]}" for serial, text in enumerate(lines, start=1)]
    lines += [f"CONECT{a:5d}{b:5d}" for a, b in bonds]
    _, out = ligand_file(tmp_path, "l.pdb", "\n".join(lines) + "\n")
    assert (noted_of(out), len(open_dataset(out)[0].bond_orders)) == (noted, 4)


@pytest.mark.parametrize(("away", "noted"), [(4.0, {}), (30.0, {"parts-apart": 1})])
def test_a_part_of_a_ligand_that_stands_apart(tmp_path: Path, away: float, noted: dict[str, int]):
    sodium = ("Na", 46.0, 14.0, 16.0 + away)
    _, out = ligand_file(tmp_path, "l.sdf", sdf([*CHAIN, sodium], [(i, i + 1) for i in range(1, 5)]))
    assert noted_of(out) == noted


def test_a_receptor_before_its_poses(tmp_path: Path):
    """Among poses it is passed over; a row of an index that has it for its ligand fails."""
    receptor = FIELD / "recep.pdb"
    atoms = [text for text in receptor.read_text().splitlines() if text.startswith("ATOM")]
    places = [(text[76:78].strip(), *(float(text[at : at + 8]) for at in (30, 38, 46))) for text in atoms]
    bonds = [(i, i + 1) for i in range(1, 5)]
    text = sdf(places, [], "receptor") + sdf(CHAIN, bonds, "one") + sdf(CHAIN, bonds, "two")
    (tmp_path / "poses.sdf").write_text(text)
    out = tmp_path / "out"
    built(out, "--receptor", str(receptor), "--ligands", str(tmp_path / "poses.sdf"))
    assert ids(out) == ["one", "two"]
    assert noted_of(out)["outside-ligand"] == 1
    code, out = ligand_file(tmp_path, "l.sdf", text)
    assert (code, json.loads((out / "failures.jsonl").read_text())["code"]) == (3, "ReceptorLigand")


def many_chains(count: int) -> str:
    """mmCIF of short chains beside one another."""
    columns = (
        "group_PDB type_symbol label_atom_id label_comp_id label_asym_id label_seq_id Cartn_x Cartn_y Cartn_z"
    )
    rows = ["data_x", "loop_", *(f"_atom_site.{column}" for column in columns.split())]
    for i in range(count):
        x, y, z = 16.0 * (i % 25), 16.0 * (i // 25 % 25), 16.0 * (i // 625)
        for j in range(4):
            for name, along, away in (("N", 0, 0), ("CA", 1.2, 0.7), ("C", 2.4, 0), ("O", 2.4, -1.2)):
                place = f"{x + 3.7 * j + along:.3f} {y + away:.3f} {z:.3f}"
                rows.append(f"ATOM {name[0]} {name} GLY C{i} {j + 1} {place}")
    return "\n".join(rows) + "\n"


def many_nucleotides(count: int) -> str:
    rows = []
    for i in range(count):
        x, y, z = 7.0 * (i % 60), 20.0 * (i // 60 % 60), 20.0 * (i // 3600)
        for name, along, away in (
            ("P", 0, 0),
            ("O5'", 1.5, 0),
            ("C4'", 3.3, 0),
            ("O3'", 4.2, 0),
            ("N9", 4.5, 1.5),
        ):
            chain, number = "ABCDEFGHIJ"[i // 9999 % 10], i % 9999 + 1
            rows.append(pdb_line(name, " DA", chain, number, (x + along, y + away, z), name[0]))
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "write", "count"), [("x.cif", many_chains, 1500), ("x.pdb", many_nucleotides, 10_000)]
)
def test_cost_is_linear_in_the_file(tmp_path: Path, name: str, write, count: int):
    """Four times the chains or nucleotides take about four times as long, not sixteen times."""

    def seconds(count: int) -> float:
        (tmp_path / name).write_text(write(count))
        command = ["build-graphs", str(tmp_path / name), "--discover", "--threads", "1", "--overwrite"]
        taken = []
        for _ in range(3):
            start = time.process_time()
            assert _prep.run([*command, "--out", str(tmp_path / "out")]) == 0
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(4 * count) < 8 * seconds(count) + 0.05
