"""Rotatable bonds and the atoms they move against those that the original computed from the same interfaces."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pytest
from helpers import PREP

from atomica.data.dataset import Dataset, open_dataset
from atomica.data.record import Record
from atomica.prep import command as prep

DEVIATIONS = {
    "5eil_A_A_BP5": "atoms of the ligand, its own receptor there, and hydrogens",
    "4gxy_A_A_B1Z_0": "RNA is read as RNA, so that the segment is a polymer",
    "4gxy_A_A_B1Z_1": "RNA is read as RNA, so that the segment is a polymer",
    "5ugo_pdna_flag": "the original's bulk script keeps the whole DNA side",
}
RESIDUES = range(4, 32)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The fixtures' interfaces under the original's rule, ligands in fragments."""
    with gzip.open(PREP / "interfaces.json.gz", "rt") as file:
        runs = json.load(file)
    folder = tmp_path_factory.mktemp("torsions")
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "chain1", "chain2", "lig_code"])
        for run in runs:
            first = run["items"][0]["id"]
            several = run.get("ligand") is not None and len(run["interface_rule_comparison"]) > 1
            second = run.get("ligand_chain") or "_".join(run["group2_chains"])
            path = PREP / f"structures/{run['file']}.gz"
            name = first.rsplit("_", 1)[0] if several else first
            writer.writerow([name, path, "_".join(run["group1_chains"]), second, run.get("ligand") or ""])
    arguments = ["build-graphs", str(folder / "index.csv"), "--out", str(folder / "out")]
    arguments += ["--interface-rule", "reference"]
    assert prep.main([*arguments, "--fragments", str(PREP / "fragments/ps_300.tsv")]) == 0
    return open_dataset(folder / "out")


def bonds_of(record: Record) -> list[tuple[int, int, tuple[int, ...]]]:
    """(lower atom, higher atom, moving atoms) of every rotatable bond."""
    ends = np.cumsum(record.torsion_sizes)
    moved = np.split(record.torsion_atoms, ends[:-1]) if len(ends) else []
    pairs = zip(record.torsion_fixed, record.torsion_moving, moved, strict=True)
    return [(int(min(a, b)), int(max(a, b)), tuple(m.tolist())) for a, b, m in pairs]


def expected(record: Record, segments: list[dict]) -> list[tuple[int, int, tuple[int, ...]]]:
    """The fixture's bonds with atoms counted over the whole complex."""
    found = []
    starts = np.cumsum([0, *record.block_lengths])
    for number, segment in enumerate(segments):
        blocks = np.flatnonzero(record.segment_ids == number)[1:]
        if segment["type"] == 1:
            lists = [(segment["segment"], int(starts[blocks[0]]))]
        else:
            lists = [(t, int(starts[b])) for t, b in zip(segment["blocks"], blocks, strict=True)]
        for torsions, first in lists:
            if torsions:
                for (a, b), moved in zip(torsions["edges"], torsions["rotate"], strict=True):
                    found.append((a + first, b + first, tuple(sorted(m + first for m in moved))))
    return found


def test_bonds_and_moving_sides(built):
    with gzip.open(PREP / "torsions.json.gz", "rt") as file:
        items = json.load(file)
    compared = bonds = 0
    for item in items:
        if item["id"] in DEVIATIONS:
            continue
        compared += 1
        record = built[built.ids.index(item["id"])]
        wanted = expected(record, item["segments"])
        assert bonds_of(record) == wanted, item["id"]
        bonds += len(wanted)
        for number, segment in enumerate(item["segments"]):
            types = record.block_types[record.segment_ids == number]
            assert (segment["type"] == 0) == any(int(t) in RESIDUES for t in types), item["id"]
    assert compared >= 20
    assert bonds > 1000


def test_every_bond_moves_one_of_its_ends(built):
    for record in built:
        starts = np.cumsum([0, *record.torsion_sizes])
        for t, (fixed, moving) in enumerate(zip(record.torsion_fixed, record.torsion_moving, strict=True)):
            moved = record.torsion_atoms[starts[t] : starts[t + 1]]
            assert moving in moved
            assert fixed not in moved
            atoms = [fixed, *moved]
            segment = np.repeat(record.segment_ids, record.block_lengths)[atoms]
            assert len(set(segment.tolist())) == 1


def test_one_partner_keeps_its_own_bonds(built):
    for record in built:
        first = int((record.block_lengths[record.segment_ids == 0]).sum())
        both = bonds_of(record)
        assert bonds_of(record.segment(0)) == [bond for bond in both if bond[0] < first]
        shifted = [
            (a - first, b - first, tuple(m - first for m in moved)) for a, b, moved in both if a >= first
        ]
        assert bonds_of(record.segment(1)) == shifted
