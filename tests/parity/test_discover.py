"""What --discover finds, against the indexes that were made of the same files by other means."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from atomica import _prep


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def chains(text: str) -> frozenset[str]:
    return frozenset(text.split("_"))


def members(row: dict[str, str]) -> list[tuple[str, ...]]:
    """The residues of a ligand of several, in the form of the keys below but without component and insertion code."""
    places = (place.split(":") for place in row["lig_members"].split())
    return [(Path(row["path"]).name, "", chain, number, "") for chain, number in places]


@pytest.fixture(scope="module")
def entries(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("discover") / "out"
    code = _prep.run(["build-graphs", str(shared / "data/entries"), "--discover", "--out", str(out)])
    assert code == 0, (out / "failures.jsonl").read_text()
    return out


def test_ligands_of_whole_entries(shared: Path, entries: Path):
    """All but what we count as additives, and one dipeptide whose residues are bonded and so no ligands."""
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows(entries / "discovered.csv"):
        if row["lig_code"] and not row["lig_code1"]:
            key = (
                Path(row["path"]).name,
                row["lig_code"],
                row["chain2"],
                row["lig_resnum"],
                row["lig_icode"],
            )
            for member in [key, *members(row)]:
                found.setdefault(member, []).append(row)
    left_out = {
        (Path(row["path"]).name, row["component"], row["chain"], row["number"])
        for row in rows(entries / "left_out.csv")
    }
    missing = []
    for row in rows(shared / "data/entries/index_ligand.csv"):
        key = (row["path"], row["lig_code"], row["chain2"], row["lig_resnum"], row["lig_icode"])
        place = (row["path"], "", row["chain2"], row["lig_resnum"] + row["lig_icode"], "")
        if place in found:  # one of several residues, around all of which there may be more chains
            assert any(chains(row["chain1"]) <= chains(other["chain1"]) for other in found[place])
        elif key in found:
            assert row["additive"] == "0"
            assert any(chains(other["chain1"]) == chains(row["chain1"]) for other in found[key])
        elif row["additive"] == "1" or row["lig_code"] in {"HED", "IPA", "1PG", "P6G"}:
            place = (row["path"], row["lig_code"], row["chain2"], row["lig_resnum"] + row["lig_icode"])
            assert place in left_out
        else:
            missing.append(row["id"])
    assert missing == ["1pin_ALA_A_201", "1pin_PRO_A_202"]


def test_nucleic_acids_of_whole_entries(shared: Path, entries: Path):
    """Six assemblies differ in their grouping: duplexes that only a protein joins, or a fifth residue pair."""
    found = {
        (Path(row["path"]).name, chains(row["chain1"]), chains(row["chain2"]))
        for row in rows(entries / "discovered.csv")
        if not row["lig_code"]
    }
    other = [
        row["id"]
        for row in rows(shared / "data/entries/index_nucleic.csv")
        if (row["path"], chains(row["chain1"]), chains(row["chain2"])) not in found
    ]
    assert other == ["1tup_na0", "1ea4_na0", "1ksy_na0", "1o3t_na0", "1zs4_na0", "2irf_na0"]


def test_a_build_from_what_was_found_is_the_same(entries: Path, tmp_path: Path):
    assert _prep.run(["build-graphs", str(entries / "discovered.csv"), "--out", str(tmp_path / "out")]) == 0
    for shard in entries.glob("shard-*.arrow"):
        assert shard.read_bytes() == (tmp_path / "out" / shard.name).read_bytes()
    modalities = {row["modality"] for row in rows(entries / "discovered.csv")}
    assert {"PP", "Ppeptide", "PDNA", "PL", "Pion", "CSD"} <= modalities


def test_parts_joined_are_the_whole(entries: Path, shared: Path, tmp_path: Path):
    data = str(shared / "data/entries")
    parts = [str(tmp_path / str(i)) for i in (1, 2, 3)]
    for i, part in enumerate(parts, start=1):
        assert _prep.run(["build-graphs", data, "--discover", "--out", part, "--shard", f"{i}/3"]) == 0
    assert _prep.run(["merge", *reversed(parts), "--out", str(tmp_path / "out")]) == 0
    for file in entries.iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


def test_every_pair_of_the_docking_benchmark(shared: Path, tmp_path: Path):
    data = shared / "data/bm5"
    out = tmp_path / "out"
    assert _prep.run(["build-graphs", str(data), "--discover", "--out", str(out), "--neighbors", "0"]) == 0
    found = {
        (Path(row["path"]).name, row["chain1"], row["chain2"])
        for row in rows(out / "discovered.csv")
        if not row["lig_code"]
    }
    assert {(row["path"], row["chain1"], row["chain2"]) for row in rows(data / "index.csv")} <= found
