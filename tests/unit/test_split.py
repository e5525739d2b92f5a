"""Splits without relatives: clusters by sequence, entry, ligand and column; labels shared out; who is near whom."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from atomica.prep import alike, split
from atomica.prep.command import main

THREE = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"
NAMES = dict(zip("ACDEFGHIKLMNPQRSTVWY", THREE.split(" "), strict=True))
SMILES = ("c1ccccc1", "Cc1ccccc1", "CCCCCC", "CCCCCCC", "c1ccc2[nH]ccc2c1")
"""Benzene, toluene, hexane, heptane, indole."""


def structure(path, chains):
    """A file with a CA for each residue; distances do not matter here."""
    lines = []
    for name, sequence in chains.items():
        for number, letter in enumerate(sequence, 1):
            serial = len(lines) + 1
            place = (3.8 * number, 5.0 * (ord(name) - 65), 0.0)
            lines.append(
                f"ATOM  {serial:>5}  CA  {NAMES[letter]} {name}{number:>4}    "
                f"{place[0]:8.3f}{place[1]:8.3f}{place[2]:8.3f}  1.00  0.00           C"
            )
    path.write_text("\n".join([*lines, "END", ""]))


def mutated(sequence, share, generator):
    letters = list(sequence)
    for place in generator.choice(len(letters), round(share * len(letters)), replace=False):
        letters[place] = generator.choice([one for one in NAMES if one != letters[place]])
    return "".join(letters)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """An index of 12 families of 4 chains, each 75 % identical to its ancestor, in files of their own; 2 labels."""
    folder, generator = tmp_path_factory.mktemp("families"), np.random.default_rng(0)
    rows = []
    for family in range(12):
        ancestor = "".join(generator.choice(list(NAMES), 120))
        for member in range(4):
            name = f"f{family:02}m{member}"
            structure(folder / f"{name}.pdb", {"A": mutated(ancestor, 0.25, generator), "B": "G" * 5})
            smiles = SMILES[family % 5]
            rows.append(
                [name, f"{name}.pdb", "A", "B", "yes" if family % 3 else "no", f"g{family % 6}", smiles]
            )
    with (folder / "index.csv").open("w", newline="") as stream:
        head = ["id", "path", "chain1", "chain2", "label", "group", "lig_smiles"]
        csv.writer(stream).writerows([head, *rows])
    return folder / "index.csv"


@pytest.fixture
def run(families, tmp_path, capsys):
    """Splits the families; returns exit code, rows, rows of the leakage report, what was told."""

    def split_by(*words, index=families):
        out = tmp_path / "out.csv"
        code = main(["split", str(index), "--out", str(out), "--overwrite", *words])
        told = capsys.readouterr()
        if code:
            return code, [], [], told.err
        tables = []
        for path in (out, tmp_path / "out.leakage.csv"):
            with path.open(newline="") as stream:
                tables.append(list(csv.DictReader(stream)))
        return code, *tables, told.out

    return split_by


TOOLS = [
    "biotite",
    pytest.param(
        "mmseqs", marks=pytest.mark.skipif(alike.mmseqs() is None, reason="MMseqs2 is not installed")
    ),
]


@pytest.mark.parametrize("tool", TOOLS)
def test_families_are_found_and_stay_together(run, tool):
    code, rows, leakage, said = run("--tool", tool, "--shares", "0.5", "0.25", "0.25")
    assert code == 0
    by_family = {}
    for row in rows:
        by_family.setdefault(row["id"][:3], set()).add((row["cluster"], row["split"]))
    assert all(len(found) == 1 for found in by_family.values())
    assert len({row["cluster"] for row in rows}) == 12
    assert Counter(row["split"] for row in rows) == {"train": 24, "valid": 12, "test": 12}
    # A third of the rows is labelled no, in every part.
    for part in ("train", "valid", "test"):
        labels = [row["label"] for row in rows if row["split"] == part]
        assert labels.count("no") / len(labels) == pytest.approx(1 / 3, abs=0.01)
    # Paths lead to the same files from where the new index lies.
    assert all(alike.sequences(row["path"]) for row in rows[:2])
    near = [row for row in leakage if row["by"] == "sequence"]
    assert len(near) == 12
    assert max(float(row["value"]) for row in near) < 0.3
    assert "12 clusters, the largest of 4 rows" in said
    assert "identity of a chain of the nearest training row, 12 test rows" in said


def test_what_leaks_is_told(run, families):
    """By groups that have nothing to do with sequences, relatives come into both parts, and the report says so."""
    code, rows, leakage, _ = run("--by", "column:id", "--tool", "biotite", "--shares", "0.5", "0", "0.5")
    assert code == 0
    split_of = {row["id"]: row["split"] for row in rows}
    found = [row for row in leakage if row["by"] == "sequence" and row["nearest"]]
    assert len(found) > 12
    for row in found:
        assert (split_of[row["id"]], split_of[row["nearest"]]) == ("test", "train")
        assert row["id"][:3] == row["nearest"][:3]
        # Two members differ from their ancestor in a quarter of the places each.
        assert 0.45 < float(row["value"]) < 0.75


def test_folds_take_turns(run):
    code, rows, _, _ = run("--folds", "4", "--tool", "biotite")
    assert code == 0
    assert Counter(row["fold"] for row in rows) == {str(fold): 12 for fold in range(4)}
    for row in rows:
        assert row["split"] == {"0": "test", "1": "valid"}.get(row["fold"], "train")
    again = run("--folds", "4", "--tool", "biotite")[1]
    assert again == rows


@pytest.mark.parametrize(
    ("by", "clusters"),
    [("entry", 48), ("column:group", 6), ("scaffold", 4), ("tanimoto", 4)],
)
def test_other_relatives(run, by, clusters):
    """Toluene has the scaffold of benzene; by fingerprints it is hexane and heptane alone that are alike."""
    code, rows, leakage, _ = run("--by", by, "--tool", "biotite", "--shares", "0.5", "0.2", "0.3")
    assert code == 0
    assert len({row["cluster"] for row in rows}) == clusters
    together = {"scaffold": ("f00", "f01"), "tanimoto": ("f02", "f03")}.get(by, ())
    assert len({row["cluster"] for row in rows if row["id"][:3] in together}) <= 1
    if by == "tanimoto":
        assert max(float(row["value"]) for row in leakage if row["by"] == "ligand") < 0.5


def test_several_kinds_join(run):
    code, rows, _, _ = run("--by", "sequence", "column:group", "--tool", "biotite")
    assert code == 0
    assert len({row["cluster"] for row in rows}) == 6  # families 0 and 6 have one group, and so on


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--by", "magic"], "--by magic: is none of sequence, entry"),
        (["--by", "column:nothing"], "has no column 'nothing'"),
        (["--identity", "30"], "--identity: must be more than 0 and at most 1"),
        (["--folds", "2"], "--folds: at least 3"),
        (["--shares", "0", "1", "1"], "some for train"),
        (["--label", "nothing"], "has no column 'nothing'"),
    ],
)
def test_what_cannot_be_split_by_is_refused(run, words, problem):
    code, _, _, errors = run(*words)
    assert code == 2
    assert problem in errors


def test_files_that_are_no_index_are_refused(run, tmp_path):
    for text, told in (
        (
            "a,b\n1,2\n",
            "other.csv: the header lacks id (or pdb_id), path (or pdb_path), chain1, chain2; it has: a, b",
        ),
        ("id,path,chain1,chain2\n", "other.csv: has no rows below its header"),
    ):
        (tmp_path / "other.csv").write_text(text)
        code, _, _, errors = run(index=tmp_path / "other.csv")
        assert code == 2
        assert told in errors


def test_indexes_are_read_as_they_are_built_from(families, run, tmp_path):
    """Fields may be parted by semicolons, with decimal commas, and have blanks around them."""
    rows = [row.split(",") for row in families.read_text().splitlines()]
    lines = [
        "; ".join([*rows[0], "label_pk"]),
        *("; ".join([*row, f"{number},5"]) for number, row in enumerate(rows[1:])),
    ]
    other = families.with_name("semicolons.csv")
    other.write_text("sep=;\n" + "\n".join(lines) + "\n")
    expected, found = run()[1], run(index=other)[1]
    assert [row["split"] for row in found] == [row["split"] for row in expected]
    assert [row["label_pk"] for row in found] == [f"{number}.5" for number in range(len(found))]


def test_nobody_need_read_what_is_told(families, tmp_path):
    """As in `atomica-prep split … | head`: the files are written before that."""
    read, write = os.pipe()
    os.close(read)
    words = ["split", str(families), "--out", str(tmp_path / "out.csv"), "--by", "column:group"]
    done = subprocess.run(
        [sys.executable, "-m", "atomica.prep", *words], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert b"cannot be written" not in done.stderr
    assert (tmp_path / "out.leakage.csv").is_file()


def test_the_path_that_is_built_from_is_compared(families, tmp_path):
    """Where an index has both columns, `pdb_path` is one of metadata."""
    lines = families.read_text().splitlines()
    index = families.with_name("both.csv")
    index.write_text("\n".join([f"{lines[0]},pdb_path", *(f"{line},gone.pdb" for line in lines[1:])]) + "\n")
    assert split.chains_of(split.read_index(index)) == split.chains_of(split.read_index(families))


def test_what_is_not_compared_is_told(families, tmp_path, capsys):
    """Files that cannot be read, and entries that are named by their ids, which stay as they are."""
    lines = families.read_text().splitlines()
    index, out = families.with_name("lost.csv"), tmp_path / "out.csv"
    index.write_text(
        "\n".join([*lines[:9], "gone,gone.pdb,A,B,yes,g0,C", "entry,pdb:1abc,A,B,no,g1,C"]) + "\n"
    )
    assert main(["split", str(index), "--out", str(out)]) == 3
    told = capsys.readouterr().err
    assert "2 of 10 rows are not compared by sequence" in told
    assert "gone.pdb: cannot be read" in told
    assert "pdb:1abc: sequences are read from files" in told
    with out.open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)][-1] == "pdb:1abc"
    index.write_text("\n".join([lines[0], "gone,gone.pdb,A,B,yes,g0,C"]) + "\n")
    assert main(["split", str(index), "--out", str(out), "--overwrite"]) == 2
    assert "nothing to go by" in capsys.readouterr().err
    assert main(["split", str(index), "--out", str(out), "--overwrite", "--by", "column:group"]) == 0


def test_assignment_shares_out_rare_labels():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.arange(60), 3)
    labels = np.where(generator.random(60) < 0.15, "rare", "frequent").repeat(3).tolist()
    parts = split.assign(clusters, labels, [0.6, 0.2, 0.2], seed=1)
    assert all(len(set(parts[clusters == one])) == 1 for one in range(60))
    rare = np.array(labels) == "rare"
    for part, share in enumerate((0.6, 0.2, 0.2)):
        assert (parts == part).mean() == pytest.approx(share, abs=0.05)
        assert (parts[rare] == part).mean() == pytest.approx(share, abs=0.12)


def test_check_tells_of_near_twins(families, tmp_path, capfd):
    folder, generator = families.parent, np.random.default_rng(1)
    one = "".join(generator.choice(list(NAMES), 100))
    structure(folder / "one.pdb", {"A": one, "B": "A" * 8})
    structure(folder / "twin.pdb", {"A": mutated(one, 0.05, generator), "B": "A" * 8})
    structure(folder / "relative.pdb", {"A": mutated(one, 0.3, generator), "B": "A" * 8})
    head = "id,path,chain1,chain2,split\n"
    index = folder / "twins.csv"
    for other, told in (("twin", True), ("relative", False)):
        index.write_text(f"{head}one,one.pdb,A,B,train\n{other},{other}.pdb,A,B,test\nf,f00m0.pdb,A,B,test\n")
        main(["check", str(index)])
        errors = capfd.readouterr().err
        wanted = "1 of 2 test rows have a chain at least 90% identical to one of a training row, twin and one for one"
        assert (wanted in errors) == told, errors
    index.write_text(f"{head}one,one.pdb,A,B,\ntwin,twin.pdb,A,B,\n")
    main(["check", str(index)])
    assert "identical" not in capfd.readouterr().err


def test_numbers_are_shared_out_by_their_size():
    """A number that no other row has is no class of its own, which would leave every row with train."""
    generator = np.random.default_rng(0)
    values = generator.normal(6, 1.5, 120)
    labels = [*(f"{value:.3f}" for value in values), "nan", "", "inf"]
    strata = split.strata(labels)
    assert len(set(strata[:120])) == 5
    assert strata[120:] == ["", "", ""]
    parts = split.assign(np.arange(len(labels)), strata, [0.8, 0.1, 0.1])
    assert np.bincount(parts) / len(labels) == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    means = [values[parts[:120] == part].mean() for part in range(3)]
    assert max(means) - min(means) < 0.6
    assert split.strata(["NA", "ZN", "<NA>"]) == ["NA", "ZN", ""]
    assert split.strata(["0", "1", "1"]) == ["0", "1", "1"]
